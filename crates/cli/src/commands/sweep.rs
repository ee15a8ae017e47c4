//! `vmkeep sweep`.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use vmkeep::model::{PointRef, PointSelector};
use vmkeep::vault::{Kept, SweepEvent, SweepReport, SweepSettings};

use crate::args::SweepArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome, chain};
use crate::metering;
use crate::output::{self, Output};

/// Of many steps, about so many are told of.
const STEPS_TOLD: u64 = 100;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Vm {
        vm: &'a str,
    },
    /// Points that go are compared with those that stay.
    Examining {
        done: u64,
        of: u64,
    },
    /// Files are looked at for what is needed in them.
    Judging {
        done: u64,
        of: u64,
    },
    /// Of the VM so far.
    Removed {
        objects: u64,
        bytes: u64,
    },
    /// A file was made of what is needed in others.
    Repacked {
        bytes: u64,
    },
    Damaged {
        causes: Vec<String>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    dry_run: bool,
    points: Vec<String>,
    kept: Vec<KeptPoint>,
    ended: Vec<Ended>,
    open_sessions: u64,
    objects: u64,
    bytes_freed: u64,
    bytes_copied: u64,
    /// Dead bytes that were found in files that hold needed ones too.
    bytes_worn: u64,
    /// Dead bytes that stay because they share frames with needed ones and the data key is not at hand.
    bytes_unthinned: u64,
    repacked: u64,
    damaged: u64,
}

#[derive(Serialize)]
struct KeptPoint {
    point: String,
    why: &'static str,
}

#[derive(Serialize)]
struct Ended {
    vm: String,
    session: String,
}

pub(crate) fn run(context: &Context<'_>, args: &SweepArgs) -> Result<Outcome, Error> {
    let default = SweepSettings::default();
    let settings = SweepSettings {
        abandoned_after_ms: args.abandoned_after.0,
        max_repack: args.max_repack.unwrap_or(default.max_repack),
        dry_run: args.dry_run,
    };
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit(&vault, None)?;
    let mut progress = Progress::new(context.output, args.dry_run);
    if !args.dry_run {
        // What goes now would not be seen any more.
        metering::read_all(&vault, &permit);
    }
    let swept = vault.sweep(&permit, &settings, context.cancel, &mut |event| progress.event(&event));
    progress.finish();
    if !args.dry_run {
        metering::read_all(&vault, &permit);
    }
    let report = swept.inspect_err(|error| {
        if error.is_cancelled() && !args.dry_run {
            output::note("stopped; what was removed until now is gone for good, and the next sweep goes on");
        }
    })?;
    print(context.output, args.dry_run, &report);
    let damaged = report.damaged > 0 || report.kept.iter().any(|(_, why)| *why == Kept::Damaged);
    Ok(if damaged { Outcome::Damage } else { Outcome::Good })
}

/// Tells what a sweep does: with a bar when stderr is a terminal, or with JSON lines.
pub(super) struct Progress<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    dry_run: bool,
}

