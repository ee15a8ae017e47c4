//! Checking one pack by itself, without the points that need it.

use std::ops::Range;
use std::sync::Arc;

use vmkeep_envelope::{PackContent, SlotKind, open_slot};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, CancelToken, DiskName, PAGE_SIZE, VmName};

use super::{Damage, PackDepth};
use crate::error::VaultError;
use crate::format::FormatError;
use crate::frame::FrameDecoder;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::map::ChangeListReader;
use crate::pack::{NodeSlot, PackIndex, frame_error, neighbours, sealed_as, slot_key};
use crate::place::PackPlace;
use crate::vault::Inner;

/// A pack that is to be checked, or a second copy of one.
#[derive(Clone, Debug)]
pub struct PackToCheck {
    pub(super) lineage: Arc<Lineage>,
    pub(super) place: PackPlace,
    pub(super) name: ObjectName,
    pub(super) size: u64,
}

/// Damage in a pack.
#[derive(Debug)]
pub struct PackDamage {
    /// Which object, and what is wrong with it.
    pub damage: Damage,
    /// Whose it is; `None` when that could not be read.
    pub vm: Option<VmName>,
    /// What of a disk lies there, by what the pack says of itself, when it is not all of the pack. Points that need it have lost it.
    pub blocks: Option<DamagedBlocks>,
}

/// Blocks that lie in a damaged part of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedBlocks {
    /// Of which disk.
    pub disk: DiskName,
    /// Size of its blocks.
    pub block_size: BlockSize,
    /// Which, ascending.
    pub runs: Vec<BlockRun>,
}

impl PackToCheck {
    /// The name of the object.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Its size in bytes, as it was listed.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// A check of one pack under way.
struct Check<'a> {
    vault: &'a Inner,
    pack: &'a PackToCheck,
    index: PackIndex,
    decoder: Option<FrameDecoder>,
    found: &'a mut dyn FnMut(PackDamage),
}

impl Inner {
    /// Checks a pack; its size, or `None` when it is gone: a sweep removed it, or moved what it held.
    ///
    /// Damage is told; what fails otherwise ends the check.
    pub(super) fn check_pack(
        &self,
        pack: &PackToCheck,
        depth: PackDepth,
        cancel: &CancelToken,
        found: &mut dyn FnMut(PackDamage),
    ) -> Result<Option<u64>, VaultError> {
        let PackToCheck { lineage, place, name, .. } = pack;
        let index = match self.read_index(lineage, place, name) {
            Ok(index) => index,
            Err(VaultError::Missing { .. }) => return Ok(None),
            Err(e) if e.is_of_one_object() => {
                found(pack.damaged(e, None));
                return Ok(Some(pack.size));
            }
            Err(e) => return Err(e),
        };
        let size = index.size;
        if index.content == PackContent::Data && matches!(name, ObjectName::PackCopy(..)) {
            let what = FormatError("a second copy of a data pack".to_owned());
            found(pack.damaged(VaultError::malformed(name, what), None));
        }
        let decoder = match depth {
            PackDepth::Sealed => None,
            PackDepth::Blocks => Some(FrameDecoder::new().map_err(|e| frame_error(name, &e))?),
        };
        let mut check = Check { vault: self, pack, index, decoder, found };
        match check.slots(cancel) {
            Ok(()) => Ok(Some(size)),
            Err(VaultError::Missing { .. }) => Ok(None),
            Err(e) if e.is_destroyed() => Ok(Some(size)),
            Err(e) => Err(e),
        }
    }
}

impl PackToCheck {
    fn damaged(&self, error: VaultError, blocks: Option<DamagedBlocks>) -> PackDamage {
        let damage = Damage { object: self.name.to_string(), error };
        PackDamage { damage, vm: Some(self.lineage.vm.clone()), blocks }
    }
}

