//! Reading a disk of a point: map entries, and the blocks they name.

mod fetch;

use std::sync::Arc;

use bytes::Bytes;
use vmkeep_model::{
    BlockIndex, BlockRun, BlockSize, ByteLen, CancelToken, ContentHash, DiskName, PointNumber,
};

use crate::error::VaultError;
use crate::lineage::Lineage;
use crate::map::{self, BoxError, Entries, Entry, MapError, MapReader, NodeSource, Root};
use crate::pack::PackNodes;
use crate::place::StorageId;
use crate::session::BaseDisk;
use crate::vault::Inner;

/// A stored disk of a recovery point, readable in any order and by several threads.
#[derive(Clone, Debug)]
pub struct DiskReader {
    nodes: PackNodes,
    point: PointNumber,
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
        (point, disk): (PointNumber, DiskName),
        block_size: BlockSize,
        size: u64,
        root: Root,
    ) -> Self {
        Self { nodes: PackNodes { vault, lineage }, point, disk, block_size, size: ByteLen(size), root }
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

    /// [`VaultError::PointSwept`] when `error` is damage and a sweep took the point meanwhile: what is missing then was
    /// removed rightly. `None` when the error is what it says.
    pub fn swept(&self, error: &VaultError) -> Option<VaultError> {
        error.is_damage().then(|| self.nodes.lineage.swept(&self.nodes.vault, self.point.0)).flatten()
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

    /// Every block of `run` that is not all zero, in order. Ends after an error; what lies past the run is not read.
    pub fn entries_within(&self, run: BlockRun) -> Result<DiskEntries<'_>, VaultError> {
        Ok(DiskEntries { entries: self.map()?.entries(run.start).end_at(run.end()), what: self.what() })
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

    fn what(&self) -> String {
        format!("{}, disk {}", self.nodes.lineage.vm, self.disk)
    }
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

impl DiskEntries<'_> {
    /// Leaves out what comes before `block`, and does not read what lies before it.
    pub fn skip_to(&mut self, block: BlockIndex) {
        self.entries.skip_to(block);
    }
}

impl<'s> BaseDisk<'s> {
    /// Every block at or after `from` that was not all zero, in order.
    pub fn entries(&self, from: BlockIndex) -> DiskEntries<'s> {
        DiskEntries { entries: self.map().entries(from), what: "the base point".to_owned() }
    }

    /// The same with the hash of each block's content alone.
    pub fn hashes(
        &self,
        from: BlockIndex,
    ) -> impl Iterator<Item = Result<(BlockIndex, ContentHash), VaultError>> + use<'s> {
        self.entries(from).map(|entry| entry.map(|(block, entry)| (block, entry.hash())))
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
