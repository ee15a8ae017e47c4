//! `vmkeep usage`.

use serde::Serialize;
use vmkeep::billing::{Shares, VaultBytes, VmBytes, fair_shares};
use vmkeep::vault::{LineageUsage, VaultUsage};

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
    /// What would be freed if the VM were not there: of data, which nothing else refers to, and of its metadata.
    data_bytes: u64,
    metadata_bytes: u64,
    /// Its part of what several VMs refer to.
    shared_bytes: u64,
    /// What its points would take if it shared nothing.
    logical_bytes: u64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vms: usize,
    /// Of the vault itself: names, roles, notes, its keys.
    record_bytes: u64,
    /// What the next sweep removes.
    garbage_bytes: u64,
    /// Of files that are no part of a vault.
    foreign_bytes: u64,
    /// All bytes in the folder: the sum of all lines.
    total_bytes: u64,
    /// What they would be if no VM shared anything with another.
    without_sharing_bytes: u64,
}

pub(crate) fn run(context: &Context<'_>, args: &UsageArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, None)?;
    let usage = vault.usage_without_garbage(context.cancel)?;
    let shares = shares(&usage)?;
    let left = ["VM", "LINE OF POINTS"].map(Column::Left);
    let right = ["POINTS", "PROTECTED", "DATA", "METADATA", "SHARED", "IN ALL"].map(Column::Right);
    let mut table = Table::new(left.into_iter().chain(right));
    for (lineage, share) in usage.lineages.iter().zip(&shares.vms) {
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
            data_bytes: share.vm.exclusive,
            metadata_bytes: share.vm.overhead,
            shared_bytes: share.shared_part,
            logical_bytes: share.vm.logical,
        };
        table.row([
            taken.vm.clone().unwrap_or_else(|| "-".to_owned()),
            taken.lineage.clone(),
            taken.points.to_string(),
            bytes::show(taken.protected_bytes),
            bytes::show(taken.data_bytes),
            bytes::show(taken.metadata_bytes),
            bytes::show(taken.shared_bytes),
            bytes::show(share.bytes),
        ]);
        context.output.json(&taken);
    }
    table.lines().for_each(|line| context.output.text(line));
    context.output.text(format!("records of the vault itself: {}", bytes::show(usage.records)));
    context.output.text(format!("garbage that awaits a sweep: {}", bytes::show(usage.garbage)));
    if usage.foreign > 0 {
        context.output.text(format!("files that are no part of it: {}", bytes::show(usage.foreign)));
    }
    context.output.text(format!("in all {} bytes", usage.total()));
    context.output.json(&Summary {
        vms: usage.lineages.len(),
        record_bytes: usage.records,
        garbage_bytes: usage.garbage,
        foreign_bytes: usage.foreign,
        total_bytes: usage.total(),
        without_sharing_bytes: u64::try_from(shares.total_without_dedup()).unwrap_or(u64::MAX),
    });
    Ok(Outcome::Good)
}

/// What each VM answers for. Nothing is shared between VMs, so what it takes is its alone.
fn shares(usage: &VaultUsage) -> Result<Shares, Error> {
    let of = |lineage: &LineageUsage| VmBytes {
        id: lineage.id,
        logical: lineage.data,
        exclusive: lineage.data,
        shared: 0,
        overhead: lineage.metadata,
    };
    let vms: Vec<VmBytes> = usage.lineages.iter().map(of).collect();
    let folder = usage.total() - usage.foreign;
    let vault = VaultBytes { shared: 0, garbage: usage.garbage, records: usage.records, folder };
    fair_shares(&vms, vault).map_err(Error::billing)
}
