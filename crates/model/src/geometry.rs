//! Byte and block positions, ranges, and the one place that converts between them.

use std::fmt;

use thiserror::Error;

/// Size of a page in bytes: the smallest unit of change that is ever stored.
pub const PAGE_SIZE: usize = 4096;

/// A position on a disk, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteOffset(pub u64);

/// A length in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteLen(pub u64);

impl fmt::Display for ByteOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl ByteOffset {
    /// The position `len` bytes further on, or `None` past the end of `u64`.
    pub fn checked_add(self, len: ByteLen) -> Option<Self> {
        self.0.checked_add(len.0).map(Self)
    }
}

/// A half-open range of bytes: `start .. start + len`. Empty when `len` is 0.
///
/// The end of an extent never passes `u64::MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Extent {
    start: ByteOffset,
    len: ByteLen,
}

impl Extent {
    /// The extent of `len` bytes at `start`; cut short where it would pass `u64::MAX`.
    pub fn new(start: ByteOffset, len: ByteLen) -> Self {
        Self { start, len: ByteLen(len.0.min(u64::MAX - start.0)) }
    }

    /// The extent from `start` up to, not including, `end`; empty when `end <= start`.
    pub fn between(start: ByteOffset, end: ByteOffset) -> Self {
        Self { start, len: ByteLen(end.0.saturating_sub(start.0)) }
    }

    /// First byte.
    pub fn start(self) -> ByteOffset {
        self.start
    }

    /// Length in bytes.
    pub fn len(self) -> ByteLen {
        self.len
    }

    /// First byte after the extent.
    pub fn end(self) -> ByteOffset {
        ByteOffset(self.start.0 + self.len.0)
    }

    /// Whether it holds no byte.
    pub fn is_empty(self) -> bool {
        self.len.0 == 0
    }

    /// The bytes in both; empty when they do not meet.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.start.0, self.len.0)
    }
}

/// The number of a block of a disk, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A half-open range of blocks: `start .. start + len`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockRun {
    /// First block.
    pub start: BlockIndex,
    /// Number of blocks.
    pub len: u64,
}

impl BlockRun {
    /// The run from `start` up to, not including, `end`; empty when `end <= start`.
    pub fn between(start: BlockIndex, end: BlockIndex) -> Self {
        Self { start, len: end.0.saturating_sub(start.0) }
    }

    /// First block after the run (saturating).
    pub fn end(self) -> BlockIndex {
        BlockIndex(self.start.0.saturating_add(self.len))
    }

    /// Whether it holds no block.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Every block of the run, in order.
    pub fn iter(self) -> impl Iterator<Item = BlockIndex> {
        (self.start.0..self.end().0).map(BlockIndex)
    }
}

/// Why a number of bytes cannot be a block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("block size {0} is not a power of two from 16384 to 4194304 bytes")]
pub struct BlockSizeError(pub u64);

/// Size of a block: a power of two from 16 KiB to 4 MiB, fixed per disk at its first backup.
///
/// The default of 64 KiB is the granularity of QEMU's dirty bitmaps and the cluster size of qcow2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize {
    log2: u8,
}

impl Default for BlockSize {
    fn default() -> Self {
        Self { log2: 16 }
    }
}

impl TryFrom<u64> for BlockSize {
    type Error = BlockSizeError;

    fn try_from(bytes: u64) -> Result<Self, BlockSizeError> {
        match bytes.is_power_of_two().then(|| bytes.trailing_zeros()) {
            Some(log2 @ 14..=22) => Ok(Self { log2: u8::try_from(log2).map_err(|_| BlockSizeError(bytes))? }),
            _ => Err(BlockSizeError(bytes)),
        }
    }
}

impl BlockSize {
    /// The smallest: 16 KiB.
    pub const MIN: Self = Self { log2: 14 };
    /// The largest: 4 MiB.
    pub const MAX: Self = Self { log2: 22 };

    /// Size in bytes.
    pub fn bytes(self) -> usize {
        1 << self.log2
    }

    /// Size in bytes, for arithmetic on positions.
    pub fn bytes_u64(self) -> u64 {
        1 << self.log2
    }

    /// Base-two logarithm of the size: 14 to 22.
    pub fn log2(self) -> u8 {
        self.log2
    }

    /// Pages in a block: 4 to 1024.
    pub fn pages(self) -> usize {
        self.bytes() / PAGE_SIZE
    }

