//! `vmkeep stop`, `vmkeep resume`, `vmkeep undelete-vm` and `vmkeep purge`.

use serde::Serialize;
use vmkeep::model::VmName;
use vmkeep::protect::{Protection, Stop};
use vmkeep::retention::{Confirmation, Event, State};

use crate::args::{PurgeArgs, StopArgs, VmArgs};
use crate::confirm::{confirm, word};
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::metering;

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vm: String,
    /// Where its protection stands now.
    state: &'static str,
    /// Until when its points can be had back, while they are deleted.
    until: Option<String>,
    until_ms: Option<i64>,
    /// Points that were forgotten, for the VM is purged.
    forgotten: usize,
    /// Points of a purged VM that stay because they are held.
    held: usize,
}

pub(crate) fn stop(context: &Context<'_>, args: &StopArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vm.vault.vault)?;
    let vm = &args.vm.vm;
    let mut protection = Protection::open(&vault)?;
    if args.how.delete {
        let permit = context.permit(&vault, Some(vm))?;
        let confirmed = confirmed(&protection, vm, Event::StopDelete, args.confirm.as_deref())?;
        let points = protection.points(vm)?.len();
        let question = match protection.soft_delete().days() {
            Some(days) => {
                format!("Delete the {points} points of {vm}? They can be had back for {days} days.")
            }
            None => format!("Delete the {points} points of {vm} for good?"),
        };
        confirm(context.output, args.yes || confirmed.is_some(), &question)?;
        protection.delete(&permit, vm, confirmed.as_ref())?;
        metering::read(&vault, &permit, vm);
    } else {
        let how = if args.how.retain { Stop::Retain } else { Stop::ByPolicy };
        let permit = context.permit(&vault, Some(vm))?;
        protection.stop(&permit, vm, how)?;
        metering::read(&vault, &permit, vm);
    }
    // Without soft delete it is purged by now, and its points go at once.
    if matches!(protection.instance(vm)?.state, State::Purged { .. }) {
        return settle(context, &vault, &mut protection, vm);
    }
    report(context, &protection, vm, (0, 0))
}

pub(crate) fn resume(context: &Context<'_>, args: &VmArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let mut protection = Protection::open(&vault)?;
    let permit = context.permit(&vault, Some(&args.vm))?;
    protection.resume(&permit, &args.vm)?;
    metering::read(&vault, &permit, &args.vm);
    report(context, &protection, &args.vm, (0, 0))
}

pub(crate) fn undelete(context: &Context<'_>, args: &VmArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let mut protection = Protection::open(&vault)?;
    let permit = context.permit(&vault, Some(&args.vm))?;
    protection.undelete(&permit, &args.vm)?;
    metering::read(&vault, &permit, &args.vm);
    report(context, &protection, &args.vm, (0, 0))
}

pub(crate) fn purge(context: &Context<'_>, args: &PurgeArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vm.vault.vault)?;
    let vm = &args.vm.vm;
    let mut protection = Protection::open(&vault)?;
    let now = vault.clock().now();
    let over = match protection.instance(vm)?.state {
        State::SoftDeleted { until, .. } => now >= until,
        State::Purged { .. } => true,
        _ => false,
    };
    if !over {
        let confirmed = confirmed(&protection, vm, Event::Purge, args.confirm.as_deref())?;
        protection.purge(&context.permit(&vault, Some(vm))?, vm, confirmed.as_ref())?;
    }
    settle(context, &vault, &mut protection, vm)
}

fn confirmed(
    protection: &Protection<'_>,
    vm: &VmName,
    event: Event,
    typed: Option<&str>,
) -> Result<Option<Confirmation>, Error> {
    match protection.irreversible(vm, event)? {
        Some(what) => word(&what, typed),
        None => Ok(None),
    }
}

fn settle(
    context: &Context<'_>,
    vault: &vmkeep::vault::Vault,
    protection: &mut Protection<'_>,
    vm: &VmName,
) -> Result<Outcome, Error> {
    let (forget, close) = (context.permit(vault, Some(vm))?, context.permit(vault, Some(vm))?);
    let settled = protection.settle(&forget, &close, vm)?;
    metering::read(vault, &forget, vm);
    report(context, protection, vm, (settled.forgotten.len(), settled.held.len()))
}

fn report(
    context: &Context<'_>,
    protection: &Protection<'_>,
    vm: &VmName,
    (forgotten, held): (usize, usize),
) -> Result<Outcome, Error> {
    let state = protection.instance(vm)?.state;
    let until = match state {
        State::SoftDeleted { until, .. } => Some(until),
        _ => None,
    };
    context.output.text(match until {
        Some(until) => format!("{vm} is soft-deleted; until {until} vmkeep undelete-vm has its points back"),
        None => format!("{vm} is {}", state.kind()),
    });
    if forgotten + held > 0 {
        context.output.text(format!("forgot {forgotten} points, {held} stay because they are held"));
    }
    context.output.json(&Summary {
        vm: vm.to_string(),
        state: name(state),
        until: until.map(|until| until.to_string()),
        until_ms: until.map(|until| until.0),
        forgotten,
        held,
    });
    Ok(Outcome::Good)
}

/// A state in a word, for programs.
pub(super) fn name(state: State) -> &'static str {
    match state {
        State::Unprotected => "unprotected",
        State::Protected => "protected",
        State::VmGone { .. } => "vm-gone",
        State::StoppedRetain { .. } => "stopped-retain",
        State::StoppedByPolicy { .. } => "stopped-by-policy",
        State::SoftDeleted { .. } => "soft-deleted",
        State::Purged { .. } => "purged",
    }
}
