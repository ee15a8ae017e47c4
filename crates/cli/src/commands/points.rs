//! `vmkeep points`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use vmkeep::consistency::{Promise, promise};
use vmkeep::model::{
    ConsistencyLevel, DiskRecord, PointNumber, PointRef, PointSelector, RecoveryPoint, StorageEncryption,
    VmName,
};
use vmkeep::vault::{Suspect, Vault, VaultError};

use super::backup::Tracked;
use crate::args::PointsArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome, chain};
use crate::output;
use crate::table::{Column, Table};

#[derive(Serialize)]
#[serde(tag = "type", rename = "point")]
struct PointLine {
    point: String,
    vm: String,
    number: u64,
    created: String,
    created_ms: i64,
    consistency: String,
    /// Why it is that, and what else its backup found: one line each.
    evidence: Vec<String>,
    /// What a restore of it can count on.
    promise: PromiseLine,
    base: Option<u64>,
    lineage: String,
    session: String,
    forgotten: bool,
    held: bool,
    pins: usize,
    /// It cannot be restored as a whole any more, because keys were destroyed on purpose.
    destroyed: bool,
    /// Disks of which it may hold old data, because change tracking had missed a change.
    suspect_disks: Vec<String>,
    config_bytes: u64,
    storage_encryption: StorageKey,
    disks: Vec<Disk>,
}

/// What a restore can count on.
#[derive(Serialize)]
struct PromiseLine {
    captures: &'static str,
    loses: &'static str,
    at_boot: &'static str,
    applications: &'static str,
}

impl From<ConsistencyLevel> for PromiseLine {
    fn from(level: ConsistencyLevel) -> Self {
        let Promise { captures, loses, at_boot, applications } = promise(level);
        Self { captures, loses, at_boot, applications }
    }
}

/// What wrapped the vault's keys when the point was made.
#[derive(Serialize)]
struct StorageKey {
    managed: &'static str,
    /// URL of the key; `null` for a key file or a passphrase.
    key: Option<String>,
}

/// Where the keys were of a disk that its guest encrypts.
#[derive(Serialize)]
struct GuestKeys {
    bek: String,
    kek: Option<String>,
    /// Whether the point holds a copy of the key that wraps the other; a token gives none out.
    kek_captured: bool,
}

#[derive(Serialize)]
struct Disk {
    name: String,
    role: String,
    lun: Option<u32>,
    size: u64,
    /// `null` for a temporary disk, of which nothing is stored.
    stored: Option<Stored>,
    /// `null` unless its guest encrypts it and its keys were captured.
    encryption: Option<GuestKeys>,
}

#[derive(Serialize)]
struct Stored {
    block_size: u64,
    /// Identity of the content; `null` when every byte is zero.
    content: Option<String>,
    allocated: u64,
    /// Bytes that the file systems on it say they use; `null` when that could not be measured.
    filesystems: Option<u64>,
    changed: u64,
    zeroed: u64,
    provenance: String,
    /// `null` when all of the disk was read.
    tracking: Option<Tracked>,
    /// Why change tracking was there and was not believed.
    fallback: Option<String>,
    /// Of the changed blocks, those of which only pages were stored, and these pages.
    blocks_patched: u64,
    pages_patched: u64,
}

/// A point that cannot be read.
#[derive(Serialize)]
#[serde(tag = "type", rename = "unreadable")]
struct UnreadableLine {
    point: String,
    causes: Vec<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    vms: usize,
    points: usize,
    forgotten: usize,
    held: usize,
    pinned: usize,
    suspect: usize,
    destroyed: usize,
    unreadable: usize,
}

/// What is known of points of a VM beside what they say themselves.
#[derive(Default)]
struct Kept {
    held: BTreeSet<PointNumber>,
    pins: BTreeMap<PointNumber, usize>,
    suspects: Vec<Suspect>,
    /// Points that need keys that were destroyed.
    destroyed: BTreeSet<PointRef>,
}

