//! Accounting for the records of one lineage: its numbers, and what was done to them.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_envelope::PackName;
use vmkeep_model::{PointNumber, SessionId};

use super::auditor::{Auditor, Class};
use crate::drive::open_first_mark;
use crate::error::VaultError;
use crate::format::{
    Body, HeadBody, InheritedBody, MarkBody, MovedBody, PackBody, PinBody, PlanBody, RepackBody, RetiredBody,
    WornBody,
};
use crate::journal::JournalEntry;
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::point::OpenPoint;
use crate::protocol::mark_name;
use crate::records;

/// One lineage as it stood when the audit came to it.
#[derive(Debug)]
pub(super) struct Line<'l> {
    pub(super) lineage: &'l Lineage,
    pub(super) retired: Option<RetiredBody>,
    /// What stands at every number that counts.
    pub(super) standing: BTreeMap<u64, Standing>,
    /// Where the points of this lineage begin among all.
    pub(super) first: usize,
    /// Packs that a plan names whose numbers are retired.
    pub(super) doomed: BTreeSet<PackBody>,
    /// Sweeps that are repacking, or died doing so.
    pub(super) repacking: BTreeSet<SessionId>,
    /// Records of where moved slots lie, by the pack they were born in.
    pub(super) moved: BTreeMap<PackName, BTreeSet<u64>>,
}

/// What stands at a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Point,
    /// The end of a session that another one goes on from.
    Inherited(InheritedBody),
    /// Void, or the end of the lineage.
    Nothing,
    /// It is damaged or missing.
    Unreadable,
}

impl Line<'_> {
    /// Whether `number` no longer counts.
    pub(super) fn is_retired(&self, number: u64) -> bool {
        self.retired.as_ref().is_some_and(|retired| retired.holds(number))
    }

    fn class(&self, number: u64) -> Class {
        if self.is_retired(number) { Class::Garbage } else { Class::Live }
    }
}

