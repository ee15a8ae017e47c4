//! Writes over a disk that stays as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::chunk::{CHUNK, chunks_of, extent_of, pieces, span_in, zero_chunk};
use crate::range::{extent_within, in_memory, within};
use crate::{BlockRead, BlockWrite, DiskError};

/// A copy-on-write disk: reads see the base and what was written over it; the base is never written.
///
/// What is written stays in memory in chunks of 64 KiB and is gone with the value; `sync` has nothing to do.
pub struct Overlay {
    base: Arc<dyn BlockRead>,
    covers: RwLock<Covers>,
}

type Covers = BTreeMap<u64, Cover>;

/// What hides a chunk of the base.
enum Cover {
    Data(Box<[u8]>),
    Zero,
}

impl Overlay {
    /// An overlay on `base` that hides nothing yet.
    pub fn new(base: Arc<dyn BlockRead>) -> Self {
        Self { base, covers: RwLock::default() }
    }

    // A writer cannot panic half way through a copy of bytes, so a poisoned lock guards a whole value.
    fn covers(&self) -> RwLockReadGuard<'_, Covers> {
        self.covers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn covers_mut(&self) -> RwLockWriteGuard<'_, Covers> {
        self.covers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chunk as the base has it. The last one is padded with zeros that lie behind the end of the disk.
    fn base_chunk(&self, chunk: u64) -> Result<Box<[u8]>, DiskError> {
        let extent = extent_of(chunk, self.base.len().0);
        let mut bytes = zero_chunk();
        self.base.read_at(extent.start(), &mut bytes[..in_memory(extent.len().0)])?;
        Ok(bytes)
    }

    /// Changes part of a chunk. The base is read before the lock is taken: it never changes, and a cover that
    /// another thread puts there meanwhile is kept.
    fn edit(&self, chunk: u64, edit: impl FnOnce(&mut [u8])) -> Result<(), DiskError> {
        let below = if self.covers().contains_key(&chunk) { None } else { Some(self.base_chunk(chunk)?) };
        let mut covers = self.covers_mut();
        let cover = covers.entry(chunk).or_insert_with(|| below.map_or(Cover::Zero, Cover::Data));
        if matches!(cover, Cover::Zero) {
            *cover = Cover::Data(zero_chunk());
        }
        if let Cover::Data(bytes) = cover {
            edit(bytes);
        }
        Ok(())
    }

    /// Zeroes the part of one chunk that lies in `extent`.
    fn zero_chunk_of(&self, extent: Extent, chunk: u64) -> Result<(), DiskError> {
        let span = span_in(extent, chunk);
        // The last chunk counts as whole when everything up to the end of the disk is.
        if span.start == 0 && extent.end() >= extent_of(chunk, self.base.len().0).end() {
            self.covers_mut().insert(chunk, Cover::Zero);
            return Ok(());
        }
        if matches!(self.covers().get(&chunk), Some(Cover::Zero)) {
            return Ok(());
        }
        self.edit(chunk, |bytes| bytes[span].fill(0))
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay").field("base", &self.base).field("covers", &self.covers().len()).finish()
    }
}

impl BlockRead for Overlay {
    fn len(&self) -> ByteLen {
        self.base.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = within(offset, buf.len(), self.base.len())?;
        let hidden = |covers: &Covers| pieces(range).all(|piece| covers.contains_key(&piece.chunk));
        let all_hidden = hidden(&self.covers());
        if !all_hidden {
            self.base.read_at(offset, buf)?;
        }
        let covers = self.covers();
        for piece in pieces(range) {
            let into = &mut buf[piece.of_range];
            match covers.get(&piece.chunk) {
                Some(Cover::Data(bytes)) => into.copy_from_slice(&bytes[piece.within]),
                Some(Cover::Zero) => into.fill(0),
                None => {}
            }
        }
        Ok(())
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let len = self.base.len().0;
        let mut from = from;
        while from.0 < len {
            let below = self.base.next_data(from)?;
            let covers = self.covers();
            let chunk = from.0 / CHUNK;
            let above = covers
                .range(chunk..)
                .find_map(|(&chunk, cover)| matches!(cover, Cover::Data(_)).then_some(extent_of(chunk, len)))
                .map(|extent| Extent::between(extent.start().max(from), extent.end()));
            let Some(below) = below else { return Ok(above) };
            if above.is_some_and(|above| above.start() <= below.start()) {
                return Ok(above);
            }
            // The base comes first; a cover over its first byte can only be zeros.
            let first = below.start().0 / CHUNK;
            if covers.contains_key(&first) {
                from = extent_of(first, len).end();
                continue;
            }
            let next_cover = covers.range(first..=below.end().0.div_ceil(CHUNK)).next();
            let end = next_cover.map_or(below.end(), |(&c, _)| extent_of(c, len).start().min(below.end()));
            return Ok(Some(Extent::between(below.start(), end)));
        }
        Ok(None)
    }
}

impl BlockWrite for Overlay {
    fn len(&self) -> ByteLen {
        self.base.len()
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> Result<(), DiskError> {
        let range = within(offset, data.len(), self.base.len())?;
        for piece in pieces(range) {
            let bytes = &data[piece.of_range.clone()];
            if piece.is_whole() {
                self.covers_mut().insert(piece.chunk, Cover::Data(bytes.into()));
            } else {
                self.edit(piece.chunk, |chunk| chunk[piece.within].copy_from_slice(bytes))?;
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent) -> Result<(), DiskError> {
        let extent = extent_within(extent, self.base.len())?;
        if extent.is_empty() {
            return Ok(());
        }
        // Only where there is something to hide: an extent may be far larger than memory.
        let covered: Vec<u64> = self.covers().range(chunks_of(extent)).map(|(&chunk, _)| chunk).collect();
        for chunk in covered {
            self.zero_chunk_of(extent, chunk)?;
        }
        let mut from = extent.start();
        while let Some(data) = self.base.next_data(from)?.map(|data| data.intersection(extent)) {
            if data.is_empty() {
                break;
            }
            for chunk in chunks_of(data) {
                self.zero_chunk_of(extent, chunk)?;
            }
            from = data.end();
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}
