//! A disk in memory that may be far larger than memory.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::chunk::{CHUNK, chunks_of, extent_of, pieces, span_in, zero_chunk};
use crate::range::{extent_within, in_memory, within};
use crate::{BlockRead, BlockWrite, DiskError};

type Chunks = BTreeMap<u64, Box<[u8]>>;

/// A disk of any size that holds in memory only the 64 KiB chunks that were written.
pub struct SparseMemory {
    chunks: RwLock<Chunks>,
    len: ByteLen,
}

impl SparseMemory {
    /// A disk of `len` zeros; `len` may be anything up to `u64::MAX`.
    pub fn new(len: ByteLen) -> Self {
        Self { chunks: RwLock::default(), len }
    }

    // A writer cannot panic half way through a copy of bytes, so a poisoned lock guards a whole value.
    fn chunks(&self) -> RwLockReadGuard<'_, Chunks> {
        self.chunks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks_mut(&self) -> RwLockWriteGuard<'_, Chunks> {
        self.chunks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SparseMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SparseMemory").field("len", &self.len).field("chunks", &self.chunks().len()).finish()
    }
}

impl BlockRead for SparseMemory {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = within(offset, buf.len(), self.len)?;
        let chunks = self.chunks();
        for piece in pieces(range) {
            let into = &mut buf[piece.of_range];
            match chunks.get(&piece.chunk) {
                Some(chunk) => into.copy_from_slice(&chunk[piece.within]),
                None => into.fill(0),
            }
        }
        Ok(())
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        if from.0 >= self.len.0 {
            return Ok(None);
        }
        let chunks = self.chunks();
        let mut held = chunks.range(from.0 / CHUNK..).map(|(&chunk, _)| chunk);
        let Some(first) = held.next() else { return Ok(None) };
        let mut last = first;
        while held.next() == Some(last + 1) {
            last += 1;
        }
        let start = extent_of(first, self.len.0).start().max(from);
        Ok(Some(Extent::between(start, extent_of(last, self.len.0).end())))
    }
}

impl BlockWrite for SparseMemory {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> Result<(), DiskError> {
        let range = within(offset, data.len(), self.len)?;
        let mut chunks = self.chunks_mut();
        for piece in pieces(range) {
            let chunk = chunks.entry(piece.chunk).or_insert_with(zero_chunk);
            chunk[piece.within].copy_from_slice(&data[piece.of_range]);
        }
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent) -> Result<(), DiskError> {
        let extent = extent_within(extent, self.len)?;
        if extent.is_empty() {
            return Ok(());
        }
        let mut chunks = self.chunks_mut();
        let held: Vec<u64> = chunks.range(chunks_of(extent)).map(|(&chunk, _)| chunk).collect();
        for chunk in held {
            let span = span_in(extent, chunk);
            if span.len() == in_memory(CHUNK) {
                chunks.remove(&chunk);
            } else if let Some(bytes) = chunks.get_mut(&chunk) {
                bytes[span].fill(0);
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}
