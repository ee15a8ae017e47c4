//! Bounded memory: a sweep of a VM with ten thousand points stays within a budget.
//!
//! What counts is how far the largest resident size (`VmHWM`) of this process grows while it sweeps. The store is in
//! memory and only grows until then, so that what is resident when the sweep begins is the peak so far. This is the only
//! test here: nothing else runs in the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/swept.rs"]
mod swept;

use std::sync::Arc;
use vmkeep_testkit::permit;

use common::*;
use swept::{packs, sweep_all};
use vmkeep::object_store::memory::InMemory;

const MIB: u64 = 1 << 20;
const POINTS: u64 = 10_000;
/// What a sweep may take: caches (32 MiB), and what it knows of the points, their marks and their packs.
const BUDGET: u64 = 64 * MIB;

/// Largest resident size of this process so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Three blocks, one of which changes.
fn version(n: u64) -> Disks {
    disks([("os", disk(&[Some(block(1 << 40, 90)), Some(block(n << 20, 60)), Some(block(2 << 40, 90))]))])
}

#[test]
fn a_sweep_of_ten_thousand_points_stays_within_its_memory() {
    let store = InMemory::new();
    let vault = create(Arc::new(store.clone()), 1);
    for n in 1..=POINTS {
        back_up(&vault, "web", &version(n)).unwrap();
    }
    for n in 1..POINTS {
        vault.forget(&permit(), &point_ref(&format!("web@{n}"))).unwrap();
    }
    let before = peak();
    let report = sweep_all(&vault);
    let grown = peak() - before;
    println!("{} MiB before the sweep, {} KiB more in it", before / MIB, grown / 1024);
    assert_eq!((report.points.len() as u64, report.damaged), (POINTS - 1, 0));
    assert!(grown <= BUDGET, "{} MiB", grown / MIB);
    assert_eq!(packs(&store), vault.uncached().reachable(&vm("web")).unwrap());
    assert_point_whole(&vault, &format!("web@{POINTS}"), &version(POINTS), "after the sweep");
}
