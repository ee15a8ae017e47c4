//! Whoever can write to the store can destroy, but not deceive: every change of every object is found.
//!
//! A vault with every kind of object is changed in one place at a time. Full verification must name the object that
//! was changed, or the vault must not open and say why; every restore gives the right bytes or a typed error, and
//! with one damaged object only the points that need it are lost.
//!
//! What cannot be found, and why that is as it should be:
//! - A *deleted hint* (`heads/`) is as good as one that was never written: it saves requests and decides nothing.
//! - A *deleted last journal entry* looks like an act whose entry was not written yet when its host died. (A gap
//!   before a later entry is found; so is a void or forget record that the journal knows and that is gone.)
//! - The record of *an open session*, deleted, makes its packs garbage; a pack of it, deleted, was never stored.
//!   No point needs either.
//! - A *key object of no VM* and what an ended session left are garbage: nobody reads them, the sweep removes them.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::vault_of_all_kinds::{AllKinds, all_kinds};
use common::*;
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::restore::Depth;
use vmkeep::vault::{ObjectName, Vault, VaultError};
use vmkeep_testkit::{snapshot, store_of};

type Objects = BTreeMap<Path, Bytes>;

struct Original {
    kinds: AllKinds,
    objects: Objects,
}

impl Original {
    fn new(seed: u64) -> Self {
        let kinds = all_kinds(seed);
        let objects = snapshot(&*kinds.store);
        Self { kinds, objects }
    }
}

/// What became of one change.
#[derive(Debug, Default)]
struct Outcome {
    /// Objects that were named: by verification, or by the error that ended it.
    named: BTreeSet<String>,
    /// The vault did not open.
    closed: bool,
    /// Points that did not restore.
    lost: BTreeSet<&'static str>,
}

/// Opens the changed vault, restores every point and verifies everything. Panics when bytes come out wrong.
fn judge(original: &Original, changed: &Objects) -> Outcome {
    let mut outcome = Outcome::default();
    let vault = match Vault::open(Arc::new(store_of(changed)), kek(), ports(9)) {
        Ok(vault) => vault,
        Err(e) => {
            outcome.closed = true;
            outcome.named.insert(match &e {
                VaultError::NoVault { .. } => "vault".to_owned(),
                VaultError::WrongKey { what } => what.clone(),
                e => e.object().unwrap_or_else(|| panic!("names no object: {e:?}")).to_owned(),
            });
            return outcome;
        }
    };
    for (&point, expected) in &original.kinds.points {
        match restore(&vault, point) {
            Ok(found) => assert!(found == *expected, "{point} restores to other bytes"),
            Err(_) => drop(outcome.lost.insert(point)),
        }
    }
    for (latest, newest) in [("web@latest", 2), ("db@latest", 2)] {
        if let Ok(found) = vault.point(&point_ref(latest)) {
            assert_eq!(found.point().id.number.0, newest, "{latest}");
        }
    }
    let report = verify(&vault, Depth::Data).unwrap_or_else(|e| panic!("verification ended early: {e:?}"));
    outcome.named.extend(report.objects.into_iter().map(|damage| damage.object));
    let named = report.damaged.iter().filter_map(|block| block.error.object().map(str::to_owned));
    outcome.named.extend(named);
    outcome
}

/// Judges every case on two threads and gives what the checks complain about.
fn complaints<C: Sync>(cases: &[C], check: impl Fn(&C) -> Result<(), String> + Sync) -> Vec<String> {
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = catch_unwind(AssertUnwindSafe(|| check(case)))
                .unwrap_or_else(|panic| Err(format!("panicked: {:?}", panic.downcast_ref::<String>())));
            complaints.lock().unwrap().extend(outcome.err());
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    complaints.into_inner().unwrap()
}

#[track_caller]
fn assert_none(complaints: &[String]) {
    let first: Vec<&String> = complaints.iter().take(20).collect();
    assert!(complaints.is_empty(), "{} complaints, the first: {first:#?}", complaints.len());
}

/// Keys of the vault itself, or its record: without them nothing opens.
fn opens_the_vault(path: &str) -> bool {
    path == "vault" || path.starts_with("keys/00000000000000000000000000000000/")
}

/// Points that may be lost with the object at `path`: what it holds, and all of a VM's with its name or keys.
fn may_be_lost(original: &Original, path: &str, point: &str) -> bool {
    match ObjectName::parse(path).unwrap() {
        ObjectName::Name(_) | ObjectName::Key { .. } => true,
        ObjectName::Point(_, number) => point.ends_with(&format!("@{number}")),
        // Data is stored once; metadata twice.
        ObjectName::Pack(..) => !original.objects.contains_key(&Path::from(format!("{path}.copy"))),
        _ => false,
    }
}

