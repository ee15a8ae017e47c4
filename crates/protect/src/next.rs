//! The step of a scheduler: whether a backup of a VM is due.

use vmkeep_model::{Timestamp, VmName};
use vmkeep_retention::{CatchUp, Due, PointKind, Run, Schedule, due};

use crate::{ProtectError, Protection};

/// What a scheduler does about a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It makes the first backup, which waits for no time of the schedule.
    First,
    /// It makes the backup of this run.
    Now {
        /// The run.
        run: Run,
        /// Earlier runs that were missed and are not made up for.
        missed: u32,
        /// Whether it is late by more than a scheduler may be.
        catch_up: bool,
    },
    /// It waits for this run.
    At(Run),
    /// There is none to come: backups are made when somebody asks, or protection is stopped.
    Never,
}

impl Protection<'_> {
    /// Whether a backup of `vm` is due. `attempted` is when the scheduler last tried, whatever came of it.
    ///
    /// A point that anybody made for the schedule counts, so that of two schedulers the second finds nothing to do. A backup that
    /// failed is tried again at the next time of the schedule; [`due`] says what becomes of runs that were missed.
    pub fn next_backup(&self, vm: &VmName, attempted: Option<Timestamp>) -> Result<Next, ProtectError> {
        let instance = self.instance(vm)?;
        let policy = &self.policy(&instance.policy)?.policy;
        if !instance.state.kind().backs_up() || policy.schedule == Schedule::OnDemandOnly {
            return Ok(Next::Never);
        }
        let points = self.points(vm)?;
        let scheduled = points.iter().filter(|point| point.kind == PointKind::Scheduled);
        let newest = scheduled.map(|point| point.time).max();
        if newest.is_none() && attempted.is_none() {
            return Ok(Next::First);
        }
        let last = newest.max(attempted).max(Some(instance.since)).unwrap_or_default();
        Ok(match due(&policy.schedule, &policy.zone, last, self.vault.clock().now(), CatchUp::default()) {
            Due::Now { run, missed, catch_up } => Next::Now { run, missed, catch_up },
            Due::At(run) => Next::At(run),
            Due::Never => Next::Never,
        })
    }
}
