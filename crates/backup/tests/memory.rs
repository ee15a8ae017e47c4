//! Property 7, bounded memory: a backup stays within the memory it was told, whatever the size of the disk.
//!
//! What counts is the largest resident size (`VmHWM`) of a process that does nothing but one backup: this program runs
//! itself as a child, once for each size of disk and memory. The disks are noise, which is the worst case: nothing
//! shrinks on its way, and packs are as large as they get.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/discarding.rs"]
mod discarding;

use std::process::Command;
use std::sync::Arc;

use common::{back_up_all, kek, ports};
use discarding::DiscardingStore;
use vmkeep_backup::Settings;
use vmkeep_model::{BlockSize, ByteLen};
use vmkeep_testkit::GeneratedDisk;
use vmkeep_vault::{CompressionLevel, Vault};

const MIB: u64 = 1 << 20;
/// How far the peaks of two equal runs lie apart: which buffers are alive at once depends on how threads take turns.
/// A walk that kept the data it has passed would differ by hundreds of MiB.
const NOISE: u64 = 32 * MIB;
/// What comes on top of the memory of the settings: caches of the vault (32 MiB), compressors, the program itself.
const BESIDE: u64 = 64 * MIB;
const SCENARIO: &str = "VMKEEP_MEMORY_SCENARIO";

/// Largest resident size of this process so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Peak of a backup of `disks` (how many, and of how many MiB each) with `memory_mib`, in bytes.
fn peak_of_backup(disks: &str, memory_mib: u64) -> u64 {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "one_backup_in_a_process_of_its_own", "--nocapture"])
        .env(SCENARIO, format!("{disks} {memory_mib}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    let peak = said.lines().find_map(|line| line.strip_prefix("peak ")).unwrap().parse().unwrap();
    println!("disks {disks} MiB, memory {memory_mib} MiB: peak {} MiB", peak / MIB);
    peak
}

#[test]
#[ignore = "the test below runs it with its scenario"]
fn one_backup_in_a_process_of_its_own() {
    let scenario = std::env::var(SCENARIO).unwrap();
    let numbers: Vec<u64> = scenario.split(' ').map(|number| number.parse().unwrap()).collect();
    let [number, mib, memory] = numbers[..] else { panic!("{scenario}") };
    let len = ByteLen(mib * MIB);
    let settings = Settings {
        level: CompressionLevel::Fast,
        workers: 2,
        memory_bytes: usize::try_from(memory << 20).unwrap(),
        ..Settings::default()
    };
    let disk = |seed| GeneratedDisk::new(len, BlockSize::default(), seed).with_allocated_spread(len);
    let disks: Vec<GeneratedDisk> = (0..number).map(disk).collect();
    let vault = Vault::create(Arc::new(DiscardingStore::default()), kek(), ports(1)).unwrap();
    let report = back_up_all(&vault, "vm", &disks, &settings);
    assert_eq!(report.bytes_changed, number * len.0);
    println!("\npeak {}", peak());
}

#[test]
fn a_backup_stays_within_its_memory_whatever_the_size_of_the_disk() {
    let [small, large] = ["1 512", "1 2048"].map(|disks| peak_of_backup(disks, 128));
    let little = peak_of_backup("1 512", 32);
    assert!(small <= 128 * MIB + BESIDE && large <= 128 * MIB + BESIDE);
    assert!(little <= 32 * MIB + BESIDE);
    assert!(little < small, "less memory was given and as much was used");
    assert!(large <= small + NOISE, "four times the disk took more memory");
}

/// Thirty-two disks of noise at the same time: the packs of all of them fill half of the memory.
#[test]
fn thirty_two_disks_at_once_stay_within_the_memory_of_one() {
    let peak = peak_of_backup("32 32", 128);
    // A thread of each disk has a compressor of its own: at most a MiB.
    assert!(peak <= 128 * MIB + BESIDE + 32 * MIB, "{} MiB", peak / MIB);
}
