//! Verification accounts exactly for vaults in which points were forgotten, held, pinned and swept, packs repacked,
//! sessions gone on from and VMs closed; also when a sweep was stopped at any store call.
//!
//! What a sweep leaves in the end is what the points that count refer to, found by walking all of their maps, and
//! every one of them restores.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/swept.rs"]
mod swept;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use vmkeep::model::op;
use vmkeep_testkit::permit;

use common::*;
use swept::{at_once, without_data_key};
use vmkeep::backup::{self, Event, Resume, Settings};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::model::{BlockSize, ByteLen, CancelToken, ChangeProvenance, ConsistencyLevel, SessionId};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::restore::{self, Depth, RestoreError, verify_point};
use vmkeep::vault::{Accounting, Draft, DraftDisk, Kept, ObjectName, Vault, VaultError};
use vmkeep_testkit::{Fault, FaultyStore, snapshot, store_of};

/// Blocks of the disk of `web`: two data slots or more in one pack, so that some can be dead and some not.
const BLOCKS: usize = 32;

/// Points and what they restore to.
type Points = BTreeMap<String, Disks>;

/// `web` as it is at its points: each next one rewrites an eighth of the disk and a block here and there.
fn versions(count: u64) -> Vec<Disks> {
    let mut os = noise(1, BLOCKS * BLOCK);
    let mut versions = vec![disks([("os", os.clone()), ("data", block(7, 300))])];
    for n in 1..count {
        let part = BLOCKS / 8;
        let first = usize::try_from(n - 1).unwrap() % 8 * part;
        os[first * BLOCK..(first + part) * BLOCK].copy_from_slice(&noise(100 + n, part * BLOCK));
        set_block(&mut os, BLOCKS - 1, &block(n, 200));
        versions.push(disks([("os", os.clone()), ("data", block(7 + n / 2, 300))]));
    }
    versions
}

/// A vault with so many points of `web` and one of `db`, and what they restore to.
fn vault_of(count: u64) -> (Arc<InMemory>, Vault, Points) {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    let mut points = Points::new();
    for (n, version) in (1..).zip(versions(count)) {
        back_up(&vault, "web", &version).unwrap();
        points.insert(format!("web@{n}"), version);
    }
    let db = disks([("os", block(50, 400))]);
    back_up(&vault, "db", &db).unwrap();
    points.insert("db@1".to_owned(), db);
    (store, vault, points)
}

/// Verifies the vault, opened anew: nothing is wrong, every byte is accounted for, and all of `points` restore.
#[track_caller]
fn account(store: &Arc<dyn ObjectStore>, points: &Points, when: &str) -> Accounting {
    let vault = open(Arc::clone(store), 9);
    let accounting = assert_vault_clean(&vault, when).accounting.unwrap();
    let Accounting { live, garbage, in_progress, .. } = &accounting;
    let objects = snapshot(&**store);
    let bytes: usize = objects.values().map(bytes::Bytes::len).sum();
    let (sum, sizes) = [live, garbage, in_progress]
        .iter()
        .fold((0, 0), |(sum, sizes), tally| (sum + tally.objects, sizes + tally.bytes));
    assert_eq!((sum, sizes), (objects.len() as u64, bytes as u64), "{when}: {accounting:?}");
    for (point, expected) in points {
        assert_restores(&vault, point, expected, when);
    }
    accounting
}

/// As [`account`], for a vault with nothing left to do: no garbage, and no pack that no point refers to.
#[track_caller]
fn account_swept(store: &Arc<dyn ObjectStore>, points: &Points, when: &str) {
    let accounting = account(store, points, when);
    let names: Vec<String> = snapshot(&**store).keys().map(ToString::to_string).collect();
    let vault = open(Arc::clone(store), 8);
    let reachable: BTreeSet<String> =
        vault.vms().unwrap().iter().flat_map(|vm| vault.reachable(vm).unwrap()).collect();
    let packs: BTreeSet<String> = names.iter().filter(|name| name.starts_with("packs/")).cloned().collect();
    let (more, fewer) = (packs.difference(&reachable), reachable.difference(&packs));
    let differ: Vec<_> = more.map(|pack| ('+', pack)).chain(fewer.map(|pack| ('-', pack))).collect();
    assert!(differ.is_empty(), "{when}: {differ:#?} {accounting:?}");
    let idle = (accounting.garbage.objects, accounting.in_progress.objects);
    assert_eq!(idle, (0, 0), "{when}: {names:#?}");
}

