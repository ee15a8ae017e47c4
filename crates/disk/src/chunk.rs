//! Chunks: how the disks that live in memory cut up a range.

use std::ops::Range;

use vmkeep_model::{ByteOffset, Extent};

use crate::range::{in_memory, on_disk};

/// Size of a chunk: the unit that is held or not.
pub(crate) const CHUNK: u64 = 1 << 16;

/// A chunk of zeros.
pub(crate) fn zero_chunk() -> Box<[u8]> {
    vec![0; in_memory(CHUNK)].into()
}

/// The part of a range that lies in one chunk.
pub(crate) struct Piece {
    /// Number of the chunk.
    pub(crate) chunk: u64,
    /// Which bytes of the chunk.
    pub(crate) within: Range<usize>,
    /// The same bytes, counted from the start of the whole range.
    pub(crate) of_range: Range<usize>,
}

impl Piece {
    /// Whether it is all of its chunk.
    pub(crate) fn is_whole(&self) -> bool {
        on_disk(self.within.len()) == CHUNK
    }
}

/// The pieces of `range` in order.
pub(crate) fn pieces(range: Extent) -> impl Iterator<Item = Piece> {
    let mut at = range.start().0;
    std::iter::from_fn(move || {
        if at >= range.end().0 {
            return None;
        }
        let chunk = at / CHUNK;
        let start = at % CHUNK;
        let len = (CHUNK - start).min(range.end().0 - at);
        let done = at - range.start().0;
        at += len;
        let span = |from: u64| in_memory(from)..in_memory(from + len);
        Some(Piece { chunk, within: span(start), of_range: span(done) })
    })
}

/// First and last chunk that hold a byte of a range that is not empty.
pub(crate) fn chunks_of(range: Extent) -> std::ops::RangeInclusive<u64> {
    range.start().0 / CHUNK..=(range.end().0 - 1) / CHUNK
}

/// The bytes of a chunk on a disk of `len` bytes.
pub(crate) fn extent_of(chunk: u64, len: u64) -> Extent {
    let at = |chunk: u64| ByteOffset(chunk.saturating_mul(CHUNK).min(len));
    Extent::between(at(chunk), at(chunk + 1))
}

/// The bytes of `range` in `chunk`, counted from the start of the chunk.
pub(crate) fn span_in(range: Extent, chunk: u64) -> Range<usize> {
    let start = chunk * CHUNK;
    let from = range.start().0.max(start) - start;
    let to = (range.end().0 - start).min(CHUNK);
    in_memory(from)..in_memory(to)
}
