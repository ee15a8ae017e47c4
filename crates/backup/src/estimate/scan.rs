//! Looking at one disk as a backup does.

use std::thread;

use vmkeep_blockdiff::{
    Fingerprints, NoFingerprints, PageDiff, PageHasher, ScanBuffer, Scanned, SegmentSize, Segments,
    scan_pages,
};
use vmkeep_disk::BlockRead;
use vmkeep_model::{
    BlockIndex, BlockSize, ByteLen, CancelToken, ContentHash, DiskName, LineageId, Permit, op,
};
use vmkeep_vault::{DiskReader, OpenPoint, Vault, VaultError};

use super::count::{LookedUp, Runs, Sample};
use super::{ChangeTotals, EstimateSettings, Ratio};
use crate::base::{Known, Stored, kept_fingerprints};
use crate::disk::{Stop, compare, segment_stop};
use crate::groups::{Groups, Step};
use crate::limited::unread;
use crate::observer::{DiskChange, Event, Observer};
use crate::ordered::ordered;
use crate::plan::{Changes, Shares};
use crate::tracking::judge;
use crate::{BackupError, Compare};

/// What was found of a disk.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) changes: ChangeTotals,
    pub(super) change: DiskChange,
    pub(super) block_size: BlockSize,
    /// What a part of the changed data was compressed to.
    pub(super) sample: Option<Ratio>,
}

/// What the scans of all disks share.
pub(super) struct Context<'a> {
    pub(super) permit: &'a Permit<op::Verify>,
    pub(super) vault: &'a Vault,
    pub(super) base: Option<&'a OpenPoint>,
    pub(super) settings: &'a EstimateSettings,
    pub(super) shares: &'a Shares,
    pub(super) observer: &'a dyn Observer,
    pub(super) cancel: &'a CancelToken,
}

/// What a disk was, and who tells which pages of it changed.
struct Was<'a> {
    reader: &'a DiskReader,
    lineage: LineageId,
}

