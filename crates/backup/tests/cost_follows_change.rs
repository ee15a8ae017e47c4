//! Property 1, cost follows change: what an increment writes and asks for depends on what changed, not on the size of
//! the disk nor on the number of points before it.
//!
//! Disks of 64 GiB, 1 TiB and 10 TiB hold 64 MiB of noise, one block in each of 1,024 equal shares; the rest are holes.
//! Without change tracking an increment scans all of it and so reads the whole map. Requests are counted with one
//! vault handle kept open, whose node cache serves the map: every node was written or read by it before. A handle
//! opened anew reads the map from the store: one request for every metadata pack that still holds a node of it, so
//! never more than the map has nodes. With a cache folder on the machine that wrote them it asks for none of them.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use common::{SpreadDisk, back_up, counted_vault, opened_anew, settings};
use vmkeep_backup::Report;
use vmkeep_model::ByteLen;
use vmkeep_testkit::{CountingStore, Counts};
use vmkeep_vault::Vault;

const KIB: u64 = 1 << 10;
/// The smallest and the largest grow to 1,000 points; the one between has its costs between theirs.
const SIZES: [(&str, u64, &[usize]); 3] =
    [("64 GiB", 64 << 30, &[10, 1000]), ("1 TiB", 1 << 40, &[10]), ("10 TiB", 10 << 40, &[10, 1000])];
const DATA: ByteLen = ByteLen(64 << 20);
const UNCHANGED_MAX: u64 = 8 * KIB;
const SCATTERED: usize = 1000;
const SCATTERED_MAX: u64 = 512 * KIB;
/// Places of a 4-block increment are this far apart: a prime, so that all places get their turn.
const STRIDE: usize = 251;

/// One VM's disk, its vault, and the number of its newest point.
struct Protected {
    disk: SpreadDisk,
    vault: Vault,
    store: CountingStore,
    newest: usize,
}

/// What one increment wrote and asked for.
#[derive(Clone, Copy, Debug)]
struct Cost {
    metadata: u64,
    counts: Counts,
}

impl Protected {
    /// A disk of `len` bytes with one point.
    fn new(len: u64) -> Self {
        let (vault, store) = counted_vault(1);
        let mut new = Self { disk: SpreadDisk::new(ByteLen(len), DATA), vault, store, newest: 0 };
        new.back_up();
        new
    }

    fn back_up(&mut self) -> (Report, Counts) {
        let before = self.store.counts();
        let report = back_up(&self.vault, "vm", &self.disk, &settings());
        self.newest += 1;
        assert_eq!(report.point.id.number.0, self.newest as u64);
        let counts = self.store.counts() - before;
        // Every byte that reached the store is in the report, and nothing else is.
        assert_eq!(report.stored.data + report.stored.metadata, counts.bytes_written);
        (report, counts)
    }

    /// Adds points of 4 changed blocks each until the next one has the number `next`.
    fn grow_to(&mut self, next: usize) {
        while self.newest + 1 < next {
            let (first, count) = (self.newest * 4, self.disk.allocated());
            self.disk.change((first..first + 4).map(|n| n * STRIDE % count));
            let (report, _) = self.back_up();
            assert_eq!(report.bytes_changed, 4 * 64 * KIB);
        }
    }

    /// An increment of the disk as it is.
    fn unchanged(&mut self) -> Cost {
        let (report, counts) = self.back_up();
        assert_eq!((report.bytes_changed, report.stored.data), (0, 0));
        assert_eq!(report.bytes_read, DATA.0);
        Cost { metadata: report.stored.metadata, counts }
    }

    /// An increment with 1,000 of the 1,024 blocks changed.
    fn scattered(&mut self) -> Cost {
        self.disk.change(0..SCATTERED);
        let (report, counts) = self.back_up();
        assert_eq!(report.bytes_changed, SCATTERED as u64 * 64 * KIB);
        Cost { metadata: report.stored.metadata, counts }
    }

    /// Both increments, the first of them as point `number`.
    fn costs_at(&mut self, number: usize) -> [Cost; 2] {
        self.grow_to(number);
        [self.unchanged(), self.scattered()]
    }
}

fn requests(cost: &Cost) -> Counts {
    Counts { bytes_written: 0, bytes_read: 0, ..cost.counts }
}

/// Fails unless all of `costs` ask for the same and write at most `most` bytes of metadata, within 1.5 x of each other.
fn check(what: &str, costs: &[(String, Cost)], most: u64) {
    for (name, cost) in costs {
        println!("{what}, {name}: {} bytes of metadata, {:?}", cost.metadata, cost.counts);
        assert!(cost.metadata <= most, "{what}, {name}: {} bytes", cost.metadata);
        assert_eq!(requests(cost), requests(&costs[0].1), "{what}: {name} against {}", costs[0].0);
    }
    let all = || costs.iter().map(|(_, cost)| cost.metadata);
    let (least, largest) = (all().min().unwrap(), all().max().unwrap());
    assert!(2 * largest <= 3 * least, "{what}: from {least} to {largest} bytes");
}

#[test]
fn an_increment_costs_the_same_at_every_size_and_age() {
    let mut measured = Vec::new();
    std::thread::scope(|scope| {
        let sizes = SIZES.map(|(name, len, points)| {
            scope.spawn(move || {
                let mut vm = Protected::new(len);
                let at = |&point: &usize| (format!("{name}, point {point}"), vm.costs_at(point));
                points.iter().map(at).collect::<Vec<_>>()
            })
        });
        for size in sizes {
            measured.extend(size.join().unwrap());
        }
    });
    let of = |which: usize| -> Vec<(String, Cost)> {
        measured.iter().map(|(name, costs)| (name.clone(), costs[which])).collect()
    };
    check("unchanged", &of(0), UNCHANGED_MAX);
    check("1,000 blocks", &of(1), SCATTERED_MAX);
}

#[test]
fn a_handle_opened_anew_reads_the_map_once_and_no_data() {
    for (name, len, _) in SIZES {
        let mut vm = Protected::new(len);
        vm.grow_to(100);
        let warm = vm.unchanged();
        vm.vault = opened_anew(&vm.store, 2);
        let cold = vm.unchanged();
        let again = vm.unchanged();
        println!("{name}: warm {:?}\n  cold {:?}", warm.counts, cold.counts);
        assert_eq!(requests(&again), requests(&warm), "{name}: what was read once stays");
        let more = cold.counts - warm.counts;
        // Of each of the 98 points that changed something at most one metadata pack is still in use.
        assert!(more.get <= 110, "{name}: {more:?}");
        assert!(more.bytes_read <= 1024 * KIB, "{name}: {more:?}");
        assert_eq!((more.put, more.head, more.list, more.delete), (0, 0, 0, 0), "{name}");
    }
}

#[test]
fn a_handle_opened_anew_beside_its_cache_costs_the_same_at_every_age() {
    let folder = tempfile::tempdir().unwrap();
    let mut vm = Protected::new(1 << 40);
    let keep = |vault: Vault| vault.with_cache(folder.path(), 64 << 20).unwrap();
    // The first point was made before there was a cache, which then keeps what the next increment reads of it.
    vm.vault = keep(vm.vault.clone());
    vm.grow_to(10);
    let mut at = |number: usize| {
        vm.grow_to(number);
        vm.vault = keep(opened_anew(&vm.store, number as u64));
        let cost = vm.unchanged();
        println!("beside a cache, point {number}: {:?}", cost.counts);
        requests(&cost)
    };
    assert_eq!(at(10), at(200));
}