impl<'a> Progress<'a> {
    pub(super) fn new(output: &'a Output, dry_run: bool) -> Self {
        let shown = !output.is_json() && std::io::stderr().is_terminal();
        let bar = shown.then(|| {
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style())
        });
        Self { output, bar, dry_run }
    }

    pub(super) fn event(&mut self, event: &SweepEvent) {
        match event {
            SweepEvent::Vm { vm } => {
                self.show(vm.as_str());
                self.output.json(&Line::Vm { vm: vm.as_str() });
            }
            SweepEvent::Examining { done, of } => {
                self.step("comparing points", *done, *of, &Line::Examining { done: *done, of: *of });
            }
            SweepEvent::Judging { done, of } => {
                self.step("looking at files", *done, *of, &Line::Judging { done: *done, of: *of });
            }
            SweepEvent::Removed { objects, bytes } => {
                let done = if self.dry_run { "would free" } else { "freed" };
                self.show(&format!("{done} {}", bytes::show(*bytes)));
                self.output.json(&Line::Removed { objects: *objects, bytes: *bytes });
            }
            SweepEvent::Repacked { bytes } => {
                self.show(&format!("copied {}", bytes::show(*bytes)));
                self.output.json(&Line::Repacked { bytes: *bytes });
            }
            SweepEvent::Damaged { error } => {
                let causes = chain(error);
                let warn = || output::warn("what depends on something unreadable stays", &causes);
                self.bar.as_ref().map_or_else(warn, |bar| bar.suspend(warn));
                self.output.json(&Line::Damaged { causes: causes.clone() });
            }
            _ => {}
        }
    }

    fn show(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    fn step(&self, what: &str, done: u64, of: u64, line: &Line<'_>) {
        if let Some(bar) = &self.bar {
            bar.set_length(of);
            bar.set_position(done);
            bar.set_message(what.to_owned());
        }
        if is_told(done, of) {
            self.output.json(line);
        }
    }

    /// Leaves the terminal to what is printed next.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Whether a step is one of those that programs are told of.
pub(super) fn is_told(done: u64, of: u64) -> bool {
    done.is_multiple_of((of / STEPS_TOLD).max(1))
}

pub(super) fn style() -> ProgressStyle {
    // The template is a constant; were it wrong, the default would do.
    ProgressStyle::with_template("{msg:24!} [{wide_bar:.cyan/blue}] {pos:>7} of {len:>7}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn print(output: &Output, dry_run: bool, report: &SweepReport) {
    for line in lines(dry_run, report) {
        output.text(line);
    }
    output.json(&Summary {
        dry_run,
        points: report.points.iter().map(ToString::to_string).collect(),
        kept: report
            .kept
            .iter()
            .map(|(point, why)| KeptPoint { point: point.to_string(), why: reason(*why).0 })
            .collect(),
        ended: report
            .ended
            .iter()
            .map(|(vm, session)| Ended { vm: vm.to_string(), session: session.to_string() })
            .collect(),
        open_sessions: report.open_sessions,
        objects: report.objects,
        bytes_freed: report.freed,
        bytes_copied: report.copied,
        bytes_worn: report.worn,
        bytes_unthinned: report.unthinned,
        repacked: report.repacked,
        damaged: report.damaged,
    });
}

/// What a person is told: of a dry run, what would be done.
fn lines(dry_run: bool, report: &SweepReport) -> Vec<String> {
    let would = |done: &str, plan: &str| if dry_run { format!("would {plan}") } else { done.to_owned() };
    let mut lines: Vec<String> =
        report.points.iter().map(|point| format!("{} {point}", would("removed", "remove"))).collect();
    lines.extend(
        report
            .kept
            .iter()
            .map(|(point, why)| format!("{} {point}: {}", would("kept", "keep"), explain(point, *why))),
    );
    lines.extend(report.ended.iter().map(|(vm, session)| {
        format!("{} backup {session} of {vm}: it was abandoned", would("ended", "end"))
    }));
    if report.open_sessions > 0 {
        lines.push(format!(
            "backups that have not finished and may still run: {}; vmkeep sessions VM lists them",
            report.open_sessions
        ));
    }
    if report.worn > 0 {
        let then = if dry_run {
            "; they are freed as well, as far as --max-repack allows copying the rest".to_owned()
        } else {
            format!("; {} replaced", count(report.repacked, "file"))
        };
        lines.push(format!("{} are dead in files that hold other data{then}", bytes::show(report.worn)));
    }
    if report.unthinned > 0 {
        lines.push(format!(
            "about {} are dead and stay: they share frames with other data, and the key that opens those is not at hand",
            bytes::show(report.unthinned)
        ));
    }
    let (points, ended) =
        (count(report.points.len() as u64, "point"), count(report.ended.len() as u64, "backup"));
    let (objects, freed) = (count(report.objects, "object"), bytes::show(report.freed));
    lines.push(if dry_run {
        format!("would remove {points}, end {ended}, and delete {objects} with {freed}")
    } else {
        format!(
            "removed {points}, ended {ended}, and deleted {objects} with {freed}; copied {}",
            bytes::show(report.copied)
        )
    });
    lines
}

pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Why a point stays, for programs and for people.
fn reason(why: Kept) -> (&'static str, &'static str) {
    match why {
        Kept::Newest => {
            ("newest", "it is the newest; it stays until there is a newer one or the VM is closed")
        }
        Kept::Pinned => ("pinned", "it is pinned by a restore"),
        Kept::Held => ("held", "it is held"),
        Kept::Damaged => {
            ("damaged", "what is needed to tell what it alone has cannot be read; see vmkeep verify")
        }
        _ => ("other", "a newer version of the format says so"),
    }
}

fn explain(point: &PointRef, why: Kept) -> String {
    let (_, text) = reason(why);
    match (why, point.selector) {
        (Kept::Pinned, _) => format!("{text}; vmkeep pins {} lists them", point.vm),
        (Kept::Held, PointSelector::Number(_)) => format!("{text}; vmkeep release {point} lets it go"),
        _ => text.to_owned(),
    }
}
