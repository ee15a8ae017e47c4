//! The commands, one file each.

mod backup;
mod completions;
mod diff;
mod forget;
mod init;
mod points;
mod restore;
mod verify;

use crate::args::Command;
use crate::context::Context;
use crate::error::{Error, Outcome};

pub(crate) fn run(context: &Context<'_>, command: Command) -> Result<Outcome, Error> {
    match command {
        Command::Init(args) => init::run(context, &args),
        Command::Backup(args) => backup::run(context, args),
        Command::Points(args) => points::run(context, &args),
        Command::Diff(args) => diff::run(context, &args),
        Command::Verify(args) => verify::run(context, &args),
        Command::Restore(args) => restore::run(context, &args),
        Command::Forget(args) => forget::run(context, &args),
        Command::Completions(args) => completions::run(context, &args),
    }
}
