//! Backup hosts cloned with all their state, the state of the random source too, never seal two contents with one key
//! and nonce, and two of them at one vault end typed.
//!
//! Everything that was ever sent to the store is collected and read by FORMAT.md alone: which key and nonce sealed
//! it (a branch, a salt, a slot number), and what came out.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use vmkeep_testkit::permit;

use bytes::Bytes;
use common::interleaved::interleaved;
use common::*;
use vmkeep::backup::{BackupError, Report};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::vault::{Vault, VaultError};
use vmkeep_testkit::{RecordingStore, snapshot, store_of};

/// Key and nonce to everything sealed with them: ciphertext, tag, and what is authenticated beside it.
#[derive(Default)]
struct Sealed {
    by_nonce: BTreeMap<Vec<u8>, Vec<u8>>,
    /// How often the same content came again under its key and nonce.
    repeated: usize,
}

impl Sealed {
    fn see(&mut self, key_and_nonce: &[&[u8]], sealed: &[&[u8]]) {
        let (key_and_nonce, sealed) = (key_and_nonce.concat(), sealed.concat());
        match self.by_nonce.insert(key_and_nonce.clone(), sealed.clone()) {
            None => {}
            Some(before) if before == sealed => self.repeated += 1,
            Some(_) => panic!("two contents under one key and nonce: {key_and_nonce:02x?}"),
        }
    }

    fn see_all(&mut self, puts: &[(Path, Bytes)]) {
        for (path, bytes) in puts {
            match &bytes[..8] {
                // What trying a store writes before there are keys: the same few words everywhere.
                b"vmkeep t" if path.as_ref().contains("/stage-") => {}
                b"vmkeepR1" => {
                    self.see(
                        &[b"record", &bytes[11..32], &bytes[32..64]],
                        &[path.as_ref().as_bytes(), bytes],
                    );
                }
                b"vmkeepP1" => self.see_pack(bytes),
                b"vmkeepK1" => self.see_key_object(path, bytes),
                other => panic!("{path} is sealed as {other:?}"),
            }
        }
    }

    fn see_pack(&mut self, pack: &[u8]) {
        let u32_at = |at: usize| u32::from_le_bytes(pack[at..at + 4].try_into().unwrap());
        let (header, trailer) = (&pack[..40], &pack[pack.len() - 16..]);
        let (mut at, end) = (40, pack.len() - 16);
        while at < end {
            assert_eq!(&pack[at..at + 4], b"vkS1");
            let slot = &pack[at..at + 56 + u32_at(at + 12) as usize + 16];
            let (branch, salt, nonce) = (&slot[18..24], &slot[24..56], &slot[4..8]);
            if slot[17] == 255 {
                self.see(&[b"footer", &header[16..32], branch, salt, nonce], &[header, slot, trailer]);
            } else {
                self.see(&[b"slot", &header[16..32], branch, salt, nonce], &[slot]);
            }
            at += slot.len();
        }
        assert_eq!(at, end);
    }

    fn see_key_object(&mut self, path: &Path, object: &[u8]) {
        let mut at = 32;
        for _ in 0..3 {
            at += 1 + usize::from(object[at]);
        }
        assert_eq!(object[at], 0, "no KDF");
        let wrapped = &object[at + 3..at + 3 + usize::from(object[at + 1])];
        self.see(&[b"wrap", &wrapped[..32]], &[&object[12..32], wrapped]);
        let salt = &object[at + 3 + wrapped.len()..][..32];
        self.see(&[b"key object", salt], &[path.as_ref().as_bytes(), object]);
    }
}

#[test]
#[should_panic(expected = "two contents under one key and nonce")]
fn one_salt_for_two_contents_would_be_seen() {
    let recording = RecordingStore::new(Arc::new(InMemory::new()));
    back_up(&create(Arc::new(recording.clone()), 1), "web", &disks([("os", block(1, 50))])).unwrap();
    let mut puts = recording.puts();
    let (path, bytes) = puts.iter().find(|(_, bytes)| bytes.starts_with(b"vmkeepP1")).unwrap().clone();
    let mut other = bytes.to_vec();
    other[40 + 56] ^= 1;
    puts.push((path, other.into()));
    Sealed::default().see_all(&puts);
}

