//! A host that dies, or loses its store, at any single store call leaves every earlier point whole.
//!
//! Each test first runs once undisturbed to learn how many store calls there are, then once per call and fault. A
//! run is repeatable: one worker, a clock that stands, a random source with a seed.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::sync::Arc;
use vmkeep_testkit::permit;

use common::*;
use vmkeep::backup::{BackupError, Report, Settings};
use vmkeep::model::{PointNumber, SessionId};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{FolderStore, Vault, VaultError};
use vmkeep_testkit::{Fault, FaultyStore, snapshot, store_of};

const FAULTS: [fn(u64) -> Fault; 4] = [Fault::StopBefore, Fault::StopAfter, Fault::LostAck, Fault::Fail];

/// Runs `run` once to count its calls, then `run` and `check` for every call and fault, each on a store of its own.
fn at_every_call<T>(
    store: impl Fn() -> Arc<dyn ObjectStore>,
    calls_least: u64,
    run: impl Fn(Arc<dyn ObjectStore>) -> T,
    check: impl Fn(Arc<dyn ObjectStore>, T, &str),
) {
    let clean = FaultyStore::new(store(), []);
    run(Arc::new(clean.clone()));
    let calls = clean.calls();
    assert!(calls >= calls_least, "{calls} calls");
    for fault in (0..calls).flat_map(|n| FAULTS.map(|fault| fault(n))) {
        let inner = store();
        let outcome = run(Arc::new(FaultyStore::new(Arc::clone(&inner), [fault])));
        check(inner, outcome, &format!("{fault:?} of {calls}"));
    }
}

/// `web` as it is at its points 1 to 4, and `db` at its only point.
fn versions() -> (Vec<Disks>, Disks) {
    let os = disk(&[Some(block(1, 300)), None, Some(noise(2, BLOCK)), Some(block(3, 50)), None]);
    let mut now = disks([("os", os), ("data", disk(&[Some(block(4, 600)), None]))]);
    let mut web = vec![now.clone()];
    for n in 1..4_u8 {
        set_block(now.get_mut("os").unwrap(), usize::from(n), &block(u64::from(n) * 10, 200));
        set_block(now.get_mut("os").unwrap(), 0, &if n == 2 { vec![0; BLOCK] } else { block(77, 90) });
        now.get_mut("data").unwrap().extend(noise(u64::from(n) * 11, 5000));
        web.push(now.clone());
    }
    (web, disks([("os", disk(&[Some(block(90, 400))]))]))
}

/// A vault with two points of `web` and one of `db`.
fn two_points(store: Arc<dyn ObjectStore>, web: &[Disks], db: &Disks) {
    let vault = create(store, 1);
    back_up(&vault, "web", &web[0]).unwrap();
    back_up(&vault, "db", db).unwrap();
    back_up(&vault, "web", &web[1]).unwrap();
}

fn third_backup(store: Arc<dyn ObjectStore>, disks: &Disks) -> Result<Report, BackupError> {
    let vault = Vault::open(store, kek(), ports(2)).map_err(BackupError::Store)?;
    back_up(&vault, "web", disks)
}

/// What must hold after the third backup of `web` ended in whatever way.
fn check_third(
    store: Arc<dyn ObjectStore>,
    outcome: Result<Report, BackupError>,
    web: &[Disks],
    db: &Disks,
    when: &str,
) {
    let vault = open(Arc::clone(&store), 3);
    for (point, expected) in [("web@1", &web[0]), ("web@2", &web[1]), ("db@1", db)] {
        assert_point_whole(&vault, point, expected, when);
    }
    let there = match vault.point(&point_ref("web@3")) {
        Ok(_) => true,
        Err(VaultError::NoSuchPoint { .. }) => false,
        Err(e) => panic!("{when}: {e:?}"),
    };
    if there {
        assert_point_whole(&vault, "web@3", &web[2], when);
    }
    match outcome {
        Ok(report) => assert!(there && report.point.id.number == PointNumber(3), "{when}"),
        Err(BackupError::Store(VaultError::Store { .. })) => assert!(!there, "{when}"),
        Err(BackupError::Commit(VaultError::Store { .. })) => {}
        Err(e) => panic!("{when}: {e:?}"),
    }
    assert_vault_clean(&vault, when);

    let next = back_up(&vault, "web", &web[3]).unwrap_or_else(|e| panic!("{when}: next: {e:?}"));
    assert_eq!(next.point.id.number, PointNumber(if there { 4 } else { 3 }), "{when}");
    let vault = open(store, 4);
    assert_point_whole(&vault, "web@latest", &web[3], when);
    assert_restores(&vault, "web@1", &web[0], when);
    let report = assert_vault_clean(&vault, when);
    assert_eq!(
        report.accounting.unwrap().in_progress.objects,
        0,
        "{when}: the target of every session is taken"
    );
}

#[test]
fn an_increment_interrupted_at_any_call_is_absent_or_whole() {
    let (web, db) = versions();
    let base = Arc::new(InMemory::new());
    two_points(base.clone(), &web, &db);
    let base = snapshot(&*base);
    at_every_call(
        || Arc::new(store_of(&base)),
        15,
        |store| third_backup(store, &web[2]),
        |store, outcome, when| check_third(store, outcome, &web, &db, when),
    );
}

