//! A backup that was interrupted is not lost work: its successor uses the packs it had finished.
//!
//! What comes back is read with `DiskReader::fetch`, which gives no block whose hash is not the one its point names,
//! and compared with the disk byte for byte.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use vmkeep_model::op;
use vmkeep_testkit::permit;

use common::{kek, ports};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use vmkeep_backup::{BackupError, Event, Plan, Report, Resume, Settings, Silent, Source, SourceDisk, run};
use vmkeep_disk::{BlockRead, Memory};
use vmkeep_model::{
    BlockIndex, BlockSize, ByteLen, ByteOffset, CancelToken, ConsistencyLevel, DiskDescription, DiskRole,
    SessionId,
};
use vmkeep_testkit::{CountingStore, Fault, FaultyStore, GeneratedDisk, RequestKind, snapshot, store_of};
use vmkeep_vault::{CompressionLevel, ObjectName, Vault};

const MIB: u64 = 1 << 20;

/// Packs of 8 MiB.
fn settings() -> Settings {
    Settings {
        level: CompressionLevel::Fast,
        workers: 1,
        memory_bytes: Settings::MEMORY_MIN,
        ..Settings::default()
    }
}

fn plan<'a>(disks: &[(&str, &'a dyn BlockRead)]) -> Plan<'a> {
    let disk = |(name, disk): &(&str, &'a dyn BlockRead)| SourceDisk {
        description: DiskDescription { name: name.parse().unwrap(), role: DiskRole::Data, lun: None },
        source: Source::Read(*disk),
    };
    Plan {
        vm: "vm".parse().unwrap(),
        disks: disks.iter().map(disk).collect(),
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep_model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    }
}

fn new_store() -> InMemory {
    let store = InMemory::new();
    Vault::create(Arc::new(store.clone()), kek(), ports(1)).unwrap();
    store
}

fn open(store: impl ObjectStore, seed: u64) -> Vault {
    Vault::open(Arc::new(store), kek(), ports(seed)).unwrap()
}

/// Sessions that are open, and those that left packs.
fn sessions(store: &InMemory) -> BTreeSet<SessionId> {
    let open = |path: &Path| match ObjectName::parse(path.as_ref()) {
        Some(ObjectName::Session(session)) => Some(session),
        _ => None,
    };
    snapshot(store).keys().filter_map(open).collect()
}

/// The data packs of `session`, with their sizes.
fn data_packs(store: &InMemory, session: SessionId) -> Vec<(Path, u64)> {
    let mut found = Vec::new();
    for (path, bytes) in snapshot(store) {
        // Their eleventh byte says what they hold (FORMAT.md section 5).
        if let Some(ObjectName::Pack(_, owner, _)) = ObjectName::parse(path.as_ref())
            && owner == session
            && bytes[10] == 1
        {
            found.push((path, bytes.len() as u64));
        }
    }
    found
}

/// A backup whose store stops taking packs after `puts` of them; gives the session it leaves.
fn interrupted(
    store: &InMemory,
    disks: &[(&str, &dyn BlockRead)],
    settings: &Settings,
    puts: u64,
    from: Resume,
) -> SessionId {
    let before = sessions(store);
    let faulty = FaultyStore::counting_only(Arc::new(store.clone()), [Fault::StopBefore(puts)], |call| {
        call.kind() == RequestKind::Put && call.path.as_ref().starts_with("packs/")
    });
    let vault = open(faulty, 10 + before.len() as u64);
    let settings = Settings { resume: from, ..settings.clone() };
    let outcome = run(&permit(), &vault, &plan(disks), &settings, &Silent, &CancelToken::new());
    assert!(matches!(outcome, Err(BackupError::Store(_) | BackupError::Commit(_))), "{outcome:?}");
    let left: Vec<SessionId> = sessions(store).difference(&before).copied().collect();
    assert_eq!(left.len(), 1);
    left[0]
}

/// What the successor did: its report, data packs found and skipped, bytes and puts of packs.
struct Resumed {
    vault: Vault,
    report: Report,
    found: (u64, u64),
    bytes: u64,
}

