//! The `vmkeep` command: parses, calls the library, prints.
//!
//! ```text
//! args ─ parse ─► commands::* ─ vmkeep::{backup, restore, vault} ─► Outcome ─► exit code
//!                     └─ output: lines for people, or JSON lines; progress: bars, or JSON events
//! ```
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed, or cancelled by Ctrl-C |
//! | 2 | the command line cannot be carried out as written |
//! | 3 | the vault holds damaged data |
//! | 4 | `vmkeep status` found something to look at |
//! | 5 | `vmkeep status` found a VM that cannot be restored, or damage |
//! | 130 | ended by a second Ctrl-C |

mod args;
mod bytes;
mod commands;
mod confirm;
mod context;
mod disk_arg;
mod duration;
mod error;
mod jobs;
mod key;
mod metering;
mod output;
mod paths;
mod policy_file;
mod progress;
mod staging;
mod stores;
mod table;
mod timeline;
mod tracking_arg;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use vmkeep::model::CancelToken;

use crate::args::Cli;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::output::Output;

/// The command line cannot be carried out as written.
const EXIT_USAGE: u8 = 2;
/// What a shell reports for a program that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let output = Output::new(cli.global.json);
    let outcome = run(cli, &output);
    // That the output could not be written counts only when nothing worse happened.
    let outcome = outcome.and_then(|outcome| output.finish().map(|()| outcome));
    match outcome {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Damage) => ExitCode::from(error::EXIT_DAMAGE),
        Ok(Outcome::Warning) => ExitCode::from(error::EXIT_WARNING),
        Ok(Outcome::Critical) => ExitCode::from(error::EXIT_CRITICAL),
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli, output: &Output) -> Result<Outcome, Error> {
    let cancel = CancelToken::new();
    cancel_on_interrupt(&cancel)?;
    let context = Context { output, cancel: &cancel, key: cli.global.key, acting: cli.global.acting };
    commands::run(&context, cli.command)
}

/// The first Ctrl-C asks the walk to stop, the second ends the process.
fn cancel_on_interrupt(cancel: &CancelToken) -> Result<(), Error> {
    let cancel = cancel.clone();
    ctrlc::set_handler(move || {
        if cancel.is_cancelled() {
            std::process::exit(EXIT_INTERRUPTED);
        }
        cancel.cancel();
        output::note("stopping; press Ctrl-C again to end at once");
    })
    .map_err(Error::Signal)
}

/// Prints help, the version, or what is wrong with the command line.
fn refuse(error: &clap::Error) -> ExitCode {
    // A reader that went away is no reason to fail, and there is nobody left to tell.
    let _ = error.print();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return ExitCode::SUCCESS;
    }
    // The command line did not parse, so whether JSON is wanted is read off it as it stands.
    if std::env::args_os().any(|arg| arg == "--json") {
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
        Output::new(true).error_line(message.trim_end(), &[], None);
    }
    ExitCode::from(EXIT_USAGE)
}
