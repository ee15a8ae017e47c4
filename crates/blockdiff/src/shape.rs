//! How the changes of a disk lie and how fast they come, and what is worth a warning.
//!
//! Nothing here decides anything: the numbers go into reports, and the warnings rest on [`Thresholds`] that are data.

use vmkeep_model::{ByteLen, Extent, Timestamp};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How long the runs of changed bytes are, by powers of two: bucket `i` counts runs of `2^i` to `2^(i+1) - 1` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunHistogram {
    buckets: [(u64, u64); 64],
    longest: u64,
}

/// The runs of lengths from one power of two up to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunBucket {
    /// The shortest length counted here, in bytes: a power of two. The longest is one less than twice that.
    pub from: ByteLen,
    /// Number of runs.
    pub runs: u64,
    /// Bytes in them together.
    pub bytes: ByteLen,
}

impl Default for RunHistogram {
    fn default() -> Self {
        Self { buckets: [(0, 0); 64], longest: 0 }
    }
}

impl RunHistogram {
    /// Counts the runs of ascending extents; extents that touch or overlap are one run.
    ///
    /// ```
    /// use vmkeep_blockdiff::RunHistogram;
    /// use vmkeep_model::{ByteLen, ByteOffset, Extent};
    ///
    /// let page = |n: u64| Extent::new(ByteOffset(n * 4096), ByteLen(4096));
    /// let runs = RunHistogram::of([page(1), page(2), page(9)]);
    /// assert_eq!((runs.runs(), runs.bytes()), (2, ByteLen(12_288)));
    /// ```
    pub fn of(extents: impl IntoIterator<Item = Extent>) -> Self {
        let mut histogram = Self::default();
        let mut run: Option<Extent> = None;
        for extent in extents.into_iter().filter(|extent| !extent.is_empty()) {
            run = Some(match run {
                Some(before) if extent.start() <= before.end() => {
                    Extent::between(before.start(), extent.end().max(before.end()))
                }
                ended => {
                    histogram.add(ended.unwrap_or_default().len());
                    extent
                }
            });
        }
        histogram.add(run.unwrap_or_default().len());
        histogram
    }

    /// Counts one run of `len` bytes; nothing when that is 0. Sums stop at 2^64 - 1.
    pub fn add(&mut self, len: ByteLen) {
        let Some(log2) = len.0.checked_ilog2() else { return };
        let (runs, bytes) = &mut self.buckets[log2 as usize];
        *runs = runs.saturating_add(1);
        *bytes = bytes.saturating_add(len.0);
        self.longest = self.longest.max(len.0);
    }

    /// Adds what `other` counted: of another stretch or disk.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = (mine.0.saturating_add(theirs.0), mine.1.saturating_add(theirs.1));
        }
        self.longest = self.longest.max(other.longest);
    }

    /// The buckets that hold runs, the shortest first.
    pub fn buckets(&self) -> impl Iterator<Item = RunBucket> + '_ {
        self.buckets
            .iter()
            .enumerate()
            .filter(|(_, (runs, _))| *runs > 0)
            .map(|(log2, &(runs, bytes))| RunBucket { from: ByteLen(1 << log2), runs, bytes: ByteLen(bytes) })
    }

    /// Number of runs.
    pub fn runs(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, (runs, _)| sum.saturating_add(*runs))
    }

    /// Bytes in all runs.
    pub fn bytes(&self) -> ByteLen {
        ByteLen(self.buckets.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)))
    }

    /// The longest run.
    pub fn longest(&self) -> ByteLen {
        ByteLen(self.longest)
    }

    /// Whether the changes are fragmented by these thresholds, with the numbers it rests on.
    pub fn fragmentation(&self, thresholds: &Thresholds) -> Fragmentation {
        let short = |bucket: &RunBucket| bucket.from.0 < thresholds.contiguous_run.0;
        let bytes_in_short_runs =
            self.buckets().filter(short).fold(0_u64, |sum, b| sum.saturating_add(b.bytes.0));
        let (bytes, runs) = (self.bytes(), self.runs());
        let permille = u128::from(bytes_in_short_runs) * 1000;
        let shape = if bytes.0 == 0 {
            ChangeShape::Unchanged
        } else if permille > u128::from(bytes.0) * u128::from(thresholds.short_runs_permille_max) {
            ChangeShape::Fragmented
        } else {
            ChangeShape::Contiguous
        };
        Fragmentation {
            shape,
            runs,
            bytes,
            bytes_in_short_runs: ByteLen(bytes_in_short_runs),
            mean_run: ByteLen(bytes.0 / runs.max(1)),
            longest: self.longest(),
        }
    }
}

