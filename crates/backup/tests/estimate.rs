//! An estimate finds what a backup then finds, expects about what it then takes, and leaves no trace.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use vmkeep_testkit::permit;

use common::{kek, settings};
use object_store::memory::InMemory;
use vmkeep_backup::{
    Compare, DiskChange, Estimate, EstimateSettings, Event, Pages, Plan, RatioFrom, Report, Settings, Silent,
    Source, SourceDisk, estimate, run,
};
use vmkeep_blockdiff::{ChangeShape, ChangeWarning, Thresholds};
use vmkeep_disk::{BlockRead, BlockWrite, Memory};
use vmkeep_envelope::SeededEntropy;
use vmkeep_model::{
    BlockSize, ByteLen, ByteOffset, CancelToken, Clock, ConsistencyLevel, DiskDescription, DiskRole, Extent,
    ManualClock, PointNumber, Timestamp,
};
use vmkeep_testkit::{Content, Fault, FaultyStore, GeneratedDisk, RequestKind, snapshot};
use vmkeep_vault::{Ports, Vault};

const MIB: u64 = 1 << 20;
const DAY_MS: i64 = 86_400_000;

/// A vault in memory with a clock by hand.
struct Scene {
    store: InMemory,
    vault: Vault,
    clock: Arc<ManualClock>,
}

impl Scene {
    fn new() -> Self {
        let (store, clock) = (InMemory::new(), Arc::new(ManualClock::new(Timestamp(1_700_000_000_000))));
        let ports = Ports { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(1)) };
        let vault = Vault::create(Arc::new(store.clone()), kek(), ports).unwrap();
        Self { store, vault, clock }
    }

    /// Lets so many milliseconds pass.
    fn pass(&self, ms: i64) {
        self.clock.set(Timestamp(self.clock.now().0 + ms));
    }

    fn back_up(&self, disks: &[(&str, &dyn BlockRead)], settings: &Settings) -> Report {
        run(&permit(), &self.vault, &plan(disks), settings, &Silent, &CancelToken::new()).unwrap()
    }

    /// An estimate that must not change the store or the folder of fingerprints.
    fn estimate(&self, disks: &[(&str, &dyn BlockRead)], settings: &EstimateSettings) -> Estimate {
        let folder = settings.backup.pages.folder.as_deref();
        let before = (snapshot(&self.store), folder.map(files));
        let found =
            estimate(&permit(), &self.vault, &plan(disks), settings, &Silent, &CancelToken::new()).unwrap();
        assert_eq!(snapshot(&self.store), before.0);
        assert_eq!(folder.map(files), before.1);
        found
    }

    /// An estimate and then the backup, which finds the same.
    fn both(&self, disks: &[(&str, &dyn BlockRead)], settings: &EstimateSettings) -> (Estimate, Report) {
        let found = self.estimate(disks, settings);
        let report = self.back_up(disks, &settings.backup);
        assert_eq!(found.disks.len(), report.disks.len());
        for (expected, disk) in found.disks.iter().zip(&report.disks) {
            let name = &disk.description.name;
            assert_eq!(expected.description, disk.description);
            assert_eq!((expected.size, expected.change), (disk.size, disk.change), "{name}");
            let changes = &expected.changes;
            assert_eq!(changes.bytes_read, disk.bytes_read, "{name}");
            assert_eq!(changes.bytes_changed, disk.bytes_changed, "{name}");
            assert_eq!(changes.patched, disk.patched, "{name}");
            assert_eq!(changes.whole_unknown, disk.whole_unknown, "{name}");
            assert_eq!(changes.bytes_zeroed, disk.bytes_zeroed, "{name}");
            assert_eq!(changes.runs.bytes().0, changes.bytes_plain, "{name}");
        }
        assert_eq!(found.changes.bytes_changed, report.bytes_changed);
        assert_eq!(found.base, report.point.base);
        assert_eq!(found.vanished, report.vanished);
        (found, report)
    }
}

