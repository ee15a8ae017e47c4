//! Destroying keys: what they sealed is gone and told of as gone on purpose, everything else is as it was.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/swept.rs"]
mod swept;

use std::fmt;
use std::sync::{Arc, Mutex};
use vmkeep_testkit::permit;

use common::*;
use keys::*;
use swept::sweep_all;
use vmkeep::model::{CancelToken, Owner, Permit, Scope, op};
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::object_store::{ObjectStore, ObjectStoreExt};
use vmkeep::restore::{Depth, RestoreError};
use vmkeep::vault::{JournalEntry, ObjectName, Vault, VaultError};
use vmkeep_testkit::{Call, Fault, FaultyStore, RequestKind, Tap, TappedStore, Verdict, snapshot, store_of};

/// The vault's error within a restore's.
#[track_caller]
fn gone(vault: &Vault, point: &str) -> String {
    match restore(vault, point) {
        Err(RestoreError::Vault { source, .. }) if source.is_destroyed() => source.to_string(),
        other => panic!("{point}: {other:?}"),
    }
}

fn key_objects(store: &InMemory) -> Vec<String> {
    let names = snapshot(store).into_keys().map(|path| path.to_string());
    names.filter(|name| name.starts_with("keys/")).collect()
}

#[test]
fn destroying_the_keys_of_a_vm_is_for_ever_and_no_damage_and_its_next_backup_begins_anew() {
    for_each_store(|store| {
        let vault = create(Arc::clone(&store), 1);
        for n in 1..=3 {
            back_up_version(&vault, n);
            if n == 2 {
                rotate(&vault).unwrap();
            }
        }
        back_up(&vault, "db", &version(7)).unwrap();
        let plan = plan_to_destroy(&vault, None).unwrap();
        assert_eq!(plan.points, ["web@1", "web@2", "web@3"].map(point_ref));
        assert_eq!((plan.closes, plan.resumes, plan.epochs.len()), (true, false, 2));
        assert!(plan.epochs[0].bytes > plan.epochs[1].bytes && plan.epochs[1].bytes > 0);
        // Of the third, five blocks are new.
        assert_eq!((plan.points_of[&0], plan.points_of[&1]), (3, 1));
        assert_points(&vault, 1..=3, "a plan changes nothing");

        let done = destroy(&vault, &plan).unwrap();
        assert_eq!((done.points.len(), done.closed, done.removed), (3, true, 2));
        let vault = open(Arc::clone(&store), 2);
        for n in 1..=3 {
            let said = gone(&vault, &format!("web@{n}"));
            assert!(
                said.contains("VM web") && said.contains("2023-11-14") && said.contains("owner"),
                "{said}"
            );
        }
        assert_restores(&vault, "db@1", &version(7), "another VM");
        let report = assert_vault_clean(&vault, "destroyed");
        assert_eq!((report.destroyed.len(), report.destroyed[0].points.len()), (2, 3));
        assert!(report.destroyed.iter().all(|destroyed| destroyed.finished));
        assert!(report.destroyed_blocks >= BLOCKS, "{report:?}");
        let structure = verify(&vault, Depth::Structure).unwrap();
        assert!(structure.is_clean() && structure.destroyed == report.destroyed);
        assert!(
            vault.keys().unwrap()[2].epochs.iter().all(|epoch| {
                epoch.destroyed.is_some() && epoch.wraps.len() == 1 && epoch.wraps[0].opens()
            })
        );
        let said = vault.journal().unwrap();
        let said = said.iter().filter(|r| matches!(r.entry, JournalEntry::KeysDestroyed { .. })).count();
        assert_eq!(said, 2);

        // The VM is protected again, with keys of its own.
        assert_eq!(back_up_now(&vault, &version(1)), 1);
        assert_points(&vault, [1], "anew");
        let again = plan_to_destroy(&vault, None).unwrap();
        assert_eq!((again.points.len(), again.epochs.len()), (1, 1));
    });
}

#[test]
fn a_point_that_does_not_need_the_destroyed_epoch_restores() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    back_up_version(&vault, 2);
    rotate(&vault).unwrap();
    assert_eq!(back_up_now(&vault, &other_content()), 3);
    let plan = plan_to_destroy(&vault, Some(0)).unwrap();
    assert_eq!(plan.points, ["web@1", "web@2"].map(point_ref));
    assert!(plan.closes);
    destroy(&vault, &plan).unwrap();
    let vault = open(store, 2);
    gone(&vault, "web@1");
    gone(&vault, "web@2");
    assert_point_whole(&vault, "web@3", &other_content(), "the newer epoch");
    let report = assert_vault_clean(&vault, "one epoch");
    assert_eq!(report.destroyed[0].points.len(), 2);
    assert!(matches!(plan_to_destroy(&vault, Some(9)), Err(VaultError::NoSuchEpoch { epoch: 9, .. })));
}

