//! Reading a map: one block, or all in order.

use bytes::Bytes;
use vmkeep_model::{BlockIndex, BlockSize, PointNumber};

use super::codec::{self, Decoded};
use super::entry::Entry;
use super::error::{BoxError, Malformed, MapError};
use super::node::{Child, Node, NodeHasher, Root, Slots};
use super::shape;
use crate::place::StorageId;

/// Where stored nodes come from: packs and whatever cache lies before them.
///
/// # Contract
/// [`node`](Self::node) returns the bytes that were stored as that node, opened and authenticated, or fails. A node
/// that is not there is a failure. It may be called from several threads at once.
pub trait NodeSource: Send + Sync {
    /// The encoded node stored at `at`.
    fn node(&self, at: &StorageId) -> Result<Bytes, BoxError>;
}

/// Reads one map. Cheap to make and to copy: it holds no node.
#[derive(Clone, Copy)]
pub struct MapReader<'a> {
    source: &'a dyn NodeSource,
    hasher: &'a dyn NodeHasher,
    block_size: BlockSize,
    root: Root,
}

impl std::fmt::Debug for MapReader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MapReader")
            .field("block_size", &self.block_size)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl<'a> MapReader<'a> {
    /// Reads the map below `root`, of a disk of blocks of `block_size`.
    pub fn new(
        source: &'a dyn NodeSource,
        hasher: &'a dyn NodeHasher,
        block_size: BlockSize,
        root: Root,
    ) -> Self {
        Self { source, hasher, block_size, root }
    }

    /// The top of the map.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Size of the blocks it maps.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    pub(crate) fn hasher(&self) -> &'a dyn NodeHasher {
        self.hasher
    }

    /// What is known of `block`; `None` when it is all zero. Reads one node per level.
    pub fn entry(&self, block: BlockIndex) -> Result<Option<Entry>, MapError> {
        let mut next = self.root;
        while let Some(child) = next.filter(|child| (child.start()..child.end()).contains(&block.0)) {
            let node = self.load(&child)?;
            let place = shape::place_of(node.level(), block.0);
            next = match node.slots() {
                Slots::Leaf(entries) => return Ok(entries.get(place).cloned()),
                Slots::Inner(children) => children.get(place).copied(),
            };
        }
        Ok(None)
    }

    /// Every block at or after `from` that is not all zero, in order.
    ///
    /// Nodes are read as the iterator comes to them and forgotten when it has passed. After an error it ends.
    pub fn entries(&self, from: BlockIndex) -> Entries<'a> {
        Entries { reader: *self, ahead: Ahead::new(&self.root), from: from.0, until: u64::MAX }
    }

    /// Reads, expands and checks the node that a parent names.
    pub(crate) fn load(&self, child: &Child) -> Result<Node, MapError> {
        let at = child.at.at;
        let malformed = |Malformed { what }| MapError::Malformed { at, what };
        child.check_sums().map_err(malformed)?;
        let node = match self.decode(&at)? {
            Decoded::Full(node) => node,
            Decoded::Delta(delta) => {
                let base = *delta.base();
                let Decoded::Full(below) = self.decode(&base.at)? else {
                    return Err(MapError::Malformed { at: base.at, what: "delta over a delta" });
                };
                delta.expand(below).map_err(malformed)?
            }
        };
        check(child, &node).map_err(malformed)?;
        let found = self.hasher.node_hash(&node.expanded_bytes());
        if found != child.hash {
            return Err(MapError::HashMismatch { at, expected: child.hash, found });
        }
        Ok(node)
    }

    fn decode(&self, at: &StorageId) -> Result<Decoded, MapError> {
        let bytes = self.source.node(at).map_err(|source| MapError::Source { at: *at, source })?;
        codec::decode(&bytes, at.pack, self.block_size)
            .map_err(|Malformed { what }| MapError::Malformed { at: *at, what })
    }
}

/// Whether `node` is what its parent says beside the hash, which does not cover births.
fn check(child: &Child, node: &Node) -> Result<(), Malformed> {
    if (node.level(), node.index()) != (child.level, child.index) {
        return Err(Malformed { what: "level or index, other than the parent's" });
    }
    if node.blocks() != child.blocks {
        return Err(Malformed { what: "number of blocks, other than the parent's" });
    }
    let base = node.base().map_or(child.at.birth, |base| base.at.birth);
    if base > child.at.birth {
        return Err(Malformed { what: "base, younger than its delta" });
    }
    if node.newest_birth_below().max(child.at.birth) != child.newest_birth {
        return Err(Malformed { what: "newest birth, other than the parent's" });
    }
    Ok(())
}

/// What lies ahead of a walk in block order: whole subtrees, and the blocks of the leaf it is in.
///
/// The next item is the last one. It holds the rest of one path's nodes, so at most 64 items for each level.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ahead {
    items: Vec<Item>,
}

#[derive(Clone, Debug)]
pub(crate) enum Item {
    Subtree(Child),
    Block(BlockIndex, Entry),
}

impl Item {
    pub(crate) fn start(&self) -> u64 {
        match self {
            Self::Subtree(child) => child.start(),
            Self::Block(block, _) => block.0,
        }
    }

    pub(crate) fn end(&self) -> u64 {
        match self {
            Self::Subtree(child) => child.end(),
            Self::Block(block, _) => block.0 + 1,
        }
    }

    pub(crate) fn newest_birth(&self) -> PointNumber {
        match self {
            Self::Subtree(child) => child.newest_birth,
            Self::Block(_, entry) => entry.newest_birth(),
        }
    }
}

impl Ahead {
    pub(crate) fn new(root: &Root) -> Self {
        Self { items: root.iter().copied().map(Item::Subtree).collect() }
    }

    pub(crate) fn peek(&self) -> Option<&Item> {
        self.items.last()
    }

    pub(crate) fn next(&mut self) -> Option<Item> {
        self.items.pop()
    }

    /// Puts what a node holds in front.
    pub(crate) fn expand(&mut self, node: Node) {
        let index = node.index();
        match node.into_slots() {
            Slots::Leaf(entries) => {
                let blocks = entries.into_things().rev();
                self.items
                    .extend(blocks.map(|(place, entry)| Item::Block(shape::block_at(index, place), entry)));
            }
            Slots::Inner(children) => {
                self.items.extend(children.into_things().rev().map(|(_, child)| Item::Subtree(child)));
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }
}

/// The blocks of a map in order; see [`MapReader::entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    reader: MapReader<'a>,
    ahead: Ahead,
    from: u64,
    /// Nothing that begins here or later is given, or read.
    until: u64,
}

impl Entries<'_> {
    /// Leaves out `end` and what comes after it. Subtrees that lie there are not read.
    pub(crate) fn end_at(self, end: BlockIndex) -> Self {
        Self { until: end.0, ..self }
    }

    /// Leaves out what comes before `block`. Subtrees that lie before it are not read.
    pub fn skip_to(&mut self, block: BlockIndex) {
        self.from = self.from.max(block.0);
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(BlockIndex, Entry), MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.ahead.next()? {
                item if item.end() <= self.from => {}
                item if item.start() >= self.until => self.ahead.clear(),
                Item::Block(block, entry) => return Some(Ok((block, entry))),
                Item::Subtree(child) => match self.reader.load(&child) {
                    Ok(node) => self.ahead.expand(node),
                    Err(error) => {
                        self.ahead.clear();
                        return Some(Err(error));
                    }
                },
            }
        }
    }
}
