//! `vmkeep run`: does what is due, again and again.

use std::collections::BTreeMap;

use serde::Serialize;
use vmkeep::model::{Timestamp, VmName};
use vmkeep::protect::{Next, Protection};
use vmkeep::retention::{PointKind, State};
use vmkeep::vault::{SweepSettings, Vault};

use super::backup;
use crate::args::RunArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::jobs::{self, Jobs};
use crate::metering;
use crate::output;

/// Longest wait before policies and points are looked at again: somebody may have changed them.
const LOOK_AGAIN_MS: i64 = 60_000;

/// Longest wait before a backup that failed is tried again, unless more was asked for.
const RETRY_MAX_MS: i64 = 4 * 3_600_000;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Backup {
        vm: String,
        point: String,
        bytes_stored: u64,
        duration_ms: u64,
        /// The time of the schedule that it is for; `null` for the first of a VM.
        due: Option<String>,
        /// Earlier times that passed without a backup.
        missed: u32,
        catch_up: bool,
    },
    Failed {
        vm: String,
        message: String,
        causes: Vec<String>,
    },
    /// Somebody else made the point in the meantime.
    Made {
        vm: String,
    },
    Pruned {
        vm: String,
        points: Vec<String>,
    },
    Purged {
        vm: String,
        forgotten: usize,
    },
    Swept {
        points: usize,
        bytes_freed: u64,
    },
    Warning {
        message: String,
    },
}

#[derive(Default, Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    backups: usize,
    failed: usize,
    /// Points that were forgotten.
    pruned: usize,
    /// When the next backup is due.
    next: Option<String>,
    /// Whether it ended by Ctrl-C.
    stopped: bool,
}

/// What goes from one round to the next.
struct Scheduler<'c> {
    context: &'c Context<'c>,
    jobs: Jobs,
    vault: &'c Vault,
    /// When each VM was last tried.
    attempts: BTreeMap<VmName, Attempt>,
    retry_ms: i64,
    /// How long from one sweep to the next; `None` for none.
    sweep_ms: Option<i64>,
    /// When it swept last, or began.
    swept: Timestamp,
    sum: Summary,
    outcome: Outcome,
    warned: Vec<String>,
}

/// The last time that a VM was tried.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    at: Timestamp,
    /// How often it has failed in a row by now.
    failures: u32,
}

impl Attempt {
    /// When it is tried again, with no regard to the schedule; `None` when nothing failed.
    fn again(self, retry_ms: i64) -> Option<Timestamp> {
        let doubled = self.failures.checked_sub(1)?.min(16);
        let wait = retry_ms.saturating_mul(1 << doubled).min(RETRY_MAX_MS.max(retry_ms));
        Some(Timestamp(self.at.0.saturating_add(wait)))
    }
}

pub(crate) fn run(context: &Context<'_>, args: &RunArgs) -> Result<Outcome, Error> {
    let jobs = Jobs::read(&args.jobs, &args.vault.vault)?;
    let vault = context.open_vault(&args.vault.vault)?;
    let mut scheduler = Scheduler {
        context,
        jobs,
        vault: &vault,
        attempts: BTreeMap::new(),
        retry_ms: args.retry_after.max(1000),
        sweep_ms: args.sweep_every,
        swept: vault.clock().now(),
        sum: Summary::default(),
        outcome: Outcome::Good,
        warned: Vec::new(),
    };
    let mut rounds = 0_u64;
    loop {
        match scheduler.round() {
            Ok(next) => scheduler.sum.next = next.map(|next| next.to_string()),
            Err(_) if context.cancel.is_cancelled() => {}
            // What fails at once fails for a reason that time does not heal.
            Err(error) if args.once || rounds == 0 => return Err(error),
            Err(error) => output::warn("this round was not completed", &[error.to_string()]),
        }
        rounds += 1;
        if !context.cancel.is_cancelled() {
            scheduler.sweep(args.once);
        }
        if args.once || context.cancel.is_cancelled() {
            break;
        }
        jobs::wait(context.cancel, scheduler.wait_ms());
        if context.cancel.is_cancelled() {
            break;
        }
    }
    let Scheduler { mut sum, outcome, .. } = scheduler;
    sum.stopped = context.cancel.is_cancelled();
    if args.once && sum.failed > 0 && !sum.stopped {
        return Err(Error::NotBackedUp(sum.failed));
    }
    context
        .output
        .text(format!("{} backups, {} failed, {} points pruned", sum.backups, sum.failed, sum.pruned));
    context.output.json(&sum);
    Ok(outcome)
}