#[test]
fn destroying_keys_that_nothing_rests_on_loses_nothing_and_the_vm_goes_on() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    for n in 1..=3 {
        back_up_version(&vault, n);
    }
    rotate(&vault).unwrap();
    let done = rewrite(&vault, u64::MAX).unwrap();
    assert_eq!((done.left, done.damaged), (0, 0), "{done:?}");
    let abandoned = vault.begin(&permit(), &vm("web")).unwrap().id();
    let plan = plan_to_destroy(&vault, Some(0)).unwrap();
    assert_eq!((plan.points.len(), plan.closes, plan.epochs[0].bytes), (0, false, 0));
    assert_eq!(plan.sessions, [abandoned]);
    let done = destroy(&vault, &plan).unwrap();
    assert_eq!((done.points.len(), done.closed, done.removed), (0, false, 1));
    assert_eq!(done.ended, [abandoned]);
    let vault = open(store, 2);
    assert_points(&vault, 1..=3, "nothing lost");
    // The number of the ended session is taken.
    assert_eq!(back_up_now(&vault, &version(4)), 5);
    assert_restores(&vault, "web@5", &version(4), "goes on");
    assert_eq!(assert_vault_clean(&vault, "goes on").destroyed_blocks, 0);
}

#[test]
fn destroying_stopped_at_any_call_is_not_begun_or_can_be_finished() {
    let base = Arc::new(InMemory::new());
    let vault = create(base.clone(), 1);
    back_up_version(&vault, 1);
    wrap_also(&base, &*kek_of(9));
    let base = snapshot(&*base);
    let run = |store: Arc<dyn ObjectStore>| {
        let vault = Vault::open(store, kek(), ports(2))?;
        let plan = plan_to_destroy(&vault, None)?;
        destroy(&vault, &plan)
    };
    let clean = FaultyStore::new(Arc::new(store_of(&base)), []);
    run(Arc::new(clean.clone())).unwrap();
    assert!(clean.calls() >= 40, "{} calls", clean.calls());
    for n in 0..clean.calls() {
        for fault in [Fault::StopBefore(n), Fault::StopAfter(n), Fault::LostAck(n), Fault::Fail(n)] {
            let when = format!("{fault:?} of {}", clean.calls());
            let store = Arc::new(store_of(&base));
            run(Arc::new(FaultyStore::new(store.clone(), [fault]))).ok();
            let vault = open(store.clone(), 3);
            let is_buried = key_objects(&store).iter().any(|name| name.ends_with("/destroyed"));
            if is_buried {
                gone(&vault, "web@1");
            } else {
                assert_restores(&vault, "web@1", &version(1), &when);
            }
            let report = assert_vault_clean(&vault, &when);
            assert_eq!(report.destroyed.len(), usize::from(is_buried), "{when}");
            let plan = plan_to_destroy(&vault, None).unwrap();
            assert_eq!(plan.resumes, is_buried, "{when}");
            destroy(&vault, &plan).unwrap();
            gone(&open(store.clone(), 4), "web@1");
            let left: Vec<_> =
                vault.keys().unwrap().into_iter().find(|k| !k.vms.is_empty()).into_iter().collect();
            assert_eq!(left[0].epochs[0].wraps.len(), 1, "{when}: {left:?}");
            let report = assert_vault_clean(&open(store.clone(), 5), &when);
            assert!(report.destroyed[0].finished, "{when}");
            let said = vault.journal().unwrap();
            let said = said.iter().filter(|r| matches!(r.entry, JournalEntry::KeysDestroyed { .. })).count();
            assert_eq!(said, 1, "{when}");
        }
    }
}

#[test]
fn an_interrupted_destruction_is_finished_also_when_the_vm_is_protected_again() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    let before = snapshot(&*store);
    destroy(&vault, &plan_to_destroy(&vault, None).unwrap()).unwrap();
    // As it was before the key object was removed.
    for (path, bytes) in before.iter().filter(|(path, _)| path.as_ref().starts_with("keys/")) {
        put(&store, path, bytes);
    }
    let vault = open(store.clone(), 2);
    gone(&vault, "web@1");
    assert!(!assert_vault_clean(&vault, "unfinished").destroyed[0].finished);
    assert_eq!(back_up_now(&vault, &version(2)), 1);
    let plan = plan_to_destroy(&vault, None).unwrap();
    assert!(plan.resumes);
    let done = destroy(&vault, &plan).unwrap();
    assert_eq!((done.removed, done.closed), (1, false));
    assert_restores(&vault, "web@1", &version(2), "what is protected now");
    assert!(assert_vault_clean(&vault, "finished").destroyed[0].finished);
    assert!(!plan_to_destroy(&vault, None).unwrap().resumes);
}

