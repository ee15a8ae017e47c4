//! Writing the next version of a map: changes in block order, one path of open nodes.

use vmkeep_model::{BlockIndex, BlockRun, ContentHash, PageMask, PointNumber, SessionId};

use super::codec;
use super::entry::Entry;
use super::error::{Malformed, MapError};
use super::node::{Base, Child, Node, Root, Slots};
use super::places::Places;
use super::read::MapReader;
use super::shape::{self, BLOCKS_MAX, LEVEL_MAX};
use super::sink::{NodeSink, PackToken};
use vmkeep_envelope::PackName;

use crate::place::{PackPlace, Reference, StorageId};

/// A delta may name at most one place for every this many that its base has; beyond that the node is stored in full.
///
/// A delta of n places costs n on every later change of its node, and a full node costs 64 once. With references of
/// one size the sum is least near n = sqrt(2 * 64), about 11; 16 of 64 keeps scattered changes of a full disk at one
/// place each and costs little more.
const DELTA_SHARE: usize = 4;

/// Stands for the pack that is being filled, which has no name yet. It is written as index 0 and never stored; a
/// pack name is a hash and a session id is random, so no pack is really called this.
const OPEN_PACK: PackPlace =
    PackPlace { lineage: None, session: SessionId([0; 16]), name: PackName([0; 16]) };

/// A node of the new tree: an old one that stays, or one that was just written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Draft {
    /// Its pack is [`OPEN_PACK`] as long as `pending` is set.
    child: Child,
    pending: Option<PackToken>,
}

impl Draft {
    fn of(child: Child) -> Self {
        Self { child, pending: None }
    }

    fn in_pack(mut child: Child, pack: PackPlace) -> Child {
        child.at.at.pack = pack;
        child
    }

    /// The child with its pack's name.
    fn resolve(&self, sink: &dyn NodeSink) -> Result<Child, MapError> {
        match self.pending {
            None => Ok(self.child),
            Some(token) => {
                let pack = sink.resolve(token).ok_or(MapError::NotSealed(token))?;
                Ok(Self::in_pack(self.child, pack))
            }
        }
    }

    /// The child as a node refers to it that will lie in the current pack of `sink`.
    fn as_seen_from_current(&self, sink: &dyn NodeSink) -> Result<Child, MapError> {
        match self.pending {
            Some(token) if token == sink.current_pack() => Ok(self.child),
            _ => self.resolve(sink),
        }
    }
}

/// The top of a map that was just written, and may lie in a pack that is not sealed yet.
#[derive(Clone, Copy, Debug)]
#[must_use = "the map is only reachable through its root"]
pub struct PendingRoot {
    draft: Option<Draft>,
}

impl PendingRoot {
    /// The root, once `sink` has sealed the pack that holds it.
    pub fn resolve(&self, sink: &dyn NodeSink) -> Result<Root, MapError> {
        self.draft.map(|draft| draft.resolve(sink)).transpose()
    }
}

#[derive(Debug)]
enum OpenSlots {
    Leaf(Places<Entry>),
    Inner(Places<Draft>),
}

/// A node that is being changed.
#[derive(Debug)]
struct Open {
    level: u8,
    index: u64,
    slots: OpenSlots,
    /// Whether `slots` differ from the base map. Exact, because every place is settled once and never goes back.
    changed: bool,
    /// All that the base map has in this range: a node of this very place, or one further down when levels are left out.
    was: Root,
    /// The node that `was` names, when it is one of this very place.
    old: Option<Node>,
}

impl Open {
    fn end(&self) -> u64 {
        shape::end_of(self.level, self.index)
    }
}

/// Writes a map as changes against a base map.
///
/// Changes come in ascending order of blocks. Only nodes on the way to a change are read, everything else stays shared
/// with the base map; a change that changes nothing writes nothing. Memory holds one path of open nodes, whatever
/// the size of the disk. A writer that failed must be dropped: nothing refers to what it has written.
#[derive(Debug)]
pub struct MapWriter<'a> {
    base: MapReader<'a>,
    birth: PointNumber,
    /// Blocks below this are settled.
    next: u64,
    /// The path from the top level down; a node for every level, so growth and left-out levels need no cases. Levels
    /// that turn out to have a single child vanish when they are closed.
    open: Vec<Open>,
}

