//! Two backups of one VM at once: one commits a number, the other is told so and loses nothing.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::sync::Arc;
use vmkeep_testkit::permit;

use common::interleaved::interleaved;
use common::*;
use vmkeep::backup::{BackupError, Report};
use vmkeep::model::{BlockSize, ByteLen, ChangeProvenance, ConsistencyLevel, PointNumber, SessionId};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Draft, DraftDisk, Session, Vault, VaultError};
use vmkeep_testkit::{snapshot, store_of};

fn version(n: u64) -> Disks {
    let os = disk(&[
        Some(block(1, 200)),
        Some(block(n, 300)),
        None,
        n.is_multiple_of(2).then(|| block(n + 50, 100)),
    ]);
    disks([("os", os)])
}

fn backup_of(n: u64, seed: u64) -> impl FnOnce(Arc<dyn ObjectStore>) -> Result<Report, BackupError> + Send {
    move |store| {
        let vault = Vault::open(store, kek(), ports(seed)).map_err(BackupError::Store)?;
        back_up(&vault, "web", &version(n))
    }
}

fn lost_race(outcome: &Result<Report, BackupError>, number: u64) -> bool {
    matches!(
        outcome,
        Err(BackupError::Commit(VaultError::LostRace { vm, number: PointNumber(n) }))
            if vm.as_str() == "web" && *n == number
    )
}

/// Goes through every call of the first backup and says how many the second won.
fn race(points_before: u64) -> (u64, u64) {
    let base = Arc::new(InMemory::new());
    let vault = create(base.clone(), 1);
    for n in 1..=points_before {
        back_up(&vault, "web", &version(n)).unwrap();
    }
    let (base, next) = (snapshot(&*base), points_before + 1);
    let (mut lost, mut both) = (0, 0);
    for at in 0.. {
        let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
        let (first, second) = interleaved(&store, at, backup_of(10, 2), backup_of(11, 3));
        let Some(second) = second else { break };
        let when = format!("at call {at}");
        let second = second.unwrap_or_else(|e| panic!("{when}: the second met nobody: {e:?}"));
        let vault = open(store.clone(), 4);
        let (mut committed, second_number) = (vec![second.point.id.number.0], second.point.id.number);
        match &first {
            Ok(first) => {
                both += 1;
                committed.push(first.point.id.number.0);
                committed.sort_unstable();
                assert_eq!(committed, [next, next + 1], "{when}: both, one after the other");
                assert_point_whole(&vault, &format!("web@{}", first.point.id.number), &version(10), &when);
            }
            other => {
                lost += 1;
                assert!(lost_race(other, next), "{when}: {other:?}");
                assert_eq!(committed, [next], "{when}");
            }
        }
        assert_point_whole(&vault, &format!("web@{second_number}"), &version(11), &when);
        for n in 1..=points_before {
            assert_point_whole(&vault, &format!("web@{n}"), &version(n), &when);
        }
        assert_vault_clean(&vault, &when);
        if first.is_err() {
            back_up(&vault, "web", &version(10)).unwrap();
            assert_restores(&open(store, 5), "web@latest", &version(10), &when);
        }
    }
    (lost, both)
}

#[test]
fn of_two_increments_at_once_one_commits_and_the_other_runs_again() {
    let (lost, both) = race(2);
    // Before the first has looked for the newest point, and after its commit, both succeed.
    assert!(lost >= 5 && both >= 5, "{lost} lost, {both} both");
}

#[test]
fn of_two_first_backups_at_once_one_lineage_comes_about() {
    let (lost, both) = race(0);
    assert!(lost >= 5 && both >= 5, "{lost} lost, {both} both");
}

/// A point of one disk of `blocks` blocks of zeros.
fn draft(session: &Session, blocks: u64) -> Draft {
    let name = "os".parse().unwrap();
    let writer = session.disk_writer(&name, BlockSize::MIN, 1 << 20).unwrap();
    let written = writer.finish(ByteLen(blocks * BLOCK as u64)).unwrap();
    Draft {
        disks: vec![DraftDisk::Stored {
            description: description("os"),
            written,
            provenance: ChangeProvenance::Full,
        }],
        consistency: ConsistencyLevel::Crash,
        evidence: vec![],
        config: None,
        keys: None,
        bytes_read: 0,
        duration_ms: 0,
    }
}

/// A vault with `web@1`, a whole disk of zeros, and two sessions that both want to make `web@2`.
fn two_sessions(store: Arc<dyn ObjectStore>) -> (Vault, [Session; 2]) {
    let vault = create(Arc::clone(&store), 1);
    back_up(&vault, "web", &disks([("os", vec![0; BLOCK])])).unwrap();
    let sessions =
        [vault.begin(&permit(), &vm("web")).unwrap(), open(store, 2).begin(&permit(), &vm("web")).unwrap()];
    (vault, sessions)
}

#[test]
fn sessions_of_one_vm_want_the_same_number_and_the_first_commit_gets_it() {
    for_each_store(first_commit_gets_it);
}

fn first_commit_gets_it(store: Arc<dyn ObjectStore>) {
    let (vault, [first, second]) = two_sessions(store);
    assert_eq!([first.target(), second.target()], [PointNumber(2); 2]);
    assert_eq!([first.base(), second.base()], [Some(PointNumber(1)); 2]);
    let (draft_a, draft_b) = (draft(&first, 2), draft(&second, 3));
    let committed = second.commit(draft_b).unwrap();
    assert_eq!(committed.point.id.number, PointNumber(2));
    let lost = first.commit(draft_a).unwrap_err();
    assert!(matches!(lost, VaultError::LostRace { number: PointNumber(2), .. }), "{lost:?}");
    assert_restores(&vault, "web@2", &disks([("os", vec![0; 3 * BLOCK])]), "after the race");
    assert_vault_clean(&vault, "after the race");
}

