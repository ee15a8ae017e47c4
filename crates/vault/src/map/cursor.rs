//! Looking up many blocks or nodes of one map, without reading the way to each of them anew.

use vmkeep_model::BlockIndex;

use super::entry::Entry;
use super::error::MapError;
use super::node::{Child, Node, Slots};
use super::read::MapReader;
use super::shape;
use crate::place::Reference;

/// What a [`Cursor`] says of a block or node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// It is in the map.
    Found(T),
    /// It is not in the map.
    Absent,
    /// It lies below a node whose error was returned before.
    Unknown,
}

/// A place in a map, with the nodes above it: one path.
///
/// Whoever asks in ascending order of blocks, and for a node before what is below it, has every node read once. Any
/// other order gives the same answers.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    reader: MapReader<'a>,
    path: Vec<(Child, Node)>,
    /// The last node that could not be read. It is not asked for again as long as the cursor stays below it.
    broken: Option<Child>,
}

impl<'a> Cursor<'a> {
    /// Looks into the map that `reader` reads.
    pub fn new(reader: MapReader<'a>) -> Self {
        Self { reader, path: Vec::new(), broken: None }
    }

    /// What is known of `block`.
    pub fn entry(&mut self, block: BlockIndex) -> Result<Lookup<&Entry>, MapError> {
        let leaf = match self.child(0, shape::index_of(0, block.0))? {
            Lookup::Found(leaf) => leaf,
            Lookup::Absent => return Ok(Lookup::Absent),
            Lookup::Unknown => return Ok(Lookup::Unknown),
        };
        Ok(match self.load(leaf)? {
            Lookup::Found(node) => match node.slots() {
                Slots::Leaf(entries) => {
                    entries.get(shape::place_of(0, block.0)).map_or(Lookup::Absent, Lookup::Found)
                }
                Slots::Inner(_) => Lookup::Absent,
            },
            Lookup::Absent => Lookup::Absent,
            Lookup::Unknown => Lookup::Unknown,
        })
    }

    /// The node of that level and index as its parent names it. Only nodes above it are read.
    pub fn child(&mut self, level: u8, index: u64) -> Result<Lookup<Child>, MapError> {
        if !shape::is_node(level, index) {
            return Ok(Lookup::Absent);
        }
        let block = shape::start_of(level, index);
        let is_above = |child: &Child| child.level > level && covers(child, block);
        while self.path.last().is_some_and(|(child, _)| !is_above(child) && !is_at(child, level, index)) {
            self.path.pop();
        }
        if let Some((child, _)) = self.path.last().filter(|(child, _)| is_at(child, level, index)) {
            return Ok(Lookup::Found(*child));
        }
        loop {
            let next = match self.path.last() {
                None => *self.reader.root(),
                Some((above, node)) => match node.slots() {
                    Slots::Inner(children) => children.get(shape::place_of(above.level, block)).copied(),
                    Slots::Leaf(_) => None,
                },
            };
            let next = match next {
                Some(next) if is_at(&next, level, index) => return Ok(Lookup::Found(next)),
                Some(next) if is_above(&next) => next,
                _ => return Ok(Lookup::Absent),
            };
            if let Lookup::Unknown = self.load(next)? {
                return Ok(Lookup::Unknown);
            }
        }
    }

    /// The node of that level and index, and the full node it is stored against when it is stored as a delta.
    pub fn node(&mut self, level: u8, index: u64) -> Result<Lookup<(Child, Option<Reference>)>, MapError> {
        let child = match self.child(level, index)? {
            Lookup::Found(child) => child,
            Lookup::Absent => return Ok(Lookup::Absent),
            Lookup::Unknown => return Ok(Lookup::Unknown),
        };
        Ok(match self.load(child)? {
            Lookup::Found(node) => Lookup::Found((child, node.base().map(|base| base.at))),
            Lookup::Absent => Lookup::Absent,
            Lookup::Unknown => Lookup::Unknown,
        })
    }

    /// Reads `child`, which hangs below the end of the path or is its end.
    fn load(&mut self, child: Child) -> Result<Lookup<&Node>, MapError> {
        if self.path.last().is_none_or(|(end, _)| end.at != child.at) {
            if self.broken == Some(child) {
                return Ok(Lookup::Unknown);
            }
            match self.reader.load(&child) {
                Ok(node) => self.path.push((child, node)),
                Err(error) => {
                    self.broken = Some(child);
                    return Err(error);
                }
            }
        }
        Ok(self.path.last().map_or(Lookup::Absent, |(_, node)| Lookup::Found(node)))
    }
}

fn covers(child: &Child, block: u64) -> bool {
    (child.start()..child.end()).contains(&block)
}

fn is_at(child: &Child, level: u8, index: u64) -> bool {
    (child.level, child.index) == (level, index)
}

impl MapReader<'_> {
    /// The node of that level and index, if the tree has it, and the full node it is stored against when it is stored as
    /// a delta. For many of them there is [`Cursor`].
    pub fn node_at(&self, level: u8, index: u64) -> Result<Option<(Child, Option<Reference>)>, MapError> {
        match Cursor::new(*self).node(level, index)? {
            Lookup::Found(found) => Ok(Some(found)),
            Lookup::Absent | Lookup::Unknown => Ok(None),
        }
    }
}
