//! Looking again at blocks that change tracking calls unchanged.
//!
//! A tracker that misses a change makes a wrong backup, and nothing else notices. So each run reads some of the
//! blocks that it need not read and compares them by hash. Two parts complete one another:
//!
//! - a **sample**, uniform and without replacement, another one each run: the chance that it finds a tracker that
//!   misses `m` of `u` blocks is [`detection_probability`], the same wherever the missed blocks lie;
//! - a **window** that goes round: the disk is cut into stripes, stripe `i` belongs to window `i mod n`, and run `k`
//!   reads window `k mod n`. It finds for certain what the sample may never hit, within `n` runs.
//!
//! Pure: no disk and no clock; the random numbers come from a seed, so a run can be told again.

mod chance;
mod sample;

use std::iter::Peekable;
use std::num::NonZeroU32;

use vmkeep_model::{BlockIndex, BlockRun};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use chance::{detection_probability, sample_size_for};
use sample::{SplitMix, UniformSample};

/// Blocks of one stripe of a window: neighbours, so that they are read in one go (1 MiB of 64 KiB blocks).
const STRIPE_BLOCKS: u64 = 16;

/// How large a sample is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AuditRate {
    /// No sample; the window alone.
    None,
    /// This part of the unchanged blocks, from 0 to 1, rounded up. Values outside are taken as the nearest.
    Fraction(f64),
    /// As many as it takes to find, with `probability`, a tracker that misses `missed` of the unchanged blocks.
    Detect {
        /// Part of the unchanged blocks that the tracker misses, above 0 up to 1; at least one block is assumed.
        missed: f64,
        /// From 0 to 1 in one run. At 1, as many as it takes to be certain: nearly all of them.
        probability: f64,
    },
}

impl AuditRate {
    /// Blocks to sample of `unchanged`; never more than there are.
    pub fn sample_size(self, unchanged: u64) -> u64 {
        match self {
            Self::None => 0,
            Self::Fraction(part) => part_of(unchanged, part, f64::ceil),
            Self::Detect { missed, probability } => {
                // Rounded down, since fewer are harder to find.
                let missed = part_of(unchanged, missed, f64::floor).max(1);
                sample_size_for(missed, unchanged, probability)
            }
        }
    }
}

/// `part` of `whole`, which is exact up to 2^53.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn part_of(whole: u64, part: f64, round: fn(f64) -> f64) -> u64 {
    // A part that is no number counts as 0 (`as` saturates).
    (round(whole as f64 * part.clamp(0.0, 1.0)) as u64).min(whole)
}

/// What an audit may cost and what it is to find.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AuditSettings {
    /// How large the sample is.
    pub rate: AuditRate,
    /// Most blocks in the sample, whatever the rate says.
    pub sample_max: u64,
    /// Runs in which the window goes once round the disk, each reading one part of so many; `None` for no window.
    pub windows: Option<NonZeroU32>,
}

impl Default for AuditSettings {
    /// Finds a tracker that misses 1 % of the unchanged blocks with 99 % in one run (some 460 blocks of any disk), and
    /// no window: its cost grows with the disk.
    fn default() -> Self {
        let rate = AuditRate::Detect { missed: 0.01, probability: 0.99 };
        Self { rate, sample_max: 16_384, windows: None }
    }
}

impl AuditSettings {
    /// Into how many windows a disk of `blocks` blocks must be cut for none to hold more than `window_max` (taken as
    /// at least one stripe of 16 blocks).
    pub fn windows_for(blocks: u64, window_max: u64) -> NonZeroU32 {
        let stripes_max = (window_max / STRIPE_BLOCKS).max(1);
        let windows = blocks.div_ceil(STRIPE_BLOCKS).div_ceil(stripes_max);
        u32::try_from(windows).ok().and_then(NonZeroU32::new).unwrap_or(if windows == 0 {
            NonZeroU32::MIN
        } else {
            NonZeroU32::MAX
        })
    }
}

/// Which blocks one run looks at again, although change tracking calls them unchanged.
///
/// - The **sample** is uniform and without replacement, another one each run. The chance that it finds a tracker that
///   misses `m` of `u` blocks is [`detection_probability`], the same wherever the missed blocks lie.
/// - The **window** goes round: the disk is cut into stripes of 16 blocks, stripe `i` belongs to window `i mod n`, and
///   run `k` reads window `k mod n`. Within `n` runs it finds what the sample may never hit.
///
/// ```
/// use vmkeep_blockdiff::{AuditPlan, AuditRate, AuditSettings, detection_probability};
/// use vmkeep_model::{BlockIndex, BlockRun};
///
/// // 10,000 blocks, of which the tracker calls 2,000..2,100 changed.
/// let unchanged = [(0, 2000), (2100, 7900)].map(|(start, len)| BlockRun { start: BlockIndex(start), len });
/// let rate = AuditRate::Detect { missed: 0.01, probability: 0.95 };
/// let plan = AuditPlan::new([7; 32], 12, 9900, &AuditSettings { rate, ..AuditSettings::default() });
///
/// let blocks: Vec<_> = plan.blocks(unchanged).collect();
/// assert!(blocks.is_sorted() && blocks.len() as u64 >= plan.sample_size());
/// assert!(detection_probability(99, 9900, plan.sample_size()) >= 0.95);
/// ```
#[derive(Clone, Debug)]
pub struct AuditPlan {
    random: SplitMix,
    unchanged: u64,
    sample_size: u64,
    window: Option<Window>,
}

