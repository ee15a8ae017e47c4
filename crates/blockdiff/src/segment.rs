//! Cutting a disk into segments to look at, beside what it was before.

use std::iter::Peekable;

use thiserror::Error;
use vmkeep_disk::{BlockRead, DiskError};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteOffset, Extent};

use crate::page::Was;
use crate::source::{ChangeSource, ChangeSourceError};

/// Most zeroed runs carried by one segment; more go into a segment of their own.
const ZEROED_MAX: usize = 4096;

/// Most bytes that a segment reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSize(pub usize);

impl Default for SegmentSize {
    /// 1 MiB: long enough to read fast, short enough that several fit into a cache beside one another.
    fn default() -> Self {
        Self(1 << 20)
    }
}

/// A stretch of a disk to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Blocks before `run` (and after the segment before) that held data and lie in a hole now, in order.
    pub zeroed: Vec<BlockRun>,
    /// Blocks to read; may be empty.
    pub run: BlockRun,
    /// Size of a block.
    pub block_size: BlockSize,
    /// What the blocks of `run` that held data were, ascending.
    pub before: Vec<(BlockIndex, Was)>,
}

impl Segment {
    /// Where `block`, one of `run`, begins in a buffer that holds the run.
    pub(crate) fn offset_of(&self, block: BlockIndex) -> usize {
        let blocks = block.0.saturating_sub(self.run.start.0);
        usize::try_from(blocks).unwrap_or(0).saturating_mul(self.block_size.bytes())
    }
}

/// Tells what the blocks of a disk were, in ascending order.
pub trait Before {
    /// Why it cannot be told.
    type Error: std::error::Error + 'static;

    /// The first block at or after `from` and before `below` that held data, with what it was. `from` never goes back, and
    /// a block that was given is not asked for again.
    fn next_in(
        &mut self,
        from: BlockIndex,
        below: BlockIndex,
    ) -> Result<Option<(BlockIndex, Was)>, Self::Error>;
}

impl<I, E, W> Before for Peekable<I>
where
    I: Iterator<Item = Result<(BlockIndex, W), E>>,
    E: std::error::Error + 'static,
    W: Into<Was>,
{
    type Error = E;

    fn next_in(&mut self, from: BlockIndex, below: BlockIndex) -> Result<Option<(BlockIndex, Was)>, E> {
        loop {
            match self.next_if(|known| known.as_ref().map_or(true, |(block, _)| *block < below)) {
                Some(Ok((block, _))) if block < from => {}
                Some(Ok((block, was))) => return Ok(Some((block, was.into()))),
                Some(Err(e)) => return Err(e),
                None => return Ok(None),
            }
        }
    }
}

/// Why a walk over a disk ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SegmentError<E: std::error::Error + 'static> {
    /// The disk could not say where its data lies.
    #[error("cannot walk the disk")]
    Disk(#[from] DiskError),
    /// It could not be told where to look.
    #[error("cannot tell what changed")]
    Changes(#[source] ChangeSourceError),
    /// What the disk was before could not be told.
    #[error("cannot read what the disk was before")]
    Before(#[source] E),
}

/// The segments of a disk, in ascending order. Ends after an error.
pub struct Segments<'d, B> {
    disk: &'d dyn BlockRead,
    block_size: BlockSize,
    segment_blocks: u64,
    blocks: u64,
    before: B,
    /// What says where to look; without, everywhere.
    changes: Option<&'d dyn ChangeSource>,
    /// Blocks to look at, of which those before `next` were.
    within: BlockRun,
    /// First block not yet in a segment.
    next: u64,
    /// Data that was found ahead and not yet cut, in blocks.
    data: BlockRun,
    done: bool,
}

impl<B> std::fmt::Debug for Segments<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segments({} of {} blocks)", self.next, self.blocks)
    }
}

impl<'d, I: Iterator> Segments<'d, Peekable<I>> {
    /// Walks `disk` in blocks of `block_size`. `before` gives the blocks that held data and what they were, ascending;
    /// those past the end of the disk are ignored.
    pub fn new(disk: &'d dyn BlockRead, block_size: BlockSize, size: SegmentSize, before: I) -> Self {
        Self::against(disk, block_size, size, before.peekable())
    }
}

impl<'d, B> Segments<'d, B> {
    /// The same, with `before` asked for what it is needed for.
    pub fn against(disk: &'d dyn BlockRead, block_size: BlockSize, size: SegmentSize, before: B) -> Self {
        let segment_blocks = (size.0 / block_size.bytes()).max(1) as u64;
        let blocks = block_size.count_for(disk.len());
        Self {
            disk,
            block_size,
            segment_blocks,
            blocks,
            before,
            changes: None,
            within: BlockRun { start: BlockIndex(0), len: blocks },
            next: 0,
            data: BlockRun::default(),
            done: false,
        }
    }
}

