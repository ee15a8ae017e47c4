//! New keys for new data: old points restore as ever, whatever is done across the rotation.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/swept.rs"]
mod swept;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use vmkeep_testkit::permit;

use common::*;
use keys::*;
use swept::{at_once, interrupted, sweep_all};
use vmkeep::backup;
use vmkeep::model::{
    ByteLen, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, Owner, Permit, Scope, op,
};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Draft, DraftDisk, SweepEvent, Vault, VaultError};
use vmkeep_testkit::{Call, Fault, FaultyStore, RequestKind, Tap, TappedStore, Verdict, snapshot, store_of};

#[test]
fn old_and_new_points_restore_after_a_rotation_and_it_says_what_rests_on_the_old_key() {
    for_each_store(|store| {
        let vault = create(Arc::clone(&store), 1);
        back_up_version(&vault, 1);
        let first = rotate(&vault).unwrap();
        assert_eq!((first.epoch, first.old.len()), (1, 1));
        assert!(first.old[0].bytes > 60 * BLOCK as u64 && first.old[0].packs > 0);
        back_up_version(&vault, 2);
        let second = rotate(&vault).unwrap();
        assert_eq!((second.epoch, second.old[0]), (2, first.old[0]));
        // Four blocks and a page changed.
        assert!((4..7).contains(&(second.old[1].bytes / BLOCK as u64)), "{second:?}");
        back_up_version(&vault, 3);
        let bytes = vault.epoch_bytes(&vm("web"), &CancelToken::new()).unwrap();
        assert_eq!(bytes.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), [0, 1, 2]);
        for vault in [vault, open(store, 2)] {
            assert_points(&vault, 1..=3, "rotated twice");
        }
    });
}

#[test]
fn a_rotation_makes_one_key_object_and_one_entry_and_a_permit_for_another_vm_is_none() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    let other: Permit<op::RotateBek> = Permit::ask(&Owner, Scope::Vm(vm("db"))).unwrap();
    let denied = vault.rotate_bek(&other, &vm("web"), &[], &CancelToken::new());
    assert!(matches!(denied, Err(VaultError::Denied(_))));
    let before = snapshot(&*store).len();
    rotate(&vault).unwrap();
    // One key object and one entry.
    assert_eq!(snapshot(&*store).len(), before + 2);
    vault.close(&permit(), &vm("web")).unwrap();
    assert!(matches!(rotate(&vault), Err(VaultError::LineageClosed { .. })));
}

#[test]
fn points_of_several_epochs_are_swept_thinned_and_repacked_together() {
    for seed in 0..2 {
        let store = Arc::new(InMemory::new());
        let vault = create(store.clone(), 1 + seed);
        let mut kept = Vec::new();
        for n in 1..=16 {
            back_up_version(&vault, n);
            if n % 4 == seed {
                rotate(&vault).unwrap();
            }
            if n % 5 == 0 {
                for gone in (n - 4..n).filter(|gone| gone % 5 != 3 * seed) {
                    vault.forget(&permit(), &point_ref(&format!("web@{gone}"))).unwrap();
                }
                let report = sweep_all(&open(store.clone(), 100 + n));
                assert_eq!(report.damaged, 0);
            }
        }
        kept.extend((1..=16).filter(|n| *n > 15 || n % 5 == 0 || n % 5 == 3 * seed));
        assert!(snapshot(&*store).keys().any(|path| path.as_ref().starts_with("moved/")));
        assert_points(&open(store, 3), kept, &format!("seed {seed}"));
    }
}

#[test]
fn an_interrupted_backup_is_gone_on_with_after_a_rotation() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    interrupted(&vault, "web", &version(30)["os"]);
    rotate(&vault).unwrap();
    let settings = backup::Settings { resume: backup::Resume::Newest, ..inline() };
    let report = back_up_with(&open(store.clone(), 2), "web", &version(30), &settings).unwrap();
    assert!(report.bytes_adopted > 0, "{report:?}");
    let vault = open(store, 3);
    assert_point_whole(&vault, "web@latest", &version(30), "adopted");
    assert_points(&vault, [1], "adopted");
}

#[test]
fn a_session_that_is_open_across_a_rotation_commits_and_reads() {
    let store = Arc::new(InMemory::new());
    let (vault, other) = (create(store.clone(), 1), open(store.clone(), 2));
    back_up_version(&vault, 1);
    let session = vault.begin(&permit(), &vm("web")).unwrap();
    rotate(&other).unwrap();
    let draft = Draft {
        disks: vec![DraftDisk::Described {
            description: DiskDescription {
                name: "tmp".parse().unwrap(),
                role: DiskRole::Temporary,
                lun: None,
            },
            size: ByteLen(1 << 30),
        }],
        consistency: ConsistencyLevel::Crash,
        evidence: Vec::new(),
        config: None,
        keys: None,
        bytes_read: 0,
        duration_ms: 0,
    };
    let base = session.base_reader(&"os".parse().unwrap()).unwrap().unwrap();
    assert_eq!(base.stored_blocks(), 60);
    session.commit(draft).unwrap();
    // The handle that knew nothing of it goes on with the new keys.
    back_up_now(&vault, &version(3));
    let bytes = other.epoch_bytes(&vm("web"), &CancelToken::new()).unwrap();
    assert_eq!(bytes.len(), 2);
    assert_points(&other, [1, 3], "open across");
}

