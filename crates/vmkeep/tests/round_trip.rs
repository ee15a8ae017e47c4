//! `restore(backup(disk)) == disk`, for any history of any disks of a VM, at every point of it.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::sync::Arc;
use vmkeep::model::op;
use vmkeep_testkit::permit;

use common::*;
use proptest::prelude::*;
use vmkeep::backup::{self, DiskChange, Report};
use vmkeep::disk::conformance;
use vmkeep::model::{BlockSize, ByteLen};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::restore::RecoveredDisk;
use vmkeep::vault::{BlockChange, CompressionLevel, Vault};
use vmkeep_testkit::{DiskHistory, disk_history};

/// A VM through time and how it is backed up.
#[derive(Debug)]
struct Case {
    os: DiskHistory,
    data: DiskHistory,
    /// At which versions the data disk is there, as bits.
    present: u8,
    settings: backup::Settings,
}

fn case() -> impl Strategy<Value = Case> {
    let level =
        prop::sample::select(vec![CompressionLevel::Fast, CompressionLevel::Default, CompressionLevel::Best]);
    let block_size = prop::sample::select(vec![16_u64 << 10, 64 << 10]);
    (disk_history(), disk_history(), any::<u8>(), 1_usize..=3, level, block_size).prop_map(
        |(os, data, present, workers, level, block_size)| Case {
            os,
            data,
            present,
            settings: backup::Settings {
                workers,
                level,
                block_size: BlockSize::try_from(block_size).unwrap(),
                ..inline()
            },
        },
    )
}

impl Case {
    /// What the VM's disks hold at each point.
    fn points(&self) -> Vec<Disks> {
        let at = |n: usize| {
            let mut disks = disks([("os", self.os.versions[n].clone())]);
            if self.present >> n & 1 == 1 {
                let version = self.data.versions.get(n).or(self.data.versions.last()).unwrap();
                disks.insert("data".to_owned(), version.clone());
            }
            disks
        };
        (0..self.os.versions.len()).map(at).collect()
    }
}

/// What the report must say of a disk, from its sizes before and now.
fn change(before: Option<&Vec<u8>>, now: &[u8]) -> DiskChange {
    let Some(before) = before else { return DiskChange::Appeared };
    let from = ByteLen(before.len() as u64);
    match before.len().cmp(&now.len()) {
        std::cmp::Ordering::Less => DiskChange::Grew { from },
        std::cmp::Ordering::Equal => DiskChange::SameSize,
        std::cmp::Ordering::Greater => DiskChange::Shrank { from },
    }
}

/// Block `number` of a disk, zeros past its end.
fn padded(disk: &[u8], number: usize, size: usize) -> Vec<u8> {
    let start = (number * size).min(disk.len());
    let mut block = disk[start..(start + size).min(disk.len())].to_vec();
    block.resize(size, 0);
    block
}

fn check_report(report: &Report, before: Option<&Disks>, now: &Disks) {
    for disk in &report.disks {
        let name = disk.description.name.as_str();
        let was = before.and_then(|before| before.get(name));
        assert_eq!(disk.change, Some(change(was, &now[name])), "{name}");
        assert_eq!(disk.size, ByteLen(now[name].len() as u64));
    }
    let gone = before.into_iter().flatten().map(|(name, _)| name).filter(|name| !now.contains_key(*name));
    assert_eq!(report.vanished.iter().collect::<Vec<_>>(), gone.collect::<Vec<_>>());
}

/// The blocks that the vault says differ, with what became of them, and those that do.
fn check_difference(vault: &Vault, disk: &str, size: usize, points: &[Disks], from: usize, to: usize) {
    let reader = |n: usize| {
        let point = vault.point(&point_ref(&format!("web@{}", n + 1))).unwrap();
        point.disk(&permit::<op::Restore>(), &disk.parse().unwrap()).unwrap()
    };
    let told: Vec<(u64, BlockChange)> = reader(from)
        .differences(&reader(to), &vmkeep::model::CancelToken::new())
        .unwrap()
        .into_iter()
        .flat_map(|(run, change)| (run.start.0..run.end().0).map(move |block| (block, change)))
        .collect();
    let (before, after) = (&points[from][disk], &points[to][disk]);
    let blocks = before.len().max(after.len()).div_ceil(size);
    let zero = vec![0; size];
    let expected = (0..blocks).filter_map(|number| {
        let (a, b) = (padded(before, number, size), padded(after, number, size));
        let change = match (a == zero, b == zero) {
            _ if a == b => return None,
            (true, _) => BlockChange::Appeared,
            (_, true) => BlockChange::Vanished,
            _ => BlockChange::Replaced,
        };
        Some((number as u64, change))
    });
    assert!(told.iter().copied().eq(expected), "{disk} from point {} to {}", from + 1, to + 1);
}

fn check(case: &Case, store: Arc<dyn ObjectStore>) {
    let vault = create(Arc::clone(&store), 1);
    let points = case.points();
    for (n, now) in points.iter().enumerate() {
        let report = back_up_with(&vault, "web", now, &case.settings).unwrap();
        check_report(&report, n.checked_sub(1).map(|before| &points[before]), now);
    }
    let vault = open(store, 2);
    assert_vault_clean(&vault, "after all backups");
    let size = case.settings.block_size.bytes();
    for (n, expected) in points.iter().enumerate() {
        assert_restores(&vault, &format!("web@{}", n + 1), expected, "after all backups");
        for from in 0..n {
            for disk in expected.keys().filter(|disk| points[from].contains_key(*disk)) {
                check_difference(&vault, disk, size, &points, from, n);
                check_difference(&vault, disk, size, &points, n, from);
            }
        }
    }
    let forgotten = usize::from(case.present) % points.len();
    vault.forget(&permit(), &point_ref(&format!("web@{}", forgotten + 1))).unwrap();
    for (n, expected) in points.iter().enumerate() {
        assert_restores(&vault, &format!("web@{}", n + 1), expected, "after a forget");
    }
    let latest = (0..points.len()).rev().find(|n| *n != forgotten);
    match latest {
        Some(n) => assert_restores(&vault, "web@latest", &points[n], "after a forget"),
        None => assert!(vault.point(&point_ref("web@latest")).is_err()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_point_of_any_history_restores_to_what_the_disks_were(case in case()) {
        check(&case, Arc::new(InMemory::new()));
    }
}

proptest! {
    // Few: a folder syncs.
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn so_it_is_over_every_kind_of_store(case in case()) {
        for_each_store(|store| check(&case, store));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_recovered_disk_is_a_disk_like_any_other(history in disk_history(), workers in 1_usize..=2) {
        let vault = create(Arc::new(InMemory::new()), 1);
        for version in &history.versions {
            let disks = disks([("os", version.clone())]);
            back_up_with(&vault, "web", &disks, &backup::Settings { workers, ..inline() }).unwrap();
        }
        let point = vault.point(&point_ref("web@latest")).unwrap();
        let disk = RecoveredDisk::new(point.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap());
        conformance::reads(&disk, history.versions.last().unwrap());
    }
}
