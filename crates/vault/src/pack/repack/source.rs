//! A pack to take slots out of, and what is kept of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkeep_envelope::{BranchId, BranchKey, OpenError, PackContent, SLOT_PLAIN_MAX, SlotId, SlotKind};
use vmkeep_model::{BlockSize, DiskName};

use super::FOOTER_HEAD;
use crate::error::VaultError;
use crate::format::{FooterSlot, FormatError, Origin, Part, SlotBirth, Thinned};
use crate::frame::CompressionLevel;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::pack::index::PackIndex;
use crate::pack::reader::{PackFooter, sealed_as, slot_of, unplaced};
use crate::place::PackPlace;
use crate::vault::Inner;

/// A pack to take slots out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Where it lies, in the lineage's own packs: the birth pack of its slots, or one that they were moved to.
    pub(crate) pack: PackPlace,
    /// Places of the slots to keep, and what of each.
    pub(crate) keep: BTreeMap<u32, Keep>,
}

/// What of a slot is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Whole,
    /// Of each entry of the footer, in order, whether its block or patch is kept. A slot that is copied as it is keeps
    /// the others too, but nobody finds them there.
    Entries(Vec<bool>),
}

/// What the slots of one new pack have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Common {
    /// The key that their slots are sealed with.
    pub(super) key: BranchId,
    pub(super) disk: Option<(DiskName, BlockSize)>,
    /// Slots are opened, thinned and sealed again.
    pub(super) thin: bool,
}

/// A source with its footer, and what keeping its slots takes.
pub(super) struct Opened {
    pub(super) source: Source,
    pub(super) common: Common,
    pub(super) index: PackIndex,
    pub(super) slots: Vec<Taken>,
    /// About how many bytes the slots take in a new pack.
    pub(super) bytes: u64,
    pub(super) footer_bytes: usize,
}

/// A slot to keep.
pub(super) struct Taken {
    pub(super) at: u32,
    /// As what it is sealed.
    pub(super) sealed: SlotId,
    /// How the footer tells of it.
    pub(super) told: FooterSlot,
    /// What is kept, by the slot it was born in.
    pub(super) pieces: Vec<Piece>,
    /// That is all there is in it.
    pub(super) whole: bool,
}

/// What is kept of one part of a slot.
pub(super) struct Piece {
    pub(super) part: Part,
    /// Which entries of the footer, with the first unit of each and the number of its units.
    pub(super) entries: Vec<(usize, u32, u32)>,
}

/// Whether the slots of a pack can be opened here, and sealed again.
pub(crate) fn can_thin(lineage: &Lineage, content: PackContent, epoch: u32) -> bool {
    let domain = &lineage.domain;
    content == PackContent::Data
        && domain.data_key_of(epoch).is_ok()
        && domain.data_key().is_ok()
        && domain.identity().is_ok()
}

impl Common {
    pub(super) fn of(footer: &PackFooter, lineage: &Lineage) -> Self {
        let (head, disk) = (&footer.head, footer.body.disk.clone());
        let thin = disk.is_some() && can_thin(lineage, head.content, head.slots.epoch);
        // What is sealed anew has the newest key, so that epochs may mix.
        let key = lineage.domain.data_key().ok().filter(|_| thin);
        Self { key: key.map_or(head.slots, BranchKey::id), disk, thin }
    }
}

impl Opened {
    pub(super) fn new(vault: &Inner, lineage: &Lineage, source: Source) -> Result<Self, VaultError> {
        let footer = vault.read_footer_of(lineage, &source.pack)?;
        let name = ObjectName::pack(lineage.id, &source.pack);
        let common = Common::of(&footer, lineage);
        let told = footer.body.slots.clone();
        let index = footer.into_index();
        let (mut slots, mut bytes, mut encoded) = (Vec::with_capacity(source.keep.len()), 0, Vec::new());
        for (&at, keep) in &source.keep {
            let sealed = sealed_as(slot_of(&index, &name, at)?, &source.pack, &name, at)?;
            let told = told[at as usize].clone();
            let slot = Taken::new(&source.pack, &name, (at, sealed), told, keep)?;
            bytes += if common.thin { slot.share() } else { slot.told.len };
            slot.told_anew(&source.pack, common.thin).encode(&mut encoded);
            slots.push(slot);
        }
        let footer_bytes = encoded.len();
        if footer_bytes > SLOT_PLAIN_MAX - FOOTER_HEAD {
            let (len, max) = (footer_bytes as u64, (SLOT_PLAIN_MAX - FOOTER_HEAD) as u64);
            let source = OpenError::TooLarge {
                what: "what a footer tells of its slots, when they are moved,",
                len,
                max,
            };
            return Err(VaultError::open(&name, source));
        }
        Ok(Self { source, common, index, slots, bytes, footer_bytes })
    }

