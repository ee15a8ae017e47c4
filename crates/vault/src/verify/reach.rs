//! Which packs the points of a lineage need, by what is new in the map of each.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_envelope::{PackName, SLOT_COUNT_MAX};
use vmkeep_model::{PointNumber, SessionId};

use super::auditor::Auditor;
use super::line::{Line, Standing};
use crate::error::VaultError;
use crate::format::PackBody;
use crate::layout::ObjectName;
use crate::map::Visit;
use crate::pack::SlotAt;
use crate::place::PackPlace;
use crate::point::OpenPoint;
use crate::read::map_error;

/// What the points of a lineage refer to.
///
/// In memory is each pack once, and one bit for each slot of packs that were repacked.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Packs as the maps name them: those that slots were born in.
    packs: BTreeSet<PackBody>,
    /// Of packs that were repacked: which of their slots.
    slots: BTreeMap<PackName, Slots>,
    /// Where slots of packs that were repacked lie now, each with one of those packs and the record that says so.
    homes: BTreeMap<PackBody, (PackBody, u64)>,
    /// Packs of which everything needed lies elsewhere.
    emptied: BTreeSet<PackBody>,
    /// Sessions of points that do not say where their copy is: it is in one of their metadata packs.
    pub(super) copies_in: BTreeSet<SessionId>,
    /// Something could not be read: what nothing reaches may be needed.
    pub(super) unknown: bool,
    last: Option<PackBody>,
}

/// The slots of one pack that anything refers to.
#[derive(Debug, Default)]
struct Slots {
    /// The session that wrote the pack, once anything is.
    session: Option<SessionId>,
    bits: Vec<u64>,
}

impl Slots {
    fn add(&mut self, session: SessionId, slot: u32) {
        self.session = Some(session);
        // No pack has more: whatever names one beyond is damaged, and told of where it is read.
        if slot < SLOT_COUNT_MAX {
            let (word, bit) = ((slot / 64) as usize, slot % 64);
            if self.bits.len() <= word {
                self.bits.resize(word + 1, 0);
            }
            self.bits[word] |= 1 << bit;
        }
    }

    fn has(&self, slot: u32) -> bool {
        self.bits.get((slot / 64) as usize).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    fn count(&self) -> u32 {
        self.bits.iter().map(|word| word.count_ones()).sum()
    }
}

impl Reach {
    /// Whether a pack holds anything that a point refers to.
    pub(super) fn needs(&self, pack: &PackBody) -> bool {
        self.packs.contains(pack) || self.homes.contains_key(pack)
    }

    /// The session of a repacked pack of which anything is needed.
    pub(super) fn birth_session(&self, birth: PackName) -> Option<SessionId> {
        self.slots.get(&birth)?.session
    }

    fn add(&mut self, line: &Line<'_>, pack: &PackPlace, slot: u32) {
        // Packs of another lineage are not this one's to account for.
        if pack.lineage.is_some_and(|lineage| lineage != line.lineage.id) {
            return;
        }
        let body = (pack.session.0, pack.name.0);
        // What lies in one pack is referred to in a row, as a rule.
        if self.last != Some(body) {
            self.packs.insert(body);
            self.last = Some(body);
        }
        if let Some(slots) = self.slots.get_mut(&pack.name) {
            slots.add(pack.session, slot);
        }
    }
}

impl Auditor<'_> {
    /// Walks what is new in each point, oldest first: what it shares with one before, that one has shown.
    pub(super) fn reach(&mut self, line: &Line<'_>) -> Result<Reach, VaultError> {
        let slots = line.moved.keys().map(|birth| (*birth, Slots::default())).collect();
        let unknown = line.standing.values().any(|standing| *standing == Standing::Unreadable);
        let mut reach = Reach { slots, unknown, ..Reach::default() };
        let points = std::mem::take(&mut self.points);
        let mut since = PointNumber(0);
        for point in &points[line.first..] {
            let number = point.point().id.number;
            let whole = self.walk(line, point, since, &mut reach)?;
            if whole {
                since = number;
            } else if !self.retired_by_now(line, number.0)? {
                // What cannot be read is told of when the point itself is looked at.
                reach.unknown = true;
            }
        }
        self.points = points;
        self.homes(line, &mut reach)?;
        Ok(reach)
    }