fn shared(store: &Arc<InMemory>) -> Arc<dyn ObjectStore> {
    Arc::clone(store) as Arc<dyn ObjectStore>
}

#[test]
fn what_was_forgotten_counts_until_it_is_swept() {
    let (memory, vault, mut points) = vault_of(4);
    let store = shared(&memory);
    account_swept(&store, &points, "at first");
    vault.forget(&permit(), &point_ref("web@2")).unwrap();
    vault.forget(&permit(), &point_ref("web@3")).unwrap();
    account_swept(&store, &points, "forgotten");
    vault.undelete(&permit(), &point_ref("web@3")).unwrap();
    account_swept(&store, &points, "had back");

    let report = sweep(&vault);
    assert_eq!(report.points, [point_ref("web@2")]);
    points.remove("web@2");
    account_swept(&store, &points, "swept");
    assert!(matches!(vault.point(&point_ref("web@2")), Err(VaultError::NoSuchPoint { .. })));
    assert_eq!(sweep(&vault).objects, 0);
    account_swept(&store, &points, "swept twice");
}

#[test]
fn a_point_that_is_held_or_pinned_is_live_and_so_are_its_records() {
    let (memory, vault, mut points) = vault_of(4);
    let store = shared(&memory);
    for point in ["web@1", "web@2"] {
        vault.forget(&permit(), &point_ref(point)).unwrap();
    }
    vault.hold(&permit(), &point_ref("web@1")).unwrap();
    let pin =
        vault.point(&point_ref("web@2")).unwrap().pin(&permit::<op::Restore>(), "a long restore").unwrap();
    let report = sweep(&vault);
    let kept = [(point_ref("web@1"), Kept::Held), (point_ref("web@2"), Kept::Pinned)];
    assert!(report.points.is_empty() && kept.iter().all(|kept| report.kept.contains(kept)), "{report:?}");
    account_swept(&store, &points, "kept");

    // Broken and set again: the first reader's is gone, the second's holds.
    let other = vault.point(&point_ref("web@2")).unwrap().pin(&permit::<op::Restore>(), "another").unwrap();
    assert!(vault.break_pin(&permit(), &point_ref("web@2"), pin.id()).unwrap());
    account_swept(&store, &points, "pin broken");
    other.release().unwrap();
    vault.release(&permit(), &point_ref("web@1")).unwrap();
    let report = sweep(&vault);
    assert_eq!(report.points, [point_ref("web@1"), point_ref("web@2")]);
    points.retain(|point, _| point != "web@1" && point != "web@2");
    account_swept(&store, &points, "released");
    drop(pin);
    account_swept(&store, &points, "the broken pin dropped");
}

#[test]
fn packs_that_are_dead_in_part_are_repacked_and_again() {
    let (memory, vault, mut points) = vault_of(6);
    let store = shared(&memory);
    let mut repacked = 0;
    for n in [1, 3, 2, 5, 4] {
        let point = format!("web@{n}");
        vault.forget(&permit(), &point_ref(&point)).unwrap();
        points.remove(&point);
        repacked += sweep(&vault).repacked;
        account_swept(&store, &points, &format!("without {point}"));
    }
    assert!(repacked >= 3, "{repacked}");
    let moved = snapshot(&*memory).into_keys().filter(|path| path.as_ref().starts_with("moved/")).count();
    assert!(moved > 0);
}

#[test]
fn a_closed_vm_can_go_whole_and_be_protected_again() {
    let (memory, vault, mut points) = vault_of(3);
    let store = shared(&memory);
    vault.forget(&permit(), &point_ref("web@1")).unwrap();
    assert!(vault.close(&permit(), &vm("web")).unwrap());
    account_swept(&store, &points, "closed");
    sweep(&vault);
    points.remove("web@1");
    account_swept(&store, &points, "the oldest swept");
    for n in [2, 3] {
        vault.forget(&permit(), &point_ref(&format!("web@{n}"))).unwrap();
        points.remove(&format!("web@{n}"));
    }
    sweep(&vault);
    account_swept(&store, &points, "all swept");
    let again = disks([("os", block(70, 500))]);
    back_up(&vault, "web", &again).unwrap();
    points.insert("web@1".to_owned(), again);
    account_swept(&store, &points, "protected again");
}

