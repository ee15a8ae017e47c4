//! `vmkeep verify`.

mod rolling;

use serde::Serialize;
use vmkeep::model::{Extent, PointRef, VmName};
use vmkeep::restore::{
    DamagedBlock, Depth, Settings, VerifyReport, note_verified, verify_point, verify_vault,
};
use vmkeep::vault::{Accounting, DestroyedKeys, Suspect, Tally, Vault};

use super::keys::numbers;
use crate::args::{DepthArg, VerifyArgs};
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome, causes, chain, sentence};
use crate::output;
use crate::progress::Progress;
use crate::table::{Column, Table};

#[derive(Serialize)]
#[serde(tag = "type", rename = "damaged_object")]
struct DamagedObject<'a> {
    object: &'a str,
    reason: String,
    causes: Vec<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "damaged_range")]
struct DamagedRange {
    point: String,
    disk: String,
    offset: u64,
    length: u64,
    object: Option<String>,
    reason: String,
    causes: Vec<String>,
}

/// Points that may hold old data of a disk: what is stored of them is sound.
#[derive(Serialize)]
#[serde(tag = "type", rename = "suspect")]
struct SuspectPoints {
    vm: String,
    disk: String,
    points: Vec<u64>,
}

/// Keys that were destroyed on purpose: what they sealed cannot be read, and is no damage.
#[derive(Serialize)]
#[serde(tag = "type", rename = "destroyed")]
struct DestroyedLine {
    vm: String,
    domain: String,
    epoch: u32,
    at: String,
    at_ms: i64,
    by: String,
    points: Vec<String>,
    /// Whether no key object is left that may hold the data key.
    finished: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    clean: bool,
    depth: &'static str,
    suspect_points: usize,
    points: u64,
    blocks: u64,
    bytes: u64,
    damaged_objects: usize,
    damaged_ranges: usize,
    damaged_bytes: u64,
    /// Keys that were destroyed on purpose, and blocks that cannot be read for it; those count as checked.
    destroyed_keys: usize,
    destroyed_blocks: u64,
    /// What every file of the vault is there for; `null` when one point was looked at.
    accounting: Option<Accounts>,
}

#[derive(Serialize)]
struct Accounts {
    live: Account,
    garbage: Account,
    in_progress: Account,
    unexplained: Account,
}

#[derive(Clone, Copy, Serialize)]
struct Account {
    objects: u64,
    bytes: u64,
}

pub(crate) fn run(context: &Context<'_>, args: &VerifyArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let depth_named = if args.structure { Some(DepthArg::Structure) } else { args.depth };
    if let Some(budget) = args.budget {
        return rolling::run(context, &vault, budget, depth_named);
    }
    let depth_named = depth_named.unwrap_or(DepthArg::Blocks);
    let depth = match depth_named {
        DepthArg::Structure => Depth::Structure,
        DepthArg::Sealed => Depth::Sealed,
        DepthArg::Blocks => Depth::Data,
    };
    let permit = context.permit(&vault, args.point.as_ref().map(|point| &point.vm))?;
    let began = vault.clock().now();
    let (settings, progress) = (Settings::default(), Progress::new(context.output));
    let mut report = match &args.point {
        Some(point) => {
            verify_point(&permit, &vault.point(point)?, depth, &settings, &progress, context.cancel)?
        }
        None => verify_vault(&permit, &vault, depth, &settings, &progress, context.cancel)?,
    };
    drop(progress);
    if args.point.is_none()
        && let Err(error) = note_verified(&permit, &vault, depth, began, &report)
    {
        output::warn("that the vault was verified could not be noted in it", &chain(&error));
    }
    if let Some(point) = args.point.as_ref().filter(|_| report.destroyed_blocks > 0) {
        report.destroyed = destroyed_of(context, &vault, point)?;
    }
    let vms = match &args.point {
        Some(point) => vec![point.vm.clone()],
        None => vault.vms()?,
    };
    let mut suspects = 0;
    for vm in vms {
        for suspect in vault.suspects(&vm)? {
            suspects += print_suspect(context, &vault, &vm, &suspect, args.point.as_ref())?;
        }
    }
    print(context, &report, suspects, depth_named);
    Ok(if report.is_clean() { Outcome::Good } else { Outcome::Damage })
}

/// The destroyed keys that one point needs.
fn destroyed_of(context: &Context<'_>, vault: &Vault, point: &PointRef) -> Result<Vec<DestroyedKeys>, Error> {
    let point = vault.point(point)?.reference();
    let mut destroyed = vault.destroyed_keys(&point.vm, context.cancel)?;
    destroyed.retain(|keys| keys.points.contains(&point));
    for keys in &mut destroyed {
        keys.points.retain(|needing| *needing == point);
    }
    Ok(destroyed)
}

fn print_destroyed(context: &Context<'_>, keys: &DestroyedKeys) {
    let points = match keys.points.len() {
        0 => "no point needs it".to_owned(),
        1 => format!("point {} cannot be restored", numbers(&keys.points)),
        _ => format!("points {} cannot be restored", numbers(&keys.points)),
    };
    let rest = if keys.finished { "" } else { "; not finished: run vmkeep keys destroy again" };
    context.output.text(format!(
        "destroyed on purpose: VM {}, epoch {}, by {} at {}; {points}{rest}",
        keys.vm, keys.epoch, keys.by, keys.at
    ));
    context.output.json(&DestroyedLine {
        vm: keys.vm.to_string(),
        domain: keys.domain.to_string(),
        epoch: keys.epoch,
        at: keys.at.to_string(),
        at_ms: keys.at.0,
        by: keys.by.clone(),
        points: keys.points.iter().map(ToString::to_string).collect(),
        finished: keys.finished,
    });
}

