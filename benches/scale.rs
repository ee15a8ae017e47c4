//! What an increment of nothing costs when it is known that nothing changed: a table of wall time, requests and bytes by
//! the size of the disk and the number of points before it.
//!
//! The disks hold 64 MiB of noise spread over them; every point before the measured ones changed four blocks. The store
//! is in memory and counts. `tracked` is what a backup costs beside its audit; `audited` has the default audit, which
//! reads some 460 blocks and a part of a round. `opened anew` opens the vault first, without a cache.
//!
//! `cargo bench -p vmkeep-benches --bench scale` prints the table; with `-- --test` it leaves out 1,000 points.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vmkeep_testkit::permit;

use vmkeep::backup::{self, Audit, Changes, Plan, Rounds, Settings, Silent, Source, SourceDisk};
use vmkeep::blockdiff::{AuditRate, DirtyBitmap};
use vmkeep::disk::BlockRead;
use vmkeep::envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep::model::{
    BlockRun, BlockSize, ByteLen, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, Extent,
    ManualClock, PAGE_SIZE, Timestamp,
};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Ports, Vault};
use vmkeep_testkit::{CountingStore, Counts, GeneratedDisk};

const DATA: ByteLen = ByteLen(64 << 20);
const SIZES: [(&str, u64); 3] = [("64 GiB", 64 << 30), ("1 TiB", 1 << 40), ("10 TiB", 10 << 40)];
/// Runs of which the fastest and the median are printed; on a machine with other work the fastest tells more.
const RUNS: usize = 9;

fn kek() -> Arc<KeyFileVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])))
}

fn ports(seed: u64) -> Ports {
    Ports { clock: Arc::new(ManualClock::new(Timestamp(0))), entropy: Arc::new(SeededEntropy::new(seed)) }
}

fn no_audit() -> Audit {
    Audit { rate: AuditRate::None, rounds: Rounds::Off }
}

/// A disk whose writes are recorded, and its vault.
struct Protected {
    disk: GeneratedDisk,
    store: CountingStore,
    vault: Vault,
}

impl Protected {
    fn new(len: u64) -> Self {
        let disk = GeneratedDisk::new(ByteLen(len), BlockSize::default(), 3).with_allocated_spread(DATA);
        let store = CountingStore::new(Arc::new(InMemory::new()));
        let vault = Vault::create(Arc::new(store.clone()), kek(), ports(1)).expect("memory does not fail");
        Self { disk, store, vault }
    }

    /// Backs up what `written` names.
    fn back_up(&self, vault: &Vault, written: &[Extent], audit: Audit) {
        let mut bitmap =
            DirtyBitmap::new(self.disk_len(), ByteLen(PAGE_SIZE as u64)).expect("a power of two");
        for extent in written {
            bitmap.mark(*extent);
        }
        let name = "os".parse().expect("a disk name");
        let description = DiskDescription { name, role: DiskRole::Os, lun: None };
        let changes = Changes::Known { by: &bitmap, since: None };
        let plan = Plan {
            vm: "vm".parse().expect("a VM name"),
            disks: vec![SourceDisk { description, source: Source::Tracked(&self.disk, changes) }],
            consistency: ConsistencyLevel::Crash,
            keys: Vec::new(),
            evidence: Vec::new(),
            labels: vmkeep::model::Labels::default(),
            config: None,
            snapshot: None,
            guard: None,
        };
        let settings = Settings { audit, ..Settings::default() };
        let report = backup::run(&permit(), vault, &plan, &settings, &Silent, &CancelToken::new());
        let report = report.expect("memory does not fail");
        assert!(!written.is_empty() || report.point.base.is_none() || report.stored.data == 0);
    }

    fn disk_len(&self) -> ByteLen {
        self.disk.len()
    }

    /// Adds points until there are so many.
    fn grow_to(&mut self, points: u64, have: &mut u64) {
        while *have < points {
            let places = (0..4).map(|n| (*have * 4 + n) * 251 % (DATA.0 >> 16));
            let block = |place| {
                let run = BlockRun { start: self.disk.allocated_block(place), len: 1 };
                BlockSize::default().extent_of(run, self.disk_len())
            };
            let written: Vec<Extent> = places.clone().map(block).collect();
            self.disk.change(places);
            self.back_up(&self.vault, &written, no_audit());
            *have += 1;
        }
    }

    /// The least and the median time of an increment of nothing, and what the last one asked of the store.
    fn unchanged(&self, audit: Audit, anew: bool) -> ([Duration; 2], Counts) {
        let mut times = Vec::new();
        let mut counts = Counts::default();
        for _ in 0..RUNS {
            let (before, start) = (self.store.counts(), Instant::now());
            if anew {
                let vault = Vault::open(Arc::new(self.store.clone()), kek(), ports(next_seed()));
                self.back_up(&vault.expect("it was made just now"), &[], audit);
            } else {
                self.back_up(&self.vault, &[], audit);
            }
            times.push(start.elapsed());
            counts = self.store.counts() - before;
        }
        times.sort_unstable();
        ([times[0], times[RUNS / 2]], counts)
    }
}

/// Another seed for each handle: no two may draw the same numbers.
fn next_seed() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(2);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn main() {
    let brief = std::env::args().any(|arg| arg == "--test");
    let points: &[u64] = if brief { &[10] } else { &[10, 100, 1000] };
    println!("disk     points  increment          least ms  median ms  requests  bytes read   written");
    for (size, len) in SIZES {
        let (mut protected, mut have) = (Protected::new(len), 0);
        for &points in points {
            protected.grow_to(points, &mut have);
            for (what, audit, anew) in [
                ("tracked", no_audit(), false),
                ("audited", Audit::default(), false),
                ("opened anew", no_audit(), true),
            ] {
                let (times, counts) = protected.unchanged(audit, anew);
                have += RUNS as u64;
                println!(
                    "{size:<7} {points:>7}  {what:<17} {:>10.2} {:>10.2} {:>9} {:>11} {:>9}",
                    times[0].as_secs_f64() * 1e3,
                    times[1].as_secs_f64() * 1e3,
                    counts.total(),
                    counts.bytes_read,
                    counts.bytes_written
                );
            }
        }
    }
}