/// The session of `db` that was interrupted once its disk was stored.
fn interrupt(vault: &Vault, content: &Disks) -> SessionId {
    let (cancel, memory) = (CancelToken::new(), Memory::from(content["os"].clone()));
    let stop = |event: Event<'_>| {
        if matches!(event, Event::DiskDone { .. }) {
            cancel.cancel();
        }
    };
    let plan = plan("db", &[("os", &memory as &dyn BlockRead)]);
    backup::run(&permit(), vault, &plan, &inline(), &stop, &cancel).unwrap_err();
    vault.open_sessions(&vm("db")).unwrap().last().unwrap().id
}

#[test]
fn what_a_session_inherits_is_in_progress_until_it_ends() {
    let content = disks([("os", noise(9, 40 * BLOCK))]);
    let (memory, vault, mut points) = vault_of(2);
    let store = shared(&memory);
    let first = interrupt(&vault, &content);
    let open = account(&store, &points, "interrupted");
    assert!(open.in_progress.objects >= 4 && open.garbage.objects == 0, "{open:?}");
    let second = vault.resume(&permit(), &vm("db"), first).unwrap();
    let heir = second.id();
    drop(second);
    let adopted = account(&store, &points, "gone on from");
    // The heir's record came, and what it inherited is as it was.
    assert_eq!(adopted.in_progress.objects, open.in_progress.objects + 1, "{adopted:?}");
    assert_eq!(adopted.garbage.objects, 0);
    assert!(!vault.void_session(&permit(), first).unwrap() && vault.void_session(&permit(), heir).unwrap());
    let ended = account(&store, &points, "the heir ended");
    assert_eq!(ended.garbage, adopted.in_progress);
    sweep(&vault);
    account_swept(&store, &points, "swept");

    // An heir that commits and needs nothing of what it inherited: the disk is as it was.
    let first = interrupt(&vault, &content);
    let heir = vault.resume(&permit(), &vm("db"), first).unwrap();
    let os = "os".parse().unwrap();
    let writer = heir.disk_writer(&os, BlockSize::MIN, 1 << 20).unwrap();
    let written = writer.finish(ByteLen(BLOCK as u64)).unwrap();
    let draft = Draft {
        disks: vec![DraftDisk::Stored {
            description: description("os"),
            written,
            provenance: ChangeProvenance::Scan,
        }],
        config: None,
        consistency: ConsistencyLevel::Crash,
        evidence: Vec::new(),
        keys: None,
        bytes_read: 0,
        duration_ms: 0,
    };
    let number = heir.commit(draft).unwrap().point.id.number;
    points.insert(format!("db@{number}"), points["db@1"].clone());
    account(&store, &points, "the heir committed");
    sweep(&vault);
    account_swept(&store, &points, "the heir committed, and swept");

    // The packs of a session that was ended, in the point of another.
    let first = interrupt(&vault, &content);
    let memory = Memory::from(content["os"].clone());
    let plan = plan("db", &[("os", &memory as &dyn BlockRead)]);
    let cancel = CancelToken::new();
    let settings = Settings { resume: Resume::Session(first), ..inline() };
    let report = backup::run(&permit(), &vault, &plan, &settings, &backup::Silent, &cancel).unwrap();
    assert!(report.bytes_adopted > 0);
    points.insert(format!("db@{}", report.point.id.number), content);
    account(&store, &points, "inherited");
}

/// A vault in which a sweep has everything to do: points to take, packs to repack (some that were before), a session to
/// end, and a void number between two points.
fn much_to_do() -> (BTreeMap<Path, bytes::Bytes>, Points, Points) {
    let (memory, vault, mut points) = vault_of(5);
    vault.forget(&permit(), &point_ref("web@1")).unwrap();
    points.remove("web@1");
    assert!(sweep(&vault).repacked > 0);
    assert!(vault.void_session(&permit(), vault.begin(&permit(), &vm("web")).unwrap().id()).unwrap());
    let last = versions(6).pop().unwrap();
    back_up(&vault, "web", &last).unwrap();
    points.insert("web@7".to_owned(), last);
    interrupt(&vault, &disks([("os", block(51, 300))]));
    let forgotten = ["web@2", "web@3", "web@5"];
    for point in forgotten {
        vault.forget(&permit(), &point_ref(point)).unwrap();
    }
    let mut kept = points.clone();
    kept.retain(|point, _| !forgotten.contains(&point.as_str()));
    (snapshot(&*memory), points, kept)
}

