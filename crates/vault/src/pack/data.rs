//! Writing one disk of a session: frames into data packs, places into the map, runs into the change list.

use std::collections::BTreeSet;

use vmkeep_envelope::{Codec, PackBuilder, PackContent, SlotKind};
use vmkeep_model::{
    BlockIndex, BlockRun, BlockSize, ByteLen, ContentHash, DiskName, PAGE_SIZE, PageMask, SessionId,
    Tracking, UsedBytes,
};

use super::begun::Begun;
use super::metadata::{MetadataPacks, SlotPlaced, StoredBytes, born_here};
use crate::error::VaultError;
use crate::format::{ChangesBody, FooterBody, FooterSlot, StoredBody, TrackingBody};
use crate::frame::{Frame, PatchFrame};
use crate::map::{ChangeKind, ChangeListBuilder, ChangedRun, Entry, MapReader, MapWriter, PendingRoot, Root};
use crate::place::{PackPlace, Reference, StorageId};
use crate::session::Writing;

/// Most slots of a data pack, and for how many of its bytes one block or zero run waits for its name at most: bounds the
/// footer and what is remembered of an open pack when everything compresses to nothing.
const PACK_SLOTS_MAX: usize = 16 << 10;
const PACK_BYTES_PER_WAITING: usize = 256;
/// So many may wait in any case.
const PACK_WAITING_MIN: usize = 2048;
/// Size of a metadata pack, however little memory there is: every one costs four requests.
const METADATA_PACK_BYTES_MIN: usize = 128 << 10;

/// Takes what changed on one disk and stores it.
///
/// Give every changed block once, as part of a frame or of a zero run; what is not given stays as it was. Blocks may
/// come in any order above what is [`settled`](Self::settled); what is not settled is held in memory. Nothing of it
/// is visible before the session commits.
pub struct DiskWriter<'s> {
    session: &'s Writing,
    disk: DiskName,
    block_size: BlockSize,
    old_blocks: u64,
    pack_bytes: usize,
    /// Everything below was given.
    settled: u64,
    /// End of the last block that was given.
    end: u64,
    builder: PackBuilder,
    footer: Vec<FooterSlot>,
    /// What is not in the map yet. Sorted when it is applied.
    given: Vec<Given>,
    /// Packs that `given` names.
    packs: Vec<PackPlace>,
    map: MapWriter<'s>,
    changes: ChangeListBuilder,
    change_slots: Vec<SlotPlaced>,
    metadata: MetadataPacks<'s>,
    begun: Begun<'s>,
    /// Packs of earlier sessions that the map refers to.
    used: BTreeSet<PackPlace>,
    stored: u64,
    changed_blocks: u64,
    adopted_blocks: u64,
    patched: Patched,
    zeroed_blocks: u64,
}

/// What was stored as pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patched {
    /// Blocks.
    pub blocks: u64,
    /// Pages of them.
    pub pages: u64,
}

/// A change that was given and is not in the map yet: its pack has no name, or something before it is still to come.
#[derive(Clone, Debug)]
struct Given {
    block: BlockIndex,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// The whole block lies there.
    Block { at: PlaceInPack, hash: ContentHash },
    /// These pages of it lie there.
    Pages { at: PlaceInPack, pages: PageMask, hash: ContentHash },
    /// So many blocks are zero.
    Zero { len: u64 },
}

#[derive(Clone, Copy, Debug)]
struct PlaceInPack {
    /// Its number in `DiskWriter::packs`; [`OPEN`] for the one that is being filled.
    pack: u32,
    slot: u32,
    index: u32,
}

/// Stands for the pack that is being filled.
const OPEN: u32 = u32::MAX;

impl std::fmt::Debug for DiskWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskWriter({}, settled below block {})", self.disk, self.settled)
    }
}