impl<'d, B> Segments<'d, B> {
    /// Looks only where `changes` says that something may have changed.
    #[must_use]
    pub fn among(self, changes: &'d dyn ChangeSource) -> Self {
        Self { changes: Some(changes), within: BlockRun::default(), ..self }
    }
}

impl<B: Before> Segments<'_, B> {
    fn cut(&mut self) -> Result<Option<Segment>, SegmentError<B::Error>> {
        loop {
            if self.next >= self.within.end().0 && !self.look_further()? {
                self.done = true;
                return Ok(None);
            }
            if let Some(segment) = self.cut_within()? {
                return Ok(Some(segment));
            }
        }
    }

    /// Finds the next blocks to look at; false when there are none.
    fn look_further(&mut self) -> Result<bool, SegmentError<B::Error>> {
        let Some(changes) = self.changes else { return Ok(false) };
        if self.next >= self.blocks {
            return Ok(false);
        }
        let from = self.block_size.start_of(BlockIndex(self.next));
        let Some(extent) = changes.next_changed(from).map_err(SegmentError::Changes)? else {
            return Ok(false);
        };
        let run = self.block_size.blocks_touching(extent);
        let end = run.end().0.min(self.blocks);
        self.within = BlockRun::between(run.start.max(BlockIndex(self.next)), BlockIndex(end));
        self.next = self.within.start.0;
        self.data = BlockRun::default();
        Ok(!self.within.is_empty())
    }

    /// The next segment of the blocks to look at; `None` when there is nothing in the rest of them.
    fn cut_within(&mut self) -> Result<Option<Segment>, SegmentError<B::Error>> {
        let end = self.within.end();
        if self.data.is_empty() {
            self.data = self.find_data()?;
        }
        let mut segment = Segment { block_size: self.block_size, ..Segment::default() };
        let data_start = if self.data.is_empty() { end.0 } else { self.data.start.0 };
        while let Some((block, _)) = self.before_below(data_start)? {
            push_block(&mut segment.zeroed, block);
            self.next = block.0 + 1;
            if segment.zeroed.len() >= ZEROED_MAX {
                return Ok(Some(segment));
            }
        }
        if self.data.is_empty() {
            self.next = end.0;
            return Ok((!segment.zeroed.is_empty()).then_some(segment));
        }
        let len = self.data.len.min(self.segment_blocks);
        segment.run = BlockRun { start: self.data.start, len };
        self.data = BlockRun::between(segment.run.end(), self.data.end());
        self.next = segment.run.start.0;
        while let Some(known) = self.before_below(segment.run.end().0)? {
            segment.before.push(known);
        }
        self.next = segment.run.end().0;
        Ok(Some(segment))
    }

    /// The next stretch of blocks with data among those to look at, from `next` on; empty when there is none.
    fn find_data(&mut self) -> Result<BlockRun, SegmentError<B::Error>> {
        let end = self.within.end();
        if self.next >= end.0 {
            return Ok(BlockRun::default());
        }
        let whole = Extent::between(ByteOffset(0), ByteOffset(self.disk.len().0));
        let Some(extent) = self.disk.next_data(self.block_size.start_of(BlockIndex(self.next)))? else {
            return Ok(BlockRun::default());
        };
        let run = self.block_size.blocks_touching(extent.intersection(whole));
        // Two extents in one block: the block went with the first of them.
        let start = run.start.max(BlockIndex(self.next)).min(end);
        Ok(BlockRun::between(start, run.end().min(end)))
    }

    /// Takes the next known block if it lies below `end`.
    fn before_below(&mut self, end: u64) -> Result<Option<(BlockIndex, Was)>, SegmentError<B::Error>> {
        let from = BlockIndex(self.next);
        self.before.next_in(from, BlockIndex(end)).map_err(SegmentError::Before)
    }
}

fn push_block(runs: &mut Vec<BlockRun>, block: BlockIndex) {
    match runs.last_mut().filter(|run| run.end() == block) {
        Some(run) => run.len += 1,
        None => runs.push(BlockRun { start: block, len: 1 }),
    }
}

impl<B: Before> Iterator for Segments<'_, B> {
    type Item = Result<Segment, SegmentError<B::Error>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let cut = self.cut().transpose();
        self.done |= !matches!(cut, Some(Ok(_)));
        cut
    }
}