#[test]
fn a_sweep_stopped_at_any_call_leaves_nothing_unexplained_and_the_next_one_finishes() {
    const FAULTS: [fn(u64) -> Fault; 3] = [Fault::StopAfter, Fault::LostAck, Fault::Fail];
    let (base, _, kept) = much_to_do();
    let swept = |store: Arc<dyn ObjectStore>, seed| {
        let vault = Vault::open(store, kek(), later_ports(seed))?;
        vault.sweep(&permit(), &vmkeep::vault::SweepSettings::default(), &CancelToken::new(), &mut |_| {})
    };
    let clean = FaultyStore::new(Arc::new(store_of(&base)), []);
    let report = swept(Arc::new(clean.clone()), 3).unwrap();
    assert!(report.points.len() == 3 && report.repacked > 0 && report.ended.len() == 1, "{report:?}");
    // Frames are thinned in it: without the data key something is left of them.
    assert_eq!(report.unthinned, 0);
    let later = |vault: &Vault| vault.sweep(&permit(), &at_once(), &CancelToken::new(), &mut |_| {}).unwrap();
    assert!(without_data_key(&store_of(&base), later).unthinned > 0);
    let calls = clean.calls();
    // Dying before a call, and one of the others in turn.
    let faults = |n: u64| [Fault::StopBefore(n), FAULTS[usize::try_from(n).unwrap() % FAULTS.len()](n)];
    for (n, fault) in (0..calls).flat_map(|n| faults(n).map(|fault| (n, fault))) {
        let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
        let when = format!("{fault:?} of {calls}");
        let done = swept(Arc::new(FaultyStore::new(Arc::clone(&store), [fault])), 100 + n);
        account(&store, &kept, &when);
        drop(done);
        if n % 3 == 0 {
            // The next one does not have the data key.
            let memory = store_of(&snapshot(&*store));
            without_data_key(&memory, |vault| {
                later(vault);
                later(vault)
            });
            let store: Arc<dyn ObjectStore> = Arc::new(memory);
            account(&store, &kept, &format!("{when}, and again without the data key"));
            let vault = Vault::open(Arc::clone(&store), kek(), even_later_ports(4)).unwrap();
            sweep(&vault);
            sweep(&vault);
            account_swept(&store, &kept, &format!("{when}, and again without and with the data key"));
        }
        // What the first left is abandoned by then. Packs that it had made and that are used are looked at once more by
        // the sweep after that one.
        let vault = Vault::open(Arc::clone(&store), kek(), even_later_ports(4)).unwrap();
        sweep(&vault);
        sweep(&vault);
        account_swept(&store, &kept, &format!("{when}, and again"));
    }
}

/// A store that runs `then` once, before call `at` of all that go through it; and the number of calls.
fn interrupted_at(
    store: Arc<dyn ObjectStore>,
    at: u64,
    then: impl FnOnce() + Send + 'static,
) -> (Arc<dyn ObjectStore>, Arc<AtomicU64>) {
    let (calls, then) = (Arc::new(AtomicU64::new(0)), Mutex::new(Some(then)));
    let seen = Arc::clone(&calls);
    let tapped = FaultyStore::counting_only(store, [], move |_| {
        if seen.fetch_add(1, Ordering::SeqCst) == at
            && let Some(then) = then.lock().unwrap().take()
        {
            // On a thread of its own: it waits for store calls, as the one that asks here must not.
            std::thread::scope(|scope| scope.spawn(then).join().unwrap());
        }
        true
    });
    (Arc::new(tapped), calls)
}

/// What a sweep of the vault in `store` does, by another host.
fn swept_elsewhere(store: &Arc<dyn ObjectStore>) -> impl FnOnce() + Send + 'static + use<> {
    let store = Arc::clone(store);
    move || drop(sweep(&Vault::open(store, kek(), later_ports(77)).unwrap()))
}

