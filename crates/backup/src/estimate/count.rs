//! What is counted on the way, and fingerprints that are only looked up.

use vmkeep_blockdiff::{Chunk, FingerprintFile, Fingerprints, RunHistogram};
use vmkeep_model::{BlockIndex, BlockSize, ByteLen, ByteOffset, ContentHash, DiskName, Extent, PAGE_SIZE};
use vmkeep_vault::{CompressionLevel, FrameEncoder};

use super::{EstimateSettings, Ratio, RatioFrom};
use crate::BackupError;
use crate::groups::{Cut, Step, encode};

/// Runs of what would be stored, block after block in ascending order.
#[derive(Default)]
pub(super) struct Runs {
    histogram: RunHistogram,
    open: Extent,
}

impl Runs {
    pub(super) fn add(&mut self, block_size: BlockSize, chunk: &Chunk) {
        let start = block_size.start_of(chunk.block).0;
        match &chunk.pages {
            None => self.push(Extent::new(ByteOffset(start), ByteLen(block_size.bytes_u64()))),
            Some(pages) => {
                for page in pages.pages() {
                    let at = start.saturating_add(page as u64 * PAGE_SIZE as u64);
                    self.push(Extent::new(ByteOffset(at), ByteLen(PAGE_SIZE as u64)));
                }
            }
        }
    }

    fn push(&mut self, extent: Extent) {
        if extent.start() == self.open.end() && !self.open.is_empty() {
            self.open = Extent::between(self.open.start(), extent.end());
        } else {
            self.histogram.add(self.open.len());
            self.open = extent;
        }
    }

    pub(super) fn end(mut self) -> RunHistogram {
        self.histogram.add(self.open.len());
        self.histogram
    }
}

/// Compresses some of the frames to see what becomes of them.
pub(super) struct Sample {
    encoder: Option<FrameEncoder>,
    level: CompressionLevel,
    every: u32,
    seen: u32,
    plain: u64,
    packed: u64,
}

impl Sample {
    pub(super) fn new(settings: &EstimateSettings) -> Self {
        let (level, every) = (settings.backup.level, settings.sample_every.get());
        Self { encoder: None, level, every, seen: 0, plain: 0, packed: 0 }
    }

    /// Sees a frame's worth of blocks or pages; how many bytes they are.
    pub(super) fn see(&mut self, disk: &DiskName, step: Cut) -> Result<u64, BackupError> {
        let plain = match &step {
            Step::Blocks(chunks) | Step::Patches(chunks) => {
                chunks.iter().map(|chunk| chunk.bytes().len() as u64).sum()
            }
            Step::Adopted(_) | Step::Zero(_) | Step::Reached { .. } => return Ok(0),
        };
        let is_taken = self.seen == 0;
        self.seen = (self.seen + 1) % self.every;
        if is_taken {
            let framed = encode(&mut self.encoder, self.level, step);
            let framed = framed.map_err(|source| BackupError::Frame { disk: disk.clone(), source })?;
            let packed = match framed {
                Step::Blocks(frame) => frame.body.len(),
                Step::Patches(frame) => frame.body.len(),
                Step::Adopted(_) | Step::Zero(_) | Step::Reached { .. } => 0,
            };
            self.plain += plain;
            self.packed += packed as u64;
        }
        Ok(plain)
    }

    pub(super) fn ratio(&self) -> Option<Ratio> {
        Ratio::new(RatioFrom::Sample, self.plain, self.packed)
    }
}

/// Fingerprints that nothing is put into.
#[derive(Debug)]
pub(super) struct LookedUp<'a>(pub(super) &'a FingerprintFile);

impl Fingerprints for LookedUp<'_> {
    fn get(&self, block: BlockIndex, was: ContentHash, pages: &mut Vec<u64>) -> bool {
        self.0.get(block, was, pages)
    }

    fn put(&self, _: BlockIndex, _: ContentHash, _: &[u64]) {}
}
