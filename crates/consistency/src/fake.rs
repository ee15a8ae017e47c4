//! A guest without a machine: every port at once, its behaviour settable, its events kept.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::evidence::{DiskOutcome, DiskSnapshot, Mount, MountOutcome, Simultaneity, SnapshotEvidence};
use crate::port::{
    AgentError, ArmedWatchdog, FreezeReport, FreezeState, GuestAgent, MonotonicClock, Snapshotter, Watchdog,
    WatchdogEnd, WatchdogError,
};

/// How the agent of a [`Guest`] behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Agent {
    /// Well.
    #[default]
    Good,
    /// It freezes, but no answer comes.
    HangsAtFreeze,
    /// One of two file systems cannot be frozen.
    OneMountFails,
    /// The guest thaws by itself before the snapshot.
    ThawsEarly,
    /// It refuses to thaw.
    ThawFails,
}

/// A guest of one file system per disk, with all that a session needs.
#[derive(Clone, Debug)]
pub struct Guest(Rc<State>);

#[derive(Debug)]
struct State {
    disks: Vec<String>,
    agent: Cell<Agent>,
    frozen: Cell<bool>,
    armed: Cell<bool>,
    /// Whether the watchdog has been told of a freeze.
    watched: Cell<bool>,
    now: Cell<Duration>,
    panics: Cell<bool>,
    events: RefCell<Vec<&'static str>>,
}

impl Guest {
    /// A guest with these disks.
    pub fn new<const N: usize>(disks: [&str; N]) -> Self {
        Self(Rc::new(State {
            disks: disks.map(str::to_owned).to_vec(),
            agent: Cell::default(),
            frozen: Cell::default(),
            armed: Cell::default(),
            watched: Cell::default(),
            now: Cell::default(),
            panics: Cell::default(),
            events: RefCell::default(),
        }))
    }

    /// Sets how the agent behaves.
    #[must_use]
    pub fn with_agent(self, agent: Agent) -> Self {
        self.0.agent.set(agent);
        self
    }

    /// Makes the snapshot panic.
    #[must_use]
    pub fn with_panic(self) -> Self {
        self.0.panics.set(true);
        self
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.0.frozen.get()
    }

    /// Whether a watchdog watches.
    pub fn is_watched(&self) -> bool {
        self.0.armed.get()
    }

    /// What happened so far, in order.
    pub fn events(&self) -> Vec<&'static str> {
        self.0.events.borrow().clone()
    }

    /// Adds an event of somebody else's.
    pub fn note(&self, event: &'static str) {
        self.0.events.borrow_mut().push(event);
        self.0.now.set(self.0.now.get() + Duration::from_millis(5));
    }
}

impl GuestAgent for Guest {
    fn freeze(&self, timeout: Duration) -> Result<FreezeReport, AgentError> {
        if self.is_frozen() {
            return Err(AgentError::Refused("frozen already".to_owned()));
        }
        self.note("freeze");
        self.0.frozen.set(true);
        let behaviour = self.0.agent.get();
        if behaviour == Agent::HangsAtFreeze {
            return Err(AgentError::TimedOut(timeout));
        }
        let mut mounts: Vec<Mount> = self.0.disks.iter().map(|disk| frozen_mount(disk)).collect();
        if behaviour == Agent::OneMountFails
            && let Some(mount) = mounts.last_mut()
        {
            mount.outcome = MountOutcome::Failed("busy".to_owned());
        }
        if behaviour == Agent::ThawsEarly {
            self.0.frozen.set(false);
        }
        Ok(FreezeReport { mounts, vss: None })
    }

    fn thaw(&self, _timeout: Duration) -> Result<usize, AgentError> {
        self.note("thaw");
        if self.0.agent.get() == Agent::ThawFails {
            return Err(AgentError::Refused("cannot thaw".to_owned()));
        }
        Ok(if self.0.frozen.replace(false) { self.0.disks.len() } else { 0 })
    }

    fn status(&self, _timeout: Duration) -> Result<FreezeState, AgentError> {
        Ok(if self.is_frozen() { FreezeState::Frozen } else { FreezeState::Thawed })
    }
}

fn frozen_mount(disk: &str) -> Mount {
    Mount { path: format!("/{disk}"), outcome: MountOutcome::Frozen }
}

impl Snapshotter for Guest {
    fn disks(&self) -> Vec<String> {
        self.0.disks.clone()
    }

    fn snapshot(&self) -> SnapshotEvidence {
        self.note("snapshot");
        assert!(!self.0.panics.get(), "the fake was told to panic");
        let disks = self.0.disks.iter();
        SnapshotEvidence {
            simultaneity: Simultaneity::OneInstant,
            disks: disks
                .map(|disk| DiskSnapshot { disk: disk.clone(), outcome: DiskOutcome::Taken })
                .collect(),
        }
    }
}

impl MonotonicClock for Guest {
    fn elapsed(&self) -> Duration {
        self.0.now.get()
    }
}

#[derive(Debug)]
struct Armed(Guest);

impl Watchdog for Guest {
    fn arm(&self) -> Result<Box<dyn ArmedWatchdog>, WatchdogError> {
        self.note("arm");
        self.0.armed.set(true);
        Ok(Box::new(Armed(self.clone())))
    }
}

impl ArmedWatchdog for Armed {
    fn freezing(&mut self, _deadline: Duration) -> Result<(), WatchdogError> {
        self.0.0.watched.set(true);
        Ok(())
    }

    fn thawed(&mut self) -> WatchdogEnd {
        self.0.0.watched.set(false);
        WatchdogEnd::Quiet
    }

    fn thaw(&mut self) {
        self.0.note("watchdog thaws");
        self.0.0.frozen.set(false);
    }

    fn disarm(self: Box<Self>) {
        self.0.0.armed.set(false);
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        if self.0.0.armed.replace(false) && self.0.0.watched.replace(false) {
            self.thaw();
        }
    }
}
