//! `vmkeep prune`.

use serde::Serialize;
use vmkeep::model::op;
use vmkeep::protect::{Protection, Pruned};
use vmkeep::retention::Decision;

use super::plan::{self, Planned};
use crate::args::PruneArgs;
use crate::confirm::{confirm, word};
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::metering;

#[derive(Serialize)]
#[serde(tag = "type", rename = "spared")]
struct SparedLine {
    point: String,
    why: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    dry_run: bool,
    vms: usize,
    /// Points that were forgotten; with `dry_run`, that would be.
    forgotten: Vec<String>,
    spared: usize,
    gone: usize,
}

pub(crate) fn run(context: &Context<'_>, args: &PruneArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let protection = Protection::open(&vault)?;
    let plans = plan::plans(context, &protection, args.vm.as_ref(), args.to_zero)?;
    let permits = plans.iter().map(|planned| context.permit::<op::Forget>(&vault, Some(&planned.vm)));
    let permits = permits.collect::<Result<Vec<_>, _>>()?;
    plan::show(context, &plans, |verdict| verdict.decision == Decision::Expire);
    let goes: Vec<String> = plans.iter().flat_map(expired).collect();
    let mut summary =
        Summary { dry_run: args.dry_run, vms: plans.len(), forgotten: goes, spared: 0, gone: 0 };
    if args.dry_run || summary.forgotten.is_empty() {
        context.output.text(format!("{} points would go", summary.forgotten.len()));
        context.output.json(&summary);
        return Ok(Outcome::Good);
    }
    let mut confirmed = Vec::with_capacity(plans.len());
    for Planned { vm, plan, .. } in &plans {
        let what = Protection::pruning_to_zero(vm, plan);
        confirmed.push(word(&what, args.confirm.as_deref().filter(|_| args.to_zero))?);
    }
    // Whoever gives the word has said yes; without it the library refuses.
    let yes = args.yes || args.to_zero;
    confirm(context.output, yes, &format!("Forget these {} points?", summary.forgotten.len()))?;
    summary.forgotten.clear();
    for ((Planned { vm, plan, .. }, permit), confirmed) in plans.iter().zip(&permits).zip(&confirmed) {
        context.cancel.check()?;
        let Pruned { forgotten, spared, gone } = if args.to_zero {
            let shorten = context.permit(&vault, Some(vm))?;
            protection.prune_to_zero(permit, &shorten, vm, plan, confirmed.as_ref())?
        } else {
            protection.prune(permit, vm, plan)?
        };
        metering::read(&vault, permit, vm);
        summary.forgotten.extend(forgotten.iter().map(|number| format!("{vm}@{number}")));
        summary.gone += gone.len();
        summary.spared += spared.len();
        for spared in spared {
            let (point, why) = (format!("{vm}@{}", spared.number), spared.why);
            context.output.text(format!("{point} stays after all: {why}"));
            context.output.json(&SparedLine { point, why });
        }
    }
    context.output.text(format!(
        "forgot {} points; vmkeep sweep frees their space, until then vmkeep undelete has them back",
        summary.forgotten.len()
    ));
    context.output.json(&summary);
    Ok(Outcome::Good)
}

/// The points of a plan that go.
fn expired(planned: &Planned) -> impl Iterator<Item = String> {
    let Planned { vm, plan, .. } = planned;
    plan.expired().map(move |verdict| format!("{vm}@{}", verdict.number))
}
