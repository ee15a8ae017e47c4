//! Change tracking is used, and never trusted blindly.
//!
//! A point made from a tracker's hints equals one made by a full scan, whatever the tracker reports too much. One that
//! reports too little is found by the audit with the probability that is stated, and then the disk is scanned at once,
//! inside the same point, and the points that may be wrong are marked.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use vmkeep_testkit::permit;

use common::*;
use proptest::prelude::*;
use vmkeep::backup::{self, Audit, Changes, Compare, Event, Pages, Plan, Report, Rounds, Source, SourceDisk};
use vmkeep::blockdiff::{
    AuditRate, ChangeSource, ChangeSourceError, DirtyBitmap, ExtentList, detection_probability,
};
use vmkeep::disk::Memory;
use vmkeep::model::{
    BlockIndex, ByteLen, ByteOffset, CancelToken, ChangeMethod, ChangeProvenance, ConsistencyLevel, Extent,
    ExtentSet, PAGE_SIZE, PointNumber, StoredDisk,
};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::Vault;
use vmkeep_testkit::snapshot;

fn settings(rate: AuditRate, rounds: Rounds) -> backup::Settings {
    let pages = Pages { compare: Compare::Never, ..Pages::default() };
    backup::Settings { audit: Audit { rate, rounds }, pages, ..inline() }
}

/// No audit at all.
fn trusting() -> backup::Settings {
    settings(AuditRate::None, Rounds::Off)
}

/// What was heard of a backup.
#[derive(Debug, Default)]
struct Heard {
    missed: Vec<(u64, Option<(PointNumber, PointNumber)>)>,
    scanned: Vec<String>,
}

fn back_up_tracked(
    vault: &Vault,
    os: &[u8],
    changes: Option<Changes<'_>>,
    settings: &backup::Settings,
) -> (Report, Heard) {
    let (memory, heard) = (Memory::from(os.to_vec()), Mutex::new(Heard::default()));
    let observer = |event: Event<'_>| {
        let mut heard = heard.lock().unwrap();
        match event {
            Event::TrackingMissed { block, suspect, .. } => heard.missed.push((block.0, suspect)),
            Event::ScannedInstead { why, .. } => heard.scanned.push(why.to_owned()),
            _ => {}
        }
    };
    let source = match changes {
        None => Source::Read(&memory),
        Some(changes) => Source::Tracked(&memory, changes),
    };
    let plan = Plan {
        vm: vm("web"),
        disks: vec![SourceDisk { description: description("os"), source }],
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep::model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    };
    let report = backup::run(&permit(), vault, &plan, settings, &observer, &CancelToken::new()).unwrap();
    (report, heard.into_inner().unwrap())
}

fn known(by: &dyn ChangeSource) -> Changes<'_> {
    Changes::Known { by, since: None }
}

fn stored(report: &Report) -> &StoredDisk {
    report.point.disks[0].stored.as_ref().unwrap()
}

fn list(len: usize, extents: impl IntoIterator<Item = (usize, usize)>) -> ExtentList {
    let len = ByteLen(len as u64);
    let extents: ExtentSet = extents
        .into_iter()
        .map(|(start, extent_len)| Extent::new(ByteOffset(start as u64), ByteLen(extent_len as u64)))
        .collect();
    ExtentList::new(extents, len).unwrap()
}