    /// The level its frames were made at, as far as their length tells.
    pub(super) fn level(&self, block_size: BlockSize) -> CompressionLevel {
        let longest = self.index.blocks.iter().map(Vec::len).max().unwrap_or(0);
        if longest > CompressionLevel::Default.frame_blocks(block_size) {
            CompressionLevel::Best
        } else {
            CompressionLevel::Default
        }
    }
}

impl Taken {
    fn new(
        pack: &PackPlace,
        name: &ObjectName,
        (at, sealed): (u32, SlotId),
        told: FooterSlot,
        keep: &Keep,
    ) -> Result<Self, VaultError> {
        let births: Vec<SlotBirth> = told.origin.births(pack, at).collect();
        if births.is_empty() {
            return Err(unplaced(name, at));
        }
        let points = told.origin.points(told.birth);
        let units = told.units().ok_or_else(|| {
            let what = format!("slot {at} holds more than a slot can");
            VaultError::malformed(name, FormatError(what))
        })?;
        let is_kept = |entry: usize| match keep {
            Keep::Whole => true,
            Keep::Entries(kept) => kept.get(entry).copied().unwrap_or(true),
        };
        let pieces = births.into_iter().zip(points).map(|(birth, point)| Part::new(birth, point));
        let mut pieces: Vec<Piece> = pieces.map(|part| Piece { part, entries: Vec::new() }).collect();
        let mut whole = true;
        for (entry, unit) in units.iter().enumerate() {
            match pieces.get_mut(unit.part).filter(|_| is_kept(entry)) {
                Some(piece) => {
                    piece.part.keep(unit.born, unit.len);
                    piece.entries.push((entry, unit.at, unit.len));
                }
                None => whole = false,
            }
        }
        if !units.is_empty() {
            pieces.retain(|piece| !piece.entries.is_empty());
        }
        Ok(Self { at, sealed, told, pieces, whole })
    }

    /// About how many bytes of the slot are kept.
    fn share(&self) -> u64 {
        let all: u64 = self.told.units().into_iter().flatten().map(|unit| u64::from(unit.len)).sum();
        let entries = self.pieces.iter().flat_map(|piece| &piece.entries);
        let kept: u64 = entries.map(|&(_, _, len)| u64::from(len)).sum();
        if all == 0 { self.told.len } else { self.told.len.div_ceil(all) * kept }
    }

    /// How the new footer tells of it, when it is alone in a slot.
    pub(super) fn told_anew(&self, pack: &PackPlace, thin: bool) -> FooterSlot {
        let origin = if thin {
            let parts = self.pieces.iter().map(|piece| piece.part.clone()).collect();
            Origin::Thinned(Arc::new(Thinned { sealed: None, parts }))
        } else {
            self.told.origin.moved_from(pack, self.at)
        };
        FooterSlot { origin, ..self.told.clone() }
    }

    /// Where what is found in it by its birth was born.
    pub(super) fn births(&self) -> impl Iterator<Item = SlotBirth> + use<'_> {
        self.pieces.iter().map(|piece| piece.part.birth)
    }

    /// Whether its entries account for every byte of it, in units of `size` bytes.
    pub(super) fn fits(&self, block_size: BlockSize) -> bool {
        let units = self.told.units().unwrap_or_default();
        let count: usize = units.iter().map(|unit| unit.len as usize).sum();
        let len = count.checked_mul(unit_len(self.told.kind, block_size));
        count > 0 && len == usize::try_from(self.told.plain_len).ok()
    }
}

/// Bytes of what an index counts.
pub(super) fn unit_len(kind: SlotKind, block_size: BlockSize) -> usize {
    if kind == SlotKind::Patches { vmkeep_model::PAGE_SIZE } else { block_size.bytes() }
}
