//! Reading a disk of a point: map entries, and the blocks they name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use vmkeep_envelope::{SlotId, SlotKind, open_slot};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteLen, CancelToken, ContentHash, DiskName};

use crate::error::VaultError;
use crate::format::FormatError;
use crate::frame::FrameDecoder;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::map::{self, BoxError, Entries, Entry, MapError, MapReader, NodeSource, Root};
use crate::pack::{PackIndex, PackNodes, frame_error, slot_key, slot_of};
use crate::place::{PackPlace, Reference, StorageId};
use crate::session::BaseDisk;
use crate::vault::Inner;

/// Slots of one pack with at most this many bytes between them are fetched in one read.
const GAP_MAX: u64 = 256 << 10;
/// Most bytes fetched in one read, unless one slot alone is longer.
const FETCH_MAX: u64 = 4 << 20;

/// A stored disk of a recovery point, readable in any order and by several threads.
#[derive(Clone, Debug)]
pub struct DiskReader {
    nodes: PackNodes,
    disk: DiskName,
    block_size: BlockSize,
    size: ByteLen,
    root: Root,
}

/// What a fetch gives for each block: its bytes (the tail padded), or why they cannot be had.
pub type BlockSink<'a> = dyn FnMut(BlockIndex, Result<&[u8], Arc<VaultError>>) -> Result<(), VaultError> + 'a;

impl DiskReader {
    pub(crate) fn new(
        vault: Arc<Inner>,
        lineage: Lineage,
        disk: DiskName,
        block_size: BlockSize,
        size: u64,
        root: Root,
    ) -> Self {
        Self { nodes: PackNodes { vault, lineage }, disk, block_size, size: ByteLen(size), root }
    }

    /// The disk's name.
    pub fn name(&self) -> &DiskName {
        &self.disk
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> ByteLen {
        self.size
    }

    /// Size of its blocks.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Number of blocks that are not all zero.
    pub fn stored_blocks(&self) -> u64 {
        self.root.map_or(0, |root| root.blocks)
    }

    pub(crate) fn map(&self) -> Result<MapReader<'_>, VaultError> {
        let identity = self.nodes.lineage.domain.identity()?;
        Ok(MapReader::new(&self.nodes, identity, self.block_size, self.root))
    }

    pub(crate) fn nodes(&self) -> &PackNodes {
        &self.nodes
    }

