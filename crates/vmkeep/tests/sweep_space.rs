//! What a vault takes once all points but one are swept, compared with a fresh vault that holds only that one.
//!
//! A sweep removes and copies whole slots: a frame stays as it was written as long as one of its blocks is needed, and a
//! frame holds 8 blocks of 64 KiB (level default). So two things are tested. Where what changes together is at least a
//! frame long, the vault is within a tenth of a fresh one. Where it is shorter it is not: then the dead blocks that
//! share a frame with live ones stay, and the bounds below are what was measured, rounded up. At the very worst, one
//! block of every frame is live, and the vault is as many times larger as a frame has blocks.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/swept.rs"]
mod swept;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::*;
use proptest::prelude::*;
use swept::{size_of, sweep_all};
use vmkeep::backup;
use vmkeep::model::BlockSize;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{ObjectName, Vault};
use vmkeep_testkit::{disk_history, snapshot};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const LEN: usize = 16 * MIB;
const VERSIONS: u64 = 10;

fn settings() -> backup::Settings {
    backup::Settings { block_size: BlockSize::default(), ..inline() }
}

/// Numbers that are the same in every run (the high half of a linear congruence).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// Successive contents of a disk of noise; between two, `writes` places of `unit` get `len` units of new noise each. The
/// seeds lie far apart: close ones give noise that repeats in part.
fn history(writes: usize, unit: usize, mut len: impl FnMut(&mut Dice) -> usize) -> Vec<Vec<u8>> {
    let (mut dice, mut disk) = (Dice(1), noise(9, LEN));
    let mut versions = vec![disk.clone()];
    for version in 1..VERSIONS {
        for write in 0..writes as u64 {
            let at = dice.below(LEN / unit) * unit;
            let end = (at + len(&mut dice) * unit).min(LEN);
            disk[at..end].copy_from_slice(&noise(version << 48 | write << 32, end - at));
        }
        versions.push(disk.clone());
    }
    versions
}

/// Sweeps until there is nothing to do.
fn sweep_to_the_end(vault: &Vault) {
    for _ in 0..4 {
        if sweep_all(vault).objects == 0 {
            return;
        }
    }
    panic!("a sweep goes on and on");
}

fn vault_of(versions: &[Vec<u8>]) -> (InMemory, Vault) {
    let store = InMemory::new();
    let vault = create(Arc::new(store.clone()), 1);
    for version in versions {
        back_up_with(&vault, "web", &disks([("os", version.clone())]), &settings()).unwrap();
    }
    (store, vault)
}

fn forget_all_but(vault: &Vault, keep: Option<usize>, points: usize) {
    for number in (1..=points).filter(|number| Some(*number) != keep) {
        vault.forget(&point_ref(&format!("web@{number}"))).unwrap();
    }
    if keep != Some(points) {
        vault.close(&vm("web")).unwrap();
    }
}

/// How many times what a fresh vault with only point `keep` takes is taken after all others were swept.
fn ratio(versions: &[Vec<u8>], keep: usize) -> f64 {
    let (store, vault) = vault_of(versions);
    let full = size_of(&store);
    forget_all_but(&vault, Some(keep), versions.len());
    sweep_to_the_end(&vault);
    let kept = disks([("os", versions[keep - 1].clone())]);
    assert_point_whole(&vault, &format!("web@{keep}"), &kept, "after the sweep");
    let report = assert_vault_clean(&vault, "after the sweep");
    assert_eq!(report.accounting.unwrap().garbage.objects, 0);
    let (fresh, _) = vault_of(&versions[keep - 1..keep]);
    let (swept, fresh) = (size_of(&store), size_of(&fresh));
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    let ratio = swept as f64 / fresh as f64;
    println!(
        "  point {keep} of {}: {full} bytes, {swept} when swept, {fresh} fresh: {ratio:.3}",
        versions.len()
    );
    ratio
}

#[test]
fn all_but_one_point_swept_takes_about_what_that_point_takes_alone() {
    let last = usize::try_from(VERSIONS).unwrap();
    for (what, most, versions) in [
        ("extents of 1 to 4 MiB, written as a whole", 1.1, history(2, MIB, |dice| 1 + dice.below(4))),
        ("extents of 512 KiB, as long as a frame", 1.1, history(5, 512 * KIB, |_| 1)),
        ("files of 64 KiB to 4 MiB anywhere", 1.4, history(3, 64 * KIB, |dice| 1 + dice.below(64))),
        ("files of 4 KiB to 1 MiB anywhere", 1.7, history(6, 4 * KIB, |dice| 1 + dice.below(256))),
        ("single pages, a tenth of the blocks each time", 1.9, history(25, 4 * KIB, |_| 1)),
    ] {
        println!("{what}");
        for keep in [1, last / 2, last] {
            let ratio = ratio(&versions, keep);
            assert!(ratio <= most, "{what}: {ratio:.3}");
        }
    }
}

#[test]
fn one_live_block_keeps_its_frame_and_no_more() {
    // Of every frame of the first point one block lives on in the second.
    let (block, frame) = (64 * KIB, 8);
    let mut versions = vec![noise(9, LEN)];
    let mut second = versions[0].clone();
    for (number, bytes) in (0_u64..).zip(second.chunks_mut(block)).filter(|(number, _)| number % frame != 0) {
        bytes.copy_from_slice(&noise((number + 1) << 32, block));
    }
    versions.push(second);
    assert!(ratio(&versions, 1) <= 1.01);
    let ratio = ratio(&versions, 2);
    // All of the first point and seven eighths of the second.
    assert!((1.8..=1.9).contains(&ratio), "{ratio:.3}");
}

/// What is left of a VM that is swept as a whole: its keys, its name, its journal, and where its numbers end.
fn assert_only_fixed_records(store: &InMemory, when: &str) {
    let mut kinds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (path, bytes) in snapshot(store) {
        let kind = match ObjectName::parse(path.as_ref()) {
            Some(ObjectName::Vault) => "vault",
            Some(ObjectName::Key { .. }) => "key",
            Some(ObjectName::Name(_)) => "name",
            Some(ObjectName::Point(..)) => "point",
            Some(ObjectName::Head(_)) => "head",
            Some(ObjectName::Retired(..)) => "retired",
            Some(ObjectName::Journal(..)) => "journal",
            _ => panic!("{when}: {path} is left"),
        };
        kinds.entry(kind).or_default().push(bytes.len() as u64);
    }
    let count = |kind| kinds.get(kind).map_or(0, Vec::len);
    // Each of the two domains has a key object; the one number that is left is that of the end.
    let fixed = ["vault", "key", "name", "point", "head"].map(count);
    assert_eq!(fixed, [1, 2, 1, 1, 1], "{when}: {kinds:?}");
    assert!(kinds.values().flatten().all(|len| *len < 1024), "{when}: {kinds:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_closed_vm_that_is_swept_leaves_fixed_records_and_no_unexplained_byte(history in disk_history()) {
        let (store, vault) = vault_of(&history.versions);
        forget_all_but(&vault, None, history.versions.len());
        sweep_to_the_end(&vault);
        assert_only_fixed_records(&store, "after the sweep");
        let report = assert_vault_clean(&vault, "after the sweep");
        let accounting = report.accounting.unwrap();
        let rest = (accounting.garbage.objects, accounting.in_progress.objects, report.points);
        prop_assert_eq!((rest, accounting.live.bytes), ((0, 0, 0), size_of(&store)));
    }
}
