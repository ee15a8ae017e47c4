//! Looking for damage: a point or a whole vault, by structure, by the tag of every slot or by every byte.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use vmkeep_model::{
    BlockIndex, BlockRun, ByteLen, CancelToken, Cancelled, DiskName, Extent, LineageId, Permit, PointNumber,
    PointRef, Timestamp, op,
};
use vmkeep_vault::map::Entry;
use vmkeep_vault::{
    Accounting, AuditDepth, Checked, Coverage, Damage, DestroyedKeys, DiskReader, Found, OpenPoint,
    PackDepth, Vault, VaultError,
};

use crate::{Event, Observer, RestoreError, Settings};

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Depth {
    /// Records, footers and maps, and that every block lies where its map says. No data is read, and no data key is needed.
    Structure,
    /// All of the above, and the authentication tag of every slot that a block lies in: what is stored is what was sealed.
    /// Nothing is unpacked. What was wrong before it was sealed shows in the next depth alone.
    Sealed,
    /// Every byte: all of the above, and each block by its hash.
    Data,
}

/// A part of a disk that a point has lost.
#[derive(Clone, Debug)]
pub struct DamagedBlock {
    /// The point it was found in. Later points that share the block have lost it too.
    pub point: PointRef,
    /// Which disk.
    pub disk: DiskName,
    /// Which bytes of it.
    pub extent: Extent,
    /// Why; it names the object.
    pub error: Arc<VaultError>,
}

/// What a verification saw.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Points looked at.
    pub points: u64,
    /// Blocks checked, each once although many points may share it.
    pub blocks: u64,
    /// Bytes in them.
    pub bytes: ByteLen,
    /// Damaged or missing objects, and such as do not belong.
    pub objects: Vec<Damage>,
    /// What of the disks is lost.
    pub damaged: Vec<DamagedBlock>,
    /// What every object is there for; only for a whole vault.
    pub accounting: Option<Accounting>,
    /// Keys that were destroyed on purpose, and the points that cannot be restored for it; only for a whole vault. It is no
    /// damage.
    pub destroyed: Vec<DestroyedKeys>,
    /// Blocks that cannot be read because their key was destroyed: they are where they should be, and counted in `blocks`.
    pub destroyed_blocks: u64,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.objects.is_empty() && self.damaged.is_empty()
    }
}

