//! Moving data from old epochs of keys to the newest: by a budget, beside everything else, stopped at any call.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/swept.rs"]
mod swept;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vmkeep_testkit::permit;

use common::*;
use keys::*;
use swept::{at_once, sweep_all};
use vmkeep::backup::{self, Event};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::model::{BlockIndex, CancelToken, Owner, Permit, Scope, op};
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::object_store::{ObjectStore, ObjectStoreExt};
use vmkeep::vault::map::Entry;
use vmkeep::vault::{ObjectName, SweepEvent, Vault, VaultError};
use vmkeep_testkit::{Fault, FaultyStore, snapshot, store_of};

/// A vault whose points 1 to `points` rest on as many epochs as `per_epoch` says.
fn vault_of(store: Arc<dyn ObjectStore>, points: u64, per_epoch: u64) -> Vault {
    let vault = create(store, 1);
    for n in 1..=points {
        back_up_version(&vault, n);
        if n % per_epoch == 0 {
            rotate(&vault).unwrap();
        }
    }
    vault
}

fn old_bytes(vault: &Vault) -> u64 {
    let epochs = epochs(vault);
    let newest = vault.keys().unwrap().iter().flat_map(|domain| &domain.epochs).map(|e| e.epoch).max();
    epochs.iter().filter(|epoch| Some(epoch.epoch) < newest).map(|epoch| epoch.bytes).sum()
}

#[test]
fn after_moving_all_no_data_rests_on_an_old_key_and_every_point_restores_without_it() {
    for_each_store(|store| {
        let vault = vault_of(Arc::clone(&store), 6, 2);
        let patched = |entry: &Entry| matches!(entry, Entry::Patched { .. });
        let point = vault.point(&point_ref("web@6")).unwrap();
        let disk = point.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
        let entries = disk.entries(BlockIndex(0)).unwrap().map(Result::unwrap);
        assert!(
            entries.filter(|(_, entry)| patched(entry)).count() > 2,
            "patches and their bases are moved too"
        );
        let before = old_bytes(&vault);
        let done = rewrite(&vault, u64::MAX).unwrap();
        assert_eq!((done.moved, done.left, done.stuck, done.damaged), (before, 0, 0, 0));
        assert!(done.copied > 0);
        assert_eq!(epochs(&vault).iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [3]);
        assert_points(&open(Arc::clone(&store), 2), 1..=6, "moved");
        assert_eq!(rewrite(&vault, u64::MAX).unwrap().moved, 0);
        for epoch in 0..3 {
            let plan = plan_to_destroy(&vault, Some(epoch)).unwrap();
            assert_eq!((plan.points.len(), plan.closes), (0, false));
            assert!(!destroy(&vault, &plan).unwrap().closed);
        }
        let vault = open(store, 3);
        back_up_version(&vault, 7);
        assert_points(&vault, 1..=7, "the old keys are gone");
        sweep_all(&vault);
        assert_points(&vault, 1..=7, "swept");
    });
}

#[test]
fn a_budget_bounds_what_is_copied_and_the_next_run_goes_on() {
    let store = Arc::new(InMemory::new());
    let vault = vault_of(store.clone(), 8, 1);
    let first = epochs(&vault)[0].bytes;
    let others = old_bytes(&vault) - first;
    let budget = others / 3;
    let (mut runs, mut left) = (0, u64::MAX);
    while left > first {
        let done = rewrite(&vault, budget).unwrap();
        assert!(done.copied <= budget && done.moved <= budget && done.left < left, "{done:?}");
        assert_points(&vault, 1..=8, &format!("run {runs}"));
        (runs, left) = (runs + 1, done.left);
    }
    assert!((3..10).contains(&runs), "{runs} runs");
    // What is larger than the budget waits for a larger one.
    assert_eq!(rewrite(&vault, budget).unwrap().left, first);
    assert_eq!(rewrite(&vault, first).unwrap().left, 0);
    assert_points(&vault, 1..=8, "all");
}

#[test]
fn moving_stopped_at_any_call_leaves_every_point_whole_and_goes_on() {
    let base = Arc::new(InMemory::new());
    vault_of(base.clone(), 4, 2);
    let base = snapshot(&*base);
    let run = |store: Arc<dyn ObjectStore>| rewrite(&Vault::open(store, kek(), ports(2))?, u64::MAX);
    let clean = FaultyStore::new(Arc::new(store_of(&base)), []);
    run(Arc::new(clean.clone())).unwrap();
    assert!(clean.calls() >= 40, "{} calls", clean.calls());
    for n in 0..clean.calls() {
        // A write that fails is a host that dies before it, to what comes after; so those two take turns.
        let fails = if n % 2 == 0 { Fault::StopBefore(n) } else { Fault::Fail(n) };
        let lost = if n % 2 == 0 { Fault::LostAck(n) } else { Fault::StopAfter(n) };
        for fault in [fails, lost] {
            let when = format!("{fault:?} of {}", clean.calls());
            let store = Arc::new(store_of(&base));
            run(Arc::new(FaultyStore::new(store.clone(), [fault]))).ok();
            assert_points(&open(store.clone(), 3), 1..=4, &when);
            let done = rewrite(&open(store.clone(), 4), u64::MAX).unwrap();
            assert_eq!((done.left, done.damaged), (0, 0), "{when}: {done:?}");
            // What the stopped one left is tidied up as after a sweep.
            let later = Vault::open(store.clone(), kek(), later_ports(5)).unwrap();
            assert_eq!(sweep_all(&later).damaged, 0, "{when}");
            assert_points(&later, 1..=4, &when);
            let old = epochs(&later).iter().filter(|epoch| epoch.epoch < 2).count();
            assert_eq!(old, 0, "{when}");
        }
    }
}

