//! What a map refers to that is newer than some point.

use vmkeep_model::{BlockIndex, BlockRun, PointNumber};

use super::entry::Entry;
use super::error::MapError;
use super::node::Child;
use super::read::{Ahead, Item, MapReader};
use crate::place::Reference;

/// What [`MapReader::walk_new`] comes by.
#[derive(Debug)]
pub enum Visit<'v> {
    /// A node, before what is below it.
    Node {
        /// As its parent names it.
        node: &'v Child,
        /// The full node it is stored against, when it is stored as a delta.
        base: Option<&'v Reference>,
    },
    /// A block that holds a reference newer than asked for.
    Block {
        /// Which block.
        block: BlockIndex,
        /// What the map knows of it.
        entry: &'v Entry,
    },
    /// A node that cannot be read. The walk goes on past everything below it, unless the visitor fails.
    Unreadable {
        /// As its parent names it.
        node: &'v Child,
        /// Why.
        error: MapError,
    },
}

impl MapReader<'_> {
    /// Visits every reference that was born after `since`, in block order, and costs what it visits.
    ///
    /// Every node with something newer below it is visited, and of its blocks those with a newer reference. Of what is
    /// visited, single references may be older: an old base below a new patch or delta. Subtrees in which everything
    /// is as old as `since` or older are not read. `PointNumber(0)` visits the whole map. The walk ends with the first
    /// error that `visit` returns.
    pub fn walk_new<E>(
        &self,
        since: PointNumber,
        visit: impl FnMut(Visit<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let everything = BlockRun { start: BlockIndex(0), len: u64::MAX };
        self.walk(everything, since, visit)
    }

    /// Visits everything within `run`, whenever it was born, and the nodes on the way to it.
    pub(crate) fn walk_within<E>(
        &self,
        run: BlockRun,
        visit: impl FnMut(Visit<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.walk(run, PointNumber(0), visit)
    }

    fn walk<E>(
        &self,
        within: BlockRun,
        since: PointNumber,
        mut visit: impl FnMut(Visit<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (start, end) = (within.start.0, within.start.0.saturating_add(within.len));
        let mut ahead = Ahead::new(self.root());
        while let Some(item) = ahead.next() {
            match item {
                item if item.end() <= start || item.start() >= end => {}
                Item::Block(block, entry) if entry.newest_birth() > since => {
                    visit(Visit::Block { block, entry: &entry })?;
                }
                Item::Subtree(child) if child.newest_birth > since => match self.load(&child) {
                    Ok(node) => {
                        visit(Visit::Node { node: &child, base: node.base().map(|base| &base.at) })?;
                        ahead.expand(node);
                    }
                    Err(error) => visit(Visit::Unreadable { node: &child, error })?,
                },
                Item::Block(..) | Item::Subtree(_) => {}
            }
        }
        Ok(())
    }
}
