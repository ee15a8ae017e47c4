//! A sweep costs what it frees, whatever the size of the disk and the number of points: requests and bytes.
//!
//! A disk of 1 TiB holds 64 blocks of noise, spread over it. Each point after the first changes the same four of them,
//! and every fourth point four others too. `benches/sweep.rs` prints the same as a table.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/swept.rs"]
mod swept;

use std::sync::Arc;
use vmkeep_testkit::permit;

use common::*;
use swept::{at_once, sweep_all};
use vmkeep::backup;
use vmkeep::disk::BlockRead;
use vmkeep::model::{BlockSize, ByteLen, CancelToken};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{SweepReport, SweepSettings, Vault};
use vmkeep_testkit::{CountingStore, Counts, GeneratedDisk, snapshot, store_of};

const KIB: u64 = 1 << 10;
const BLOCKS: u64 = 64;

fn vault_with(points: u64) -> InMemory {
    let store = InMemory::new();
    let vault = create(Arc::new(store.clone()), 1);
    let mut disk = GeneratedDisk::new(ByteLen(1 << 40), BlockSize::default(), 3)
        .with_allocated_spread(ByteLen(BLOCKS * 64 * KIB));
    let settings = backup::Settings { block_size: BlockSize::default(), ..inline() };
    for point in 0..points {
        if point > 0 {
            disk.change(0..4);
        }
        if point % 4 == 3 {
            disk.change((point..point + 4).map(|n| 4 + n % (BLOCKS - 4)));
        }
        let plan = plan("web", &[("os", &disk as &dyn BlockRead)]);
        backup::run(&permit(), &vault, &plan, &settings, &backup::Silent, &CancelToken::new()).unwrap();
    }
    store
}

/// A copy of the store, so that the next sweep finds it as it was.
fn copy_of(store: &InMemory) -> (CountingStore, Vault) {
    let store = CountingStore::new(Arc::new(store_of(&snapshot(store))));
    let vault = open(Arc::new(store.clone()), 2);
    (store, vault)
}

/// Forgets these points, sweeps, and tells what the sweep asked for.
fn cost(
    store: &InMemory,
    forget: impl Iterator<Item = u64>,
    settings: &SweepSettings,
) -> (SweepReport, Counts) {
    let (counting, vault) = copy_of(store);
    for number in forget {
        vault.forget(&permit(), &point_ref(&format!("web@{number}"))).unwrap();
    }
    counting.reset();
    let report = vault.sweep(&permit(), settings, &CancelToken::new(), &mut |_| {}).unwrap();
    let counts = counting.counts();
    let reached = vault.uncached().reachable(&vm("web")).unwrap();
    assert_eq!(swept::packs(&*counting.inner()), reached);
    (report, counts)
}

#[test]
fn a_sweep_costs_what_it_frees() {
    let dry = SweepSettings { max_repack: 0, ..at_once() };
    let mut one_point = Vec::new();
    for points in [10, 100, 1000] {
        let store = vault_with(points);
        let middle = points / 2 + 1;
        let which: [(&str, Vec<u64>); 3] = [
            ("the oldest", vec![1]),
            ("a middle one", vec![middle]),
            ("every second", (1..points).step_by(2).collect()),
        ];
        for (what, numbers) in which {
            for (how, settings) in [("", at_once()), (", nothing copied", dry)] {
                let (report, counts) = cost(&store, numbers.iter().copied(), &settings);
                let removed = report.points.len() as u64;
                println!(
                    "{points} points, {what}{how}: {removed} points, {} objects, {} bytes freed, {} copied, {} packs replaced: \
                     {} requests, {} bytes read, {} written",
                    report.objects,
                    report.freed,
                    report.copied,
                    report.repacked,
                    counts.total(),
                    counts.bytes_read,
                    counts.bytes_written,
                );
                assert_eq!(removed, numbers.len() as u64);
                let most = 60 + 24 * removed + 10 * report.repacked;
                assert!(counts.total() <= most, "{} requests, {most} at most", counts.total());
                // A data pack is judged by its last 64 KiB.
                let most = 128 * KIB + 80 * KIB * removed + 2 * report.copied;
                assert!(counts.bytes_read <= most, "{} bytes read, {most} at most", counts.bytes_read);
                let most = 4 * KIB + 2 * KIB * removed + 3 * report.copied;
                assert!(
                    counts.bytes_written <= most,
                    "{} bytes written, {most} at most",
                    counts.bytes_written
                );
                if removed == 1 {
                    one_point.push((what, how, counts));
                }
            }
        }
    }
    // A hundred times the points: some requests more to find the newest, and no more bytes to speak of.
    let few = one_point.clone();
    for (what, how, counts) in &one_point {
        let (.., few) = few.iter().find(|few| (few.0, few.1) == (*what, *how)).unwrap();
        assert!(counts.total() <= few.total() + 16, "{what}{how}: {few:?} {counts:?}");
        assert!(counts.bytes_read <= few.bytes_read + 32 * KIB, "{what}{how}: {few:?} {counts:?}");
    }
}

#[test]
fn a_sweep_of_a_quiet_vault_is_three_listings() {
    for points in [1, 10, 100] {
        let (counting, vault) = copy_of(&vault_with(points));
        for _ in 0..2 {
            counting.reset();
            let report = sweep_all(&vault);
            assert_eq!(report, SweepReport::default());
            assert_eq!(counting.counts(), Counts { list: 3, ..Counts::default() }, "{points} points");
        }
        if points > 2 {
            // Also after there was something to do.
            (1..points - 1)
                .for_each(|n| drop(vault.forget(&permit(), &point_ref(&format!("web@{n}"))).unwrap()));
            sweep_all(&vault);
            counting.reset();
            sweep_all(&vault);
            assert_eq!(counting.counts(), Counts { list: 3, ..Counts::default() }, "{points} points, swept");
        }
    }
}
