//! What the simulated hosts did and were told, for the checker to hold against the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmkeep::model::SessionId;

use super::guest::{Disks, Guest};

/// Number of a point of a VM.
pub(crate) type Point = (String, u64);

/// What a host did to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Forget,
    Undelete,
    Hold,
    Release,
}

/// Something that a host was told.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// Its backup is this point.
    Committed { point: Point, session: SessionId },
    /// It marked a point; it began to at that step.
    Marked { point: Point, mark: Mark, began: u64 },
    /// It was told that a point is damaged or gone.
    Damaged { point: Point, what: String },
    /// It was told something that nobody may be told.
    Wrong(String),
}

/// Shared by the hosts and the checker. One host runs at a time, so what is in here follows from the seed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The step of the simulation.
    pub(crate) now: u64,
    pub(crate) guests: BTreeMap<String, Guest>,
    /// Hosts of the round that have a session under way.
    pub(crate) writing: BTreeSet<usize>,
    /// What each session writes.
    pub(crate) attempts: BTreeMap<SessionId, Disks>,
    /// The points that are there, each with what it says of itself, as the checker found them last.
    pub(crate) listed: BTreeMap<Point, SessionId>,
    /// Pins that their readers rely on.
    pub(crate) pins: BTreeMap<SessionId, Point>,
    /// Pins that somebody set out to break.
    pub(crate) broken: BTreeSet<SessionId>,
    /// Not yet seen by the checker.
    pub(crate) news: Vec<News>,
    /// Every operation and how it ended.
    pub(crate) story: Vec<String>,
    pub(crate) tally: BTreeMap<String, u64>,
}

impl Ledger {
    pub(crate) fn numbers(&self, vm: &str) -> Vec<u64> {
        self.listed.keys().filter(|(of, _)| of == vm).map(|(_, number)| *number).collect()
    }

    pub(crate) fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    pub(crate) fn add(&mut self, what: &str, more: u64) {
        *self.tally.entry(what.to_owned()).or_default() += more;
    }
}

/// A ledger that is shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Ledger>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