#[test]
fn data_is_moved_beside_a_backup_a_restore_and_a_sweep() {
    let store = Arc::new(InMemory::new());
    let vault = vault_of(store.clone(), 4, 1);
    let other = open(store.clone(), 2);
    // Beside a backup, at each of its events in turn.
    for n in 5..9 {
        let (content, heard) = (version(n), AtomicU64::new(0));
        let memory = Memory::from(content["os"].clone());
        let move_now = |_: Event<'_>| {
            if heard.fetch_add(1, Ordering::SeqCst) == n - 5 {
                rotate(&other).unwrap();
                assert_eq!(rewrite(&other, u64::MAX).unwrap().damaged, 0);
            }
        };
        let plan = plan("web", &[("os", &memory as &dyn BlockRead)]);
        backup::run(&permit(), &vault, &plan, &inline(), &move_now, &CancelToken::new()).unwrap();
        assert!(heard.load(Ordering::SeqCst) > n - 5);
        assert_points(&open(store.clone(), 100 + n), 1..=n, &format!("beside backup {n}"));
    }
    // Beside a reader that has opened its disk before.
    rotate(&other).unwrap();
    let point = vault.point(&point_ref("web@6")).unwrap();
    let disk = point.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
    let entries: Vec<_> = disk.entries(BlockIndex(0)).unwrap().map(Result::unwrap).collect();
    disk.fetch(&entries[..3], &mut |_, bytes| bytes.map(drop).map_err(|_| panic!())).unwrap();
    assert_eq!(rewrite(&other, u64::MAX).unwrap().left, 0);
    let mut seen = 0;
    disk.fetch(&entries, &mut |_, bytes| {
        seen += usize::from(bytes.is_ok());
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, entries.len());
    // Beside a sweep, at each of its events.
    rotate(&other).unwrap();
    for n in [2, 3, 5, 7] {
        vault.forget(&permit(), &point_ref(&format!("web@{n}"))).unwrap();
    }
    vault
        .sweep(&permit(), &at_once(), &CancelToken::new(), &mut |event| {
            if !matches!(event, SweepEvent::Damaged { .. }) {
                rewrite(&other, 200_000).unwrap();
            }
        })
        .unwrap();
    assert_points(&open(store.clone(), 3), [1, 4, 6, 8], "beside a sweep");
    sweep_all(&vault);
    assert_eq!(rewrite(&vault, u64::MAX).unwrap().left, 0);
    assert_points(&open(store, 4), [1, 4, 6, 8], "in the end");
}

#[test]
fn packs_of_a_session_that_has_not_committed_stay() {
    let store = Arc::new(InMemory::new());
    let vault = vault_of(store.clone(), 2, 9);
    swept::interrupted(&vault, "web", &version(40)["os"]);
    rotate(&vault).unwrap();
    let done = rewrite(&vault, u64::MAX).unwrap();
    assert_eq!(done.left, 0);
    let settings = backup::Settings { resume: backup::Resume::Newest, ..inline() };
    let report = back_up_with(&vault, "web", &version(40), &settings).unwrap();
    assert!(report.bytes_adopted > 0);
    // Now a point needs them.
    let done = rewrite(&vault, u64::MAX).unwrap();
    assert!(done.moved > 0 && done.left == 0, "{done:?}");
    assert_restores(&vault, "web@latest", &version(40), "adopted and moved");
    assert_points(&open(store, 3), 1..=2, "the others");
}

#[test]
fn a_damaged_pack_stays_as_it_is_and_is_told_of() {
    let store = Arc::new(InMemory::new());
    vault_of(store.clone(), 3, 1);
    let objects = snapshot(&*store);
    let data = objects.iter().filter(|(path, _)| match ObjectName::parse(path.as_ref()) {
        Some(ObjectName::Pack(lineage, session, pack)) => {
            !objects.contains_key(&ObjectName::PackCopy(lineage, session, pack).path())
        }
        _ => false,
    });
    let (path, bytes) = data.max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let mut bad = bytes.to_vec();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    put(&store, path, bad.clone());
    let done = rewrite(&open(store.clone(), 2), u64::MAX).unwrap();
    assert_eq!((done.left, done.damaged), (bytes.len() as u64, 1), "{done:?}");
    assert!(done.moved > 0);
    assert_eq!(snapshot(&*store)[path], bad);
    put(&store, path, bytes.to_vec());
    assert_eq!(rewrite(&open(store.clone(), 3), u64::MAX).unwrap().left, 0);
    assert_points(&open(store, 4), 1..=3, "healed");
}

fn put(store: &InMemory, path: &Path, bytes: Vec<u8>) {
    let put = store.put(path, bytes.into());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
}

#[test]
fn a_permit_for_another_vm_moves_nothing() {
    let store = Arc::new(InMemory::new());
    let vault = vault_of(store.clone(), 1, 1);
    let before = snapshot(&*store);
    let other: Permit<op::RotateBek> = Permit::ask(&Owner, Scope::Vm(vm("db"))).unwrap();
    let denied = vault.rewrite(&other, &vm("web"), 1, &CancelToken::new(), &mut |_| {});
    assert!(matches!(denied, Err(VaultError::Denied(_))));
    assert_eq!(rewrite(&vault, 0).unwrap().moved, 0);
    assert_eq!(snapshot(&*store), before);
}
