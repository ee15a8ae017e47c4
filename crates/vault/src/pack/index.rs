//! What a pack says of itself: its footer, and with it where each slot lies.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use vmkeep_envelope::{Codec, PackContent, SlotId, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, DiskName, PointNumber};

use crate::format::{Origin, Part, SlotBirth, Thinned, Unit};
use crate::place::PackPlace;

/// Slots of one pack with at most this many bytes between them are fetched in one read.
const GAP_MAX: u64 = 256 << 10;
/// Most bytes fetched in one read, unless one slot alone is longer.
const FETCH_MAX: u64 = 4 << 20;

/// Where a slot lies in its pack and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
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

    /// As what the slot at place `at` of the pack `own` was sealed; `None` when its footer does not say.
    pub(crate) fn sealed_as(&self, own: &PackPlace, at: u32) -> Option<SlotId> {
        self.origin.sealed_as(own, at)
    }

    /// Where the unit lies in the slot, and the `len - 1` that follow it, which were born at `index` of `birth`; the
    /// slot lies at place `at` of the pack `own`. `None` when they are not in it.
    pub(crate) fn unit(
        &self,
        (own, at): (&PackPlace, u32),
        birth: &SlotBirth,
        index: u32,
        len: u32,
    ) -> Option<u32> {
        match &self.origin {
            Origin::Thinned(thinned) => thinned.find(birth, index, len),
            whole => whole.births(own, at).any(|born| born == *birth).then_some(index),
        }
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
    /// Where what is in a slot was born, by part, when it lies at place `at` of the pack `own`. Nothing when the footer
    /// does not say.
    pub(crate) fn births(&self, own: &PackPlace, at: u32) -> impl Iterator<Item = SlotBirth> + use<'_> {
        let (whole, parts) = match self {
            Self::BornHere => {
                let id = SlotId { pack: own.name, slot: at };
                (Some(SlotBirth { session: own.session, id }), None)
            }
            Self::MovedUnplaced => (None, None),
            Self::Moved(birth) => (Some(*birth), None),
            Self::Thinned(thinned) => (None, Some(thinned.parts.iter().map(|part| part.birth))),
        };
        whole.into_iter().chain(parts.into_iter().flatten())
    }

    /// As what the slot at place `at` of the pack `own` was sealed.
    pub(crate) fn sealed_as(&self, own: &PackPlace, at: u32) -> Option<SlotId> {
        let here = SlotId { pack: own.name, slot: at };
        match self {
            Self::BornHere => Some(here),
            Self::MovedUnplaced => None,
            Self::Moved(birth) => Some(birth.id),
            Self::Thinned(thinned) => Some(thinned.sealed.unwrap_or(here)),
        }
    }

    /// How the footer of another pack tells of the slot at place `at` of `own` once it was copied there as it is.
    pub(crate) fn moved_from(&self, own: &PackPlace, at: u32) -> Self {
        match self {
            Self::Thinned(thinned) => {
                let sealed = self.sealed_as(own, at);
                Self::Thinned(Arc::new(Thinned { sealed, parts: thinned.parts.clone() }))
            }
            _ => self.births(own, at).next().map_or(Self::MovedUnplaced, Self::Moved),
        }
    }
}

impl PackIndex {
    /// The same without the bytes that came with it: what is read comes from the store.
    pub(crate) fn without_bytes(&self) -> Self {
        Self { whole: None, ..self.clone() }
    }

    /// Whether the footer tells of blocks or patches in the slot at place `at`.
    pub(crate) fn has_entries(&self, at: u32) -> bool {
        let blocks = usize::try_from(at).ok().and_then(|at| self.blocks.get(at));
        blocks.is_some_and(|blocks| !blocks.is_empty()) || self.patches.contains_key(&at)
    }

    /// What each entry of the slot at place `at` tells of; nothing for a slot without entries.
    pub(crate) fn units(&self, at: u32) -> Vec<(BlockIndex, Unit)> {
        let Some((place, slot)) =
            usize::try_from(at).ok().and_then(|slot| Some((self.slots.get(slot)?, slot)))
        else {
            return Vec::new();
        };
        let whole = self.blocks.get(slot).into_iter().flatten().map(|&(block, _)| (block, 1));
        let patches = self.patches.get(&at).into_iter().flatten().copied();
        let entries: Vec<(BlockIndex, u32)> = whole.chain(patches).collect();
        let units = place.origin.units(entries.iter().map(|&(_, len)| len)).unwrap_or_default();
        entries.into_iter().map(|(block, _)| block).zip(units).collect()
    }

    /// About how much memory it takes.
    pub(crate) fn weight(&self) -> usize {
        fn held<T>(list: &[T]) -> usize {
            size_of::<Vec<T>>() + size_of_val(list)
        }
        let parts = self.slots.iter().map(|slot| match &slot.origin {
            Origin::Thinned(thinned) => {
                thinned.parts.iter().map(|part| size_of::<Part>() + held(&part.kept)).sum()
            }
            _ => 0,
        });
        size_of_val(self.slots.as_slice())
            + parts.sum::<usize>()
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
