//! `cargo xtask simulate`: the simulation of deletion beside writers, for as long as one likes.

use crate::args::Args;
use crate::failure::Result;
use crate::process::{self, cargo};

/// The test that runs seeds, and the variables that tell it which and for how long.
const TEST: &str = "what_is_kept_restores_whatever_happens_beside_it";
const SECONDS: &str = "VMKEEP_SIMULATE_SECONDS";
const SEED: &str = "VMKEEP_SIMULATE_SEED";

pub(crate) fn run(args: Args) -> Result<()> {
    let seconds: u64 = args.number("seconds", 60)?;
    // Behind the seeds that every test run takes.
    let seed: u64 = args.number("seed", 1000)?;
    args.end()?;
    println!("seeds from {seed} on, for {seconds} s; a failure names its seed");
    let words = ["test", "--package", "vmkeep", "--test", "simulation", TEST, "--", "--exact", "--nocapture"];
    process::run(cargo(&words).env(SECONDS, seconds.to_string()).env(SEED, seed.to_string()))
}
