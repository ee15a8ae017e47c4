//! What a pack says of itself: its footer, and with it where each slot lies.

use std::ops::Range;

use bytes::Bytes;
use vmkeep_envelope::{Codec, PackContent, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, DiskName};

/// Where a slot lies in its pack and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotPlace {
    pub(crate) offset: u64,
    /// Header, body and tag.
    pub(crate) len: u64,
    pub(crate) kind: SlotKind,
    pub(crate) codec: Codec,
    pub(crate) plain_len: u32,
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
    pub(crate) size: u64,
    /// The pack itself when it is small enough to have come with its footer.
    pub(crate) whole: Option<Bytes>,
}

impl PackIndex {
    /// About how much memory it takes.
    pub(crate) fn weight(&self) -> usize {
        self.slots.len() * 64
            + self.blocks.iter().map(|list| list.len() * 24).sum::<usize>()
            + self.whole.as_ref().map_or(0, Bytes::len)
            + 128
    }
}
