//! A backup of a running QEMU guest: the session, the snapshot and the walk put together.
//!
//! ```text
//! prepare ─ quiesce ─ freeze ─ one transaction ─ thaw ─► pull by NBD ─► commit ─► settle the bitmaps
//!                └── the guest waits only here ──┘       the guest goes on
//! ```
//!
//! The point carries the label [`SNAPSHOT_LABEL`], which says which bitmaps record what changed since: a point that somebody
//! else made in between, or another way, has another label or none, and the disks are scanned.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use vmkeep_backup::{
    BackupError, Changes, DiskKeys, Observer, Plan, Report, Settings, Source, SourceDisk, SourceGuard,
};
use vmkeep_consistency::{
    Decision, Evidence, FreezeEvidence, GuestAgent, MonotonicClock, NotNow, Ports, Refusal, Request,
    ScriptOutcome, Scripts, ScriptsEvidence, Verdict, Watchdog, take,
};
use vmkeep_model::{
    ByteLen, CancelToken, Cancelled, DiskDescription, DiskRole, Labels, Permit, PointNumber, PointRef,
    PointSelector, VmName, op,
};
use vmkeep_nbd::NbdDisk;
use vmkeep_qemu::{
    DiskPlan, Outcome, QemuChanges, QemuError, QemuSnapshotter, Qmp, Snapshot, SnapshotPlan, Tracking,
    TrackingLoss, VmDisk, disks,
};
use vmkeep_vault::{Vault, VaultError};

/// The label of a point whose disks have bitmaps in QEMU, with the number that those carry.
pub const SNAPSHOT_LABEL: &str = "qemu/snapshot";

/// How often a snapshot is looked at that tells nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveDisk {
    /// Which disk it is in the point. A temporary one is described and not stored.
    pub description: DiskDescription,
    /// Its node in QEMU.
    pub node: String,
}

/// A running VM to back up.
#[derive(Debug)]
pub struct LivePlan<'a> {
    /// The VM.
    pub vm: VmName,
    /// Its disks.
    pub disks: Vec<LiveDisk>,
    /// What the snapshot is to be, and how long the guest may wait for it.
    pub request: Request,
    /// Keys of disks that the guest encrypts.
    pub keys: Vec<DiskKeys<'a>>,
    /// What is to be found on the point again.
    pub labels: Labels,
    /// The VM's configuration, opaque.
    pub config: Option<Vec<u8>>,
    /// A folder for what the guest overwrites meanwhile; QEMU reaches it under the same path.
    pub scratch: PathBuf,
    /// So many bytes may that become for each disk. They are reserved before the guest is touched.
    pub scratch_bytes_max: u64,
    /// How often to begin again with a fresh snapshot when it became more. What was stored by then is not stored again.
    pub retries: u32,
}

/// Whom a live backup talks to.
#[derive(Debug)]
pub struct LivePorts<'a> {
    /// QEMU.
    pub qmp: &'a mut Qmp,
    /// The agent in the guest, where there is one.
    pub agent: Option<&'a dyn GuestAgent>,
    /// The owner's scripts.
    pub scripts: &'a mut dyn Scripts,
    /// What undoes when nobody else does.
    pub watchdog: &'a dyn Watchdog,
    /// Measures the frozen time.
    pub clock: &'a dyn MonotonicClock,
}

/// What a live backup did.
#[derive(Debug)]
pub struct LiveReport {
    /// The walk.
    pub backup: Report,
    /// What the point is worth, and why.
    pub verdict: Verdict,
    /// What that rests on.
    pub evidence: Evidence,
    /// Snapshots that were given up before this one.
    pub given_up: u32,
    /// Why the snapshot could not be ended as it should be. The point stands; the next backup puts QEMU right.
    pub unsettled: Option<QemuError>,
}

/// Why there is no point. Earlier points are intact, the guest runs, and the next backup misses no change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiveError {
    /// It cannot be now.
    #[error("not now: {why}; try again in {retry_after:?}")]
    NotNow {
        /// Why.
        why: NotNow,
        /// When to try again.
        retry_after: Duration,
    },
    /// It must not be.
    #[error("no recovery point: {0}")]
    Refused(Refusal),
    /// QEMU.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// The walk.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The vault, before anything was done.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Takes a snapshot of a running guest and stores it as a recovery point.
