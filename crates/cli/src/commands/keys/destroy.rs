//! `vmkeep keys destroy`.

use std::collections::BTreeMap;

use serde::Serialize;
use vmkeep::model::{PointRef, PointSelector, Timestamp};
use vmkeep::protect::Protection;
use vmkeep::vault::{DestroyPlan, Destroyed, EpochBytes, Vault};

use super::super::sweep::count;
use super::{Resting, numbers};
use crate::args::DestroyArgs;
use crate::bytes;
use crate::confirm::confirm;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::output::{self, Output};

/// What would be lost.
#[derive(Serialize)]
#[serde(tag = "type", rename = "plan")]
struct PlanLine<'a> {
    vm: &'a str,
    domain: String,
    epochs: Vec<Epoch>,
    points: Vec<LostPoint>,
    /// Points whose captured keys of disks can never be put back.
    guest_keys: Vec<String>,
    bytes: u64,
    closes: bool,
    sessions: Vec<String>,
    other_keks: &'a [String],
    /// Other VMs whose data is sealed with the same keys.
    shared_with: &'a [String],
    resumes: bool,
    /// Other lines of points of the VM that have data keys and are left as they are.
    earlier: &'a [u32],
}

#[derive(Serialize)]
struct Epoch {
    #[serde(flatten)]
    resting: Resting,
    /// Points that need it.
    points: u64,
}

#[derive(Serialize)]
struct LostPoint {
    point: String,
    /// `null` when the point cannot be read.
    created: Option<String>,
    created_ms: Option<i64>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary<'a> {
    vm: &'a str,
    dry_run: bool,
    epochs: Vec<u32>,
    /// Points that cannot be restored any more.
    points: Vec<String>,
    bytes: u64,
    /// The protection of the VM was ended by it.
    closed: bool,
    ended: Vec<String>,
    /// Key objects that were removed.
    removed: u64,
}

/// A plan, and what is told beside it.
struct Told<'a> {
    plan: &'a DestroyPlan,
    created: BTreeMap<PointRef, Timestamp>,
    shared_with: Vec<String>,
}

pub(super) fn run(context: &Context<'_>, args: &DestroyArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vm.vault.vault)?;
    let vm = &args.vm.vm;
    if args.dry_run {
        context.may_view(&vault, Some(vm))?;
        let plan = plan(context, &vault, args)?;
        show(context.output, &Told::of(&vault, &plan)?);
        context.output.text("nothing was changed");
        context.output.json(&Summary::of_plan(&plan));
        return Ok(Outcome::Good);
    }
    let permit = context.permit(&vault, Some(vm))?;
    let plan = plan(context, &vault, args)?;
    show(context.output, &Told::of(&vault, &plan)?);
    // What was begun has lost its points, and is finished.
    if !plan.resumes {
        Protection::open(&vault)?.may_destroy(&plan.points)?;
    }
    confirm(
        context.output,
        args.yes,
        &format!("Destroy the data keys of {vm}, {}, for ever?", epochs(&plan)),
    )?;
    let done = vault.destroy_keys(&permit, &plan, context.cancel).inspect_err(|error| {
        if error.is_cancelled() {
            output::note("stopped; what has a tombstone is lost, and the same command finishes it");
        }
    })?;
    report(context.output, &plan, &done);
    Ok(Outcome::Good)
}

fn plan(context: &Context<'_>, vault: &Vault, args: &DestroyArgs) -> Result<DestroyPlan, Error> {
    let vm = &args.vm.vm;
    Ok(match args.generation {
        Some(generation) => vault.destroy_plan_of(vm, generation, args.epoch, context.cancel)?,
        None => vault.destroy_plan(vm, args.epoch, context.cancel)?,
    })
}

impl<'a> Told<'a> {
    fn of(vault: &Vault, plan: &'a DestroyPlan) -> Result<Self, Error> {
        let points = vault.history(&plan.vm)?.into_iter().filter_map(|(_, point)| point.ok());
        let created = points
            .filter(|point| point.id.lineage == plan.lineage)
            .map(|point| {
                let selector = PointSelector::Number(point.id.number);
                (PointRef { vm: point.vm, selector }, point.created)
            })
            .collect();
        let domains = vault.keys()?.into_iter().filter(|domain| domain.domain == plan.domain);
        let vms = domains.flat_map(|domain| domain.vms).filter(|(vm, _)| *vm != plan.vm);
        Ok(Self { plan, created, shared_with: vms.map(|(vm, _)| vm.to_string()).collect() })
    }

    fn lost(&self, point: &PointRef) -> LostPoint {
        let created = self.created.get(point);
        LostPoint {
            point: point.to_string(),
            created: created.map(ToString::to_string),
            created_ms: created.map(|created| created.0),
        }
    }
}