/// Looks at one point and touches no object of another VM.
///
/// Fails with [`VaultError::PointSwept`] when a sweep took the point meanwhile: pin one that may be forgotten.
pub fn verify_point(
    permit: &Permit<op::Verify>,
    point: &OpenPoint,
    depth: Depth,
    settings: &Settings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<VerifyReport, RestoreError> {
    let (point, mut report) = (&point.uncached(), VerifyReport::default());
    let looking = Looking { permit, depth, settings, observer, cancel };
    looking.check_point(&mut report, point, PointNumber(0))?;
    match point.swept() {
        Some(swept) if !report.is_clean() => Err(RestoreError::Open(swept)),
        _ => Ok(report),
    }
}

/// Looks at everything in the vault and accounts for every object. Blocks that points share are read once.
///
/// A point that a sweep takes meanwhile is left out of the report.
pub fn verify_vault(
    permit: &Permit<op::Verify>,
    vault: &Vault,
    depth: Depth,
    settings: &Settings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<VerifyReport, RestoreError> {
    let (vault, mut report) = (vault.uncached(), VerifyReport::default());
    let audit_depth = match depth {
        Depth::Structure => AuditDepth::Structure,
        Depth::Sealed | Depth::Data => AuditDepth::Metadata,
    };
    let audit = vault
        .audit(permit, audit_depth, cancel, &mut |damage| report.objects.push(damage))
        .map_err(cancelled)?;
    report.accounting = Some(audit.accounting);
    report.destroyed = audit.destroyed;
    let looking = Looking { permit, depth, settings, observer, cancel };
    // What a point inherits from the one looked at before, that one had looked at for it.
    let mut before: Option<(LineageId, PointNumber)> = None;
    for point in &audit.points {
        let id = point.point().id;
        let since =
            before.filter(|(lineage, _)| *lineage == id.lineage).map_or(PointNumber(0), |(_, number)| number);
        let mut found = VerifyReport::default();
        let checked = looking.check_point(&mut found, point, since);
        let in_doubt = match &checked {
            Ok(()) => !found.is_clean(),
            Err(e) => e.is_damage() || e.is_swept(),
        };
        // Damage of a point that is gone is none, and the next one is compared with the one before.
        if in_doubt && point.swept().is_some() {
            continue;
        }
        checked?;
        report.points += found.points;
        report.blocks += found.blocks;
        report.bytes.0 += found.bytes.0;
        report.destroyed_blocks += found.destroyed_blocks;
        report.damaged.append(&mut found.damaged);
        before = Some((id.lineage, id.number));
    }
    Ok(report)
}

/// Remembers in the journal of the vault that [`verify_vault`] looked at all of it from `began` on, and what it found
/// ([`Vault::verified`] says it). The time is that of the vault's clock when the verification began.
///
/// Nothing is remembered of a look at the structure alone: it reads no data. Then `None` is returned.
///
/// # Errors
/// When the permit is not for the whole vault, or the journal cannot be written.
pub fn note_verified(
    permit: &Permit<op::Verify>,
    vault: &Vault,
    depth: Depth,
    began: Timestamp,
    report: &VerifyReport,
) -> Result<Option<Coverage>, VaultError> {
    let depth = match depth {
        Depth::Structure => return Ok(None),
        Depth::Sealed => PackDepth::Sealed,
        Depth::Data => PackDepth::Blocks,
    };
    let mut checked = Checked::nothing(depth, began);
    checked.ended = vault.clock().now();
    if let Some(accounting) = &report.accounting {
        (checked.objects, checked.bytes) = (accounting.live.objects, accounting.live.bytes);
    }
    let of_disks = report.damaged.iter().filter_map(|block| block.error.object());
    let damaged: BTreeSet<&str> =
        report.objects.iter().map(|damage| damage.object.as_str()).chain(of_disks).collect();
    for object in damaged {
        checked.add_damaged(object);
    }
    if checked.damaged == 0 && !report.is_clean() {
        checked.add_damaged("a map");
    }
    vault.note_verified(permit, checked).map(Some)
}

fn cancelled(error: VaultError) -> RestoreError {
    if error.is_cancelled() { Cancelled.into() } else { RestoreError::Open(error) }
}

/// How points are looked at.
struct Looking<'a> {
    permit: &'a Permit<op::Verify>,
    depth: Depth,
    settings: &'a Settings,
    observer: &'a dyn Observer,
    cancel: &'a CancelToken,
}

impl Looking<'_> {
    fn check_point(
        &self,
        report: &mut VerifyReport,
        point: &OpenPoint,
        since: PointNumber,
    ) -> Result<(), RestoreError> {
        report.points += 1;
        for name in point.stored_disks() {
            let disk = point.disk(self.permit, name)?;
            let stored = ByteLen(disk.stored_blocks() * disk.block_size().bytes_u64());
            self.observer.event(Event::DiskBegan { disk: name, size: disk.size(), stored });
            let check = DiskCheck {
                point: point.reference(),
                disk: &disk,
                depth: self.depth,
                observer: self.observer,
                cancel: self.cancel,
                blocks: AtomicU64::new(0),
                destroyed: AtomicU64::new(0),
                damaged: Mutex::default(),
                failed: Mutex::default(),
            };
            check.run(since, self.settings)?;
            let blocks = check.blocks.into_inner();
            report.blocks += blocks;
            report.destroyed_blocks += check.destroyed.into_inner();
            report.bytes.0 += blocks * disk.block_size().bytes_u64();
            let mut damaged = check.damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
            damaged.sort_by_key(|block| block.extent);
            report.damaged.append(&mut damaged);
            self.observer.event(Event::DiskDone { disk: name });
        }
        Ok(())
    }
}

struct DiskCheck<'a> {
    point: PointRef,
    disk: &'a DiskReader,
    depth: Depth,
    observer: &'a dyn Observer,
    cancel: &'a CancelToken,
    blocks: AtomicU64,
    destroyed: AtomicU64,
    damaged: Mutex<Vec<DamagedBlock>>,
    failed: Mutex<Option<RestoreError>>,
}

type Window = Vec<(BlockIndex, Entry)>;

