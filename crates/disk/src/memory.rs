//! A small disk in memory.

use std::fmt;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use vmkeep_model::{ByteLen, ByteOffset, Extent, PAGE_SIZE};

use crate::range::{extent_within, in_memory, on_disk, within};
use crate::{BlockRead, BlockWrite, DiskError};

/// A disk that is one buffer in memory, for tests and small embedders.
///
/// Pages of zeros are holes. `sync` has nothing to do. For a disk larger than memory see
/// [`SparseMemory`](crate::SparseMemory).
pub struct Memory {
    bytes: RwLock<Vec<u8>>,
    len: ByteLen,
}

impl Memory {
    /// A disk of `len` zeros.
    pub fn new(len: usize) -> Self {
        Self::from(vec![0; len])
    }

    /// A copy of what the disk holds now.
    pub fn to_vec(&self) -> Vec<u8> {
        self.read().clone()
    }

    // A writer cannot panic half way through a copy of bytes, so a poisoned lock guards a whole value.
    fn read(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Self {
        let len = ByteLen(on_disk(bytes.len()));
        Self { bytes: RwLock::new(bytes), len }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("len", &self.len).finish_non_exhaustive()
    }
}

fn indexes(extent: Extent) -> std::ops::Range<usize> {
    in_memory(extent.start().0)..in_memory(extent.end().0)
}

impl BlockRead for Memory {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = within(offset, buf.len(), self.len)?;
        buf.copy_from_slice(&self.read()[indexes(range)]);
        Ok(())
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let rest = Extent::between(from, ByteOffset(self.len.0));
        if rest.is_empty() {
            return Ok(None);
        }
        let bytes = self.read();
        let mut pages = bytes[indexes(rest)].chunks(PAGE_SIZE);
        let zero = |page: &&[u8]| page.iter().all(|&b| b == 0);
        let holes = pages.by_ref().take_while(zero).count();
        let data = 1 + pages.take_while(|page| !zero(page)).count();
        let at = |pages: usize| ByteOffset((from.0 + on_disk(pages * PAGE_SIZE)).min(self.len.0));
        let found = Extent::between(at(holes), at(holes + data));
        Ok((!found.is_empty()).then_some(found))
    }
}

impl BlockWrite for Memory {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> Result<(), DiskError> {
        let range = within(offset, data.len(), self.len)?;
        self.write()[indexes(range)].copy_from_slice(data);
        Ok(())
    }

    fn write_zeroes(&self, extent: Extent) -> Result<(), DiskError> {
        let extent = extent_within(extent, self.len)?;
        self.write()[indexes(extent)].fill(0);
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }
}
