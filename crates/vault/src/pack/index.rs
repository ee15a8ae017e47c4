//! What a pack says of itself: its footer, and with it where each slot lies.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::Range;

use bytes::Bytes;
use vmkeep_envelope::{Codec, PackContent, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, DiskName, PointNumber};

/// Where a slot lies in its pack and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotPlace {
    pub(crate) offset: u64,
    /// Header, body and tag.
    pub(crate) len: u64,
    pub(crate) kind: SlotKind,
    pub(crate) codec: Codec,
    pub(crate) plain_len: u32,
    /// The point it was made for.
    pub(crate) point: PointNumber,
}

impl SlotPlace {
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
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
    pub(crate) slots: Vec<SlotPlace>,
    /// Per slot, the blocks in it in order (block slots only).
    pub(crate) blocks: Vec<Vec<(BlockIndex, ContentHash)>>,
    /// By slot, the patched blocks in it in order, each with its number of pages (page-patch slots only).
    pub(crate) patches: BTreeMap<u32, Vec<(BlockIndex, u32)>>,
    pub(crate) size: u64,
    /// The pack itself when it is small enough to have come with its footer.
    pub(crate) whole: Option<Bytes>,
}

impl PackIndex {
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
