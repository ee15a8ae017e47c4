//! Writing one disk of a session: frames into data packs, places into the map, runs into the change list.

use std::collections::BTreeSet;

use vmkeep_envelope::{PackBuilder, PackContent, SlotKind};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteLen, ContentHash, DiskName, SessionId};

use super::begun::Begun;
use super::metadata::{MetadataPacks, SlotPlaced, StoredBytes, born_here};
use crate::error::VaultError;
use crate::format::{FooterBody, FooterSlot, StoredBody};
use crate::frame::Frame;
use crate::map::{ChangeKind, ChangeListBuilder, ChangedRun, Entry, MapReader, MapWriter, PendingRoot, Root};
use crate::place::{PackPlace, Reference, StorageId};
use crate::session::Writing;

/// Most slots of a data pack, and most blocks and zero runs waiting for its name: bounds the footer and what is
/// remembered of an open pack when everything compresses to nothing.
const PACK_SLOTS_MAX: usize = 16 << 10;
const PACK_WAITING_MAX: usize = 128 << 10;

/// Takes what changed on one disk, in ascending order of blocks, and stores it.
///
/// Give every changed block once, as part of a frame or of a zero run; what is not given stays as it was. Nothing
/// of it is visible before the session commits.
pub struct DiskWriter<'s> {
    session: &'s Writing,
    disk: DiskName,
    block_size: BlockSize,
    old_blocks: u64,
    pack_bytes: usize,
    /// First block that may still be given.
    next: u64,
    builder: PackBuilder,
    footer: Vec<FooterSlot>,
    /// What awaits the name of the open pack, in block order.
    waiting: Vec<Waiting>,
    map: MapWriter<'s>,
    changes: ChangeListBuilder,
    change_slots: Vec<SlotPlaced>,
    metadata: MetadataPacks<'s>,
    begun: Begun<'s>,
    /// Packs of earlier sessions that the map refers to, and those that `waiting` names.
    used: BTreeSet<PackPlace>,
    waiting_packs: Vec<PackPlace>,
    stored: u64,
    changed_blocks: u64,
    adopted_blocks: u64,
    zeroed_blocks: u64,
}

#[derive(Clone, Copy, Debug)]
enum Waiting {
    Placed {
        block: BlockIndex,
        hash: ContentHash,
        slot: u32,
        index: u32,
    },
    /// Lies in a pack that is there already: the one at `pack` of `waiting_packs`.
    Adopted {
        block: BlockIndex,
        hash: ContentHash,
        pack: u32,
        slot: u32,
        index: u32,
    },
    Zero(BlockRun),
}

