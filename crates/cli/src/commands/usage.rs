//! `vmkeep usage`.

use serde::Serialize;

use crate::args::UsageArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::table::{Column, Table};

#[derive(Serialize)]
#[serde(tag = "type", rename = "vm")]
struct Taken {
    /// `null` for a line of points that no name leads to any more.
    vm: Option<String>,
    lineage: String,
    points: usize,
    /// Size of the data of the newest point, blocks of zeros left out.
    protected_bytes: u64,
    data_bytes: u64,
    metadata_bytes: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vms: usize,
    /// Of the vault itself: names, roles, notes, its keys.
    record_bytes: u64,
    /// Of files that are no part of a vault.
    foreign_bytes: u64,
    /// All bytes in the folder: the sum of all lines.
    total_bytes: u64,
}

pub(crate) fn run(context: &Context<'_>, args: &UsageArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, None)?;
    let usage = vault.usage()?;
    let left = ["VM", "LINE OF POINTS"].map(Column::Left);
    let right = ["POINTS", "PROTECTED", "DATA", "METADATA", "IN ALL"].map(Column::Right);
    let mut table = Table::new(left.into_iter().chain(right));
    for lineage in &usage.lineages {
        context.cancel.check()?;
        let points = match &lineage.vm {
            Some(vm) => vault.points(vm)?,
            None => Vec::new(),
        };
        let points: Vec<_> = points.iter().filter(|point| point.id.lineage == lineage.id).collect();
        let stored =
            points.last().into_iter().flat_map(|point| &point.disks).filter_map(|d| d.stored.as_ref());
        let taken = Taken {
            vm: lineage.vm.as_ref().map(ToString::to_string),
            lineage: lineage.id.to_string(),
            points: points.len(),
            protected_bytes: stored.map(|disk| disk.allocated.0).sum(),
            data_bytes: lineage.data,
            metadata_bytes: lineage.metadata,
        };
        table.row([
            taken.vm.clone().unwrap_or_else(|| "-".to_owned()),
            taken.lineage.clone(),
            taken.points.to_string(),
            bytes::show(taken.protected_bytes),
            bytes::show(taken.data_bytes),
            bytes::show(taken.metadata_bytes),
            bytes::show(taken.data_bytes + taken.metadata_bytes),
        ]);
        context.output.json(&taken);
    }
    table.lines().for_each(|line| context.output.text(line));
    context.output.text(format!("records of the vault itself: {}", bytes::show(usage.records)));
    if usage.foreign > 0 {
        context.output.text(format!("files that are no part of it: {}", bytes::show(usage.foreign)));
    }
    context.output.text(format!("in all {} bytes", usage.total()));
    context.output.json(&Summary {
        vms: usage.lineages.len(),
        record_bytes: usage.records,
        foreign_bytes: usage.foreign,
        total_bytes: usage.total(),
    });
    Ok(Outcome::Good)
}