fn resume(
    store: &InMemory,
    disks: &[(&str, &dyn BlockRead)],
    settings: &Settings,
    from: SessionId,
) -> Resumed {
    let counting = CountingStore::new(Arc::new(store.clone()));
    let vault = open(counting.clone(), 99);
    let found = Mutex::new((0, 0));
    let observer = |event: Event<'_>| {
        if let Event::Inherited { from: told, packs, skipped } = event {
            assert_eq!(told, from);
            *found.lock().unwrap() = (packs, skipped);
        }
    };
    let settings = Settings { resume: Resume::Session(from), ..settings.clone() };
    let report = run(&permit(), &vault, &plan(disks), &settings, &observer, &CancelToken::new()).unwrap();
    assert_eq!(report.resumed.map(|session| session.id), Some(from));
    let bytes = counting.counts_under("packs").bytes_written;
    assert_eq!(report.stored.data + report.stored.metadata, counting.counts().bytes_written);
    Resumed { vault, report, found: found.into_inner().unwrap(), bytes }
}

/// The newest point holds `disk` under `name`, byte for byte.
fn assert_holds(vault: &Vault, name: &str, disk: &dyn BlockRead) {
    let stored = vault
        .point(&"vm@latest".parse().unwrap())
        .unwrap()
        .disk(&permit::<op::Restore>(), &name.parse().unwrap())
        .unwrap();
    assert_eq!(stored.size(), disk.len());
    let entries: Vec<_> = stored.entries(BlockIndex(0)).unwrap().map(Result::unwrap).collect();
    let len = usize::try_from(disk.len().0).unwrap();
    let size = stored.block_size().bytes();
    let mut found = vec![0; len.next_multiple_of(size)];
    let mut sink = |block: BlockIndex, bytes: Result<&[u8], _>| {
        let start = usize::try_from(block.0).unwrap() * size;
        let bytes: Result<&[u8], Arc<vmkeep_vault::VaultError>> = bytes;
        found[start..start + size].copy_from_slice(bytes.unwrap());
        Ok(())
    };
    for some in entries.chunks(64) {
        stored.fetch(some, &mut sink).unwrap();
    }
    let mut expected = vec![0; len];
    disk.read_at(ByteOffset(0), &mut expected).unwrap();
    assert!(found[..len] == expected, "{name} holds other bytes");
}

fn noise(len: u64) -> GeneratedDisk {
    GeneratedDisk::new(ByteLen(len), BlockSize::default(), 5).with_allocated_spread(ByteLen(len))
}

#[test]
fn a_first_full_goes_on_where_it_was_interrupted() {
    let (store, disk) = (new_store(), noise(128 * MIB));
    // Ten of sixteen packs.
    let first = interrupted(&store, &[("os", &disk)], &settings(), 10, Resume::Never);
    let left = data_packs(&store, first);
    let resumed = resume(&store, &[("os", &disk)], &settings(), first);
    assert_eq!((resumed.found, left.len()), ((10, 0), 10));
    assert_eq!((resumed.report.bytes_changed, resumed.report.disks[0].bytes_changed), (128 * MIB, 128 * MIB));
    assert_eq!(resumed.report.bytes_adopted, resumed.report.disks[0].bytes_adopted);
    let missing = 128 * MIB - resumed.report.bytes_adopted;
    assert!(missing <= 50 * MIB, "{missing} bytes are stored again");
    assert!(resumed.bytes <= missing + missing / 50 + MIB, "{} bytes for {missing}", resumed.bytes);
    assert_holds(&resumed.vault, "os", &disk);
    // The next one is an increment like any other, by a handle that has cached nothing.
    let vault = open(store.clone(), 100);
    let report =
        run(&permit(), &vault, &plan(&[("os", &disk)]), &settings(), &Silent, &CancelToken::new()).unwrap();
    assert_eq!((report.bytes_changed, report.bytes_adopted, report.stored.data), (0, 0, 0));
}

#[test]
fn a_cancelled_backup_is_gone_on_from_as_well() {
    let (store, disk) = (new_store(), noise(64 * MIB));
    let cancel = CancelToken::new();
    let observer = |event: Event<'_>| {
        if matches!(event, Event::Progress { bytes_changed, .. } if bytes_changed >= 40 * MIB) {
            cancel.cancel();
        }
    };
    let vault = open(store.clone(), 2);
    let outcome = run(&permit(), &vault, &plan(&[("os", &disk)]), &settings(), &observer, &cancel);
    assert!(matches!(outcome, Err(BackupError::Cancelled(_))));
    // What was on its way when it was cancelled may still land.
    drop(vault);
    let first = sessions(&store).pop_first().unwrap();
    let resumed = resume(&store, &[("os", &disk)], &settings(), first);
    assert!(resumed.report.bytes_adopted >= 23 * MIB, "{}", resumed.report.bytes_adopted);
    assert_holds(&resumed.vault, "os", &disk);
}