    /// Every block at or after `from` that is not all zero, in order. Ends after an error.
    pub fn entries(&self, from: BlockIndex) -> Result<DiskEntries<'_>, VaultError> {
        Ok(DiskEntries { entries: self.map()?.entries(from), what: self.what() })
    }

    /// The blocks in which `self` and `other` differ, as runs in ascending order. Costs what differs, and stops at the
    /// next map node when `cancel` is set.
    pub fn differences(
        &self,
        other: &Self,
        cancel: &CancelToken,
    ) -> Result<Vec<(BlockRun, map::Change)>, VaultError> {
        let (ours, theirs) =
            (Cancellable { nodes: &self.nodes, cancel }, Cancellable { nodes: &other.nodes, cancel });
        let before = MapReader::new(&ours, self.nodes.lineage.domain.identity()?, self.block_size, self.root);
        let after =
            MapReader::new(&theirs, other.nodes.lineage.domain.identity()?, other.block_size, other.root);
        let runs = map::diff(&before, &after).map_err(|e| map_error(&self.what(), e))?.runs();
        runs.map(|run| {
            let (run, change) = run.map_err(|e| map_error(&other.what(), e))?;
            Ok((run, change))
        })
        .collect()
    }

    /// Fetches blocks, in the order in which they lie in packs, checks each by its hash and gives it to `sink`.
    ///
    /// A block that cannot be had is given as an error and the others go on; an error of the sink ends the fetch.
    pub fn fetch(&self, wanted: &[(BlockIndex, Entry)], sink: &mut BlockSink<'_>) -> Result<(), VaultError> {
        let mut full: BTreeMap<PackPlace, BTreeMap<u32, Vec<Wanted>>> = BTreeMap::new();
        for (block, entry) in wanted {
            match entry {
                Entry::Full { at, hash } => {
                    let slots = full.entry(at.at.pack).or_default();
                    slots.entry(at.at.slot).or_default().push(Wanted {
                        block: *block,
                        index: at.at.index,
                        hash: *hash,
                    });
                }
                Entry::Patched { base, patch, pages, hash } => {
                    let patched = self.patched(base, patch, pages, *hash);
                    match patched {
                        Ok(bytes) => sink(*block, Ok(&bytes))?,
                        Err(e) => sink(*block, Err(Arc::new(e)))?,
                    }
                }
            }
        }
        let mut decoder = FrameDecoder::new().map_err(|e| frame_error(&ObjectName::Vault, &e))?;
        for (pack, slots) in &full {
            self.fetch_from(pack, slots, &mut decoder, sink)?;
        }
        Ok(())
    }

    fn fetch_from(
        &self,
        pack: &PackPlace,
        slots: &BTreeMap<u32, Vec<Wanted>>,
        decoder: &mut FrameDecoder,
        sink: &mut BlockSink<'_>,
    ) -> Result<(), VaultError> {
        let (vault, lineage) = (&self.nodes.vault, &self.nodes.lineage);
        let name = ObjectName::pack(lineage.id, pack);
        let index = match vault.pack_index(lineage, pack) {
            Ok(index) => index,
            Err(e) => return fail_all(slots.values().flatten(), e, sink),
        };
        let mut rest: Vec<(u32, &Vec<Wanted>)> = Vec::new();
        for (&slot, wanted) in slots {
            match slot_of(&index, &name, slot) {
                Ok(_) => rest.push((slot, wanted)),
                Err(e) => fail_all(wanted.iter(), e, sink)?,
            }
        }
        let mut rest = rest.as_slice();
        while !rest.is_empty() {
            let (run, after) = rest.split_at(neighbours(&index, rest));
            rest = after;
            let range =
                index.slots[run[0].0 as usize].offset..index.slots[run[run.len() - 1].0 as usize].range().end;
            let mut bytes = match vault.read_slots(&name, &index, range.clone()) {
                Ok(bytes) => bytes,
                Err(e) => {
                    fail_all(run.iter().flat_map(|(_, wanted)| wanted.iter()), e, sink)?;
                    continue;
                }
            };
            for (slot, wanted) in run {
                let place = index.slots[*slot as usize].range();
                // Within the range that was read, which is at most a few MiB.
                let within = |at: u64| usize::try_from(at - range.start).unwrap_or(usize::MAX);
                let (start, end) = (within(place.start), within(place.end));
                self.give_slot(&index, &name, pack, *slot, &mut bytes[start..end], wanted, decoder, sink)?;
            }
        }
        Ok(())
    }

    /// Opens one slot, unpacks it, and gives its blocks.
    #[allow(clippy::too_many_arguments)] // the inner loop: what it needs was looked up once, outside
    fn give_slot(
        &self,
        index: &PackIndex,
        name: &ObjectName,
        pack: &PackPlace,
        slot: u32,
        bytes: &mut [u8],
        wanted: &[Wanted],
        decoder: &mut FrameDecoder,
        sink: &mut BlockSink<'_>,
    ) -> Result<(), VaultError> {
        let (vault, lineage) = (&self.nodes.vault, &self.nodes.lineage);
        let expected = SlotId { pack: pack.name, slot };
        let plain = slot_key(lineage, index)
            .and_then(|key| {
                let opened = open_slot(bytes, key, expected, SlotKind::Blocks, &vault.ciphers);
                opened.map_err(|e| VaultError::open(name, e))
            })
            .and_then(|opened| {
                let plain = decoder.unpack(opened.codec, opened.plain_len, opened.body);
                plain.map_err(|e| frame_error(name, &e))
            });
        let plain = match plain {
            Ok(plain) => plain,
            Err(e) => return fail_all(wanted.iter(), e, sink),
        };
        let identity = lineage.domain.identity()?;
        for Wanted { block, index, hash } in wanted {
            let block_bytes = plain.chunks_exact(self.block_size.bytes()).nth(*index as usize);
            match block_bytes {
                Some(bytes) if identity.block_hash(bytes) == *hash => sink(*block, Ok(bytes))?,
                Some(_) => sink(
                    *block,
                    Err(Arc::new(wrong(name, slot, *block, "holds other content than the map names"))),
                )?,
                None => sink(
                    *block,
                    Err(Arc::new(wrong(name, slot, *block, "is not in the slot that the map names"))),
                )?,
            }
        }
        Ok(())
    }

    /// A block stored as pages over a whole block: two reads at most.
    fn patched(
        &self,
        base: &Reference,
        patch: &Reference,
        pages: &map::PageMask,
        hash: ContentHash,
    ) -> Result<Vec<u8>, VaultError> {
        let size = self.block_size.bytes();
        let mut block = self.slot_part(base, SlotKind::Blocks, base.at.index as usize * size, size)?;
        let page = vmkeep_model::PAGE_SIZE;
        let count = pages.count() as usize;
        let new = self.slot_part(patch, SlotKind::Patches, patch.at.index as usize * page, count * page)?;
        for (number, bytes) in pages.pages().zip(new.chunks_exact(page)) {
            block[number * page..(number + 1) * page].copy_from_slice(bytes);
        }
        let name = ObjectName::pack(self.nodes.lineage.id, &patch.at.pack);
        if self.nodes.lineage.domain.identity()?.block_hash(&block) == hash {
            return Ok(block);
        }
        let what = FormatError("a patched block holds other content than the map names".to_owned());
        Err(VaultError::malformed(&name, what))
    }

    /// `len` bytes at `at` of what a data slot holds.
    fn slot_part(
        &self,
        reference: &Reference,
        kind: SlotKind,
        at: usize,
        len: usize,
    ) -> Result<Vec<u8>, VaultError> {
        let (vault, lineage) = (&self.nodes.vault, &self.nodes.lineage);
        let (pack, slot) = (reference.at.pack, reference.at.slot);
        let name = ObjectName::pack(lineage.id, &pack);
        let index = vault.pack_index(lineage, &pack)?;
        let plain = vault.plain_slot(lineage, &pack, &index, &name, slot, kind)?;
        plain.get(at..at + len).map(<[u8]>::to_vec).ok_or_else(|| {
            VaultError::malformed(&name, FormatError(format!("slot {slot} has no {len} bytes at {at}")))
        })
    }

    fn what(&self) -> String {
        format!("{}, disk {}", self.nodes.lineage.vm, self.disk)
    }
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    block: BlockIndex,
    index: u32,
    hash: ContentHash,
}

