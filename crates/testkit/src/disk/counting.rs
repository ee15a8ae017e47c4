//! Counting what is read of a disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vmkeep_disk::{BlockRead, DiskError};
use vmkeep_model::{ByteLen, ByteOffset, Extent};

/// What was asked of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Reads, failed ones too.
    pub reads: u64,
    /// Bytes asked for by the reads.
    pub bytes: u64,
    /// Questions for the next data.
    pub maps: u64,
}

/// A disk that counts and lists the reads of it.
#[derive(Debug)]
pub struct CountingDisk<D> {
    inner: D,
    tally: Mutex<(DiskCounts, Vec<Extent>)>,
}

impl<D: BlockRead> CountingDisk<D> {
    /// Counts the reads of `inner`.
    pub fn new(inner: D) -> Self {
        Self { inner, tally: Mutex::default() }
    }

    /// What was counted since the start or the last [`reset`](Self::reset).
    pub fn counts(&self) -> DiskCounts {
        self.tally().0
    }

    /// Starts anew.
    pub fn reset(&self) {
        *self.tally() = Default::default();
    }

    /// The ranges read since the last time the log was taken, in order.
    pub fn take_log(&self) -> Vec<Extent> {
        std::mem::take(&mut self.tally().1)
    }

    fn tally(&self) -> MutexGuard<'_, (DiskCounts, Vec<Extent>)> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: BlockRead> BlockRead for CountingDisk<D> {
    fn len(&self) -> ByteLen {
        self.inner.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let len = ByteLen(buf.len() as u64);
        {
            let (counts, log) = &mut *self.tally();
            counts.reads += 1;
            counts.bytes += len.0;
            log.push(Extent::new(offset, len));
        }
        self.inner.read_at(offset, buf)
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        self.tally().0.maps += 1;
        self.inner.next_data(from)
    }
}

#[cfg(test)]
mod tests {
    use vmkeep_model::BlockSize;

    use super::*;
    use crate::GeneratedDisk;

    #[test]
    fn reads_and_bytes_are_counted() {
        let disk = CountingDisk::new(GeneratedDisk::new(ByteLen(1000), BlockSize::MIN, 0));
        disk.read_at(ByteOffset(10), &mut [0; 20]).unwrap();
        assert!(disk.read_at(ByteOffset(999), &mut [0; 2]).is_err());
        assert_eq!(disk.next_data(ByteOffset(0)).unwrap(), None);
        assert_eq!(disk.counts(), DiskCounts { reads: 2, bytes: 22, maps: 1 });
        assert_eq!(disk.take_log()[0], Extent::new(ByteOffset(10), ByteLen(20)));
        disk.reset();
        assert_eq!(disk.counts(), DiskCounts::default());
    }
}