impl Check<'_> {
    /// Reads the slots in the order in which they lie, some of them at a time.
    fn slots(&mut self, cancel: &CancelToken) -> Result<(), VaultError> {
        // Destroyed keys are no damage, and what they sealed cannot be looked at.
        slot_key(&self.pack.lineage, &self.index)?;
        let (mut at, count) = (0_u32, u32::try_from(self.index.slots.len()).unwrap_or(u32::MAX));
        while at < count {
            cancel.check().map_err(VaultError::Cancelled)?;
            let taken = u32::try_from(neighbours(&self.index, at..count)).unwrap_or(1).max(1);
            self.some(at..at.saturating_add(taken))?;
            at = at.saturating_add(taken);
        }
        Ok(())
    }

    /// Reads some neighbouring slots and checks each.
    fn some(&mut self, slots: Range<u32>) -> Result<(), VaultError> {
        let Some(places) = self.index.slots.get(slots.start as usize..slots.end as usize) else {
            return Ok(());
        };
        let ranges: Vec<Range<u64>> = places.iter().map(crate::pack::SlotPlace::range).collect();
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(()) };
        let start = first.start;
        let read = self.vault.read_slots(&self.pack.name, &self.index, start..last.end);
        let mut bytes = match read {
            Err(e) if e.is_of_one_object() && !matches!(e, VaultError::Missing { .. }) => {
                let blocks = self.blocks_of(slots);
                (self.found)(self.pack.damaged(e, blocks));
                return Ok(());
            }
            read => read?,
        };
        for (slot, range) in slots.zip(ranges) {
            // Within what was read, which is some MiB.
            let within = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX);
            let slot_bytes = &mut bytes[within(range.start)..within(range.end)];
            match self.slot(slot, slot_bytes) {
                Err(e) if e.is_of_one_object() => {
                    let blocks = self.blocks_of(slot..slot + 1);
                    (self.found)(self.pack.damaged(e, blocks));
                }
                checked => checked?,
            }
        }
        Ok(())
    }

    fn slot(&mut self, at: u32, bytes: &mut [u8]) -> Result<(), VaultError> {
        let PackToCheck { lineage, place, name, .. } = self.pack;
        let placed = &self.index.slots[at as usize];
        let (kind, key) = (placed.kind, slot_key(lineage, &self.index)?);
        let expected = sealed_as(placed, place, name, at)?;
        let opened = open_slot(bytes, key, expected, kind, &self.vault.ciphers)
            .map_err(|e| VaultError::open(name, e))?;
        let Some(decoder) = &mut self.decoder else { return Ok(()) };
        let plain = decoder.unpack(opened.codec, opened.plain_len, opened.body);
        let plain = plain.map_err(|e| frame_error(name, &e))?;
        let wrong = |what: String| VaultError::malformed(name, FormatError(format!("slot {at}: {what}")));
        match kind {
            SlotKind::Blocks => {
                let size = self.index.disk.as_ref().map_or(1, |(_, size)| size.bytes());
                let told = self.index.blocks.get(at as usize).map(Vec::as_slice).unwrap_or_default();
                if plain.len() != told.len() * size {
                    return Err(wrong("it does not hold what its footer says".to_owned()));
                }
                let identity = lineage.domain.identity()?;
                let mut blocks = told.iter().zip(plain.chunks_exact(size));
                match blocks.find(|((_, hash), bytes)| identity.block_hash(bytes) != *hash) {
                    None => Ok(()),
                    Some(((block, _), _)) => {
                        Err(wrong(format!("block {block} holds other content than its footer says")))
                    }
                }
            }
            SlotKind::Patches => {
                let pages =
                    self.index.patches.get(&at).into_iter().flatten().map(|&(_, pages)| u64::from(pages));
                if plain.len() as u64 == pages.sum::<u64>() * PAGE_SIZE as u64 {
                    Ok(())
                } else {
                    Err(wrong("it does not hold what its footer says".to_owned()))
                }
            }
            _ => check_metadata(kind, plain.to_vec().into()).map_err(|e| VaultError::malformed(name, e)),
        }
    }

    /// What the footer says of the blocks in some slots.
    fn blocks_of(&self, slots: Range<u32>) -> Option<DamagedBlocks> {
        let (disk, block_size) = self.index.disk.clone()?;
        let mut blocks: Vec<BlockIndex> = Vec::new();
        for slot in slots {
            let whole = self.index.blocks.get(slot as usize).into_iter().flatten().map(|(block, _)| *block);
            let patches = self.index.patches.get(&slot).into_iter().flatten().map(|(block, _)| *block);
            blocks.extend(whole.chain(patches));
        }
        blocks.sort_unstable();
        blocks.dedup();
        let mut runs: Vec<BlockRun> = Vec::new();
        for block in blocks {
            match runs.last_mut().filter(|run| run.start.0 + run.len == block.0) {
                Some(run) => run.len += 1,
                None => runs.push(BlockRun { start: block, len: 1 }),
            }
        }
        (!runs.is_empty()).then_some(DamagedBlocks { disk, block_size, runs })
    }
}

/// Whether an unpacked slot of metadata is what its kind says.
pub(super) fn check_metadata(kind: SlotKind, plain: bytes::Bytes) -> Result<(), FormatError> {
    match kind {
        SlotKind::Nodes => NodeSlot::parse(plain).map(drop),
        SlotKind::ChangeList => ChangeListReader::new(&plain)
            .try_for_each(|run| run.map(drop))
            .map_err(|e| FormatError(e.to_string())),
        _ => Ok(()),
    }
}