/// A disk that was written; the session commits it.
#[derive(Debug)]
pub struct WrittenDisk {
    pub(crate) session: SessionId,
    pub(crate) disk: DiskName,
    pub(crate) size: ByteLen,
    pub(crate) block_size: BlockSize,
    pub(crate) root: Root,
    pub(crate) change_list: Vec<(PackPlace, u32)>,
    pub(crate) changed_blocks: u64,
    /// Of the changed blocks, those that lie in packs of earlier sessions.
    pub(crate) adopted_blocks: u64,
    pub(crate) zeroed_blocks: u64,
    /// Of the changed blocks, those of which only pages were stored.
    pub patched: Patched,
    /// What the changes rest on when change tracking was believed; the point keeps it.
    pub tracking: Option<Tracking>,
    /// Why change tracking was not believed, when there was any; the point keeps it.
    pub fallback: Option<String>,
    /// What its file systems said they use, and how that was found; the point keeps it.
    pub used: Option<UsedBytes>,
    /// Bytes stored for the disk.
    pub stored: StoredBytes,
}

impl<'s> DiskWriter<'s> {
    pub(crate) fn new(
        session: &'s Writing,
        disk: DiskName,
        block_size: BlockSize,
        base: Option<(Root, ByteLen)>,
        pack_bytes: usize,
    ) -> Result<Self, VaultError> {
        let (root, old_size) = base.unwrap_or_default();
        let reader = MapReader::new(&session.nodes, session.lineage.domain.identity()?, block_size, root);
        let map = MapWriter::new(reader, session.target);
        let metadata = MetadataPacks::new(session, (pack_bytes / 8).max(METADATA_PACK_BYTES_MIN))?;
        Ok(Self {
            session,
            disk,
            block_size,
            old_blocks: block_size.count_for(old_size),
            pack_bytes,
            settled: 0,
            end: 0,
            builder: new_builder(pack_bytes),
            footer: Vec::new(),
            given: Vec::new(),
            packs: Vec::new(),
            map,
            changes: ChangeListBuilder::new(),
            change_slots: Vec::new(),
            metadata,
            begun: Begun::new(session, PackContent::Data),
            used: BTreeSet::new(),
            stored: 0,
            changed_blocks: 0,
            adopted_blocks: 0,
            patched: Patched::default(),
            zeroed_blocks: 0,
        })
    }

    /// Stores a frame of changed blocks.
    pub fn frame(&mut self, frame: &Frame) -> Result<(), VaultError> {
        let blocks = frame.blocks.len();
        let expected = blocks.checked_mul(self.block_size.bytes());
        self.check(frame.blocks.iter().map(|(block, _)| *block), expected, frame.plain_len)?;
        if blocks == 0 {
            return Ok(());
        }
        let (slot, len) = self.slot(SlotKind::Blocks, frame.codec, frame.plain_len, &frame.body)?;
        let mut footer = born_here(self.session.target, SlotKind::Blocks, frame.codec, frame.plain_len, len);
        footer.blocks.clone_from(&frame.blocks);
        self.footer.push(footer);
        for (index, &(block, hash)) in (0_u32..).zip(&frame.blocks) {
            let at = PlaceInPack { pack: OPEN, slot, index };
            self.give(block, What::Block { at, hash });
        }
        self.changed_blocks += blocks as u64;
        self.seal_if_full()
    }

    /// Stores a frame of pages of changed blocks. The base point must have an entry for each of the blocks, and the
    /// pages of a block that is patched there already must be among them.
    pub fn patches(&mut self, frame: &PatchFrame) -> Result<(), VaultError> {
        let pages: u64 = frame.patches.iter().map(|(_, pages, _)| u64::from(pages.count())).sum();
        let expected = usize::try_from(pages).ok().and_then(|pages| pages.checked_mul(PAGE_SIZE));
        self.check(frame.patches.iter().map(|(block, ..)| *block), expected, frame.plain_len)?;
        if frame.patches.is_empty() {
            return Ok(());
        }
        let (slot, len) = self.slot(SlotKind::Patches, frame.codec, frame.plain_len, &frame.body)?;
        let mut footer = born_here(self.session.target, SlotKind::Patches, frame.codec, frame.plain_len, len);
        let told = frame.patches.iter().map(|(block, pages, hash)| (*block, pages.count(), *hash));
        footer.patches.extend(told);
        self.footer.push(footer);
        let mut index = 0;
        for (block, pages, hash) in &frame.patches {
            let at = PlaceInPack { pack: OPEN, slot, index };
            index += pages.count();
            self.give(*block, What::Pages { at, pages: pages.clone(), hash: *hash });
        }
        let blocks = frame.patches.len() as u64;
        self.changed_blocks += blocks;
        self.patched.blocks += blocks;
        self.patched.pages += pages;
        self.seal_if_full()
    }

