//! Damage, told exactly and mended where that can be.
//!
//! [`Vault::repair`] looks at everything that the points hold, tells what each of them has lost, and puts back what is known for
//! certain. Whatever is written is authentic or has been compared with the hash that a map names; nothing that can be read is
//! removed, and whatever a repair is stopped at, the vault has lost nothing by it.

mod blocks;
mod copies;
mod look;
mod marks;
mod records;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_model::{
    BlockRun, CancelToken, DiskName, Extent, LineageId, Permit, PointNumber, PointRef, Principal, op,
};

use self::blocks::{Elsewhere, MendBlocks};
pub use self::blocks::{LiveDisks, NoLiveDisks};
use self::copies::MendCopies;
use self::look::{PointLoss, Seen, look};
pub(crate) use self::marks::DamageMarks;
use self::records::MendRecord;
use self::units::{home_of, needed};
use crate::error::VaultError;
use crate::journal::{self, JournalEntry};
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::map::Entry;
use crate::pack::Whereabouts;
use crate::place::PackPlace;
use crate::point::OpenPoint;
use crate::vault::{Inner, Vault};
use crate::verify::{Accounting, Audit, AuditDepth, Damage};

/// A part of a disk that a restore of a point refuses.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The point.
    pub point: PointRef,
    /// Which disk.
    pub disk: DiskName,
    /// Which bytes of it.
    pub extent: Extent,
    /// Why; it names the object.
    pub error: Arc<VaultError>,
    /// What lies there is not known, not even whether it is zero: the map cannot be read.
    pub is_unknown: bool,
    /// The newest point has lost it too: the next backup stores it again, while the live disk still has it.
    pub heals: bool,
    /// The nearest point of the VM that has lost nothing; an older one where both are as near.
    pub instead: Option<PointNumber>,
}

/// What can be, or was, put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mend {
    /// The object.
    pub object: String,
    /// What was wrong: nothing lies under its name; else what does is damaged.
    pub was_missing: bool,
    /// Where it comes from.
    pub from: String,
}

/// What a repair saw, and did.
#[derive(Debug, Default)]
pub struct RepairReport {
    /// Points that can be opened.
    pub points: u64,
    /// Blocks that were read; each once although many points may share it.
    pub blocks: u64,
    /// Blocks that cannot be read because their key was destroyed on purpose: no damage.
    pub destroyed_blocks: u64,
    /// What restores refuse: all of it, for each point. After a repair, what is left.
    pub lost: Vec<Lost>,
    /// Objects that are damaged, missing or do not belong. After a repair, those that are left.
    pub objects: Vec<Damage>,
    /// What can be put back, or was.
    pub mends: Vec<Mend>,
    /// VMs of which it was noted what the next backup has to store again, or is to be.
    pub marked: Vec<String>,
    /// What every object is there for.
    pub accounting: Accounting,
    /// Whether what can be put back was.
    pub applied: bool,
}

impl RepairReport {
    /// Whether nothing is damaged: after a repair, any more.
    pub fn is_whole(&self) -> bool {
        self.lost.is_empty() && self.objects.is_empty() && (self.applied || self.mends.is_empty())
    }

    /// Whether a repair would write anything, or wrote something.
    pub fn has_to_do(&self) -> bool {
        !self.mends.is_empty() || !self.marked.is_empty()
    }

    /// Bytes of disks that are lost, point by point.
    pub fn lost_bytes(&self) -> u64 {
        self.lost.iter().map(|lost| lost.extent.len().0).sum()
    }
}

