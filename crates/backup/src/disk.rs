//! One disk on its way into the vault.

use std::thread;

use vmkeep_blockdiff::{
    ChangeSource, ChangeSourceError, FingerprintFile, Fingerprints, NoFingerprints, PageDiff, PageHasher,
    ScanBuffer, Scanned, SegmentError, SegmentSize, Segments, scan_pages,
};
use vmkeep_disk::BlockRead;
use vmkeep_model::{BlockIndex, BlockSize, ByteLen, CancelToken, DiskName, PointNumber};
use vmkeep_vault::{BaseDisk, Session, VaultError, WrittenDisk};

use crate::base::{Known, Sample, Stored, fingerprints};
use crate::groups::{Adoption, Groups, encode};
use crate::limited::unread;
use crate::observer::{DiskChange, Event, Observer};
use crate::ordered::ordered;
use crate::plan::{Changes, Shares};
use crate::storing::Storing;
use crate::tracking::{AuditEnd, Auditor, Missed, judge};
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
    /// Change tracking missed a change of this block.
    Missed(BlockIndex),
    /// Change tracking could not say what changed.
    Untold(ChangeSourceError),
}

impl From<BackupError> for Stop {
    fn from(error: BackupError) -> Self {
        Self::Failed(error)
    }
}

impl From<AuditEnd> for Stop {
    fn from(end: AuditEnd) -> Self {
        match end {
            AuditEnd::Missed(Missed { block }) => Self::Missed(block),
            AuditEnd::Unknown(error) => Self::Untold(error),
            AuditEnd::Failed(error) => Self::Failed(error),
        }
    }
}

