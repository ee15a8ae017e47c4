//! The table of a bitmap and the bits it leads to.
//!
//! An entry is the offset of a cluster of bits, or 0 for a cluster of zeros, or 1 for a cluster of ones. The bits of
//! the last cluster behind the end of the disk are not looked at.

use super::BitmapError;
use super::directory::Entry;
use super::error::damaged;
use super::locate::Image;
use crate::range::{in_memory, on_disk};

/// Bits 9 to 55 of an entry: where the cluster is.
const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const ALL_ONES: u64 = 1;

/// The bits of a bitmap, in pieces of one cluster each.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    pieces: Vec<Piece>,
    /// log2 of the number of bits in a piece.
    log2_piece: u32,
    count: u64,
}

#[derive(Clone, Debug)]
enum Piece {
    Zeros,
    Ones,
    /// May be shorter than a cluster at the end of the disk.
    Mixed(Box<[u8]>),
}

impl Bits {
    pub(super) fn read(image: &Image<'_>, entry: &Entry) -> Result<Self, BitmapError> {
        let count = image.disk_len.0.div_ceil(1 << entry.granularity_bits);
        let needed = count.div_ceil(8).div_ceil(image.cluster_len());
        let clusters = u64::from(entry.table_entries);
        if clusters != needed {
            let (name, disk_len) = (entry.name.clone(), image.disk_len);
            return Err(BitmapError::WrongSize { name, clusters, needed, disk_len });
        }
        let table = image.bytes(entry.table_offset, clusters * 8, "a bitmap table")?;
        let mut left = count.div_ceil(8);
        let mut pieces = Vec::with_capacity(in_memory(clusters));
        for entry in table.chunks_exact(8) {
            let entry = entry.iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
            let len = left.min(image.cluster_len());
            left -= len;
            pieces.push(Piece::read(image, entry, len)?);
        }
        Ok(Self { pieces, log2_piece: image.cluster_bits + 3, count })
    }

    /// Number of bits.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The first bit at or after `from` that is `value`.
    pub(super) fn find(&self, from: u64, value: bool) -> Option<u64> {
        let mut at = from;
        while at < self.count {
            let start = at >> self.log2_piece << self.log2_piece;
            let piece = self.pieces.get(in_memory(at >> self.log2_piece))?;
            if let Some(found) = piece.find(at - start, value) {
                return Some(start + found).filter(|&bit| bit < self.count);
            }
            at = start + (1 << self.log2_piece);
        }
        None
    }
}

impl Piece {
    fn read(image: &Image<'_>, entry: u64, len: u64) -> Result<Self, BitmapError> {
        let offset = entry & OFFSET_MASK;
        let reserved = entry & !OFFSET_MASK;
        match (offset, reserved) {
            (0, 0) => return Ok(Self::Zeros),
            (0, ALL_ONES) => return Ok(Self::Ones),
            (_, 0) if offset.is_multiple_of(image.cluster_len()) => {}
            _ => return Err(damaged(format!("an entry {entry:#x} of a bitmap table cannot be"))),
        }
        let bits = image.bytes(offset, len, "a cluster of bits")?;
        Ok(if bits.iter().all(|&byte| byte == 0) { Self::Zeros } else { Self::Mixed(bits.into()) })
    }

    /// The first bit at or after `from`, both counted from the start of the piece.
    fn find(&self, from: u64, value: bool) -> Option<u64> {
        let bits = match self {
            Self::Zeros => return (!value).then_some(from),
            Self::Ones => return value.then_some(from),
            Self::Mixed(bits) => bits,
        };
        // What is sought becomes a set bit.
        let sought = |byte: u8| if value { byte } else { !byte };
        let first = in_memory(from / 8);
        let head = sought(*bits.get(first)?) & (0xff << (from % 8));
        let (index, byte) = if head != 0 {
            (first, head)
        } else {
            let next = first + 1;
            let skipped = bits.get(next..)?.iter().position(|&byte| sought(byte) != 0)?;
            (next + skipped, sought(bits[next + skipped]))
        };
        Some(on_disk(index) * 8 + u64::from(byte.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn find_is_a_search_bit_by_bit(
            pieces in prop::collection::vec(prop_oneof![
                Just(None), Just(Some(vec![0xff; 2])), prop::collection::vec(any::<u8>(), 2).prop_map(Some)
            ], 1..6),
            ones in any::<bool>(), cut in 0_u64..16, from in 0_u64..100, value in any::<bool>()
        ) {
            let bit = |at: u64| match &pieces[in_memory(at / 16)] {
                None => ones,
                Some(bytes) => bytes[in_memory(at % 16 / 8)] >> (at % 8) & 1 == 1,
            };
            let whole = |piece: &Option<Vec<u8>>| match piece {
                None => if ones { Piece::Ones } else { Piece::Zeros },
                Some(bytes) => Piece::Mixed(bytes.clone().into()),
            };
            let count = on_disk(pieces.len()) * 16 - cut;
            let bits = Bits { pieces: pieces.iter().map(whole).collect(), log2_piece: 4, count };
            prop_assert_eq!(bits.find(from, value), (from..count).find(|&at| bit(at) == value));
        }
    }
}
