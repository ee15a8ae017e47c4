//! A disk that cannot be read at some time or place.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use vmkeep_disk::{BlockRead, DiskError, DiskOperation};
use vmkeep_model::{ByteLen, ByteOffset, Extent};

/// A disk some reads of which fail with [`DiskError::Io`]; the others are those of the disk within.
#[derive(Debug)]
pub struct FailingDisk<D> {
    inner: D,
    when: When,
    reads: AtomicU64,
}

#[derive(Debug)]
enum When {
    /// At the read of this number only.
    Read(u64),
    /// At every read that touches this byte.
    Touching(ByteOffset),
}

impl<D: BlockRead> FailingDisk<D> {
    /// Fails the read number `n`, counted from 0; those before and after it work.
    pub fn at_read(inner: D, n: u64) -> Self {
        Self { inner, when: When::Read(n), reads: AtomicU64::new(0) }
    }

    /// Fails every read of the byte at `offset`, as a bad sector does.
    pub fn touching(inner: D, offset: ByteOffset) -> Self {
        Self { inner, when: When::Touching(offset), reads: AtomicU64::new(0) }
    }

    /// Number of reads so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }
}

impl<D: BlockRead> BlockRead for FailingDisk<D> {
    fn len(&self) -> ByteLen {
        self.inner.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let number = self.reads.fetch_add(1, Ordering::SeqCst);
        let range = Extent::new(offset, ByteLen(buf.len() as u64));
        let fails = match self.when {
            When::Read(n) => number == n,
            When::Touching(byte) => range.start() <= byte && byte < range.end(),
        };
        if fails {
            let source = io::Error::other("unreadable by the script");
            return Err(DiskError::io(DiskOperation::Read, "failing test disk", Some(range), source));
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

    fn disk() -> GeneratedDisk {
        GeneratedDisk::new(ByteLen(1000), BlockSize::MIN, 0)
    }

    #[test]
    fn one_read_fails_and_the_next_works() {
        let disk = FailingDisk::at_read(disk(), 1);
        let outcomes = [(); 3].map(|()| disk.read_at(ByteOffset(0), &mut [0; 1]).is_ok());
        assert_eq!(outcomes, [true, false, true]);
        assert_eq!(disk.reads(), 3);
    }

    #[test]
    fn every_read_of_a_bad_byte_fails() {
        let disk = FailingDisk::touching(disk(), ByteOffset(500));
        let read = |at, len| disk.read_at(ByteOffset(at), &mut vec![0; len]);
        assert!(read(490, 10).is_ok() && read(501, 10).is_ok());
        for (at, len) in [(490, 11), (500, 1), (0, 1000)] {
            assert!(matches!(
                read(at, len),
                Err(DiskError::Io { operation: DiskOperation::Read, at: Some(_), .. })
            ));
        }
    }
}
