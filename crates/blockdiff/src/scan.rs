//! Reading one segment and saying what became of each block.

use std::sync::Arc;

use vmkeep_disk::{BlockRead, DiskError};
use vmkeep_model::{BlockIndex, BlockRun, ContentHash};

use crate::Segment;

/// What names the content of a block. Must be collision resistant and keyed: whoever writes to the disk chooses
/// the content, and an equal hash means "not stored again".
pub trait BlockHasher: Sync {
    /// The hash of a whole block, a tail padded with zeros.
    fn block_hash(&self, block: &[u8]) -> ContentHash;
}

impl<F: Fn(&[u8]) -> ContentHash + Sync> BlockHasher for F {
    fn block_hash(&self, block: &[u8]) -> ContentHash {
        self(block)
    }
}

/// A buffer kept from one scan to the next on the same thread.
#[derive(Debug, Default)]
pub struct ScanBuffer {
    bytes: Vec<u8>,
}

/// A changed block, within the buffer its segment was read into.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Which block.
    pub block: BlockIndex,
    /// What it is now.
    pub hash: ContentHash,
    segment: Arc<Vec<u8>>,
    start: usize,
    len: usize,
}

impl Chunk {
    /// The block's bytes, padded to a whole block.
    pub fn bytes(&self) -> &[u8] {
        &self.segment[self.start..self.start + self.len]
    }

    /// The bytes of `chunks` one after another, without a copy when they are neighbours in one buffer.
    pub fn together(chunks: &[Self]) -> std::borrow::Cow<'_, [u8]> {
        let adjacent = |pair: &[Self]| {
            Arc::ptr_eq(&pair[0].segment, &pair[1].segment) && pair[0].start + pair[0].len == pair[1].start
        };
        match chunks {
            [] => (&[]).into(),
            [first, .., last] if chunks.windows(2).all(adjacent) => {
                first.segment[first.start..last.start + last.len].into()
            }
            chunks => chunks.iter().flat_map(Self::bytes).copied().collect::<Vec<u8>>().into(),
        }
    }
}

/// What became of the blocks of a segment.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    /// Runs that held data and are zero now, ascending, none of them among `data`.
    pub zeroed: Vec<BlockRun>,
    /// Blocks whose content is new, ascending.
    pub data: Vec<Chunk>,
    /// Blocks that hold what they held.
    pub same: u64,
    /// Bytes read from the disk.
    pub bytes_read: u64,
}

/// Reads `segment` of `disk` and compares each block with what it was.
///
/// Allocates only when something changed: then the buffer goes on with the changed blocks.
pub fn scan(
    disk: &dyn BlockRead,
    segment: &Segment,
    hasher: &dyn BlockHasher,
    buffer: &mut ScanBuffer,
) -> Result<Scanned, DiskError> {
    let block_len = segment.block_size.bytes();
    let mut scanned = Scanned { zeroed: segment.zeroed.clone(), ..Scanned::default() };
    if segment.run.is_empty() {
        return Ok(scanned);
    }
    let extent = segment.block_size.extent_of(segment.run, disk.len());
    let read_len = usize::try_from(extent.len().0).unwrap_or(usize::MAX);
    buffer.bytes.resize(read_len.next_multiple_of(block_len), 0);
    disk.read_at(extent.start(), &mut buffer.bytes[..read_len])?;
    buffer.bytes[read_len..].fill(0);
    scanned.bytes_read = extent.len().0;

    let mut changed = Vec::new();
    let mut before = segment.before.iter().peekable();
    for (block, bytes) in segment.run.iter().zip(buffer.bytes.chunks_exact(block_len)) {
        let known = before.next_if(|(known, _)| *known == block).map(|(_, hash)| *hash);
        if is_zero(bytes) {
            if known.is_some() {
                scanned.zeroed.push(BlockRun { start: block, len: 1 });
            }
            continue;
        }
        let hash = hasher.block_hash(bytes);
        if known == Some(hash) {
            scanned.same += 1;
        } else {
            changed.push((block, hash));
        }
    }
    if !changed.is_empty() {
        let bytes = Arc::new(std::mem::take(&mut buffer.bytes));
        let first = segment.run.start.0;
        scanned.data = changed
            .into_iter()
            .map(|(block, hash)| {
                // Within the buffer: the block is one of the run's.
                let start = usize::try_from(block.0 - first).unwrap_or(0) * block_len;
                Chunk { block, hash, segment: Arc::clone(&bytes), start, len: block_len }
            })
            .collect();
    }
    Ok(scanned)
}

/// Whether every byte is zero. Ends early at the first stretch that is not.
pub fn is_zero(bytes: &[u8]) -> bool {
    // A whole stretch without a branch inside is what the compiler turns into wide instructions.
    bytes.chunks(512).all(|stretch| stretch.iter().fold(0, |any, byte| any | byte) == 0)
}
