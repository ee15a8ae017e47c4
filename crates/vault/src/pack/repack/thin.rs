//! Sealing again what is left of slots: dead blocks and patches are dropped, what is left is packed together.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use vmkeep_envelope::{
    BranchKey, Codec, PackBuilder, PackContent, SealContext, SealError, SealedPack, SlotKind,
};
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, PointNumber};

use super::source::{Piece, Taken, unit_len};
use crate::format::{FooterBody, FooterSlot, Origin, Part, SlotBirth, Thinned};
use crate::frame::{CompressionLevel, FrameEncoder, FrameError};

/// Why something was not taken.
pub(super) enum NotTaken {
    Seal(SealError),
    Frame(FrameError),
}

impl From<SealError> for NotTaken {
    fn from(e: SealError) -> Self {
        Self::Seal(e)
    }
}

impl From<FrameError> for NotTaken {
    fn from(e: FrameError) -> Self {
        Self::Frame(e)
    }
}

/// A slot as it was opened: as it was packed, and plain.
pub(super) struct Plain<'a> {
    pub(super) codec: Codec,
    pub(super) body: &'a [u8],
    pub(super) bytes: &'a [u8],
}

/// A pack of thinned slots in the making.
pub(super) struct Thinner {
    block_size: BlockSize,
    level: CompressionLevel,
    encoder: FrameEncoder,
    builder: PackBuilder,
    pub(super) footer: Vec<FooterSlot>,
    /// What does not make a whole frame yet, by kind.
    filling: BTreeMap<u8, Filling>,
}

/// A slot in the making.
#[derive(Clone)]
struct Filling {
    kind: SlotKind,
    plain: Vec<u8>,
    parts: Vec<Part>,
    blocks: Vec<(BlockIndex, ContentHash)>,
    patches: Vec<(BlockIndex, u32, ContentHash)>,
}

/// A pack in the making as it was at one time.
pub(super) struct Before {
    slots: u32,
    filling: BTreeMap<u8, Filling>,
}

impl Thinner {
    pub(super) fn new(block_size: BlockSize, capacity: usize) -> Result<Self, FrameError> {
        let level = CompressionLevel::Default;
        Ok(Self {
            block_size,
            level,
            encoder: FrameEncoder::new(level)?,
            builder: PackBuilder::new(PackContent::Data, capacity),
            footer: Vec::new(),
            filling: BTreeMap::new(),
        })
    }

    /// What comes now is packed as `level` does it.
    pub(super) fn set_level(&mut self, level: CompressionLevel) -> Result<(), NotTaken> {
        if level != self.level {
            self.flush()?;
            (self.level, self.encoder) = (level, FrameEncoder::new(level)?);
        }
        Ok(())
    }

    /// Bytes collected so far.
    pub(super) fn byte_len(&self) -> usize {
        self.builder.byte_len() + self.filling.values().map(|filling| filling.plain.len()).sum::<usize>()
    }

    /// How many parts it has taken.
    pub(super) fn parts(&self) -> usize {
        let of = |slot: &FooterSlot| match &slot.origin {
            Origin::Thinned(thinned) => thinned.parts.len(),
            _ => 1,
        };
        let filling = self.filling.values().map(|filling| filling.parts.len());
        self.footer.iter().map(of).chain(filling).sum()
    }

    pub(super) fn before(&self) -> Before {
        Before { slots: self.builder.slot_count(), filling: self.filling.clone() }
    }

    /// Takes back everything that was added since.
    pub(super) fn take_back(&mut self, before: Before) {
        self.builder.truncate(before.slots);
        self.footer.truncate(usize::try_from(before.slots).unwrap_or(usize::MAX));
        self.filling = before.filling;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.builder.is_empty() && self.filling.is_empty()
    }

