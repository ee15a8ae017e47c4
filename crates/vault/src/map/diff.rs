//! What differs between two maps, at the cost of the difference.

use vmkeep_model::{BlockIndex, BlockRun};

use super::entry::Entry;
use super::error::MapError;
use super::read::{Ahead, Item, MapReader};

/// A block whose data differs between two maps. At least one side has an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which block.
    pub block: BlockIndex,
    /// What it was; `None` for all zero.
    pub before: Option<Entry>,
    /// What it became; `None` for all zero.
    pub after: Option<Entry>,
}

/// What became of the data of a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// All zero before, data after.
    Appeared,
    /// Data before, other data after.
    Replaced,
    /// Data before, all zero after.
    Vanished,
}

impl Difference {
    /// What became of the block's data.
    pub fn change(&self) -> Change {
        match (&self.before, &self.after) {
            (None, _) => Change::Appeared,
            (_, None) => Change::Vanished,
            _ => Change::Replaced,
        }
    }
}

/// The blocks whose data differs, in order.
///
/// Content decides, not location: the maps may be of any two points of a disk, or of two disks that share a key
/// domain. Subtrees of equal content hash are not read. Under two different identity keys everything differs.
pub fn diff<'a>(before: &MapReader<'a>, after: &MapReader<'a>) -> Result<Diff<'a>, MapError> {
    if before.block_size() != after.block_size() {
        return Err(MapError::BlockSizes(before.block_size(), after.block_size()));
    }
    Ok(Diff { before: Side::new(before), after: Side::new(after) })
}

/// See [`diff`]. After an error it ends.
#[derive(Clone, Debug)]
pub struct Diff<'a> {
    before: Side<'a>,
    after: Side<'a>,
}

#[derive(Clone, Debug)]
struct Side<'a> {
    reader: MapReader<'a>,
    ahead: Ahead,
}

/// What to do about the two items in front.
enum Step {
    /// Equal: pass both by.
    Skip,
    /// A difference, or part of one, on one side or both.
    Take { before: bool, after: bool },
}

impl<'a> Side<'a> {
    fn new(reader: &MapReader<'a>) -> Self {
        Self { reader: *reader, ahead: Ahead::new(reader.root()) }
    }

    /// Takes the block in front; opens the subtree in front when there is none.
    fn take(&mut self) -> Result<Option<(BlockIndex, Entry)>, MapError> {
        match self.ahead.next() {
            Some(Item::Block(block, entry)) => Ok(Some((block, entry))),
            Some(Item::Subtree(child)) => {
                self.ahead.expand(self.reader.load(&child)?);
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

/// Ranges of two nodes or blocks are apart or one within the other, so the wider one is opened until they are equal.
fn step(before: Option<&Item>, after: Option<&Item>) -> Option<Step> {
    let (only_before, only_after) =
        (Step::Take { before: true, after: false }, Step::Take { before: false, after: true });
    let (x, y) = match (before, after) {
        (None, None) => return None,
        (Some(_), None) => return Some(only_before),
        (None, Some(_)) => return Some(only_after),
        (Some(x), Some(y)) => (x, y),
    };
    Some(match (x, y) {
        _ if x.end() <= y.start() => only_before,
        _ if y.end() <= x.start() => only_after,
        (Item::Subtree(a), Item::Subtree(b)) if (a.level, a.index, a.hash) == (b.level, b.index, b.hash) => {
            Step::Skip
        }
        (Item::Subtree(a), Item::Subtree(b)) if a.level != b.level => {
            if a.level > b.level {
                only_before
            } else {
                only_after
            }
        }
        (Item::Subtree(_), Item::Block(..)) => only_before,
        (Item::Block(..), Item::Subtree(_)) => only_after,
        (Item::Block(_, a), Item::Block(_, b)) if a.hash() == b.hash() => Step::Skip,
        (Item::Subtree(_), Item::Subtree(_)) | (Item::Block(..), Item::Block(..)) => {
            Step::Take { before: true, after: true }
        }
    })
}

impl Diff<'_> {
    fn advance(&mut self) -> Result<Option<Difference>, MapError> {
        while let Some(step) = step(self.before.ahead.peek(), self.after.ahead.peek()) {
            let Step::Take { before, after } = step else {
                self.before.ahead.next();
                self.after.ahead.next();
                continue;
            };
            let before = if before { self.before.take()? } else { None };
            let after = if after { self.after.take()? } else { None };
            if let Some(block) = before.as_ref().or(after.as_ref()).map(|(block, _)| *block) {
                let entry = |side: Option<(BlockIndex, Entry)>| side.map(|(_, entry)| entry);
                return Ok(Some(Difference { block, before: entry(before), after: entry(after) }));
            }
        }
        Ok(None)
    }

    /// The same, as the longest runs of one kind of change.
    pub fn runs(self) -> impl Iterator<Item = Result<(BlockRun, Change), MapError>> {
        Runs { blocks: self.fuse(), begun: None, error: None }
    }
}

impl Iterator for Diff<'_> {
    type Item = Result<Difference, MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.before.ahead.clear();
            self.after.ahead.clear();
        }
        next.transpose()
    }
}

struct Runs<I> {
    blocks: I,
    begun: Option<(BlockRun, Change)>,
    error: Option<MapError>,
}

impl<I: Iterator<Item = Result<Difference, MapError>>> Iterator for Runs<I> {
    type Item = Result<(BlockRun, Change), MapError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.error.take() {
            return Some(Err(error));
        }
        loop {
            let (block, change) = match self.blocks.next() {
                Some(Ok(difference)) => (difference.block, difference.change()),
                Some(Err(error)) => match self.begun.take() {
                    Some(run) => {
                        self.error = Some(error);
                        return Some(Ok(run));
                    }
                    None => return Some(Err(error)),
                },
                None => return self.begun.take().map(Ok),
            };
            match &mut self.begun {
                Some((run, kind)) if *kind == change && run.end() == block => run.len += 1,
                begun => {
                    if let Some(done) = begun.replace((BlockRun { start: block, len: 1 }, change)) {
                        return Some(Ok(done));
                    }
                }
            }
        }
    }
}
