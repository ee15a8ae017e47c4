//! From a running guest to a snapshot and back, as types.
//!
//! ```text
//! Running ─ quiesce ─► Quiescing ─ freeze ─► Frozen ─ snapshot ─► Snapshotted ─ thaw ─► Thawed ─ finish ─► Evidence
//!                          └──────────── snapshot (no freeze) ──────────────────────────►┘
//! ```
//!
//! Each state is consumed by the next. Dropped in any of them, by an error or a panic, the guest is thawed and the
//! post-script runs. When the process is killed the watchdog thaws.

use std::time::Duration;

use crate::evidence::{
    DiskOutcome, DiskSnapshot, Evidence, FreezeEvidence, Held, Mount, MountOutcome, OnGuestFailure,
    ScriptsEvidence, Simultaneity, SnapshotEvidence, ThawOutcome, VmState, VssEvidence,
};
use crate::port::{
    ArmedWatchdog, Before, FreezeState, GuestAgent, MonotonicClock, Scripts, Snapshotter, Watchdog,
    WatchdogEnd, WatchdogError,
};
use crate::{ConsistencyPolicy, Decision, Millis, Preflight, decide, preflight};

/// How long a guest may be frozen.
pub const FREEZE_DEADLINE: Duration = Duration::from_mins(1);

/// Who takes part in a session.
#[derive(Debug)]
pub struct Ports<'a> {
    /// The agent in the guest; `None` when there is none.
    pub agent: Option<&'a dyn GuestAgent>,
    /// What takes the snapshot.
    pub snapshotter: &'a dyn Snapshotter,
    /// The owner's scripts.
    pub scripts: &'a mut dyn Scripts,
    /// What thaws when nobody else does.
    pub watchdog: &'a dyn Watchdog,
    /// Measures the frozen time.
    pub clock: &'a dyn MonotonicClock,
}

/// What a session is told.
#[derive(Clone, Debug)]
pub struct Request {
    /// The owner's rules.
    pub policy: ConsistencyPolicy,
    /// The VM.
    pub vm: VmState,
    /// Attempts that failed before this one.
    pub attempt: u32,
    /// Age of the command.
    pub command_age: Millis,
    /// How long the guest may be frozen; then the watchdog thaws it.
    pub deadline: Duration,
    /// How long the agent may take to answer; no use beyond the deadline.
    pub agent_timeout: Duration,
}

/// Takes a snapshot as consistent as the VM and the rules allow, and says what it is worth.
///
/// ```
/// use vmkeep_consistency::{ConsistencyPolicy, Decision, GuestOs, Millis, NoScripts, Ports, PowerState,
///     ProvisioningState, Request, VmState, fake, take};
///
/// let guest = fake::Guest::new(["os", "data"]);
/// let request = Request::new(VmState {
///     provisioning: ProvisioningState::Succeeded,
///     power: PowerState::Running,
///     os: GuestOs::Linux,
/// });
/// let (decision, evidence) = take(&request, Ports {
///     agent: Some(&guest), snapshotter: &guest, scripts: &mut NoScripts, watchdog: &guest, clock: &guest,
/// });
/// let Decision::Point(verdict) = decision else { panic!("{decision:?}") };
/// assert_eq!(verdict.level.to_string(), "file-system");
/// assert!(evidence.is_some() && !guest.is_frozen());
/// ```
pub fn take(request: &Request, ports: Ports<'_>) -> (Decision, Option<Evidence>) {
    let evidence = match preflight(&request.policy, &request.vm, request.attempt, request.command_age) {
        Preflight::Stop(decision) => return (decision, None),
        Preflight::CrashOnly(_) => Running::new(request, ports).leave_alone().snapshot_unfrozen().finish(),
        Preflight::Quiesce => {
            let quiescing = Running::new(request, ports).quiesce();
            match quiescing.advice() {
                Before::Stop => quiescing.give_up().finish(),
                Before::SnapshotOnly => quiescing.snapshot_unfrozen().finish(),
                Before::Freeze => match quiescing.freeze() {
                    Freezing::Frozen(frozen) => frozen.snapshot().thaw().finish(),
                    Freezing::NotFrozen(quiescing) => quiescing.snapshot_unfrozen().finish(),
                },
            }
        }
    };
    (decide(&evidence), Some(evidence))
}