    /// Notes that the blocks of `run`, which were not all zero before, are zero now.
    pub fn zero(&mut self, run: BlockRun) -> Result<(), VaultError> {
        if run.is_empty() {
            return Ok(());
        }
        if run.start.0 < self.settled {
            return Err(self.misuse(format!("zero blocks at {} are out of order", run.start)));
        }
        self.zeroed_blocks += run.len;
        self.give(run.start, What::Zero { len: run.len });
        self.seal_if_full()
    }

    /// Refers to a changed block that lies in a pack of an earlier session already, as [`Adopted::lookup`] told.
    ///
    /// [`Adopted::lookup`]: super::Adopted::lookup
    pub fn adopt(&mut self, block: BlockIndex, at: StorageId, hash: ContentHash) -> Result<(), VaultError> {
        if block.0 < self.settled {
            return Err(self.misuse(format!("adopted block {block} is out of order")));
        }
        if !self.session.adopted.as_ref().is_some_and(|adopted| adopted.holds(&at.pack)) {
            return Err(self.misuse(format!("block {block} is in a pack that was not inherited")));
        }
        self.changed_blocks += 1;
        self.adopted_blocks += 1;
        let pack = match self.packs.iter().rposition(|pack| *pack == at.pack) {
            Some(pack) => u32::try_from(pack).unwrap_or(OPEN),
            None => {
                self.used.insert(at.pack);
                self.name_pack(at.pack)?
            }
        };
        let at = PlaceInPack { pack, slot: at.slot, index: at.index };
        self.give(block, What::Block { at, hash });
        self.seal_if_full()
    }

    /// Notes that everything below `block` was given: it goes into the map as soon as it can, and is forgotten here.
    pub fn settled(&mut self, block: BlockIndex) -> Result<(), VaultError> {
        self.settled = self.settled.max(block.0);
        if self.footer.is_empty() { self.apply() } else { Ok(()) }
    }

    /// Ends the disk at `size` bytes: what lay past it is dropped. Returns when all of it is durable.
    pub fn finish(mut self, size: ByteLen) -> Result<WrittenDisk, VaultError> {
        let blocks = self.block_size.count_for(size);
        if self.end > blocks {
            return Err(self.misuse(format!("block {} lies past the disk's {size} bytes", self.end - 1)));
        }
        self.settled = u64::MAX;
        self.seal()?;
        if self.old_blocks > blocks {
            let dropped = BlockRun::between(BlockIndex(blocks), BlockIndex(self.old_blocks));
            self.changed(dropped, ChangeKind::Dropped)?;
            self.map
                .truncate_from(&mut self.metadata, BlockIndex(blocks))
                .map_err(|e| self.session.map_error(&self.disk, e))?;
        }
        self.begun.wait()?;
        if let Some(rest) = std::mem::take(&mut self.changes).finish() {
            self.change_slots.push(self.metadata.slot(SlotKind::ChangeList, rest)?);
        }
        let root: PendingRoot =
            self.map.finish(&mut self.metadata).map_err(|e| self.session.map_error(&self.disk, e))?;
        let metadata = self.metadata.finish()?;
        let root = root.resolve(&self.metadata).map_err(|e| self.session.map_error(&self.disk, e))?;
        let place = |slot: &SlotPlaced| self.metadata.place(slot.pack).map(|pack| (pack, slot.slot));
        let change_list = self.change_slots.iter().filter_map(place).collect();
        self.begun.done();
        self.metadata.done();
        if let Some(adopted) = &self.session.adopted {
            adopted.use_packs(std::mem::take(&mut self.used));
        }
        Ok(WrittenDisk {
            session: self.session.id,
            disk: self.disk,
            size,
            block_size: self.block_size,
            root,
            change_list,
            changed_blocks: self.changed_blocks,
            adopted_blocks: self.adopted_blocks,
            zeroed_blocks: self.zeroed_blocks,
            patched: self.patched,
            tracking: None,
            fallback: None,
            used: None,
            stored: StoredBytes { data: self.stored, metadata },
        })
    }

