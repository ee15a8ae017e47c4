//! Which interrupted backup is gone on from, and what becomes of it when it still runs.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::sync::{Arc, Mutex};
use vmkeep_testkit::permit;

use common::kek;
use object_store::memory::InMemory;
use vmkeep_backup::{BackupError, Event, Plan, Report, Resume, Settings, Source, SourceDisk, run};
use vmkeep_envelope::SeededEntropy;
use vmkeep_model::{
    BlockSize, ByteLen, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, ManualClock, SessionId,
    Timestamp, VmName,
};
use vmkeep_testkit::GeneratedDisk;
use vmkeep_vault::{CompressionLevel, Ports, Vault, VaultError};

const MIB: u64 = 1 << 20;
const HOUR: i64 = 60 * 60 * 1000;

fn ports(seed: u64, hours: i64) -> Ports {
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000 + hours * HOUR)));
    Ports { clock, entropy: Arc::new(SeededEntropy::new(seed)) }
}

fn new_store() -> InMemory {
    let store = InMemory::new();
    Vault::create(Arc::new(store.clone()), kek(), ports(1, 0)).unwrap();
    store
}

/// The vault on a host whose clock shows so many hours.
fn at(store: &InMemory, hours: i64) -> Vault {
    let seed = 100 + u64::try_from(hours).unwrap();
    Vault::open(Arc::new(store.clone()), kek(), ports(seed, hours)).unwrap()
}

fn vm() -> VmName {
    "vm".parse().unwrap()
}

fn disk() -> GeneratedDisk {
    GeneratedDisk::new(ByteLen(40 * MIB), BlockSize::default(), 5).with_allocated_spread(ByteLen(40 * MIB))
}

fn plan(disk: &GeneratedDisk) -> Plan<'_> {
    let description = DiskDescription { name: "os".parse().unwrap(), role: DiskRole::Os, lun: None };
    Plan {
        vm: vm(),
        disks: vec![SourceDisk { description, source: Source::Read(disk) }],
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep_model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    }
}

fn settings(resume: Resume) -> Settings {
    Settings {
        level: CompressionLevel::Fast,
        workers: 1,
        memory_bytes: Settings::MEMORY_MIN,
        resume,
        ..Settings::default()
    }
}

/// What a backup told about other backups.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    left_open: Vec<SessionId>,
    not_resumed: Vec<SessionId>,
    inherited: Vec<SessionId>,
}

fn back_up(vault: &Vault, resume: Resume) -> (Report, Told) {
    let told = Mutex::new(Told::default());
    let observer = |event: Event<'_>| {
        let mut told = told.lock().unwrap();
        match event {
            Event::LeftOpen { session } => told.left_open.push(session.id),
            Event::NotResumed { session, .. } => told.not_resumed.push(session),
            Event::Inherited { from, .. } => told.inherited.push(from),
            _ => {}
        }
    };
    let report =
        run(&permit(), vault, &plan(&disk()), &settings(resume), &observer, &CancelToken::new()).unwrap();
    (report, told.into_inner().unwrap())
}

/// A backup that is cancelled once so many bytes are on their way; its session.
fn interrupted(vault: &Vault, bytes: u64, resume: Resume) -> SessionId {
    let before: Vec<SessionId> = vault.open_sessions(&vm()).unwrap().iter().map(|open| open.id).collect();
    let cancel = CancelToken::new();
    let observer = |event: Event<'_>| {
        if matches!(event, Event::Progress { bytes_changed, .. } if bytes_changed >= bytes) {
            cancel.cancel();
        }
    };
    let outcome = run(&permit(), vault, &plan(&disk()), &settings(resume), &observer, &cancel);
    assert!(matches!(outcome, Err(BackupError::Cancelled(_))), "{outcome:?}");
    let mut open = vault.open_sessions(&vm()).unwrap();
    open.retain(|open| !before.contains(&open.id));
    assert_eq!(open.len(), 1);
    open[0].id
}

/// In hours.
const WEEK: i64 = 7 * 24;

