//! The audit of trackers: what it looks at, and that it catches a tracker that lies as often as is said.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)] // in helpers too

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use proptest::prelude::*;
use vmkeep_blockdiff::{AuditPlan, AuditRate, AuditSettings, detection_probability};
use vmkeep_model::{BlockIndex, BlockRun};

fn runs(blocks: u64) -> impl Strategy<Value = Vec<BlockRun>> {
    prop::collection::btree_set(0..=blocks, 0..12).prop_map(|cuts| {
        let cuts: Vec<u64> = cuts.into_iter().collect();
        cuts.chunks_exact(2).map(|c| BlockRun::between(BlockIndex(c[0]), BlockIndex(c[1]))).collect()
    })
}

fn all(runs: &[BlockRun]) -> BTreeSet<BlockIndex> {
    runs.iter().flat_map(|run| run.iter()).collect()
}

fn settings(rate: AuditRate, windows: u32) -> AuditSettings {
    AuditSettings { rate, sample_max: u64::MAX, windows: NonZeroU32::new(windows) }
}

proptest! {
    #[test]
    fn ascending_unique_and_unchanged(
        runs in runs(3000), part in 0.0_f64..=1.0, windows in 0_u32..9, seed in any::<[u8; 32]>(), run in any::<u64>()
    ) {
        let unchanged = all(&runs);
        let plan = AuditPlan::new(seed, run, unchanged.len() as u64, &settings(AuditRate::Fraction(part), windows));
        let blocks: Vec<BlockIndex> = plan.blocks(runs.clone()).collect();
        prop_assert!(blocks.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(blocks.iter().all(|block| unchanged.contains(block)));
        prop_assert!(blocks.len() as u64 >= plan.sample_size());
        if windows == 0 {
            prop_assert_eq!(blocks.len() as u64, plan.sample_size());
        }
        prop_assert_eq!(plan.blocks(runs).collect::<Vec<_>>(), blocks, "the same plan says the same");
    }

    /// The disk grows from run to run, and the tracker calls other blocks changed each time.
    #[test]
    fn any_n_consecutive_runs_look_at_every_block_that_is_there_from_the_first_on(
        windows in 1_u32..9, first_run in any::<u32>(), disk in 1_u64..2000,
        growth in prop::collection::vec((0_u64..500, runs(4000)), 8)
    ) {
        let mut seen = BTreeSet::new();
        let mut blocks = disk;
        for (n, (more, changed)) in growth.iter().take(windows as usize).enumerate() {
            let changed = all(changed);
            let unchanged: Vec<BlockRun> = (0..blocks)
                .map(BlockIndex)
                .filter(|block| !changed.contains(block))
                .map(|start| BlockRun { start, len: 1 })
                .collect();
            let run = u64::from(first_run) + n as u64;
            let plan = AuditPlan::new([0; 32], run, unchanged.len() as u64, &settings(AuditRate::None, windows));
            seen.extend(plan.blocks(unchanged));
            seen.extend(changed); // the backup reads these
            blocks += more;
        }
        prop_assert!((0..disk).map(BlockIndex).all(|block| seen.contains(&block)));
    }

    #[test]
    fn no_window_is_larger_than_asked(blocks in 0_u64..100_000, window_max in 16_u64..5000, run in any::<u64>()) {
        let windows = AuditSettings::windows_for(blocks, window_max);
        let plan = AuditPlan::new([0; 32], run, blocks, &settings(AuditRate::None, windows.get()));
        let whole = BlockRun { start: BlockIndex(0), len: blocks };
        prop_assert!(plan.blocks([whole]).count() as u64 <= window_max);
    }
}

/// A tracker misses `missed` blocks, together in one place or spread; over 2000 runs the sample catches it within four
/// standard deviations of the stated probability.
#[test]
fn a_tracker_that_lies_is_caught_as_often_as_stated() {
    const RUNS: u64 = 2000;
    let unchanged = [(10, 3000), (4000, 1), (5000, 6999)];
    let unchanged = unchanged.map(|(start, len)| BlockRun { start: BlockIndex(start), len });
    let count = 10_000;
    let blocks: Vec<BlockIndex> = unchanged.iter().flat_map(|run| run.iter()).collect();
    for (missed, probability, seed) in [(1, 0.05, 1), (10, 0.5, 2), (100, 0.9, 3), (300, 0.99, 4)] {
        let rate = AuditRate::Detect { missed: missed as f64 / count as f64, probability };
        let together: BTreeSet<BlockIndex> = blocks[6000..6000 + missed].iter().copied().collect();
        let spread: BTreeSet<BlockIndex> =
            blocks.iter().copied().step_by(blocks.len() / missed).take(missed).collect();
        for (how, lost) in [("together", together), ("spread", spread)] {
            assert_eq!(lost.len(), missed);
            let mut caught = 0_u64;
            let mut stated = 0.0;
            for run in 0..RUNS {
                let plan = AuditPlan::new([seed; 32], run, count, &settings(rate, 0));
                stated = detection_probability(missed as u64, count, plan.sample_size());
                caught += u64::from(plan.blocks(unchanged).any(|block| lost.contains(&block)));
            }
            assert!(stated >= probability && stated < probability + 0.02, "{stated}");
            let (got, deviation) =
                (caught as f64 / RUNS as f64, (stated * (1.0 - stated) / RUNS as f64).sqrt());
            assert!((got - stated).abs() < 4.0 * deviation, "{missed} {how}: {got}, stated {stated}");
        }
    }
}

/// 32 TiB: the time goes with the sample, not with the disk.
#[test]
fn a_large_disk_costs_no_more_than_a_small_one() {
    let blocks = (32_u64 << 40) / 65_536;
    let plan = AuditPlan::new([9; 32], 3, blocks, &AuditSettings::default());
    let taken: Vec<BlockIndex> = plan.blocks([BlockRun { start: BlockIndex(0), len: blocks }]).collect();
    assert_eq!(taken.len(), 459);
    let other = AuditPlan::new([9; 32], 4, blocks, &AuditSettings::default());
    assert_ne!(other.blocks([BlockRun { start: BlockIndex(0), len: blocks }]).collect::<Vec<_>>(), taken);
}