    /// Adds what a point refers to; whether all of its maps could be read.
    fn walk(
        &mut self,
        line: &Line<'_>,
        point: &OpenPoint,
        since: PointNumber,
        reach: &mut Reach,
    ) -> Result<bool, VaultError> {
        let mut whole = true;
        for name in point.stored_disks() {
            let disk = match point.reader(name) {
                Ok(disk) => disk,
                Err(e) if e.is_of_one_object() => {
                    whole = false;
                    continue;
                }
                Err(e) => return Err(e),
            };
            disk.map()?.walk_new(since, |visit| {
                match visit {
                    Visit::Node { node, base } => {
                        self.cancel.check()?;
                        for reference in [Some(&node.at), base].into_iter().flatten() {
                            reach.add(line, &reference.at.pack, reference.at.slot);
                        }
                    }
                    Visit::Block { entry, .. } => {
                        for reference in entry.references() {
                            reach.add(line, &reference.at.pack, reference.at.slot);
                        }
                    }
                    Visit::Unreadable { node, error } => {
                        // It is needed all the same.
                        reach.add(line, &node.at.at.pack, node.at.at.slot);
                        let error = map_error(&line.lineage.vm.to_string(), error);
                        if !error.is_of_one_object() {
                            return Err(error);
                        }
                        whole = false;
                    }
                }
                Ok(())
            })?;
        }
        let lists = point.body.change_lists.iter().flat_map(|(_, places)| places);
        for (place, slot) in lists.chain(&point.body.copy) {
            let place = place.to_place();
            reach.add(line, &place, *slot);
            self.must_lie_somewhere(line, point, &place, *slot)?;
        }
        if point.body.copy.is_none() {
            reach.copies_in.insert(point.point().session);
        }
        Ok(whole)
    }

    /// Tells of a slot that no walk through a map would miss.
    fn must_lie_somewhere(
        &mut self,
        line: &Line<'_>,
        point: &OpenPoint,
        pack: &PackPlace,
        slot: u32,
    ) -> Result<(), VaultError> {
        let name = ObjectName::pack(line.lineage.id, pack);
        if self.left.contains_key(&name.to_string()) {
            return Ok(());
        }
        let found = self.vault.at_slot(line.lineage, pack, slot, |SlotAt { .. }| Ok(()));
        if matches!(&found, Err(e) if e.is_of_one_object())
            && self.retired_by_now(line, point.point().id.number.0)?
        {
            return Ok(());
        }
        self.damage_of(&name, found).map(drop)
    }

    /// Finds where slots lie that were moved.
    fn homes(&mut self, line: &Line<'_>, reach: &mut Reach) -> Result<(), VaultError> {
        for (birth, slots) in &reach.slots {
            self.cancel.check()?;
            let Some(session) = slots.session else { continue };
            let place = PackPlace { lineage: None, session, name: *birth };
            let name = ObjectName::pack(line.lineage.id, &place);
            let newest = match self.vault.newest_moved(line.lineage, &place, 0) {
                Err(VaultError::Missing { .. }) => None,
                newest => self.damage_of(&name, newest)?.flatten(),
            };
            let Some(newest) = newest else {
                reach.unknown = true;
                continue;
            };
            let own = (session.0, birth.0);
            let needed = newest.slots.iter().filter(|moved| slots.has(moved.slot));
            let mut elsewhere = 0;
            for moved in needed {
                reach.homes.entry(moved.pack).or_insert((own, newest.k));
                elsewhere += 1;
            }
            if elsewhere == slots.count() {
                reach.emptied.insert(own);
            }
        }
        Ok(())
    }

    /// Whether a pack that was needed was removed since, rightly: with points, or because what it held was moved.
    pub(super) fn removed_since(
        &self,
        line: &Line<'_>,
        reach: &Reach,
        pack: &PackBody,
    ) -> Result<bool, VaultError> {
        if reach.emptied.contains(pack) && !reach.homes.contains_key(pack) {
            return Ok(true);
        }
        let (birth, k) = reach.homes.get(pack).copied().unwrap_or((*pack, 0));
        let place = PackPlace { lineage: None, session: SessionId(birth.0), name: PackName(birth.1) };
        match self.vault.newest_moved(line.lineage, &place, k) {
            Ok(Some(newest)) if newest.k > k => return Ok(true),
            Err(e) if !e.is_of_one_object() => return Err(e),
            _ => {}
        }
        self.retired_since(line)
    }
}
