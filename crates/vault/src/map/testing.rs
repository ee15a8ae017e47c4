//! Nodes in memory, for tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use vmkeep_model::{BlockSize, ContentHash, PointNumber, SessionId};

use super::error::{BoxError, MapError};
use super::node::{NodeHasher, Root};
use super::read::{MapReader, NodeSource};
use super::sink::{NodeSink, PackToken, PendingStorage};
use super::write::MapWriter;
use vmkeep_envelope::PackName;

use crate::place::{PackPlace, StorageId};

/// Not keyed and not secure: 128-bit FNV-1a.
#[derive(Clone, Copy, Debug, Default)]
pub struct TestHasher;

impl NodeHasher for TestHasher {
    fn node_hash(&self, expanded: &[u8]) -> ContentHash {
        let hash = expanded.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, &byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        });
        ContentHash(hash.to_le_bytes())
    }
}

/// Sealed nodes by where they lie.
#[derive(Debug, Default)]
pub struct MemoryNodes {
    /// The nodes.
    pub nodes: BTreeMap<StorageId, Bytes>,
    /// How often one was asked for.
    pub reads: AtomicUsize,
}

impl NodeSource for MemoryNodes {
    fn node(&self, at: &StorageId) -> Result<Bytes, BoxError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.nodes.get(at).cloned().ok_or_else(|| format!("no node at {at}").into())
    }
}

const SLOT_NODES: usize = 8;

/// Collects nodes in packs that have no name until they are full.
#[derive(Debug)]
pub struct MemorySink {
    session: SessionId,
    nodes_per_pack: usize,
    open: Vec<Bytes>,
    sealed: Vec<PackPlace>,
    nodes: MemoryNodes,
    /// Number of nodes taken.
    pub node_count: usize,
    /// Bytes of all nodes taken.
    pub byte_count: usize,
}

impl MemorySink {
    /// Packs of `nodes_per_pack` nodes, named by `session` and their number.
    pub fn new(session: SessionId, nodes_per_pack: usize) -> Self {
        let (open, sealed, nodes) = (Vec::new(), Vec::new(), MemoryNodes::default());
        Self { session, nodes_per_pack, open, sealed, nodes, node_count: 0, byte_count: 0 }
    }

    /// Gives the open pack a name and begins another.
    pub fn seal(&mut self) {
        let mut name = self.session.0;
        name[8..].copy_from_slice(&self.current_pack().0.to_be_bytes());
        name[0] ^= 0xff;
        let pack = PackPlace { lineage: None, session: self.session, name: PackName(name) };
        for (i, node) in self.open.drain(..).enumerate() {
            let (slot, index) = place(i);
            self.nodes.nodes.insert(StorageId { pack, slot, index }, node);
        }
        self.sealed.push(pack);
    }

    /// Moves the nodes of sealed packs to `nodes`.
    pub fn drain_into(&mut self, nodes: &mut MemoryNodes) {
        nodes.nodes.append(&mut self.nodes.nodes);
    }
}

fn place(i: usize) -> (u32, u32) {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (small(i / SLOT_NODES), small(i % SLOT_NODES))
}

impl NodeSink for MemorySink {
    fn current_pack(&self) -> PackToken {
        PackToken(u64::try_from(self.sealed.len()).unwrap_or(u64::MAX))
    }

    fn put(&mut self, node: &[u8]) -> Result<PendingStorage, BoxError> {
        let (slot, index) = place(self.open.len());
        let stored = PendingStorage { pack: self.current_pack(), slot, index };
        self.open.push(Bytes::copy_from_slice(node));
        self.node_count += 1;
        self.byte_count += node.len();
        if self.open.len() >= self.nodes_per_pack {
            self.seal();
        }
        Ok(stored)
    }

    fn resolve(&self, pack: PackToken) -> Option<PackPlace> {
        self.sealed.get(usize::try_from(pack.0).ok()?).copied()
    }
}

/// Maps of many points over one store of nodes.
#[derive(Debug)]
pub struct History {
    /// Block size of the disk.
    pub block_size: BlockSize,
    /// Every node of every point.
    pub nodes: MemoryNodes,
    nodes_per_pack: usize,
}

/// What writing a point came to.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// The new map.
    pub root: Root,
    /// Number of nodes written.
    pub node_count: usize,
    /// Bytes of the nodes written.
    pub byte_count: usize,
}

impl History {
    /// No points yet.
    pub fn new(block_size: BlockSize, nodes_per_pack: usize) -> Self {
        Self { block_size, nodes: MemoryNodes::default(), nodes_per_pack }
    }

    /// A reader of the map below `root`.
    pub fn reader(&self, root: Root) -> MapReader<'_> {
        MapReader::new(&self.nodes, &TestHasher, self.block_size, root)
    }

    /// Writes the changes that `change` makes to the map below `base`.
    pub fn write(
        &mut self,
        base: Root,
        point: PointNumber,
        change: impl FnOnce(&mut MapWriter<'_>, &mut MemorySink) -> Result<(), MapError>,
    ) -> Result<Written, MapError> {
        let session = SessionId(u128::from(point.0).to_be_bytes());
        let mut sink = MemorySink::new(session, self.nodes_per_pack);
        let mut writer = MapWriter::new(self.reader(base), point);
        change(&mut writer, &mut sink)?;
        let pending = writer.finish(&mut sink)?;
        sink.seal();
        let root = pending.resolve(&sink)?;
        sink.drain_into(&mut self.nodes);
        Ok(Written { root, node_count: sink.node_count, byte_count: sink.byte_count })
    }
}