#[test]
fn a_sweep_at_any_moment_of_a_verification_looks_like_no_damage() {
    let (base, _, _) = much_to_do();
    for (n, depth) in (0..).step_by(3).zip([Depth::Structure, Depth::Data].into_iter().cycle()) {
        let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
        let (tapped, calls) = interrupted_at(Arc::clone(&store), n, swept_elsewhere(&store));
        let report = verify(&open(tapped, 6), depth).unwrap();
        assert!(report.is_clean(), "a sweep before call {n}: {report:?}");
        if depth == Depth::Data && calls.load(Ordering::SeqCst) <= n {
            assert!(n > 100);
            break;
        }
    }
}

#[test]
fn a_backup_at_any_moment_of_a_verification_is_no_garbage() {
    let (memory, vault, _) = vault_of(3);
    vault.forget(&permit(), &point_ref("web@3")).unwrap();
    let base = snapshot(&*memory);
    let next = versions(4).pop().unwrap();
    for n in (0..).step_by(3) {
        let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
        let (other, next) = (Arc::clone(&store), next.clone());
        let backup = move || drop(back_up(&open(other, 78), "web", &next).unwrap());
        let (tapped, calls) = interrupted_at(store, n, backup);
        let mut report = verify(&open(tapped, 6), Depth::Structure).unwrap();
        let accounting = report.accounting.take().unwrap();
        assert!(report.is_clean() && accounting.garbage.objects == 0, "before call {n}: {accounting:?}");
        if calls.load(Ordering::SeqCst) <= n {
            break;
        }
    }
}

#[test]
fn a_point_that_is_swept_while_it_is_read_is_told_as_that() {
    let (base, points, kept) = much_to_do();
    let (mut seen, mut n) = (0, 0);
    loop {
        let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
        let (tapped, calls) = interrupted_at(Arc::clone(&store), n, swept_elsewhere(&store));
        let vault = open(tapped, 6);
        for (point, expected) in &points {
            match restore(&vault, point) {
                Ok(found) => assert!(found == *expected, "{point}, a sweep before call {n}"),
                Err(RestoreError::Open(VaultError::NoSuchPoint { .. })) if !kept.contains_key(point) => {}
                Err(e) => {
                    assert!(e.is_swept() && !kept.contains_key(point), "{point} before call {n}: {e:?}");
                    seen += 1;
                }
            }
        }
        if calls.load(Ordering::SeqCst) <= n {
            break;
        }
        n += 2;
    }
    assert!(seen > 0);

    // Verified. One disk of this point is in a pack that nothing else needed.
    let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
    let point = open(Arc::clone(&store), 6).point(&point_ref("web@2")).unwrap();
    swept_elsewhere(&store)();
    let swept =
        verify_point(&permit(), &point, Depth::Data, &reading(), &restore::Silent, &CancelToken::new());
    assert!(swept.unwrap_err().is_swept());
}

/// Two days after [`later_ports`].
fn even_later_ports(seed: u64) -> vmkeep::vault::Ports {
    let later = later_ports(seed);
    let now = later.clock.now().0 + 8 * 24 * 60 * 60 * 1000;
    vmkeep::vault::Ports {
        clock: Arc::new(vmkeep::model::ManualClock::new(vmkeep::model::Timestamp(now))),
        ..later
    }
}

#[test]
fn every_mark_and_record_of_a_sweep_says_whose_it_is() {
    let (base, _, _) = much_to_do();
    // A record under another name does not open, and one that is missing in a row is missed.
    let store = Arc::new(store_of(&base));
    let vault = open(store.clone(), 6);
    let lineage = vault.point(&point_ref("web@7")).unwrap().point().id.lineage;
    vault.hold(&permit(), &point_ref("web@5")).unwrap();
    vault.release(&permit(), &point_ref("web@5")).unwrap();
    let objects = snapshot(&*store);
    for missing in [
        format!("forgets/{lineage}/5"),
        format!("forgets/{lineage}/5-2"),
        format!("retired/{lineage}/1"),
        format!("points/{lineage}/5"),
    ] {
        let path = ObjectName::parse(&missing).unwrap().path();
        let mut changed = objects.clone();
        assert!(changed.remove(&path).is_some(), "{missing}");
        let report = verify(&open(Arc::new(store_of(&changed)), 7), Depth::Data).unwrap();
        let told: Vec<&str> = report.objects.iter().map(|damage| damage.object.as_str()).collect();
        assert!(told.contains(&missing.as_str()), "{missing}: {told:?}");
    }
}
