//! `vmkeep guard`.

use serde::Serialize;
use vmkeep::model::op;
use vmkeep::protect::Protection;
use vmkeep::retention::{Immutability, Irreversible, SoftDelete};
use vmkeep::vault::Vault;

use crate::args::{GuardArgs, GuardCommand, ImmutabilityArg, ImmutabilityArgs, SoftDeleteArgs};
use crate::confirm::word;
use crate::context::Context;
use crate::error::{Error, Outcome};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    /// `disabled`, `unlocked` or `locked`.
    immutability: String,
    /// For how many days deleted VMs can be had back; `null` for none.
    soft_delete_days: Option<u32>,
    soft_delete_always_on: bool,
}

pub(crate) fn run(context: &Context<'_>, args: &GuardArgs) -> Result<Outcome, Error> {
    match &args.command {
        GuardCommand::Show(args) => {
            let vault = context.open_vault(&args.vault)?;
            context.may_view(&vault, None)?;
            show(context, &Protection::open(&vault)?);
        }
        GuardCommand::Immutability(args) => {
            immutability(context, &context.open_vault(&args.vault.vault)?, args)?;
        }
        GuardCommand::SoftDelete(args) => {
            soft_delete(context, &context.open_vault(&args.vault.vault)?, args)?;
        }
    }
    Ok(Outcome::Good)
}

fn show(context: &Context<'_>, protection: &Protection<'_>) {
    let (immutability, soft_delete) = (protection.immutability(), protection.soft_delete());
    context.output.text(format!("immutability: {immutability}"));
    context.output.text(format!("soft delete:  {soft_delete}"));
    context.output.json(&Summary {
        immutability: immutability.to_string(),
        soft_delete_days: soft_delete.days(),
        soft_delete_always_on: matches!(soft_delete, SoftDelete::AlwaysOn { .. }),
    });
}

fn immutability(context: &Context<'_>, vault: &Vault, args: &ImmutabilityArgs) -> Result<(), Error> {
    let to = match args.to {
        ImmutabilityArg::Disabled => Immutability::Disabled,
        ImmutabilityArg::Unlocked => Immutability::Unlocked,
        ImmutabilityArg::Locked => Immutability::Locked,
    };
    let mut protection = Protection::open(vault)?;
    let confirmed = match (to, args.confirm.as_deref()) {
        (Immutability::Locked, Some(typed)) => word(&protection.locking()?, Some(typed))?,
        _ => None,
    };
    let weaken = if to < protection.immutability() {
        Some(context.permit::<op::ShortenRetention>(vault, None)?)
    } else {
        None
    };
    let permit = context.permit(vault, None)?;
    protection.set_immutability(&permit, weaken.as_ref(), to, confirmed.as_ref())?;
    show(context, &protection);
    Ok(())
}

fn soft_delete(context: &Context<'_>, vault: &Vault, args: &SoftDeleteArgs) -> Result<(), Error> {
    let to = match (args.days, args.always_on) {
        (None, _) => SoftDelete::Disabled,
        (Some(days), false) => SoftDelete::Enabled { days },
        (Some(days), true) => SoftDelete::AlwaysOn { days },
    };
    let mut protection = Protection::open(vault)?;
    let confirmed = match to {
        SoftDelete::AlwaysOn { days } => {
            word(&Irreversible::AlwaysOnSoftDelete { days }, args.confirm.as_deref())?
        }
        _ => None,
    };
    let weaken = if protection.soft_delete().is_weakened_by(to) {
        Some(context.permit::<op::DisableSoftDelete>(vault, None)?)
    } else {
        None
    };
    let permit = context.permit(vault, None)?;
    protection.set_soft_delete(&permit, weaken.as_ref(), to, confirmed.as_ref())?;
    show(context, &protection);
    Ok(())
}
