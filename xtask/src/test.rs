//! `cargo xtask test`: everything that must hold.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::args::Args;
use crate::failure::{At, Failure, Result};
use crate::guest;
use crate::process::{self, cargo};
use crate::timing::{self, Budget, Timings};
use crate::tools;

struct Step {
    name: &'static str,
    budget: Budget,
    run: fn(&mut Timings) -> Result<()>,
}

/// In this order; one profile (dev) builds all of it, so that each step finds what the one before has built.
static STEPS: [Step; 11] = [
    Step { name: "tools", budget: Budget::Build, run: |_| test_tools() },
    Step {
        name: "fmt",
        budget: Budget::Build,
        run: |_| process::run(&mut cargo(&["fmt", "--all", "--check"])),
    },
    Step { name: "clippy", budget: Budget::Build, run: |_| clippy() },
    Step { name: "build", budget: Budget::Build, run: |_| build() },
    Step { name: "guest", budget: Budget::Build, run: |_| guest::make_if_old(&guest_folder()) },
    Step { name: "test", budget: Budget::Tests, run: test },
    Step { name: "alone", budget: Budget::Tests, run: |_| alone() },
    Step { name: "doc", budget: Budget::Build, run: |_| doc() },
    Step { name: "examples", budget: Budget::Tests, run: |_| examples() },
    Step { name: "benches", budget: Budget::Tests, run: |_| benches() },
    Step { name: "fuzz", budget: Budget::Build, run: |_| fuzz() },
];

pub(crate) fn run(args: Args) -> Result<()> {
    let chosen = chosen(&args)?;
    args.end()?;
    let mut timings = Timings::default();
    for step in chosen {
        println!("\n==> {}", step.name);
        let start = Instant::now();
        let outcome = (step.run)(&mut timings);
        timings.step(step.name, step.budget, start.elapsed());
        if let Err(failure) = outcome {
            timings.print();
            let name = step.name;
            return Err(Failure::new(format!(
                "step {name} failed: {failure}\ngo on with: cargo xtask test --from {name}"
            )));
        }
    }
    timings.print();
    println!("\npassed: {}", chosen.iter().map(|step| step.name).collect::<Vec<_>>().join(" "));
    Ok(())
}

fn chosen(args: &Args) -> Result<&'static [Step]> {
    let position = |name: &str| {
        let names = STEPS.each_ref().map(|s| s.name).join(" ");
        let found = STEPS.iter().position(|s| s.name == name);
        found.ok_or_else(|| Failure::new(format!("no step {name}; the steps are: {names}")))
    };
    match (args.option("from"), args.option("only")) {
        (None, None) => Ok(&STEPS),
        (Some(name), None) => Ok(&STEPS[position(name)?..]),
        (None, Some(name)) => position(name).map(|p| &STEPS[p..=p]),
        (Some(_), Some(_)) => Err(Failure::new("--from and --only exclude each other")),
    }
}

fn clippy() -> Result<()> {
    process::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn build() -> Result<()> {
    process::run(&mut cargo(&["test", "--workspace", "--no-run"]))
}

fn test_tools() -> Result<()> {
    tools::ensure(&tools::TEST_TOOLS)?;
    tools::ensure_prometheus_parser()?;
    tools::ensure_focus_validator()
}

/// Under `VMKEEP_REQUIRE_TOOLS` a test whose tool is missing fails in place of being left out.
fn test(timings: &mut Timings) -> Result<()> {
    let mut command = cargo(&["test", "--workspace"]);
    command.env("VMKEEP_REQUIRE_TOOLS", "1").env("VMKEEP_GUEST", guest_folder());
    timing::run_tests(command, timings)
}

/// Where the guest of the tests is.
fn guest_folder() -> PathBuf {
    process::workspace().join("target/guest")
}

/// The envelope with its default features: the workspace as a whole uses another library for the cipher.
fn alone() -> Result<()> {
    process::run(&mut cargo(&["test", "--package", "vmkeep-envelope"]))
}

fn doc() -> Result<()> {
    process::run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

/// Runs each example once; each asserts what it shows.
fn examples() -> Result<()> {
    let folder = process::workspace().join("examples");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).at(&folder)? {
        let path = entry.at(&folder)?.path();
        if let (Some(name), Some("rs")) = (stem(&path), path.extension().and_then(|e| e.to_str()))
            && name != "lib"
        {
            names.push(name);
        }
    }
    names.sort();
    for name in &names {
        println!("--> example {name}");
        process::run(&mut cargo(&["run", "--example", name]))?;
    }
    if names.is_empty() {
        Err(Failure::new("there are no examples, and the README names some"))
    } else {
        Ok(())
    }
}

fn stem(path: &Path) -> Option<String> {
    path.file_stem().map(|s| s.to_string_lossy().into_owned())
}

/// Every benchmark runs once, as a test, in the profile that everything else was built in.
fn benches() -> Result<()> {
    process::run(&mut cargo(&["bench", "--workspace", "--profile", "dev", "--", "--test"]))
}

/// The fuzz targets are a workspace of their own and are checked only: their bodies and corpora run in `test`.
fn fuzz() -> Result<()> {
    let folder = process::workspace().join("fuzz");
    std::fs::metadata(folder.join("Cargo.toml")).at(&folder.join("Cargo.toml"))?;
    process::run(cargo(&["check", "--all-targets"]).current_dir(folder))
}
