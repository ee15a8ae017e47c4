//! A dynamic VHD: blocks found through a table, each with a bitmap of its sectors.

use std::ops::Range;

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use super::damaged;
use super::footer::{bytes_at, checksum};
use crate::range::{in_memory, on_disk, within};
use crate::raw::RawFile;
use crate::{BlockRead, DiskError};

const HEADER_LEN: u64 = 1024;
const HEADER_COOKIE: [u8; 8] = *b"cxsparse";
const SECTOR: u64 = 512;
/// The entry of a block that the file does not have.
const ABSENT: u32 = u32::MAX;
/// Blocks of the largest VHD (2 TiB) of the smallest blocks in use (512 KiB). A longer table is called damaged.
const BLOCKS_MAX: u64 = 1 << 22;
const BLOCK_BYTES_MAX: u64 = 1 << 28;

/// A dynamic VHD. A sector whose bit is clear was never written and is zeros.
#[derive(Debug)]
pub(super) struct DynamicVhd {
    file: RawFile,
    len: ByteLen,
    block_bytes: u64,
    /// First sector of each block in the file, its bitmap first.
    blocks: Vec<u32>,
}

impl DynamicVhd {
    pub(super) fn open(file: RawFile, len: ByteLen, header: ByteOffset) -> Result<Self, DiskError> {
        let fault = |reason: &str| damaged(file.path(), reason.to_owned());
        let inside = |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= file.len().0);
        if !inside(header.0, HEADER_LEN) {
            return Err(fault("its header lies behind the end of the file"));
        }
        let bytes = bytes_at(&file, header.0, HEADER_LEN)?;
        if bytes[..8] != HEADER_COOKIE || number(&bytes[36..40]) != u64::from(checksum(&bytes, 36..40)) {
            return Err(fault("its header is not one, or its checksum is wrong"));
        }
        let (table, entries) = (number(&bytes[16..24]), number(&bytes[28..32]));
        let block_bytes = number(&bytes[32..36]);
        if !block_bytes.is_power_of_two() || !(SECTOR..=BLOCK_BYTES_MAX).contains(&block_bytes) {
            return Err(fault("its block size cannot be"));
        }
        let needed = len.0.div_ceil(block_bytes);
        if needed > entries || entries > BLOCKS_MAX {
            return Err(fault("its block table does not fit the size of the disk"));
        }
        if !inside(table, needed * 4) {
            return Err(fault("its block table lies behind the end of the file"));
        }
        let entry = |b: &[u8]| b.iter().fold(0, |n, &byte| n << 8 | u32::from(byte));
        let blocks = bytes_at(&file, table, needed * 4)?.chunks_exact(4).map(entry).collect();
        Ok(Self { file, len, block_bytes, blocks })
    }

    fn block_of(&self, at: u64) -> Option<u32> {
        let block = self.blocks[in_memory(at / self.block_bytes)];
        (block != ABSENT).then_some(block)
    }

    fn bitmap_bytes(&self) -> u64 {
        (self.block_bytes / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }

    /// Reads a range that lies within one block that the file has.
    fn read_block(&self, block: u32, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let start = u64::from(block) * SECTOR;
        let range = Extent::new(ByteOffset(at), ByteLen(on_disk(buf.len())));
        if start + self.bitmap_bytes() + self.block_bytes > self.file.len().0 {
            let reason = format!("the block of {range} lies behind the end of the file, which was cut short");
            return Err(damaged(self.file.path(), reason));
        }
        let bitmap = bytes_at(&self.file, start, self.bitmap_bytes())?;
        let within_block = at % self.block_bytes;
        for (written, part) in runs(&bitmap, within_block, on_disk(buf.len())) {
            let into = &mut buf[in_memory(part.start - within_block)..in_memory(part.end - within_block)];
            if written {
                self.file.read_at(ByteOffset(start + self.bitmap_bytes() + part.start), into)?;
            } else {
                into.fill(0);
            }
        }
        Ok(())
    }
}

/// The range of `len` bytes at `from` as the longest parts whose sectors are all written, or all not.
fn runs(bitmap: &[u8], from: u64, len: u64) -> Vec<(bool, Range<u64>)> {
    let written = |sector: u64| bitmap[in_memory(sector / 8)] & (0x80 >> (sector % 8)) != 0;
    let end = from + len;
    let mut runs: Vec<(bool, Range<u64>)> = Vec::new();
    for sector in from / SECTOR..end.div_ceil(SECTOR) {
        let part = (sector * SECTOR).max(from)..((sector + 1) * SECTOR).min(end);
        match runs.last_mut() {
            Some((state, run)) if *state == written(sector) => run.end = part.end,
            _ => runs.push((written(sector), part)),
        }
    }
    runs
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
}

impl BlockRead for DynamicVhd {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        within(offset, buf.len(), self.len)?;
        let (mut at, mut rest) = (offset.0, buf);
        while !rest.is_empty() {
            let to_block_end = self.block_bytes - at % self.block_bytes;
            let (here, behind) = rest.split_at_mut(in_memory(to_block_end.min(on_disk(rest.len()))));
            let len = on_disk(here.len());
            match self.block_of(at) {
                Some(block) => self.read_block(block, at, here)?,
                None => here.fill(0),
            }
            at += len;
            rest = behind;
        }
        Ok(())
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        if from.0 >= self.len.0 {
            return Ok(None);
        }
        let first = in_memory(from.0 / self.block_bytes);
        let present = |&(_, &block): &(usize, &u32)| block != ABSENT;
        let mut blocks = self.blocks.iter().enumerate().skip(first).skip_while(|b| !present(b));
        let Some((start, _)) = blocks.next() else { return Ok(None) };
        let more = blocks.take_while(present).count();
        let at = |block: usize| ByteOffset((on_disk(block) * self.block_bytes).min(self.len.0));
        Ok(Some(Extent::between(at(start).max(from), at(start + 1 + more))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_follow_the_bitmap_most_significant_bit_first() {
        let bitmap = [0b1100_0001, 0b1000_0000];
        assert_eq!(
            runs(&bitmap, 0, 8192),
            [(true, 0..1024), (false, 1024..3584), (true, 3584..4608), (false, 4608..8192),]
        );
        assert_eq!(runs(&bitmap, 1000, 100), [(true, 1000..1024), (false, 1024..1100)]);
    }
}