/// What the cloned VM's disks hold on one host and on the other.
fn differing() -> Vec<(&'static str, Disks, Disks)> {
    let blocks: Vec<Vec<u8>> = (0..6).map(|n| block(30 + n, 400)).collect();
    let one = disks([("os", blocks.concat()), ("data", block(50, 100))]);
    let other = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut other = one.clone();
        change(other.get_mut("os").unwrap());
        other
    };
    vec![
        ("equal", one.clone(), one.clone()),
        ("last block", one.clone(), other(&|os| set_block(os, 5, &block(60, 400)))),
        ("from the third block", one.clone(), other(&|os| os[2 * BLOCK..].reverse())),
        ("one byte of the first block", one.clone(), other(&|os| os[0] ^= 1)),
        ("zeros", one.clone(), other(&|os| os[3 * BLOCK..4 * BLOCK].fill(0))),
        ("size", one.clone(), other(&|os| os.extend(block(61, 10)))),
        ("disks", one.clone(), disks([("os", one["os"].clone())])),
    ]
}

/// Every clone opens the vault with the same state of its random source.
fn clone_backs_up(store: Arc<dyn ObjectStore>, disks: &Disks) -> Result<Report, BackupError> {
    let vault = Vault::open(store, kek(), ports(42)).map_err(BackupError::Store)?;
    back_up(&vault, "web", disks)
}

fn base(points: u64) -> BTreeMap<Path, Bytes> {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    for n in 0..points {
        back_up(&vault, "web", &disks([("os", block(n, 300).repeat(3))])).unwrap();
    }
    snapshot(&*store)
}

#[test]
fn clones_with_stores_of_their_own_share_no_nonce() {
    for points in [0, 2] {
        let base = base(points);
        for (what, one, other) in differing() {
            let mut sealed = Sealed::default();
            let both = [&one, &other].map(|disks| {
                let recording = RecordingStore::new(Arc::new(store_of(&base)));
                let report = clone_backs_up(Arc::new(recording.clone()), disks).unwrap();
                sealed.see_all(&recording.puts());
                (report.point.session, sealed.by_nonce.len())
            });
            let [(session, after_one), (same_session, after_both)] = both;
            assert_eq!(session, same_session, "the hosts are clones");
            assert!(after_one > 10, "{what}");
            assert_eq!(after_one == after_both, what == "equal", "{what}");
        }
    }
}

#[test]
fn vaults_made_by_clones_share_no_nonce() {
    for (_, one, other) in differing() {
        let mut sealed = Sealed::default();
        for disks in [&one, &other] {
            let recording = RecordingStore::new(Arc::new(InMemory::new()));
            let vault = create(Arc::new(recording.clone()), 42);
            back_up(&vault, "web", disks).unwrap();
            vault.forget(&permit(), &point_ref("web@1")).unwrap();
            back_up(&vault, "web", &one).unwrap();
            sealed.see_all(&recording.puts());
        }
        assert!(sealed.repeated >= 3, "vault, keys and name are equal");
    }
}

#[test]
fn clones_at_one_vault_share_no_nonce_and_one_commits() {
    for points in [0, 2] {
        let (base, mut ended_typed) = (base(points), 0);
        for (what, one, other) in differing() {
            for at in 0.. {
                let recording = RecordingStore::new(Arc::new(store_of(&base)));
                let store: Arc<dyn ObjectStore> = Arc::new(recording.clone());
                let disks = other.clone();
                let (first, second) = interleaved(
                    &store,
                    at,
                    |store| clone_backs_up(store, &one),
                    move |store| clone_backs_up(store, &disks),
                );
                let Some(second) = second else { break };
                let when = format!("{what}, {points} points before, call {at}");
                Sealed::default().see_all(&recording.puts());
                let vault = open(store, 3);
                let mut committed = Vec::new();
                for (outcome, expected) in [(&first, &one), (&second, &other)] {
                    match outcome {
                        Ok(report) => {
                            let number = report.point.id.number;
                            assert_point_whole(&vault, &format!("web@{number}"), expected, &when);
                            committed.push(number);
                        }
                        Err(e) => {
                            ended_typed += 1;
                            let typed = matches!(
                                vault_error(e),
                                Some(VaultError::LostRace { .. } | VaultError::Taken { .. })
                            );
                            assert!(typed, "{when}: {e:?}");
                        }
                    }
                }
                // Clones that store the same may both be told so; otherwise a number has one owner.
                let one_owner = committed.first() != committed.get(1);
                assert!(one_owner || what == "equal", "{when}: {committed:?}");
                assert_vault_clean(&vault, &when);
            }
        }
        assert!(ended_typed > 30, "{ended_typed}");
    }
}