#[test]
fn so_it_is_in_a_folder() {
    let (web, db) = versions();
    let base = tempfile::tempdir().unwrap();
    let folder_store = |path: &std::path::Path, own| -> Arc<dyn ObjectStore> {
        Arc::new(FolderStore::open(path, SessionId([own; 16])).unwrap())
    };
    two_points(folder_store(base.path(), 1), &web, &db);
    let base = snapshot(&*folder_store(base.path(), 2));
    let clean = FaultyStore::new(Arc::new(store_of(&base)), []);
    third_backup(Arc::new(clean.clone()), &web[2]).unwrap();
    // Every call in turn, each with one of the faults in turn: syncing makes a folder slow.
    for n in 0..clean.calls() {
        let fault = FAULTS[usize::try_from(n).unwrap() % FAULTS.len()](n);
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in &base {
            let file = folder.path().join(path.as_ref());
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        let inner = folder_store(folder.path(), 3);
        let outcome = third_backup(Arc::new(FaultyStore::new(inner, [fault])), &web[2]);
        check_third(folder_store(folder.path(), 4), outcome, &web, &db, &format!("{fault:?} in a folder"));
    }
}

#[test]
fn so_it_is_when_several_threads_walk_two_disks() {
    let (web, db) = versions();
    let base = Arc::new(InMemory::new());
    two_points(base.clone(), &web, &db);
    let base = snapshot(&*base);
    let settings = Settings { workers: 3, ..inline() };
    let run = |store: Arc<dyn ObjectStore>| {
        let vault = Vault::open(store, kek(), ports(2)).map_err(BackupError::Store)?;
        back_up_with(&vault, "web", &web[2], &settings)
    };
    // Which call gets which number is not the same in every run; what must hold is.
    at_every_call(
        || Arc::new(store_of(&base)),
        15,
        run,
        |store, outcome, when| check_third(store, outcome, &web, &db, when),
    );
}

#[test]
fn a_first_backup_interrupted_at_any_call_is_absent_or_whole() {
    let (web, db) = versions();
    let base = Arc::new(InMemory::new());
    back_up(&create(base.clone(), 1), "db", &db).unwrap();
    let base = snapshot(&*base);
    at_every_call(
        || Arc::new(store_of(&base)),
        15,
        |store| third_backup(store, &web[0]),
        |store, outcome, when| {
            let vault = open(Arc::clone(&store), 3);
            assert_point_whole(&vault, "db@1", &db, when);
            let there = match vault.point(&point_ref("web@1")) {
                Ok(_) => true,
                Err(VaultError::NoSuchPoint { .. } | VaultError::NoSuchVm(_)) => false,
                Err(e) => panic!("{when}: {e:?}"),
            };
            if there {
                assert_point_whole(&vault, "web@1", &web[0], when);
            }
            assert!(there || outcome.is_err(), "{when}");
            assert_vault_clean(&vault, when);
            back_up(&vault, "web", &web[1]).unwrap_or_else(|e| panic!("{when}: next: {e:?}"));
            let vault = open(store, 4);
            assert_point_whole(&vault, "web@latest", &web[1], when);
            assert_point_whole(&vault, "db@1", &db, when);
            assert_vault_clean(&vault, when);
            assert_eq!(vault.vms().unwrap(), [vm("db"), vm("web")], "{when}");
        },
    );
}

#[test]
fn an_init_interrupted_at_any_call_can_be_repeated_or_is_done() {
    let (web, _) = versions();
    at_every_call(
        || Arc::new(InMemory::new()),
        5,
        |store| Vault::create(store, kek(), ports(1)),
        |store, outcome, when| {
            let again = Vault::create(Arc::clone(&store), kek(), ports(2));
            let vault = match (&outcome, again) {
                // The vault record was written before the call that failed: it is a vault.
                (_, Err(VaultError::VaultExists { .. })) => open(Arc::clone(&store), 3),
                (Err(VaultError::Store { .. }), Ok(vault)) => vault,
                (first, again) => panic!("{when}: {first:?}, then {again:?}"),
            };
            back_up(&vault, "web", &web[0]).unwrap_or_else(|e| panic!("{when}: {e:?}"));
            let vault = open(store, 4);
            assert_point_whole(&vault, "web@1", &web[0], when);
            assert_vault_clean(&vault, when);
        },
    );
}

#[test]
fn a_forget_interrupted_at_any_call_is_done_or_not_and_harms_no_point() {
    let (web, db) = versions();
    let base = Arc::new(InMemory::new());
    two_points(base.clone(), &web, &db);
    let base = snapshot(&*base);
    at_every_call(
        || Arc::new(store_of(&base)),
        8,
        |store| {
            Vault::open(store, kek(), ports(2)).and_then(|vault| vault.forget(&permit(), &point_ref("web@2")))
        },
        |store, outcome, when| {
            let vault = open(Arc::clone(&store), 3);
            assert_vault_clean(&vault, when);
            for (point, expected) in [("web@1", &web[0]), ("web@2", &web[1]), ("db@1", &db)] {
                assert_point_whole(&vault, point, expected, when);
            }
            let forgotten = vault.points(&vm("web")).unwrap()[1].forgotten;
            assert!(forgotten || outcome.is_err(), "{when}");
            assert_restores(&vault, "web@latest", &web[usize::from(!forgotten)], when);
            // Again, undisturbed: forgotten once, whatever happened before.
            assert!(vault.forget(&permit(), &point_ref("web@2")).unwrap().forgotten, "{when}");
            let vault = open(store, 4);
            assert_restores(&vault, "web@latest", &web[0], when);
            assert_vault_clean(&vault, when);
        },
    );
}