/// What to do about an object that is damaged, missing or does not belong, and cannot be put back.
pub fn advice(damage: &Damage) -> &'static str {
    match ObjectName::parse(&damage.object) {
        _ if matches!(damage.error, VaultError::Newer { .. }) => "use a newer version of this program",
        None | Some(ObjectName::Stage(..)) => {
            "it is left alone: it does not belong to a vault; remove it once you know whose it is"
        }
        Some(ObjectName::Vault) => "have the file back from a copy of the vault",
        Some(ObjectName::Key { .. } | ObjectName::KeyDestroyed { .. } | ObjectName::Rotation(_)) => {
            "give another key that opens this VM, have the file back from a copy of the vault, or change the key with vmkeep keys"
        }
        Some(ObjectName::Name(_)) => {
            "have the file back from a copy of the vault: without it the VM is not found"
        }
        Some(ObjectName::Point(..)) => "restore another point; the next backup does not rely on this one",
        Some(ObjectName::Head(_)) => "nothing: it is written with the next point",
        Some(ObjectName::Session(_)) => {
            "nothing, where the backup runs no more: it is ended as one that was abandoned"
        }
        Some(ObjectName::Plan(..) | ObjectName::Worn(..) | ObjectName::Repack(..)) => {
            "nothing: the next sweep goes on or begins again"
        }
        Some(ObjectName::Retired(..)) => {
            "have the file back from a copy of the vault: until then points of this VM may not open, and nothing of it is swept"
        }
        Some(ObjectName::Forget(..) | ObjectName::Mark(..) | ObjectName::Pin(..) | ObjectName::Moved(..)) => {
            "have the file back from a copy of the vault; until then nothing is swept here"
        }
        Some(ObjectName::Journal(..)) => {
            "what it said is not known any more; points and their data do not depend on it"
        }
        Some(ObjectName::Pack(..) | ObjectName::PackCopy(..)) => {
            "what of it the points need is listed as lost; have the file back from a copy of the vault, or let the next backup heal what the disk still has"
        }
    }
}

/// What is to be done, before it is done.
#[derive(Default)]
struct Plan {
    copies: Vec<(LineageId, MendCopies)>,
    records: Vec<(LineageId, MendRecord)>,
    blocks: Vec<MendBlocks>,
    marks: Vec<(Lineage, DamageMarks)>,
}

impl Vault {
    /// Looks at everything in the vault, as deep as a verification of every byte does, and tells what each point has lost and what
    /// can be put back; with `apply`, puts it back, and looks again.
    ///
    /// Safe beside backups, readers and sweeps, and safe to stop at any time: run again, it goes on. A pack that a sweep removes
    /// while a copy of it is put back may stay as garbage. Keeps what is lost, and no more, in memory.
    ///
    /// # Errors
    /// When the store fails, or `cancel` is set. Damage is none: it is in the report.
    pub fn repair(
        &self,
        permit: &Permit<op::Repair>,
        apply: bool,
        live: &dyn LiveDisks,
        cancel: &CancelToken,
    ) -> Result<RepairReport, VaultError> {
        permit.check_vault()?;
        let (mut report, mut plan) = self.look_for_damage(live, cancel)?;
        if !apply {
            return Ok(report);
        }
        // What came back may show more: the map below a copy, the packs of a point. What was tried once is not tried again.
        let (mut mends, mut tried) = (Vec::new(), BTreeSet::new());
        while report.mends.iter().any(|mend| !tried.contains(&mend.object)) {
            tried.extend(report.mends.iter().map(|mend| mend.object.clone()));
            self.mend(permit.who(), &plan, cancel)?;
            mends.append(&mut report.mends);
            (report, plan) = self.look_for_damage(live, cancel)?;
        }
        for (lineage, marks) in &plan.marks {
            self.inner.mark_damage(lineage.id, permit.who(), marks)?;
        }
        Ok(RepairReport { mends, applied: true, ..report })
    }

    /// What is wrong, and what can be done.
    fn look_for_damage(
        &self,
        live: &dyn LiveDisks,
        cancel: &CancelToken,
    ) -> Result<(RepairReport, Plan), VaultError> {
        // With nothing remembered: what is read comes from the store.
        let vault = &self.uncached().inner;
        let mut objects = Vec::new();
        let audit = vault.audit_all(AuditDepth::Metadata, cancel, &mut |damage| objects.push(damage))?;
        let seen = look(&audit.points, cancel)?;
        let plan = plan(vault, &audit, &seen, &objects, live, cancel)?;
        let mends = plan.mends();
        let marked = plan.marks.iter().map(|(lineage, _)| lineage.vm.to_string()).collect();
        let report = RepairReport {
            points: seen.points,
            blocks: seen.blocks,
            destroyed_blocks: seen.destroyed_blocks,
            lost: seen.losses.iter().flat_map(|loss| lost_of(&seen, loss)).collect(),
            objects,
            mends,
            marked,
            accounting: audit.accounting,
            applied: false,
        };
        Ok((report, plan))
    }