impl Context<'_> {
    /// Reads `disk` and compares it with what it was. Where that is damaged, everything counts as changed, as it does
    /// in a backup.
    pub(super) fn scan(
        &self,
        name: &DiskName,
        disk: &dyn BlockRead,
        known: Option<Changes<'_>>,
    ) -> Result<Scan, BackupError> {
        let limited = self.settings.backup.limits.reading(disk, self.cancel);
        let reader = match self.base {
            Some(base) => match base.disk(self.permit, name) {
                Ok(reader) => Ok(Some((reader, base.point().id.lineage))),
                Err(VaultError::NoSuchDisk { .. }) => Ok(None),
                Err(e) => Err(BackupError::Store(e)),
            },
            None => Ok(None),
        };
        let has_base = !matches!(reader, Ok(None));
        let scanned = reader.and_then(|reader| {
            let was = reader.as_ref().map(|(reader, lineage)| Was { reader, lineage: *lineage });
            self.against(name, &limited, was.as_ref(), DiskChange::Appeared, known)
        });
        match scanned {
            Err(BackupError::Store(error)) if has_base && error.is_damage() => {
                self.observer.event(Event::BaseUnreadable { disk: Some(name), error: &error });
                self.against(name, &limited, None, DiskChange::Anew, None)
            }
            scanned => scanned,
        }
    }

    fn against(
        &self,
        name: &DiskName,
        disk: &dyn BlockRead,
        was: Option<&Was<'_>>,
        without_base: DiskChange,
        changes: Option<Changes<'_>>,
    ) -> Result<Scan, BackupError> {
        let Self { settings, observer, .. } = *self;
        let block_size = was.map_or(settings.backup.block_size, |was| was.reader.block_size());
        let change = was.map_or(without_base, |was| compare(was.reader.size(), disk.len()));
        observer.event(Event::DiskBegan { disk: name, size: disk.len(), change });
        let Some(was) = was else {
            // Nothing to compare with: no hash matters.
            let walked =
                self.walk(name, disk, block_size, Known::of(None), &|_: &[u8]| ContentHash([0; 16]), None);
            let (changes, sample) = walked.map_err(|stop| unforeseen(name, stop))?;
            return Ok(Scan { changes, change, block_size, sample });
        };
        let identity = was.reader.identity().map_err(BackupError::Store)?;
        let hasher = PageHasher::new(identity.page_secret());
        let pages = &settings.backup.pages;
        let kept = kept_fingerprints(pages, was.lineage, name, disk, block_size, &hasher);
        let kept = kept.unwrap_or_else(|error| {
            observer.event(Event::FingerprintsUnusable { disk: name, error: &error });
            None
        });
        let looked_up = kept.as_ref().map(LookedUp);
        let known: &dyn Fingerprints = looked_up.as_ref().map_or(&NoFingerprints, |known| known);
        let stored = Stored(Some(was.reader.clone()));
        let fetch_unknown = match pages.compare {
            Compare::WhenNear => self.vault.is_near(),
            Compare::Always => true,
            Compare::Never => false,
        };
        let is_checked = |_| false;
        let before = self.base.map(|base| (base.point().id.number, was.reader.size()));
        let known_changes = changes.filter(|_| !settings.backup.full_scan);
        let mut tracked = judge(known_changes, before, disk.len()).ok();
        let hash = |block: &[u8]| identity.block_hash(block);
        loop {
            let diff = PageDiff {
                hasher: &hasher,
                known,
                previous: &stored,
                fetch_unknown,
                tracked,
                is_checked: &is_checked,
            };
            let diff = Some(&diff).filter(|_| fetch_unknown || tracked.is_some() || pages.folder.is_some());
            let before = Known::of(Some(was.reader.entries(BlockIndex(0)).map_err(BackupError::Store)?));
            match self.walk(name, disk, block_size, before, &hash, diff) {
                Ok((changes, sample)) => return Ok(Scan { changes, change, block_size, sample }),
                // Then a backup scans the disk, and so does this.
                Err(Stop::Untold(_)) if tracked.is_some() => tracked = None,
                Err(stop) => return Err(unforeseen(name, stop)),
            }
        }
    }

    fn walk(
        &self,
        name: &DiskName,
        disk: &dyn BlockRead,
        block_size: BlockSize,
        before: Known<'_>,
        hash: &(dyn Fn(&[u8]) -> ContentHash + Sync),
        pages: Option<&PageDiff<'_>>,
    ) -> Result<(ChangeTotals, Option<Ratio>), Stop> {
        let Self { settings, shares, observer, cancel, .. } = *self;
        let segments = Segments::against(disk, block_size, SegmentSize(shares.segment_bytes), before);
        let segments = match pages.and_then(|pages| pages.tracked) {
            Some(changes) => segments.among(changes),
            None => segments,
        };
        let workers = settings.backup.workers.min(shares.segments);
        let (mut runs, mut changes) = (Runs::default(), ChangeTotals::default());
        let mut sample = Sample::new(settings);
        thread::scope(|scope| -> Result<(), Stop> {
            let scanned = ordered(scope, workers, shares.segments, segments, ScanBuffer::default, {
                move |buffer, segment| -> Result<(Scanned, BlockIndex), Stop> {
                    cancel.check().map_err(BackupError::from)?;
                    let segment = segment.map_err(|e| segment_stop(name, e))?;
                    let scanned = scan_pages(disk, &segment, &|block: &[u8]| hash(block), pages, buffer);
                    let scanned = scanned.map_err(unread(name))?;
                    Ok((scanned, segment.run.end()))
                }
            });
            let scanned = scanned.inspect(|scanned| {
                if let Ok((scanned, _)) = scanned {
                    scanned.data.iter().for_each(|chunk| runs.add(block_size, chunk));
                }
            });
            for step in Groups::new(scanned, settings.backup.level.frame_bytes(), None) {
                cancel.check().map_err(BackupError::from)?;
                match step? {
                    Step::Blocks(chunks) => {
                        changes.blocks_changed += chunks.len() as u64;
                        changes.bytes_plain += sample.see(name, Step::Blocks(chunks))?;
                    }
                    Step::Patches(chunks) => {
                        let pages = chunks.iter().filter_map(|chunk| chunk.pages.as_ref());
                        changes.patched.pages += pages.map(|pages| u64::from(pages.count())).sum::<u64>();
                        changes.patched.blocks += chunks.len() as u64;
                        changes.blocks_changed += chunks.len() as u64;
                        changes.bytes_plain += sample.see(name, Step::Patches(chunks))?;
                    }
                    Step::Zero(run) => changes.blocks_zeroed += run.len,
                    Step::Adopted(_) => {}
                    Step::Reached { block, scanned, .. } => {
                        changes.bytes_read += scanned.bytes_read;
                        changes.whole_unknown += scanned.whole_unknown;
                        let position = block.0.saturating_mul(block_size.bytes_u64()).min(disk.len().0);
                        observer.event(Event::Progress {
                            disk: name,
                            position: ByteLen(position),
                            bytes_read: changes.bytes_read,
                            bytes_changed: changes.blocks_changed * block_size.bytes_u64(),
                            bytes_adopted: 0,
                        });
                    }
                }
            }
            Ok(())
        })?;
        cancel.check().map_err(BackupError::from)?;
        observer.event(Event::DiskDone { disk: name });
        changes.bytes_changed = changes.blocks_changed * block_size.bytes_u64();
        changes.bytes_zeroed = changes.blocks_zeroed * block_size.bytes_u64();
        changes.runs = runs.end();
        Ok((changes, sample.ratio()))
    }
}

/// An end that does not come up where nothing is checked and nothing is believed.
fn unforeseen(name: &DiskName, stop: Stop) -> BackupError {
    match stop {
        Stop::Failed(error) => error,
        Stop::Distrusted(block) | Stop::Missed(block) => {
            BackupError::Settings(format!("block {block} of disk {name} was checked, and nothing was to be"))
        }
        Stop::Untold(error) => BackupError::Settings(format!("disk {name}: {error}")),
    }
}