/// One disk to walk, and what the walk needs.
pub(crate) struct DiskWalk<'a> {
    pub(crate) session: &'a Session,
    pub(crate) name: &'a DiskName,
    pub(crate) disk: &'a dyn BlockRead,
    pub(crate) changes: Option<Changes<'a>>,
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
        let mut against = Against { base: base.as_ref(), block_size, change, hasher: &hasher, changes: None };
        let mut fallback = None;
        let before = base.as_ref().and_then(|base| Some((session.base()?, base.size)));
        match judge(self.changes.filter(|_| !settings.full_scan), before, size) {
            // What is lost is stored again, whether or not it changed.
            Ok(_) if base.as_ref().is_some_and(BaseDisk::has_damage) => {
                fallback = Some("blocks of the point before are damaged in the vault".to_owned());
            }
            Ok(changes) => against.changes = Some(changes),
            Err(why) => fallback = why,
        }
        let mut known: &dyn Fingerprints = kept.as_ref().map_or(&NoFingerprints, |kept| kept);
        // Whatever proves wrong is not asked again, so this ends. What was stored until then is left behind.
        let walked = loop {
            match self.walk(&against, known) {
                Ok(walked) => break Ok(walked),
                Err(Stop::Failed(error)) => break Err(error),
                Err(Stop::Distrusted(block)) => {
                    observer.event(Event::FingerprintsWrong { disk: name, block });
                    if let Some(kept) = &kept {
                        kept.forget();
                    }
                    known = &NoFingerprints;
                }
                Err(Stop::Missed(block)) => {
                    against.changes = None;
                    fallback = Some(format!("change tracking missed a change of block {block}"));
                    let suspect = self.mark_suspect(block)?;
                    observer.event(Event::TrackingMissed { disk: name, block, suspect });
                }
                Err(Stop::Untold(error)) => {
                    against.changes = None;
                    fallback = Some(chain(&error));
                }
            }
        };
        if let Some(error) = kept.as_ref().and_then(FingerprintFile::take_error) {
            observer.event(Event::FingerprintsUnusable { disk: name, error: &error });
        }
        let mut walked = walked?;
        if let Some(why) = &fallback {
            observer.event(Event::ScannedInstead { disk: name, why });
        }
        walked.written.fallback = fallback;
        Ok(walked)
    }

    /// Marks the points that rest on change tracking alone.
    fn mark_suspect(&self, block: BlockIndex) -> Result<Option<(PointNumber, PointNumber)>, BackupError> {
        let before = self.session.base_tracking(self.name).map_err(BackupError::Store)?;
        let Some((whole_at, _)) = before else { return Ok(None) };
        let first = PointNumber(whole_at.0 + 1);
        self.session.mark_suspect(self.name, first, block).map_err(BackupError::Store)
    }

    /// Stores what changed on the disk, and where `known` tells so, no more than the pages that changed.
    fn walk(&self, against: &Against<'_, '_>, known: &dyn Fingerprints) -> Result<Walked, Stop> {
        let Self { session, name, disk, settings, shares, observer, cancel, .. } = *self;
        let Against { base, block_size, change, hasher, changes } = *against;
        let identity = session.identity().map_err(BackupError::Store)?;
        let hash = |block: &[u8]| identity.block_hash(block);
        let (mut tracking, mut bytes_audited) = (None, ByteLen(0));
        if let (Some(changes), Some(base)) = (changes, base) {
            let auditor = Auditor { session, name, disk, block_size, hasher: &hash, cancel };
            let (found, bytes) = auditor.audit(changes, base, &settings.audit)?;
            (tracking, bytes_audited) = (Some(found), bytes);
        }
        let writer = match base {
            Some(_) => session.disk_writer(name, block_size, shares.pack_bytes),
            None => session.disk_writer_anew(name, block_size, shares.pack_bytes),
        }
        .map_err(BackupError::Store)?;
        let segments =
            Segments::against(disk, block_size, SegmentSize(shares.segment_bytes), Known::new(base));
        let segments = match changes {
            Some(changes) => segments.among(changes),
            None => segments,
        };
        let is_readable = !session.is_write_only();
        let stored = match base.filter(|_| is_readable) {
            Some(_) => Stored(session.base_reader(name).map_err(BackupError::Store)?),
            None => Stored(None),
        };
        let sample = Sample::new(session);
        let is_checked = |block| is_readable && sample.takes(block);
        let fetch_unknown = is_readable
            && match settings.pages.compare {
                Compare::WhenNear => self.is_near,
                Compare::Always => true,
                Compare::Never => false,
            };
        let pages = PageDiff {
            hasher,
            known,
            previous: &stored,
            fetch_unknown,
            tracked: changes,
            is_checked: &is_checked,
        };
        let pages =
            Some(pages).filter(|_| fetch_unknown || changes.is_some() || settings.pages.folder.is_some());

        let mut storing = Storing::new(writer, block_size, bytes_audited);
        thread::scope(|scope| -> Result<(), Stop> {
            // More threads than there may be things on their way would only hold buffers.
            let (scanners, framers) =
                (settings.workers.min(shares.segments), settings.workers.min(shares.frames));
            let scanned = ordered(scope, scanners, shares.segments, segments, ScanBuffer::default, {
                let pages = pages.as_ref();
                move |buffer, segment| -> Result<(Scanned, BlockIndex), Stop> {
                    cancel.check().map_err(BackupError::from)?;
                    let segment = segment.map_err(|e| segment_stop(name, e))?;
                    let scanned = scan_pages(disk, &segment, &hash, pages, buffer).map_err(unread(name))?;
                    match (scanned.missed, scanned.distrusted) {
                        (Some(block), _) => Err(Stop::Missed(block)),
                        (None, Some(block)) => Err(Stop::Distrusted(block)),
                        (None, None) => Ok((scanned, segment.run.end())),
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
                storing.take(step?, self)?;
            }
            Ok(())
        })?;
        cancel.check().map_err(BackupError::from)?;
        let Storing { writer, bytes_read, whole_unknown, .. } = storing;
        let mut written = writer.finish(disk.len()).map_err(BackupError::Store)?;
        written.tracking = tracking;
        observer.event(Event::DiskDone { disk: name });
        Ok(Walked { written, change, bytes_read, whole_unknown })
    }
}

/// What a disk is walked against.
struct Against<'a, 's> {
    base: Option<&'a BaseDisk<'s>>,
    block_size: BlockSize,
    change: DiskChange,
    hasher: &'a PageHasher,
    /// Where it changed, when that is known and believed.
    changes: Option<&'a dyn ChangeSource>,
}

pub(crate) fn compare(from: ByteLen, to: ByteLen) -> DiskChange {
    match from.cmp(&to) {
        std::cmp::Ordering::Less => DiskChange::Grew { from },
        std::cmp::Ordering::Equal => DiskChange::SameSize,
        std::cmp::Ordering::Greater => DiskChange::Shrank { from },
    }
}

pub(crate) fn segment_stop(disk: &DiskName, error: SegmentError<VaultError>) -> Stop {
    Stop::Failed(match error {
        SegmentError::Disk(source) => BackupError::Read { disk: disk.clone(), source },
        SegmentError::Before(source) => BackupError::Store(source),
        SegmentError::Changes(error) => return Stop::Untold(error),
        other => BackupError::Settings(other.to_string()),
    })
}

/// An error with its causes, as one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
