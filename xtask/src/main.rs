//! Chores of the workspace: `cargo xtask help` lists them.
//!
//! Needs nothing but the standard library, so that it is built in a moment before anything else is.

mod args;
mod disks;
mod failure;
mod guest;
mod peers;
mod process;
mod random;
mod simulate;
mod test;
mod timing;
mod tools;

use std::process::ExitCode;

use args::Args;
use failure::{Failure, Result};

const USAGE: &str = "\
cargo xtask CHORE [OPTIONS]

  test [--from STEP | --only STEP]
      Everything that must hold, in steps: tools fmt clippy build test alone doc examples benches fuzz.
      Installs the tools the tests use on Debian as root; elsewhere says what is missing.

  explore
      Explores what the tests leave out of the interleavings of writers, readers and sweepers, in release: minutes.

  simulate [--seconds N] [--seed S]
      Hosts that back up, forget, sweep and read beside one another, one run per seed from S on (default: 60 s
      from 1000). A failure prints its seed; --seconds 0 runs that seed alone.

  disks DIR [--size GIB] [--fill MIB] [--seed N]
      Makes a realistic VM disk and later versions of it (default: 8 GiB, 3500 MiB of files).

  guest DIR
      Makes a small Linux guest with the real guest agent from Debian packages, for tests with VMKEEP_GUEST=DIR.

  peers DISKDIR WORKDIR [--rounds N] [--only NAME,NAME] [--rustic PROGRAM]
      Runs restic, borg, rustic and vmkeep on those disks and prints a table, and one of what vmkeep is to reach
      (default: 3 rounds). NAME is restic, borg, rustic, vmkeep, vmkeep-fast, vmkeep-default or vmkeep-best.
      WORKDIR must lie on the file system of DISKDIR.
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let chore = words.next().unwrap_or_default();
    match run(&chore, words.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask {chore}: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: &str, words: Vec<String>) -> Result<()> {
    match chore {
        "test" => test::run(Args::parse(words, &["from", "only"])?),
        "explore" => explore(Args::parse(words, &[])?),
        "simulate" => simulate::run(Args::parse(words, &["seconds", "seed"])?),
        "disks" => disks::run(Args::parse(words, &["size", "fill", "seed"])?),
        "guest" => guest::run(Args::parse(words, &[])?),
        "peers" => peers::run(Args::parse(words, &["rounds", "only", "rustic"])?),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        _ => Err(Failure::new(format!("no such chore\n\n{USAGE}"))),
    }
}

/// The explorations that are too long for the tests.
fn explore(args: Args) -> Result<()> {
    args.end()?;
    let which =
        ["test", "--release", "-p", "vmkeep-vault", "--lib", "explore", "--", "--ignored", "--nocapture"];
    process::run(&mut process::cargo(&which))
}
