//! Changed blocks of neighbouring segments, put together into frames.

use vmkeep_blockdiff::{Chunk, Scanned};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ContentHash, DiskName};
use vmkeep_vault::{Adopted, CompressionLevel, Frame, FrameEncoder, FrameError, PatchFrame, StorageId};

use crate::BackupError;
use crate::disk::Stop;

/// Most blocks and runs handed on while a frame is being filled: what is not settled is held in memory.
const OPEN_MAX: usize = 16 << 10;

/// What the walk hands on. Blocks come in any order above what is settled.
pub(crate) enum Step<B, P> {
    /// Whole blocks for a frame.
    Blocks(B),
    /// Pages of blocks for a frame.
    Patches(P),
    /// Blocks that lie in the vault already.
    Adopted(Vec<(BlockIndex, ContentHash, StorageId)>),
    Zero(BlockRun),
    /// Everything before `block` was looked at, and everything before `settled` was handed on.
    Reached {
        block: BlockIndex,
        settled: BlockIndex,
        scanned: Counts,
    },
}

/// Chunks of blocks and chunks of pages, before they are compressed.
pub(crate) type Cut = Step<Vec<Chunk>, Vec<Chunk>>;

/// What became of a segment, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) bytes_read: u64,
    /// Blocks stored as a whole because it was not known which pages changed.
    pub(crate) whole_unknown: u64,
}

/// Where changed blocks of a disk may lie already.
pub(crate) struct Adoption<'a> {
    pub(crate) adopted: &'a Adopted,
    pub(crate) disk: &'a DiskName,
    pub(crate) block_size: BlockSize,
}

impl Adoption<'_> {
    fn lookup(&self, chunk: &Chunk) -> Result<Option<StorageId>, BackupError> {
        let found = self.adopted.lookup(self.disk, self.block_size, chunk.block, chunk.hash);
        found.map_err(BackupError::Store)
    }
}

/// Chunks of a frame being filled.
#[derive(Default)]
struct Group {
    chunks: Vec<Chunk>,
    bytes: usize,
}

impl Group {
    fn push(&mut self, chunk: Chunk) {
        self.bytes += chunk.bytes().len();
        self.chunks.push(chunk);
    }

    fn take(&mut self) -> Option<Vec<Chunk>> {
        self.bytes = 0;
        Some(std::mem::take(&mut self.chunks)).filter(|chunks| !chunks.is_empty())
    }

    fn first(&self) -> Option<BlockIndex> {
        self.chunks.first().map(|chunk| chunk.block)
    }
}

/// Puts changed blocks of neighbouring segments together into frames, but for those that are stored already.
pub(crate) struct Groups<'a, I: Iterator> {
    scanned: I,
    frame_bytes: usize,
    adopted: Option<Adoption<'a>>,
    blocks: Group,
    patches: Group,
    /// Handed on since both groups were empty.
    open: usize,
    /// Steps that are cut and not yet handed on.
    ready: std::vec::IntoIter<Cut>,
    end: BlockIndex,
    ended: bool,
}

impl<'a, I: Iterator<Item = Result<(Scanned, BlockIndex), Stop>>> Groups<'a, I> {
    /// Frames hold up to `frame_bytes`, and one block at least.
    pub(crate) fn new(scanned: I, frame_bytes: usize, adopted: Option<Adoption<'a>>) -> Self {
        Self {
            scanned,
            frame_bytes,
            adopted,
            blocks: Group::default(),
            patches: Group::default(),
            open: 0,
            ready: Vec::new().into_iter(),
            end: BlockIndex(0),
            ended: false,
        }
    }

    /// The steps of one scanned segment.
    fn cut(&mut self, scanned: Scanned, end: BlockIndex) -> Result<Vec<Cut>, BackupError> {
        let mut steps: Vec<Cut> = scanned.zeroed.into_iter().map(Step::Zero).collect();
        let mut adopted = Vec::new();
        self.open += steps.len() + scanned.data.len();
        for chunk in scanned.data {
            if let Some(at) = self.adopted.as_ref().map_or(Ok(None), |adopted| adopted.lookup(&chunk))? {
                adopted.push((chunk.block, chunk.hash, at));
                continue;
            }
            let is_patch = chunk.pages.is_some();
            let group = if is_patch { &mut self.patches } else { &mut self.blocks };
            if group.bytes + chunk.bytes().len() > self.frame_bytes {
                steps.extend(group.take().map(if is_patch { Step::Patches } else { Step::Blocks }));
            }
            group.push(chunk);
        }
        if !adopted.is_empty() {
            steps.push(Step::Adopted(adopted));
        }
        for (group, step) in
            [(&mut self.blocks, Step::Blocks as fn(_) -> _), (&mut self.patches, Step::Patches)]
        {
            if group.bytes >= self.frame_bytes || self.open > OPEN_MAX {
                steps.extend(group.take().map(step));
            }
        }
        self.end = end;
        let counts = Counts { bytes_read: scanned.bytes_read, whole_unknown: scanned.unknown_pages };
        steps.push(self.reached(counts));
        Ok(steps)
    }

    fn reached(&mut self, scanned: Counts) -> Cut {
        let first = self.blocks.first().into_iter().chain(self.patches.first()).min();
        if first.is_none() {
            self.open = 0;
        }
        Step::Reached { block: self.end, settled: first.unwrap_or(self.end), scanned }
    }

    /// What is left when everything was scanned.
    fn rest(&mut self) -> Vec<Cut> {
        let blocks = self.blocks.take().map(Step::Blocks);
        blocks.into_iter().chain(self.patches.take().map(Step::Patches)).collect()
    }
}

impl<I: Iterator<Item = Result<(Scanned, BlockIndex), Stop>>> Iterator for Groups<'_, I> {
    type Item = Result<Cut, Stop>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(step) = self.ready.next() {
                return Some(Ok(step));
            }
            if self.ended {
                return None;
            }
            match self.scanned.next() {
                Some(Ok((scanned, end))) => match self.cut(scanned, end) {
                    Ok(steps) => self.ready = steps.into_iter(),
                    Err(e) => return Some(Err(e.into())),
                },
                Some(Err(stop)) => return Some(Err(stop)),
                None => {
                    self.ended = true;
                    self.ready = self.rest().into_iter();
                }
            }
        }
    }
}

/// Compresses a step's data. `encoder` is made with the first frame.
pub(crate) fn encode(
    encoder: &mut Option<FrameEncoder>,
    level: CompressionLevel,
    step: Cut,
) -> Result<Step<Frame, PatchFrame>, FrameError> {
    Ok(match step {
        Step::Blocks(chunks) => {
            let blocks = chunks.iter().map(|chunk| (chunk.block, chunk.hash)).collect();
            Step::Blocks(made(encoder, level)?.encode(blocks, Chunk::together(&chunks))?)
        }
        Step::Patches(chunks) => {
            let patch = |chunk: &Chunk| Some((chunk.block, chunk.pages.clone()?, chunk.hash));
            let patches = chunks.iter().filter_map(patch).collect();
            Step::Patches(made(encoder, level)?.encode_patches(patches, Chunk::together(&chunks))?)
        }
        Step::Adopted(blocks) => Step::Adopted(blocks),
        Step::Zero(run) => Step::Zero(run),
        Step::Reached { block, settled, scanned } => Step::Reached { block, settled, scanned },
    })
}

fn made(
    encoder: &mut Option<FrameEncoder>,
    level: CompressionLevel,
) -> Result<&mut FrameEncoder, FrameError> {
    match encoder {
        Some(encoder) => Ok(encoder),
        None => Ok(encoder.insert(FrameEncoder::new(level)?)),
    }
}
