//! The whole walk: every disk, then the commit.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use vmkeep_disk::{BlockRead, DiskError, file_system_use, used_bytes};
use vmkeep_envelope::guest::{CapturedKeys, capture};
use vmkeep_model::{
    ByteLen, CancelToken, ChangeProvenance, DiskDescription, DiskName, DiskRole, Permit, RecoveryPoint,
    Tracking, UsedBytes, VmDescription, op,
};
use vmkeep_vault::{
    Adopted, CONFIG_MAX, Draft, DraftDisk, OpenSession, Patched, Session, StoredBytes, Vault,
};

use crate::disk::{DiskWalk, Walked};
use crate::limited::unread;
use crate::observer::{DiskChange, Event, Observer};
use crate::plan::{Changes, Shares};
use crate::{BackupError, Plan, Settings, Source, SourceDisk, SourceGuard, resume};

/// Footers read at the same time: the store's answers are waited for, not the processor.
const FOOTERS_AT_ONCE: usize = 8;

/// What a backup did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The point, visible now.
    pub point: RecoveryPoint,
    /// Every disk, in the order of the plan.
    pub disks: Vec<DiskReport>,
    /// Disks of the point before that this one does not have.
    pub vanished: Vec<String>,
    /// Bytes read from the disks.
    pub bytes_read: u64,
    /// Bytes in the blocks whose content is new.
    pub bytes_changed: u64,
    /// Of these, bytes in blocks that an interrupted backup had stored already.
    pub bytes_adopted: u64,
    /// The interrupted backup that it went on from.
    pub resumed: Option<OpenSession>,
    /// Bytes written to the vault.
    pub stored: StoredBytes,
    /// How long it took, in milliseconds, by the vault's clock.
    pub duration_ms: u64,
}

/// What a backup did with one disk.
#[derive(Clone, Debug)]
pub struct DiskReport {
    /// Which disk.
    pub description: DiskDescription,
    /// Its size.
    pub size: ByteLen,
    /// How it differs from the point before; `None` when it is only described.
    pub change: Option<DiskChange>,
    /// Bytes read of it.
    pub bytes_read: u64,
    /// Bytes in its blocks whose content is new.
    pub bytes_changed: u64,
    /// Of these, bytes in blocks that an interrupted backup had stored already.
    pub bytes_adopted: u64,
    /// Of its changed blocks, those of which only pages were stored.
    pub patched: Patched,
    /// Of its changed blocks, those stored as a whole because it was not known which pages changed.
    pub whole_unknown: u64,
    /// What its changes rest on when change tracking was believed.
    pub tracking: Option<Tracking>,
    /// Why change tracking was there and was not believed.
    pub fallback: Option<String>,
    /// Bytes in its blocks that became zero.
    pub bytes_zeroed: u64,
    /// Bytes written to the vault for it.
    pub stored: StoredBytes,
}

/// Backs up the VM of `plan` into `vault` and returns its new recovery point.
///
/// Blocks until the point is durable and visible. The walk may run on any thread; within a tokio program call it
/// through `spawn_blocking`. `permit` must cover the VM. On any error nothing is visible, earlier points are intact, and it can be run again.
pub fn run(
    permit: &Permit<op::Backup>,
    vault: &Vault,
    plan: &Plan<'_>,
    settings: &Settings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<Report, BackupError> {
    check(plan)?;
    let shares = settings.shares(plan.disks.len())?;
    cancel.check()?;
    let began = vault.clock().now();
    let keys = captured(plan)?;
    let (session, resumed) = resume::begin(permit, vault, &plan.vm, settings.resume, observer)?;
    observer.event(Event::Began { vm: &plan.vm, target: session.target(), base: session.base() });
    if let Some((_, error)) = session.unreadable_base() {
        observer.event(Event::BaseUnreadable { disk: None, error });
    }
    if let (Some(adopted), Some(from)) = (session.adopted(), &resumed) {
        read_footers(adopted, settings, cancel)?;
        let (packs, skipped) = (adopted.packs(), adopted.skipped());
        observer.event(Event::Inherited { from: from.id, packs, skipped });
    }
    let vanished = vanished(plan, &session);
    for disk in &vanished {
        observer.event(Event::Vanished { disk });
    }

    let walked = walk_disks(plan, &session, vault.is_near(), settings, &shares, observer, cancel)?;
    cancel.check()?;
    let elapsed = u64::try_from(vault.clock().now().0.saturating_sub(began.0)).unwrap_or(0);
    finish(plan, session, walked, keys, vanished, resumed, elapsed)
}

pub(crate) fn check(plan: &Plan<'_>) -> Result<(), BackupError> {
    VmDescription::new(plan.vm.clone(), plan.disks.iter().map(|disk| disk.description.clone()).collect())?;
    if plan.config.as_ref().is_some_and(|config| config.len() > CONFIG_MAX) {
        let what = format!("the VM configuration is longer than {CONFIG_MAX} bytes");
        return Err(BackupError::Settings(what));
    }
    for disk in &plan.disks {
        let temporary = disk.description.role == DiskRole::Temporary;
        if temporary != matches!(disk.source, Source::Describe(_)) {
            let name = &disk.description.name;
            let what = if temporary {
                "a temporary disk is described, not read"
            } else {
                "its content must be read"
            };
            return Err(BackupError::Settings(format!("disk {name}: {what}")));
        }
    }
    for (at, keys) in plan.keys.iter().enumerate() {
        let stored = |disk: &SourceDisk<'_>| {
            disk.description.name == *keys.disk && !matches!(disk.source, Source::Describe(_))
        };
        let wrong = if !plan.disks.iter().any(stored) {
            "its keys are given, and it is no disk that is stored"
        } else if plan.keys[..at].iter().any(|before| before.disk == keys.disk) {
            "its keys are given twice"
        } else {
            continue;
        };
        return Err(BackupError::Settings(format!("disk {}: {wrong}", keys.disk)));
    }
    Ok(())
}