impl std::fmt::Debug for DiskWriter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskWriter({}, next block {})", self.disk, self.next)
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
        let metadata = MetadataPacks::new(session)?;
        Ok(Self {
            session,
            disk,
            block_size,
            old_blocks: block_size.count_for(old_size),
            pack_bytes,
            next: 0,
            builder: new_builder(pack_bytes),
            footer: Vec::new(),
            waiting: Vec::new(),
            map,
            changes: ChangeListBuilder::new(),
            change_slots: Vec::new(),
            metadata,
            begun: Begun::new(session, PackContent::Data),
            used: BTreeSet::new(),
            waiting_packs: Vec::new(),
            stored: 0,
            changed_blocks: 0,
            adopted_blocks: 0,
            zeroed_blocks: 0,
        })
    }

    /// Stores a frame of changed blocks.
    pub fn frame(&mut self, frame: &Frame) -> Result<(), VaultError> {
        let Some((first, _)) = frame.blocks.first() else { return Ok(()) };
        let blocks = frame.blocks.len();
        let ascending = frame.blocks.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let expected = blocks.checked_mul(self.block_size.bytes());
        if first.0 < self.next || !ascending || expected != usize::try_from(frame.plain_len).ok() {
            return Err(self.misuse(format!(
                "a frame of {blocks} blocks at {first} is out of order or of a wrong length"
            )));
        }
        let slot = self
            .builder
            .push(SlotKind::Blocks, frame.codec, frame.plain_len, &frame.body)
            .map_err(|e| self.session.seal_error(e))?;
        let len = self.builder.slots().last().map_or(0, |layout| u64::from(layout.len));
        let mut footer = born_here(self.session.target, SlotKind::Blocks, frame.codec, frame.plain_len, len);
        footer.blocks.clone_from(&frame.blocks);
        self.footer.push(footer);
        for (index, &(block, hash)) in (0_u32..).zip(&frame.blocks) {
            self.waiting.push(Waiting::Placed { block, hash, slot, index });
            self.changed(BlockRun { start: block, len: 1 }, ChangeKind::Data)?;
            self.next = block.0 + 1;
        }
        self.changed_blocks += blocks as u64;
        if self.builder.byte_len() >= self.pack_bytes
            || self.footer.len() >= PACK_SLOTS_MAX
            || self.waiting.len() >= PACK_WAITING_MAX
        {
            self.seal()?;
        }
        Ok(())
    }

    /// Notes that the blocks of `run`, which were not all zero before, are zero now.
    pub fn zero(&mut self, run: BlockRun) -> Result<(), VaultError> {
        if run.is_empty() {
            return Ok(());
        }
        if run.start.0 < self.next {
            return Err(self.misuse(format!("zero blocks at {} are out of order", run.start)));
        }
        self.changed(run, ChangeKind::Zero)?;
        self.zeroed_blocks += run.len;
        self.next = run.end().0;
        self.after_waiting(Waiting::Zero(run))
    }

    /// Refers to a changed block that lies in a pack of an earlier session already, as [`Adopted::lookup`] told.
    ///
    /// [`Adopted::lookup`]: super::Adopted::lookup
    pub fn adopt(&mut self, block: BlockIndex, at: StorageId, hash: ContentHash) -> Result<(), VaultError> {
        if block.0 < self.next {
            return Err(self.misuse(format!("adopted block {block} is out of order")));
        }
        if !self.session.adopted.as_ref().is_some_and(|adopted| adopted.holds(&at.pack)) {
            return Err(self.misuse(format!("block {block} is in a pack that was not inherited")));
        }
        self.changed(BlockRun { start: block, len: 1 }, ChangeKind::Data)?;
        self.changed_blocks += 1;
        self.adopted_blocks += 1;
        self.next = block.0 + 1;
        let pack = self.waiting_packs.iter().rposition(|pack| *pack == at.pack).unwrap_or_else(|| {
            self.used.insert(at.pack);
            self.waiting_packs.push(at.pack);
            self.waiting_packs.len() - 1
        });
        let pack = u32::try_from(pack).map_err(|_| self.misuse("too many packs".to_owned()))?;
        self.after_waiting(Waiting::Adopted { block, hash, pack, slot: at.slot, index: at.index })
    }

    /// Ends the disk at `size` bytes: what lay past it is dropped. Returns when all of it is durable.
    pub fn finish(mut self, size: ByteLen) -> Result<WrittenDisk, VaultError> {
        let blocks = self.block_size.count_for(size);
        if self.next > blocks {
            return Err(self.misuse(format!("block {} lies past the disk's {size} bytes", self.next - 1)));
        }
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
            stored: StoredBytes { data: self.stored, metadata },
        })
    }

    /// Applies what needs no name of the open pack: at once, or after what waits for one.
    fn after_waiting(&mut self, next: Waiting) -> Result<(), VaultError> {
        if self.footer.is_empty() {
            self.apply(next, None)?;
            self.waiting_packs.clear();
            return Ok(());
        }
        self.waiting.push(next);
        // Holes without end between two frames must not pile up.
        if self.waiting.len() >= PACK_WAITING_MAX { self.seal() } else { Ok(()) }
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
        let mut place = None;
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
                .seal(domain.data_key()?, domain.map_key()?, &footer.encode(), &self.session.context())
                .map_err(|e| self.session.seal_error(e))?;
            let pack = PackPlace { lineage: None, session: self.session.id, name: sealed.name };
            self.stored += sealed.object.bytes().len() as u64;
            // One pack on its way while the next is filled; a failed one ends the disk here.
            self.begun.wait()?;
            self.begun.start(sealed.name, &sealed.object);
            place = Some(pack);
        }
        for waiting in std::mem::take(&mut self.waiting) {
            self.apply(waiting, place)?;
        }
        self.waiting_packs.clear();
        Ok(())
    }

    fn apply(&mut self, waiting: Waiting, place: Option<PackPlace>) -> Result<(), VaultError> {
        let done = match (waiting, place) {
            (Waiting::Zero(run), _) => self.map.clear(&mut self.metadata, run),
            (Waiting::Placed { block, hash, slot, index }, Some(pack)) => {
                let at = Reference { at: StorageId { pack, slot, index }, birth: self.session.target };
                self.map.set(&mut self.metadata, block, Some(Entry::Full { at, hash }))
            }
            (Waiting::Adopted { block, hash, pack, slot, index }, _) => {
                let Some(&pack) = self.waiting_packs.get(pack as usize) else {
                    return Err(self.misuse(format!("adopted block {block} has no pack")));
                };
                let at = Reference { at: StorageId { pack, slot, index }, birth: self.session.target };
                self.map.set(&mut self.metadata, block, Some(Entry::Full { at, hash }))
            }
            (Waiting::Placed { block, .. }, None) => {
                return Err(self.misuse(format!("block {block} has no pack")));
            }
        };
        done.map_err(|e| self.session.map_error(&self.disk, e))
    }

    fn misuse(&self, what: String) -> VaultError {
        VaultError::Misuse { disk: self.disk.clone(), what }
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
            used: None,
        }
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
