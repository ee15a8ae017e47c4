//! `vmkeep plan`; and how a plan is shown, for `vmkeep prune` too.

use std::collections::BTreeMap;

use serde::Serialize;
use vmkeep::model::{ByteLen, PointNumber, PointRef, PointSelector, Timestamp, VmName};
use vmkeep::protect::{ProtectError, Protection};
use vmkeep::retention::{Decision, Expiry, Plan, Reason, Verdict};
use vmkeep::vault::VaultError;

use crate::args::PlanArgs;
use crate::context::Context;
use crate::error::{Error, Outcome, chain};
use crate::table::{Column, Table};
use crate::{bytes, duration, output};

#[derive(Serialize)]
#[serde(tag = "type", rename = "point")]
struct PointLine {
    point: String,
    vm: String,
    number: u64,
    created: String,
    created_ms: i64,
    /// `keep` or `expire`.
    decision: &'static str,
    /// The rules that match, the one that governs first.
    tags: Vec<&'static str>,
    rule: &'static str,
    /// `null` when that is no time: see `expiry`.
    expires: Option<String>,
    expires_ms: Option<i64>,
    /// `at`, `when-replaced` or `never`.
    expiry: &'static str,
    /// About what of it goes when all that the plan lets go goes; `null` for a point that stays, and where that cannot be told.
    bytes_freed: Option<u64>,
    /// All reasons in words, the one that governs first.
    reasons: Vec<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "warning")]
struct WarningLine {
    vm: String,
    message: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vms: usize,
    points: usize,
    keep: usize,
    expire: usize,
    /// About how many bytes of disk data go with all that expire.
    bytes_freed: u64,
    /// While there are any, nothing of that VM goes.
    warnings: usize,
}

/// The plans of some VMs.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) vm: VmName,
    pub(super) plan: Plan,
    /// About how many bytes go with each point that goes; empty where that cannot be told.
    pub(super) freed: BTreeMap<PointNumber, ByteLen>,
}

pub(crate) fn run(context: &Context<'_>, args: &PlanArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let vm = args.explain.as_ref().map(|point| &point.vm).or(args.vm.as_ref());
    context.may_view(&vault, vm)?;
    let protection = Protection::open(&vault)?;
    let plans = plans(context, &protection, vm, false)?;
    if let Some(point) = &args.explain {
        return explain(context, &plans, point);
    }
    show(context, &plans, |_| true);
    let all = || plans.iter().flat_map(|planned| planned.plan.verdicts());
    let expire = all().filter(|verdict| verdict.decision == Decision::Expire).count();
    let summary = Summary {
        vms: plans.len(),
        points: all().count(),
        keep: all().count() - expire,
        expire,
        bytes_freed: plans.iter().flat_map(|planned| planned.freed.values()).map(|freed| freed.0).sum(),
        warnings: plans.iter().map(|planned| planned.plan.anomalies().len()).sum(),
    };
    context.output.text(format!(
        "{} points stay, {expire} go with vmkeep prune: about {}",
        summary.keep,
        bytes::show(summary.bytes_freed)
    ));
    context.output.json(&summary);
    Ok(Outcome::Good)
}

/// The plan of a VM, or those of all that are under a policy.
pub(super) fn plans(
    context: &Context<'_>,
    protection: &Protection<'_>,
    vm: Option<&VmName>,
    to_zero: bool,
) -> Result<Vec<Planned>, ProtectError> {
    let vms: Vec<VmName> = match vm {
        Some(vm) => vec![vm.clone()],
        None => protection.instances().map(|(vm, _)| vm.clone()).collect(),
    };
    let mut planned = Vec::with_capacity(vms.len());
    for vm in vms {
        let plan = if to_zero { protection.plan_to_zero(&vm)? } else { protection.plan(&vm)? };
        // That sizes cannot be told is no reason not to plan.
        let freed = match protection.bytes_freed(&vm, &plan, context.cancel) {
            Ok(freed) => freed,
            Err(error) => {
                context.cancel.check().map_err(VaultError::from)?;
                output::warn(&format!("what is freed of {vm} cannot be told"), &chain(&error));
                BTreeMap::new()
            }
        };
        planned.push(Planned { vm, plan, freed });
    }
    Ok(planned)
}

/// Prints the points of plans that `wanted` says, and the warnings.
pub(super) fn show(context: &Context<'_>, plans: &[Planned], wanted: impl Fn(&Verdict) -> bool) {
    let left = ["POINT", "CREATED (UTC)", "TAGS", "RULE"].map(Column::Left);
    let mut table =
        Table::new(left.into_iter().chain([Column::Left("EXPIRES"), Column::Right("BYTES FREED")]));
    for Planned { vm, plan, freed } in plans {
        for verdict in plan.verdicts().iter().filter(|verdict| wanted(verdict)) {
            let line = line(vm, plan, verdict, freed.get(&verdict.number).copied());
            table.row([
                line.point.clone(),
                line.created.clone(),
                line.tags.join(" "),
                line.rule.to_owned(),
                expires_in(verdict, plan.now()),
                line.bytes_freed.map_or_else(|| "-".to_owned(), bytes::show),
            ]);
            context.output.json(&line);
        }
    }
    table.lines().for_each(|line| context.output.text(line));
    for Planned { vm, plan, .. } in plans {
        for anomaly in plan.anomalies() {
            let message = format!("nothing of {vm} is removed: {anomaly}");
            let advice = format!("when the times are right: vmkeep protect {vm} --trust NUMBER");
            if !context.output.is_json() {
                output::warn(&message, &[advice]);
            }
            context.output.json(&WarningLine { vm: vm.to_string(), message });
        }
    }
}