#[test]
fn a_voided_session_that_comes_back_is_told_so() {
    for_each_store(voided_session_is_told);
}

fn voided_session_is_told(store: Arc<dyn ObjectStore>) {
    let (vault, [first, second]) = two_sessions(Arc::clone(&store));
    let id = first.id();
    assert!(vault.void_session(&permit(), id).unwrap());
    assert!(!vault.void_session(&permit(), id).unwrap(), "voided once");
    let draft_a = draft(&first, 1);
    let voided = first.commit(draft_a).unwrap_err();
    assert!(matches!(&voided, VaultError::SessionVoided { session, .. } if *session == id), "{voided:?}");
    // The void took the number that the other session wanted as well: to it, it is a race lost.
    let draft_b = draft(&second, 1);
    assert!(matches!(second.commit(draft_b), Err(VaultError::LostRace { number: PointNumber(2), .. })));
    assert!(matches!(vault.point(&point_ref("web@2")), Err(VaultError::NoSuchPoint { .. })));
    assert_restores(&vault, "web@latest", &disks([("os", vec![0; BLOCK])]), "after the void");
    let again = back_up(&vault, "web", &version(4)).unwrap();
    assert_eq!((again.point.id.number, again.point.base), (PointNumber(3), Some(PointNumber(1))));
    let vault = open(store, 3);
    assert_restores(&vault, "web@3", &version(4), "after the void");
    assert_vault_clean(&vault, "after the void");
}

#[test]
fn a_void_at_any_call_of_a_backup_ends_it_or_comes_too_late() {
    let base = Arc::new(InMemory::new());
    back_up(&create(base.clone(), 1), "web", &version(1)).unwrap();
    let base = snapshot(&*base);
    let (mut ended, mut again, mut late) = (0, 0, 0);
    for at in 0.. {
        let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
        let void = move |store: Arc<dyn ObjectStore>| {
            let open_sessions: Vec<SessionId> = snapshot(&*store)
                .keys()
                .filter_map(|path| {
                    path.as_ref().strip_prefix("sessions/")?.strip_suffix("/open")?.parse().ok()
                })
                .collect();
            let [session] = open_sessions[..] else { return None };
            Some(open(store, 3).void_session(&permit(), session).unwrap())
        };
        let (outcome, voided) = interleaved(&store, at, backup_of(10, 2), void);
        let Some(voided) = voided else { break };
        let (when, vault) = (format!("at call {at}"), open(store.clone(), 4));
        assert_point_whole(&vault, "web@1", &version(1), &when);
        if voided == Some(true) {
            ended += 1;
            match outcome {
                Err(BackupError::Commit(VaultError::SessionVoided { .. })) => {}
                // Ended before it had looked whether its number is free: it began again with the next.
                Ok(report) => {
                    again += 1;
                    assert_eq!(report.point.id.number.0, 3, "{when}");
                    assert_point_whole(&vault, "web@3", &version(10), &when);
                }
                Err(e) => panic!("{when}: {e:?}"),
            }
        } else {
            // No session yet or no longer, or its commit stands.
            late += 1;
            outcome.unwrap_or_else(|e| panic!("{when}: {e:?}"));
            assert_point_whole(&vault, "web@2", &version(10), &when);
        }
        assert_vault_clean(&vault, &when);
    }
    assert!(
        ended >= 5 && again <= 3 && late >= 5,
        "{ended} ended, {again} of them early, {late} came too late"
    );
}

#[test]
fn a_backup_at_any_call_of_a_verification_is_no_damage() {
    let base = Arc::new(InMemory::new());
    let vault = create(base.clone(), 1);
    back_up(&vault, "web", &version(1)).unwrap();
    back_up(&vault, "web", &version(2)).unwrap();
    vault.void_session(&permit(), vault.begin(&permit(), &vm("web")).unwrap().id()).unwrap();
    let base = snapshot(&*base);
    let act = |store: Arc<dyn ObjectStore>| {
        let vault = open(store, 3);
        back_up(&vault, "web", &version(3)).unwrap();
        back_up(&vault, "new", &version(4)).unwrap();
        vault.forget(&permit(), &point_ref("web@4")).unwrap();
        vault.void_session(&permit(), vault.begin(&permit(), &vm("new")).unwrap().id()).unwrap();
    };
    let mut calls = 0;
    for at in 0.. {
        let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
        let checked = |store| assert_vault_clean(&open(store, 2), &format!("acts at call {at}"));
        let (_, acted) = interleaved(&store, at, checked, act);
        if acted.is_none() {
            break;
        }
        calls += 1;
    }
    assert!(calls > 30, "{calls} calls");
}

#[test]
fn a_verification_at_any_call_of_a_backup_sees_no_damage() {
    let base = Arc::new(InMemory::new());
    back_up(&create(base.clone(), 1), "db", &version(1)).unwrap();
    let base = snapshot(&*base);
    for at in 0.. {
        let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
        let check = move |store| drop(assert_vault_clean(&open(store, 3), &format!("at call {at}")));
        let (outcome, checked) = interleaved(&store, at, backup_of(2, 2), check);
        outcome.unwrap();
        if checked.is_none() {
            break;
        }
        assert!(at < 100);
    }
}