    /// Whether blocks may be given now, and whether what holds them is as long as they are.
    fn check(
        &self,
        blocks: impl Iterator<Item = BlockIndex> + Clone,
        expected: Option<usize>,
        plain_len: u32,
    ) -> Result<(), VaultError> {
        let in_order = blocks.clone().next().is_none_or(|first| first.0 >= self.settled)
            && blocks.clone().zip(blocks.clone().skip(1)).all(|(one, next)| one < next);
        if in_order && expected == usize::try_from(plain_len).ok() {
            return Ok(());
        }
        let (number, first) = (blocks.clone().count(), blocks.clone().next().unwrap_or_default());
        Err(self
            .misuse(format!("a frame of {number} blocks at {first} is out of order or of a wrong length")))
    }

    /// Adds a slot to the open pack: its number, and its length there.
    fn slot(
        &mut self,
        kind: SlotKind,
        codec: Codec,
        plain_len: u32,
        body: &[u8],
    ) -> Result<(u32, u64), VaultError> {
        let pushed = self.builder.push(kind, codec, plain_len, body);
        let slot = pushed.map_err(|e| self.session.seal_error(e))?;
        Ok((slot, self.builder.slots().last().map_or(0, |layout| u64::from(layout.len))))
    }

    fn give(&mut self, block: BlockIndex, what: What) {
        let given = Given { block, what };
        self.end = self.end.max(given.end());
        self.given.push(given);
    }

    fn name_pack(&mut self, pack: PackPlace) -> Result<u32, VaultError> {
        self.packs.push(pack);
        let number = u32::try_from(self.packs.len() - 1).ok().filter(|number| *number != OPEN);
        number.ok_or_else(|| self.misuse("too many packs".to_owned()))
    }

    fn seal_if_full(&mut self) -> Result<(), VaultError> {
        let is_full = self.builder.byte_len() >= self.pack_bytes
            || self.footer.len() >= PACK_SLOTS_MAX
            // Holes without end between two frames must not pile up.
            || self.given.len() >= (self.pack_bytes / PACK_BYTES_PER_WAITING).max(PACK_WAITING_MIN);
        if is_full { self.seal() } else { Ok(()) }
    }

    fn changed(&mut self, run: BlockRun, kind: ChangeKind) -> Result<(), VaultError> {
        if let Some(full) =
            self.changes.push(ChangedRun { kind, run }).map_err(|e| self.misuse(e.to_string()))?
        {
            self.change_slots.push(self.metadata.slot(SlotKind::ChangeList, full)?);
        }
        Ok(())
    }

    /// Seals the open pack, starts storing it, and gives the map the places that are known now.
    fn seal(&mut self) -> Result<(), VaultError> {
        if !self.footer.is_empty() {
            let builder = std::mem::replace(&mut self.builder, new_builder(self.pack_bytes));
            let footer = FooterBody {
                lineage: self.session.lineage.id,
                session: self.session.id,
                point: self.session.target,
                disk: Some((self.disk.clone(), self.block_size)),
                slots: std::mem::take(&mut self.footer),
            };
            let domain = &self.session.lineage.domain;
            let sealed = builder
                .seal(domain.sealing_key()?, domain.map_key()?, &footer.encode(), &self.session.context())
                .map_err(|e| self.session.seal_error(e))?;
            let pack = PackPlace { lineage: None, session: self.session.id, name: sealed.name };
            self.stored += sealed.object.bytes().len() as u64;
            // One pack on its way while the next is filled; a failed one ends the disk here.
            self.begun.wait()?;
            self.begun.start(sealed.name, &sealed.object);
            let number = self.name_pack(pack)?;
            for given in &mut self.given {
                if let What::Block { at, .. } | What::Pages { at, .. } = &mut given.what
                    && at.pack == OPEN
                {
                    at.pack = number;
                }
            }
        }
        self.apply()
    }

