//! Whether the tables of an image, and what they point to, lie in the file.
//!
//! A reader that pads a short file with zeros (QEMU and imago do) takes a missing L2 table for a range of holes.
//! The L1 table tells where every L2 table is, so one pass over it when the image is opened finds them all.

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use super::header::Header;
use crate::range::in_memory;
use crate::raw::RawFile;
use crate::{BlockRead, DiskError};

/// Bits 9 to 55 of an L1 entry: where its L2 table is.
const L2_OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
/// Compressed data is counted in sectors of 512 bytes.
const SECTOR: u64 = 512;

/// The L1 table of an image whose L2 tables are all in the file.
#[derive(Debug)]
pub(super) struct Tables {
    l2_offsets: Vec<u64>,
    cluster_bits: u32,
}

impl Tables {
    /// Reads the L1 table and checks where it points.
    pub(super) fn read(image: &RawFile, header: &Header) -> Result<Self, DiskError> {
        let mut bytes = vec![0; in_memory(header.l1_entries * 8)];
        image.read_at(ByteOffset(header.l1_offset), &mut bytes)?;
        let l2_offsets: Vec<u64> = bytes.chunks_exact(8).map(|b| big_endian(b) & L2_OFFSET_MASK).collect();
        let cluster = 1 << header.cluster_bits;
        for &offset in l2_offsets.iter().filter(|&&offset| offset != 0) {
            if !offset.is_multiple_of(cluster) {
                return Err(damaged(
                    image,
                    format!("the L2 table at {offset} is not at the start of a cluster"),
                ));
            }
            if offset + cluster > image.len().0 {
                let end = image.len();
                let reason = format!(
                    "the L2 table at {offset} lies behind the end of the file ({end}), which was cut short"
                );
                return Err(damaged(image, reason));
            }
        }
        Ok(Self { l2_offsets, cluster_bits: header.cluster_bits })
    }

    /// Checks that the compressed clusters of `range` end within the file. Deflate has no checksum: what is cut off
    /// would unpack to something.
    pub(super) fn check_compressed(&self, image: &RawFile, range: Extent) -> Result<(), DiskError> {
        let clusters = range.start().0 >> self.cluster_bits..range.end().0.div_ceil(1 << self.cluster_bits);
        for cluster in clusters {
            let entry = self.l2_entry(image, cluster)?;
            let end = self.compressed_end(entry);
            if entry & COMPRESSED == 0 || end > image.len().0 {
                let reason = format!(
                    "compressed cluster {cluster} ends at {end}, behind the end of the file ({}): it was cut short, \
                     or not padded to whole sectors by what wrote it (truncate --size=%512 does that)",
                    image.len()
                );
                return Err(damaged(image, reason));
            }
        }
        Ok(())
    }

    fn l2_entry(&self, image: &RawFile, cluster: u64) -> Result<u64, DiskError> {
        let entries_bits = self.cluster_bits - 3;
        let table = usize::try_from(cluster >> entries_bits).ok().and_then(|i| self.l2_offsets.get(i));
        let Some(&table) = table.filter(|&&offset| offset != 0) else { return Ok(0) };
        let index = cluster & ((1 << entries_bits) - 1);
        let mut entry = [0; 8];
        image.read_at(ByteOffset(table + index * 8), &mut entry)?;
        Ok(u64::from_be_bytes(entry))
    }

    /// Where the data of a compressed cluster ends in the file.
    fn compressed_end(&self, entry: u64) -> u64 {
        let offset_bits = 62 - (self.cluster_bits - 8);
        let descriptor = entry & (COMPRESSED - 1);
        let offset = descriptor & ((1 << offset_bits) - 1);
        let more_sectors = descriptor >> offset_bits;
        (offset / SECTOR + 1 + more_sectors) * SECTOR
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// The error for data that the tables put behind the end of a file of `len` bytes.
pub(super) fn behind_the_end(file: &RawFile, range: Extent, host: u64, len: ByteLen) -> DiskError {
    damaged(
        file,
        format!("the data of {range} is at {host}, behind the end of the file ({len}), which was cut short"),
    )
}

pub(super) fn damaged(image: &RawFile, reason: String) -> DiskError {
    DiskError::Damaged { path: image.path().to_owned(), reason }
}