    /// Puts back what can be.
    fn mend(&self, by: &Principal, plan: &Plan, cancel: &CancelToken) -> Result<(), VaultError> {
        let vault = &self.uncached().inner;
        let mut done = BTreeMap::<LineageId, (u64, u64, u64)>::new();
        for (lineage, mend) in &plan.copies {
            done.entry(*lineage).or_default().0 += mend.apply(vault)?;
        }
        for (lineage, mend) in &plan.records {
            mend.apply(vault)?;
            done.entry(*lineage).or_default().1 += 1;
        }
        for mend in &plan.blocks {
            if mend.apply(vault, cancel)? {
                done.entry(mend.lineage.id).or_default().2 += mend.blocks;
            }
        }
        for (lineage, (copies, records, blocks)) in done {
            let entry = JournalEntry::Repaired { copies, blocks, records };
            journal::append(vault, lineage.0, by, &entry)?;
        }
        Ok(())
    }
}

impl Plan {
    fn mends(&self) -> Vec<Mend> {
        let mut mends = Vec::new();
        for (_, mend) in &self.copies {
            let from =
                mend.from.as_ref().map_or_else(|| "both copies together".to_owned(), ToString::to_string);
            mends.extend(mend.bad.iter().map(|(name, is_there)| Mend {
                object: name.to_string(),
                was_missing: !is_there,
                from: from.clone(),
            }));
        }
        mends.extend(self.records.iter().map(|(_, mend)| Mend {
            object: mend.name.to_string(),
            was_missing: !mend.is_there,
            from: mend.from.clone(),
        }));
        mends.extend(self.blocks.iter().map(|mend| Mend {
            object: ObjectName::pack(mend.lineage.id, &mend.pack).to_string(),
            was_missing: !mend.is_there,
            from: format!("{} ({} blocks or patches of it)", mend.from, mend.blocks),
        }));
        mends
    }
}

/// What can be put back, and what the next backups have to know.
fn plan(
    vault: &Arc<Inner>,
    audit: &Audit,
    seen: &Seen,
    objects: &[Damage],
    live: &dyn LiveDisks,
    cancel: &CancelToken,
) -> Result<Plan, VaultError> {
    let mut plan = Plan::default();
    let lineages: BTreeMap<LineageId, &Lineage> =
        audit.lineages.iter().map(|lineage| (lineage.id, lineage)).collect();
    for damage in objects {
        cancel.check()?;
        match ObjectName::parse(&damage.object) {
            Some(ObjectName::Head(lineage)) => {
                if let Some(lineage) = lineages.get(&lineage) {
                    let mend = if_known(MendRecord::hint(vault, lineage))?;
                    plan.records.extend(mend.map(|mend| (lineage.id, mend)));
                }
            }
            Some(ObjectName::Point(lineage, number)) => {
                if let Some(lineage) = lineages.get(&lineage) {
                    let bases = seen.lineages.get(&lineage.id).map(|held| &held.bases);
                    let is_a_base = bases.is_some_and(|bases| bases.values().any(|base| *base == number.0));
                    let mend = if_known(MendRecord::point(vault, lineage, number.0, is_a_base))?;
                    plan.records.extend(mend.map(|mend| (lineage.id, mend)));
                }
            }
            _ => {}
        }
    }
    for lineage in seen.lineages.values().map(|held| &held.lineage) {
        let mends = blocks_of(vault, audit, seen, lineage, objects, live, cancel);
        plan.blocks.extend(if_known(mends.map(Some))?.into_iter().flatten());
    }
    plan.records.dedup_by(|(_, a), (_, b)| a.name == b.name);
    for held in seen.lineages.values() {
        for pack in packs_of(vault, &held.lineage, &held.metadata)? {
            cancel.check()?;
            let mend = if_known(MendCopies::plan(vault, &held.lineage, &pack))?;
            plan.copies.extend(mend.map(|mend| (held.lineage.id, mend)));
        }
        if !held.marks.say_what(&vault.damage_marks(held.lineage.id)?.for_base(held.marks.point())) {
            plan.marks.push((held.lineage.clone(), held.marks.clone()));
        }
    }
    Ok(plan)
}

/// What can be put back; nothing, when what it would rest on is damaged itself.
fn if_known<T>(found: Result<Option<T>, VaultError>) -> Result<Option<T>, VaultError> {
    match found {
        Err(e) if e.is_of_one_object() => Ok(None),
        found => found,
    }
}

