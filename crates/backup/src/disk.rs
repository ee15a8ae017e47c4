//! One disk on its way into the vault.

use std::thread;

use vmkeep_blockdiff::{Chunk, ScanBuffer, Scanned, SegmentError, SegmentSize, Segments, scan};
use vmkeep_disk::BlockRead;
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteLen, CancelToken, ContentHash, DiskName};
use vmkeep_vault::{
    Adopted, BaseDisk, CompressionLevel, Frame, FrameEncoder, FrameError, Session, StorageId, VaultError,
    WrittenDisk,
};

use crate::observer::{DiskChange, Event, Observer};
use crate::ordered::ordered;
use crate::plan::Shares;
use crate::{BackupError, Settings};

/// A disk that was walked.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) written: WrittenDisk,
    pub(crate) change: DiskChange,
    pub(crate) bytes_read: u64,
}

/// What the walk hands on, in ascending order of blocks.
enum Step<T> {
    Data(T),
    /// Blocks that lie in the vault already.
    Adopted(Vec<(BlockIndex, ContentHash, StorageId)>),
    Zero(BlockRun),
    /// Everything before this block is handed on; so many bytes were read for it.
    Reached {
        block: BlockIndex,
        bytes_read: u64,
    },
}

/// One disk to walk, and what the walk needs.
pub(crate) struct DiskWalk<'a> {
    pub(crate) session: &'a Session,
    pub(crate) name: &'a DiskName,
    pub(crate) disk: &'a dyn BlockRead,
    pub(crate) settings: &'a Settings,
    pub(crate) shares: &'a Shares,
    pub(crate) observer: &'a dyn Observer,
    pub(crate) cancel: &'a CancelToken,
}

impl DiskWalk<'_> {
    /// Reads the disk, stores what changed since the session's base, and returns when it is durable.
    ///
    /// When what the disk was cannot be read because the vault is damaged there, all of the disk is stored again:
    /// a VM must stay protectable whatever happened to its points, and nothing of the base is then relied on.
    pub(crate) fn run(&self) -> Result<Walked, BackupError> {
        let base = self.session.base_disk(self.name);
        let has_base = !matches!(base, Ok(None));
        let walked =
            base.map_err(BackupError::Store).and_then(|base| self.against(base, DiskChange::Appeared));
        match walked {
            Err(BackupError::Store(error)) if has_base && error.is_damage() => {
                self.observer.event(Event::BaseUnreadable { disk: Some(self.name), error: &error });
                self.against(None, DiskChange::Anew)
            }
            walked => walked,
        }
    }

    /// `without_base` says what the disk is when there is no base.
    fn against(&self, base: Option<BaseDisk<'_>>, without_base: DiskChange) -> Result<Walked, BackupError> {
        let Self { session, name, disk, settings, shares, observer, cancel } = *self;
        let block_size = base.as_ref().map_or(settings.block_size, |base| base.block_size);
        let size = disk.len();
        let change = base.as_ref().map_or(without_base, |base| compare(base.size, size));
        observer.event(Event::DiskBegan { disk: name, size, change });

        let identity = session.identity().map_err(BackupError::Store)?;
        let mut writer = match base {
            Some(_) => session.disk_writer(name, block_size, shares.pack_bytes),
            None => session.disk_writer_anew(name, block_size, shares.pack_bytes),
        }
        .map_err(BackupError::Store)?;
        let before = base.iter().flat_map(|base| base.hashes(BlockIndex(0)));
        let segments = Segments::new(disk, block_size, SegmentSize::default(), before);
        let read_error = |source| BackupError::Read { disk: name.clone(), source };

        let (mut bytes_read, mut bytes_changed, mut bytes_adopted) = (0, 0, 0);
        thread::scope(|scope| -> Result<(), BackupError> {
            let hash = |block: &[u8]| identity.block_hash(block);
            let scanned = ordered(scope, settings.workers, shares.segments, segments, ScanBuffer::default, {
                move |buffer, segment| -> Result<(Scanned, BlockIndex), BackupError> {
                    cancel.check()?;
                    let segment = segment.map_err(|e| segment_error(name, e))?;
                    let scanned = scan(disk, &segment, &hash, buffer).map_err(read_error)?;
                    Ok((scanned, segment.run.end()))
                }
            });
            let frame_blocks = settings.level.frame_blocks(block_size);
            let adopted = session.adopted().map(|adopted| Adoption { adopted, disk: name, block_size });
            let (group, ready) = (Vec::new(), Vec::new().into_iter());
            let groups = Groups { scanned, frame_blocks, adopted, group, ready };
            let level = settings.level;
            let steps = ordered(
                scope,
                settings.workers,
                shares.frames,
                groups,
                || None,
                move |encoder, step| {
                    encode(encoder, level, step?)
                        .map_err(|source| BackupError::Frame { disk: name.clone(), source })
                },
            );
            for step in steps {
                cancel.check()?;
                match step? {
                    Step::Data(frame) => {
                        bytes_changed += u64::from(frame.plain_len);
                        writer.frame(&frame).map_err(BackupError::Store)?;
                    }
                    Step::Adopted(blocks) => {
                        let bytes = blocks.len() as u64 * block_size.bytes_u64();
                        bytes_changed += bytes;
                        bytes_adopted += bytes;
                        for (block, hash, at) in blocks {
                            writer.adopt(block, at, hash).map_err(BackupError::Store)?;
                        }
                    }
                    Step::Zero(run) => {
                        writer.zero(run).map_err(BackupError::Store)?;
                        observer.event(Event::Zeroed { disk: name, run });
                    }
                    Step::Reached { block, bytes_read: more } => {
                        bytes_read += more;
                        let position = ByteLen(block.0.saturating_mul(block_size.bytes_u64()).min(size.0));
                        observer.event(Event::Progress {
                            disk: name,
                            position,
                            bytes_read,
                            bytes_changed,
                            bytes_adopted,
                        });
                    }
                }
            }
            Ok(())
        })?;
        cancel.check()?;
        let written = writer.finish(size).map_err(BackupError::Store)?;
        observer.event(Event::DiskDone { disk: name });
        Ok(Walked { written, change, bytes_read })
    }
}