/// A point with what is known of it.
struct Listed {
    point: RecoveryPoint,
    held: bool,
    pins: usize,
    destroyed: bool,
    suspect: Vec<String>,
}

pub(crate) fn run(context: &Context<'_>, args: &PointsArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, args.vm.as_ref())?;
    let vms = match &args.vm {
        Some(vm) => vec![vm.clone()],
        None => vault.vms()?,
    };
    let (mut points, mut unreadable) = (Vec::new(), 0);
    for vm in &vms {
        context.cancel.check()?;
        let kept = Kept::of(context, &vault, vm)?;
        for (number, point) in vault.history(vm)? {
            match point {
                Ok(point) => points.push(kept.list(point)),
                Err(error) => {
                    let (point, causes) = (format!("{vm}@{number}"), chain(&error));
                    output::warn(&format!("{point} cannot be read"), &causes);
                    context.output.json(&UnreadableLine { point, causes });
                    unreadable += 1;
                }
            }
        }
    }
    for point in &points {
        context.output.json(&PointLine::from(point));
    }
    if points.is_empty() {
        context.output.text("no recovery points");
    } else {
        table(&points).lines().for_each(|line| context.output.text(line));
        if args.why {
            for listed in &points {
                why(context, &listed.point);
            }
        }
    }
    let number = |holds: fn(&Listed) -> bool| points.iter().filter(|listed| holds(listed)).count();
    context.output.json(&Summary {
        vms: vms.len(),
        points: points.len(),
        forgotten: number(|listed| listed.point.forgotten),
        held: number(|listed| listed.held),
        pinned: number(|listed| listed.pins > 0),
        suspect: number(|listed| !listed.suspect.is_empty()),
        destroyed: number(|listed| listed.destroyed),
        unreadable,
    });
    Ok(if unreadable == 0 { Outcome::Good } else { Outcome::Damage })
}

impl Kept {
    fn of(context: &Context<'_>, vault: &Vault, vm: &VmName) -> Result<Self, VaultError> {
        let mut kept = Self { held: vault.held(vm)?.into_iter().collect(), ..Self::default() };
        match vault.destroyed_keys(vm, context.cancel) {
            Ok(keys) => kept.destroyed = keys.into_iter().flat_map(|keys| keys.points).collect(),
            Err(e) if e.is_of_one_object() => {
                output::warn(&format!("what destroyed keys took of {vm} cannot be told"), &chain(&e));
            }
            Err(e) => return Err(e),
        }
        match vault.suspects(vm) {
            Ok(suspects) => kept.suspects = suspects,
            Err(e) if e.is_of_one_object() => {
                output::warn(&format!("the journal of {vm} cannot be read"), &chain(&e));
            }
            Err(e) => return Err(e),
        }
        match vault.pins(vm) {
            Ok(pins) => pins.iter().for_each(|pin| *kept.pins.entry(pin.number).or_default() += 1),
            // The points are what they are.
            Err(e) if e.is_of_one_object() => {
                output::warn(&format!("the pins of {vm} cannot be read"), &chain(&e));
            }
            Err(e) => return Err(e),
        }
        Ok(kept)
    }

    fn list(&self, point: RecoveryPoint) -> Listed {
        let number = point.id.number;
        let (held, pins) = (self.held.contains(&number), self.pins.get(&number).copied().unwrap_or(0));
        let suspect: BTreeSet<_> =
            self.suspects.iter().filter(|s| s.holds(number)).map(|s| s.disk.clone()).collect();
        let reference = PointRef { vm: point.vm.clone(), selector: PointSelector::Number(number) };
        let destroyed = self.destroyed.contains(&reference);
        Listed { point, held, pins, destroyed, suspect: suspect.into_iter().collect() }
    }
}

impl Listed {
    fn marks(&self) -> String {
        let marks = [
            (self.point.forgotten, "forgotten"),
            (self.held, "held"),
            (self.pins > 0, "pinned"),
            (!self.suspect.is_empty(), "suspect"),
            (self.destroyed, "destroyed"),
        ];
        let set = marks.iter().filter(|(set, _)| *set).map(|(_, mark)| *mark);
        set.collect::<Vec<_>>().join(", ")
    }
}

