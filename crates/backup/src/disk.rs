//! One disk on its way into the vault.

use std::thread;

use vmkeep_blockdiff::{
    FingerprintFile, Fingerprints, NoFingerprints, PageDiff, PageHasher, ScanBuffer, Scanned, SegmentError,
    SegmentSize, Segments, scan_pages,
};
use vmkeep_disk::BlockRead;
use vmkeep_model::{BlockIndex, BlockSize, ByteLen, CancelToken, DiskName};
use vmkeep_vault::{BaseDisk, Session, VaultError, WrittenDisk};

use crate::base::{Known, Sample, Stored, fingerprints};
use crate::groups::{Adoption, Groups, Step, encode};
use crate::limited::unread;
use crate::observer::{DiskChange, Event, Observer};
use crate::ordered::ordered;
use crate::plan::Shares;
use crate::{BackupError, Compare, Settings};

/// A disk that was walked.
#[derive(Debug)]
pub(crate) struct Walked {
    pub(crate) written: WrittenDisk,
    pub(crate) change: DiskChange,
    pub(crate) bytes_read: u64,
    /// Blocks stored as a whole because it was not known which pages changed.
    pub(crate) whole_unknown: u64,
}

/// Why a walk over a disk ended before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    Failed(BackupError),
    /// What fingerprints said of this block is wrong.
    Distrusted(BlockIndex),
}

impl From<BackupError> for Stop {
    fn from(error: BackupError) -> Self {
        Self::Failed(error)
    }
}