impl Auditor<'_> {
    pub(super) fn lineage(&mut self, lineage: &Lineage) -> Result<(), VaultError> {
        let mut line = Line {
            lineage,
            retired: self.retired(lineage)?,
            standing: BTreeMap::new(),
            first: self.points.len(),
            doomed: BTreeSet::new(),
            repacking: BTreeSet::new(),
            moved: BTreeMap::new(),
        };
        self.numbers(&mut line)?;
        self.head(&line)?;
        self.marks(&line)?;
        self.pins(&line)?;
        self.acts(&line)?;
        self.sweeps(&mut line)?;
        let reach = self.reach(&line)?;
        self.moved(&line, &reach)?;
        self.packs(&line, &reach)
    }

    /// Whether `number` no longer counts by now: what is missing of it then was removed since the listing.
    pub(super) fn retired_by_now(&self, line: &Line<'_>, number: u64) -> Result<bool, VaultError> {
        Ok(line.is_retired(number) || self.newest_retired(line)?.is_some_and(|retired| retired.holds(number)))
    }

    /// Whether anything was retired since the audit looked at this lineage.
    pub(super) fn retired_since(&self, line: &Line<'_>) -> Result<bool, VaultError> {
        let k = |retired: Option<&RetiredBody>| retired.map_or(0, |retired| retired.k);
        Ok(k(self.newest_retired(line)?.as_ref()) > k(line.retired.as_ref()))
    }

    fn newest_retired(&self, line: &Line<'_>) -> Result<Option<RetiredBody>, VaultError> {
        match line.lineage.retired(self.vault) {
            // It was told of when the records were looked at.
            Err(e) if e.is_of_one_object() => Ok(None),
            retired => retired,
        }
    }

    /// The newest retirement record. They are numbered without gaps and never removed.
    fn retired(&mut self, lineage: &Lineage) -> Result<Option<RetiredBody>, VaultError> {
        let (mut listed, mut newest) = (BTreeSet::new(), None::<RetiredBody>);
        for path in self.under(&format!("retired/{}/", lineage.id)) {
            let Some(name @ ObjectName::Retired(_, k)) = ObjectName::parse(&path) else { continue };
            let Some(body) = self.record::<RetiredBody>(&name, Class::Live)? else { continue };
            if body.k != k {
                self.tell_wrong(&name, "it says that it is another retirement record");
                continue;
            }
            listed.insert(k);
            if newest.as_ref().is_none_or(|newest| newest.k < k) {
                newest = Some(body);
            }
        }
        let top = newest.as_ref().map_or(0, |newest| newest.k);
        for k in (1..top).filter(|k| !listed.contains(k)) {
            self.must_exist(ObjectName::Retired(lineage.id, k))?;
        }
        let found = lineage.retired(self.vault);
        let found = self.damage_of(&ObjectName::Retired(lineage.id, 1), found)?.flatten();
        Ok(found.into_iter().chain(newest).max_by_key(|retired| retired.k))
    }

    /// Opens every numbered record that counts.
    fn numbers(&mut self, line: &mut Line<'_>) -> Result<(), VaultError> {
        let mut numbers = BTreeSet::new();
        for path in self.under(&format!("points/{}/", line.lineage.id)) {
            if let Some(ObjectName::Point(_, number)) = ObjectName::parse(&path) {
                self.account(&path, line.class(number.0));
                numbers.insert(number.0);
            }
        }
        // The highest that opens: anyone can leave a file with a large number.
        let mut top = 0;
        for number in numbers {
            self.cancel.check()?;
            if self.number(line, number)? {
                top = number;
            }
        }
        // What came while the store was listed may be absent from the list below something that is in it.
        for number in 1..=top {
            if !line.standing.contains_key(&number) {
                self.number(line, number)?;
            }
        }
        // Whoever commits now has written packs that are in the list: without the point they would be nobody's.
        while !line.standing.contains_key(&(top + 1)) && !line.is_retired(top + 1) {
            let name = ObjectName::Point(line.lineage.id, PointNumber(top + 1));
            if !self.vault.objects.exists(&name)? || !self.number(line, top + 1)? {
                break;
            }
            top += 1;
        }
        self.points[line.first..].sort_by_key(|point| point.point().id.number);
        Ok(())
    }

    /// Notes what stands at a number that counts and must be there; whether it opens.
    fn number(&mut self, line: &mut Line<'_>, number: u64) -> Result<bool, VaultError> {
        if line.is_retired(number) {
            return Ok(false);
        }
        let name = ObjectName::Point(line.lineage.id, PointNumber(number));
        let mut opens = true;
        let standing = match self.damage_of(&name, line.lineage.at(self.vault, number))? {
            Some(Some(AtNumber::Point(body))) => {
                let open = OpenPoint::of(self.vault, line.lineage, body);
                match self.damage_of(&name, open)? {
                    Some(open) => {
                        self.points.push(open);
                        Standing::Point
                    }
                    None => Standing::Unreadable,
                }
            }
            Some(Some(AtNumber::Inherited(ended))) => Standing::Inherited(ended),
            Some(Some(AtNumber::Void(_) | AtNumber::Closed(_))) => Standing::Nothing,
            Some(None) if self.retired_by_now(line, number)? => return Ok(false),
            Some(None) => {
                self.tell(&name, VaultError::Missing { object: name.to_string() });
                opens = false;
                Standing::Unreadable
            }
            None => {
                opens = false;
                Standing::Unreadable
            }
        };
        line.standing.insert(number, standing);
        Ok(opens)
    }

    fn head(&mut self, line: &Line<'_>) -> Result<(), VaultError> {
        let id = line.lineage.id;
        let Some(hint) = self.record::<HeadBody>(&ObjectName::Head(id), Class::Live)? else { return Ok(()) };
        if hint.newest > 0 && !self.retired_by_now(line, hint.newest)? {
            self.must_exist(ObjectName::Point(id, PointNumber(hint.newest)))?;
        }
        if hint.retired > 0 {
            self.must_exist(ObjectName::Retired(id, hint.retired))?;
        }
        Ok(())
    }

    /// The marks of every point: numbered without gaps, and removed only after its number is retired.
    fn marks(&mut self, line: &Line<'_>) -> Result<(), VaultError> {
        let id = line.lineage.id;
        let mut marks: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        for path in self.under(&format!("forgets/{id}/")) {
            let (number, g) = match ObjectName::parse(&path) {
                Some(ObjectName::Forget(_, number)) => (number.0, 1),
                Some(ObjectName::Mark(_, number, g)) => (number.0, g),
                _ => continue,
            };
            self.account(&path, line.class(number));
            if !line.is_retired(number) {
                marks.entry(number).or_default().insert(g);
            }
        }
        for (number, listed) in marks {
            self.cancel.check()?;
            let mut top = 0;
            for &g in &listed {
                let name = mark_name(id, number, g);
                let Some(bytes) = self.vault.objects.read(&name)? else {
                    self.must_exist_of(line, number, name)?;
                    continue;
                };
                let key = &self.vault.record;
                let mark = match g {
                    1 => open_first_mark(&name, &bytes, key),
                    _ => records::open::<MarkBody>(&name, &bytes, key),
                };
                let Some(mark) = self.damage_of(&name, mark)? else { continue };
                if (mark.lineage, mark.number, mark.g) != (id.0, number, g) {
                    self.tell_wrong(&name, "it is the mark of another point, or another mark of it");
                    continue;
                }
                top = g;
            }
            for g in (1..top).filter(|g| !listed.contains(g)) {
                self.must_exist_of(line, number, mark_name(id, number, g))?;
            }
            if let Some(&g) = listed.first() {
                self.is_on_a_point(line, number, &mark_name(id, number, g))?;
            }
        }
        Ok(())
    }

    fn pins(&mut self, line: &Line<'_>) -> Result<(), VaultError> {
        let id = line.lineage.id;
        for path in self.under(&format!("pins/{id}/")) {
            self.cancel.check()?;
            let Some(name @ ObjectName::Pin(_, number, pin)) = ObjectName::parse(&path) else { continue };
            let Some(body) = self.record::<PinBody>(&name, line.class(number.0))? else { continue };
            if (body.lineage, body.number, body.id) != (id.0, number.0, pin) {
                self.tell_wrong(&name, "it is the pin of another point, or another pin of it");
            }
            self.is_on_a_point(line, number.0, &name)?;
        }
        Ok(())
    }

    /// Tells of a mark or pin on a number where nothing was ever committed.
    fn is_on_a_point(&mut self, line: &Line<'_>, number: u64, name: &ObjectName) -> Result<(), VaultError> {
        let is_void = matches!(line.standing.get(&number), Some(Standing::Inherited(_) | Standing::Nothing));
        let is_point = !is_void
            && (line.standing.contains_key(&number)
                || self.retired_by_now(line, number)?
                || self.vault.objects.exists(&ObjectName::Point(line.lineage.id, PointNumber(number)))?);
        if !is_point {
            self.tell_wrong(name, "it is about a point that is not there");
        }
        Ok(())
    }

    /// Compares what the journal of a lineage says was done with what is there.
    fn acts(&mut self, line: &Line<'_>) -> Result<(), VaultError> {
        let id = line.lineage.id;
        let entries = self.journal(id.0)?;
        self.journal(self.vault.damage_stream(id))?;
        // What a later version wrote may have taken an act back.
        let all_known = !entries.iter().any(|entry| matches!(entry, JournalEntry::Unknown { .. }));
        for entry in &entries {
            match *entry {
                JournalEntry::Voided { number, .. } | JournalEntry::PinBroken { number, .. } => {
                    self.must_exist_of(line, number, ObjectName::Point(id, PointNumber(number)))?;
                }
                JournalEntry::Forgotten { number }
                | JournalEntry::Undeleted { number }
                | JournalEntry::Held { number }
                | JournalEntry::Released { number } => {
                    self.must_exist_of(line, number, ObjectName::Point(id, PointNumber(number)))?;
                    if all_known {
                        self.must_exist_of(line, number, mark_name(id, number, 1))?;
                    }
                }
                JournalEntry::Closed { number } => {
                    let name = ObjectName::Point(id, PointNumber(number));
                    match line.lineage.at(self.vault, number) {
                        Ok(None) => self.must_exist_of(line, number, name)?,
                        Ok(Some(AtNumber::Closed(_))) => {}
                        Ok(Some(_)) => {
                            self.tell_wrong(&name, "the journal says that the lineage was closed here");
                        }
                        // It was told of when the numbers were looked at.
                        Err(e) if e.is_of_one_object() => {}
                        Err(e) => return Err(e),
                    }
                }
                JournalEntry::Swept { ref ranges, .. } => self.swept(line, ranges, all_known)?,
                JournalEntry::KeysDestroyed { domain, epoch, .. } => {
                    let name = ObjectName::KeyDestroyed { domain, epoch };
                    if domain == line.lineage.domain.id {
                        self.must_exist(name)?;
                    } else {
                        self.tell_wrong(&name, "the journal of another VM says that it is there");
                    }
                }
                JournalEntry::VaultCreated
                | JournalEntry::KekRotated { .. }
                | JournalEntry::BekRotated { .. }
                | JournalEntry::Suspect { .. }
                | JournalEntry::ClientGranted { .. }
                | JournalEntry::ClientWithdrawn { .. }
                | JournalEntry::Denied { .. }
                | JournalEntry::Note { .. }
                | JournalEntry::Verified(_)
                | JournalEntry::Authority(_)
                | JournalEntry::Damaged { .. }
                | JournalEntry::Repaired { .. }
                | JournalEntry::Unknown { .. } => {}
            }
        }
        Ok(())
    }

    /// What was swept is retired, and that is never taken back.
    fn swept(&mut self, line: &Line<'_>, ranges: &[(u64, u64)], all_known: bool) -> Result<(), VaultError> {
        let holds_all = |retired: Option<&RetiredBody>| {
            let known = retired.map(|retired| retired.ranges.as_slice()).unwrap_or_default();
            ranges.iter().all(|&(first, last)| known.iter().any(|&(from, to)| from <= first && last <= to))
        };
        if !all_known || holds_all(line.retired.as_ref()) {
            return Ok(());
        }
        let newest = self.newest_retired(line)?;
        if !holds_all(newest.as_ref()) {
            let k = newest.or_else(|| line.retired.clone()).map_or(0, |retired| retired.k) + 1;
            let name = ObjectName::Retired(line.lineage.id, k);
            self.tell(&name, VaultError::Missing { object: name.to_string() });
        }
        Ok(())
    }

    /// Tells of an object that a number needs, unless that is retired by now.
    fn must_exist_of(&mut self, line: &Line<'_>, number: u64, name: ObjectName) -> Result<(), VaultError> {
        if line.is_retired(number) || self.vault.objects.exists(&name)? {
            return Ok(());
        }
        if !self.retired_by_now(line, number)? {
            self.tell(&name, VaultError::Missing { object: name.to_string() });
        }
        Ok(())
    }

    /// What sweeps left for the next one, which goes on with it.
    fn sweeps(&mut self, line: &mut Line<'_>) -> Result<(), VaultError> {
        let id = line.lineage.id;
        for path in self.under(&format!("sweep/{id}/")) {
            self.cancel.check()?;
            let Some(name) = ObjectName::parse(&path) else { continue };
            match name {
                ObjectName::Plan(_, sweep, part) => {
                    let Some(plan) = self.waiting::<PlanBody>(&name)? else { continue };
                    if (plan.lineage, plan.sweep, plan.part) != (id.0, sweep.0, part) {
                        self.tell_wrong(&name, "it is the plan of another sweep, or another part of it");
                    } else if plan.numbers.iter().all(|&number| line.is_retired(number)) {
                        line.doomed.extend(plan.dead.iter().map(|pack| (pack.session, pack.name)));
                    }
                }
                ObjectName::Worn(_, session, pack) => {
                    let Some(worn) = self.waiting::<WornBody>(&name)? else { continue };
                    if (worn.lineage, worn.session, worn.name) != (id.0, session.0, pack.0) {
                        self.tell_wrong(&name, "it is the marker of another pack");
                    }
                }
                ObjectName::Repack(_, sweep) => {
                    line.repacking.insert(sweep);
                    let Some(repack) = self.waiting::<RepackBody>(&name)? else { continue };
                    if (repack.lineage, repack.sweep) != (id.0, sweep.0) {
                        self.tell_wrong(&name, "it is the record of another sweep");
                    }
                }
                _ => {}
            }
        }
        // Anew: a pack that was listed may be where such a record says that came after the list had passed it.
        let by_now = self.vault.objects.list(&format!("moved/{id}"))?.into_iter().map(|(path, _)| path);
        for path in self.under(&format!("moved/{id}/")).into_iter().chain(by_now) {
            if let Some(ObjectName::Moved(_, birth, k)) = ObjectName::parse(&path) {
                line.moved.entry(birth).or_default().insert(k);
            }
        }
        Ok(())
    }

    fn waiting<T: Body>(&mut self, name: &ObjectName) -> Result<Option<T>, VaultError> {
        self.record(name, Class::InProgress)
    }

    /// Records of where slots lie: all are kept while anything that was born in their pack is needed.
    fn moved(&mut self, line: &Line<'_>, reach: &super::reach::Reach) -> Result<(), VaultError> {
        let id = line.lineage.id;
        for (birth, listed) in &line.moved {
            self.cancel.check()?;
            let session = reach.birth_session(*birth);
            let is_needed = session.is_some() || reach.unknown;
            let mut top = 0;
            for &k in listed {
                let name = ObjectName::Moved(id, *birth, k);
                let class = if is_needed { Class::Live } else { Class::Garbage };
                let Some(body) = self.record::<MovedBody>(&name, class)? else { continue };
                let is_right = (body.lineage, body.name, body.k) == (id.0, birth.0, k)
                    && session.is_none_or(|session| session.0 == body.session);
                if is_right {
                    top = k;
                } else {
                    self.tell_wrong(&name, "it tells of the slots of another pack");
                }
            }
            for k in (1..top).filter(|k| is_needed && !listed.contains(k)) {
                let name = ObjectName::Moved(id, *birth, k);
                if !self.vault.objects.exists(&name)? && !self.retired_since(line)? {
                    self.tell(&name, VaultError::Missing { object: name.to_string() });
                }
            }
        }
        Ok(())
    }
}