/// Says whether `outcome` is right for a change of the object at `path`.
fn named(original: &Original, path: &str, what: &str, outcome: &Outcome) -> Result<(), String> {
    // Which of the vault's record and its keys is the wrong one cannot be told.
    let either = outcome.closed && ["the vault", "vault"].iter().any(|&name| outcome.named.contains(name));
    let found = outcome.named.contains(path) || either;
    if !found || (outcome.closed && !opens_the_vault(path)) {
        return Err(format!("{path} {what}: {outcome:?}"));
    }
    match outcome.lost.iter().find(|point| !may_be_lost(original, path, point)) {
        Some(point) => Err(format!("{path} {what}: {point} is lost with it: {outcome:?}")),
        None => Ok(()),
    }
}

fn with(objects: &Objects, path: &Path, bytes: Vec<u8>) -> Objects {
    let mut changed = objects.clone();
    changed.insert(path.clone(), bytes.into());
    changed
}

#[test]
fn the_vault_is_small_whole_and_holds_every_kind() {
    let original = Original::new(1);
    let size: usize = original.objects.values().map(Bytes::len).sum();
    assert!(size <= 64 << 10, "{size} bytes");
    let outcome = judge(&original, &original.objects);
    assert!(outcome.named.is_empty() && outcome.lost.is_empty(), "{outcome:?}");
    let count = |first: &str| original.objects.keys().filter(|path| path.as_ref().starts_with(first)).count();
    for (kind, least) in [
        ("vault", 1),
        ("keys/", 3),
        ("names/", 2),
        ("points/", 5),
        ("heads/", 2),
        ("sessions/", 2),
        ("forgets/", 1),
        ("packs/", 20),
        ("journal/", 3),
    ] {
        assert!(count(kind) >= least, "{} of {kind}", count(kind));
    }
    assert!(original.objects.contains_key(&Path::from(original.kinds.open_session.as_str())));
}

#[test]
fn every_flipped_byte_is_found() {
    let original = Original::new(1);
    let mut cases = Vec::new();
    for (path, bytes) in &original.objects {
        for at in 0..bytes.len() {
            // Both patterns where fields lie; within ciphertext one is as good as another.
            let patterns: &[u8] = if at < 128 || at + 32 > bytes.len() { &[0xff, 0x01] } else { &[0x01] };
            cases.extend(patterns.iter().map(|pattern| (path, at, *pattern)));
        }
    }
    assert_none(&complaints(&cases, |&(path, at, pattern)| {
        let mut bytes = original.objects[path].to_vec();
        bytes[at] ^= pattern;
        let outcome = judge(&original, &with(&original.objects, path, bytes));
        named(&original, path.as_ref(), &format!("byte {at} ^ {pattern:#x}"), &outcome)
    }));
}

#[test]
fn every_truncated_or_lengthened_object_is_found() {
    let original = Original::new(1);
    let mut cases = Vec::new();
    for (path, bytes) in &original.objects {
        let lens = [0, 1, 8, 39, 40, 68, bytes.len() / 2, bytes.len() - 17, bytes.len() - 1];
        cases.extend(lens.into_iter().filter(|&len| len < bytes.len()).map(|len| (path, len)));
        cases.extend([1, 100].map(|more| (path, bytes.len() + more)));
    }
    assert_none(&complaints(&cases, |&(path, len)| {
        let mut bytes = original.objects[path].to_vec();
        bytes.resize(len, 0);
        let outcome = judge(&original, &with(&original.objects, path, bytes));
        named(&original, path.as_ref(), &format!("cut to {len}"), &outcome)
    }));
}

/// The kind of an object: two of a kind could be taken for one another.
fn kind(path: &Path) -> String {
    let first = path.as_ref().split('/').next().unwrap_or_default();
    first.to_owned()
}

#[test]
fn every_swapped_object_is_found() {
    let original = Original::new(1);
    let paths: Vec<&Path> = original.objects.keys().collect();
    let mut cases = Vec::new();
    for (n, a) in paths.iter().enumerate() {
        let later = paths[n + 1..].iter().filter(|b| kind(a) == kind(b));
        // The two copies of a metadata pack are equal: swapping them changes nothing.
        cases.extend(later.filter(|b| original.objects[*a] != original.objects[**b]).map(|b| (*a, *b)));
    }
    assert!(cases.len() > 100);
    assert_none(&complaints(&cases, |&(a, b)| {
        let mut changed = original.objects.clone();
        changed.insert(a.clone(), original.objects[b].clone());
        changed.insert(b.clone(), original.objects[a].clone());
        let outcome = judge(&original, &changed);
        let both_named = outcome.closed || [a, b].iter().all(|path| outcome.named.contains(path.as_ref()));
        if both_named { Ok(()) } else { Err(format!("{a} and {b} swapped: {outcome:?}")) }
    }));
}