/// One disk to walk, and what the walk needs.
pub(crate) struct DiskWalk<'a> {
    pub(crate) session: &'a Session,
    pub(crate) name: &'a DiskName,
    pub(crate) disk: &'a dyn BlockRead,
    pub(crate) settings: &'a Settings,
    pub(crate) shares: &'a Shares,
    /// Whether the vault lies on this machine.
    pub(crate) is_near: bool,
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
        let Self { session, name, disk, settings, observer, .. } = *self;
        let block_size = base.as_ref().map_or(settings.block_size, |base| base.block_size);
        let size = disk.len();
        let change = base.as_ref().map_or(without_base, |base| compare(base.size, size));
        observer.event(Event::DiskBegan { disk: name, size, change });

        let identity = session.identity().map_err(BackupError::Store)?;
        let hasher = PageHasher::new(identity.page_secret());
        let kept = match fingerprints(&settings.pages, session, name, disk, block_size, &hasher) {
            Ok(kept) => kept,
            Err(error) => {
                observer.event(Event::FingerprintsUnusable { disk: name, error: &error });
                None
            }
        };
        let against = Against { base: base.as_ref(), block_size, change, hasher: &hasher };
        let known: &dyn Fingerprints = kept.as_ref().map_or(&NoFingerprints, |kept| kept);
        let walked = match self.walk(&against, known) {
            Err(Stop::Distrusted(block)) => {
                // What was stored so far may rest on what they said: it is left behind, and they are not asked again.
                observer.event(Event::FingerprintsWrong { disk: name, block });
                if let Some(kept) = &kept {
                    kept.forget();
                }
                self.walk(&against, &NoFingerprints)
            }
            walked => walked,
        };
        if let Some(error) = kept.as_ref().and_then(FingerprintFile::take_error) {
            observer.event(Event::FingerprintsUnusable { disk: name, error: &error });
        }
        match walked {
            Ok(walked) => Ok(walked),
            Err(Stop::Failed(error)) => Err(error),
            Err(Stop::Distrusted(block)) => {
                let what = format!("block {block} of disk {name} differs from what it was in no page");
                Err(BackupError::Settings(what))
            }
        }
    }

    /// Stores what changed on the disk, and where `known` tells so, no more than the pages that changed.
    fn walk(&self, against: &Against<'_, '_>, known: &dyn Fingerprints) -> Result<Walked, Stop> {
        let Self { session, name, disk, settings, shares, observer, cancel, .. } = *self;
        let Against { base, block_size, change, hasher } = *against;
        let size = disk.len();
        let identity = session.identity().map_err(BackupError::Store)?;
        let mut writer = match base {
            Some(_) => session.disk_writer(name, block_size, shares.pack_bytes),
            None => session.disk_writer_anew(name, block_size, shares.pack_bytes),
        }
        .map_err(BackupError::Store)?;
        let segments = Segments::against(disk, block_size, SegmentSize::default(), Known::new(base));
        let stored = match base {
            Some(_) => Stored(session.base_reader(name).map_err(BackupError::Store)?),
            None => Stored(None),
        };
        let sample = Sample::new(session);
        let is_checked = |block| sample.takes(block);
        let fetch_unknown = match settings.pages.compare {
            Compare::WhenNear => self.is_near,
            Compare::Always => true,
            Compare::Never => false,
        };
        let pages = PageDiff { hasher, known, previous: &stored, fetch_unknown, is_checked: &is_checked };
        let pages = Some(pages).filter(|_| fetch_unknown || settings.pages.folder.is_some());

        let (mut progress, mut whole_unknown) = (Progressed::default(), 0);
        thread::scope(|scope| -> Result<(), Stop> {
            let hash = |block: &[u8]| identity.block_hash(block);
            // More threads than there may be things on their way would only hold buffers.
            let (scanners, framers) =
                (settings.workers.min(shares.segments), settings.workers.min(shares.frames));
            let scanned = ordered(scope, scanners, shares.segments, segments, ScanBuffer::default, {
                let pages = pages.as_ref();
                move |buffer, segment| -> Result<(Scanned, BlockIndex), Stop> {
                    cancel.check().map_err(BackupError::from)?;
                    let segment = segment.map_err(|e| segment_error(name, e))?;
                    let scanned = scan_pages(disk, &segment, &hash, pages, buffer).map_err(unread(name))?;
                    match scanned.distrusted {
                        Some(block) => Err(Stop::Distrusted(block)),
                        None => Ok((scanned, segment.run.end())),
                    }
                }
            });
            let adopted = session.adopted().map(|adopted| Adoption { adopted, disk: name, block_size });
            let groups = Groups::new(scanned, settings.level.frame_bytes(), adopted);
            let steps = ordered(
                scope,
                framers,
                shares.frames,
                groups,
                || None,
                move |encoder, step| -> Result<_, Stop> {
                    let framed = encode(encoder, settings.level, step?);
                    Ok(framed.map_err(|source| BackupError::Frame { disk: name.clone(), source })?)
                },
            );
            for step in steps {
                cancel.check().map_err(BackupError::from)?;
                match step? {
                    Step::Blocks(frame) => {
                        progress.bytes_changed += u64::from(frame.plain_len);
                        settings.limits.before_write(&frame.body, cancel)?;
                        writer.frame(&frame).map_err(BackupError::Store)?;
                    }
                    Step::Patches(frame) => {
                        progress.bytes_changed += frame.patches.len() as u64 * block_size.bytes_u64();
                        settings.limits.before_write(&frame.body, cancel)?;
                        writer.patches(&frame).map_err(BackupError::Store)?;
                    }
                    Step::Adopted(blocks) => {
                        let bytes = blocks.len() as u64 * block_size.bytes_u64();
                        progress.bytes_changed += bytes;
                        progress.bytes_adopted += bytes;
                        for (block, hash, at) in blocks {
                            writer.adopt(block, at, hash).map_err(BackupError::Store)?;
                        }
                    }
                    Step::Zero(run) => {
                        writer.zero(run).map_err(BackupError::Store)?;
                        observer.event(Event::Zeroed { disk: name, run });
                    }
                    Step::Reached { block, settled, scanned } => {
                        writer.settled(settled).map_err(BackupError::Store)?;
                        progress.bytes_read += scanned.bytes_read;
                        whole_unknown += scanned.whole_unknown;
                        let position = ByteLen(block.0.saturating_mul(block_size.bytes_u64()).min(size.0));
                        let Progressed { bytes_read, bytes_changed, bytes_adopted } = progress;
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
        cancel.check().map_err(BackupError::from)?;
        let written = writer.finish(size).map_err(BackupError::Store)?;
        observer.event(Event::DiskDone { disk: name });
        Ok(Walked { written, change, bytes_read: progress.bytes_read, whole_unknown })
    }
}

/// What a disk is walked against.
struct Against<'a, 's> {
    base: Option<&'a BaseDisk<'s>>,
    block_size: BlockSize,
    change: DiskChange,
    hasher: &'a PageHasher,
}

/// How far a walk is, in bytes.
#[derive(Clone, Copy, Default)]
struct Progressed {
    bytes_read: u64,
    bytes_changed: u64,
    bytes_adopted: u64,
}

pub(crate) fn compare(from: ByteLen, to: ByteLen) -> DiskChange {
    match from.cmp(&to) {
        std::cmp::Ordering::Less => DiskChange::Grew { from },
        std::cmp::Ordering::Equal => DiskChange::SameSize,
        std::cmp::Ordering::Greater => DiskChange::Shrank { from },
    }
}

pub(crate) fn segment_error(disk: &DiskName, error: SegmentError<VaultError>) -> BackupError {
    match error {
        SegmentError::Disk(source) => BackupError::Read { disk: disk.clone(), source },
        SegmentError::Before(source) => BackupError::Store(source),
        other => BackupError::Settings(other.to_string()),
    }
}
