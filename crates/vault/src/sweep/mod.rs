//! Removing what no recovery point needs any more, beside writers and readers, and at the cost of what is removed.
//!
//! A sweep takes forgotten points, ends abandoned sessions, and removes what only those needed. In which order is the
//! business of [`crate::protocol`]; what is dead is found by [`liveness`] from the two points beside each that goes.
//! A sweep may be stopped at any time: the next one, on any host, goes on.

mod data;
mod going;
mod liveness;
mod reachable;
mod rewrite;

use std::collections::BTreeMap;

use vmkeep_model::{
    CancelToken, LineageId, Permit, PointNumber, PointRef, PointSelector, Principal, SessionId, VmName, op,
};

pub use self::rewrite::Rewritten;

use self::data::{SweepData, Tally};
use crate::drive::{Driver, NoData};
use crate::error::VaultError;
use crate::format::PointBody;
use crate::journal::{self, JournalEntry};
use crate::keyring;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::protocol::{LineageSweep, Request, Step, Survey, SweepInput, Waiting, ranges_of};
use crate::records::{self, random_id};
use crate::vault::{Inner, Vault};

/// How often a lineage is looked at again because another sweep was at it too.
const ROUNDS: u32 = 8;

/// A session or sweep that began longer ago counts as abandoned: 7 days, in milliseconds. Long, because the first backup
/// of a large disk takes days, and one that is ended while it runs has worked for nothing.
pub const ABANDONED_AFTER_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// How a sweep is to go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepSettings {
    /// Sessions that began longer ago are ended, in milliseconds. It says when to try, not whether it is safe: a
    /// session that still runs is told when it commits. [`ABANDONED_AFTER_MS`] by default; `None` ends none.
    pub abandoned_after_ms: Option<i64>,
    /// Most bytes that are copied to free packs that are dead in part; 0 copies nothing.
    pub max_repack: u64,
    /// Changes nothing, and reports what would be done.
    pub dry_run: bool,
}

impl Default for SweepSettings {
    fn default() -> Self {
        Self { abandoned_after_ms: Some(ABANDONED_AFTER_MS), max_repack: u64::MAX, dry_run: false }
    }
}

/// How far a sweep is.
#[derive(Debug)]
#[non_exhaustive]
pub enum SweepEvent {
    /// It begins with a VM.
    Vm {
        /// Which.
        vm: VmName,
    },
    /// The maps of points that go are compared with those that stay.
    Examining {
        /// Points done of this batch.
        done: u64,
        /// Points of this batch.
        of: u64,
    },
    /// Packs are looked at for what is live in them.
    Judging {
        /// Packs done.
        done: u64,
        /// Packs to look at.
        of: u64,
    },
    /// Objects were removed; the numbers are of this VM so far.
    Removed {
        /// Objects.
        objects: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A new pack was made of what is live in worn ones.
    Repacked {
        /// Its size.
        bytes: u64,
    },
    /// Something could not be read: what depends on it stays.
    Damaged {
        /// What.
        error: VaultError,
    },
}

/// Why a forgotten point stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// It is the newest: the next backup builds on it. It goes once there is a newer one, or the VM is closed.
    Newest,
    /// A reader has pinned it.
    Pinned,
    /// It is held.
    Held,
    /// A map that is needed to tell what it alone has cannot be read.
    Damaged,
}

/// What a sweep did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Points that are gone.
    pub points: Vec<PointRef>,
    /// Forgotten points that stay, and why.
    pub kept: Vec<(PointRef, Kept)>,
    /// Sessions that were ended as abandoned, each with its VM.
    pub ended: Vec<(VmName, SessionId)>,
    /// Sessions that may still commit.
    pub open_sessions: u64,
    /// Objects that were removed, and their bytes: packs and leftovers. Records count as objects only.
    pub objects: u64,
    /// Bytes of what was removed.
    pub freed: u64,
    /// Bytes that were copied into new packs.
    pub copied: u64,
    /// Bytes that are dead in packs that hold live ones too, found in this sweep.
    pub worn: u64,
    /// Bytes, about, of dead blocks that share a frame with live ones and stay, because the data key is not at hand.
    pub unthinned: u64,
    /// Packs that were replaced.
    pub repacked: u64,
    /// Things that could not be read.
    pub damaged: u64,
    /// With [`SweepSettings::dry_run`]: the names of the objects that would be removed.
    pub would_go: Vec<String>,
}