impl DiskCheck<'_> {
    /// Walks the map on this thread and checks windows of blocks on others. The first failure is returned.
    fn run(&self, since: PointNumber, settings: &Settings) -> Result<(), RestoreError> {
        let walked = if settings.workers <= 1 {
            self.walk(since, settings, &mut |window| self.check_or_stop(&window))
        } else {
            self.run_on_threads(since, settings)
        };
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => walked.map_err(|source| self.error(Arc::new(source))),
        }
    }

    fn run_on_threads(&self, since: PointNumber, settings: &Settings) -> Result<(), VaultError> {
        let (sender, receiver) = sync_channel::<Window>(1);
        // Shared by the workers alone: when they are gone, sending fails and does not wait.
        let receiver = Arc::new(Mutex::new(receiver));
        thread::scope(|scope| {
            for _ in 0..settings.workers {
                let receiver = Arc::clone(&receiver);
                scope.spawn(move || {
                    loop {
                        let window = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(window) = window else { return };
                        if self.check_or_stop(&window).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(receiver);
            // The workers end when the sender is dropped with this closure.
            let sender = sender;
            self.walk(since, settings, &mut |window| sender.send(window).map_err(|_| Cancelled.into()))
        })
    }

    /// Checks a window; a failure is kept and stops the walk.
    fn check_or_stop(&self, window: &[(BlockIndex, Entry)]) -> Result<(), VaultError> {
        self.check(window).map_err(|error| {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            Cancelled.into()
        })
    }

    fn walk(
        &self,
        since: PointNumber,
        settings: &Settings,
        give: &mut dyn FnMut(Window) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        let full = settings.window_blocks(self.disk.block_size());
        let mut window = Vec::new();
        self.disk.walk_since(since, &mut |found| {
            match found {
                Found::Unreadable(run, error) => self.lost(run, &Arc::new(error)),
                Found::Block(block, entry) => {
                    window.push((block, entry.clone()));
                    if window.len() >= full {
                        self.cancel.check()?;
                        give(std::mem::take(&mut window))?;
                    }
                }
            }
            Ok(())
        })?;
        if window.is_empty() { Ok(()) } else { give(window) }
    }

    fn check(&self, window: &[(BlockIndex, Entry)]) -> Result<(), RestoreError> {
        self.cancel.check()?;
        let mut good = Vec::with_capacity(window.len());
        for (block, entry) in window {
            match self.disk.check_entry(*block, entry) {
                Ok(()) => good.push((*block, entry.clone())),
                Err(e) if e.is_destroyed() => drop(self.destroyed.fetch_add(1, Ordering::Relaxed)),
                Err(e) if e.is_of_one_object() => self.lost(BlockRun { start: *block, len: 1 }, &Arc::new(e)),
                Err(e) => return Err(self.error(Arc::new(e))),
            }
        }
        match self.depth {
            Depth::Structure => {}
            Depth::Sealed => self.read(|told| self.disk.open_slots(&good, &mut |block, e| told(block, e)))?,
            Depth::Data => self.read(|told| {
                self.disk.fetch(&good, &mut |block, bytes| match bytes {
                    Ok(_) => Ok(self.cancel.check()?),
                    Err(e) => told(block, e),
                })
            })?,
        }
        let blocks = window.len() as u64;
        self.blocks.fetch_add(blocks, Ordering::Relaxed);
        let bytes = ByteLen(blocks * self.disk.block_size().bytes_u64());
        self.observer.event(Event::Progress { disk: self.disk.name(), bytes });
        Ok(())
    }

    /// Runs a read that tells of each block that cannot be had.
    fn read(
        &self,
        read: impl FnOnce(
            &mut dyn FnMut(BlockIndex, Arc<VaultError>) -> Result<(), VaultError>,
        ) -> Result<(), VaultError>,
    ) -> Result<(), RestoreError> {
        let mut failed = None;
        read(&mut |block, error| {
            // Destroyed since its place was looked at.
            if error.is_destroyed() {
                self.destroyed.fetch_add(1, Ordering::Relaxed);
            } else if error.is_of_one_object() {
                self.lost(BlockRun { start: block, len: 1 }, &error);
            } else {
                failed = Some(error);
            }
            Ok(self.cancel.check()?)
        })
        .map_err(|source| self.error(Arc::new(source)))?;
        failed.map_or(Ok(()), |source| Err(self.error(source)))
    }

    fn lost(&self, run: BlockRun, error: &Arc<VaultError>) {
        let extent = self.disk.block_size().extent_of(run, self.disk.size());
        let (point, disk) = (self.point.clone(), self.disk.name().clone());
        let block = DamagedBlock { point, disk, extent, error: Arc::clone(error) };
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }

    fn error(&self, source: Arc<VaultError>) -> RestoreError {
        if source.is_cancelled() {
            return Cancelled.into();
        }
        RestoreError::of_disk(self.disk, source)
    }
}
