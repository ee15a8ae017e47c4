//! `vmkeep diff`.

use std::collections::BTreeMap;

use serde::Serialize;
use vmkeep::model::{ByteLen, DiskName, DiskRecord, Permit, op};
use vmkeep::vault::OpenPoint;
use vmkeep::vault::map::Change as BlockChange;

use crate::args::DiffArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome};

/// What became of the data in a range.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Data before, other data after.
    Changed,
    /// Zeros before, data after.
    Appeared,
    /// Data before, zeros after.
    Vanished,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "disk")]
struct DiskLine<'a> {
    disk: &'a str,
    /// Its sizes; `null` on the side where it is not.
    size_before: Option<u64>,
    size_after: Option<u64>,
    /// Whether its content is stored on both sides and was compared.
    compared: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "extent")]
struct Extent<'a> {
    disk: &'a str,
    offset: u64,
    length: u64,
    kind: Kind,
}

#[derive(Default, Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    before: String,
    after: String,
    extents: u64,
    bytes_changed: u64,
    bytes_appeared: u64,
    bytes_vanished: u64,
    only_before: Vec<String>,
    only_after: Vec<String>,
}

/// A disk in the two points.
#[derive(Default)]
struct Sides<'a> {
    before: Option<&'a DiskRecord>,
    after: Option<&'a DiskRecord>,
}

pub(crate) fn run(context: &Context<'_>, args: &DiffArgs) -> Result<Outcome, Error> {
    if args.before.vm != args.after.vm {
        return Err(Error::usage(format!(
            "{} and {} are points of two VMs; content is identified by a key of each VM, so only points of one VM can be \
             compared",
            args.before, args.after
        )));
    }
    let vault = context.open_vault(&args.vault.vault)?;
    let permit = context.permit::<op::Verify>(&vault, Some(&args.before.vm))?;
    let (before, after) = (vault.point(&args.before)?, vault.point(&args.after)?);

    let mut disks: BTreeMap<&DiskName, Sides<'_>> = BTreeMap::new();
    for disk in &before.point().disks {
        disks.entry(&disk.description.name).or_default().before = Some(disk);
    }
    for disk in &after.point().disks {
        disks.entry(&disk.description.name).or_default().after = Some(disk);
    }
    let mut summary = Summary {
        before: before.reference().to_string(),
        after: after.reference().to_string(),
        ..Summary::default()
    };
    for (name, sides) in disks {
        context.cancel.check()?;
        tell_disk(context, &mut summary, name, &sides);
        if sides.compared() {
            tell_extents(context, &permit, &mut summary, name, &before, &after)?;
        }
    }
    context.output.text(format!(
        "{} to {}: {} changed, {} appeared, {} vanished, in {} ranges",
        summary.before,
        summary.after,
        bytes::show(summary.bytes_changed),
        bytes::show(summary.bytes_appeared),
        bytes::show(summary.bytes_vanished),
        summary.extents,
    ));
    context.output.json(&summary);
    Ok(Outcome::Good)
}

impl Sides<'_> {
    fn compared(&self) -> bool {
        let stored = |side: Option<&DiskRecord>| side.is_some_and(|disk| disk.stored.is_some());
        stored(self.before) && stored(self.after)
    }
}

fn tell_disk(context: &Context<'_>, summary: &mut Summary, name: &DiskName, sides: &Sides<'_>) {
    let size = |side: Option<&DiskRecord>| side.map(|disk| disk.size.0);
    let (size_before, size_after) = (size(sides.before), size(sides.after));
    let what = match (size_before, size_after) {
        (Some(before), None) => {
            summary.only_before.push(name.to_string());
            format!("only in {}, {}", summary.before, bytes::show(before))
        }
        (None, after) => {
            summary.only_after.push(name.to_string());
            format!("only in {}, {}", summary.after, bytes::show(after.unwrap_or(0)))
        }
        (Some(before), Some(after)) if before != after => {
            format!("{} before, {} after", bytes::show(before), bytes::show(after))
        }
        (Some(_), Some(after)) => bytes::show(after),
    };
    let stored = if sides.compared() || sides.before.is_none() || sides.after.is_none() {
        ""
    } else {
        ", not stored in both, so not compared"
    };
    context.output.text(format!("{name}: {what}{stored}"));
    let compared = sides.compared();
    context.output.json(&DiskLine { disk: name.as_str(), size_before, size_after, compared });
}

fn tell_extents(
    context: &Context<'_>,
    permit: &Permit<op::Verify>,
    summary: &mut Summary,
    name: &DiskName,
    before: &OpenPoint,
    after: &OpenPoint,
) -> Result<(), Error> {
    let (before, after) = (before.disk(permit, name)?, after.disk(permit, name)?);
    let size = ByteLen(before.size().0.max(after.size().0));
    for (run, change) in before.differences(&after, context.cancel)? {
        let extent = after.block_size().extent_of(run, size);
        let (offset, length) = (extent.start().0, extent.len().0);
        let (kind, word) = match change {
            BlockChange::Replaced => (Kind::Changed, "changed"),
            BlockChange::Appeared => (Kind::Appeared, "appeared"),
            BlockChange::Vanished => (Kind::Vanished, "vanished"),
        };
        summary.extents += 1;
        *match kind {
            Kind::Changed => &mut summary.bytes_changed,
            Kind::Appeared => &mut summary.bytes_appeared,
            Kind::Vanished => &mut summary.bytes_vanished,
        } += length;
        context.output.text(format!("  {offset:>16} + {length:<12} {word}"));
        context.output.json(&Extent { disk: name.as_str(), offset, length, kind });
    }
    Ok(())
}