/// How changes lie on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeShape {
    /// There are none.
    Unchanged,
    /// Mostly in long runs.
    Contiguous,
    /// Mostly in short runs.
    Fragmented,
}

/// Whether changes are fragmented, and why it is said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragmentation {
    /// The verdict.
    pub shape: ChangeShape,
    /// Runs of changed bytes.
    pub runs: u64,
    /// Changed bytes.
    pub bytes: ByteLen,
    /// Of these, bytes in runs that count as short.
    pub bytes_in_short_runs: ByteLen,
    /// Bytes of a run on average, rounded down; 0 without runs.
    pub mean_run: ByteLen,
    /// The longest run.
    pub longest: ByteLen,
}

/// What one backup found changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChurnSample {
    /// When the disk was read.
    pub at: Timestamp,
    /// Bytes that changed since the sample before.
    pub changed: ByteLen,
}

/// Changed bytes a day over a series of backups, ascending in time; rounded down, at most 2^64 - 1.
///
/// What the first of them found changed before the series and does not count. `None` where no time passes between the
/// first and the last, or where it runs backwards.
///
/// ```
/// use vmkeep_blockdiff::{ChurnSample, churn_per_day};
/// use vmkeep_model::{ByteLen, Timestamp};
///
/// let hour = 3_600_000;
/// let series = [(0, 900), (12, 30), (36, 60)]
///     .map(|(at, changed)| ChurnSample { at: Timestamp(at * hour), changed: ByteLen(changed) });
/// assert_eq!(churn_per_day(&series), Some(ByteLen(60))); // 90 bytes in a day and a half
/// ```
pub fn churn_per_day(series: &[ChurnSample]) -> Option<ByteLen> {
    let (first, later) = series.split_first()?;
    if !series.is_sorted_by_key(|sample| sample.at) {
        return None;
    }
    let passed_ms = later.last()?.at.0.abs_diff(first.at.0);
    let changed: u128 = later.iter().map(|sample| u128::from(sample.changed.0)).sum();
    let per_day = changed.saturating_mul(u128::from(DAY_MS)).checked_div(u128::from(passed_ms))?;
    Some(ByteLen(u64::try_from(per_day).unwrap_or(u64::MAX)))
}

/// When a warning is due.
///
/// The defaults are what Azure's guidance says of VM backup (the project's notes on the domain, section 4,
/// "Incremental transfer"):
///
/// > New disk added: its initial replication joins the next job; that job may pass 24 h.
/// >
/// > Fragmented changes: slower than contiguous ones.
/// >
/// > Churn: above **200 GB/day** on incremental disks: more than 8 h.
///
/// Where that gives no number, the default is our own and says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Churn of a VM's disks that is too much, in bytes a day. Default: Azure's 200 GB, read as 200 * 10^9: of the two
    /// readings the one that warns earlier.
    pub churn_per_day_max: ByteLen,
    /// Length from which a run counts as contiguous, in bytes, rounded up to a power of two. Default (our own): 1 MiB,
    /// what one read takes.
    pub contiguous_run: ByteLen,
    /// Part of the changed bytes that may lie in shorter runs, in thousandths. Default (our own): half.
    pub short_runs_permille_max: u32,
    /// Changed bytes below which fragmentation is not worth a warning. Default (our own): 1 GiB.
    pub fragmented_bytes_min: ByteLen,
    /// Bytes of a new disk from which its initial replication is worth a warning. Default: 1, since Azure names no
    /// size.
    pub initial_replication_min: ByteLen,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            churn_per_day_max: ByteLen(200_000_000_000),
            contiguous_run: ByteLen(1 << 20),
            short_runs_permille_max: 500,
            fragmented_bytes_min: ByteLen(1 << 30),
            initial_replication_min: ByteLen(1),
        }
    }
}