    /// Blocks that cover `len` bytes; a tail counts as a whole block.
    pub fn count_for(self, len: ByteLen) -> u64 {
        len.0.div_ceil(self.bytes_u64())
    }

    /// The block that holds the byte at `offset`.
    pub fn block_of(self, offset: ByteOffset) -> BlockIndex {
        BlockIndex(offset.0 >> self.log2)
    }

    /// First byte of `block`.
    ///
    /// # Panics
    /// When the block lies past `u64::MAX` bytes, which no disk that was opened has.
    pub fn start_of(self, block: BlockIndex) -> ByteOffset {
        assert!(block.0 <= u64::MAX >> self.log2, "block {block} lies past the last byte a disk can have");
        ByteOffset(block.0 << self.log2)
    }

    /// Every block that holds a byte of `extent`.
    pub fn blocks_touching(self, extent: Extent) -> BlockRun {
        if extent.is_empty() {
            return BlockRun { start: self.block_of(extent.start()), len: 0 };
        }
        let first = self.block_of(extent.start());
        let last = self.block_of(ByteOffset(extent.end().0 - 1));
        BlockRun { start: first, len: last.0 - first.0 + 1 }
    }

    /// The bytes of `run` on a disk of `disk_len` bytes; the tail block is cut at the end of the disk.
    pub fn extent_of(self, run: BlockRun, disk_len: ByteLen) -> Extent {
        let at = |block: BlockIndex| {
            block.0.checked_mul(self.bytes_u64()).map_or(disk_len.0, |b| b.min(disk_len.0))
        };
        Extent::between(ByteOffset(at(run.start)), ByteOffset(at(run.end())))
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block_size() -> impl Strategy<Value = BlockSize> {
        (14_u8..=22).prop_map(|log2| BlockSize { log2 })
    }

    proptest! {
        #[test]
        fn blocks_touching_is_the_set_of_blocks_of_its_bytes(
            size in block_size(), start in 0_u64..1 << 24, len in 0_u64..1 << 18
        ) {
            let extent = Extent::new(ByteOffset(start), ByteLen(len));
            let run = size.blocks_touching(extent);
            let mut model: Vec<u64> = (start..start + len).step_by(PAGE_SIZE).map(|b| b / size.bytes_u64()).collect();
            if len > 0 { model.push((start + len - 1) / size.bytes_u64()); }
            model.dedup();
            prop_assert_eq!(run.iter().map(|b| b.0).collect::<Vec<_>>(), model);
        }

        #[test]
        fn the_blocks_of_a_disk_tile_it(size in block_size(), len in 0_u64..1 << 26) {
            let count = size.count_for(ByteLen(len));
            let mut at = 0;
            for block in 0..count {
                let extent = size.extent_of(BlockRun { start: BlockIndex(block), len: 1 }, ByteLen(len));
                prop_assert_eq!(extent.start().0, at);
                prop_assert!(!extent.is_empty());
                at = extent.end().0;
            }
            prop_assert_eq!(at, len);
        }

        #[test]
        fn intersection_holds_exactly_the_common_bytes(a in 0_u64..64, n in 0_u64..64, b in 0_u64..64, m in 0_u64..64) {
            let both = Extent::new(ByteOffset(a), ByteLen(n)).intersection(Extent::new(ByteOffset(b), ByteLen(m)));
            for byte in 0..130 {
                let inside = byte >= both.start().0 && byte < both.end().0;
                prop_assert_eq!(inside, byte >= a && byte < a + n && byte >= b && byte < b + m);
            }
        }
    }

    #[test]
    fn only_powers_of_two_from_16_kib_to_4_mib_are_block_sizes() {
        for bad in [0, 1, 4096, 8192, 65_535, 65_537, 8 << 20, u64::MAX] {
            assert_eq!(BlockSize::try_from(bad), Err(BlockSizeError(bad)));
        }
        for good in [1 << 14, 1 << 16, 1 << 22] {
            assert_eq!(BlockSize::try_from(good).map(BlockSize::bytes_u64), Ok(good));
        }
    }

    #[test]
    fn an_extent_never_passes_the_end_of_u64() {
        assert_eq!(Extent::new(ByteOffset(u64::MAX - 1), ByteLen(5)).len(), ByteLen(1));
    }
}
