//! The seam: what vmkeep asks of a disk it reads, and of one it writes.

use std::fmt;

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::DiskError;

/// A disk that can be read at any position, by several threads at once.
///
/// # Contract
/// - [`len`](Self::len) never changes while the value lives. A source that shrank below it fails the read with
///   [`DiskError::Shrank`]; it must not return made-up bytes.
/// - [`read_at`](Self::read_at) fills the whole buffer or fails. A range past the end is
///   [`DiskError::OutOfRange`], and then nothing is promised about the buffer.
/// - Two reads of one range between which nobody wrote return the same bytes.
/// - [`next_data`](Self::next_data) may call a hole data, never data a hole: every byte outside the extents it
///   returns reads as zero.
///
/// [`conformance::reads`](crate::conformance::reads) checks an implementation against a model.
pub trait BlockRead: Send + Sync + fmt::Debug {
    /// Size of the disk in bytes.
    fn len(&self) -> ByteLen;

    /// Whether the disk has no bytes.
    fn is_empty(&self) -> bool {
        self.len().0 == 0
    }

    /// Fills `buf` from `offset` on.
    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError>;

    /// The first extent at or after `from` that may hold anything but zeros, or `None` when the rest is holes.
    ///
    /// The extent starts at or after `from`, is not empty and ends within the disk. The default calls everything
    /// data.
    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let rest = Extent::between(from, ByteOffset(self.len().0));
        Ok((!rest.is_empty()).then_some(rest))
    }
}

/// A disk that can be written at any position, by several threads at once (to ranges that do not overlap).
///
/// # Contract
/// - A range past the end is [`DiskError::OutOfRange`] and nothing of it is written.
/// - A disk made by this crate starts as zeros; [`write_zeroes`](Self::write_zeroes) leaves zeros, as a hole
///   where the format can.
/// - What was written before [`sync`](Self::sync) returned `Ok` survives a power cut. Before that nothing is
///   promised.
pub trait BlockWrite: Send + Sync + fmt::Debug {
    /// Size of the disk in bytes.
    fn len(&self) -> ByteLen;

    /// Whether the disk has no bytes.
    fn is_empty(&self) -> bool {
        self.len().0 == 0
    }

    /// Writes all of `data` at `offset`.
    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> Result<(), DiskError>;

    /// Makes `extent` read as zeros.
    fn write_zeroes(&self, extent: Extent) -> Result<(), DiskError>;

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<(), DiskError>;
}

impl<T: BlockRead + ?Sized> BlockRead for std::sync::Arc<T> {
    fn len(&self) -> ByteLen {
        (**self).len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        (**self).read_at(offset, buf)
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        (**self).next_data(from)
    }
}

impl<T: BlockWrite + ?Sized> BlockWrite for std::sync::Arc<T> {
    fn len(&self) -> ByteLen {
        (**self).len()
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> Result<(), DiskError> {
        (**self).write_at(offset, data)
    }

    fn write_zeroes(&self, extent: Extent) -> Result<(), DiskError> {
        (**self).write_zeroes(extent)
    }

    fn sync(&self) -> Result<(), DiskError> {
        (**self).sync()
    }
}