impl Vault {
    /// Removes what no recovery point needs: what forgotten points alone hold, and what ended sessions left.
    ///
    /// Safe beside writers, readers and other sweeps, and safe to stop at any time. Points that are the newest of their
    /// VM, pinned or held stay. Costs what it frees, and three listings when there is nothing to do.
    pub fn sweep(
        &self,
        permit: &Permit<op::Sweep>,
        settings: &SweepSettings,
        cancel: &CancelToken,
        events: &mut dyn FnMut(SweepEvent),
    ) -> Result<SweepReport, VaultError> {
        permit.check_vault()?;
        self.sweep_all(permit.who(), settings, cancel, events)
    }

    /// What the next sweep would remove: the names of the objects.
    pub(crate) fn garbage(&self, cancel: &CancelToken) -> Result<Vec<String>, VaultError> {
        let settings = SweepSettings { max_repack: 0, dry_run: true, ..SweepSettings::default() };
        Ok(self.sweep_all(&Principal::owner(), &settings, cancel, &mut |_| {})?.would_go)
    }

    fn sweep_all(
        &self,
        by: &Principal,
        settings: &SweepSettings,
        cancel: &CancelToken,
        events: &mut dyn FnMut(SweepEvent),
    ) -> Result<SweepReport, VaultError> {
        let mut report = SweepReport::default();
        let mut budget = settings.max_repack;
        let (found, stages) = self.inner.survey()?;
        self.inner.remove_stages(stages, settings, &mut report)?;
        for (lineage, mut waiting) in found {
            let Some(lineage) = self.inner.lineage_of(lineage, &waiting)? else { continue };
            events(SweepEvent::Vm { vm: lineage.vm.clone() });
            for round in 1..=ROUNDS {
                let again = self.sweep_lineage(
                    by,
                    &lineage,
                    waiting,
                    settings,
                    &mut budget,
                    cancel,
                    events,
                    &mut report,
                )?;
                if !again || round == ROUNDS || settings.dry_run {
                    break;
                }
                waiting = self.inner.survey()?.0.remove(&lineage.id).unwrap_or_default();
            }
        }
        Ok(report)
    }

    #[allow(clippy::too_many_arguments)] // one caller, and each is a thing of its own
    fn sweep_lineage(
        &self,
        by: &Principal,
        lineage: &Lineage,
        waiting: Waiting,
        settings: &SweepSettings,
        budget: &mut u64,
        cancel: &CancelToken,
        events: &mut dyn FnMut(SweepEvent),
        report: &mut SweepReport,
    ) -> Result<bool, VaultError> {
        // With nothing remembered: a pack that was repacked since would be judged where it no longer lies.
        let vault = &self.uncached().inner;
        let now = vault.ports.clock.now().0;
        let sweep = SessionId(random_id(&*vault.ports.entropy)?);
        let input = SweepInput {
            lineage: lineage.id,
            sweep: sweep.0,
            at: now,
            void_before: settings.abandoned_after_ms.map_or(i64::MIN, |after| now.saturating_sub(after)),
            repack: if *budget == 0 { 0 } else { usize::MAX },
            seals_with: lineage.seals_with(),
            rules: vault.rules,
        };
        let marked = waiting.marks.clone();
        let mut data = SweepData::new(vault, lineage, sweep, *budget, settings.dry_run, cancel, events);
        let mut driver = Driver::new(vault, Some(lineage), &mut data);
        if settings.dry_run {
            driver.only_look();
        }
        let mut machine = LineageSweep::new(input, waiting);
        let done = driver.finish(|reply| machine.step(reply))?;
        *budget = data.repack_left;
        let Tally { objects, freed, copied, worn, unthinned, damaged } = data.tally;
        report.would_go.append(&mut data.would_go);
        report.objects += objects;
        report.freed += freed;
        report.copied += copied;
        report.worn += worn;
        report.unthinned += unthinned;
        report.damaged += damaged;
        report.repacked += done.repacked.len() as u64;
        report.open_sessions += done.open;
        let point = |number: u64| lineage.reference(number);
        report.points.extend(done.retired.iter().filter(|n| marked.contains_key(n)).map(|n| point(*n)));
        for (numbers, why) in [
            (&done.newest, Kept::Newest),
            (&done.pinned, Kept::Pinned),
            (&done.held, Kept::Held),
            (&done.blocked, Kept::Damaged),
        ] {
            report.kept.extend(numbers.iter().map(|number| (point(*number), why)));
        }
        // A mark may also say that the point was had back.
        report.kept.retain(|(point, why)| match (why, &point.selector) {
            (Kept::Newest, PointSelector::Number(number)) => {
                lineage.vm != point.vm || lineage.is_forgotten(vault, number.0).unwrap_or(true)
            }
            _ => true,
        });
        report.ended.extend(done.voided.iter().map(|(session, _)| (lineage.vm.clone(), *session)));
        if !settings.dry_run {
            for (session, number) in &done.voided {
                let entry = JournalEntry::Voided { number: *number, session: *session };
                journal::append(vault, lineage.id.0, by, &entry)?;
            }
            if !done.retired.is_empty() {
                let entry = JournalEntry::Swept { ranges: ranges_of(&done.retired), bytes: freed };
                journal::append(vault, lineage.id.0, by, &entry)?;
            }
        }
        Ok(done.again)
    }
}