    /// Puts into the map and the change list what is settled. No pack is open.
    fn apply(&mut self) -> Result<(), VaultError> {
        // Stable, and nearly sorted already.
        self.given.sort_by_key(|given| given.block);
        let settled = self.given.partition_point(|given| given.block.0 < self.settled);
        let rest = self.given.split_off(settled);
        for Given { block, what } in std::mem::replace(&mut self.given, rest) {
            let (run, kind) = match &what {
                What::Zero { len } => (BlockRun { start: block, len: *len }, ChangeKind::Zero),
                What::Block { .. } | What::Pages { .. } => {
                    (BlockRun { start: block, len: 1 }, ChangeKind::Data)
                }
            };
            self.changed(run, kind)?;
            let done = match what {
                What::Zero { .. } => self.map.clear(&mut self.metadata, run),
                What::Block { at, hash } => {
                    let entry = Entry::Full { at: self.reference(block, at)?, hash };
                    self.map.set(&mut self.metadata, block, Some(entry))
                }
                What::Pages { at, pages, hash } => {
                    let patch = self.reference(block, at)?;
                    self.map.patch(&mut self.metadata, block, patch, pages, hash)
                }
            };
            done.map_err(|e| self.session.map_error(&self.disk, e))?;
        }
        if self.given.is_empty() {
            self.packs.clear();
        }
        Ok(())
    }

    fn reference(&self, block: BlockIndex, at: PlaceInPack) -> Result<Reference, VaultError> {
        let PlaceInPack { pack, slot, index } = at;
        match self.packs.get(pack as usize) {
            Some(&pack) => Ok(Reference { at: StorageId { pack, slot, index }, birth: self.session.target }),
            None => Err(self.misuse(format!("block {block} has no pack"))),
        }
    }

    fn misuse(&self, what: String) -> VaultError {
        VaultError::Misuse { disk: self.disk.clone(), what }
    }
}

impl Given {
    fn end(&self) -> u64 {
        let len = if let What::Zero { len } = self.what { len } else { 1 };
        self.block.0.saturating_add(len)
    }
}

/// Room for the slots of a full pack, the one that overfills it, and the footer.
fn new_builder(pack_bytes: usize) -> PackBuilder {
    PackBuilder::new(PackContent::Data, pack_bytes + pack_bytes / 16 + (1 << 20))
}

impl WrittenDisk {
    /// What the point says of the disk, but for how its changes were found.
    pub(crate) fn body(&self, provenance: u8) -> StoredBody {
        StoredBody {
            block_size_log2: self.block_size.log2(),
            root: self.root.as_ref().map(crate::format::RootBody::of),
            changed_blocks: self.changed_blocks,
            zeroed_blocks: self.zeroed_blocks,
            provenance,
            used: self.used.as_ref().map(|used| (used.bytes.0, used.method.clone())),
        }
    }

    /// What the point says of its changes beside that, when there is anything to say.
    pub(crate) fn changes(&self, disk: u32) -> Option<ChangesBody> {
        let Patched { blocks, pages } = self.patched;
        let says = blocks > 0 || self.tracking.is_some() || self.fallback.is_some();
        says.then(|| ChangesBody {
            disk,
            patched_blocks: blocks,
            patched_pages: pages,
            tracking: self.tracking.as_ref().map(TrackingBody::of),
            fallback: self.fallback.clone(),
        })
    }

    /// The disk's name.
    pub fn name(&self) -> &DiskName {
        &self.disk
    }

    /// Bytes in the blocks whose content is new, those that were stored already included.
    pub fn changed(&self) -> ByteLen {
        ByteLen(self.changed_blocks * self.block_size.bytes_u64())
    }

    /// Of [`changed`](Self::changed), bytes in blocks that lay in packs of an interrupted session already.
    pub fn adopted(&self) -> ByteLen {
        ByteLen(self.adopted_blocks * self.block_size.bytes_u64())
    }

    /// Bytes in the blocks that became zero.
    pub fn zeroed(&self) -> ByteLen {
        ByteLen(self.zeroed_blocks * self.block_size.bytes_u64())
    }
}