pub fn run(
    permit: &Permit<op::Backup>,
    vault: &Vault,
    plan: &LivePlan<'_>,
    mut ports: LivePorts<'_>,
    settings: &Settings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<LiveReport, LiveError> {
    let mut given_up = 0;
    loop {
        match once(permit, vault, plan, &mut ports, settings, observer, cancel) {
            Err(LiveError::Qemu(QemuError::SnapshotLost { .. }))
                if given_up < plan.retries && !cancel.is_cancelled() =>
            {
                given_up += 1;
            }
            result => return result.map(|report| LiveReport { given_up, ..report }),
        }
    }
}

/// The snapshot that `plan` asks for, and the newest point that it goes on from when that one was made from a snapshot.
pub fn snapshot_plan(
    vault: &Vault,
    plan: &LivePlan<'_>,
) -> Result<(SnapshotPlan, Option<PointNumber>), VaultError> {
    let base = base(vault, &plan.vm)?;
    let now = u64::try_from(vault.clock().now().0).unwrap_or(0);
    let stored = plan.disks.iter().filter(|disk| disk.description.role != DiskRole::Temporary);
    let snapshot = SnapshotPlan {
        chain: format!("{}-{}", vault.id(), plan.vm),
        // By the clock, so that no other snapshot has it; also when the clock was set back.
        number: base.map_or(now, |(_, number)| now.max(number + 1)),
        base: base.map(|(_, number)| number),
        disks: stored.map(|disk| DiskPlan { node: disk.node.clone() }).collect(),
        folder: plan.scratch.clone(),
        scratch_bytes_max: plan.scratch_bytes_max,
    };
    Ok((snapshot, base.map(|(point, _)| point)))
}

/// The newest point and the number of its bitmaps, when it has any.
fn base(vault: &Vault, vm: &VmName) -> Result<Option<(PointNumber, u64)>, VaultError> {
    let newest = match vault.newest(vm) {
        Err(VaultError::NoSuchVm(_)) => None,
        newest => newest?,
    };
    let Some(number) = newest else { return Ok(None) };
    let point = vault.point(&PointRef { vm: vm.clone(), selector: PointSelector::Number(number) });
    // One that cannot be read has no label to go by; the walk tells of the damage.
    let snapshot = point.ok().and_then(|point| point.point().labels.get(SNAPSHOT_LABEL)?.parse().ok());
    Ok(snapshot.map(|snapshot| (number, snapshot)))
}

fn once(
    permit: &Permit<op::Backup>,
    vault: &Vault,
    plan: &LivePlan<'_>,
    ports: &mut LivePorts<'_>,
    settings: &Settings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<LiveReport, LiveError> {
    cancel.check().map_err(BackupError::from)?;
    let (snapshot_plan, since) = snapshot_plan(vault, plan)?;
    let sizes: BTreeMap<String, VmDisk> =
        disks(ports.qmp)?.into_iter().map(|disk| (disk.node.clone(), disk)).collect();
    let prepared = Snapshot::prepare(ports.qmp, &snapshot_plan)?;
    let snapshotter = QemuSnapshotter::new(ports.qmp, prepared);
    let session = Ports {
        agent: ports.agent,
        snapshotter: &snapshotter,
        scripts: ports.scripts,
        watchdog: ports.watchdog,
        clock: ports.clock,
    };
    let (decision, evidence) = take(&plan.request, session);
    let snapshot = snapshotter.finish();
    let (verdict, evidence, snapshot) = match (decision, evidence, snapshot) {
        (Decision::Point(verdict), Some(evidence), Ok(Some(snapshot))) => (verdict, evidence, snapshot),
        (decision, _, snapshot) => {
            if let Some(snapshot) = snapshot? {
                snapshot.finish(ports.qmp, Outcome::Failed)?;
            }
            return Err(match decision {
                Decision::NotNow { why, retry_after } => {
                    LiveError::NotNow { why, retry_after: retry_after.into() }
                }
                Decision::Refused(refusal) => LiveError::Refused(refusal),
                Decision::Point(_) => LiveError::Refused(Refusal::NoSnapshot { script: None }),
            });
        }
    };
    let pulled = opened(&snapshot).and_then(|opened| {
        let mut labels = plan.labels.clone();
        // A point without it is as good; only the next one is a scan.
        drop(labels.insert(SNAPSHOT_LABEL, snapshot_plan.number.to_string()));
        let pull = Pull { plan, sizes: &sizes, since, snapshot: &snapshot, opened: &opened, labels };
        pull.run(permit, vault, ports.qmp, (&verdict, &evidence), settings, observer, cancel)
    });
    let outcome = if pulled.is_ok() { Outcome::Stored } else { Outcome::Failed };
    let unsettled = snapshot.finish(ports.qmp, outcome).err();
    Ok(LiveReport { backup: pulled?, verdict, evidence, given_up: 0, unsettled })
}

type Opened = Vec<(NbdDisk, Option<QemuChanges>)>;

fn opened(snapshot: &Snapshot) -> Result<Opened, LiveError> {
    let open = |disk| {
        let opened = snapshot.open(disk)?;
        let changes = snapshot.changes(disk, &opened)?;
        Ok((opened, changes))
    };
    snapshot.disks().iter().map(open).collect::<Result<_, QemuError>>().map_err(LiveError::from)
}

struct Pull<'a> {
    plan: &'a LivePlan<'a>,
    sizes: &'a BTreeMap<String, VmDisk>,
    since: Option<PointNumber>,
    snapshot: &'a Snapshot,
    opened: &'a Opened,
    labels: Labels,
}

impl Pull<'_> {
    fn sources<'s>(&'s self, lost: &'s [String]) -> Vec<SourceDisk<'s>> {
        let mut stored = self.snapshot.disks().iter().zip(self.opened).zip(lost);
        let source = |disk: &LiveDisk| {
            if disk.description.role == DiskRole::Temporary {
                return Source::Describe(self.sizes.get(&disk.node).map_or(ByteLen(0), |disk| disk.size));
            }
            match stored.next() {
                Some(((_, (disk, Some(by))), _)) => {
                    Source::Tracked(disk, Changes::Known { by, since: self.since })
                }
                Some(((of, (disk, None)), _)) if of.tracking == Tracking::Lost(TrackingLoss::NoBase) => {
                    Source::Read(disk)
                }
                Some(((_, (disk, None)), why)) => Source::Tracked(disk, Changes::Lost(why)),
                None => Source::Describe(ByteLen(0)),
            }
        };
        let sources: Vec<Source<'_>> = self.plan.disks.iter().map(source).collect();
        let described = self.plan.disks.iter().map(|disk| disk.description.clone()).zip(sources);
        described.map(|(description, source)| SourceDisk { description, source }).collect()
    }

    /// The walk, with a thread beside it that ends it when the snapshot is lost.
    #[allow(clippy::too_many_arguments)] // they are those of a walk
    fn run(
        &self,
        permit: &Permit<op::Backup>,
        vault: &Vault,
        qmp: &mut Qmp,
        (verdict, evidence): (&Verdict, &Evidence),
        settings: &Settings,
        observer: &dyn Observer,
        cancel: &CancelToken,
    ) -> Result<Report, LiveError> {
        let why = |disk: &vmkeep_qemu::SnapshotDisk| match disk.tracking {
            Tracking::Lost(why) => why.to_string(),
            Tracking::Known(_) => String::new(),
        };
        let lost: Vec<String> = self.snapshot.disks().iter().map(why).collect();
        let part = cancel.child();
        let watch = Watch {
            snapshot: self.snapshot,
            qmp: Mutex::new(qmp),
            stop: AtomicBool::new(false),
            cancel: &part,
        };
        let plan = Plan {
            vm: self.plan.vm.clone(),
            disks: self.sources(&lost),
            keys: self.plan.keys.clone(),
            consistency: verdict.level,
            evidence: lines(verdict, evidence),
            labels: self.labels.clone(),
            config: self.plan.config.clone(),
            // Evidence that is too long is left out: its lines are there.
            snapshot: vmkeep_consistency::encode(evidence).ok(),
            guard: Some(&watch),
        };
        let (pulled, watched) = thread::scope(|scope| {
            let watcher = scope.spawn(|| watch.run());
            let pulled = vmkeep_backup::run(permit, vault, &plan, settings, observer, &part);
            watch.stop.store(true, Ordering::Release);
            (pulled, watcher.join())
        });
        match (pulled, watched) {
            (Ok(report), _) => Ok(report),
            (Err(_), Ok(Err(lost))) => Err(lost.into()),
            (Err(BackupError::Cancelled(Cancelled)), _) if !cancel.is_cancelled() => {
                Err(QemuError::BadPlan { reason: "the thread that watches the snapshot has ended" }.into())
            }
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// Whether the snapshot holds.
#[derive(Debug)]
struct Watch<'a> {
    snapshot: &'a Snapshot,
    qmp: Mutex<&'a mut Qmp>,
    stop: AtomicBool,
    cancel: &'a CancelToken,
}

impl<'a> Watch<'a> {
    fn lock(&self) -> MutexGuard<'_, &'a mut Qmp> {
        self.qmp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks until the walk is through; when the snapshot is lost, ends it and the walk.
    fn run(&self) -> Result<(), QemuError> {
        while !self.stop.load(Ordering::Acquire) {
            let mut qmp = self.lock();
            if let Err(lost) = self.snapshot.look(&mut qmp, LOOK_EVERY) {
                // Before anything else, so that it grows no more; that it was lost is what counts.
                drop(self.snapshot.abort(&mut qmp));
                self.cancel.cancel();
                return Err(lost);
            }
        }
        Ok(())
    }
}

impl SourceGuard for Watch<'_> {
    /// All is read: the watching ends with one more look.
    fn check(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.stop.store(true, Ordering::Release);
        self.snapshot.check(&mut self.lock()).map_err(Into::into)
    }
}

/// What is kept with the point, for people.
fn lines(verdict: &Verdict, evidence: &Evidence) -> Vec<String> {
    let mut lines: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
    if let FreezeEvidence::Done { frozen, mounts, .. } = &evidence.freeze {
        let paths: Vec<&str> = mounts.iter().map(|mount| &*mount.path).collect();
        lines.push(format!("frozen for at most {frozen}: {}", paths.join(" ")));
    }
    if let ScriptsEvidence::Configured { pre, post } = &evidence.scripts {
        for (name, outcome) in [("pre-script", pre), ("post-script", post)] {
            if let ScriptOutcome::Failed { code, message, trace } = outcome {
                lines.push(format!(
                    "{name}: error {code}: {message}; it printed: {}",
                    trace.output.trim_end()
                ));
            }
        }
    }
    lines
}