/// The keys of encrypted disks as their stores hold them now: before anything is stored, for without them the point would
/// be of no use.
fn captured(plan: &Plan<'_>) -> Result<Option<CapturedKeys>, BackupError> {
    let captured = plan.keys.iter().map(|keys| capture(&keys.stores, keys.disk, keys.encryption));
    let disks = captured.collect::<Result<Vec<_>, _>>().map_err(|e| BackupError::GuestKeys(Box::new(e)))?;
    Ok((!disks.is_empty()).then_some(CapturedKeys { disks }))
}

fn vanished(plan: &Plan<'_>, session: &Session) -> Vec<String> {
    let planned = |name: &String| plan.disks.iter().any(|disk| disk.description.name.as_str() == name);
    session.base_disks().into_iter().filter(|name| !planned(name)).collect()
}

/// Reads the footers of inherited packs, several at a time: there is one for every few MiB of an interrupted backup.
fn read_footers(adopted: &Adopted, settings: &Settings, cancel: &CancelToken) -> Result<(), BackupError> {
    let read = || -> Result<(), BackupError> {
        while adopted.read_footer().map_err(BackupError::Store)? {
            cancel.check()?;
        }
        Ok(())
    };
    if settings.workers == 1 {
        return read();
    }
    thread::scope(|scope| {
        let readers: Vec<_> = (0..FOOTERS_AT_ONCE).map(|_| scope.spawn(read)).collect();
        // A panic goes on where it was joined.
        let ends = readers.into_iter().map(|reader| reader.join().unwrap_or_else(|e| resume_unwind(e)));
        ends.fold(Ok(()), Result::and)
    })
}