/// Tells of points whose data is sound as stored and may be older than it should be; how many of them there are.
fn print_suspect(
    context: &Context<'_>,
    vault: &Vault,
    vm: &VmName,
    suspect: &Suspect,
    only: Option<&PointRef>,
) -> Result<usize, Error> {
    let only = only.map(|point| vault.point(point)).transpose()?.map(|point| point.point().id.number);
    let numbers: Vec<u64> = vault
        .points(vm)?
        .iter()
        .map(|point| point.id.number)
        .filter(|number| suspect.holds(*number) && only.is_none_or(|only| only == *number))
        .map(|number| number.0)
        .collect();
    if !numbers.is_empty() {
        let line = SuspectPoints { vm: vm.to_string(), disk: suspect.disk.clone(), points: numbers.clone() };
        let list: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        context.output.text(format!(
            "suspect: {vm} disk {}, points {}: change tracking missed a change that was found at point {}",
            suspect.disk,
            list.join(", "),
            suspect.found
        ));
        context.output.json(&line);
    }
    Ok(numbers.len())
}

fn print(context: &Context<'_>, report: &VerifyReport, suspects: usize, depth: DepthArg) {
    let output = context.output;
    for damage in &report.objects {
        let line = DamagedObject {
            object: &damage.object,
            reason: damage.error.to_string(),
            causes: causes(&damage.error),
        };
        output.text(format!("damaged: {}: {}", line.object, sentence(&line.reason, &line.causes)));
        output.json(&line);
    }
    let ranges = ranges(&report.damaged);
    for range in &ranges {
        output.text(format!(
            "lost: {} disk {}, {} bytes at {}: {}",
            range.point,
            range.disk,
            range.length,
            range.offset,
            sentence(&range.reason, &range.causes)
        ));
        output.json(range);
    }
    report.destroyed.iter().for_each(|keys| print_destroyed(context, keys));
    let accounting = report.accounting.as_ref().map(Accounts::from);
    if let Some(accounts) = &accounting {
        accounts.table().lines().for_each(|line| output.text(line));
    }
    let damaged_bytes = ranges.iter().map(|range| range.length).sum();
    if report.destroyed_blocks > 0 {
        output.text(format!(
            "{} of the blocks cannot be read because their key was destroyed",
            report.destroyed_blocks
        ));
    }
    output.text(format!(
        "{} points, {} blocks ({}) checked{}: {}",
        report.points,
        report.blocks,
        bytes::show(report.bytes.0),
        match depth {
            DepthArg::Structure => " by structure",
            DepthArg::Sealed => " as they are sealed",
            DepthArg::Blocks => "",
        },
        if report.is_clean() {
            "nothing is damaged".to_owned()
        } else {
            format!(
                "{} objects are damaged, {} of disks are lost",
                report.objects.len(),
                bytes::show(damaged_bytes)
            )
        }
    ));
    output.json(&Summary {
        clean: report.is_clean(),
        depth: depth.name(),
        suspect_points: suspects,
        points: report.points,
        blocks: report.blocks,
        bytes: report.bytes.0,
        damaged_objects: report.objects.len(),
        damaged_ranges: ranges.len(),
        damaged_bytes,
        destroyed_keys: report.destroyed.len(),
        destroyed_blocks: report.destroyed_blocks,
        accounting,
    });
}

/// Neighbouring blocks that are lost for one reason, as one range.
fn ranges(damaged: &[DamagedBlock]) -> Vec<DamagedRange> {
    let mut ranges: Vec<DamagedRange> = Vec::new();
    for block in damaged {
        let next = DamagedRange::from(block);
        match ranges.last_mut().filter(|last| last.goes_on_with(&next)) {
            Some(last) => last.length += next.length,
            None => ranges.push(next),
        }
    }
    ranges
}

impl DamagedRange {
    fn goes_on_with(&self, next: &Self) -> bool {
        self.offset + self.length == next.offset
            && (&self.point, &self.disk, &self.object) == (&next.point, &next.disk, &next.object)
            && (&self.reason, &self.causes) == (&next.reason, &next.causes)
    }
}

impl From<&DamagedBlock> for DamagedRange {
    fn from(block: &DamagedBlock) -> Self {
        let extent: Extent = block.extent;
        Self {
            point: block.point.to_string(),
            disk: block.disk.to_string(),
            offset: extent.start().0,
            length: extent.len().0,
            object: block.error.object().map(str::to_owned),
            reason: block.error.to_string(),
            causes: causes(&*block.error),
        }
    }
}

impl From<&Accounting> for Accounts {
    fn from(accounting: &Accounting) -> Self {
        let account = |tally: Tally| Account { objects: tally.objects, bytes: tally.bytes };
        Self {
            live: account(accounting.live),
            garbage: account(accounting.garbage),
            in_progress: account(accounting.in_progress),
            unexplained: Account {
                objects: accounting.unexplained.len() as u64,
                bytes: accounting.unexplained.iter().map(|(_, bytes)| bytes).sum(),
            },
        }
    }
}

impl Accounts {
    fn table(&self) -> Table {
        let mut table = Table::new([
            Column::Left("IN THE VAULT"),
            Column::Right("OBJECTS"),
            Column::Right("BYTES"),
            Column::Right(""),
        ]);
        let rows = [
            ("live", self.live),
            ("garbage", self.garbage),
            ("in progress", self.in_progress),
            ("unexplained", self.unexplained),
        ];
        for (name, Account { objects, bytes }) in rows {
            table.row([name.to_owned(), objects.to_string(), bytes.to_string(), bytes::show(bytes)]);
        }
        table
    }
}