/// A vault whose newest point holds `disk`.
fn vault_with(disk: &[u8], seed: u64) -> Vault {
    let vault = create(Arc::new(InMemory::new()), seed);
    back_up_tracked(&vault, disk, None, &trusting());
    vault
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_point_from_hints_equals_that_of_a_full_scan(
        rounds in prop::collection::vec(
            (prop::collection::vec((0_usize..40 * BLOCK, 1_usize..30_000, 0_u8..4), 0..6), prop::collection::vec((0_usize..40 * BLOCK, 1_usize..60_000), 0..3)),
            1..5
        ),
        granularity in 9_u32..18,
        by_bitmap: bool,
        workers in 1_usize..3,
    ) {
        let len = 40 * BLOCK - 700;
        let mut disk = noise(3, len);
        let tracked = vault_with(&disk, 1);
        let scanned = vault_with(&disk, 1);
        let settings = backup::Settings { workers, memory_bytes: 64 << 20, ..settings(AuditRate::Fraction(0.3), Rounds::Runs(NonZeroU32::new(3).unwrap())) };
        for (number, (writes, extra)) in (2_u64..).zip(&rounds) {
            let mut told = Vec::new();
            for &(start, extent, content) in writes {
                let (start, end) = (start.min(len - 1), (start + extent).min(len));
                let bytes = if content == 0 { vec![0; end - start] } else { noise(u64::from(content), end - start) };
                disk[start..end].copy_from_slice(&bytes);
                told.push((start, end - start));
            }
            // A source may say too much.
            told.extend(extra.iter().map(|&(start, extent)| (start.min(len - 1), extent.min(len - start.min(len - 1)))));
            let extents = list(len, told.clone());
            let mut bitmap = DirtyBitmap::new(ByteLen(len as u64), ByteLen(1 << granularity)).unwrap();
            for &(start, extent) in &told {
                bitmap.mark(Extent::new(ByteOffset(start as u64), ByteLen(extent as u64)));
            }
            let by: &dyn ChangeSource = if by_bitmap { &bitmap } else { &extents };
            let (report, heard) = back_up_tracked(&tracked, &disk, Some(known(by)), &settings);
            prop_assert!(heard.missed.is_empty() && heard.scanned.is_empty(), "{heard:?}");
            let (full, _) = back_up_tracked(&scanned, &disk, None, &settings);
            prop_assert_eq!(stored(&report).content, stored(&full).content);
            prop_assert_eq!((stored(&report).changed, stored(&report).zeroed), (stored(&full).changed, stored(&full).zeroed));
            prop_assert_eq!((stored(&report).provenance, stored(&full).provenance), (ChangeProvenance::Tracked, ChangeProvenance::Scan));
            assert_point_whole(&tracked, &format!("web@{number}"), &disks([("os", disk.clone())]), "after the backup");
        }
        assert_vault_clean(&tracked, "at the end");
    }
}

#[test]
fn nothing_changed_reads_the_audit_and_stores_no_data() {
    let disk = noise(3, 400 * BLOCK);
    let store = InMemory::new();
    let vault = create(Arc::new(store.clone()), 1);
    back_up_tracked(&vault, &disk, None, &trusting());
    let nothing = list(disk.len(), []);
    let (report, _) = back_up_tracked(&vault, &disk, Some(known(&nothing)), &trusting());
    assert_eq!((report.bytes_read, report.bytes_changed, report.stored.data), (0, 0, 0));
    let some = settings(AuditRate::Fraction(0.1), Rounds::Off);
    let (report, _) = back_up_tracked(&vault, &disk, Some(known(&nothing)), &some);
    assert_eq!((report.bytes_read, report.stored.data), (40 * BLOCK as u64, 0));
    let tracking = stored(&report).tracking.unwrap();
    assert_eq!(
        (tracking.method, tracking.audited, tracking.whole_at),
        (ChangeMethod::ExtentList, 40, PointNumber(1))
    );
    assert!(snapshot(&store).len() < 30);
}

#[test]
fn pages_that_a_tracker_tells_apart_are_all_that_is_stored() {
    let mut disk = noise(3, 40 * BLOCK);
    let vault = vault_with(&disk, 1);
    disk[10 * BLOCK + PAGE_SIZE + 5] ^= 1;
    let mut bitmap = DirtyBitmap::new(ByteLen(disk.len() as u64), ByteLen(4096)).unwrap();
    bitmap.mark(Extent::new(ByteOffset((10 * BLOCK + PAGE_SIZE) as u64), ByteLen(512)));
    let (report, _) = back_up_tracked(&vault, &disk, Some(known(&bitmap)), &trusting());
    let of = &report.disks[0];
    assert_eq!((of.patched.blocks, of.patched.pages, of.whole_unknown), (1, 1, 0));
    assert!(report.stored.data < 4096 + 512);
    assert_eq!((stored(&report).patched_blocks, stored(&report).patched_pages), (1, 1));
    assert_point_whole(&vault, "web@2", &disks([("os", disk)]), "after the backup");
}

