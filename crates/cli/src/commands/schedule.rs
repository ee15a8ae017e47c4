//! `vmkeep schedule`.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;
use vmkeep::model::{Timestamp, VmName};
use vmkeep::protect::{ProtectError, Protection};
use vmkeep::retention::{Edge, Limits, Run, Schedule, SpreadWarning, runs};

use crate::args::ScheduleArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::timeline::{Row, Timeline};
use crate::{output, policy_file};

#[derive(Serialize)]
#[serde(tag = "type", rename = "run")]
struct RunLine<'a> {
    vm: String,
    policy: &'a str,
    at: String,
    at_ms: i64,
    /// In the zone of the policy.
    local: String,
    /// `gap` or `fold` where the clock is set forward or back over the time that the schedule says; else `null`.
    edge: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "warning")]
struct WarningLine<'a> {
    policy: &'a str,
    message: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vms: usize,
    runs: usize,
    from: String,
    to: String,
}

pub(crate) fn run(context: &Context<'_>, args: &ScheduleArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, None)?;
    let protection = Protection::open(&vault)?;
    let from = vault.clock().now();
    let to = Timestamp(from.0.saturating_add(i64::from(args.days) * 86_400_000));
    let output = context.output;
    let mut rows = Vec::new();
    for (vm, instance) in protection.instances().filter(|(_, of)| of.state.kind().backs_up()) {
        let policy = &protection.policy(&instance.policy)?.policy;
        let due: Vec<Run> =
            runs(&policy.schedule, &policy.zone, from).take_while(|run| run.at < to).collect();
        for run in &due {
            output.json(&RunLine {
                vm: vm.to_string(),
                policy: &instance.policy,
                at: run.at.to_string(),
                at_ms: run.at.0,
                local: policy.zone.show(run.at),
                edge: match run.edge {
                    Edge::None => None,
                    Edge::Gap => Some("gap"),
                    Edge::Fold => Some("fold"),
                },
            });
        }
        rows.push(Row {
            name: vm.to_string(),
            about: format!("{}, {}", policy_file::schedule(&policy.schedule), policy.zone),
            at: due.iter().map(|run| run.at).collect(),
        });
    }
    warn(context, &protection)?;
    let timeline = Timeline { from, days: u32::from(args.days), rows };
    timeline.lines().iter().for_each(|line| output.text(line));
    if let Some(path) = &args.svg {
        let failed = |source| Error::File { what: "write", path: path.clone(), source };
        fs::write(path, timeline.svg()).map_err(failed)?;
    }
    output.json(&Summary {
        vms: timeline.rows.len(),
        runs: timeline.rows.iter().map(|row| row.at.len()).sum(),
        from: from.to_string(),
        to: to.to_string(),
    });
    Ok(Outcome::Good)
}

/// Says where many VMs start at once, by Azure's guidance.
fn warn(context: &Context<'_>, protection: &Protection<'_>) -> Result<(), ProtectError> {
    let mut under: BTreeMap<&str, Vec<&VmName>> = BTreeMap::new();
    for (vm, instance) in protection.instances().filter(|(_, of)| of.state.kind().backs_up()) {
        under.entry(&instance.policy).or_default().push(vm);
    }
    let advised = Limits::default().vms_per_policy;
    for (policy, vms) in under {
        let mut warnings = Vec::new();
        if vms.len() > usize::try_from(advised).unwrap_or(usize::MAX) {
            warnings.push(SpreadWarning::ManyVms { vms: vms.len(), advised });
        }
        let midnight = match &protection.policy(policy)?.policy.schedule {
            Schedule::Daily { at } | Schedule::Weekly { at, .. } | Schedule::Hourly { start: at, .. } => {
                at.minutes() == 0
            }
            Schedule::OnDemandOnly => false,
        };
        if midnight && vms.len() > 1 {
            warnings.push(SpreadWarning::MidnightPile { vms: vms.len() });
        }
        for warning in warnings {
            let message = format!("policy {policy}: {warning}");
            if !context.output.is_json() {
                output::warn(&message, &[]);
            }
            context.output.json(&WarningLine { policy, message });
        }
    }
    Ok(())
}
