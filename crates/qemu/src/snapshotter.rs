//! Snapshots as the port of a session.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vmkeep_consistency::{DiskOutcome, DiskSnapshot, Simultaneity, SnapshotEvidence, Snapshotter};

use crate::error::QemuError;
use crate::qmp::Qmp;
use crate::snapshot::{Prepared, Snapshot};

/// A prepared snapshot that a session takes at its instant. What it took is had by [`finish`](Self::finish).
#[derive(Debug)]
pub struct QemuSnapshotter<'q> {
    nodes: Vec<String>,
    state: Mutex<State<'q>>,
}

#[derive(Debug)]
struct State<'q> {
    qmp: &'q mut Qmp,
    prepared: Option<Prepared>,
    taken: Option<Result<Snapshot, QemuError>>,
}

impl<'q> QemuSnapshotter<'q> {
    /// What is to be taken, by the monitor that it was prepared with.
    pub fn new(qmp: &'q mut Qmp, prepared: Prepared) -> Self {
        let nodes = prepared.disks().iter().map(|disk| disk.node.clone()).collect();
        Self { nodes, state: Mutex::new(State { qmp, prepared: Some(prepared), taken: None }) }
    }

    fn lock(&self) -> MutexGuard<'_, State<'q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot, readable, when one was taken; else what was prepared is removed.
    pub fn finish(self) -> Result<Option<Snapshot>, QemuError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (state.taken, state.prepared) {
            (Some(taken), _) => taken?.export(state.qmp).map(Some),
            (None, Some(prepared)) => prepared.abandon(state.qmp).map(|()| None),
            (None, None) => Ok(None),
        }
    }
}

impl Snapshotter for QemuSnapshotter<'_> {
    fn disks(&self) -> Vec<String> {
        self.nodes.clone()
    }

    /// One transaction. A second call takes nothing and says what became of the first.
    fn snapshot(&self) -> SnapshotEvidence {
        let mut held = self.lock();
        if let Some(prepared) = held.prepared.take() {
            let taken = prepared.take(held.qmp);
            held.taken = Some(taken);
        }
        let outcome = match &held.taken {
            Some(Ok(_)) => DiskOutcome::Taken,
            Some(Err(error)) => DiskOutcome::Failed(error.to_string()),
            None => DiskOutcome::NotTried,
        };
        let disk = |node: &String| DiskSnapshot { disk: node.clone(), outcome: outcome.clone() };
        SnapshotEvidence {
            simultaneity: Simultaneity::OneInstant,
            disks: self.nodes.iter().map(disk).collect(),
        }
    }
}