fn put(store: &InMemory, path: &Path, bytes: &[u8]) {
    let put = store.put(path, bytes.to_vec().into());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
}

#[test]
fn wraps_by_other_keks_go_too_and_the_plan_says_whose() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    wrap_also(&store, &*kek_of(9));
    let plan = plan_to_destroy(&vault, None).unwrap();
    assert_eq!(plan.other_keks.len(), 1);
    assert_eq!(destroy(&vault, &plan).unwrap().removed, 2);
    let theirs = Vault::open(store.clone(), kek_of(9), ports(3)).unwrap();
    assert!(matches!(theirs.point(&point_ref("web@1")), Err(VaultError::WrongKey { .. })));
    assert_vault_clean(&open(store, 4), "by the first KEK");
}

#[test]
fn a_plan_that_says_less_than_would_be_lost_by_now_is_refused_and_changes_nothing() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    let plan = plan_to_destroy(&vault, None).unwrap();
    back_up_version(&vault, 2);
    let before = snapshot(&*store);
    assert!(matches!(destroy(&vault, &plan), Err(VaultError::PlanOutdated { .. })));
    let other: Permit<op::DestroyKeys> = Permit::ask(&Owner, Scope::Vm(vm("db"))).unwrap();
    let plan = plan_to_destroy(&vault, None).unwrap();
    let denied = vault.destroy_keys(&other, &plan, &CancelToken::new());
    assert!(matches!(denied, Err(VaultError::Denied(_))));
    assert_eq!(snapshot(&*store), before);
}

#[test]
fn what_was_destroyed_can_be_swept_and_stays_destroyed_when_the_kek_is_changed() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    for n in 1..=3 {
        back_up_version(&vault, n);
    }
    let full = snapshot(&*store);
    destroy(&vault, &plan_to_destroy(&vault, None).unwrap()).unwrap();
    // An unfinished one: the full key object is there again.
    for (path, bytes) in full.iter().filter(|(path, _)| path.as_ref().starts_with("keys/")) {
        put(&store, path, bytes);
    }
    let vault = open(store.clone(), 2);
    let done = vault.rotate_kek(&permit(), kek_of(8), None, &CancelToken::new(), &mut |_| {}).unwrap();
    // A tombstone alone is no reason to destroy anything; it is told of.
    assert_eq!(done.unfinished, 1);
    let vault = Vault::open(store.clone(), kek_of(8), ports(3)).unwrap();
    gone(&vault, "web@1");
    assert!(!assert_vault_clean(&vault, "not finished").destroyed[0].finished);
    destroy(&vault, &plan_to_destroy(&vault, None).unwrap()).unwrap();
    for object in key_objects(&store) {
        let Some(ObjectName::Key { .. }) = ObjectName::parse(&object) else { continue };
        let keys = done.vault.keys().unwrap();
        let wraps = keys.iter().flat_map(|domain| &domain.epochs).flat_map(|epoch| &epoch.wraps);
        assert!(wraps.filter(|wrap| wrap.object == object).all(|wrap| {
            wrap.branches.as_ref().is_some_and(|branches| !branches.contains(&vmkeep::envelope::Branch::Data))
        }));
    }
    assert!(assert_vault_clean(&vault, "another KEK").destroyed[0].finished);
    for (number, _) in vault.history(&vm("web")).unwrap() {
        vault.forget(&permit(), &point_ref(&format!("web@{number}"))).unwrap();
    }
    let report = sweep_all(&vault);
    assert_eq!((report.points.len(), report.damaged), (3, 0), "{report:?}");
    let report = assert_vault_clean(&vault, "swept");
    assert!(report.destroyed[0].points.is_empty());
    assert!(!snapshot(&*store).keys().any(|path| path.as_ref().starts_with("packs/")));
}

/// Acts right before the first session record is created.
struct BeforeItBegins {
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for BeforeItBegins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeItBegins")
    }
}

impl fmt::Display for BeforeItBegins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BeforeItBegins")
    }
}

impl Tap for BeforeItBegins {
    fn before(&self, call: &Call<'_>) -> Verdict {
        if call.kind() == RequestKind::Put
            && call.path.as_ref().starts_with("sessions/")
            && let Some(act) = self.act.lock().unwrap().take()
        {
            std::thread::spawn(act).join().unwrap();
        }
        Verdict::Pass
    }
}