fn line(vm: &VmName, plan: &Plan, verdict: &Verdict, freed: Option<ByteLen>) -> PointLine {
    let reasons = plan.reasons(verdict);
    let mut tags: Vec<&'static str> = reasons.iter().filter_map(tag).collect();
    tags.dedup();
    let expires = expiry_at(verdict.expires);
    PointLine {
        point: format!("{vm}@{}", verdict.number),
        vm: vm.to_string(),
        number: verdict.number.0,
        created: verdict.time.to_string(),
        created_ms: verdict.time.0,
        decision: match verdict.decision {
            Decision::Keep => "keep",
            Decision::Expire => "expire",
        },
        tags,
        rule: plan.governing(verdict).map_or("none", word),
        expires: expires.map(|at| at.to_string()),
        expires_ms: expires.map(|at| at.0),
        expiry: match verdict.expires {
            Expiry::At(_) => "at",
            Expiry::WhenReplaced => "when-replaced",
            Expiry::Never => "never",
        },
        bytes_freed: freed.map(|freed| freed.0),
        reasons: plan.explain(verdict),
    }
}

/// The rule that tags or counts a point, when that is the reason.
fn tag(reason: &Reason) -> Option<&'static str> {
    match reason {
        Reason::Tag { rule, .. } => Some(rule.name()),
        Reason::Counted { bucket, .. } | Reason::Oldest { bucket } => Some(bucket.name()),
        Reason::Within { bucket } => Some(bucket.within_name()),
        Reason::TagList { .. } => Some("tags"),
        _ => None,
    }
}

/// A reason in a word.
fn word(reason: &Reason) -> &'static str {
    tag(reason).unwrap_or(match reason {
        Reason::Own { .. } => "own expiry",
        Reason::Held => "held",
        Reason::Immutable { .. } => "immutable",
        Reason::Minimum { .. } => "minimum",
        Reason::Newest => "newest",
        Reason::Stopped { .. } => "stopped",
        Reason::Incomplete => "failed backup",
        _ => "none",
    })
}

/// The time of an expiry that is one.
pub(super) fn expiry_at(expiry: Expiry) -> Option<Timestamp> {
    match expiry {
        Expiry::At(at) => Some(at),
        Expiry::WhenReplaced | Expiry::Never => None,
    }
}

fn expires_in(verdict: &Verdict, now: Timestamp) -> String {
    match (verdict.decision, verdict.expires) {
        (Decision::Expire, _) => "now".to_owned(),
        (_, Expiry::At(at)) if at > now => format!("in {}", duration::show(at.0 - now.0)),
        (_, Expiry::At(_)) => "overdue".to_owned(),
        (_, Expiry::WhenReplaced) => "when replaced".to_owned(),
        (_, Expiry::Never) => "never".to_owned(),
    }
}

fn explain(context: &Context<'_>, plans: &[Planned], point: &PointRef) -> Result<Outcome, Error> {
    let none = || Error::usage(format!("{point} is no point that a plan decides on; vmkeep plan lists them"));
    let Some(Planned { vm, plan, freed }) = plans.first() else { return Err(none()) };
    let verdict = match point.selector {
        PointSelector::Number(number) => plan.verdicts().iter().find(|verdict| verdict.number == number),
        PointSelector::Latest => plan.verdicts().iter().max_by_key(|verdict| verdict.number),
    };
    let verdict = verdict.ok_or_else(none)?;
    let line = line(vm, plan, verdict, freed.get(&verdict.number).copied());
    let zone = &plan.policy().zone;
    context.output.text(format!("{} of {}", line.point, zone.show(verdict.time)));
    line.reasons.iter().for_each(|reason| context.output.text(format!("  {reason}")));
    let verb = match verdict.decision {
        Decision::Expire => "goes with vmkeep prune".to_owned(),
        Decision::Keep => match verdict.expires {
            Expiry::At(at) => format!("stays until {}", zone.show(at)),
            Expiry::WhenReplaced => "stays until enough newer points have come".to_owned(),
            Expiry::Never => "stays until somebody removes it".to_owned(),
        },
    };
    context.output.text(verb);
    context.output.json(&line);
    let expire = usize::from(verdict.decision == Decision::Expire);
    let (bytes_freed, warnings) = (line.bytes_freed.unwrap_or(0), plan.anomalies().len());
    context.output.json(&Summary { vms: 1, points: 1, keep: 1 - expire, expire, bytes_freed, warnings });
    Ok(Outcome::Good)
}
