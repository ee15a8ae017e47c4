//! `vmkeep verify --budget`.

use serde::Serialize;
use vmkeep::restore::{self, Event, RollingReport, RollingSettings, Settings, verify_rolling};
use vmkeep::vault::{Budget, PackDamage, PackDepth, Vault};

use crate::args::DepthArg;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome, causes, sentence};
use crate::output::Output;

/// A damaged pack, with what of a disk lies in the part that is damaged.
#[derive(Serialize)]
#[serde(tag = "type", rename = "damaged_object")]
struct DamagedPack<'a> {
    object: &'a str,
    reason: String,
    causes: Vec<String>,
    vm: Option<&'a str>,
    disk: Option<&'a str>,
    /// Offset and length of each range. Points that need it have lost it.
    ranges: Vec<[u64; 2]>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    clean: bool,
    depth: &'static str,
    /// Packs that were checked, with second copies, of all that there are.
    objects: u64,
    bytes: u64,
    total_objects: u64,
    total_bytes: u64,
    damaged_objects: u64,
    /// Every pack that is there is checked within so many runs.
    period_runs: u32,
    /// Parts of the round that is under way, and how many were taken.
    round_parts: u32,
    round_taken: u32,
    /// Every pack that was written before was checked since; `null` before a round is over.
    verified_until: Option<String>,
    verified_until_ms: Option<i64>,
    /// Whether neither the last round nor the one under way met damage.
    vault_clean: bool,
}

/// Tells of damage as it is found.
struct Teller<'a>(&'a Output);

impl restore::Observer for Teller<'_> {
    fn event(&self, event: Event<'_>) {
        if let Event::Damaged(damage) = event {
            self.damaged(damage);
        }
    }
}

impl Teller<'_> {
    fn damaged(&self, found: &PackDamage) {
        let PackDamage { damage, vm, blocks } = found;
        let ranges = blocks.iter().flat_map(|blocks| {
            let size = blocks.block_size.bytes_u64();
            blocks
                .runs
                .iter()
                .map(move |run| [run.start.0.saturating_mul(size), run.len.saturating_mul(size)])
        });
        let line = DamagedPack {
            object: &damage.object,
            reason: damage.error.to_string(),
            causes: causes(&damage.error),
            vm: vm.as_ref().map(vmkeep::model::VmName::as_str),
            disk: blocks.as_ref().map(|blocks| blocks.disk.as_str()),
            ranges: ranges.collect(),
        };
        self.0.text(format!("damaged: {}: {}", line.object, sentence(&line.reason, &line.causes)));
        if let (Some(vm), Some(disk)) = (line.vm, line.disk) {
            let lost: u64 = line.ranges.iter().map(|[_, len]| len).sum();
            let from = line.ranges.first().map_or(0, |[offset, _]| *offset);
            self.0.text(format!(
                "  {} of {vm} disk {disk}, the first at {from}: vmkeep verify says which points have lost it",
                bytes::show(lost)
            ));
        }
        self.0.json(&line);
    }
}

pub(super) fn run(
    context: &Context<'_>,
    vault: &Vault,
    budget: Budget,
    depth: Option<DepthArg>,
) -> Result<Outcome, Error> {
    let depth_named = depth.unwrap_or(DepthArg::Sealed);
    let depth = match depth_named {
        DepthArg::Structure => {
            return Err(Error::usage("--budget checks packs, at depth sealed or blocks".to_owned()));
        }
        DepthArg::Sealed => PackDepth::Sealed,
        DepthArg::Blocks => PackDepth::Blocks,
    };
    let settings = RollingSettings { budget, depth, walk: Settings::default() };
    let permit = context.permit(vault, None)?;
    let report = verify_rolling(&permit, vault, &settings, &Teller(context.output), context.cancel)?;
    print(context.output, &report, depth_named);
    Ok(if report.is_clean() { Outcome::Good } else { Outcome::Damage })
}

fn print(output: &Output, report: &RollingReport, depth: DepthArg) {
    let RollingReport { checked, total, coverage } = report;
    let (parts, taken) = coverage.progress().unwrap_or((1, 0));
    let period = coverage.period().unwrap_or(1);
    output.text(format!(
        "{} of {} packs ({} of {}) checked{}: {}",
        checked.objects,
        total.objects,
        bytes::show(checked.bytes),
        bytes::show(total.bytes),
        if depth == DepthArg::Sealed { " as they are sealed" } else { "" },
        match checked.damaged {
            0 => "nothing is damaged".to_owned(),
            damaged => format!("{damaged} are damaged"),
        }
    ));
    let of_round = if taken == 0 {
        "a round is over with this one".to_owned()
    } else {
        format!("{taken} of {parts} parts of this round are done")
    };
    let days = if period == 1 { "run".to_owned() } else { format!("runs ({period} days when run daily)") };
    output.text(format!("every pack is checked within {period} such {days}; {of_round}"));
    match coverage.until() {
        Some(until) => {
            output.text(format!("verified until {until}: what was written before was checked since"));
        }
        None => output.text("not verified as a whole yet"),
    }
    if checked.damaged == 0 && !coverage.is_clean() {
        let named: Vec<&str> = coverage.named().into_iter().collect();
        output.text(format!("an earlier run found damage, not looked at again since: {}", named.join(", ")));
    }
    output.json(&Summary {
        clean: report.is_clean(),
        depth: depth.name(),
        objects: checked.objects,
        bytes: checked.bytes,
        total_objects: total.objects,
        total_bytes: total.bytes,
        damaged_objects: checked.damaged,
        period_runs: period,
        round_parts: parts,
        round_taken: taken,
        verified_until: coverage.until().map(|until| until.to_string()),
        verified_until_ms: coverage.until().map(|until| until.0),
        vault_clean: coverage.is_clean(),
    });
}
