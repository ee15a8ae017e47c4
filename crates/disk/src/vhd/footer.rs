//! The 512 bytes at the end of a VHD.
//!
//! ```text
//!  0 cookie "conectix"    28 creator          56 cylinders u16, heads u8, sectors u8
//!  8 features             32 creator version  60 disk type
//! 12 format version       36 creator host     64 checksum
//! 16 offset of header     40 original size    68 unique id, 16 bytes
//! 24 time                 48 current size     84 saved state, then zeros
//! ```

use vmkeep_model::{ByteLen, ByteOffset};

use crate::range::in_memory;
use crate::raw::RawFile;
use crate::{BlockRead, DiskError};

pub(crate) const COOKIE: [u8; 8] = *b"conectix";
pub(crate) const FOOTER_LEN: u64 = 512;

type Bytes = [u8; 512];
const CHECKSUM: std::ops::Range<usize> = 64..68;

/// What a reader needs of a footer whose checksum is right.
#[derive(Debug)]
pub(crate) struct Footer {
    pub(super) size: ByteLen,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Dynamic { header: ByteOffset },
    Differencing,
}

impl Footer {
    /// Looks for a footer: at the end, or at the start, where all but fixed images have a copy that outlives a
    /// write cut short. `None` when the file is not a VHD.
    pub(crate) fn find(file: &RawFile) -> Result<Option<Self>, DiskError> {
        let Some(last) = file.len().0.checked_sub(FOOTER_LEN) else { return Ok(None) };
        let mut bytes = [0; 512];
        file.read_at(ByteOffset(last), &mut bytes)?;
        if let Some(footer) = Self::parse(&bytes) {
            return Ok(Some(footer));
        }
        file.read_at(ByteOffset(0), &mut bytes)?;
        Ok(Self::parse(&bytes).filter(|footer| footer.kind != Kind::Fixed))
    }

    fn parse(bytes: &Bytes) -> Option<Self> {
        let u32_at = |at: usize| bytes[at..at + 4].iter().fold(0, |n, &b| n << 8 | u32::from(b));
        let u64_at = |at: usize| bytes[at..at + 8].iter().fold(0, |n, &b| n << 8 | u64::from(b));
        if bytes[..8] != COOKIE || u32_at(CHECKSUM.start) != checksum(bytes, CHECKSUM) {
            return None;
        }
        let kind = match u32_at(60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic { header: ByteOffset(u64_at(16)) },
            4 => Kind::Differencing,
            _ => return None,
        };
        Some(Self { size: ByteLen(u64_at(48)), kind })
    }
}

/// The complement of the sum of all bytes but those of the checksum itself.
pub(super) fn checksum(bytes: &[u8], own: std::ops::Range<usize>) -> u32 {
    let others = bytes.iter().enumerate().filter(|(at, _)| !own.contains(at));
    !others.fold(0_u32, |sum, (_, &b)| sum.wrapping_add(u32::from(b)))
}

/// The footer that makes a raw image of `size` bytes a fixed VHD, as Azure takes it: append it to the data.
///
/// `id` must be unique, as a UUID is. Azure wants sizes of whole MiB.
pub fn fixed_vhd_footer(size: ByteLen, id: [u8; 16]) -> [u8; 512] {
    let mut bytes = [0; 512];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &COOKIE);
    put(8, &2_u32.to_be_bytes()); // reserved, always set
    put(12, &0x1_0000_u32.to_be_bytes());
    put(16, &u64::MAX.to_be_bytes()); // no header
    // Hyper-V's: of an image whose creator it does not know, QEMU 7.2 takes the size from the geometry, which rounds down.
    put(28, b"win ");
    put(32, &0x1_0000_u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &size.0.to_be_bytes());
    put(48, &size.0.to_be_bytes());
    let geometry = Geometry::of(size.0 / 512);
    put(56, &geometry.cylinders.to_be_bytes());
    put(58, &[geometry.heads, geometry.sectors]);
    put(60, &2_u32.to_be_bytes());
    put(68, &id);
    let sum = checksum(&bytes, CHECKSUM);
    bytes[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Cylinders, heads and sectors per track, for software that still asks.
#[derive(Debug, PartialEq, Eq)]
struct Geometry {
    cylinders: u16,
    heads: u8,
    sectors: u8,
}

impl Geometry {
    /// The calculation of the specification's appendix: the fewest sectors per track that keep the cylinders
    /// within 1024 while there are at most 16 heads, and the largest geometry for what is larger.
    fn of(sectors: u64) -> Self {
        let total = sectors.min(65535 * 16 * 255);
        let (per_track, heads) = if total >= 65535 * 16 * 63 {
            (255, 16)
        } else {
            let fits = |per_track: u64, heads: u64| heads <= 16 && total / per_track < heads * 1024;
            let narrow = (total / 17).div_ceil(1024).max(4);
            if fits(17, narrow) {
                (17, narrow)
            } else if fits(31, 16) {
                (31, 16)
            } else {
                (63, 16)
            }
        };
        let byte = |n: u64| u8::try_from(n).expect("at most 255 by construction");
        let cylinders = u16::try_from(total / per_track / heads).expect("at most 65535 by construction");
        Self { cylinders, heads: byte(heads), sectors: byte(per_track) }
    }
}

/// Reads `len` bytes, which must be within a bound the caller checked.
pub(super) fn bytes_at(file: &RawFile, offset: u64, len: u64) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; in_memory(len)];
    file.read_at(ByteOffset(offset), &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_found_again_and_a_flipped_bit_is_not() {
        let mut bytes = fixed_vhd_footer(ByteLen(1 << 30), [7; 16]);
        let footer = Footer::parse(&bytes).unwrap();
        assert_eq!((footer.size, footer.kind), (ByteLen(1 << 30), Kind::Fixed));
        bytes[50] ^= 1;
        assert!(Footer::parse(&bytes).is_none());
    }

    #[test]
    fn geometry_of_known_disks() {
        let of = |sectors| {
            let g = Geometry::of(sectors);
            (g.cylinders, g.heads, g.sectors)
        };
        assert_eq!(of(0), (0, 4, 17));
        assert_eq!(of(2048), (30, 4, 17)); // 1 MiB
        assert_eq!(of(65535 * 16 * 63), (16191, 16, 255));
        assert_eq!(of(u64::MAX), (65535, 16, 255));
    }
}