#[test]
fn a_sweep_that_began_before_a_rotation_reads_what_came_after_it() {
    let store = Arc::new(InMemory::new());
    let (vault, other) = (create(store.clone(), 1), open(store.clone(), 2));
    for n in 1..=4 {
        back_up_version(&vault, n);
    }
    for n in [2, 3] {
        vault.forget(&permit(), &point_ref(&format!("web@{n}"))).unwrap();
    }
    let report = vault
        .sweep(&permit(), &at_once(), &CancelToken::new(), &mut |event| {
            if matches!(event, SweepEvent::Vm { .. }) {
                rotate(&other).unwrap();
                back_up_version(&other, 5);
            }
        })
        .unwrap();
    assert_eq!((report.points.len(), report.damaged), (2, 0), "{report:?}");
    assert_points(&vault, [1, 4, 5], "swept across");
}

#[test]
fn nobody_is_locked_out_who_has_a_kek_of_their_own() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    wrap_also(&store, &*kek_of(9));
    let before = snapshot(&*store);
    let refused = rotate(&vault).unwrap_err();
    let VaultError::ForeignWraps { keks, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(keks.len(), 1);
    assert_eq!(snapshot(&*store), before);
    assert_eq!(rotate_with(&vault, &[kek_of(9)]).unwrap().epoch, 1);
    back_up_version(&vault, 2);
    let theirs = Vault::open(store, kek_of(9), ports(5)).unwrap();
    assert_points(&theirs, 1..=2, "by the other KEK");
    back_up_version(&theirs, 3);
    assert_points(&vault, 1..=3, "by the first");
}

#[test]
fn a_rotation_stopped_at_any_call_is_made_or_not_and_can_be_made_again() {
    let base = Arc::new(InMemory::new());
    let vault = create(base.clone(), 1);
    back_up_version(&vault, 1);
    wrap_also(&base, &*kek_of(9));
    let base = snapshot(&*base);
    let run = |store: Arc<dyn ObjectStore>| rotate_with(&Vault::open(store, kek(), ports(2))?, &[kek_of(9)]);
    let clean = FaultyStore::new(Arc::new(store_of(&base)), []);
    run(Arc::new(clean.clone())).unwrap();
    for n in 0..clean.calls() {
        for fault in [Fault::StopBefore(n), Fault::StopAfter(n), Fault::LostAck(n), Fault::Fail(n)] {
            let when = format!("{fault:?}");
            let store = Arc::new(store_of(&base));
            run(Arc::new(FaultyStore::new(store.clone(), [fault]))).ok();
            let vault = open(store.clone(), 3);
            assert_points(&vault, [1], &when);
            let epoch = rotate_with(&vault, &[kek_of(9)]).unwrap().epoch;
            assert!((1..=2).contains(&epoch), "{when}: {epoch}");
            back_up_version(&open(store.clone(), 4), 2);
            assert_points(&Vault::open(store.clone(), kek_of(9), ports(5)).unwrap(), 1..=2, &when);
            assert!(
                vault
                    .keys()
                    .unwrap()
                    .iter()
                    .all(|domain| { domain.epochs.iter().all(|epoch| epoch.wraps.len() == 2) })
            );
        }
    }
}

/// Runs something right before the first key object is created.
struct Before {
    done: AtomicBool,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Before")
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Before")
    }
}

impl Tap for Before {
    fn before(&self, call: &Call<'_>) -> Verdict {
        if call.kind() == RequestKind::Put
            && call.path.as_ref().starts_with("keys/")
            && !self.done.swap(true, Ordering::SeqCst)
            && let Some(act) = self.act.lock().unwrap().take()
        {
            std::thread::spawn(act).join().unwrap();
        }
        Verdict::Pass
    }
}

#[test]
fn of_two_that_rotate_at_once_both_end_with_the_same_keys() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    wrap_also(&store, &*kek_of(9));
    let second = open(store.clone(), 2);
    let act = move || assert_eq!(rotate_with(&second, &[kek_of(9)]).unwrap().epoch, 1);
    let tap = Before { done: AtomicBool::new(false), act: Mutex::new(Some(Box::new(act))) };
    let tapped = TappedStore::with_tap(store.clone(), tap);
    let first = open(Arc::new(tapped), 3);
    assert_eq!(rotate_with(&first, &[kek_of(9)]).unwrap().epoch, 1);
    back_up_version(&first, 2);
    for kek in [kek(), kek_of(9)] {
        assert_points(&Vault::open(store.clone(), kek, ports(5)).unwrap(), 1..=2, "raced");
    }
}