/// Walks every disk that is read, several at a time, by index in the plan. The first error stops the others.
fn walk_disks(
    plan: &Plan<'_>,
    session: &Session,
    is_near: bool,
    settings: &Settings,
    shares: &Shares,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<BTreeMap<usize, Walked>, BackupError> {
    let mut read: Vec<(usize, &DiskName, &dyn BlockRead, Option<Changes<'_>>)> = plan
        .disks
        .iter()
        .enumerate()
        .filter_map(|(index, disk)| match disk.source {
            Source::Read(source) => Some((index, &disk.description.name, source, None)),
            Source::Tracked(source, changes) => Some((index, &disk.description.name, source, Some(changes))),
            Source::Describe(_) => None,
        })
        .collect();
    // What is small is soon done, and does not wait for what is not.
    read.sort_by_key(|(_, _, source, _)| source.len());
    let (next, results) = (AtomicUsize::new(0), Mutex::new((BTreeMap::new(), None)));
    let work = || {
        while let Some(&(index, name, source, changes)) = read.get(next.fetch_add(1, Ordering::Relaxed)) {
            let limited = settings.limits.reading(source, cancel);
            let disk = &limited;
            let walk = DiskWalk { session, name, disk, changes, settings, shares, is_near, observer, cancel };
            // Asked first: a disk that fails or shrinks later than that is found out by the walk.
            let used = used(disk).map_err(unread(name));
            let walked = used.and_then(|used| {
                let mut walked = walk.run()?;
                walked.written.used = used;
                Ok(walked)
            });
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            match walked {
                Ok(walked) => drop(results.0.insert(index, walked)),
                Err(e) => {
                    // The first error is the one to report; the others would only follow from stopping.
                    results.1.get_or_insert(e);
                    next.store(read.len(), Ordering::Relaxed);
                }
            }
        }
    };
    if shares.disks == 1 {
        work();
    } else {
        thread::scope(|scope| (0..shares.disks.min(read.len())).for_each(|_| drop(scope.spawn(work))));
    }
    match results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        (_, Some(error)) => Err(error),
        (walked, None) => Ok(walked),
    }
}

/// What the file systems of a disk say they use. A disk that cannot be read is told of here as anywhere.
fn used(disk: &dyn BlockRead) -> Result<Option<UsedBytes>, DiskError> {
    let found = file_system_use(disk)?;
    Ok(found.map(|found| UsedBytes { bytes: used_bytes(&found), method: "superblocks".to_owned() }))
}

fn finish(
    plan: &Plan<'_>,
    mut session: Session,
    mut walked: BTreeMap<usize, Walked>,
    keys: Option<CapturedKeys>,
    vanished: Vec<String>,
    resumed: Option<OpenSession>,
    duration_ms: u64,
) -> Result<Report, BackupError> {
    let (mut disks, mut drafts) = (Vec::new(), Vec::new());
    let mut evidence = plan.evidence.clone();
    if let Some((number, _)) = session.unreadable_base() {
        evidence.push(format!("point {number} before it could not be read; all disks were stored again"));
    }
    for (index, disk) in plan.disks.iter().enumerate() {
        let (description, size) = (disk.description.clone(), disk.source.size());
        let mut report = DiskReport {
            description: description.clone(),
            size,
            change: None,
            bytes_read: 0,
            bytes_changed: 0,
            bytes_adopted: 0,
            patched: Patched::default(),
            whole_unknown: 0,
            tracking: None,
            fallback: None,
            bytes_zeroed: 0,
            stored: StoredBytes::default(),
        };
        drafts.push(match walked.remove(&index) {
            None => DraftDisk::Described { description, size },
            Some(Walked { written, change, bytes_read, whole_unknown }) => {
                report.whole_unknown = whole_unknown;
                report.patched = written.patched;
                report.change = Some(change);
                report.bytes_read = bytes_read;
                report.bytes_changed = written.changed().0;
                report.bytes_adopted = written.adopted().0;
                report.bytes_zeroed = written.zeroed().0;
                report.stored = written.stored;
                let first = matches!(change, DiskChange::Appeared | DiskChange::Anew);
                if change == DiskChange::Anew {
                    let name = &description.name;
                    evidence.push(format!(
                        "disk {name}: what it was could not be read; all of it was stored again"
                    ));
                }
                let provenance = match (first, written.tracking) {
                    (true, _) => ChangeProvenance::Full,
                    (false, None) => ChangeProvenance::Scan,
                    (false, Some(_)) => ChangeProvenance::Tracked,
                };
                report.tracking = written.tracking;
                report.fallback.clone_from(&written.fallback);
                if let Some(why) = &written.fallback {
                    let name = &description.name;
                    evidence.push(format!("disk {name}: all of it was scanned: {why}"));
                }
                DraftDisk::Stored { description, written, provenance }
            }
        });
        disks.push(report);
    }
    let bytes_read = disks.iter().map(|disk| disk.bytes_read).sum();
    let bytes_changed = disks.iter().map(|disk| disk.bytes_changed).sum();
    let bytes_adopted = disks.iter().map(|disk| disk.bytes_adopted).sum();
    let draft = Draft {
        disks: drafts,
        consistency: plan.consistency,
        evidence,
        config: plan.config.clone(),
        keys,
        bytes_read,
        duration_ms,
    };
    session.set_labels(plan.labels.clone());
    if let Some(evidence) = &plan.snapshot {
        session.set_snapshot_evidence(evidence.clone());
    }
    plan.guard.map_or(Ok(()), SourceGuard::check).map_err(BackupError::Source)?;
    let committed = session.commit(draft).map_err(BackupError::Commit)?;
    Ok(Report {
        point: committed.point,
        disks,
        vanished,
        bytes_read,
        bytes_changed,
        bytes_adopted,
        resumed,
        stored: committed.stored,
        duration_ms,
    })
}