/// What is known of the changes that one backup takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeFacts {
    /// How the changes lie.
    pub runs: RunHistogram,
    /// Changed bytes a day, where a series is known ([`churn_per_day`]).
    pub churn_per_day: Option<ByteLen>,
    /// For a disk that is new to a VM which has points already: bytes of data that it brings.
    pub new_disk: Option<ByteLen>,
    /// What a part of the changed data was compressed to: bytes before and after.
    pub compressed: Option<(u64, u64)>,
}

/// Something about the changes that makes a backup slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeWarning {
    /// More changes in a day than a backup takes in a few hours.
    #[error("{per_day} bytes change a day, more than {limit}: backups may take more than 8 hours")]
    HighChurn {
        /// Changed bytes a day.
        per_day: ByteLen,
        /// The threshold.
        limit: ByteLen,
    },
    /// The changes lie in many short runs.
    #[error(
        "the changes are fragmented: {} of {} changed bytes lie in short runs ({} runs, {} bytes on average); they take \
         longer than contiguous ones",
        .0.bytes_in_short_runs, .0.bytes, .0.runs, .0.mean_run
    )]
    Fragmented(Fragmentation),
    /// A disk that is new to the VM is copied whole.
    #[error(
        "a new disk of {bytes} bytes of data is copied whole with this backup, which may take more than 24 hours"
    )]
    InitialReplication {
        /// Bytes of data on the new disk.
        bytes: ByteLen,
    },
    /// What changed does not compress, as data does that a guest encrypts.
    #[error(
        "what changed hardly compresses ({plain} bytes to {stored}): data that is encrypted in the guest takes all the space it \
         has, and no two copies of it are alike"
    )]
    Incompressible {
        /// Bytes before compression.
        plain: u64,
        /// Bytes after it.
        stored: u64,
    },
}

/// Bytes from which it is worth a warning that they do not compress.
const INCOMPRESSIBLE_MIN: u64 = 1 << 20;

