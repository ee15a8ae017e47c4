//! What a pack says of itself: its footer, and with it where each slot lies.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::Range;

use bytes::Bytes;
use vmkeep_envelope::{Codec, PackContent, SlotId, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, DiskName, PointNumber};

use crate::format::{Origin, SlotBirth};
use crate::place::PackPlace;

/// Slots of one pack with at most this many bytes between them are fetched in one read.
const GAP_MAX: u64 = 256 << 10;
/// Most bytes fetched in one read, unless one slot alone is longer.
const FETCH_MAX: u64 = 4 << 20;

/// Where a slot lies in its pack and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotPlace {
    pub(crate) offset: u64,
    /// Header, body and tag.
    pub(crate) len: u64,
    pub(crate) kind: SlotKind,
    pub(crate) codec: Codec,
    pub(crate) plain_len: u32,
    pub(crate) origin: Origin,
    /// The point it was made for.
    pub(crate) point: PointNumber,
}

impl SlotPlace {
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }

    /// Where the slot at place `at` of the pack `own` was born; `None` when its footer does not say.
    pub(crate) fn birth(&self, own: &PackPlace, at: u32) -> Option<SlotBirth> {
        self.origin.birth(own, at)
    }
}

/// A pack's footer, opened, and the size of the pack it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackIndex {
    pub(crate) content: PackContent,
    /// Epoch of the branch that seals the slots.
    pub(crate) epoch: u32,
    /// The disk of a data pack, with its block size.
    pub(crate) disk: Option<(DiskName, BlockSize)>,
    /// By place; a slot that was born here has its number as its place.
    pub(crate) slots: Vec<SlotPlace>,
    /// Per slot, the blocks in it in order (block slots only).
    pub(crate) blocks: Vec<Vec<(BlockIndex, ContentHash)>>,
    /// By slot, the patched blocks in it in order, each with its number of pages (page-patch slots only).
    pub(crate) patches: BTreeMap<u32, Vec<(BlockIndex, u32)>>,
    pub(crate) size: u64,
    /// The pack itself when it is small enough to have come with its footer.
    pub(crate) whole: Option<Bytes>,
}

impl Origin {
    /// Where a slot at place `at` of the pack `own` was born.
    pub(crate) fn birth(&self, own: &PackPlace, at: u32) -> Option<SlotBirth> {
        match self {
            Self::BornHere => {
                Some(SlotBirth { session: own.session, id: SlotId { pack: own.name, slot: at } })
            }
            Self::MovedUnplaced => None,
            Self::Moved(birth) => Some(*birth),
        }
    }
}

impl PackIndex {
    /// The same without the bytes that came with it: what is read comes from the store.
    pub(crate) fn without_bytes(&self) -> Self {
        Self { whole: None, ..self.clone() }
    }

    /// About how much memory it takes.
    pub(crate) fn weight(&self) -> usize {
        fn held<T>(list: &[T]) -> usize {
            size_of::<Vec<T>>() + size_of_val(list)
        }
        size_of_val(self.slots.as_slice())
            + self.blocks.iter().map(|list| held(list)).sum::<usize>()
            + self.patches.values().map(|list| held(list) + size_of::<u32>()).sum::<usize>()
            + self.disk.as_ref().map_or(0, |(name, _)| name.as_str().len())
            + self.whole.as_ref().map_or(0, Bytes::len)
            + size_of::<Self>()
    }
}

/// How many of the first slots of `places`, which ascend, are fetched in one read.
pub(crate) fn neighbours(index: &PackIndex, places: impl Iterator<Item = u32>) -> usize {
    let mut ranges = places.map_while(|at| Some(index.slots.get(usize::try_from(at).ok()?)?.range()));
    let Some(first) = ranges.next() else { return 0 };
    let (start, mut end, mut count) = (first.start, first.end, 1);
    for range in ranges {
        if range.start.saturating_sub(end) > GAP_MAX || range.end - start > FETCH_MAX {
            break;
        }
        (end, count) = (range.end, count + 1);
    }
    count
}