fn files(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
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

fn of(backup: Settings) -> EstimateSettings {
    EstimateSettings { backup, ..EstimateSettings::default() }
}

/// `data` bytes of content in a disk twice as large.
fn filled(data: u64, content: Content, seed: u64) -> Memory {
    let made = GeneratedDisk::new(ByteLen(data), BlockSize::default(), seed)
        .with_allocated_spread(ByteLen(data))
        .with_content(content);
    let disk = Memory::new(usize::try_from(2 * data).unwrap());
    let mut block = vec![0; BlockSize::default().bytes()];
    for allocated in made.allocated_blocks() {
        let start = BlockSize::default().start_of(allocated);
        made.read_at(start, &mut block).unwrap();
        disk.write_at(start, &block).unwrap();
    }
    disk
}

/// New content of the same kind over `len` bytes at `at`.
fn change(disk: &Memory, at: u64, len: u64, content: Content, seed: u64) {
    let made = GeneratedDisk::new(ByteLen(len.next_multiple_of(65_536)), BlockSize::default(), seed)
        .with_allocated_spread(ByteLen(len))
        .with_content(content);
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    made.read_at(ByteOffset(0), &mut bytes).unwrap();
    disk.write_at(ByteOffset(at), &bytes).unwrap();
}

fn stored(report: &Report) -> u64 {
    report.stored.data + report.stored.metadata
}

fn assert_within_15_percent(found: &Estimate, report: &Report) {
    let (expected, is) = (found.bytes_stored, stored(report));
    assert!(expected.abs_diff(is) * 100 <= is * 15, "{expected} bytes were expected and {is} stored");
}

#[test]
fn a_backup_finds_what_was_estimated() {
    for content in [Content::Incompressible, Content::Text] {
        for workers in [1, 4] {
            for (has_folder, compare) in
                [(true, Compare::Never), (false, Compare::Always), (false, Compare::Never)]
            {
                let folder = tempfile::tempdir().unwrap();
                let pages =
                    Pages { folder: has_folder.then(|| folder.path().to_owned()), limit: None, compare };
                let settings = of(Settings { workers, pages, ..settings() });
                let scene = Scene::new();
                let (one, two) = (filled(12 * MIB, content, 1), filled(4 * MIB, content, 2));
                let disks: [(&str, &dyn BlockRead); 2] = [("one", &one), ("two", &two)];

                let (first, report) = scene.both(&disks, &settings);
                assert_eq!((first.base, first.points, first.duration_ms), (None, 0, None));
                assert_eq!(first.disks[0].change, Some(DiskChange::Appeared));
                assert_eq!(first.disks[0].ratio.unwrap().from, RatioFrom::Sample);
                assert_eq!(first.warnings.len() + first.disks[0].warnings.len(), 0);
                assert_within_15_percent(&first, &report);

                // Long runs, single pages, and blocks that become zero.
                change(&one, 3 * MIB, 3 * MIB, content, 7);
                for n in 0..40 {
                    change(&one, 8 * MIB + n * 100_000, 900, content, 100 + n);
                }
                one.write_zeroes(Extent::new(ByteOffset(MIB), ByteLen(MIB))).unwrap();
                change(&two, MIB, MIB, content, 9);
                let (second, report) = scene.both(&disks, &settings);
                assert_eq!((second.base, second.points), (Some(PointNumber(1)), 1));
                let is_known = has_folder || compare == Compare::Always;
                assert_eq!(second.changes.patched.blocks > 0, is_known);
                assert_eq!(second.changes.whole_unknown > 0, has_folder && !is_known);
                assert!(second.changes.blocks_zeroed > 0);
                assert_eq!(second.disks[0].ratio.unwrap().from, RatioFrom::LastRuns);
                assert_within_15_percent(&second, &report);

                let (third, report) = scene.both(&disks, &settings);
                assert_eq!((third.changes.blocks_changed, third.bytes_stored), (0, 0));
                assert_eq!((third.disks[0].ratio, report.bytes_changed), (None, 0));
            }
        }
    }
}

#[test]
fn a_new_disk_is_told_of_and_one_that_went() {
    let scene = Scene::new();
    let (one, two) = (filled(2 * MIB, Content::Text, 1), filled(3 * MIB, Content::Text, 2));
    scene.back_up(&[("one", &one)], &settings());
    let (found, _) = scene.both(&[("two", &two)], &of(settings()));
    assert_eq!(found.vanished, ["one"]);
    assert_eq!(found.disks[0].warnings, [ChangeWarning::InitialReplication { bytes: ByteLen(3 * MIB) }]);
    // More than all that was stored before, so what it takes is measured.
    assert_eq!(found.disks[0].ratio.unwrap().from, RatioFrom::Sample);
}

#[test]
fn churn_time_and_fragmentation_come_from_the_points_and_the_thresholds() {
    let scene = Scene::new();
    let disk = filled(16 * MIB, Content::Incompressible, 1);
    let disks: [(&str, &dyn BlockRead); 1] = [("one", &disk)];
    for day in 0..20 {
        change(&disk, 0, 2 * MIB, Content::Incompressible, 50 + day);
        scene.back_up(&disks, &settings());
        scene.pass(DAY_MS);
    }
    for n in 0..64 {
        change(&disk, n * 131_072, 10, Content::Incompressible, 900 + n);
    }
    let thresholds = Thresholds {
        churn_per_day_max: ByteLen(2 * MIB),
        fragmented_bytes_min: ByteLen(MIB),
        ..Thresholds::default()
    };
    let settings = EstimateSettings { thresholds, ..of(settings()) };
    let found = scene.estimate(&disks, &settings);
    // 13 days with 2 MiB and the last with 4.
    assert_eq!(found.points, 14);
    assert_eq!(found.churn_per_day, Some(ByteLen((13 * 2 + 4) * MIB / 14)));
    assert_eq!(found.disks[0].churn_per_day, found.churn_per_day);
    assert_eq!(found.changes.runs.fragmentation(&thresholds).shape, ChangeShape::Fragmented);
    assert_eq!((found.changes.runs.runs(), found.changes.runs.bytes()), (64, ByteLen(4 * MIB)));
    assert!(matches!(found.disks[0].warnings[..], [ChangeWarning::Fragmented(_)]), "{:?}", found.disks[0]);
    assert!(matches!(found.warnings[..], [ChangeWarning::HighChurn { .. }]), "{:?}", found.warnings);
    // The clock stood still during the backups: they do not tell how fast they were.
    assert_eq!(found.duration_ms, None);
    let without = EstimateSettings { points: 0, ..settings };
    let found = scene.estimate(&disks, &without);
    assert_eq!((found.points, found.churn_per_day, found.disks[0].churn_per_day), (0, None, None));
    assert_eq!(found.disks[0].ratio.unwrap().from, RatioFrom::Sample);
}

#[test]
fn the_expected_time_is_what_reading_took() {
    let scene = Scene::new();
    let disk = filled(4 * MIB, Content::Text, 1);
    let disks: [(&str, &dyn BlockRead); 1] = [("one", &disk)];
    // A backup that takes 800 ms, by its clock.
    let slow = |event: Event<'_>| {
        if let Event::DiskDone { .. } = event {
            scene.pass(800);
        }
    };
    let report =
        run(&permit(), &scene.vault, &plan(&disks), &settings(), &slow, &CancelToken::new()).unwrap();
    assert_eq!(report.duration_ms, 800);
    let found = scene.estimate(&disks, &of(settings()));
    assert_eq!(found.duration_ms, Some(800 * found.changes.bytes_read / report.bytes_read));
}