#[test]
fn a_tracker_that_names_too_few_pages_of_a_block_is_found_and_the_disk_scanned() {
    let mut disk = noise(3, 40 * BLOCK);
    let vault = vault_with(&disk, 1);
    disk[10 * BLOCK + PAGE_SIZE] ^= 1;
    disk[10 * BLOCK + 3 * PAGE_SIZE] ^= 1;
    let mut bitmap = DirtyBitmap::new(ByteLen(disk.len() as u64), ByteLen(4096)).unwrap();
    bitmap.mark(Extent::new(ByteOffset((10 * BLOCK + PAGE_SIZE) as u64), ByteLen(512)));
    let (report, heard) = back_up_tracked(&vault, &disk, Some(known(&bitmap)), &trusting());
    // Point 1 was read as a whole: nothing before is in doubt.
    assert_eq!(heard.missed, [(10, None)]);
    assert_eq!(stored(&report).provenance, ChangeProvenance::Scan);
    assert_point_whole(&vault, "web@2", &disks([("os", disk)]), "after the backup");
}

#[test]
fn a_missed_change_is_in_the_point_and_the_points_in_doubt_are_marked() {
    let mut disk = noise(3, 40 * BLOCK);
    let vault = vault_with(&disk, 1);
    let nothing = list(disk.len(), []);
    let whole_disk = settings(AuditRate::None, Rounds::Runs(NonZeroU32::MIN));
    // Two points that rest on the tracker alone, the second of which is wrong.
    back_up_tracked(&vault, &disk, Some(known(&nothing)), &trusting());
    disk[7 * BLOCK] ^= 1;
    back_up_tracked(&vault, &disk, Some(known(&nothing)), &trusting());
    assert!(vault.suspects(&vm("web")).unwrap().is_empty());
    let (report, heard) = back_up_tracked(&vault, &disk, Some(known(&nothing)), &whole_disk);
    assert_eq!(heard.missed, [(7, Some((PointNumber(2), PointNumber(3))))]);
    assert_eq!(heard.scanned.len(), 1);
    let record = stored(&report);
    assert_eq!(record.provenance, ChangeProvenance::Scan);
    assert!(record.tracking.is_none() && record.fallback.as_ref().unwrap().contains("block 7"));
    assert_point_whole(&vault, "web@4", &disks([("os", disk.clone())]), "after the scan");
    let suspects = vault.suspects(&vm("web")).unwrap();
    assert_eq!(suspects.len(), 1);
    let suspect = &suspects[0];
    assert_eq!((suspect.disk.as_str(), suspect.block, suspect.found), ("os", BlockIndex(7), PointNumber(4)));
    let marked: Vec<u64> = (1..=5).filter(|n| suspect.holds(PointNumber(*n))).collect();
    assert_eq!(marked, [2, 3]);
    // What comes next rests on the scan.
    let (report, heard) = back_up_tracked(&vault, &disk, Some(known(&nothing)), &whole_disk);
    assert!(heard.missed.is_empty());
    assert_eq!(stored(&report).tracking.unwrap().whole_at, PointNumber(4));
    assert_vault_clean(&vault, "at the end");
}

#[test]
fn windows_go_round_the_disk_and_what_they_prove_is_in_the_point() {
    let disk = noise(3, 200 * BLOCK);
    let vault = vault_with(&disk, 1);
    let nothing = list(disk.len(), []);
    let windows = settings(AuditRate::None, Rounds::Runs(NonZeroU32::new(4).unwrap()));
    let mut read = 0;
    for number in 2..10 {
        let (report, _) = back_up_tracked(&vault, &disk, Some(known(&nothing)), &windows);
        let tracking = stored(&report).tracking.unwrap();
        read += report.bytes_read;
        // The round that point 5 ends began after point 1, and the one that point 9 ends after point 5.
        let expected = match number {
            2..=4 => (number - 1, 1, 1),
            5..=8 => (number - 5, 1, 5),
            _ => (0, 5, 9),
        };
        let found = (u64::from(tracking.windows_done), tracking.whole_at.0, tracking.round_from.0);
        assert_eq!(found, expected, "point {number}");
    }
    assert_eq!(read, 2 * disk.len() as u64);
    // Another division begins a round of its own, and what was proved stays.
    let other = settings(AuditRate::None, Rounds::Runs(NonZeroU32::new(3).unwrap()));
    let (report, _) = back_up_tracked(&vault, &disk, Some(known(&nothing)), &other);
    let tracking = stored(&report).tracking.unwrap();
    assert_eq!(
        (tracking.windows_done, tracking.whole_at, tracking.round_from),
        (1, PointNumber(5), PointNumber(9))
    );
}

