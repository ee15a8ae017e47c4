//! What a sweep asks about packs and maps, answered from the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use vmkeep_envelope::PackName;
use vmkeep_model::{CancelToken, SessionId};

use super::SweepEvent;
use super::liveness::{Judge, Verdict};
use crate::drive::DataPlane;
use crate::error::VaultError;
use crate::format::{DeadPackBody, MovedBody, MovedSlotBody, PackBody, PointBody, RetiredBody, Unit};
use crate::keys::DataPack;
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::pack::{Keep, PackIndex, Repacking, Source, Whereabouts, birth_in, next_moved, second_copy};
use crate::place::PackPlace;
use crate::protocol::{Build, Built, Examine, Examined, Reply, Request};
use crate::records::Sealer;
use crate::vault::Inner;

/// A pack is worn when one part in this many of it is dead: so what is dead stays below a tenth of what is live.
const WORN_PART: u64 = 12;

/// Answers for one lineage, and keeps count of what was removed.
pub(super) struct SweepData<'a> {
    vault: &'a Arc<Inner>,
    lineage: &'a Lineage,
    cancel: &'a CancelToken,
    events: &'a mut dyn FnMut(SweepEvent),
    sealer: Sealer,
    /// Bytes that may still be copied.
    pub(super) repack_left: u64,
    pub(super) tally: Tally,
    /// Sizes of objects that were listed or judged.
    sizes: HashMap<ObjectName, u64>,
    /// Packs whose frames were counted as not to be thinned.
    unthinned: BTreeSet<PackPlace>,
    dry: bool,
    /// What would have been removed, when nothing is.
    pub(super) would_go: Vec<String>,
}

/// What was done, in bytes and objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) objects: u64,
    pub(super) freed: u64,
    pub(super) copied: u64,
    pub(super) worn: u64,
    pub(super) unthinned: u64,
    pub(super) damaged: u64,
}

impl<'a> SweepData<'a> {
    pub(super) fn new(
        vault: &'a Arc<Inner>,
        lineage: &'a Lineage,
        sweep: SessionId,
        repack_left: u64,
        dry: bool,
        cancel: &'a CancelToken,
        events: &'a mut dyn FnMut(SweepEvent),
    ) -> Self {
        let (tally, sizes, unthinned) = (Tally::default(), HashMap::new(), BTreeSet::new());
        let sealer = Sealer::new(sweep);
        Self {
            vault,
            lineage,
            cancel,
            events,
            sealer,
            repack_left,
            tally,
            sizes,
            unthinned,
            dry,
            would_go: Vec::new(),
        }
    }

    /// The sweep it answers for.
    pub(super) fn sweep(&self) -> SessionId {
        self.sealer.session
    }

