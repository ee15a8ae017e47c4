//! From the header of an image to its bitmap directory.
//!
//! ```text
//! header                               extension 0x23852875, 24 bytes
//!   0 magic "QFI\xfb"                    0 number of bitmaps, 1 to 65535
//!   4 version                            4 zero
//!  20 log2 of the cluster size           8 bytes of the directory
//!  24 virtual size                      16 where it is, at the start of a cluster
//!  72 incompatible features
//!  88 autoclear features: bit 0 is set while the bitmaps are up to date
//! 100 header length; extensions follow
//! ```

use vmkeep_model::{ByteLen, ByteOffset};

use super::BitmapError;
use super::error::damaged;
use crate::BlockRead;
use crate::qcow2::header::MAGIC;
use crate::range::in_memory;

const BITMAPS: u32 = 0x2385_2875;
const BITMAPS_LEN: u64 = 24;
const CORRUPT: u64 = 1 << 1;
/// Dirty, corrupt, data file, compression, subclusters: none of them changes where bitmaps lie.
const INCOMPATIBLE_KNOWN: u64 = 0x1f;
const AUTOCLEAR_BITMAPS: u64 = 1;
const HEADER_LEN_MIN: u64 = 104;

/// Most bitmaps of one image, as in the format.
const BITMAPS_MAX: u32 = 65_535;
/// Longest directory, as in QEMU: 1 KiB for each bitmap.
const DIRECTORY_BYTES_MAX: u64 = 1024 * BITMAPS_MAX as u64;

/// The file, and what reading bitmaps takes of its header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    file: &'a dyn BlockRead,
    pub(super) cluster_bits: u32,
    pub(super) disk_len: ByteLen,
}

/// Where the directory lies; not yet checked against the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) count: u32,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Whether a program that knows no bitmaps wrote to the image since they were stored.
    pub(super) stale: bool,
}

impl<'a> Image<'a> {
    /// Reads the header; `None` when the image holds no bitmaps.
    pub(super) fn locate(file: &'a dyn BlockRead) -> Result<Option<(Self, Place)>, BitmapError> {
        let mut start = [0; 112];
        let there = in_memory(file.len().0.min(112));
        file.read_at(ByteOffset(0), &mut start[..there])?;
        let start = &start[..there];
        if start.get(..4) != Some(&MAGIC) {
            return Err(BitmapError::Unsupported { reason: "the file is not a qcow2 image".to_owned() });
        }
        match u32_at(start, 4)? {
            2 => return Ok(None),
            3 => {}
            version => {
                let reason = format!("version {version} of qcow is not read");
                return Err(BitmapError::Unsupported { reason });
            }
        }
        let cluster_bits = u32_at(start, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(damaged(format!("a cluster size of 2^{cluster_bits} bytes cannot be")));
        }
        let image = Self { file, cluster_bits, disk_len: ByteLen(u64_at(start, 24)?) };
        let incompatible = u64_at(start, 72)?;
        if incompatible & CORRUPT != 0 {
            return Err(damaged("it is marked corrupt"));
        }
        if incompatible & !INCOMPATIBLE_KNOWN != 0 {
            let reason = format!("the image needs features that are not known ({incompatible:#x})");
            return Err(BitmapError::Unsupported { reason });
        }
        let header_len = u64::from(u32_at(start, 100)?);
        if !(HEADER_LEN_MIN..=image.cluster_len()).contains(&header_len) || !header_len.is_multiple_of(8) {
            return Err(damaged(format!("a header of {header_len} bytes cannot be")));
        }
        let stale = u64_at(start, 88)? & AUTOCLEAR_BITMAPS == 0;
        Ok(image.extension(header_len)?.map(|place| (image, Place { stale, ..place })))
    }

    /// Walks the header extensions, which all lie in the first cluster, until the one of bitmaps.
    fn extension(&self, header_len: u64) -> Result<Option<Place>, BitmapError> {
        let head = self.bytes(0, self.cluster_len().min(self.file.len().0), "the header")?;
        let mut at = header_len;
        while at < self.cluster_len() {
            let (kind, len) = (u32_at(&head, at)?, u64::from(u32_at(&head, at + 4)?));
            if at + 8 + len > self.cluster_len() {
                return Err(damaged("a header extension passes the first cluster"));
            }
            match kind {
                0 => return Ok(None),
                BITMAPS if len == BITMAPS_LEN => return self.place(&head, at + 8).map(Some),
                BITMAPS => return Err(damaged(format!("a bitmaps extension of {len} bytes cannot be"))),
                _ => at += 8 + len.next_multiple_of(8),
            }
        }
        Ok(None)
    }

    fn place(&self, head: &[u8], at: u64) -> Result<Place, BitmapError> {
        let (count, reserved) = (u32_at(head, at)?, u32_at(head, at + 4)?);
        let (len, offset) = (u64_at(head, at + 8)?, u64_at(head, at + 16)?);
        if count == 0 || count > BITMAPS_MAX || reserved != 0 {
            return Err(damaged(format!("a bitmaps extension with {count} bitmaps cannot be")));
        }
        if len == 0 || len > DIRECTORY_BYTES_MAX || offset == 0 || !offset.is_multiple_of(self.cluster_len())
        {
            return Err(damaged(format!("a bitmap directory of {len} bytes at {offset} cannot be")));
        }
        Ok(Place { count, offset, len, stale: false })
    }

    pub(super) fn cluster_len(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Reads a stretch that must lie in the file. The caller has bounded `len`.
    pub(super) fn bytes(&self, offset: u64, len: u64, what: &str) -> Result<Vec<u8>, BitmapError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.file.len().0 => {}
            _ => {
                let file = self.file.len();
                let reason = format!(
                    "{what}, {len} bytes at {offset}, lies behind the end of the file ({file} bytes)"
                );
                return Err(damaged(reason));
            }
        }
        let mut bytes = vec![0; in_memory(len)];
        self.file.read_at(ByteOffset(offset), &mut bytes)?;
        Ok(bytes)
    }
}

fn array<const N: usize>(bytes: &[u8], at: u64) -> Result<[u8; N], BitmapError> {
    usize::try_from(at)
        .ok()
        .and_then(|at| bytes.get(at..)?.first_chunk().copied())
        .ok_or_else(|| damaged("its header was cut short"))
}

fn u32_at(bytes: &[u8], at: u64) -> Result<u32, BitmapError> {
    array(bytes, at).map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: u64) -> Result<u64, BitmapError> {
    array(bytes, at).map(u64::from_be_bytes)
}