/// Whoever destroys the keys cannot see this backup: it has no record yet, and has the old keys in its hands.
#[test]
fn a_backup_that_begins_while_old_keys_are_destroyed_uses_the_new_ones() {
    let store = Arc::new(InMemory::new());
    back_up_version(&create(store.clone(), 1), 1);
    let other = open(store.clone(), 2);
    let act = move || {
        rotate(&other).unwrap();
        assert_eq!(rewrite(&other, u64::MAX).unwrap().left, 0);
        let plan = plan_to_destroy(&other, Some(0)).unwrap();
        assert!(!destroy(&other, &plan).unwrap().closed);
    };
    let tap = BeforeItBegins { act: Mutex::new(Some(Box::new(act))) };
    let slow = open(Arc::new(TappedStore::with_tap(store.clone(), tap)), 3);
    back_up_version(&slow, 2);
    let vault = open(store, 4);
    assert_eq!(epochs(&vault).iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [1]);
    assert_points(&vault, 1..=2, "began beside it");
}

#[test]
fn a_tombstone_that_was_damaged_moved_or_removed_is_told_of() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    rotate(&vault).unwrap();
    back_up_version(&vault, 2);
    destroy(&vault, &plan_to_destroy(&vault, None).unwrap()).unwrap();
    let whole = snapshot(&*store);
    let tombs: Vec<_> = whole.iter().filter(|(path, _)| path.as_ref().ends_with("/destroyed")).collect();
    let [(path, bytes), (_, other)] = tombs.as_slice() else { panic!("{tombs:?}") };
    let told = |when: &str| {
        let report = verify(&open(store.clone(), 2), Depth::Structure).unwrap();
        assert_eq!(report.objects.len(), 1, "{when}: {report:?}");
        assert_eq!(report.objects[0].object, path.as_ref(), "{when}");
    };
    for at in (0..bytes.len()).step_by(5) {
        let mut bad = bytes.to_vec();
        bad[at] ^= 1;
        put(&store, path, &bad);
        told("a flipped bit");
    }
    put(&store, path, other);
    told("that of another epoch");
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(store.delete(path)).unwrap();
    told("removed");
    put(&store, path, bytes);
    assert_vault_clean(&open(store.clone(), 3), "back again");
}

#[test]
fn keys_destroyed_at_any_time_of_a_change_of_the_kek_are_told_of_and_can_be_destroyed() {
    let base = Arc::new(InMemory::new());
    let vault = create(base.clone(), 1);
    back_up_version(&vault, 1);
    back_up(&vault, "db", &version(2)).unwrap();
    let base = snapshot(&*base);
    let (mut at, mut ended) = (0, false);
    while !ended {
        let store = Arc::new(store_of(&base));
        let (vault, other) = (open(store.clone(), 2), open(store.clone(), 3));
        let mut events = 0;
        let first = vault.rotate_kek(&permit(), kek_of(8), None, &CancelToken::new(), &mut |_| {
            if events == at {
                // Once its keys are under the new KEK alone, it takes that.
                let by_new = || Vault::open(store.clone(), kek_of(8), ports(5)).unwrap();
                let by = if plan_to_destroy(&other, None).is_ok() { other.clone() } else { by_new() };
                destroy(&by, &plan_to_destroy(&by, None).unwrap()).unwrap();
            }
            events += 1;
        });
        ended = events <= at;
        if ended {
            continue;
        }
        // It may find a key object gone that it has just made.
        assert!(matches!(first, Ok(_) | Err(VaultError::Missing { .. })), "event {at}: {first:?}");
        let vault = Vault::open(store.clone(), kek(), ports(4));
        let vault = vault.or_else(|_| Vault::open(store.clone(), kek_of(8), ports(4))).unwrap();
        let done =
            vault.rotate_kek(&permit(), kek_of(8), Some(kek()), &CancelToken::new(), &mut |_| {}).unwrap();
        assert_restores(&done.vault, "db@1", &version(2), "another VM");
        gone(&done.vault, "web@1");
        let report = assert_vault_clean(&done.vault, &format!("event {at}"));
        if !report.destroyed[0].finished {
            // What was wrapped anew while it was destroyed: told of, and destroyed when that is asked for.
            destroy(&done.vault, &plan_to_destroy(&done.vault, None).unwrap()).unwrap();
        }
        let report = assert_vault_clean(&done.vault, &format!("event {at}"));
        assert!(report.destroyed[0].finished, "event {at}: {report:?}");
        for domain in done.vault.keys().unwrap() {
            assert_eq!(domain.epochs[0].wraps.len(), 1, "event {at}: {domain:?}");
        }
        at += 1;
    }
    assert!(at >= 8, "{at} events");
}
