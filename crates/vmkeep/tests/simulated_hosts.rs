//! Hosts that back up and verify at one store, interleaved and disturbed by a seed: what was committed is
//! whole, and a seed gives one run.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::sync::Arc;

use common::*;
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::restore::Depth;
use vmkeep::vault::Vault;
use vmkeep_testkit::{Odds, SimEvent, SimStore, Spawned, snapshot, store_of};

const SEEDS: u64 = 40;

/// The disks of `web` as `host` backs them up for the `n`th time.
fn version(host: u64, n: u64) -> Disks {
    disks([("os", disk(&[Some(block(1, 200)), Some(block(100 * host + n, 300)), None]))])
}

/// Backs up `web` so often; says what it was told is committed.
fn backs_up(store: Arc<dyn ObjectStore>, host: u64, times: u64) -> Vec<(u64, Disks)> {
    let mut committed = Vec::new();
    for n in 0..times {
        let disks = version(host, n);
        // A host that hears of an error comes back later.
        if let Ok(vault) = Vault::open_inline(Arc::clone(&store), kek(), ports(100 * host + n))
            && let Ok(report) = back_up(&vault, "web", &disks)
        {
            committed.push((report.point.id.number.0, disks));
        }
    }
    committed
}

/// Verifies; says whether anything was found damaged.
fn verifies(store: Arc<dyn ObjectStore>) -> bool {
    let Ok(vault) = Vault::open_inline(store, kek(), ports(7)) else { return true };
    verify(&vault, Depth::Data).map_or(true, |report| report.is_clean())
}

fn run(seed: u64) -> (SimStore, Vec<(u64, Disks)>) {
    let base = Arc::new(InMemory::new());
    create(base.clone(), 1);
    let sim = SimStore::over(Arc::new(store_of(&snapshot(&*base))), seed, Odds::BAD_DAY);
    let hosts = [1, 2].map(|host| sim.spawn("backs up", move |store| backs_up(store, host, 3)));
    let verifier = sim.spawn("verifies", verifies);
    sim.run();
    assert!(verifier.join(), "seed {seed}: damage was found");
    (sim, hosts.into_iter().flat_map(Spawned::join).collect())
}

fn told(log: &[SimEvent]) -> String {
    log.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_a_host_was_told_is_committed_is_whole() {
    let mut committed = 0;
    for seed in 0..SEEDS {
        let (sim, points) = run(seed);
        let vault = open(sim.inner(), 900);
        for (number, disks) in &points {
            assert_point_whole(&vault, &format!("web@{number}"), disks, &format!("seed {seed}"));
        }
        assert_vault_clean(&vault, &format!("seed {seed}"));
        committed += points.len();
    }
    assert!(committed > 40, "{committed}");
}

#[test]
fn a_seed_gives_one_run() {
    for seed in 0..5 {
        let (first, second) = (run(seed).0, run(seed).0);
        assert!(first.log() == second.log(), "seed {seed}:\n{}", told(&first.log()));
        assert_eq!(snapshot(&*first.inner()), snapshot(&*second.inner()), "seed {seed}");
    }
}