fn show(output: &Output, told: &Told<'_>) {
    let plan = told.plan;
    for line in lines(told) {
        output.text(line);
    }
    let of_epoch = |epoch: &EpochBytes| Epoch {
        resting: Resting::from(epoch),
        points: plan.points_of.get(&epoch.epoch).copied().unwrap_or(0),
    };
    output.json(&PlanLine {
        vm: plan.vm.as_str(),
        domain: plan.domain.to_string(),
        epochs: plan.epochs.iter().map(of_epoch).collect(),
        points: plan.points.iter().map(|point| told.lost(point)).collect(),
        guest_keys: plan.guest_keys.iter().map(ToString::to_string).collect(),
        bytes: resting(plan),
        closes: plan.closes,
        sessions: plan.sessions.iter().map(ToString::to_string).collect(),
        other_keks: &plan.other_keks,
        shared_with: &told.shared_with,
        resumes: plan.resumes,
        earlier: &plan.earlier,
    });
}

/// What a person is told before it is done.
fn lines(told: &Told<'_>) -> Vec<String> {
    let (plan, vm) = (told.plan, &told.plan.vm);
    let mut lines =
        vec![format!("the data keys of {vm}, {}: {} rest on them", epochs(plan), bytes::show(resting(plan)))];
    if plan.resumes {
        lines.push(
            "some of them were destroyed before; what is left to do of that is done as well".to_owned(),
        );
    }
    if plan.points.is_empty() {
        lines.push("no point needs them".to_owned());
    } else {
        let points = count(plan.points.len() as u64, "point");
        lines.push(format!("{points} can never be restored again:"));
        lines.extend(plan.points.iter().map(|point| {
            let created = told.created.get(point).map(|created| format!("  {created}"));
            format!("  {point}{}", created.unwrap_or_default())
        }));
    }
    if !plan.guest_keys.is_empty() {
        lines.push(format!(
            "captured keys of disks that can never be put back: those of {}",
            joined(&plan.guest_keys)
        ));
    }
    if plan.closes {
        lines.push(format!(
            "the protection of {vm} ends by it; its next backup is a full one that begins with point 1"
        ));
    }
    if !plan.sessions.is_empty() {
        lines.push(format!("backups that have not finished and are ended: {}", joined(&plan.sessions)));
    }
    if !plan.other_keks.is_empty() {
        lines.push(format!(
            "other keys that wrap them, which open nothing of this any more, not even what there was: {}",
            plan.other_keks.join(", ")
        ));
    }
    if !told.shared_with.is_empty() {
        lines.push(format!(
            "other VMs whose data is sealed with the same keys, and is lost as well: {}",
            told.shared_with.join(", ")
        ));
    }
    if !plan.earlier.is_empty() {
        let earlier: Vec<String> = plan.earlier.iter().map(ToString::to_string).collect();
        lines.push(format!(
            "other lines of points of {vm} keep their data keys (--generation names one): {}",
            earlier.join(", ")
        ));
    }
    lines.push("what this cannot do:".to_owned());
    lines.push(
        "  whoever kept a copy of one of these key objects (a copy of the vault, say) and a key that opens it still reads all"
            .to_owned(),
    );
    lines.push("  what was restored before stays where it is".to_owned());
    lines.push("  keys that several VMs share cannot be destroyed for one of them alone".to_owned());
    lines
}

fn report(output: &Output, plan: &DestroyPlan, done: &Destroyed) {
    let vm = &plan.vm;
    output.text(format!(
        "destroyed the data keys of {vm}, {}; {} removed",
        epochs(plan),
        count(done.removed, "key object")
    ));
    if !done.points.is_empty() {
        output.text(format!("points that can never be restored again: {}", numbers(&done.points)));
        output.text("to free their space, forget them and sweep");
    }
    if done.closed {
        output.text(format!("ended the protection of {vm}"));
    }
    if !done.ended.is_empty() {
        output.text(format!("ended backups: {}", joined(&done.ended)));
    }
    output.json(&Summary {
        points: done.points.iter().map(ToString::to_string).collect(),
        dry_run: false,
        closed: done.closed,
        ended: done.ended.iter().map(ToString::to_string).collect(),
        removed: done.removed,
        ..Summary::of_plan(plan)
    });
}

impl<'a> Summary<'a> {
    /// Of a plan that is not carried out.
    fn of_plan(plan: &'a DestroyPlan) -> Self {
        Self {
            vm: plan.vm.as_str(),
            dry_run: true,
            epochs: plan.epochs.iter().map(|epoch| epoch.epoch).collect(),
            points: plan.points.iter().map(ToString::to_string).collect(),
            bytes: resting(plan),
            closed: false,
            ended: Vec::new(),
            removed: 0,
        }
    }
}

fn resting(plan: &DestroyPlan) -> u64 {
    plan.epochs.iter().map(|epoch| epoch.bytes).sum()
}

fn epochs(plan: &DestroyPlan) -> String {
    let numbers: Vec<String> = plan.epochs.iter().map(|epoch| epoch.epoch.to_string()).collect();
    let name = if numbers.len() == 1 { "epoch" } else { "epochs" };
    format!("{name} {}", numbers.join(", "))
}

fn joined(ids: &[impl ToString]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