    /// Adds what is kept of a slot. All that is kept of one part goes into one slot.
    pub(super) fn add(&mut self, slot: &Taken, plain: &Plain<'_>) -> Result<(), NotTaken> {
        let full = self.level.frame_blocks(self.block_size) * self.block_size.bytes();
        if slot.whole && plain.bytes.len() >= full / 2 {
            let parts = slot.pieces.iter().map(|piece| piece.part.clone()).collect();
            let FooterSlot { plain_len, kind, .. } = slot.told;
            let footer = (slot.told.blocks.clone(), slot.told.patches.clone());
            return self.push(parts, kind, (plain.codec, plain_len, plain.body), footer);
        }
        let unit = unit_len(slot.told.kind, self.block_size);
        for piece in &slot.pieces {
            let len: usize = piece.entries.iter().map(|&(_, _, units)| units as usize * unit).sum();
            let first = piece.entries.first().and_then(|&(entry, ..)| slot.told.block(entry));
            let key = slot.told.kind.number();
            let fits = |filling: &Filling| filling.plain.len() + len <= full && filling.last() < first;
            if self.filling.get(&key).is_some_and(|filling| !fits(filling)) {
                self.flush_one(key)?;
            }
            self.filling
                .entry(key)
                .or_insert_with(|| Filling::new(slot.told.kind))
                .take(slot, piece, plain, unit);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), NotTaken> {
        while let Some(key) = self.filling.keys().next().copied() {
            self.flush_one(key)?;
        }
        Ok(())
    }

    fn flush_one(&mut self, key: u8) -> Result<(), NotTaken> {
        let Some(Filling { kind, plain, parts, blocks, patches }) = self.filling.remove(&key) else {
            return Ok(());
        };
        let (codec, plain_len, body) = self.encoder.pack(Cow::Owned(plain))?;
        self.push(parts, kind, (codec, plain_len, &body), (blocks, patches))
    }

    #[allow(clippy::type_complexity)] // the two lists of a footer's slot
    fn push(
        &mut self,
        parts: Vec<Part>,
        kind: SlotKind,
        (codec, plain_len, body): (Codec, u32, &[u8]),
        (blocks, patches): (Vec<(BlockIndex, ContentHash)>, Vec<(BlockIndex, u32, ContentHash)>),
    ) -> Result<(), NotTaken> {
        self.builder.push(kind, codec, plain_len, body)?;
        let len = self.builder.slots().last().map_or(0, |layout| u64::from(layout.len));
        let thinned = Thinned { sealed: None, parts };
        let (birth, origin) = (thinned.newest(), Origin::Thinned(Arc::new(thinned)));
        self.footer.push(FooterSlot { birth, origin, len, plain_len, codec, kind, blocks, patches });
        Ok(())
    }

    /// Seals the pack. Gives with it where each part lies: the place of its slot.
    pub(super) fn seal(
        mut self,
        (data, map): (&BranchKey, &BranchKey),
        context: &SealContext<'_>,
        body: FooterBody,
    ) -> Result<(SealedPack, Vec<(u32, SlotBirth)>), NotTaken> {
        self.flush()?;
        let point = self.footer.iter().map(|slot| slot.birth).max().unwrap_or(PointNumber(0));
        let mut moved = Vec::new();
        for (at, slot) in (0_u32..).zip(&self.footer) {
            if let Origin::Thinned(thinned) = &slot.origin {
                moved.extend(thinned.parts.iter().map(|part| (at, part.birth)));
            }
        }
        let body = FooterBody { point, slots: self.footer, ..body };
        Ok((self.builder.seal(data, map, &body.encode(), context)?, moved))
    }
}

impl Filling {
    fn new(kind: SlotKind) -> Self {
        Self { kind, plain: Vec::new(), parts: Vec::new(), blocks: Vec::new(), patches: Vec::new() }
    }

    /// The last block that it holds anything of.
    fn last(&self) -> Option<BlockIndex> {
        let block = self.blocks.last().map(|(block, _)| *block);
        block.or_else(|| self.patches.last().map(|(block, ..)| *block))
    }

    fn take(&mut self, slot: &Taken, piece: &Piece, plain: &Plain<'_>, unit: usize) {
        for &(entry, at, units) in &piece.entries {
            let start = at as usize * unit;
            self.plain.extend_from_slice(&plain.bytes[start..start + units as usize * unit]);
            self.blocks.extend(slot.told.blocks.get(entry));
            self.patches.extend(slot.told.patches.get(entry));
        }
        self.parts.push(piece.part.clone());
    }
}

impl FooterSlot {
    /// The block that an entry tells of.
    fn block(&self, entry: usize) -> Option<BlockIndex> {
        let block = self.blocks.get(entry).map(|(block, _)| *block);
        block.or_else(|| self.patches.get(entry).map(|(block, ..)| *block))
    }
}
