//! Property 7, bounded memory: restore and verification stay within the memory they were told, whatever the size of
//! the disk.
//!
//! What counts is the largest resident size (`VmHWM`) of a process that does nothing but one of them: this program runs
//! itself as a child for each. The disks are noise, so that packs and frames are as large as they get.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use vmkeep_testkit::permit;

use common::{back_up, disk_of, kek, opened, ports};
use object_store::local::LocalFileSystem;
use vmkeep_disk::{BlockWrite, DiskError};
use vmkeep_model::{BlockSize, ByteLen, ByteOffset, CancelToken, Extent};
use vmkeep_restore::{Depth, RollingSettings, Settings, Silent, copy_disk, verify_point, verify_rolling};
use vmkeep_testkit::GeneratedDisk;
use vmkeep_vault::{Budget, PackDepth, Vault};

const MIB: u64 = 1 << 20;
/// How far the peaks of two equal runs lie apart: which buffers are alive at once depends on how threads take turns.
/// A walk that kept the data it has passed would differ by hundreds of MiB.
const NOISE: u64 = 32 * MIB;
/// What comes on top of the memory of the settings: caches of the vault (32 MiB), and the program itself.
const BESIDE: u64 = 64 * MIB;
const FOLDER: &str = "VMKEEP_MEMORY_FOLDER";
const SCENARIO: &str = "VMKEEP_MEMORY_SCENARIO";

/// Takes everything and keeps nothing.
#[derive(Debug)]
struct Nowhere(ByteLen);

impl BlockWrite for Nowhere {
    fn len(&self) -> ByteLen {
        self.0
    }

    fn write_at(&self, _: ByteOffset, _: &[u8]) -> Result<(), DiskError> {
        Ok(())
    }

    fn write_zeroes(&self, _: Extent) -> Result<(), DiskError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

/// Largest resident size of this process so far, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Runs the scenario below in a process of its own and returns its peak, in bytes.
fn peak_of(folder: &Path, scenario: &str) -> u64 {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "one_scenario_in_a_process_of_its_own", "--nocapture"])
        .envs([(FOLDER, folder.as_os_str()), (SCENARIO, scenario.as_ref())])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    let peak = said.lines().find_map(|line| line.strip_prefix("peak ")).unwrap().parse().unwrap();
    println!("{scenario} MiB: peak {} MiB", peak / MIB);
    peak
}

#[test]
#[ignore = "the test below runs it with its scenario"]
fn one_scenario_in_a_process_of_its_own() {
    let scenario = std::env::var(SCENARIO).unwrap();
    let words: Vec<&str> = scenario.split(' ').collect();
    let [what, disk, memory] = words[..] else { panic!("{scenario}") };
    let len = ByteLen(disk.parse::<u64>().unwrap() * MIB);
    let vm = format!("vm-{disk}");
    let settings = Settings { workers: 2, memory_bytes: memory.parse::<usize>().unwrap() << 20 };
    // Not the durable folder: what is measured is reading, which is the same.
    let store = Arc::new(LocalFileSystem::new_with_prefix(std::env::var_os(FOLDER).unwrap()).unwrap());
    if what == "store" {
        let vault = Vault::create(store, kek(), ports(1)).unwrap();
        let disk = GeneratedDisk::new(len, BlockSize::default(), 5).with_allocated_spread(len);
        back_up(&vault, &vm, &disk);
    } else {
        // Rolling runs list much: as the folder of a vault does it.
        let vault = match what {
            "rolling" => Vault::open_folder(std::env::var_os(FOLDER).unwrap(), kek(), ports(2)).unwrap(),
            _ => opened(store, 2),
        };
        let point = format!("{vm}@1");
        let (silent, cancel) = (&Silent, &CancelToken::new());
        if what == "rolling" {
            let budget = Budget::Millipercent(1);
            let walk = Settings { workers: 1, ..settings };
            let settings = RollingSettings { budget, depth: PackDepth::Sealed, walk };
            let report = verify_rolling(&permit(), &vault, &settings, silent, cancel).unwrap();
            assert!(report.total.objects > 1000);
        } else if what == "restore" {
            let copied =
                copy_disk(&disk_of(&vault, &point), &Nowhere(len), &settings, silent, cancel).unwrap();
            assert_eq!(copied.written, len);
        } else {
            let open = vault.point(&point.parse().unwrap()).unwrap();
            let report = verify_point(&permit(), &open, Depth::Data, &settings, silent, cancel).unwrap();
            assert!(report.is_clean() && report.bytes == len);
        }
    }
    println!("\npeak {}", peak());
}

#[test]
fn restore_and_verification_stay_within_their_memory_whatever_the_size_of_the_disk() {
    let folders = [256, 1024].map(|mib| (mib, tempfile::tempdir().unwrap()));
    for (mib, folder) in &folders {
        peak_of(folder.path(), &format!("store {mib} 128"));
    }
    for what in ["restore", "verify"] {
        let peak = |which: usize, memory: u64| {
            let (mib, folder) = &folders[which];
            peak_of(folder.path(), &format!("{what} {mib} {memory}"))
        };
        let (small, large, little) = (peak(0, 128), peak(1, 128), peak(0, 32));
        assert!(small <= 128 * MIB + BESIDE && large <= 128 * MIB + BESIDE, "{what}");
        assert!(little <= 32 * MIB + BESIDE, "{what}");
        assert!(large <= small + NOISE, "{what}: four times the disk took more memory");
    }
}

/// A hundred thousandth of the packs is checked; the others are listed and no more.
#[test]
fn a_rolling_run_takes_no_more_memory_for_a_hundred_times_the_packs() {
    let peaks = [1000_u32, 100_000].map(|packs| {
        let folder = tempfile::tempdir().unwrap();
        peak_of(folder.path(), "store 8 128");
        let lineage = std::fs::read_dir(folder.path().join("packs")).unwrap().next().unwrap().unwrap();
        for n in 0..packs {
            let session = lineage.path().join(format!("{:032x}", n / 500));
            if n % 500 == 0 {
                std::fs::create_dir(&session).unwrap();
            }
            // Spread evenly, as hashes are; what they hold does not matter.
            let name = format!("{:08x}{n:024x}", n.wrapping_mul(0x9e37_79b9));
            std::fs::File::create(session.join(name)).unwrap();
        }
        peak_of(folder.path(), "rolling 8 128")
    });
    // Their names and sizes alone would be over 16 MiB.
    assert!(peaks[1] <= peaks[0] + 8 * MIB, "{peaks:?}");
}
