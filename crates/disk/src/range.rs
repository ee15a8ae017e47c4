//! Ranges checked against the size of a disk, in the one place where they can go wrong.

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::DiskError;

/// The range of a buffer of `len` bytes at `offset`, when it lies within a disk of `disk` bytes.
pub(crate) fn within(offset: ByteOffset, len: usize, disk: ByteLen) -> Result<Extent, DiskError> {
    let len = ByteLen(u64::try_from(len).unwrap_or(u64::MAX));
    let range = Extent::new(offset, len);
    match offset.checked_add(len) {
        Some(end) if end.0 <= disk.0 => Ok(range),
        _ => Err(DiskError::OutOfRange { range, len: disk }),
    }
}

/// The same check for an extent.
pub(crate) fn extent_within(extent: Extent, disk: ByteLen) -> Result<Extent, DiskError> {
    if extent.end().0 <= disk.0 {
        Ok(extent)
    } else {
        Err(DiskError::OutOfRange { range: extent, len: disk })
    }
}

/// A length that is bounded by a buffer or by a format constant, as an index into memory.
///
/// # Panics
/// When it is not so bounded, on a machine whose addresses are shorter than 64 bits.
pub(crate) fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("a length bounded by a buffer fits an address")
}

/// The length of something in memory, as a number of bytes on a disk.
///
/// # Panics
/// Never on a machine whose addresses are at most 64 bits long.
pub(crate) fn on_disk(len: usize) -> u64 {
    u64::try_from(len).expect("an address has at most 64 bits")
}

/// `len` cut to what a buffer of `room` bytes takes.
pub(crate) fn cut(len: u64, room: usize) -> usize {
    usize::try_from(len).map_or(room, |len| len.min(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_would_wrap_is_out_of_range() {
        let disk = ByteLen(u64::MAX);
        assert!(within(ByteOffset(u64::MAX), 0, disk).is_ok());
        assert!(within(ByteOffset(u64::MAX), 1, disk).is_err());
        assert!(within(ByteOffset(u64::MAX - 4), 4, disk).is_ok());
        assert!(within(ByteOffset(11), 0, ByteLen(10)).is_err());
        assert!(within(ByteOffset(10), 0, ByteLen(10)).is_ok());
    }
}