#[test]
fn what_changed_meanwhile_is_stored_as_it_is_now() {
    let (store, mut disk) = (new_store(), noise(64 * MIB));
    let first = interrupted(&store, &[("os", &disk)], &settings(), 5, Resume::Never);
    let before = resume(&store_of(&snapshot(&store)), &[("os", &disk)], &settings(), first);
    disk.change((0..600).step_by(7));
    let resumed = resume(&store, &[("os", &disk)], &settings(), first);
    let changed_there = (0..600.min(before.report.bytes_adopted >> 16)).step_by(7).count() as u64;
    assert_eq!(resumed.report.bytes_adopted, before.report.bytes_adopted - (changed_there << 16));
    assert_holds(&resumed.vault, "os", &disk);
}

#[test]
fn a_pack_with_a_damaged_footer_is_passed_over() {
    let (store, disk) = (new_store(), noise(64 * MIB));
    let first = interrupted(&store, &[("os", &disk)], &settings(), 5, Resume::Never);
    let left = data_packs(&store, first);
    let mut objects = snapshot(&store);
    let footer = objects.get_mut(&left[2].0).unwrap();
    let mut damaged = footer.to_vec();
    let at = damaged.len() - 40;
    damaged[at] ^= 1;
    *footer = damaged.into();
    let resumed = resume(&store_of(&objects), &[("os", &disk)], &settings(), first);
    assert_eq!(resumed.found, (4, 1));
    let adopted = resumed.report.bytes_adopted;
    assert!((28 * MIB..36 * MIB).contains(&adopted), "{adopted}");
    assert_holds(&resumed.vault, "os", &disk);
}

#[test]
fn another_disk_or_block_size_is_not_matched() {
    let (store, disk) = (new_store(), noise(32 * MIB));
    let first = interrupted(&store, &[("os", &disk)], &settings(), 3, Resume::Never);
    let renamed = resume(&store_of(&snapshot(&store)), &[("data", &disk)], &settings(), first);
    assert_eq!((renamed.found.0, renamed.report.bytes_adopted), (3, 0));
    assert_holds(&renamed.vault, "data", &disk);
    let smaller = Settings { block_size: BlockSize::MIN, ..settings() };
    let smaller = resume(&store, &[("os", &disk)], &smaller, first);
    assert_eq!((smaller.found.0, smaller.report.bytes_adopted), (3, 0));
    assert_holds(&smaller.vault, "os", &disk);
}

#[test]
fn two_interruptions_add_up() {
    let (store, mut disk) = (new_store(), noise(96 * MIB));
    let first = interrupted(&store, &[("os", &disk)], &settings(), 4, Resume::Never);
    // What the second stores anew of the first's part, the third finds with the second.
    disk.change(100..140);
    let second = interrupted(&store, &[("os", &disk)], &settings(), 4, Resume::Session(first));
    let resumed = resume(&store, &[("os", &disk)], &settings(), second);
    assert_eq!(resumed.found, (8, 0));
    let missing = 96 * MIB - resumed.report.bytes_adopted;
    assert!(missing <= 36 * MIB, "{missing} bytes are stored again");
    assert!(resumed.bytes <= missing + missing / 50 + MIB, "{} bytes for {missing}", resumed.bytes);
    assert_holds(&resumed.vault, "os", &disk);
}

/// Disks of a few MiB in blocks of 16 KiB with holes, and what becomes of some blocks before the second run.
#[derive(Clone, Debug)]
struct Case {
    base: bool,
    lens: Vec<usize>,
    puts: u64,
    edits: Vec<(usize, prop::sample::Index, u8)>,
    workers: usize,
}

const BLOCK: usize = 16 << 10;