/// How many of the first slots of `slots` are fetched in one read.
fn neighbours(index: &PackIndex, slots: &[(u32, &Vec<Wanted>)]) -> usize {
    let range = |at: usize| index.slots[slots[at].0 as usize].range();
    let start = range(0).start;
    (1..slots.len())
        .find(|&at| range(at).start - range(at - 1).end > GAP_MAX || range(at).end - start > FETCH_MAX)
        .unwrap_or(slots.len())
}

fn wrong(name: &ObjectName, slot: u32, block: BlockIndex, what: &str) -> VaultError {
    VaultError::malformed(name, FormatError(format!("slot {slot}: block {block} {what}")))
}

/// Gives every wanted block the same failure, each as an error of its own.
fn fail_all<'w>(
    wanted: impl Iterator<Item = &'w Wanted>,
    error: VaultError,
    sink: &mut BlockSink<'_>,
) -> Result<(), VaultError> {
    let error = Arc::new(error);
    for Wanted { block, .. } in wanted {
        sink(*block, Err(Arc::clone(&error)))?;
    }
    Ok(())
}

/// The nodes of a map until somebody asks to stop.
struct Cancellable<'a> {
    nodes: &'a PackNodes,
    cancel: &'a CancelToken,
}

impl NodeSource for Cancellable<'_> {
    fn node(&self, at: &StorageId) -> Result<Bytes, BoxError> {
        self.cancel.check().map_err(VaultError::Cancelled)?;
        self.nodes.node(at)
    }
}

/// The blocks of a disk that are not all zero, in order.
#[derive(Debug)]
pub struct DiskEntries<'a> {
    entries: Entries<'a>,
    what: String,
}

impl Iterator for DiskEntries<'_> {
    type Item = Result<(BlockIndex, Entry), VaultError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.entries.next()?.map_err(|e| map_error(&self.what, e)))
    }
}

impl<'s> BaseDisk<'s> {
    /// Every block at or after `from` that was not all zero, with the hash of its content, in order.
    pub fn hashes(
        &self,
        from: BlockIndex,
    ) -> impl Iterator<Item = Result<(BlockIndex, ContentHash), VaultError>> + use<'s> {
        let entries = self.map().entries(from);
        entries.map(|entry| match entry {
            Ok((block, entry)) => Ok((block, entry.hash())),
            Err(e) => Err(map_error("the base point", e)),
        })
    }
}

/// The error of a map, or the vault's own that lay below it.
pub(crate) fn map_error(what: &str, source: MapError) -> VaultError {
    match source {
        MapError::Source { at, source } => match source.downcast::<VaultError>() {
            Ok(own) => *own,
            Err(source) => {
                let source = Box::new(MapError::Source { at, source });
                VaultError::Map { object: what.to_owned(), source }
            }
        },
        MapError::Sink(source) => match source.downcast::<VaultError>() {
            Ok(own) => *own,
            Err(source) => {
                VaultError::Map { object: what.to_owned(), source: Box::new(MapError::Sink(source)) }
            }
        },
        source => VaultError::Map { object: what.to_owned(), source: Box::new(source) },
    }
}