impl<'a> MapWriter<'a> {
    /// Writes changes against the map that `base` reads, for the point `birth`.
    pub fn new(base: MapReader<'a>, birth: PointNumber) -> Self {
        Self { base, birth, next: 0, open: Vec::new() }
    }

    /// Says what `block` is now; `None` for all zero.
    ///
    /// The packs that the entry refers to must have their names, that is be sealed.
    pub fn set(
        &mut self,
        sink: &mut dyn NodeSink,
        block: BlockIndex,
        entry: Option<Entry>,
    ) -> Result<(), MapError> {
        self.advance(block, block.0.saturating_add(1))?;
        self.check(block, entry.as_ref())?;
        self.close_up_to(sink, block.0)?;
        loop {
            let top = self.top()?;
            let place = shape::place_of(top.level, block.0);
            match &mut top.slots {
                OpenSlots::Leaf(entries) => {
                    top.changed |= entries.set(place, entry);
                    return Ok(());
                }
                OpenSlots::Inner(children) if entry.is_none() && children.get(place).is_none() => {
                    return Ok(());
                }
                OpenSlots::Inner(_) => self.descend(place)?,
            }
        }
    }

    /// Says that `block` has other `pages` now than the whole block has that lies below it, and has the content `hash`.
    ///
    /// The base map must have an entry for the block. The whole block of that stays below, also when it is patched
    /// already: then `pages` must have all pages of the old patch, which the new one takes the place of.
    pub fn patch(
        &mut self,
        sink: &mut dyn NodeSink,
        block: BlockIndex,
        patch: Reference,
        pages: PageMask,
        hash: ContentHash,
    ) -> Result<(), MapError> {
        self.advance(block, block.0.saturating_add(1))?;
        self.close_up_to(sink, block.0)?;
        let wrong = |what| Err(MapError::Entry { block, what });
        let base = loop {
            let top = self.top()?;
            let place = shape::place_of(top.level, block.0);
            match &top.slots {
                OpenSlots::Leaf(entries) => match entries.get(place) {
                    None => return wrong("patch without a whole block below"),
                    Some(Entry::Full { at, .. }) => break *at,
                    Some(Entry::Patched { base, pages: old, .. }) if pages.holds(old) => break *base,
                    Some(Entry::Patched { .. }) => {
                        return wrong("patch that leaves out pages of the one before");
                    }
                },
                OpenSlots::Inner(children) if children.get(place).is_none() => {
                    return wrong("patch without a whole block below");
                }
                OpenSlots::Inner(_) => self.descend(place)?,
            }
        };
        let entry = Entry::Patched { base, patch, pages, hash };
        self.check(block, Some(&entry))?;
        let top = self.top()?;
        let place = shape::place_of(top.level, block.0);
        if let OpenSlots::Leaf(entries) = &mut top.slots {
            top.changed |= entries.set(place, Some(entry));
        }
        Ok(())
    }

    fn check(&self, block: BlockIndex, entry: Option<&Entry>) -> Result<(), MapError> {
        let Some(entry) = entry else { return Ok(()) };
        let wrong = |what| MapError::Entry { block, what };
        entry.check(self.base.block_size()).map_err(|Malformed { what }| wrong(what))?;
        if entry.references().any(|reference| reference.at.pack == OPEN_PACK) {
            return Err(wrong("name of a pack"));
        }
        Ok(())
    }

    /// Makes every block of `run` all zero. Subtrees within it are dropped unread.
    pub fn clear(&mut self, sink: &mut dyn NodeSink, run: BlockRun) -> Result<(), MapError> {
        if run.is_empty() {
            return Ok(());
        }
        let end = run.end().0.min(BLOCKS_MAX);
        self.advance(run.start, end)?;
        let mut from = run.start.0;
        while from < end {
            self.close_up_to(sink, from)?;
            from = self.clear_in_top(from, end)?;
        }
        Ok(())
    }

