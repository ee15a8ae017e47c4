//! A point that refers to packs of an interrupted session restores and verifies like any other, and damage in such
//! a pack is found like any other.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::sync::Arc;
use vmkeep_testkit::permit;

use common::*;
use vmkeep::backup::{self, BackupError, Report, Resume};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::model::{CancelToken, SessionId};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::restore::{self, Depth, verify_point};
use vmkeep::vault::{ObjectName, Vault};
use vmkeep_testkit::{Fault, FaultyStore, RequestKind, snapshot, store_of};

/// Several disks at a time: packs of 2 MiB.
fn settings() -> backup::Settings {
    backup::Settings { workers: 2, ..inline() }
}

fn back_up_from(vault: &Vault, disks: &Disks, resume: Resume) -> Result<Report, BackupError> {
    let memory: Vec<(&str, Memory)> =
        disks.iter().map(|(name, bytes)| (name.as_str(), Memory::from(bytes.clone()))).collect();
    let sources: Vec<(&str, &dyn BlockRead)> =
        memory.iter().map(|(name, disk)| (*name, disk as &dyn BlockRead)).collect();
    let plan = plan("web", &sources);
    let settings = backup::Settings { resume, ..settings() };
    backup::run(&permit(), vault, &plan, &settings, &backup::Silent, &CancelToken::new())
}

/// The four disks: noise with a hole, repetition, and blocks of both.
fn web() -> Disks {
    let mut os = noise(1, 400 * BLOCK);
    os[90 * BLOCK..120 * BLOCK].fill(0);
    let text =
        |seed: u64, count: u64| disk(&(0..count).map(|n| Some(block(seed + n, 300))).collect::<Vec<_>>());
    let mixed = (0..300_u64).map(|n| if n % 3 == 0 { None } else { Some(noise(n, BLOCK)) });
    disks([
        ("os", os),
        ("text", text(1000, 500)),
        ("mixed", disk(&mixed.collect::<Vec<_>>())),
        ("odd", noise(4, 5_000_001)),
    ])
}

/// A vault in which a backup of `web` ended after so many puts of packs, and its session.
fn interrupted(disks: &Disks, puts: u64) -> (InMemory, SessionId) {
    let store = InMemory::new();
    create(Arc::new(store.clone()), 1);
    let faulty = FaultyStore::counting_only(Arc::new(store.clone()), [Fault::StopBefore(puts)], |call| {
        call.kind() == RequestKind::Put && call.path.as_ref().starts_with("packs/")
    });
    back_up_from(&open(Arc::new(faulty), 2), disks, Resume::Never).unwrap_err();
    let session = snapshot(&store).keys().find_map(|path| match ObjectName::parse(path.as_ref()) {
        Some(ObjectName::Session(session)) => Some(session),
        _ => None,
    });
    (store, session.unwrap())
}

/// The eleventh byte of a pack says what it holds (FORMAT.md section 5).
fn is_data_pack(path: &str, bytes: &[u8], of: SessionId) -> bool {
    matches!(ObjectName::parse(path), Some(ObjectName::Pack(_, session, _)) if session == of)
        && bytes[10] == 1
}

#[test]
fn a_point_in_packs_of_two_sessions_restores_and_verifies() {
    let mut disks = web();
    for puts in [1, 3, 6, 9] {
        let (store, first) = interrupted(&disks, puts);
        let when = format!("after {puts} puts");
        // Meanwhile: other content, zeros, a disk that became shorter.
        let os = disks.get_mut("os").unwrap();
        set_block(os, 3, &noise(900 + puts, BLOCK));
        set_block(os, 17, &vec![0; BLOCK]);
        disks.get_mut("odd").unwrap().truncate(4_000_000);
        let vault = open(Arc::new(store.clone()), 3);
        let report = back_up_from(&vault, &disks, Resume::Session(first)).unwrap();
        assert!(report.bytes_adopted > 0 && report.bytes_adopted < report.bytes_changed, "{when}");
        assert_point_whole(&open(Arc::new(store), 4), "web@latest", &disks, &when);
    }
}

#[test]
fn a_pack_damaged_in_its_slots_is_adopted_and_found_by_the_verification() {
    let disks = web();
    let (store, first) = interrupted(&disks, 5);
    let mut objects = snapshot(&store);
    let (path, pack) =
        objects.iter_mut().find(|(path, bytes)| is_data_pack(path.as_ref(), bytes, first)).unwrap();
    let (path, mut damaged) = (path.to_string(), pack.to_vec());
    // In the body of the first slot, far from the footer.
    damaged[1000] ^= 1;
    *pack = damaged.into();
    let store: Arc<dyn ObjectStore> = Arc::new(store_of(&objects));
    let report = back_up_from(&open(Arc::clone(&store), 3), &disks, Resume::Session(first)).unwrap();
    assert!(report.bytes_adopted > 0);

    let point = open(store, 4).point(&point_ref("web@latest")).unwrap();
    let report =
        verify_point(&permit(), &point, Depth::Data, &reading(), &restore::Silent, &CancelToken::new())
            .unwrap();
    let lost: Vec<&str> = report.damaged.iter().filter_map(|lost| lost.error.object()).collect();
    assert!(!lost.is_empty() && lost.iter().all(|&object| object == path), "{lost:?}");
}