impl AuditPlan {
    /// The plan of run `run` for a disk on which the tracker calls `unchanged` blocks unchanged.
    ///
    /// The same arguments give the same plan. Runs with another number, and disks with another seed, have independent
    /// samples. The seed should be unknown to whoever could profit from a block that is not looked at; the generator
    /// is not a cryptographic one.
    pub fn new(seed: [u8; 32], run: u64, unchanged: u64, settings: &AuditSettings) -> Self {
        let window = settings.windows.map(|count| {
            let count = u64::from(count.get());
            Window { count, index: run % count }
        });
        Self {
            random: SplitMix::new(xxh3_64_with_seed(&seed, run)),
            unchanged,
            sample_size: settings.rate.sample_size(unchanged).min(settings.sample_max),
            window,
        }
    }

    /// Blocks in the sample, exactly. The window comes on top of it.
    pub fn sample_size(&self) -> u64 {
        self.sample_size
    }

    /// The blocks to look at, ascending, each once: those of the sample and those of the window.
    ///
    /// `unchanged` are the runs of blocks that the tracker calls unchanged, ascending and disjoint, as many blocks as
    /// [`new`](Self::new) was told; what is told too few or too many is missing from the sample, or never in it. Takes
    /// no memory, and time in proportion to the runs and to what it returns.
    ///
    /// # What is guaranteed
    /// A block is in the sample with the same chance as any other. With `n` windows, of `n` consecutive runs at least
    /// one looks at a given block, unless the tracker calls it changed in that run (then the backup reads it). The
    /// window of a block depends on its number only: this holds as well while the disk grows or shrinks, for every
    /// block from the run on in which it is there; it does not across a change of `n`.
    pub fn blocks(&self, unchanged: impl IntoIterator<Item = BlockRun>) -> impl Iterator<Item = BlockIndex> {
        let mut blocks = Blocks {
            sample: UniformSample::new(self.random.clone(), self.unchanged, self.sample_size).peekable(),
            window: self.window,
            runs: unchanged.into_iter(),
            rank: 0,
            run: BlockRun::default(),
        };
        std::iter::from_fn(move || blocks.next())
    }
}

/// One of several sets of stripes that tile any disk.
#[derive(Clone, Copy, Debug)]
struct Window {
    count: u64,
    index: u64,
}

impl Window {
    /// The first block of the window at or after `from`.
    fn next(self, from: BlockIndex) -> Option<BlockIndex> {
        let stripe = from.0 / STRIPE_BLOCKS;
        let ahead = (self.index + self.count - stripe % self.count) % self.count;
        if ahead == 0 {
            return Some(from);
        }
        (stripe + ahead).checked_mul(STRIPE_BLOCKS).map(BlockIndex)
    }
}

/// Walks the unchanged runs; the sample counts only the blocks in them.
struct Blocks<I> {
    sample: Peekable<UniformSample>,
    window: Option<Window>,
    runs: I,
    /// Unchanged blocks before `run`.
    rank: u64,
    /// What is left of the run at hand.
    run: BlockRun,
}

impl<I: Iterator<Item = BlockRun>> Blocks<I> {
    fn next(&mut self) -> Option<BlockIndex> {
        loop {
            let (start, end) = (self.run.start, self.run.end());
            let sampled = self
                .sample
                .peek()
                .map(|rank| BlockIndex(start.0.saturating_add(rank - self.rank)))
                .filter(|block| *block < end);
            let in_window = self.window.and_then(|window| window.next(start)).filter(|block| *block < end);
            let next = match (sampled, in_window) {
                (Some(sampled), Some(in_window)) => Some(sampled.min(in_window)),
                (some, none) => some.or(none),
            };
            if let Some(block) = next {
                if sampled == Some(block) {
                    self.sample.next();
                }
                self.leave_until(BlockIndex(block.0 + 1));
                return Some(block);
            }
            self.leave_until(end);
            self.run = self.runs.next()?;
        }
    }

    fn leave_until(&mut self, block: BlockIndex) {
        let rest = BlockRun::between(block, self.run.end());
        self.rank += self.run.len - rest.len;
        self.run = rest;
    }
}
