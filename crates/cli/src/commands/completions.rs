//! `vmkeep completions`.

use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::context::Context;
use crate::error::{Error, Outcome};

#[allow(clippy::unnecessary_wraps)] // every command has this shape
pub(crate) fn run(context: &Context<'_>, args: &CompletionsArgs) -> Result<Outcome, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vmkeep", &mut script);
    context.output.raw(&script);
    Ok(Outcome::Good)
}
