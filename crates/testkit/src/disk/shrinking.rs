//! A disk that becomes smaller while it is read.

use std::sync::atomic::{AtomicU64, Ordering};

use vmkeep_disk::{BlockRead, DiskError};
use vmkeep_model::{ByteLen, ByteOffset, Extent};

/// A disk that loses its end after some reads: from then on, reads past the boundary fail with
/// [`DiskError::Shrank`]. Its [`len`](BlockRead::len) stays what it was, as the seam asks.
#[derive(Debug)]
pub struct ShrinkingDisk<D> {
    inner: D,
    boundary: ByteOffset,
    /// Reads that still see the whole disk.
    whole: u64,
    reads: AtomicU64,
}

impl<D: BlockRead> ShrinkingDisk<D> {
    /// After `reads` reads, nothing from `boundary` on can be read.
    pub fn new(inner: D, boundary: ByteOffset, reads: u64) -> Self {
        Self { inner, boundary, whole: reads, reads: AtomicU64::new(0) }
    }
}

impl<D: BlockRead> BlockRead for ShrinkingDisk<D> {
    fn len(&self) -> ByteLen {
        self.inner.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        let range = Extent::new(offset, ByteLen(buf.len() as u64));
        if number >= self.whole && !range.is_empty() && range.end() > self.boundary {
            return Err(DiskError::Shrank { disk: "shrinking test disk".to_owned(), range, len: self.len() });
        }
        self.inner.read_at(offset, buf)
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        self.inner.next_data(from)
    }
}

#[cfg(test)]
mod tests {
    use vmkeep_model::BlockSize;

    use super::*;
    use crate::GeneratedDisk;

    #[test]
    fn the_end_is_there_for_some_reads_only() {
        let disk =
            ShrinkingDisk::new(GeneratedDisk::new(ByteLen(1000), BlockSize::MIN, 0), ByteOffset(600), 2);
        let read = |at, len| disk.read_at(ByteOffset(at), &mut vec![0; len]);
        assert!(read(0, 1000).is_ok() && read(999, 1).is_ok());
        assert!(matches!(read(0, 1000), Err(DiskError::Shrank { len: ByteLen(1000), .. })));
        assert!(read(0, 600).is_ok());
        assert!(matches!(read(600, 1), Err(DiskError::Shrank { .. })));
        assert_eq!(disk.len(), ByteLen(1000));
    }
}
