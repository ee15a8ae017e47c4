//! `vmkeep keys`.

use super::guest_keys;
use crate::args::{KeysArgs, KeysCommand};
use crate::context::Context;
use crate::error::{Error, Outcome};

pub(crate) fn run(context: &Context<'_>, args: &KeysArgs) -> Result<Outcome, Error> {
    match &args.command {
        KeysCommand::Restore(args) => guest_keys::restore(context, args),
        KeysCommand::Export(args) => guest_keys::export(context, args),
    }
}