impl Request {
    /// A first attempt by the default rules.
    pub fn new(vm: VmState) -> Self {
        Self {
            policy: ConsistencyPolicy::default(),
            vm,
            attempt: 0,
            command_age: Millis(0),
            deadline: FREEZE_DEADLINE,
            agent_timeout: Duration::from_secs(10),
        }
    }
}

/// The guest has not been touched.
#[must_use]
#[derive(Debug)]
pub struct Running<'a>(Guard<'a>);

/// The pre-script, if any, has run.
#[must_use]
#[derive(Debug)]
pub struct Quiescing<'a>(Guard<'a>, Before);

/// File systems are frozen.
#[must_use]
#[derive(Debug)]
pub struct Frozen<'a>(Guard<'a>);

/// There is a snapshot, and file systems are still frozen.
#[must_use]
#[derive(Debug)]
pub struct Snapshotted<'a>(Guard<'a>);

/// The guest is free again; the post-script is still to run.
#[must_use]
#[derive(Debug)]
pub struct Thawed<'a>(Guard<'a>);

/// What came of a freeze.
#[must_use]
#[derive(Debug)]
pub enum Freezing<'a> {
    /// It worked.
    Frozen(Frozen<'a>),
    /// It did not; whatever had been frozen is thawed again.
    NotFrozen(Quiescing<'a>),
}

impl<'a> Running<'a> {
    /// Begins. Nothing is done yet.
    pub fn new(request: &Request, ports: Ports<'a>) -> Self {
        let disks = ports.snapshotter.disks();
        let snapshot = SnapshotEvidence {
            simultaneity: Simultaneity::OneInstant,
            disks: disks
                .into_iter()
                .map(|disk| DiskSnapshot { disk, outcome: DiskOutcome::NotTried })
                .collect(),
        };
        let request = request.clone();
        Self(Guard {
            ports,
            request,
            must_run_post: false,
            watchdog: None,
            frozen: None,
            freeze: FreezeEvidence::NotTried,
            vss: None,
            snapshot,
        })
    }

    /// Sets the watchdog, then runs the pre-script. Without a watchdog nothing is done to the guest.
    pub fn quiesce(mut self) -> Quiescing<'a> {
        if self.0.ports.scripts.on_failure() == OnGuestFailure::Refuse {
            self.0.request.policy.on_failure = OnGuestFailure::Refuse;
        }
        let has_scripts = !matches!(self.0.ports.scripts.evidence(), ScriptsEvidence::NotConfigured { .. });
        if has_scripts || self.0.ports.agent.is_some() {
            match self.0.ports.watchdog.arm() {
                Ok(watchdog) => self.0.watchdog = Some(watchdog),
                Err(error) => {
                    self.0.freeze = FreezeEvidence::Failed(watchdog_text(&error));
                    let is_strict = has_scripts && self.0.request.policy.on_failure == OnGuestFailure::Refuse;
                    return Quiescing(self.0, if is_strict { Before::Stop } else { Before::SnapshotOnly });
                }
            }
        }
        self.0.must_run_post = true;
        let advice = self.0.ports.scripts.before(self.0.snapshot.disks.len());
        if advice == Before::SnapshotOnly {
            self.0.freeze = FreezeEvidence::LeftToScripts;
        }
        Quiescing(self.0, advice)
    }

    /// Goes on without the pre-script and without a freeze.
    pub fn leave_alone(self) -> Quiescing<'a> {
        Quiescing(self.0, Before::SnapshotOnly)
    }
}

impl<'a> Quiescing<'a> {
    /// How the scripts say to go on.
    pub fn advice(&self) -> Before {
        self.1
    }

    /// Freezes, for no longer than the deadline.
    pub fn freeze(mut self) -> Freezing<'a> {
        if self.0.freeze() {
            Freezing::Frozen(Frozen(self.0))
        } else {
            self.1 = Before::SnapshotOnly;
            Freezing::NotFrozen(self)
        }
    }

    /// Takes the snapshot of a guest that writes.
    pub fn snapshot_unfrozen(mut self) -> Thawed<'a> {
        self.0.snapshot = self.0.ports.snapshotter.snapshot();
        Thawed(self.0)
    }

    /// Takes no snapshot.
    pub fn give_up(self) -> Thawed<'a> {
        Thawed(self.0)
    }
}

impl<'a> Frozen<'a> {
    /// Takes the snapshot.
    pub fn snapshot(mut self) -> Snapshotted<'a> {
        self.0.snapshot = self.0.ports.snapshotter.snapshot();
        Snapshotted(self.0)
    }
}