fn compare(from: ByteLen, to: ByteLen) -> DiskChange {
    match from.cmp(&to) {
        std::cmp::Ordering::Less => DiskChange::Grew { from },
        std::cmp::Ordering::Equal => DiskChange::SameSize,
        std::cmp::Ordering::Greater => DiskChange::Shrank { from },
    }
}

fn segment_error(disk: &DiskName, error: SegmentError<VaultError>) -> BackupError {
    match error {
        SegmentError::Disk(source) => BackupError::Read { disk: disk.clone(), source },
        SegmentError::Before(source) => BackupError::Store(source),
        other => BackupError::Settings(other.to_string()),
    }
}

/// Where changed blocks of a disk may lie already.
struct Adoption<'a> {
    adopted: &'a Adopted,
    disk: &'a DiskName,
    block_size: BlockSize,
}

impl Adoption<'_> {
    fn lookup(&self, chunk: &Chunk) -> Result<Option<StorageId>, BackupError> {
        let found = self.adopted.lookup(self.disk, self.block_size, chunk.block, chunk.hash);
        found.map_err(BackupError::Store)
    }
}

/// Puts changed blocks of neighbouring segments together into frames, but for those that are stored already.
struct Groups<'a, I: Iterator> {
    scanned: I,
    frame_blocks: usize,
    adopted: Option<Adoption<'a>>,
    /// Chunks of the frame being filled.
    group: Vec<Chunk>,
    /// Steps that are cut and not yet handed on.
    ready: std::vec::IntoIter<Step<Vec<Chunk>>>,
}

impl<I: Iterator<Item = Result<(Scanned, BlockIndex), BackupError>>> Groups<'_, I> {
    /// The steps of one scanned segment, in the order of their blocks.
    fn cut(&mut self, scanned: Scanned, end: BlockIndex) -> Result<Vec<Step<Vec<Chunk>>>, BackupError> {
        let mut steps = Vec::new();
        let mut zeroed = scanned.zeroed.into_iter().peekable();
        for chunk in scanned.data {
            while let Some(run) = zeroed.next_if(|run| run.start < chunk.block) {
                self.flush(&mut steps);
                steps.push(Step::Zero(run));
            }
            let at = self.adopted.as_ref().map_or(Ok(None), |adopted| adopted.lookup(&chunk))?;
            if let Some(at) = at {
                self.flush(&mut steps);
                let block = (chunk.block, chunk.hash, at);
                match steps.last_mut() {
                    Some(Step::Adopted(blocks)) => blocks.push(block),
                    _ => steps.push(Step::Adopted(vec![block])),
                }
                continue;
            }
            self.group.push(chunk);
            if self.group.len() == self.frame_blocks {
                self.flush(&mut steps);
            }
        }
        for run in zeroed {
            self.flush(&mut steps);
            steps.push(Step::Zero(run));
        }
        steps.push(Step::Reached { block: end, bytes_read: scanned.bytes_read });
        Ok(steps)
    }

    fn flush(&mut self, steps: &mut Vec<Step<Vec<Chunk>>>) {
        if !self.group.is_empty() {
            steps.push(Step::Data(std::mem::take(&mut self.group)));
        }
    }
}

impl<I: Iterator<Item = Result<(Scanned, BlockIndex), BackupError>>> Iterator for Groups<'_, I> {
    type Item = Result<Step<Vec<Chunk>>, BackupError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(step) = self.ready.next() {
                return Some(Ok(step));
            }
            match self.scanned.next() {
                Some(Ok((scanned, end))) => match self.cut(scanned, end) {
                    Ok(steps) => self.ready = steps.into_iter(),
                    Err(e) => return Some(Err(e)),
                },
                Some(Err(e)) => return Some(Err(e)),
                None if self.group.is_empty() => return None,
                None => return Some(Ok(Step::Data(std::mem::take(&mut self.group)))),
            }
        }
    }
}

/// Compresses a step's data. `encoder` is made with the first frame.
fn encode(
    encoder: &mut Option<FrameEncoder>,
    level: CompressionLevel,
    step: Step<Vec<Chunk>>,
) -> Result<Step<Frame>, FrameError> {
    Ok(match step {
        Step::Adopted(blocks) => Step::Adopted(blocks),
        Step::Zero(run) => Step::Zero(run),
        Step::Reached { block, bytes_read } => Step::Reached { block, bytes_read },
        Step::Data(chunks) => {
            let encoder = match encoder {
                Some(encoder) => encoder,
                None => encoder.insert(FrameEncoder::new(level)?),
            };
            let blocks: Vec<(BlockIndex, ContentHash)> = chunks.iter().map(|c| (c.block, c.hash)).collect();
            Step::Data(encoder.encode(blocks, Chunk::together(&chunks))?)
        }
    })
}