/// The packs of data of a lineage that can be replaced.
fn blocks_of(
    vault: &Arc<Inner>,
    audit: &Audit,
    seen: &Seen,
    lineage: &Lineage,
    objects: &[Damage],
    live: &dyn LiveDisks,
    cancel: &CancelToken,
) -> Result<Vec<MendBlocks>, VaultError> {
    let losses = seen.losses.iter().filter(|loss| loss.point.lineage.id == lineage.id);
    let lost = losses.flat_map(|loss| &loss.disks).flat_map(|(_, lost)| lost.values());
    let mut homes = BTreeSet::new();
    for reference in lost.filter_map(|lost| lost.entry.as_ref()).flat_map(Entry::references) {
        homes.insert(home_of(vault, lineage, &reference.at.pack, reference.at.slot)?);
    }
    if homes.is_empty() {
        return Ok(Vec::new());
    }
    let points: Vec<&OpenPoint> =
        audit.points.iter().filter(|point| point.lineage.id == lineage.id).collect();
    let (needed, read_all) = needed(vault, &points, lineage, &homes, cancel)?;
    // A point that cannot be read may need what no other does.
    let all_open = !objects.iter().any(|damage| {
        matches!(ObjectName::parse(&damage.object), Some(ObjectName::Point(of, _) | ObjectName::Retired(of, _)) if of == lineage.id)
    });
    let elsewhere = Elsewhere { vault, lineage, points: &points, live };
    let mut mends = Vec::new();
    for (pack, needed) in needed {
        mends.extend(elsewhere.plan(pack, needed, read_all && all_open, cancel)?);
    }
    Ok(mends)
}

/// Where the slots of `births` lie now.
fn packs_of(
    vault: &Inner,
    lineage: &Lineage,
    births: &BTreeSet<PackPlace>,
) -> Result<BTreeSet<PackPlace>, VaultError> {
    let mut packs = BTreeSet::new();
    for birth in births.iter().filter(|birth| birth.lineage.is_none_or(|of| of == lineage.id)) {
        match vault.whereabouts(lineage, birth) {
            Ok(Whereabouts::Moved(moved)) => packs.extend(moved.slots.iter().map(|slot| PackPlace {
                lineage: birth.lineage,
                session: vmkeep_model::SessionId(slot.pack.0),
                name: vmkeep_envelope::PackName(slot.pack.1),
            })),
            Ok(Whereabouts::InBirthPack(_)) => drop(packs.insert(*birth)),
            Err(e) if e.is_of_one_object() => drop(packs.insert(*birth)),
            Err(e) => return Err(e),
        }
    }
    Ok(packs)
}

/// The ranges that a point has lost, neighbours for one reason as one.
fn lost_of(seen: &Seen, loss: &PointLoss) -> Vec<Lost> {
    let id = loss.point.point().id;
    let newest = seen.lineages.get(&id.lineage).and_then(|held| held.bases.last_key_value());
    let newest = newest.and_then(|(number, _)| {
        let is_it = |other: &&PointLoss| {
            let other = other.point.point().id;
            (other.lineage, other.number.0) == (id.lineage, *number)
        };
        seen.losses.iter().find(is_it)
    });
    let whole = seen.whole.iter().filter(|(lineage, _)| *lineage == id.lineage).map(|(_, number)| *number);
    let instead = whole.min_by_key(|number| (number.0.abs_diff(id.number.0), *number));
    let mut ranges: Vec<Lost> = Vec::new();
    for (disk, lost) in &loss.disks {
        let of_newest =
            newest.and_then(|newest| newest.disks.iter().find(|(other, _)| other.name() == disk.name()));
        for (start, blocks) in lost {
            let run = BlockRun { start: *start, len: blocks.len };
            let extent = disk.block_size().extent_of(run, disk.size());
            if extent.is_empty() {
                continue;
            }
            let next = Lost {
                point: loss.point.reference(),
                disk: disk.name().clone(),
                extent,
                error: Arc::clone(&blocks.error),
                is_unknown: blocks.entry.is_none(),
                heals: of_newest
                    .and_then(|(_, lost)| lost.get(start))
                    .is_some_and(|other| (&other.entry, other.node) == (&blocks.entry, blocks.node)),
                instead,
            };
            match ranges.last_mut().filter(|last| last.goes_on_with(&next)) {
                Some(last) => last.extent = Extent::between(last.extent.start(), next.extent.end()),
                None => ranges.push(next),
            }
        }
    }
    ranges
}

impl Lost {
    fn goes_on_with(&self, next: &Self) -> bool {
        self.extent.end() == next.extent.start()
            && self.disk == next.disk
            && (self.is_unknown, self.heals) == (next.is_unknown, next.heals)
            && self.error.object() == next.error.object()
            && self.error.to_string() == next.error.to_string()
    }
}