impl Scheduler<'_> {
    /// Does what is due now; when the next backup is due.
    fn round(&mut self) -> Result<Option<Timestamp>, Error> {
        let vms: Vec<VmName> = {
            let protection = Protection::open(self.vault)?;
            self.warn_of_jobs(&protection);
            protection.instances().map(|(vm, _)| vm.clone()).collect()
        };
        let mut next = None;
        for vm in vms {
            self.context.cancel.check()?;
            // Another process may do this VM right now; what it did is looked at after.
            let turn = self.jobs.lock(self.context.cancel)?;
            let at = self.turn(&vm)?;
            drop(turn);
            next = match (next, at) {
                (Some(a), Some(b)) => Some(Timestamp::min(a, b)),
                (a, b) => a.or(b),
            };
        }
        Ok(next)
    }

    /// What is due for one VM; when its next backup is.
    fn turn(&mut self, vm: &VmName) -> Result<Option<Timestamp>, Error> {
        let mut protection = Protection::open(self.vault)?;
        if matches!(protection.instance(vm)?.state, State::SoftDeleted { .. } | State::Purged { .. }) {
            return self.settle(&mut protection, vm).map(|()| None);
        }
        if self.jobs.backup(vm).is_none() {
            self.prune(&protection, vm)?;
            return Ok(None);
        }
        let next = match protection.next_backup(vm, self.attempted(vm))? {
            Next::First => {
                self.back_up(&protection, vm, (None, 0, false))?;
                protection.next_backup(vm, self.attempted(vm))?
            }
            Next::Now { run, missed, catch_up } => {
                self.back_up(&protection, vm, (Some(run.at), missed, catch_up))?;
                protection.next_backup(vm, self.attempted(vm))?
            }
            next => next,
        };
        self.prune(&protection, vm)?;
        Ok(match next {
            Next::At(run) | Next::Now { run, .. } => Some(run.at),
            Next::First | Next::Never => None,
        })
    }

    /// When the VM was last tried, as far as that keeps it from being tried again.
    fn attempted(&self, vm: &VmName) -> Option<Timestamp> {
        let attempt = self.attempts.get(vm)?;
        let now = self.vault.clock().now();
        attempt.again(self.retry_ms).is_none_or(|again| now < again).then_some(attempt.at)
    }

    /// How long to wait before the next round: until something that failed is tried again, or for a while.
    fn wait_ms(&self) -> i64 {
        let now = self.vault.clock().now();
        let retries = self.attempts.values().filter_map(|attempt| attempt.again(self.retry_ms));
        let waits = retries.map(|again| again.0.saturating_sub(now.0).max(0));
        waits.chain([LOOK_AGAIN_MS]).min().unwrap_or(LOOK_AGAIN_MS)
    }

    /// Frees the space of what is forgotten, when it is time to. That it fails is told, and it is tried again a while later.
    fn sweep(&mut self, once: bool) {
        let Some(every) = self.sweep_ms else { return };
        let now = self.vault.clock().now();
        if !once && now.0.saturating_sub(self.swept.0) < every {
            return;
        }
        self.swept = now;
        let swept = self.context.permit(self.vault, None).and_then(|permit| {
            metering::read_all(self.vault, &permit);
            let settings = SweepSettings::default();
            let report = self.vault.sweep(&permit, &settings, self.context.cancel, &mut |_| {})?;
            metering::read_all(self.vault, &permit);
            Ok(report)
        });
        match swept {
            Ok(report) => {
                let (points, bytes_freed) = (report.points.len(), report.freed);
                if report.damaged > 0 {
                    self.warn("the sweep found damage: see vmkeep verify".to_owned());
                    self.outcome = Outcome::Damage;
                }
                let freed = crate::bytes::show(bytes_freed);
                self.context.output.text(format!("swept: {points} points removed, {freed} freed"));
                self.context.output.json(&Event::Swept { points, bytes_freed });
            }
            Err(_) if self.context.cancel.is_cancelled() => {}
            Err(error) => {
                let (message, causes) = error.chain();
                output::warn(&format!("nothing was swept: {message}"), &causes);
            }
        }
    }

    fn back_up(
        &mut self,
        protection: &Protection<'_>,
        vm: &VmName,
        (due, missed, catch_up): (Option<Timestamp>, u32, bool),
    ) -> Result<(), Error> {
        let Some(args) = self.jobs.backup(vm) else { return Ok(()) };
        let before = scheduled(protection, vm)?;
        let failed = self.attempts.get(vm).map_or(0, |attempt| attempt.failures);
        let at = self.vault.clock().now();
        self.attempts.insert(vm.clone(), Attempt { at, failures: 0 });
        let error = match backup::make(self.context, &args) {
            Ok((report, outcome)) => {
                self.sum.backups += 1;
                if outcome == Outcome::Damage {
                    self.outcome = outcome;
                }
                let point = format!("{vm}@{}", report.point.id.number);
                let bytes_stored = report.stored.data + report.stored.metadata;
                self.context.output.text(format!("{point}: {} stored", crate::bytes::show(bytes_stored)));
                self.context.output.json(&Event::Backup {
                    vm: vm.to_string(),
                    point,
                    bytes_stored,
                    duration_ms: report.duration_ms,
                    due: due.map(|due| due.to_string()),
                    missed,
                    catch_up,
                });
                return Ok(());
            }
            Err(error) => error,
        };
        self.context.cancel.check()?;
        // From another machine, or with another file of jobs: only one of two that run at once commits.
        if scheduled(protection, vm)? > before {
            self.context.output.text(format!("{vm}: somebody else made the point that was due"));
            self.context.output.json(&Event::Made { vm: vm.to_string() });
            return Ok(());
        }
        self.sum.failed += 1;
        // It may have taken a while to fail.
        let at = self.vault.clock().now();
        self.attempts.insert(vm.clone(), Attempt { at, failures: failed.saturating_add(1) });
        let (message, causes) = error.chain();
        output::warn(&format!("{vm} was not backed up: {message}"), &causes);
        self.context.output.json(&Event::Failed { vm: vm.to_string(), message, causes });
        Ok(())
    }

    fn prune(&mut self, protection: &Protection<'_>, vm: &VmName) -> Result<(), Error> {
        let plan = protection.plan(vm)?;
        for anomaly in plan.anomalies() {
            self.warn(format!("nothing of {vm} is removed: {anomaly}"));
        }
        if plan.expired().next().is_none() {
            return Ok(());
        }
        let permit = self.context.permit(self.vault, Some(vm))?;
        let pruned = protection.prune(&permit, vm, &plan)?;
        metering::read(self.vault, &permit, vm);
        self.sum.pruned += pruned.forgotten.len();
        let points: Vec<String> = pruned.forgotten.iter().map(|number| format!("{vm}@{number}")).collect();
        self.context.output.text(format!("{vm}: forgot {}", points.join(", ")));
        self.context.output.json(&Event::Pruned { vm: vm.to_string(), points });
        Ok(())
    }

    /// Removes what was deleted once its time is over.
    fn settle(&mut self, protection: &mut Protection<'_>, vm: &VmName) -> Result<(), Error> {
        let (forget, close) =
            (self.context.permit(self.vault, Some(vm))?, self.context.permit(self.vault, Some(vm))?);
        let forgotten = protection.settle(&forget, &close, vm)?.forgotten.len();
        if forgotten > 0 {
            self.sum.pruned += forgotten;
            self.context.output.text(format!("{vm} is purged: forgot {forgotten} points"));
            self.context.output.json(&Event::Purged { vm: vm.to_string(), forgotten });
        }
        Ok(())
    }

    fn warn_of_jobs(&mut self, protection: &Protection<'_>) {
        let protected = |vm: &VmName| protection.instance(vm).is_ok_and(|of| of.state.kind().backs_up());
        let idle: Vec<String> =
            self.jobs.vms().filter(|vm| !protected(vm)).map(ToString::to_string).collect();
        let jobless: Vec<String> = protection
            .instances()
            .filter(|(vm, of)| of.state.kind().backs_up() && self.jobs.backup(vm).is_none())
            .map(|(vm, _)| vm.to_string())
            .collect();
        for vm in idle {
            self.warn(format!("{vm} has a job and is not protected: it is not backed up"));
        }
        for vm in jobless {
            self.warn(format!("{vm} is protected and has no job: it is not backed up"));
        }
    }

    /// Says something once.
    fn warn(&mut self, message: String) {
        if !self.warned.contains(&message) {
            output::warn(&message, &[]);
            self.context.output.json(&Event::Warning { message: message.clone() });
            self.warned.push(message);
        }
    }
}

/// When the newest point was made that a schedule made.
fn scheduled(protection: &Protection<'_>, vm: &VmName) -> Result<Option<Timestamp>, Error> {
    let points = protection.points(vm)?;
    Ok(points.iter().filter(|point| point.kind == PointKind::Scheduled).map(|point| point.time).max())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_longer_up_to_a_bound() {
        let again =
            |failures, retry| Attempt { at: Timestamp(1000), failures }.again(retry).map(|at| at.0 - 1000);
        assert_eq!(again(0, 60_000), None);
        let waits: Vec<_> = (1..=12).map(|failures| again(failures, 60_000).unwrap()).collect();
        assert_eq!(waits[..5], [60_000, 120_000, 240_000, 480_000, 960_000]);
        assert!(waits.is_sorted() && waits[11] == RETRY_MAX_MS);
        assert_eq!(again(u32::MAX, i64::MAX), Some(i64::MAX - 1000), "and no overflow");
        assert_eq!(again(3, 5 * 3_600_000), Some(5 * 3_600_000), "what was asked for is never less");
    }
}
