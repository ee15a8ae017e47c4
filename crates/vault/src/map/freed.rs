//! What a map refers to and a later one does not: what goes when a point is collected.

use vmkeep_model::{BlockIndex, PointNumber};

use super::error::MapError;
use super::node::Child;
use super::read::{Ahead, Item, MapReader};
use crate::place::Reference;

/// What in a map holds a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// A block, by its entry: the whole block or the patch.
    Block(BlockIndex),
    /// A node, as its parent names it or as the full node it is stored against.
    Node {
        /// Its level.
        level: u8,
        /// Its index among the nodes of its level.
        index: u64,
    },
}

/// What [`freed`] comes by.
#[derive(Debug)]
pub enum Freed<'v> {
    /// A reference of the map before, which the map after has not.
    Reference {
        /// What held it.
        spot: Spot,
        /// The reference.
        reference: &'v Reference,
    },
    /// A node of either map that cannot be read. The walk goes on past everything below it, unless the visitor fails:
    /// what only it could have told is not visited.
    Unreadable {
        /// As its parent names it.
        node: &'v Child,
        /// Why.
        error: MapError,
    },
}

/// Visits every reference of `before` that was born after `since` and that `after` does not have in the same spot: as
/// storage, whatever the content. In block order, nodes before what is below them.
///
/// Subtrees of `before` in which everything is as old as `since` or older are not read, nor are those that `after` has
/// too. So it costs what both maps changed in the same ranges, and what is gone. Without `after`, or when that is of
/// another block size and so another disk, everything born after `since` is visited.
///
/// Where `before` is the map of a point that goes, `since` the nearest point below it that stays and `after` the map of
/// the next point above it, what is visited is what no point that stays refers to, but for points in between that go too.
pub fn freed<E>(
    before: &MapReader<'_>,
    after: Option<&MapReader<'_>>,
    since: PointNumber,
    mut visit: impl FnMut(Freed<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let after = after.filter(|after| after.block_size() == before.block_size());
    let mut kept = Kept::new(after);
    let mut ahead = Ahead::new(before.root());
    while let Some(item) = ahead.next() {
        if item.newest_birth() <= since || item.start() < kept.hidden {
            continue;
        }
        // What holds the item in the map after, in the same spot.
        let same = match kept.same(&item) {
            Ok(same) => same,
            Err(Lost { node, error }) => {
                visit(Freed::Unreadable { node: &node, error: *error })?;
                continue;
            }
        };
        let mut tell = |spot, reference: &Reference, same: &[Reference]| {
            if reference.birth > since && same.iter().all(|kept| kept.at != reference.at) {
                return visit(Freed::Reference { spot, reference });
            }
            Ok(())
        };
        match (item, same) {
            (Item::Block(block, entry), Same::At(same)) => {
                entry.references().try_for_each(|reference| tell(Spot::Block(block), reference, &same))?;
            }
            (Item::Subtree(child), Same::At(same)) => {
                let spot = Spot::Node { level: child.level, index: child.index };
                tell(spot, &child.at, &same)?;
                match before.load(&child) {
                    Ok(node) => {
                        if let Some(base) = node.base() {
                            tell(spot, &base.at, &same)?;
                        }
                        ahead.expand(node);
                    }
                    Err(error) => visit(Freed::Unreadable { node: &child, error })?,
                }
            }
            (_, Same::Whole) => {}
        }
    }
    Ok(())
}

/// The map after, as far as the walk has come.
struct Kept<'a> {
    reader: Option<MapReader<'a>>,
    ahead: Ahead,
    /// Blocks below this lie under a node that could not be read: nothing is known of them.
    hidden: u64,
}

/// What the map after has in the spot of an item.
enum Same {
    /// The same subtree, so everything below it.
    Whole,
    /// These references, and below it what lies ahead.
    At(Vec<Reference>),
}

/// A node of the map after that could not be read.
struct Lost {
    node: Box<Child>,
    error: Box<MapError>,
}

impl<'a> Kept<'a> {
    fn new(reader: Option<&MapReader<'a>>) -> Self {
        let ahead = reader.map(|reader| Ahead::new(reader.root())).unwrap_or_default();
        Self { reader: reader.copied(), ahead, hidden: 0 }
    }

    /// Goes to the spot of `item`; items come in order. Fails with the node that could not be read.
    ///
    /// Ranges of two items are apart or one within the other, and are equal only for one spot. So what ends before the
    /// item is passed by, what is wider is opened, and what is narrower waits for what is below the item.
    fn same(&mut self, item: &Item) -> Result<Same, Lost> {
        loop {
            match self.ahead.peek() {
                Some(front) if front.end() <= item.start() => drop(self.ahead.next()),
                Some(front) if front.start() <= item.start() && item.end() <= front.end() => {
                    match (item, self.ahead.next()) {
                        (Item::Subtree(child), Some(Item::Subtree(front))) if front.at.at == child.at.at => {
                            return Ok(Same::Whole);
                        }
                        (_, Some(Item::Subtree(front))) => {
                            let base = self.open(&front)?;
                            if front.start() == item.start() && front.end() == item.end() {
                                return Ok(Same::At([Some(front.at), base].into_iter().flatten().collect()));
                            }
                        }
                        (_, Some(Item::Block(_, entry))) => {
                            return Ok(Same::At(entry.references().copied().collect()));
                        }
                        (_, None) => {}
                    }
                }
                _ => return Ok(Same::At(Vec::new())),
            }
        }
    }

    /// Puts what is below `node` ahead, and gives the full node it is stored against.
    fn open(&mut self, node: &Child) -> Result<Option<Reference>, Lost> {
        let Some(reader) = &self.reader else { return Ok(None) };
        match reader.load(node) {
            Ok(loaded) => {
                let base = loaded.base().map(|base| base.at);
                self.ahead.expand(loaded);
                Ok(base)
            }
            Err(error) => {
                self.hidden = node.end();
                Err(Lost { node: Box::new(*node), error: Box::new(error) })
            }
        }
    }
}