#[test]
fn every_object_replaced_by_one_of_another_vault_is_found() {
    let (original, stranger) = (Original::new(1), Original::new(2));
    let mut cases = Vec::new();
    for path in original.objects.keys() {
        let of_kind = stranger.objects.iter().filter(|(other, _)| kind(other) == kind(path));
        cases.extend(of_kind.map(|(_, bytes)| (path, bytes)));
    }
    assert_none(&complaints(&cases, |&(path, bytes)| {
        let outcome = judge(&original, &with(&original.objects, path, bytes.to_vec()));
        named(&original, path.as_ref(), "replaced", &outcome)
    }));
}

/// Whether the absence of `path` says nothing; see the text at the top of this file.
fn may_be_absent(original: &Original, path: &str) -> bool {
    let Some(name) = ObjectName::parse(path) else { return false };
    let open = original.kinds.open_session.split('/').nth(1).unwrap();
    match name {
        // A session here was ended by its void, or is still open.
        ObjectName::Head(_) | ObjectName::Session(_) => true,
        ObjectName::Pack(_, session, _) | ObjectName::PackCopy(_, session, _) => session.to_string() == open,
        ObjectName::Journal(stream, n) => {
            let next = ObjectName::Journal(stream, n + 1).path();
            !original.objects.contains_key(&next)
        }
        _ => false,
    }
}

#[test]
fn every_deleted_object_is_found_unless_nothing_needs_it() {
    let original = Original::new(1);
    let paths: Vec<&Path> = original.objects.keys().collect();
    assert_none(&complaints(&paths, |&path| {
        let mut changed = original.objects.clone();
        changed.remove(path);
        let outcome = judge(&original, &changed);
        let path = path.as_ref();
        if may_be_absent(&original, path) {
            let harmless = outcome.named.is_empty() && outcome.lost.is_empty();
            return if harmless { Ok(()) } else { Err(format!("{path} deleted: {outcome:?}")) };
        }
        // The name of a name record is a hash that only the record itself could tell: what it leads to is named.
        if path.starts_with("names/") {
            let orphans = outcome.named.iter().any(|object| object.starts_with("points/"));
            return if orphans { Ok(()) } else { Err(format!("{path} deleted: {outcome:?}")) };
        }
        // A domain without its key objects is told by the folder they were in.
        let in_named_folder = outcome.named.iter().any(|object| path.starts_with(&format!("{object}/")));
        if path.starts_with("keys/") && in_named_folder {
            return Ok(());
        }
        named(&original, path, "deleted", &outcome)
    }));
}

#[test]
fn an_object_made_up_by_a_stranger_is_not_believed() {
    let original = Original::new(1);
    let lineage_of = |point: &str| {
        let vault = open(Arc::new(store_of(&original.objects)), 5);
        vault.point(&point_ref(point)).unwrap().point().id.lineage
    };
    let (web, db) = (lineage_of("web@2"), lineage_of("db@2"));
    for made_up in [
        format!("forgets/{web}/2"),
        format!("forgets/{db}/1"),
        format!("points/{db}/3"),
        format!("points/{web}/4"),
        format!("points/{web}/{}", u64::MAX),
        format!("retired/{web}/1"),
        format!("journal/{db}/1"),
        format!("journal/{web}/{}", u64::MAX),
        format!("names/{db}"),
        format!("sessions/{db}/open"),
        format!("packs/{db}/{db}/{web}"),
        format!("packs/{web}/{db}/{db}.copy"),
        "points/x".to_owned(),
        "foo".to_owned(),
    ] {
        for bytes in [Vec::new(), original.objects[&Path::from("vault")].to_vec()] {
            let outcome = judge(&original, &with(&original.objects, &Path::from(made_up.as_str()), bytes));
            // Which numbers count is not guessed: the VM's points are refused until the record is gone.
            let refused =
                made_up.starts_with("retired/") && outcome.lost.iter().all(|p| p.starts_with("web"));
            let right = outcome.named.contains(&made_up) && (outcome.lost.is_empty() || refused);
            assert!(right, "{made_up}: {outcome:?}");
        }
    }
}

#[test]
fn an_older_hint_is_put_right_by_looking_further() {
    let first = Arc::new(InMemory::new());
    let vault = create(first.clone(), 1);
    let mut hints: Vec<(Path, Bytes)> = Vec::new();
    for n in 0..3 {
        back_up(&vault, "web", &disks([("os", block(n, 10))])).unwrap();
        let now = snapshot(&*first);
        hints.extend(now.into_iter().find(|(path, _)| path.as_ref().starts_with("heads/")));
    }
    let objects = snapshot(&*first);
    for (path, old) in &hints {
        let vault = open(Arc::new(store_of(&with(&objects, path, old.to_vec()))), 2);
        assert_restores(&vault, "web@latest", &disks([("os", block(2, 10))]), "with an old hint");
        assert_vault_clean(&vault, "with an old hint");
        assert_eq!(back_up(&vault, "web", &disks([("os", block(9, 10))])).unwrap().point.id.number.0, 4);
    }
}
