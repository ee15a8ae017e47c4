//! `vmkeep repair`.

use std::collections::BTreeMap;

use serde::Serialize;
use vmkeep::disk::BlockRead;
use vmkeep::model::{BlockIndex, BlockRun, BlockSize, DiskName, PointRef, VmName, op};
use vmkeep::vault::{Damage, LiveDisks, Lost, Mend, RepairReport, advice};

use super::backup::{self, Opened, Reading};
use crate::args::RepairArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome, causes, sentence};

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    /// Something that can be put back, or was.
    Mend { object: &'a str, was: &'static str, from: &'a str, done: bool },
    /// The next backup of the VM stores again what its newest point has lost.
    Marked { vm: &'a str, done: bool },
    /// An object that is damaged, missing or does not belong.
    DamagedObject { object: &'a str, reason: String, causes: Vec<String>, advice: &'static str },
    /// A range of a disk that restores of the point refuse.
    LostRange {
        point: String,
        disk: &'a str,
        offset: u64,
        length: u64,
        /// Whether it is the map that cannot be read: not even what was zero is known.
        unknown: bool,
        object: Option<&'a str>,
        reason: String,
        causes: Vec<String>,
        /// Whether the next backup stores it again, while the disk still has it.
        heals: bool,
        /// The nearest point that has lost nothing.
        instead: Option<u64>,
    },
    Summary {
        whole: bool,
        applied: bool,
        points: u64,
        blocks: u64,
        mends: usize,
        marked: usize,
        damaged_objects: usize,
        lost_ranges: usize,
        lost_bytes: u64,
        /// Blocks that cannot be read because their key was destroyed on purpose: no damage.
        destroyed_blocks: u64,
        /// Objects that nothing needs any more: the sweep removes them.
        garbage_objects: u64,
        garbage_bytes: u64,
        /// Objects that do not belong to the vault, which are left alone.
        foreign_objects: usize,
    },
}

pub(crate) fn run(context: &Context<'_>, args: &RepairArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit::<op::Repair>(&vault, None)?;
    let live = Live::open(args)?;
    let report = vault.repair(&permit, args.apply, &live, context.cancel)?;
    report.mends.iter().for_each(|mend| print_mend(context, mend, report.applied));
    print_marked(context, &report);
    report.objects.iter().for_each(|damage| print_object(context, damage));
    print_lost(context, &report);
    print_end(context, &report);
    Ok(if report.is_whole() { Outcome::Good } else { Outcome::Damage })
}

/// The disks that were given.
struct Live<'a> {
    vm: Option<&'a VmName>,
    disks: BTreeMap<&'a DiskName, Box<dyn BlockRead>>,
}

impl<'a> Live<'a> {
    fn open(args: &'a RepairArgs) -> Result<Self, Error> {
        let mut disks = BTreeMap::new();
        let reading = Reading { allow_backing: &[], direct: false };
        for disk in &args.disks {
            if let Opened::Image(image) = backup::open(disk, &reading)? {
                disks.insert(&disk.description.name, image);
            }
        }
        Ok(Self { vm: args.vm.as_ref(), disks })
    }
}

impl LiveDisks for Live<'_> {
    fn read(&self, vm: &VmName, disk: &DiskName, block: BlockIndex, size: BlockSize, buf: &mut [u8]) -> bool {
        let Some(image) = self.disks.get(disk).filter(|_| self.vm == Some(vm)) else { return false };
        let extent = size.extent_of(BlockRun { start: block, len: 1 }, image.len());
        let len = usize::try_from(extent.len().0).unwrap_or(0);
        // A part of a disk that cannot be read is of no help, and no reason to give up.
        let Some((head, tail)) = buf.split_at_mut_checked(len).filter(|_| len > 0) else { return false };
        tail.fill(0);
        image.read_at(extent.start(), head).is_ok()
    }
}