#[test]
fn a_damaged_point_makes_it_expect_everything_anew() {
    let scene = Scene::new();
    let disk = filled(4 * MIB, Content::Incompressible, 1);
    let disks: [(&str, &dyn BlockRead); 1] = [("one", &disk)];
    scene.back_up(&disks, &settings());
    let found = scene.estimate(&disks, &of(settings()));
    assert_eq!(found.changes.blocks_changed, 0);
    // Nothing is written even where writing fails.
    let faulty = FaultyStore::counting_only(Arc::new(scene.store.clone()), [Fault::StopBefore(0)], |call| {
        call.kind() == RequestKind::Put
    });
    let ports = Ports { clock: scene.clock.clone(), entropy: Arc::new(SeededEntropy::new(2)) };
    let vault = Vault::open(Arc::new(faulty), kek(), ports).unwrap();
    estimate(&permit(), &vault, &plan(&disks), &of(settings()), &Silent, &CancelToken::new()).unwrap();
    // Metadata that is damaged is not relied on.
    for (path, bytes) in snapshot(&scene.store) {
        if path.as_ref().starts_with("packs/") && bytes[10] != 1 {
            let mut bytes = bytes.to_vec();
            bytes.iter_mut().skip(64).for_each(|byte| *byte ^= 0xff);
            futures::executor::block_on(object_store::ObjectStoreExt::put(&scene.store, &path, bytes.into()))
                .unwrap();
        }
    }
    let ports = Ports { clock: scene.clock.clone(), entropy: Arc::new(SeededEntropy::new(3)) };
    let vault = Vault::open(Arc::new(scene.store.clone()), kek(), ports).unwrap();
    let scene = Scene { vault, ..scene };
    let (found, _) = scene.both(&disks, &of(settings()));
    assert_eq!(found.disks[0].change, Some(DiskChange::Anew));
    assert_eq!(found.changes.bytes_changed, 4 * MIB);
}

#[test]
fn it_can_be_cancelled() {
    let scene = Scene::new();
    let disk = filled(8 * MIB, Content::Text, 1);
    let cancel = CancelToken::new();
    let stop = |event: Event<'_>| {
        if let Event::Progress { .. } = event {
            cancel.cancel();
        }
    };
    let outcome =
        estimate(&permit(), &scene.vault, &plan(&[("one", &disk)]), &of(settings()), &stop, &cancel);
    assert!(matches!(outcome, Err(vmkeep_backup::BackupError::Cancelled(_))), "{outcome:?}");
}
