//! Where the time of a test run went.

use std::io::{BufRead, BufReader, pipe};
use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::process::shown;

/// What a step's time counts against, on two cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    Build,
    Tests,
    Guest,
    Simulation,
}

impl Budget {
    const ALL: [(Self, &'static str, u64); 4] = [
        (Self::Build, "build", 15),
        (Self::Tests, "tests", 12),
        (Self::Guest, "guest", 6),
        (Self::Simulation, "simulation", 4),
    ];

    /// Test files named `guest*` and `simulation*` have budgets of their own.
    fn of_test(name: &str) -> Self {
        match name {
            n if n.starts_with("guest") => Self::Guest,
            n if n.starts_with("simulation") => Self::Simulation,
            _ => Self::Tests,
        }
    }
}

/// How long a test binary must run to be named in the table.
const WORTH_NAMING: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(crate) struct Timings {
    steps: Vec<(&'static str, Budget, Duration)>,
    tests: Vec<(String, Duration)>,
}

impl Timings {
    pub(crate) fn step(&mut self, name: &'static str, budget: Budget, time: Duration) {
        self.steps.push((name, budget, time));
    }

    /// Time against `budget`. Test binaries with a budget of their own are taken out of the step that ran them.
    fn spent(&self, budget: Budget) -> Duration {
        let steps: Duration = self.steps.iter().filter(|s| s.1 == budget).map(|s| s.2).sum();
        let (guest, simulation) = (self.of_tests(Budget::Guest), self.of_tests(Budget::Simulation));
        match budget {
            Budget::Build => steps,
            Budget::Tests => steps.saturating_sub(guest + simulation),
            Budget::Guest => guest,
            Budget::Simulation => simulation,
        }
    }

    fn of_tests(&self, budget: Budget) -> Duration {
        self.tests.iter().filter(|(name, _)| Budget::of_test(name) == budget).map(|(_, time)| *time).sum()
    }

    pub(crate) fn print(&self) {
        println!("\nwhere the time went");
        for (name, _, time) in &self.steps {
            println!("  {name:<24} {:>8.1} s", time.as_secs_f64());
            if *name == "test" {
                let mut slow: Vec<_> = self.tests.iter().filter(|(_, time)| *time >= WORTH_NAMING).collect();
                slow.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
                for (test, time) in slow {
                    println!("    {test:<22} {:>8.1} s", time.as_secs_f64());
                }
            }
        }
        for (budget, name, minutes) in Budget::ALL {
            let spent = self.spent(budget).as_secs_f64();
            let over = if spent > Duration::from_secs(minutes * 60).as_secs_f64() { "  OVER" } else { "" };
            println!("{name:<12} {:>6.1} of {minutes} min{over}", spent / 60.0);
        }
    }
}

/// Runs `cargo test`, passing on what it prints line by line and noting how long each test binary took.
pub(crate) fn run_tests(mut command: Command, timings: &mut Timings) -> Result<()> {
    let text = shown(&command);
    let cannot = |e| Failure::new(format!("cannot run {text}: {e}"));
    // One pipe for both, so that the lines keep their order.
    let (reader, writer) = pipe().map_err(cannot)?;
    command.stdout(writer.try_clone().map_err(cannot)?).stderr(writer);
    let mut child = command.spawn().map_err(cannot)?;
    drop(command); // and with it our ends of the pipe, or it would never end
    let mut running = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(cannot)?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(name) = started(&line) {
            running = name;
        } else if let Some(time) = finished(&line) {
            timings.tests.push((running.clone(), time));
        }
    }
    let status = child.wait().map_err(cannot)?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{text} failed ({status})"))) }
}

/// The test binary that cargo says it runs now.
fn started(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{name} docs"));
    }
    let rest = line.strip_prefix("Running ")?;
    let (source, binary) = rest.split_once(" (")?;
    let stem = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split_once('.').map_or(file, |(stem, _)| stem).trim_end_matches(')').to_owned()
    };
    // Unit tests all have src/lib.rs; the binary is named after the crate, with a hash behind.
    match source.strip_prefix("unittests ") {
        Some(_) => stem(binary).rsplit_once('-').map(|(name, _)| name.to_owned()),
        None => Some(stem(source)),
    }
}

/// The time that a closing line of the test harness names.
fn finished(line: &str) -> Option<Duration> {
    let (_, seconds) = line.strip_prefix("test result: ")?.rsplit_once("finished in ")?;
    let seconds: f64 = seconds.trim_end().strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_cargo_test_are_understood() {
        let unit = "     Running unittests src/lib.rs (target/debug/deps/vmkeep_disk-1273b9c1b3176e8e)";
        assert_eq!(started(unit), Some("vmkeep_disk".to_owned()));
        assert_eq!(
            started("     Running tests/guest_linux.rs (target/debug/deps/guest_linux-12)"),
            Some("guest_linux".to_owned())
        );
        assert_eq!(started("   Doc-tests vmkeep_disk"), Some("vmkeep_disk docs".to_owned()));
        assert_eq!(started("running 3 tests"), None);
        let closing =
            "test result: ok. 24 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.45s";
        assert_eq!(finished(closing), Some(Duration::from_millis(1450)));
        assert_eq!(finished("test a ... ok"), None);
    }

    #[test]
    fn a_run_is_passed_on_and_its_times_are_noted() {
        let script = |code| {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!(
                "echo '     Running tests/simulation.rs (target/debug/deps/simulation-12)' >&2; \
                 echo 'test result: ok. 1 passed; 0 failed; finished in 1.50s'; exit {code}"
            ));
            command
        };
        let mut timings = Timings::default();
        run_tests(script(0), &mut timings).unwrap();
        assert_eq!(timings.tests, [("simulation".to_owned(), Duration::from_millis(1500))]);
        assert!(run_tests(script(1), &mut timings).is_err());
    }

    #[test]
    fn guest_and_simulation_leave_the_budget_of_the_tests() {
        let mut timings = Timings::default();
        timings.step("test", Budget::Tests, Duration::from_secs(100));
        for (name, seconds) in [("guest_linux", 30), ("simulation", 20), ("end_to_end", 40)] {
            timings.tests.push((name.to_owned(), Duration::from_secs(seconds)));
        }
        let spent = Budget::ALL.map(|(budget, _, _)| timings.spent(budget).as_secs());
        assert_eq!(spent, [0, 50, 30, 20]);
    }
}