fn print_mend(context: &Context<'_>, mend: &Mend, done: bool) {
    let Mend { object, was_missing, from } = mend;
    let was = if *was_missing { "missing" } else { "damaged" };
    let does = if done { "put back" } else { "can be put back" };
    context.output.text(format!("{does}: {object}, which was {was}, from {from}"));
    context.output.json(&Line::Mend { object, was, from, done });
}

fn print_marked(context: &Context<'_>, report: &RepairReport) {
    for vm in &report.marked {
        let does = if report.applied { "noted" } else { "would be noted" };
        context.output.text(format!(
            "{does}: what the newest point of {vm} has lost; its next backup reads the whole disk and relies on none of it"
        ));
        context.output.json(&Line::Marked { vm, done: report.applied });
    }
}

fn print_object(context: &Context<'_>, damage: &Damage) {
    let (reason, causes, advice) = (damage.error.to_string(), causes(&damage.error), advice(damage));
    context.output.text(format!("damaged: {}: {}", damage.object, sentence(&reason, &causes)));
    context.output.text(format!("  what to do: {advice}"));
    context.output.json(&Line::DamagedObject { object: &damage.object, reason, causes, advice });
}

fn print_lost(context: &Context<'_>, report: &RepairReport) {
    let mut advised = BTreeMap::<&PointRef, (bool, Option<u64>)>::new();
    for lost in &report.lost {
        let Lost { point, disk, extent, error, is_unknown, heals, instead } = lost;
        let (reason, causes) = (error.to_string(), causes(&**error));
        let what = if *is_unknown { "unknown" } else { "lost" };
        context.output.text(format!(
            "{what}: {point} disk {disk}, {} bytes at {}: {}",
            extent.len().0,
            extent.start().0,
            sentence(&reason, &causes)
        ));
        let instead = instead.map(|number| number.0);
        let known = advised.entry(point).or_insert((true, instead));
        known.0 &= *heals;
        context.output.json(&Line::LostRange {
            point: point.to_string(),
            disk: disk.as_str(),
            offset: extent.start().0,
            length: extent.len().0,
            unknown: *is_unknown,
            object: error.object(),
            reason,
            causes,
            heals: *heals,
            instead,
        });
    }
    for (point, (heals, instead)) in advised {
        let instead = match instead {
            Some(number) => format!("restore {}@{number} instead, which has lost nothing", point.vm),
            None => format!("no point of {} is whole: restore what is not listed", point.vm),
        };
        let next = if heals {
            "; the next backup has it again while the live disk still has it"
        } else {
            "; what is not in the newest point any more cannot be had back"
        };
        context.output.text(format!("what to do about {point}: {instead}{next}"));
    }
}

fn print_end(context: &Context<'_>, report: &RepairReport) {
    let garbage = report.accounting.garbage;
    if garbage.objects > 0 {
        context.output.text(format!(
            "{} objects ({}) are not needed any more, left by interrupted work or forgotten points: vmkeep sweep removes them",
            garbage.objects,
            bytes::show(garbage.bytes)
        ));
    }
    let foreign = report.accounting.unexplained.len();
    let end = if report.is_whole() {
        "nothing is damaged".to_owned()
    } else if report.objects.is_empty() && report.lost.is_empty() {
        format!("{} objects can be put back: run with --apply", report.mends.len())
    } else {
        let lost = bytes::show(report.lost_bytes());
        format!("{} objects are damaged, {lost} of disks are lost", report.objects.len())
    };
    let (points, blocks) = (report.points, report.blocks);
    context.output.text(format!("{points} points, {blocks} blocks looked at: {end}"));
    context.output.json(&Line::Summary {
        whole: report.is_whole(),
        applied: report.applied,
        points,
        blocks,
        mends: report.mends.len(),
        marked: report.marked.len(),
        damaged_objects: report.objects.len(),
        lost_ranges: report.lost.len(),
        lost_bytes: report.lost_bytes(),
        destroyed_blocks: report.destroyed_blocks,
        garbage_objects: garbage.objects,
        garbage_bytes: garbage.bytes,
        foreign_objects: foreign,
    });
}
