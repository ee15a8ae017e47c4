//! Successive contents of a small disk, as a strategy.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;

use super::content::{self, Content};

/// Largest size of a disk in a history.
const SIZE_MAX: usize = 2 << 20;
/// Longest single write.
const WRITE_MAX: usize = 300 << 10;
/// Most versions after the first, and most edits between two.
const VERSIONS_MAX: usize = 4;
const EDITS_MAX: usize = 6;

/// What a disk held at successive times.
#[derive(Clone)]
pub struct DiskHistory {
    /// The whole disk at each time; at least one, none empty, each at most 2 MiB.
    pub versions: Vec<Vec<u8>>,
    /// The size at first.
    size: usize,
    /// The edits before each version, the first included.
    edits: Vec<Vec<Edit>>,
}

impl fmt::Debug for DiskHistory {
    /// The edits that lead to the versions; the bytes would fill the screen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lens: Vec<usize> = self.versions.iter().map(Vec::len).collect();
        let mut parts = f.debug_struct("DiskHistory");
        parts
            .field("size", &self.size)
            .field("edits", &self.edits)
            .field("lens", &lens)
            .finish_non_exhaustive()
    }
}

/// One change. Places and lengths are cut to fit the disk as it is then.
#[derive(Clone, Debug)]
enum Edit {
    /// Writes noise or text.
    Write { at: prop::sample::Index, len: usize, key: u64, text: bool },
    /// Writes zeros, or discards.
    Zero { at: prop::sample::Index, len: usize },
    /// Adds zeros at the end.
    Grow(usize),
    /// Cuts the end off; at least one byte stays.
    Shrink(usize),
}

impl Edit {
    fn apply(&self, disk: &mut Vec<u8>) {
        match *self {
            Self::Write { at, len, key, text } => {
                let at = at.index(disk.len());
                let end = (at + len).min(disk.len());
                let content = if text { Content::Text } else { Content::Incompressible };
                content::fill(content, key, 0, &mut disk[at..end]);
            }
            Self::Zero { at, len } => {
                let at = at.index(disk.len());
                let end = (at + len).min(disk.len());
                disk[at..end].fill(0);
            }
            Self::Grow(by) => disk.resize((disk.len() + by).min(SIZE_MAX), 0),
            Self::Shrink(by) => disk.truncate(disk.len().saturating_sub(by).max(1)),
        }
    }
}

/// Lengths from a byte to `max`, often at the edges of sectors, pages and blocks.
fn length(max: usize) -> impl Strategy<Value = usize> {
    let edge =
        (0_u32..=21, -1_isize..=1).prop_map(|(log2, off)| (1_usize << log2).saturating_add_signed(off));
    let multiple = (1_usize..=512, prop::sample::select(vec![512_usize, 4096, 16 << 10, 64 << 10]))
        .prop_map(|(n, unit)| n * unit);
    prop_oneof![2 => 1..=max, 1 => edge, 2 => multiple].prop_map(move |len| len.clamp(1, max))
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        5 => (at(), length(WRITE_MAX), any::<u64>(), any::<bool>())
            .prop_map(|(at, len, key, text)| Edit::Write { at, len, key, text }),
        2 => (at(), length(SIZE_MAX)).prop_map(|(at, len)| Edit::Zero { at, len }),
        1 => length(SIZE_MAX).prop_map(Edit::Grow),
        1 => length(SIZE_MAX).prop_map(Edit::Shrink),
    ]
}

/// A small disk and what it becomes by writes, zeroed ranges, growing and shrinking: one to five versions, sizes
/// of 1 byte to 2 MiB, whole blocks or not. Two versions in a row may be equal.
pub fn disk_history() -> impl Strategy<Value = DiskHistory> {
    let edits = vec(vec(edit(), 0..=EDITS_MAX), 1..=VERSIONS_MAX + 1);
    (length(SIZE_MAX), edits).prop_map(|(size, edits)| {
        let mut disk = vec![0; size];
        let version = |edits: &Vec<Edit>| {
            for edit in edits {
                edit.apply(&mut disk);
            }
            disk.clone()
        };
        DiskHistory { versions: edits.iter().map(version).collect(), size, edits }
    })
}

#[cfg(test)]
mod tests {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::*;

    #[test]
    fn histories_hold_every_case_that_matters() {
        let mut runner = TestRunner::deterministic();
        let (mut grew, mut shrank, mut same_size, mut odd, mut whole_blocks, mut all_zero) =
            (0, 0, 0, 0, 0, 0);
        for _ in 0..200 {
            let history = disk_history().new_tree(&mut runner).unwrap().current();
            assert!((1..=VERSIONS_MAX + 1).contains(&history.versions.len()));
            assert!(format!("{history:?}").len() < 20_000);
            for disk in &history.versions {
                assert!((1..=SIZE_MAX).contains(&disk.len()));
                odd += u32::from(disk.len() % 512 != 0);
                whole_blocks += u32::from(disk.len() % (64 << 10) == 0);
                all_zero += u32::from(disk.iter().all(|&b| b == 0));
            }
            for pair in history.versions.windows(2) {
                grew += u32::from(pair[0].len() < pair[1].len());
                shrank += u32::from(pair[0].len() > pair[1].len());
                same_size += u32::from(pair[0].len() == pair[1].len() && pair[0] != pair[1]);
            }
        }
        for count in [grew, shrank, same_size, odd, whole_blocks, all_zero] {
            assert!(count > 10, "{grew} {shrank} {same_size} {odd} {whole_blocks} {all_zero}");
        }
    }
}