    /// Makes every block at or after `from` all zero, as when a disk shrinks.
    pub fn truncate_from(&mut self, sink: &mut dyn NodeSink, from: BlockIndex) -> Result<(), MapError> {
        self.clear(sink, BlockRun::between(from, BlockIndex(BLOCKS_MAX)))
    }

    /// Writes what is still open and returns the top of the new map.
    pub fn finish(mut self, sink: &mut dyn NodeSink) -> Result<PendingRoot, MapError> {
        if self.open.is_empty() {
            return Ok(PendingRoot { draft: self.base.root().map(Draft::of) });
        }
        while self.open.len() > 1 {
            self.close_top(sink)?;
        }
        let draft = match self.open.pop() {
            Some(top) => self.close(top, sink)?,
            None => None,
        };
        Ok(PendingRoot { draft })
    }

    /// Settles everything below `end`, provided that nothing from `start` on was settled before.
    fn advance(&mut self, start: BlockIndex, end: u64) -> Result<(), MapError> {
        if start.0 >= BLOCKS_MAX {
            return Err(MapError::OutOfRange(start));
        }
        if start.0 < self.next {
            return Err(MapError::Order { block: start, next: BlockIndex(self.next) });
        }
        self.next = end;
        Ok(())
    }

    fn top(&mut self) -> Result<&mut Open, MapError> {
        if self.open.is_empty() {
            let open = self.open_node(LEVEL_MAX, 0, *self.base.root())?;
            self.open.push(open);
        }
        Ok(self.open.last_mut().expect("one was just pushed"))
    }

    /// Opens the node of a place in which the base map has `was`.
    fn open_node(&self, level: u8, index: u64, was: Root) -> Result<Open, MapError> {
        let mut inner = Places::default();
        let (slots, old) = match was {
            Some(child) if child.level == level => {
                let node = self.base.load(&child)?;
                let slots = match node.slots() {
                    Slots::Leaf(entries) => OpenSlots::Leaf(entries.clone()),
                    Slots::Inner(children) => {
                        OpenSlots::Inner(children.try_map(|child| Ok::<_, MapError>(Draft::of(*child)))?)
                    }
                };
                (slots, Some(node))
            }
            None if level == 0 => (OpenSlots::Leaf(Places::default()), None),
            None => (OpenSlots::Inner(inner), None),
            Some(child) => {
                inner.set(shape::place_of(level, child.start()), Some(Draft::of(child)));
                (OpenSlots::Inner(inner), None)
            }
        };
        Ok(Open { level, index, slots, changed: false, was, old })
    }

    /// Opens the node one level below the top, at `place`.
    fn descend(&mut self, place: u8) -> Result<(), MapError> {
        let top = self.top()?;
        let OpenSlots::Inner(children) = &top.slots else { unreachable!("a leaf has nothing below it") };
        let was = children.get(place).map(|draft| {
            // Settled places are never opened again, because blocks ascend.
            debug_assert!(draft.pending.is_none());
            draft.child
        });
        let (level, index) =
            (top.level - 1, shape::index_of(top.level - 1, shape::place_start(top.level, top.index, place)));
        let open = self.open_node(level, index, was)?;
        self.open.push(open);
        Ok(())
    }

    /// Closes open nodes until the top one covers `block`. The first covers all there can be.
    fn close_up_to(&mut self, sink: &mut dyn NodeSink, block: u64) -> Result<(), MapError> {
        while self.top()?.end() <= block {
            self.close_top(sink)?;
        }
        Ok(())
    }

