//! A node in full, as it is hashed, whatever form it is stored in.

use vmkeep_model::{BlockIndex, BlockRun, ContentHash, PointNumber};

use super::entry::Entry;
use super::error::Malformed;
use super::places::Places;
use super::shape;
use crate::place::Reference;

/// Hashes expanded nodes under the identity key of the disk's key domain.
pub trait NodeHasher: Send + Sync {
    /// The keyed hash of `expanded`; the same bytes must always give the same hash.
    fn node_hash(&self, expanded: &[u8]) -> ContentHash;
}

/// A node, as its parent names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Child {
    /// Where it is stored, and since when.
    pub at: Reference,
    /// Its level; 0 is a leaf.
    pub level: u8,
    /// Its index among the nodes of its level.
    pub index: u64,
    /// The identity of the content below it.
    pub hash: ContentHash,
    /// The newest birth of the references at and below it.
    pub newest_birth: PointNumber,
    /// Number of blocks below it that are not all zero.
    pub blocks: u64,
}

impl Child {
    /// The blocks it covers, whether or not they hold data.
    pub fn covers(&self) -> BlockRun {
        BlockRun { start: BlockIndex(self.start()), len: shape::node_span(self.level) }
    }

    /// First block after those it covers.
    pub(crate) fn end(&self) -> u64 {
        shape::end_of(self.level, self.index)
    }

    /// First block it covers.
    pub(crate) fn start(&self) -> u64 {
        shape::start_of(self.level, self.index)
    }

    /// Whether it can hang at `place` of the node at `level` with `index`.
    fn check(&self, level: u8, index: u64, place: u8) -> Result<(), Malformed> {
        if self.level >= level || !shape::is_node(self.level, self.index) {
            return Err(Malformed { what: "level or index of a child" });
        }
        let block = self.start();
        if shape::index_of(level, block) != index || shape::place_of(level, block) != place {
            return Err(Malformed { what: "index of a child outside its place" });
        }
        self.check_sums()
    }

    /// What holds of every node, wherever it hangs.
    pub(crate) fn check_sums(&self) -> Result<(), Malformed> {
        if self.newest_birth < self.at.birth {
            return Err(Malformed { what: "newest birth, older than the birth of the child" });
        }
        if self.blocks == 0 || self.blocks > shape::node_span(self.level) {
            return Err(Malformed { what: "number of blocks below a child" });
        }
        Ok(())
    }
}

/// The top of a map; `None` when every block is all zero.
pub type Root = Option<Child>;

/// What a node holds at its places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slots {
    /// Blocks.
    Leaf(Places<Entry>),
    /// Further nodes.
    Inner(Places<Child>),
}

impl Slots {
    /// Number of places taken.
    pub fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Inner(children) => children.len(),
        }
    }

    /// Whether no place is taken. No stored node is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many places a delta from `base` to this would have to name.
    pub(crate) fn distance_from(&self, base: &Self) -> Option<usize> {
        fn distance<T: PartialEq>(this: &Places<T>, base: &Places<T>) -> usize {
            let removed = base.missing_from(this).count_ones();
            this.changed_from(base).count() + usize::try_from(removed).unwrap_or(usize::MAX)
        }
        match (self, base) {
            (Self::Leaf(this), Self::Leaf(base)) => Some(distance(this, base)),
            (Self::Inner(this), Self::Inner(base)) => Some(distance(this, base)),
            _ => None,
        }
    }
}

/// The full node that a delta was laid over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where it is stored.
    pub at: Reference,
    /// What it holds.
    pub slots: Slots,
}

/// A node in full.
///
/// A leaf has at least one place taken, an inner node at least two, and every child lies within its place: so the
/// shape of a tree follows from which blocks are zero and from nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    level: u8,
    index: u64,
    slots: Slots,
    base: Option<Base>,
}

impl Node {
    /// The node of these slots, to be stored in full.
    pub fn new(level: u8, index: u64, slots: Slots) -> Result<Self, Malformed> {
        if !shape::is_node(level, index) {
            return Err(Malformed { what: "level or index of a node" });
        }
        match &slots {
            Slots::Leaf(entries) => {
                if level != 0 || entries.is_empty() {
                    return Err(Malformed { what: "leaf without blocks or above level 0" });
                }
            }
            Slots::Inner(children) => {
                if level == 0 || children.len() < 2 {
                    return Err(Malformed { what: "inner node with fewer than two children or at level 0" });
                }
                children.iter().try_for_each(|(place, child)| child.check(level, index, place))?;
            }
        }
        Ok(Self { level, index, slots, base: None })
    }

    /// The same node, to be stored as a delta over `base`, a full node of the same level and index.
    ///
    /// # Panics
    /// When one is a leaf and the other is not.
    #[must_use]
    pub fn over(self, base: Base) -> Self {
        let is_leaf = |slots: &Slots| matches!(slots, Slots::Leaf(_));
        assert_eq!(is_leaf(&self.slots), is_leaf(&base.slots), "a base is of the level of its node");
        Self { base: Some(base), ..self }
    }

    /// Its level; 0 is a leaf.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Its index among the nodes of its level.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// What it holds.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// What it holds, taken out.
    pub(crate) fn into_slots(self) -> Slots {
        self.slots
    }

    /// The full node it is stored against; `None` when it is stored in full.
    pub fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// Number of blocks below it that are not all zero.
    pub fn blocks(&self) -> u64 {
        match &self.slots {
            Slots::Leaf(entries) => entries.iter().map(|_| 1).sum(),
            // At most 64 numbers, each at most 2^54 / 64.
            Slots::Inner(children) => children.iter().map(|(_, child)| child.blocks).sum(),
        }
    }

    /// The newest birth of the references it holds.
    pub fn newest_birth_below(&self) -> PointNumber {
        match &self.slots {
            Slots::Leaf(entries) => entries.iter().map(|(_, entry)| entry.newest_birth()).max(),
            Slots::Inner(children) => children.iter().map(|(_, child)| child.newest_birth).max(),
        }
        .unwrap_or_default()
    }

    /// The bytes whose hash is the node's identity: what the blocks hold, and not where they lie.
    pub fn expanded_bytes(&self) -> Vec<u8> {
        let mut out = vec![self.level];
        out.extend(self.index.to_le_bytes());
        match &self.slots {
            Slots::Leaf(entries) => {
                for (place, entry) in entries.iter() {
                    out.push(place);
                    out.extend(entry.hash().0);
                }
            }
            Slots::Inner(children) => {
                for (place, child) in children.iter() {
                    out.extend([place, child.level]);
                    out.extend(child.index.to_le_bytes());
                    out.extend(child.hash.0);
                }
            }
        }
        out
    }
}