/// A tracker that cannot say.
#[derive(Debug)]
struct Broken;

impl ChangeSource for Broken {
    fn next_changed(&self, _: ByteOffset) -> Result<Option<Extent>, ChangeSourceError> {
        Err(ChangeSourceError {
            method: self.method(),
            source: io::Error::other("the socket is closed").into(),
        })
    }

    fn granularity(&self) -> ByteLen {
        ByteLen(65_536)
    }

    fn method(&self) -> ChangeMethod {
        ChangeMethod::BlockStatus
    }
}

#[test]
fn what_cannot_be_about_the_disk_is_not_believed_and_the_point_says_why() {
    let disk = noise(3, 40 * BLOCK);
    let nothing = list(disk.len(), []);
    let mut grown = disk.clone();
    grown.extend(noise(4, BLOCK));
    let mut changed = disk.clone();
    changed[0] ^= 1;
    let since = |number| Changes::Known { by: &nothing, since: Some(PointNumber(number)) };
    for (now, changes, why) in [
        (&changed, Changes::Lost("the bitmap was left in use"), "left in use"),
        (&changed, since(7), "since point 7"),
        (&grown, Changes::Known { by: &nothing, since: None }, "has 671744 now"),
        (&changed, Changes::Known { by: &Broken, since: None }, "the socket is closed"),
    ] {
        let vault = vault_with(&disk, 1);
        let (report, heard) = back_up_tracked(&vault, now, Some(changes), &trusting());
        assert!(heard.scanned[0].contains(why), "{heard:?}");
        assert!(stored(&report).fallback.as_ref().unwrap().contains(why));
        assert_eq!(stored(&report).provenance, ChangeProvenance::Scan);
        assert_point_whole(&vault, "web@2", &disks([("os", now.clone())]), why);
        // No chain breaks: what was the same is not stored again.
        assert!(report.bytes_changed <= 2 * BLOCK as u64);
    }
    let vault = vault_with(&disk, 1);
    let (report, heard) = back_up_tracked(&vault, &disk, Some(since(1)), &trusting());
    assert!(heard.scanned.is_empty());
    assert_eq!(stored(&report).provenance, ChangeProvenance::Tracked);
    let full = backup::Settings { full_scan: true, ..trusting() };
    let (report, heard) = back_up_tracked(&vault, &disk, Some(since(2)), &full);
    assert!(heard.scanned.is_empty(), "it was asked for");
    assert_eq!((stored(&report).provenance, report.bytes_read), (ChangeProvenance::Scan, disk.len() as u64));
}

/// A tracker that misses some of the changed blocks is caught as often as is stated.
#[test]
fn a_lying_tracker_is_caught_with_the_stated_probability() {
    let (blocks, missed, runs) = (200_u64, 8_u64, 300_u64);
    let before = noise(3, usize::try_from(blocks).unwrap() * BLOCK);
    let settings = settings(AuditRate::Fraction(0.08), Rounds::Off);
    let mut caught = 0_u64;
    for run in 0..runs {
        let vault = vault_with(&before, run);
        let mut disk = before.clone();
        // Changed blocks of which the tracker tells half.
        let places: BTreeSet<usize> =
            (0..2 * missed).map(|n| usize::try_from((n * 11 + run) % blocks).unwrap()).collect();
        for &place in &places {
            disk[place * BLOCK] ^= 1;
        }
        let told = list(disk.len(), places.iter().step_by(2).map(|place| (place * BLOCK, 1)));
        let (report, heard) = back_up_tracked(&vault, &disk, Some(known(&told)), &settings);
        caught += heard.missed.len() as u64;
        if !heard.missed.is_empty() {
            assert_eq!(report.bytes_changed, 2 * missed * BLOCK as u64, "all of it is in the point");
        }
    }
    let unchanged = blocks - missed;
    let stated = detection_probability(missed, unchanged, AuditRate::Fraction(0.08).sample_size(unchanged));
    #[allow(clippy::cast_precision_loss)] // small numbers
    let (caught, runs) = (caught as f64, runs as f64);
    let sigma = (stated * (1.0 - stated) / runs).sqrt();
    assert!((0.2..0.8).contains(&stated));
    assert!((caught / runs - stated).abs() < 4.0 * sigma, "{caught} of {runs}, stated {stated:.3}");
}