    /// Clears from `from` as far as the top node reaches, at most to `end`; returns how far that was. Where the top
    /// node has a subtree that is partly within, opens that and returns its start.
    fn clear_in_top(&mut self, from: u64, end: u64) -> Result<u64, MapError> {
        let top = self.top()?;
        let stop = end.min(top.end());
        let mut place = shape::place_of(top.level, from);
        let partly = loop {
            let (next, range) = match &top.slots {
                OpenSlots::Leaf(entries) => match entries.first_from(place) {
                    Some((next, _)) => (next, None),
                    None => break None,
                },
                OpenSlots::Inner(children) => match children.first_from(place) {
                    Some((next, draft)) => (next, Some((draft.child.start(), draft.child.end()))),
                    None => break None,
                },
            };
            let at = shape::place_start(top.level, top.index, next);
            if at >= stop {
                break None;
            }
            let (first, after) = range.unwrap_or((at, at + 1));
            if from <= first && after <= stop {
                top.changed |= match &mut top.slots {
                    OpenSlots::Leaf(entries) => entries.set(next, None),
                    OpenSlots::Inner(children) => children.set(next, None),
                };
            } else if first < stop && from < after {
                break Some((next, at));
            }
            place = next + 1;
        };
        match partly {
            None => Ok(stop),
            Some((place, at)) => {
                self.descend(place)?;
                Ok(at.max(from))
            }
        }
    }

    fn close_top(&mut self, sink: &mut dyn NodeSink) -> Result<(), MapError> {
        let Some(node) = self.open.pop() else { return Ok(()) };
        let block = shape::start_of(node.level, node.index);
        let draft = self.close(node, sink)?;
        if let Some(Open { level, slots: OpenSlots::Inner(children), changed, .. }) = self.open.last_mut() {
            *changed |= children.set(shape::place_of(*level, block), draft);
        }
        Ok(())
    }

    /// What a node leaves in its place: nothing, its only child, its old self, or itself written anew.
    fn close(&self, node: Open, sink: &mut dyn NodeSink) -> Result<Option<Draft>, MapError> {
        let Open { level, index, slots, changed, was, old } = node;
        if !changed {
            return Ok(was.map(Draft::of));
        }
        let slots = match slots {
            OpenSlots::Leaf(entries) if entries.is_empty() => return Ok(None),
            OpenSlots::Leaf(entries) => Slots::Leaf(entries),
            OpenSlots::Inner(children) => match children.len() {
                0 => return Ok(None),
                1 => return Ok(children.into_things().next().map(|(_, draft)| draft)),
                _ => Slots::Inner(children.try_map(|draft| draft.as_seen_from_current(sink))?),
            },
        };
        let block = BlockIndex(shape::start_of(level, index));
        let node =
            Node::new(level, index, slots).map_err(|Malformed { what }| MapError::Entry { block, what })?;
        self.write(node, delta_base(was, old), sink).map(Some)
    }

    fn write(&self, node: Node, base: Option<Base>, sink: &mut dyn NodeSink) -> Result<Draft, MapError> {
        let (level, index, blocks) = (node.level(), node.index(), node.blocks());
        let hash = self.base.hasher().node_hash(&node.expanded_bytes());
        let newest_birth = node.newest_birth_below().max(self.birth);

        let mut encoded = codec::encode(&node, OPEN_PACK);
        if let Some(base) = base.filter(|base| is_small_delta(&node, base)) {
            let delta = codec::encode(&node.over(base), OPEN_PACK);
            if delta.len() < encoded.len() {
                encoded = delta;
            }
        }
        let expected = sink.current_pack();
        let stored = sink.put(&encoded).map_err(MapError::Sink)?;
        if stored.pack != expected {
            return Err(MapError::WrongPack { expected, found: stored.pack });
        }
        let at = StorageId { pack: OPEN_PACK, slot: stored.slot, index: stored.index };
        let at = Reference { at, birth: self.birth };
        Ok(Draft { child: Child { at, level, index, hash, newest_birth, blocks }, pending: Some(expected) })
    }
}

/// The full node that a new version of `old` can be laid over: never a delta.
fn delta_base(was: Root, old: Option<Node>) -> Option<Base> {
    let (was, old) = (was?, old?);
    let base = old.base().cloned();
    Some(base.unwrap_or_else(|| Base { at: was.at, slots: old.into_slots() }))
}

fn is_small_delta(node: &Node, base: &Base) -> bool {
    let distance = node.slots().distance_from(&base.slots);
    distance.is_some_and(|distance| distance * DELTA_SHARE <= base.slots.len())
}