impl<'a> Snapshotted<'a> {
    /// Asks whether the freeze lasted, then thaws.
    pub fn thaw(mut self) -> Thawed<'a> {
        let held = match self.0.ports.agent.map(|agent| agent.status(self.0.request.agent_timeout)) {
            Some(Ok(FreezeState::Frozen)) => Held::Yes,
            Some(Ok(FreezeState::Thawed)) => Held::No,
            Some(Err(_)) | None => Held::Unknown,
        };
        self.0.thaw(held);
        Thawed(self.0)
    }
}

impl Thawed<'_> {
    /// Runs the post-script and returns what was seen.
    pub fn finish(mut self) -> Evidence {
        self.0.run_post();
        self.0.disarm();
        let guard = &mut self.0;
        Evidence {
            policy: guard.request.policy,
            vm: guard.request.vm,
            attempt: guard.request.attempt,
            command_age: guard.request.command_age,
            vss: guard.vss.take(),
            scripts: guard.ports.scripts.evidence(),
            freeze: guard.freeze.clone(),
            snapshot: guard.snapshot.clone(),
        }
    }
}

/// A freeze that is to be undone.
#[derive(Debug)]
struct Undo {
    since: Duration,
    mounts: Vec<Mount>,
}

/// What must still be done for the guest, and is done when it is dropped.
#[derive(Debug)]
struct Guard<'a> {
    ports: Ports<'a>,
    request: Request,
    must_run_post: bool,
    /// There from before the pre-script until after the post-script.
    watchdog: Option<Box<dyn ArmedWatchdog>>,
    frozen: Option<Undo>,
    freeze: FreezeEvidence,
    vss: Option<VssEvidence>,
    snapshot: SnapshotEvidence,
}

impl Guard<'_> {
    fn freeze(&mut self) -> bool {
        let (Some(agent), Some(watchdog)) = (self.ports.agent, &mut self.watchdog) else { return false };
        if let Err(error) = watchdog.freezing(self.request.deadline) {
            self.freeze = FreezeEvidence::Failed(watchdog_text(&error));
            return false;
        }
        // From here on the guest may be frozen, also when the agent says that it is not.
        self.frozen = Some(Undo { since: self.ports.clock.elapsed(), mounts: Vec::new() });
        match agent.freeze(self.request.agent_timeout) {
            Ok(report) => {
                let complete =
                    !report.mounts.iter().any(|mount| matches!(mount.outcome, MountOutcome::Failed(_)));
                self.vss = report.vss;
                if let Some(frozen) = &mut self.frozen {
                    frozen.mounts = report.mounts;
                }
                if !complete {
                    self.thaw(Held::No);
                }
                complete
            }
            Err(error) => {
                self.thaw(Held::No);
                self.freeze = FreezeEvidence::Failed(error.to_string());
                false
            }
        }
    }

    fn thaw(&mut self, held: Held) {
        let (Some(undo), Some(agent)) = (self.frozen.take(), self.ports.agent) else { return };
        let thawed = agent.thaw(self.request.agent_timeout);
        let frozen = self.ports.clock.elapsed().saturating_sub(undo.since);
        let (end, thaw) = match thawed {
            Ok(count) => {
                let end = self.watchdog.as_mut().map_or(WatchdogEnd::Fired, |watchdog| watchdog.thawed());
                (end, if count == 0 { ThawOutcome::AlreadyThawed } else { ThawOutcome::Thawed })
            }
            Err(error) => {
                if let Some(watchdog) = &mut self.watchdog {
                    watchdog.thaw();
                }
                (WatchdogEnd::Quiet, ThawOutcome::Failed(error.to_string()))
            }
        };
        let (held, thaw) = match end {
            WatchdogEnd::Quiet => (held, thaw),
            // It may have thawed between the status and our thaw, but also before the snapshot.
            WatchdogEnd::Fired => {
                (if held == Held::Yes { Held::Unknown } else { held }, ThawOutcome::AlreadyThawed)
            }
        };
        self.freeze = FreezeEvidence::Done { mounts: undo.mounts, held, thaw, frozen: frozen.into() };
    }

    fn run_post(&mut self) {
        if std::mem::take(&mut self.must_run_post) {
            self.ports.scripts.after();
        }
    }

    fn disarm(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.disarm();
        }
    }
}

fn watchdog_text(error: &WatchdogError) -> String {
    format!("{error}: {}", error.0)
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.thaw(Held::Unknown);
        self.run_post();
        self.disarm();
    }
}
