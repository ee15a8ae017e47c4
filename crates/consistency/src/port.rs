//! What a session talks to. Every port is synchronous, object-safe, and must answer in bounded time.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::evidence::{Mount, OnGuestFailure, ScriptsEvidence, SnapshotEvidence, VssEvidence};

/// Why a guest agent did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AgentError {
    /// It may have been done all the same.
    #[error("the guest agent did not answer within {0:?}")]
    TimedOut(Duration),
    /// Nobody is there.
    #[error("no guest agent: {0}")]
    Unreachable(String),
    /// It answered with an error.
    #[error("the guest agent refuses: {0}")]
    Refused(String),
}

/// Whether a guest's file systems are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FreezeState {
    /// At least one is.
    Frozen,
    /// None is.
    Thawed,
}

/// What a freeze came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeReport {
    /// Each file system.
    pub mounts: Vec<Mount>,
    /// VSS, where the agent froze through it and tells of it.
    pub vss: Option<VssEvidence>,
}

/// The agent in a guest.
///
/// Calls come from one thread at a time; a watchdog may thaw from another process meanwhile. An implementation must
/// return within `timeout`, and must not touch a file system of the guest other than to freeze and thaw it.
pub trait GuestAgent: fmt::Debug {
    /// Freezes every file system that holds backed-up data. When it fails, some may be frozen: the caller thaws. A freeze
    /// of a frozen guest must be refused.
    ///
    /// # Errors
    /// When the agent refuses or does not answer in time.
    fn freeze(&self, timeout: Duration) -> Result<FreezeReport, AgentError>;

    /// Thaws everything and returns how many file systems it thawed. Idempotent: 0 when none was frozen.
    ///
    /// # Errors
    /// When any file system may still be frozen.
    fn thaw(&self, timeout: Duration) -> Result<usize, AgentError>;

    /// Says whether anything is frozen. Must work while it is.
    ///
    /// # Errors
    /// When the agent does not answer in time.
    fn status(&self, timeout: Duration) -> Result<FreezeState, AgentError>;
}

/// What takes the snapshot.
pub trait Snapshotter: fmt::Debug {
    /// Names of the disks that will be in it.
    fn disks(&self) -> Vec<String>;

    /// Takes a snapshot of all [`disks`](Self::disks) and returns the outcome of each, in that order. It must say
    /// [`Simultaneity::OneInstant`](crate::Simultaneity::OneInstant) only when no write can fall between two disks. What it took it keeps for whoever
    /// reads the disks.
    fn snapshot(&self) -> SnapshotEvidence;
}

/// The owner's scripts around a snapshot.
pub trait Scripts: fmt::Debug {
    /// Runs what is to run before the freeze, and says whether to go on.
    fn before(&mut self, disks: usize) -> Before;

    /// Runs what is to run after the thaw. Called once after each [`before`](Self::before), whatever happened between.
    fn after(&mut self);

    /// What came of them.
    fn evidence(&self) -> ScriptsEvidence;

    /// What their failure means; the stricter of this and the policy holds.
    fn on_failure(&self) -> OnGuestFailure;
}

/// How to go on after the pre-script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Before {
    /// Freeze, snapshot.
    Freeze,
    /// Snapshot without a freeze of ours.
    SnapshotOnly,
    /// No snapshot.
    Stop,
}

/// There are no scripts.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoScripts;

impl Scripts for NoScripts {
    fn before(&mut self, _disks: usize) -> Before {
        Before::Freeze
    }

    fn after(&mut self) {}

    fn evidence(&self) -> ScriptsEvidence {
        ScriptsEvidence::NotConfigured { code: None }
    }

    fn on_failure(&self) -> OnGuestFailure {
        OnGuestFailure::Degrade
    }
}

/// Time that only goes forward.
pub trait MonotonicClock: fmt::Debug {
    /// Time since a moment that stays the same for as long as the clock lives.
    fn elapsed(&self) -> Duration;
}

/// The monotonic clock of the machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemMonotonic {
    start: std::time::Instant,
}

impl Default for SystemMonotonic {
    fn default() -> Self {
        Self { start: std::time::Instant::now() }
    }
}

impl MonotonicClock for SystemMonotonic {
    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A watchdog cannot be set.
#[derive(Debug, Error)]
#[error("the watchdog that would undo what is done to the guest does not answer, so nothing is done to it")]
pub struct WatchdogError(#[source] pub std::io::Error);

/// What a watchdog has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WatchdogEnd {
    /// Nothing.
    Quiet,
    /// It thawed the guest, or is gone and may have.
    Fired,
}

/// Undoes what was done to the guest when nobody else does: thaws it after the deadline, and when the process that set
/// it is gone, thaws it and runs the post-script.
pub trait Watchdog: fmt::Debug {
    /// Sets it, before anything is done to the guest. When this returns it watches.
    ///
    /// # Errors
    /// When it cannot be started; the guest must not be touched then.
    fn arm(&self) -> Result<Box<dyn ArmedWatchdog>, WatchdogError>;
}

/// A watchdog that watches. Dropped, it undoes at once.
pub trait ArmedWatchdog: fmt::Debug {
    /// Tells it that the guest will be frozen now, and for how long it may be.
    ///
    /// # Errors
    /// When it is not there any more; the guest must not be frozen then.
    fn freezing(&mut self, deadline: Duration) -> Result<(), WatchdogError>;

    /// Tells it that the guest is thawed, and returns whether it had to do that itself.
    fn thawed(&mut self) -> WatchdogEnd;

    /// Tells it that thawing failed: it tries in its own way, now. Not waited for.
    fn thaw(&mut self);

    /// Ends it: all is undone.
    fn disarm(self: Box<Self>);
}
