//! `vmkeep keys rotate-bek`.

use std::sync::Arc;

use serde::Serialize;
use vmkeep::envelope::KeyVault;
use vmkeep::model::{Permit, VmName, op};
use vmkeep::vault::{EpochBytes, Rewritten, Vault, VaultError};

use super::super::sweep::Progress;
use super::Resting;
use crate::args::RotateBekArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::key::KeySource;
use crate::output;

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vm: String,
    /// The epoch that was made; `null` when none was.
    epoch: Option<u32>,
    /// What rested on older epochs before anything was moved.
    old: Vec<Resting>,
    bytes_on_old: u64,
    /// `null` when nothing was to be moved.
    rewrite: Option<Rewrite>,
}

#[derive(Serialize)]
struct Rewrite {
    moved: u64,
    copied: u64,
    /// What points need and is still on older epochs.
    left: u64,
    /// Of that, what no run can move.
    stuck: u64,
    damaged: u64,
}

pub(super) fn run(context: &Context<'_>, args: &RotateBekArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vm.vault.vault)?;
    let vm = &args.vm.vm;
    let permit = context.permit::<op::RotateBek>(&vault, Some(vm))?;
    let (epoch, old) = if args.no_new_epoch {
        (None, on_old(context, &vault, vm)?)
    } else {
        let also = other_keks(context, args)?;
        let rotated = vault.rotate_bek(&permit, vm, &also, context.cancel).map_err(|error| match error {
            VaultError::LineageClosed { vm } => Error::Unprotected(vm),
            error => error.into(),
        })?;
        (Some(rotated.epoch), rotated.old)
    };
    if let Some(epoch) = epoch {
        context.output.text(format!(
            "{vm} has new keys, epoch {epoch}: what is backed up from now on is sealed with them, and old points restore as \
             before"
        ));
    }
    let total: u64 = old.iter().map(|epoch| epoch.bytes).sum();
    context.output.text(format!("on older epochs rest {}{}", bytes::show(total), by_epoch(&old)));
    let rewritten = if args.rewrite {
        let done = rewrite(context, &vault, &permit, args)?;
        tell(context, vm, &done);
        Some(done)
    } else {
        if total > 0 {
            context.output.text(format!("vmkeep keys rotate-bek {vm} --no-new-epoch --rewrite moves them"));
        }
        None
    };
    context.output.json(&Summary {
        vm: vm.to_string(),
        epoch,
        old: old.iter().map(Resting::from).collect(),
        bytes_on_old: total,
        rewrite: rewritten.as_ref().map(Rewrite::from),
    });
    Ok(if rewritten.is_some_and(|done| done.damaged > 0) { Outcome::Damage } else { Outcome::Good })
}

/// The keys, beside the vault's own, that new keys are wrapped by.
fn other_keks(context: &Context<'_>, args: &RotateBekArgs) -> Result<Vec<Arc<dyn KeyVault>>, Error> {
    let files = args.also_key_file.iter().map(|path| KeySource::File(path));
    let stores = args.also_kek.iter().map(|name| KeySource::Store(&context.key.stores, name));
    files.chain(stores).map(KeySource::open).collect()
}

/// What rests on all epochs but the newest.
fn on_old(context: &Context<'_>, vault: &Vault, vm: &VmName) -> Result<Vec<EpochBytes>, Error> {
    let mut found = vault.epoch_bytes(vm, context.cancel)?;
    let domains = vault.keys()?;
    let generation = |domain: &vmkeep::vault::DomainKeysInfo| {
        domain.vms.iter().filter(|(name, _)| name == vm).map(|(_, generation)| *generation).max()
    };
    let newest = domains.iter().filter(|domain| generation(domain).is_some()).max_by_key(|d| generation(d));
    let newest = newest.and_then(|domain| domain.epochs.iter().map(|epoch| epoch.epoch).max());
    found.retain(|epoch| newest.is_some_and(|newest| epoch.epoch < newest));
    Ok(found)
}

fn by_epoch(old: &[EpochBytes]) -> String {
    if old.is_empty() {
        return String::new();
    }
    let parts: Vec<String> =
        old.iter().map(|of| format!("epoch {}: {}", of.epoch, bytes::show(of.bytes))).collect();
    format!(" ({})", parts.join(", "))
}

fn rewrite(
    context: &Context<'_>,
    vault: &Vault,
    permit: &Permit<op::RotateBek>,
    args: &RotateBekArgs,
) -> Result<Rewritten, Error> {
    let (vm, budget) = (&args.vm.vm, args.budget.unwrap_or(u64::MAX));
    let mut progress = Progress::new(context.output, false);
    let done = vault.rewrite(permit, vm, budget, context.cancel, &mut |event| progress.event(&event));
    progress.finish();
    Ok(done.inspect_err(|error| {
        if error.is_cancelled() {
            output::note(
                "stopped; --rewrite --no-new-epoch goes on, and a sweep removes what is there twice until then",
            );
        }
    })?)
}

fn tell(context: &Context<'_>, vm: &VmName, done: &Rewritten) {
    let output = context.output;
    output.text(format!(
        "moved {} to the newest epoch, copied {}; on older epochs is left {}",
        bytes::show(done.moved),
        bytes::show(done.copied),
        bytes::show(done.left)
    ));
    if done.left > done.stuck {
        output.text(format!("vmkeep keys rotate-bek {vm} --no-new-epoch --rewrite goes on"));
    }
    if done.stuck > 0 {
        output.text(format!(
            "of that, {} cannot be moved: its key was destroyed or is not at hand",
            bytes::show(done.stuck)
        ));
    }
    if done.damaged > 0 {
        output.text(format!("{} could not be read and stay; see vmkeep verify", done.damaged));
    }
}

impl From<&Rewritten> for Rewrite {
    fn from(done: &Rewritten) -> Self {
        let &Rewritten { moved, left, stuck, copied, damaged } = done;
        Self { moved, copied, left, stuck, damaged }
    }
}