fn case() -> impl Strategy<Value = Case> {
    let lens = prop::collection::vec(1_usize..5 << 20, 4);
    let edits = prop::collection::vec((0_usize..4, any::<prop::sample::Index>(), 0_u8..4), 0..40);
    (any::<bool>(), lens, 0_u64..14, edits, 1_usize..4).prop_map(|(base, lens, puts, edits, workers)| Case {
        base,
        lens,
        puts,
        edits,
        workers,
    })
}

fn content(seed: u64, len: usize) -> Vec<u8> {
    let disk = GeneratedDisk::new(ByteLen(len as u64), BlockSize::MIN, seed);
    let disk = disk.with_allocated_spread(ByteLen(len as u64 / 10 * 9));
    let mut bytes = vec![0; len];
    disk.read_at(ByteOffset(0), &mut bytes).unwrap();
    bytes
}

fn memory(disks: &[Vec<u8>]) -> Vec<Memory> {
    disks.iter().map(|bytes| Memory::from(bytes.clone())).collect()
}

fn named(disks: &[Memory]) -> Vec<(&str, &dyn BlockRead)> {
    ["a", "b", "c", "d"].into_iter().zip(disks.iter().map(|disk| disk as &dyn BlockRead)).collect()
}

/// Blocks that hold data and differ from those of `before`.
fn changed(before: &[Vec<u8>], now: &[Vec<u8>]) -> u64 {
    let differing = |(before, now): (&Vec<u8>, &Vec<u8>)| {
        let mut before = before.chunks(BLOCK).chain(std::iter::repeat(&[][..]));
        let new = |now: &&[u8]| before.next() != Some(now) && now.iter().any(|&byte| byte != 0);
        now.chunks(BLOCK).filter(new).count() as u64
    };
    before.iter().zip(now).map(differing).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn wherever_it_stops_and_whatever_changes_the_next_holds_the_disks_as_they_are(case in case()) {
        let settings = Settings { block_size: BlockSize::MIN, workers: case.workers, ..settings() };
        let store = new_store();
        let nothing = vec![Vec::new(); 4];
        let mut now: Vec<Vec<u8>> = (7..).zip(&case.lens).map(|(seed, &len)| content(seed, len)).collect();
        let base = if case.base {
            let disks = memory(&now);
            run(&permit(), &open(store.clone(), 3), &plan(&named(&disks)), &settings, &Silent, &CancelToken::new()).unwrap();
            let base = now.clone();
            now = (70..).zip(&case.lens).map(|(seed, &len)| content(seed, len)).collect();
            base
        } else {
            nothing
        };
        let known = sessions(&store);
        let first = {
            let disks = memory(&now);
            interrupted(&store, &named(&disks), &settings, case.puts, Resume::Never)
        };
        prop_assert!(!known.contains(&first));
        for (disk, at, what) in &case.edits {
            let disk = &mut now[*disk];
            let block = at.index(disk.len().div_ceil(BLOCK)) * BLOCK;
            let end = (block + BLOCK).min(disk.len());
            match what {
                0 => disk[block..end].fill(0),
                1 => disk.truncate(disk.len().saturating_sub(BLOCK).max(1)),
                what => disk[block..end].fill(*what),
            }
        }
        let disks = memory(&now);
        let left: u64 = data_packs(&store, first).iter().map(|(_, size)| size).sum();
        let packs = data_packs(&store, first).len() as u64;
        let Resumed { vault, report, found, .. } = resume(&store, &named(&disks), &settings, first);
        prop_assert_eq!(found, (packs, 0));

        let block = BLOCK as u64;
        prop_assert_eq!(report.bytes_changed, changed(&base, &now) * block);
        prop_assert!(report.bytes_adopted <= left + 4 * block);
        // A block of noise takes its own length and a few bytes, a tail less; those that were edited are in vain.
        prop_assert!(left <= report.bytes_adopted + report.bytes_adopted / 50 + (case.edits.len() as u64 + 1) * 2 * block);
        let uploaded = report.bytes_changed - report.bytes_adopted;
        prop_assert!(report.stored.data <= uploaded + uploaded / 50 + 8 * block);
        prop_assert!(report.stored.data + (case.edits.len() as u64 + 4) * block >= uploaded);
        for (name, disk) in named(&disks) {
            assert_holds(&vault, name, disk);
        }
    }
}