/// Why a point is as consistent as it is, and what that is worth.
fn why(context: &Context<'_>, point: &RecoveryPoint) {
    let (level, output) = (point.consistency, context.output);
    let promise = promise(level);
    output.text(format!("{}@{}: {level}-consistent", point.vm, point.id.number));
    point.evidence.iter().for_each(|line| output.text(format!("  {line}")));
    output.text(format!("  holds {}; not {}", promise.captures, promise.loses));
    output.text(format!("  restored, the guest {}; applications {}", promise.at_boot, promise.applications));
}

/// A line per disk; what belongs to the point stands on the first of them.
fn table(points: &[Listed]) -> Table {
    let left = ["POINT", "CREATED (UTC)", "CONSISTENCY", "DISK", "ROLE"].map(Column::Left);
    let right = ["SIZE", "ALLOCATED", "CHANGED"].map(Column::Right);
    let mut table = Table::new(left.into_iter().chain(right).chain([Column::Left("")]));
    for listed in points {
        let point = &listed.point;
        for (nth, disk) in point.disks.iter().enumerate() {
            let of_point = |text: String| if nth == 0 { text } else { String::new() };
            let of_stored = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), bytes::show);
            table.row([
                of_point(format!("{}@{}", point.vm, point.id.number)),
                of_point(point.created.to_string()),
                of_point(point.consistency.to_string()),
                disk.description.name.to_string(),
                disk.description.role.to_string(),
                bytes::show(disk.size.0),
                of_stored(disk.stored.as_ref().map(|stored| stored.allocated.0)),
                of_stored(disk.stored.as_ref().map(|stored| stored.changed.0)),
                of_point(listed.marks()),
            ]);
        }
    }
    table
}

impl From<&Listed> for PointLine {
    fn from(Listed { point, held, pins, destroyed, suspect }: &Listed) -> Self {
        Self {
            point: format!("{}@{}", point.vm, point.id.number),
            vm: point.vm.to_string(),
            number: point.id.number.0,
            created: point.created.to_string(),
            created_ms: point.created.0,
            consistency: point.consistency.to_string(),
            evidence: point.evidence.clone(),
            promise: point.consistency.into(),
            base: point.base.map(|base| base.0),
            lineage: point.id.lineage.to_string(),
            session: point.session.to_string(),
            forgotten: point.forgotten,
            held: *held,
            pins: *pins,
            destroyed: *destroyed,
            suspect_disks: suspect.clone(),
            config_bytes: point.config_len,
            storage_encryption: match &point.storage_encryption {
                StorageEncryption::VaultManaged => StorageKey { managed: "vault", key: None },
                StorageEncryption::CustomerManaged { key } => {
                    StorageKey { managed: "customer", key: Some(key.clone()) }
                }
            },
            disks: point.disks.iter().map(Disk::from).collect(),
        }
    }
}

impl From<&DiskRecord> for Disk {
    fn from(disk: &DiskRecord) -> Self {
        let description = &disk.description;
        Self {
            name: description.name.to_string(),
            role: description.role.to_string(),
            lun: description.lun,
            size: disk.size.0,
            encryption: disk.encryption.as_ref().map(|keys| GuestKeys {
                bek: keys.bek.clone(),
                kek: keys.kek.clone(),
                kek_captured: keys.kek_captured,
            }),
            stored: disk.stored.as_ref().map(|stored| Stored {
                block_size: stored.block_size.bytes_u64(),
                content: stored.content.map(|content| content.to_string()),
                allocated: stored.allocated.0,
                filesystems: stored.used.as_ref().map(|used| used.bytes.0),
                changed: stored.changed.0,
                zeroed: stored.zeroed.0,
                provenance: stored.provenance.to_string(),
                tracking: stored.tracking.as_ref().map(Tracked::from),
                fallback: stored.fallback.clone(),
                blocks_patched: stored.patched_blocks,
                pages_patched: stored.patched_pages,
            }),
        }
    }
}