impl Inner {
    fn survey(&self) -> Result<(BTreeMap<LineageId, Waiting>, Vec<ObjectName>), VaultError> {
        let mut survey = Survey::default();
        let mut data = NoData;
        Driver::new(self, None, &mut data).run(|reply| survey.step(reply))
    }

    /// Removes files that killed processes left half-written.
    fn remove_stages(
        &self,
        stages: Vec<ObjectName>,
        settings: &SweepSettings,
        report: &mut SweepReport,
    ) -> Result<(), VaultError> {
        let Some(after) = settings.abandoned_after_ms else { return Ok(()) };
        let before = self.ports.clock.now().0.saturating_sub(after);
        let mut old = Vec::new();
        for stage in stages {
            // Nothing refers to one: should its process still write it, its put fails and is tried again.
            if let Some((written, size)) = self.objects.written(&stage)?
                && written <= before
            {
                report.freed += size;
                old.push(stage);
            }
        }
        report.objects += old.len() as u64;
        if settings.dry_run {
            report.would_go.extend(old.iter().map(ToString::to_string));
        } else if !old.is_empty() {
            let mut asked = false;
            let mut data = NoData;
            Driver::new(self, None, &mut data).run(|_| {
                if std::mem::replace(&mut asked, true) {
                    Step::Done(())
                } else {
                    Step::Ask(Request::Delete(std::mem::take(&mut old)))
                }
            })?;
        }
        Ok(())
    }

    /// The lineage of that id: by the key domain that one of its points is sealed for, else by its name record.
    fn lineage_of(&self, id: LineageId, waiting: &Waiting) -> Result<Option<Lineage>, VaultError> {
        if let Some(number) = waiting.marks.keys().next() {
            let name = ObjectName::Point(id, PointNumber(*number));
            if let Some(bytes) = self.objects.read(&name)?
                && let Some(lineage) = self.lineage_by_point(id, &name, &bytes)?
            {
                return Ok(Some(lineage));
            }
        }
        for (body, vm) in self.name_records()? {
            if body.lineage == id.0 {
                return self.unlock_lineage(&body, &vm).map(Some);
            }
        }
        Ok(None)
    }

    fn lineage_by_point(
        &self,
        id: LineageId,
        name: &ObjectName,
        bytes: &[u8],
    ) -> Result<Option<Lineage>, VaultError> {
        let Ok(head) = records::head(name, bytes) else { return Ok(None) };
        let what = format!("lineage {id}");
        let domain = match keyring::unlock_domain(self, head.branch.domain, &what) {
            Ok(domain) => domain,
            Err(e) if e.is_of_one_object() || matches!(e, VaultError::WrongKey { .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Ok(key) = domain.map_key_claimed(name, head.branch) else { return Ok(None) };
        let opened = records::open_bytes(name, crate::format::RecordKind::Point, bytes, key);
        let Ok(point) =
            opened.and_then(|body| PointBody::decode(&body).map_err(|e| VaultError::malformed(name, e)))
        else {
            return Ok(None);
        };
        Ok(point.vm.parse().ok().map(|vm| Lineage { id, vm, domain }))
    }
}
