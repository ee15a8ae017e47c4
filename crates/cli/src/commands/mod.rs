//! The commands, one file each.

mod backup;
mod bill;
mod close;
mod completions;
mod diff;
mod estimate;
mod forecast;
mod forget;
mod guard;
mod guest_keys;
mod hold;
mod init;
mod inspect;
mod keys;
mod keyvault;
mod life;
mod live;
mod log;
mod pins;
mod plan;
mod points;
mod policy;
mod protect;
mod prune;
mod release;
mod repair;
mod restore;
mod roles;
mod run;
mod schedule;
mod sessions;
mod status;
mod sweep;
mod undelete;
mod unpin;
mod usage;
mod verify;
mod void;
mod watchdog;

use crate::args::Command;
use crate::context::Context;
use crate::error::{Error, Outcome};

pub(crate) fn run(context: &Context<'_>, command: Command) -> Result<Outcome, Error> {
    match command {
        Command::Init(args) => init::run(context, &args),
        Command::Backup(args) => backup::run(context, &args),
        Command::Estimate(args) => estimate::run(context, &args),
        Command::Points(args) => points::run(context, &args),
        Command::Diff(args) => diff::run(context, &args),
        Command::Verify(args) => verify::run(context, &args),
        Command::Repair(args) => repair::run(context, &args),
        Command::Restore(args) => restore::run(context, &args),
        Command::Forget(args) => forget::run(context, &args),
        Command::Undelete(args) => undelete::run(context, &args),
        Command::Hold(args) => hold::run(context, &args),
        Command::Release(args) => release::run(context, &args),
        Command::Sweep(args) => sweep::run(context, &args),
        Command::Pins(args) => pins::run(context, &args),
        Command::Unpin(args) => unpin::run(context, &args),
        Command::Sessions(args) => sessions::run(context, &args),
        Command::Void(args) => void::run(context, &args),
        Command::Close(args) => close::run(context, &args),
        Command::Keys(args) => keys::run(context, &args),
        Command::Keyvault(args) => keyvault::run(context, &args),
        Command::Log(args) => log::run(context, &args),
        Command::Roles(args) => roles::run(context, &args),
        Command::Inspect(args) => inspect::run(context, &args),
        Command::Watchdog(args) => watchdog::run(&args),
        Command::Policy(args) => policy::run(context, &args),
        Command::Protect(args) => protect::run(context, &args),
        Command::Plan(args) => plan::run(context, &args),
        Command::Prune(args) => prune::run(context, &args),
        Command::Schedule(args) => schedule::run(context, &args),
        Command::Status(args) => status::run(context, &args),
        Command::Run(args) => run::run(context, &args),
        Command::Stop(args) => life::stop(context, &args),
        Command::Resume(args) => life::resume(context, &args),
        Command::UndeleteVm(args) => life::undelete(context, &args),
        Command::Purge(args) => life::purge(context, &args),
        Command::Guard(args) => guard::run(context, &args),
        Command::Usage(args) => usage::run(context, &args),
        Command::Bill(args) => bill::run(context, &args),
        Command::Completions(args) => completions::run(context, &args),
    }
}