#[test]
fn by_default_one_that_began_a_week_ago_is_gone_on_from_and_no_younger_one() {
    let store = new_store();
    let old = interrupted(&at(&store, 0), 30 * MIB, Resume::Never);
    let (report, told) = back_up(&at(&snapshot(&store), WEEK - 1), Resume::default());
    assert_eq!((report.resumed, report.bytes_adopted), (None, 0));
    assert_eq!(told, Told { left_open: vec![old], ..Told::default() });

    let (report, told) = back_up(&at(&store, WEEK), Resume::default());
    assert_eq!(report.resumed.map(|from| (from.id, from.opened)), Some((old, Timestamp(1_700_000_000_000))));
    assert!(report.bytes_adopted >= 20 * MIB, "{}", report.bytes_adopted);
    assert!(report.stored.data <= 21 * MIB, "{:?}", report.stored);
    assert_eq!(told, Told { inherited: vec![old], ..Told::default() });
    assert_eq!(at(&store, WEEK).open_sessions(&vm()).unwrap(), []);
}

#[test]
fn of_several_the_one_that_stored_the_most_or_the_newest() {
    let store = new_store();
    let most = interrupted(&at(&store, 0), 30 * MIB, Resume::Never);
    let newest = interrupted(&at(&store, 1), 20 * MIB, Resume::Never);
    // One that has stored nothing is not worth it.
    let nothing = at(&store, 2).begin(&permit(), &vm()).unwrap().id();
    let cases = [
        (Resume::default(), most, newest),
        (Resume::Newest, newest, most),
        (Resume::Session(newest), newest, most),
    ];
    for (resume, chosen, other) in cases {
        let (report, told) = back_up(&at(&snapshot(&store), WEEK + 16), resume);
        assert_eq!(report.resumed.map(|from| from.id), Some(chosen), "{resume:?}");
        assert_eq!(told.left_open, [other, nothing], "{resume:?}");
    }
    let (report, told) = back_up(&at(&store, WEEK + 16), Resume::Never);
    assert_eq!((report.resumed, told), (None, Told::default()));
}

#[test]
fn when_there_is_none_or_it_has_ended_the_backup_begins_afresh() {
    let store = new_store();
    let unknown = SessionId([3; 16]);
    let (report, told) = back_up(&at(&store, 0), Resume::Session(unknown));
    assert_eq!((report.point.id.number.0, report.resumed), (1, None));
    assert_eq!(told.not_resumed, [unknown]);
    assert_eq!(back_up(&at(&store, 1), Resume::Newest).1, Told::default());

    let ended = interrupted(&at(&store, 2), 0, Resume::Never);
    back_up(&at(&store, 3), Resume::Never);
    let (report, told) = back_up(&at(&store, 4), Resume::Session(ended));
    assert_eq!((report.point.id.number.0, told.not_resumed), (4, vec![ended]));
}

#[test]
fn an_interruption_of_what_went_on_loses_nothing_of_either() {
    let store = new_store();
    let first = interrupted(&at(&store, 0), 12 * MIB, Resume::Never);
    let second = interrupted(&at(&store, 1), 28 * MIB, Resume::Session(first));
    let (report, told) = back_up(&at(&store, 2), Resume::Newest);
    assert_eq!(told.inherited, [second]);
    assert!(report.bytes_adopted >= 23 * MIB, "{}", report.bytes_adopted);
}

#[test]
fn a_writer_that_comes_back_after_another_went_on_from_it_is_told() {
    let store = new_store();
    let (vault, other) = (at(&store, 0), at(&store, 1));
    let successor = Mutex::new(None);
    let observer = |event: Event<'_>| {
        let mut successor = successor.lock().unwrap();
        if matches!(event, Event::Progress { bytes_changed, .. } if bytes_changed >= 25 * MIB)
            && successor.is_none()
        {
            *successor = Some(back_up(&other, Resume::Newest));
        }
    };
    let error =
        run(&permit(), &vault, &plan(&disk()), &settings(Resume::Never), &observer, &CancelToken::new())
            .unwrap_err();
    let (report, told) = successor.into_inner().unwrap().unwrap();
    let from = report.resumed.unwrap();
    assert!(report.bytes_adopted >= 8 * MIB && told.inherited == [from.id]);
    assert!(
        matches!(&error, BackupError::Commit(VaultError::SessionVoided { session, .. }) if *session == from.id),
        "{error:?}"
    );
    // The point that was made is whole: a backup after it finds nothing changed.
    let (after, _) = back_up(&at(&store, 2), Resume::Never);
    assert_eq!((after.point.base.map(|base| base.0), after.bytes_changed), (Some(2), 0));
}

/// A store of its own with the same objects.
fn snapshot(store: &InMemory) -> InMemory {
    vmkeep_testkit::store_of(&vmkeep_testkit::snapshot(store))
}