    /// Of `packs` those that hold something a point needs. What cannot be read may be needed.
    pub(super) fn needed(&mut self, packs: &[DataPack]) -> Result<Vec<DataPack>, VaultError> {
        let retired = self.lineage.retired(self.vault)?;
        let judge = self.judge(retired.as_ref(), &[])?;
        let mut needed = Vec::new();
        for (done, pack) in packs.iter().enumerate() {
            self.cancel.check()?;
            (self.events)(SweepEvent::Judging { done: done as u64, of: packs.len() as u64 });
            match judge.judge(&pack.place, true) {
                Ok(verdict) if verdict.is_dead() => {}
                Ok(_) => needed.push(*pack),
                // Another sweep was first.
                Err(VaultError::Missing { .. }) => {}
                Err(e) if e.is_of_one_object() => {
                    self.damaged(e);
                    needed.push(*pack);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(needed)
    }

    fn judge(&self, retired: Option<&RetiredBody>, gone: &[u64]) -> Result<Judge<'a>, VaultError> {
        let head = self.lineage.head(self.vault)?;
        let counts = (1..=head.top)
            .filter(|n| !retired.is_some_and(|retired| retired.holds(*n)) && gone.binary_search(n).is_err());
        Ok(Judge::new(self.vault, self.lineage, counts.collect()))
    }

    fn point(&self, number: u64) -> Result<Option<Box<PointBody>>, VaultError> {
        match self.lineage.at(self.vault, number) {
            Ok(Some(AtNumber::Point(point))) => Ok(Some(point)),
            Ok(_) => Ok(None),
            Err(e) if e.is_of_one_object() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn examine(&mut self, examine: &Examine) -> Result<Reply, VaultError> {
        let judge = self.judge(examine.retired.as_ref(), &examine.numbers)?;
        let (mut touched, mut blocked) = (BTreeSet::new(), Vec::new());
        let mut ahead: Option<(u64, Box<PointBody>)> = None;
        for (done, job) in examine.jobs.iter().enumerate() {
            self.cancel.check()?;
            (self.events)(SweepEvent::Examining { done: done as u64, of: examine.jobs.len() as u64 });
            let point = match ahead.take() {
                Some((number, point)) if number == job.number => Some(point),
                _ => self.point(job.number)?,
            };
            let next = match job.next {
                Some(next) => self.point(next)?.map(|point| (next, point)),
                None => None,
            };
            let (Some(point), false) = (point, job.next.is_some() && next.is_none()) else {
                blocked.push(job.number);
                continue;
            };
            let since = vmkeep_model::PointNumber(job.since);
            match judge.touched(&point, next.as_ref().map(|(_, point)| &**point), since, &mut touched) {
                Ok(()) => {}
                Err(e) if e.is_of_one_object() => {
                    (self.events)(SweepEvent::Damaged { error: e });
                    blocked.push(job.number);
                }
                Err(e) => return Err(e),
            }
            ahead = next;
        }
        if !blocked.is_empty() {
            return Ok(Reply::Blocked(blocked));
        }
        let (mut physical, mut moved) = (BTreeSet::new(), Vec::new());
        for birth in &touched {
            match self.vault.whereabouts(self.lineage, birth) {
                Ok(Whereabouts::InBirthPack(_)) => drop(physical.insert(*birth)),
                Ok(Whereabouts::Moved(record)) => {
                    physical.extend(record.slots.iter().map(|slot| place_of(&slot.pack)));
                    moved.push((*birth, record));
                }
                // Removed by another sweep, or lost: verification tells of that.
                Err(e) if e.is_of_one_object() => self.damaged(e),
                Err(e) => return Err(e),
            }
        }
        let mut verdicts: BTreeMap<PackPlace, Verdict> = BTreeMap::new();
        let mut examined = Examined::default();
        for (done, pack) in physical.iter().enumerate() {
            self.cancel.check()?;
            (self.events)(SweepEvent::Judging { done: done as u64, of: physical.len() as u64 });
            let verdict = match judge.judge(pack, true) {
                Ok(verdict) => verdict,
                Err(e) if e.is_of_one_object() => {
                    self.damaged(e);
                    continue;
                }
                Err(e) => return Err(e),
            };
            if verdict.is_dead() {
                examined.dead.push(self.dead_pack(pack, &verdict));
            } else if verdict.to_free() * WORN_PART >= verdict.size {
                self.tally.worn += verdict.to_free();
                examined.worn.push((body_of(pack), verdict.to_free()));
            }
            self.frames_left(pack, &verdict);
            if !moved.is_empty() {
                verdicts.insert(*pack, verdict.without_entries());
            }
        }
        for (birth, record) in moved {
            let dead = |slot: &MovedSlotBody| {
                let verdict = verdicts.get(&place_of(&slot.pack));
                verdict.is_some_and(|verdict| verdict.is_dead_at(slot.at, birth_in(&birth, slot.slot)))
            };
            if record.slots.iter().all(dead) {
                examined.settled.push(body_of(&birth));
            }
        }
        Ok(Reply::Examined(examined))
    }

    fn dead_pack(&mut self, pack: &PackPlace, verdict: &Verdict) -> DeadPackBody {
        let name = ObjectName::pack(self.lineage.id, pack);
        if verdict.metadata {
            self.sizes.insert(second_copy(&name), verdict.size);
        }
        self.sizes.insert(name, verdict.size);
        let (session, name) = body_of(pack);
        DeadPackBody { session, name, metadata: verdict.metadata, bytes: verdict.size }
    }

    /// Counts what is dead within frames of a pack that stays or is copied, when they cannot be thinned.
    fn frames_left(&mut self, pack: &PackPlace, verdict: &Verdict) {
        if !verdict.can_thin && verdict.dead_within > 0 && self.unthinned.insert(*pack) {
            self.tally.unthinned += verdict.dead_within;
        }
    }

    fn damaged(&mut self, error: VaultError) {
        if !matches!(error, VaultError::Missing { .. }) {
            self.tally.damaged += 1;
            (self.events)(SweepEvent::Damaged { error });
        }
    }

    fn unused(&mut self, sessions: &[SessionId]) -> Result<Reply, VaultError> {
        let retired = self.lineage.retired(self.vault)?;
        let judge = self.judge(retired.as_ref(), &[])?;
        let mut unused = Vec::new();
        for session in sessions {
            for (path, size) in self.vault.objects.list(&format!("packs/{}/{session}", self.lineage.id))? {
                self.cancel.check()?;
                let Some(name @ ObjectName::Pack(_, session, pack)) = ObjectName::parse(&path) else {
                    continue;
                };
                match judge.judge(&PackPlace { lineage: None, session, name: pack }, true) {
                    Ok(verdict) if verdict.is_dead() => {
                        if verdict.metadata {
                            self.sizes.insert(second_copy(&name), size);
                            unused.push(second_copy(&name));
                        }
                        self.sizes.insert(name.clone(), size);
                        unused.push(name);
                    }
                    Ok(_) => {}
                    Err(e) if e.is_of_one_object() => self.damaged(e),
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(Reply::Objects(unused))
    }

    fn births(&mut self, pack: &PackBody) -> Result<Reply, VaultError> {
        let place = place_of(pack);
        let footer = match self.vault.read_footer_of(self.lineage, &place) {
            Ok(footer) => footer,
            Err(VaultError::Missing { .. }) => return Ok(Reply::Missing),
            Err(e) if e.is_of_one_object() => {
                self.damaged(e);
                return Ok(Reply::Births(Vec::new()));
            }
            Err(e) => return Err(e),
        };
        let slots = (0_u32..).zip(&footer.body.slots);
        let births: BTreeSet<PackBody> = slots
            .flat_map(|(at, slot)| slot.origin.births(&place, at))
            .map(|b| (b.session.0, b.id.pack.0))
            .collect();
        Ok(Reply::Births(births.into_iter().collect()))
    }

    fn build(&mut self, build: &Build) -> Result<Reply, VaultError> {
        if self.dry {
            return Ok(Reply::Unreadable);
        }
        let retired = self.lineage.retired(self.vault)?;
        let judge = self.judge(retired.as_ref(), &[])?;
        let newest: BTreeMap<PackBody, Option<&MovedBody>> =
            build.moved.iter().map(|(birth, _, record)| (*birth, record.as_ref())).collect();
        let (mut sources, mut judged) = (Vec::new(), BTreeMap::new());
        for pack in &build.packs {
            self.cancel.check()?;
            let place = place_of(pack);
            let verdict = match judge.judge(&place, true) {
                Ok(verdict) => verdict,
                Err(e) if e.is_of_one_object() => {
                    self.damaged(e);
                    continue;
                }
                Err(e) => return Err(e),
            };
            let index = self.vault.pack_index(self.lineage, &place)?;
            let Kept { keep, births, bytes: keep_bytes } = kept(pack, &index, &verdict, &newest);
            let all = keep.len() == index.slots.len();
            if all && !verdict.can_thin && verdict.dead_within > 0 {
                // Copying it would free nothing: it waits for a sweep that has the data key.
                self.frames_left(&place, &verdict);
                continue;
            }
            if keep_bytes > self.repack_left {
                continue;
            }
            self.repack_left -= keep_bytes;
            self.tally.copied += keep_bytes;
            let dead = self.dead_pack(&place, &verdict);
            if !keep.is_empty() {
                sources.push(Source { pack: place, keep });
            }
            judged.insert(*pack, (dead, births));
        }
        self.repack(SessionId(build.sweep), sources, judged, &newest)
    }

    fn repack(
        &mut self,
        sweep: SessionId,
        sources: Vec<Source>,
        mut judged: BTreeMap<PackBody, (DeadPackBody, BTreeSet<PackBody>)>,
        newest: &BTreeMap<PackBody, Option<&MovedBody>>,
    ) -> Result<Reply, VaultError> {
        let mut built = Built::default();
        let mut slots: BTreeMap<PackBody, Vec<MovedSlotBody>> = BTreeMap::new();
        let context = self.sealer.context(&*self.vault.ports.entropy);
        // What has nothing to keep is gone as it is; the rest once it is in a new pack, which a damaged one never is.
        let kept: BTreeSet<PackBody> = sources.iter().map(|source| body_of(&source.pack)).collect();
        let mut replaced: BTreeSet<PackBody> =
            judged.keys().filter(|pack| !kept.contains(*pack)).copied().collect();
        let mut repacking = Repacking::new(self.vault, self.lineage, sweep, context, sources)?;
        while let Some(made) = repacking.next_pack()? {
            self.cancel.check()?;
            made.store(self.vault, self.lineage)?;
            built.made.push(body_of(&made.pack));
            replaced.extend(made.sources.iter().map(body_of));
            for (birth, mut moved) in made.moved {
                slots.entry(birth).or_default().append(&mut moved);
            }
            (self.events)(SweepEvent::Repacked { bytes: made.object.bytes().len() as u64 });
        }
        self.tally.damaged += repacking.skipped().len() as u64;
        judged.retain(|pack, _| replaced.contains(pack));
        let emptied: BTreeSet<PackBody> = judged.keys().copied().collect();
        let births: BTreeSet<PackBody> = judged.values().flat_map(|(_, births)| births).copied().collect();
        for birth in births {
            let before = newest.get(&birth).copied().flatten();
            let slots = slots.remove(&birth).unwrap_or_default();
            built.moved.push(next_moved(self.lineage, birth, before, &emptied, slots));
        }
        let sources = judged.into_values().map(|(dead, births)| (dead, births.into_iter().collect()));
        built.sources = sources.collect();
        Ok(Reply::Built(built))
    }
}

/// What is kept of a worn pack.
struct Kept {
    keep: BTreeMap<u32, Keep>,
    /// Packs of which a slot, or a part of one, is in it.
    births: BTreeSet<PackBody>,
    /// About how many bytes are written anew.
    bytes: u64,
}

/// What is kept of the pack `pack` by `verdict`: what is live and lies there, which `newest` tells of slots that were moved.
fn kept(
    pack: &PackBody,
    index: &PackIndex,
    verdict: &Verdict,
    newest: &BTreeMap<PackBody, Option<&MovedBody>>,
) -> Kept {
    let mut kept = Kept { keep: BTreeMap::new(), births: BTreeSet::new(), bytes: 0 };
    for ((at, slot), live) in (0_u32..).zip(&index.slots).zip(&verdict.slots) {
        // By part: whether it lies here. What was moved here may yet be said to lie here, unless its owner's next record
        // is taken.
        let mut here = Vec::new();
        for birth in slot.origin.births(&place_of(pack), at) {
            let (born, number) = ((birth.session.0, birth.id.pack.0), birth.id.slot);
            if born == *pack && !live {
                here.push(false);
                continue;
            }
            kept.births.insert(born);
            // A record that does not list a slot of a pack that is still there says that nothing was moved: it only takes a
            // number. One that does list it is believed also while the birth pack is there: nobody removes what it names.
            let told = newest.get(&born).copied().flatten().and_then(|record| {
                let found = record.slots.binary_search_by_key(&number, |slot| slot.slot).ok()?;
                Some((record.slots[found].pack, record.slots[found].at))
            });
            here.push(told.map_or(born == *pack, |told| told == (*pack, at)));
        }
        if !live || !here.is_empty() && !here.contains(&true) {
            continue;
        }
        let lives = verdict.entries.get(&at);
        if lives.is_none() && !here.contains(&false) {
            kept.keep.insert(at, Keep::Whole);
            kept.bytes += slot.len;
            continue;
        }
        let units = index.units(at);
        let is_kept = |(entry, unit): (usize, &Unit)| {
            let live = lives.is_none_or(|lives| lives.get(entry).copied().unwrap_or(true));
            live && here.get(unit.part).copied().unwrap_or(true)
        };
        let entries: Vec<bool> = units.iter().map(|(_, unit)| unit).enumerate().map(is_kept).collect();
        if entries.contains(&true) {
            let sum = |units: &mut dyn Iterator<Item = u32>| units.map(u64::from).sum::<u64>();
            let all = sum(&mut units.iter().map(|(_, unit)| unit.len));
            let some = units.iter().zip(&entries).filter(|(_, kept)| **kept);
            let some = sum(&mut some.map(|((_, unit), _)| unit.len));
            kept.bytes += if verdict.can_thin { slot.len * some / all.max(1) } else { slot.len };
            kept.keep.insert(at, Keep::Entries(entries));
        }
    }
    kept
}

fn place_of(pack: &PackBody) -> PackPlace {
    PackPlace { lineage: None, session: SessionId(pack.0), name: PackName(pack.1) }
}

fn body_of(pack: &PackPlace) -> PackBody {
    (pack.session.0, pack.name.0)
}

impl DataPlane for SweepData<'_> {
    fn answer(&mut self, request: &Request) -> Result<Reply, VaultError> {
        self.cancel.check()?;
        match request {
            Request::Examine(examine) => self.examine(examine),
            Request::Unused { sessions, .. } => self.unused(sessions),
            Request::Births(pack) => self.births(pack),
            Request::Build(build) => self.build(build),
            _ => Ok(Reply::Unreadable),
        }
    }

    fn listed(&mut self, objects: &[(String, u64)]) {
        for (path, size) in objects {
            if let Some(name) = ObjectName::parse(path) {
                self.sizes.insert(name, *size);
            }
        }
    }

    fn removed(&mut self, names: &[ObjectName]) {
        for name in names {
            self.tally.objects += 1;
            self.tally.freed += self.sizes.remove(name).unwrap_or(0);
            if self.dry {
                self.would_go.push(name.to_string());
            }
        }
        (self.events)(SweepEvent::Removed { objects: self.tally.objects, bytes: self.tally.freed });
    }
}
