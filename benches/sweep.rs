//! What a sweep asks of the store: a table of requests and bytes by what was forgotten, for 10, 100 and 1,000 points.
//!
//! The disk is that of `crates/vmkeep/tests/sweep_cost.rs`, which holds the numbers for 10 and 100 points against bounds:
//! 1 TiB with 64 blocks of noise spread over it, of which each point changes the same four, and every fourth point four
//! others. `cargo bench -p vmkeep-benches --bench sweep` prints the table; with `-- --test` it leaves out 1,000 points.

use std::sync::Arc;
use vmkeep_testkit::permit;

use vmkeep::backup::{self, Plan, Silent, Source, SourceDisk};
use vmkeep::envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep::model::{
    BlockSize, ByteLen, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, ManualClock, Timestamp,
};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Ports, SweepSettings, Vault};
use vmkeep_testkit::{CountingStore, GeneratedDisk, snapshot, store_of};

const BLOCKS: u64 = 64;

fn ports(seed: u64) -> Ports {
    let clock = Arc::new(ManualClock::new(Timestamp(0)));
    Ports { clock, entropy: Arc::new(SeededEntropy::new(seed)) }
}

fn kek() -> Arc<KeyFileVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])))
}

fn vault_with(points: u64) -> InMemory {
    let store = InMemory::new();
    let vault = Vault::create(Arc::new(store.clone()), kek(), ports(1)).expect("memory does not fail");
    let mut disk = GeneratedDisk::new(ByteLen(1 << 40), BlockSize::default(), 3)
        .with_allocated_spread(ByteLen(BLOCKS << 16));
    let name = "os".parse().expect("a disk name");
    let description = DiskDescription { name, role: DiskRole::Os, lun: None };
    for point in 0..points {
        if point > 0 {
            disk.change(0..4);
        }
        if point % 4 == 3 {
            disk.change((point..point + 4).map(|n| 4 + n % (BLOCKS - 4)));
        }
        let plan = Plan {
            vm: "vm".parse().expect("a VM name"),
            disks: vec![SourceDisk { description: description.clone(), source: Source::Read(&disk) }],
            consistency: ConsistencyLevel::Crash,
            keys: Vec::new(),
            evidence: Vec::new(),
            labels: vmkeep::model::Labels::default(),
            config: None,
            snapshot: None,
            guard: None,
        };
        let settings = backup::Settings { workers: 1, ..backup::Settings::default() };
        backup::run(&permit(), &vault, &plan, &settings, &Silent, &CancelToken::new())
            .expect("memory does not fail");
    }
    store
}

/// One line of the table.
fn sweep(store: &InMemory, what: &str, points: u64, forget: &[u64]) {
    let store = CountingStore::new(Arc::new(store_of(&snapshot(store))));
    let vault = Vault::open(Arc::new(store.clone()), kek(), ports(2)).expect("it was made just now");
    for number in forget {
        vault
            .forget(&permit(), &format!("vm@{number}").parse().expect("a point"))
            .expect("memory does not fail");
    }
    store.reset();
    let report = vault.sweep(&permit(), &SweepSettings::default(), &CancelToken::new(), &mut |_| {});
    let report = report.expect("memory does not fail");
    assert_eq!(report.points.len(), forget.len());
    let counts = store.counts();
    println!(
        "{points:>6}  {what:<13} {:>7} {:>8} {:>11} {:>9} {:>9} {:>11} {:>9}",
        report.points.len(),
        report.objects,
        report.freed,
        report.copied,
        counts.total(),
        counts.bytes_read,
        counts.bytes_written
    );
}

fn main() {
    let brief = std::env::args().any(|arg| arg == "--test");
    let sizes: &[u64] = if brief { &[10, 100] } else { &[10, 100, 1000] };
    println!("points  forgotten     removed  objects       freed    copied  requests  bytes read   written");
    for &points in sizes {
        let store = vault_with(points);
        let every_second: Vec<u64> = (1..points).step_by(2).collect();
        sweep(&store, "nothing", points, &[]);
        sweep(&store, "the oldest", points, &[1]);
        sweep(&store, "a middle one", points, &[points / 2 + 1]);
        sweep(&store, "every second", points, &every_second);
    }
}