/// What is worth a warning, the longest delay first.
pub fn change_warnings(facts: &ChangeFacts, thresholds: &Thresholds) -> Vec<ChangeWarning> {
    let initial = facts
        .new_disk
        .filter(|bytes| *bytes >= thresholds.initial_replication_min)
        .map(|bytes| ChangeWarning::InitialReplication { bytes });
    let limit = thresholds.churn_per_day_max;
    let churn = facts
        .churn_per_day
        .filter(|per_day| *per_day > limit)
        .map(|per_day| ChangeWarning::HighChurn { per_day, limit });
    let fragmentation = facts.runs.fragmentation(thresholds);
    let matters = fragmentation.shape == ChangeShape::Fragmented
        && fragmentation.bytes >= thresholds.fragmented_bytes_min;
    let fragmented = matters.then_some(ChangeWarning::Fragmented(fragmentation));
    let incompressible = facts
        .compressed
        .filter(|(plain, stored)| {
            *plain >= INCOMPRESSIBLE_MIN && u128::from(*stored) * 100 >= u128::from(*plain) * 98
        })
        .map(|(plain, stored)| ChangeWarning::Incompressible { plain, stored });
    initial.into_iter().chain(churn).chain(fragmented).chain(incompressible).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmkeep_model::{ByteOffset, ExtentSet};

    use super::*;

    fn bytes(len: u64) -> ByteLen {
        ByteLen(len)
    }

    proptest! {
        #[test]
        fn the_histogram_counts_the_runs_of_the_set(
            extents in prop::collection::vec((0_u64..5000, 0_u64..300), 0..40)
        ) {
            let mut extents: Vec<Extent> =
                extents.into_iter().map(|(at, len)| Extent::new(ByteOffset(at), ByteLen(len))).collect();
            extents.sort();
            let set: ExtentSet = extents.iter().copied().collect();
            let histogram = RunHistogram::of(extents);
            prop_assert_eq!(histogram.runs(), set.iter().count() as u64);
            prop_assert_eq!(histogram.bytes(), set.byte_count());
            prop_assert_eq!(histogram.longest().0, set.iter().map(|e| e.len().0).max().unwrap_or(0));
            for bucket in histogram.buckets() {
                let within: Vec<u64> =
                    set.iter().map(|e| e.len().0).filter(|n| (bucket.from.0..bucket.from.0 * 2).contains(n)).collect();
                prop_assert_eq!((bucket.runs, bucket.bytes.0), (within.len() as u64, within.iter().sum::<u64>()));
            }
        }

        #[test]
        fn merging_counts_both(some in prop::collection::vec(any::<u64>(), 0..9), more in prop::collection::vec(any::<u64>(), 0..9)) {
            let count = |lens: &[u64]| {
                let mut histogram = RunHistogram::default();
                for len in lens {
                    histogram.add(ByteLen(*len));
                }
                histogram
            };
            let mut merged = count(&some);
            merged.merge(&count(&more));
            prop_assert_eq!(merged, count(&[some, more].concat()));
        }

        #[test]
        fn even_churn_is_what_it_is(per_hour in 0_u64..1 << 40, hours in 1_i64..1000, first in any::<u32>()) {
            let series: Vec<ChurnSample> = (0..=hours)
                .map(|n| ChurnSample { at: Timestamp(i64::from(first) + n * 3_600_000), changed: bytes(per_hour) })
                .collect();
            prop_assert_eq!(churn_per_day(&series), Some(bytes(per_hour * 24)));
        }
    }

    #[test]
    fn without_time_there_is_no_rate() {
        let at = |at, changed| ChurnSample { at: Timestamp(at), changed: bytes(changed) };
        assert_eq!(churn_per_day(&[]), None);
        assert_eq!(churn_per_day(&[at(5, 7)]), None);
        assert_eq!(churn_per_day(&[at(5, 7), at(5, 8)]), None);
        assert_eq!(churn_per_day(&[at(5, 7), at(9, 1), at(8, 8)]), None);
        let most = u64::MAX;
        assert_eq!(churn_per_day(&[at(i64::MIN, 0), at(i64::MIN + 1, most)]), Some(bytes(most)));
        assert_eq!(churn_per_day(&[at(i64::MIN, 0), at(i64::MAX, 5)]), Some(bytes(0)));
    }

    #[test]
    fn warnings_at_the_thresholds() {
        let thresholds = Thresholds::default();
        let mut facts = ChangeFacts { churn_per_day: Some(bytes(200_000_000_000)), ..ChangeFacts::default() };
        facts.runs.add(bytes(5 << 20));
        assert_eq!(change_warnings(&facts, &thresholds), []);
        facts.churn_per_day = Some(bytes(200_000_000_001));
        facts.new_disk = Some(bytes(4 << 40));
        for (compressed, warns) in
            [((1 << 20, 1_027_605), true), ((1 << 20, 1_027_604), false), (((1 << 20) - 1, 1 << 20), false)]
        {
            let facts = ChangeFacts { compressed: Some(compressed), ..ChangeFacts::default() };
            assert_eq!(change_warnings(&facts, &thresholds).len(), usize::from(warns), "{compressed:?}");
        }
        let told: Vec<String> =
            change_warnings(&facts, &thresholds).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "a new disk of 4398046511104 bytes of data is copied whole with this backup, which may take more than 24 hours",
                "200000000001 bytes change a day, more than 200000000000: backups may take more than 8 hours"
            ]
        );
    }

    #[test]
    fn half_of_the_bytes_in_short_runs_is_not_yet_fragmented() {
        let thresholds = Thresholds { fragmented_bytes_min: bytes(0), ..Thresholds::default() };
        let mut facts = ChangeFacts::default();
        assert_eq!(facts.runs.fragmentation(&thresholds).shape, ChangeShape::Unchanged);
        facts.runs.add(bytes(1 << 20));
        for _ in 0..16 {
            facts.runs.add(bytes(65_536));
        }
        assert_eq!(facts.runs.fragmentation(&thresholds).shape, ChangeShape::Contiguous);
        assert_eq!(change_warnings(&facts, &thresholds), []);
        facts.runs.add(bytes(4096));
        let expected = Fragmentation {
            shape: ChangeShape::Fragmented,
            runs: 18,
            bytes: bytes((2 << 20) + 4096),
            bytes_in_short_runs: bytes((1 << 20) + 4096),
            mean_run: bytes(116_736),
            longest: bytes(1 << 20),
        };
        assert_eq!(facts.runs.fragmentation(&thresholds), expected);
        assert_eq!(change_warnings(&facts, &thresholds), [ChangeWarning::Fragmented(expected)]);
        // So little is not worth a word.
        assert_eq!(change_warnings(&facts, &Thresholds::default()), []);
    }
}
