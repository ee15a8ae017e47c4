//! Accounting for every object of a vault, one kind after another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_envelope::{OpenedKeys, PackContent, SlotKind, open_key_object};
use vmkeep_model::{CancelToken, DomainId, LineageId, PointNumber, SessionId, VmName};

use super::{Accounting, Audit, AuditDepth, Damage};
use crate::error::VaultError;
use crate::format::{ForgetBody, FormatError, HeadBody, RetiredBody, SessionBody};
use crate::journal::{self, JournalEntry};
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::map::ChangeListReader;
use crate::pack::{NodeSlot, PackIndex};
use crate::place::PackPlace;
use crate::point::OpenPoint;
use crate::records;
use crate::vault::Inner;

/// An audit under way.
pub(super) struct Auditor<'a> {
    vault: &'a Arc<Inner>,
    depth: AuditDepth,
    cancel: &'a CancelToken,
    found: &'a mut dyn FnMut(Damage),
    /// Objects not accounted for yet, with their sizes.
    left: BTreeMap<String, u64>,
    accounting: Accounting,
    /// Lineages whose keys were opened.
    lineages: BTreeMap<LineageId, Lineage>,
    points: Vec<OpenPoint>,
    foreign_keys: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Live,
    Garbage,
    InProgress,
}

impl<'a> Auditor<'a> {
    pub(super) fn new(
        vault: &'a Arc<Inner>,
        depth: AuditDepth,
        cancel: &'a CancelToken,
        found: &'a mut dyn FnMut(Damage),
    ) -> Result<Self, VaultError> {
        Ok(Self {
            vault,
            depth,
            cancel,
            found,
            left: vault.objects.list("")?.into_iter().collect(),
            accounting: Accounting::default(),
            lineages: BTreeMap::new(),
            points: Vec::new(),
            foreign_keys: 0,
        })
    }

    pub(super) fn run(mut self) -> Result<Audit, VaultError> {
        self.vault_itself()?;
        for lineage in self.names()? {
            self.lineage(&lineage)?;
            self.lineages.insert(lineage.id, lineage);
        }
        self.sessions()?;
        self.leftovers()?;
        let Self { accounting, points, foreign_keys, .. } = self;
        Ok(Audit { accounting, points, foreign_keys })
    }

    fn vault_itself(&mut self) -> Result<(), VaultError> {
        // It was opened: its record and one of its key objects are good.
        self.account(&ObjectName::Vault.to_string(), Class::Live);
        self.keys(DomainId::VAULT)?;
        self.journal(self.vault.id.0).map(drop)
    }

    /// Checks the key objects of a domain that is in use and gives their names.
    fn keys(&mut self, domain: DomainId) -> Result<Vec<String>, VaultError> {
        let paths = self.under(&format!("keys/{domain}/"));
        for path in paths.clone() {
            let Some(name @ ObjectName::Key { .. }) = ObjectName::parse(&path) else { continue };
            self.account(&path, Class::Live);
            let Some(bytes) = self.vault.objects.read(&name)? else { continue };
            match open_key_object(&bytes, &path, &*self.vault.key_vault) {
                Ok(OpenedKeys::Keys(_)) => {}
                Ok(OpenedKeys::NotMine) => self.foreign_keys += 1,
                Err(e) => self.tell(&name, VaultError::open(&name, e)),
            }
        }
        Ok(paths)
    }

    /// The VMs of the vault, by their name records.
    fn names(&mut self) -> Result<Vec<Lineage>, VaultError> {
        let mut lineages = Vec::new();
        for path in self.under("names/") {
            self.cancel.check()?;
            let Some(name @ ObjectName::Name(_)) = ObjectName::parse(&path) else { continue };
            self.account(&path, Class::Live);
            let Some(body) = self.damage_of(&name, self.vault.name_record(&name))?.flatten() else {
                continue;
            };
            let Ok(vm) = body.vm.parse::<VmName>() else { continue };
            if self.vault.name_of(&vm, body.generation) != name {
                let what = FormatError("it names another VM than its own name says".to_owned());
                self.tell(&name, VaultError::malformed(&name, what));
                continue;
            }
            let keys = self.keys(DomainId(body.domain))?;
            match self.vault.unlock_lineage(&body, &vm) {
                Ok(lineage) => lineages.push(lineage),
                Err(e) if e.is_of_one_object() || matches!(e, VaultError::WrongKey { .. }) => {
                    self.locked(LineageId(body.lineage), DomainId(body.domain), &keys);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(lineages)
    }

    /// A lineage whose keys do not open: nothing of it can be checked, and what is wrong are its key objects.
    fn locked(&mut self, lineage: LineageId, domain: DomainId, keys: &[String]) {
        for object in keys {
            let error = VaultError::WrongKey { what: object.clone() };
            (self.found)(Damage { object: object.clone(), error });
        }
        if keys.is_empty() {
            let object = format!("keys/{domain}");
            (self.found)(Damage { object: object.clone(), error: VaultError::Missing { object } });
        }
        for first in ["points", "heads", "retired", "forgets", "packs", "journal"] {
            for path in self.under(&format!("{first}/{lineage}")) {
                if ObjectName::parse(&path).is_some() {
                    self.account(&path, Class::Live);
                }
            }
        }
    }

    fn lineage(&mut self, lineage: &Lineage) -> Result<(), VaultError> {
        let retired = self.retired(lineage)?;
        let sessions = self.numbers(lineage, retired.as_ref())?;
        let head = ObjectName::Head(lineage.id);
        if let Some(hint) = self.record::<HeadBody>(&head)? {
            self.must_exist(ObjectName::Point(lineage.id, PointNumber(hint.newest)))?;
        }
        for path in self.under(&format!("forgets/{}/", lineage.id)) {
            let Some(name @ ObjectName::Forget(_, number)) = ObjectName::parse(&path) else { continue };
            if let Some(body) = self.record::<ForgetBody>(&name)?
                && ((body.lineage, body.number) != (lineage.id.0, number.0)
                    || !self.vault.objects.exists(&ObjectName::Point(lineage.id, number))?)
            {
                let what = FormatError("it forgets a point that is not there".to_owned());
                self.tell(&name, VaultError::malformed(&name, what));
            }
        }
        self.acts(lineage, retired.as_ref())?;
        self.packs(lineage, &sessions)
    }

    /// Compares what the journal of a lineage says was done with what is there.
    fn acts(&mut self, lineage: &Lineage, retired: Option<&RetiredBody>) -> Result<(), VaultError> {
        let entries = self.journal(lineage.id.0)?;
        // What a later version wrote may have taken an act back.
        let all_known = !entries.iter().any(|entry| matches!(entry, JournalEntry::Unknown { .. }));
        for entry in &entries {
            let (JournalEntry::Voided { number, .. } | JournalEntry::Forgotten { number }) = *entry else {
                continue;
            };
            if retired.is_some_and(|retired| retired.holds(number)) {
                continue;
            }
            self.must_exist(ObjectName::Point(lineage.id, PointNumber(number)))?;
            if all_known && matches!(entry, JournalEntry::Forgotten { .. }) {
                self.must_exist(ObjectName::Forget(lineage.id, PointNumber(number)))?;
            }
        }
        Ok(())
    }

    /// Tells of an object that another one names and that is not there. Asks the store: since the listing more may
    /// have come.
    fn must_exist(&mut self, name: ObjectName) -> Result<(), VaultError> {
        if !self.vault.objects.exists(&name)? {
            self.tell(&name, VaultError::Missing { object: name.to_string() });
        }
        Ok(())
    }

    fn retired(&mut self, lineage: &Lineage) -> Result<Option<RetiredBody>, VaultError> {
        for path in self.under(&format!("retired/{}/", lineage.id)) {
            let Some(name @ ObjectName::Retired(..)) = ObjectName::parse(&path) else { continue };
            self.record::<RetiredBody>(&name)?;
        }
        let newest = lineage.retired(self.vault);
        Ok(self.damage_of(&ObjectName::Retired(lineage.id, 1), newest)?.flatten())
    }

    /// Opens every numbered record and returns the sessions that committed.
    fn numbers(
        &mut self,
        lineage: &Lineage,
        retired: Option<&RetiredBody>,
    ) -> Result<BTreeSet<SessionId>, VaultError> {
        let (mut sessions, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for path in self.under(&format!("points/{}/", lineage.id)) {
            if let Some(ObjectName::Point(_, number)) = ObjectName::parse(&path) {
                self.account(&path, Class::Live);
                numbers.insert(number.0);
            }
        }
        // The highest that opens: anyone can leave a file with a large number.
        let mut top = 0;
        for &number in &numbers {
            self.cancel.check()?;
            if retired.is_some_and(|retired| retired.holds(number)) {
                continue;
            }
            let name = ObjectName::Point(lineage.id, PointNumber(number));
            let Some(Some(at)) = self.damage_of(&name, lineage.at(self.vault, number))? else { continue };
            top = number;
            if let AtNumber::Point(body) = at {
                sessions.insert(SessionId(body.head.session));
                let open = OpenPoint::of(self.vault, lineage, body);
                let open = self.damage_of(&name, open)?;
                self.points.extend(open);
            }
        }
        for number in
            (1..=top).filter(|n| !numbers.contains(n) && !retired.is_some_and(|retired| retired.holds(*n)))
        {
            let name = ObjectName::Point(lineage.id, PointNumber(number));
            self.tell(&name, VaultError::Missing { object: name.to_string() });
        }
        Ok(sessions)
    }

    /// Checks every pack of sessions that committed; those of the others are left for [`sessions`](Self::sessions).
    fn packs(&mut self, lineage: &Lineage, sessions: &BTreeSet<SessionId>) -> Result<(), VaultError> {
        let mut copies: BTreeMap<PackPlace, u8> = BTreeMap::new();
        for path in self.under(&format!("packs/{}/", lineage.id)) {
            self.cancel.check()?;
            let Some(name) = ObjectName::parse(&path) else { continue };
            let (ObjectName::Pack(_, session, pack) | ObjectName::PackCopy(_, session, pack)) = name else {
                continue;
            };
            if !sessions.contains(&session) {
                continue;
            }
            self.account(&path, Class::Live);
            let place = PackPlace { lineage: None, session, name: pack };
            let Some(index) = self.damage_of(&name, self.vault.read_index(lineage, &place, &name))? else {
                continue;
            };
            if index.content == PackContent::Metadata {
                *copies.entry(place).or_default() += 1;
                self.slots(lineage, &place, &index, &name)?;
            } else if matches!(name, ObjectName::PackCopy(..)) {
                let what = FormatError("a second copy of a data pack".to_owned());
                self.tell(&name, VaultError::malformed(&name, what));
            }
        }
        for (place, _) in copies.iter().filter(|(_, copies)| **copies == 1) {
            let first = ObjectName::pack(lineage.id, place);
            let second = ObjectName::PackCopy(lineage.id, place.session, place.name);
            self.must_exist(first)?;
            self.must_exist(second)?;
        }
        Ok(())
    }

    /// Opens every slot of a pack, when so much is asked for.
    fn slots(
        &mut self,
        lineage: &Lineage,
        place: &PackPlace,
        index: &PackIndex,
        name: &ObjectName,
    ) -> Result<(), VaultError> {
        if self.depth == AuditDepth::Structure {
            return Ok(());
        }
        for (slot, placed) in (0_u32..).zip(&index.slots) {
            let plain = self.vault.plain_slot(lineage, place, index, name, slot, placed.kind);
            let Some(plain) = self.damage_of(name, plain)? else { continue };
            let checked = match placed.kind {
                SlotKind::Nodes => NodeSlot::parse(plain).map(drop),
                SlotKind::ChangeList => ChangeListReader::new(&plain)
                    .try_for_each(|run| run.map(drop))
                    .map_err(|e| FormatError(e.to_string())),
                _ => Ok(()),
            };
            if let Err(e) = checked {
                self.tell(name, VaultError::malformed(name, e));
            }
        }
        Ok(())
    }

    /// What sessions left or are about to leave.
    fn sessions(&mut self) -> Result<(), VaultError> {
        for path in self.under("sessions/") {
            self.cancel.check()?;
            match ObjectName::parse(&path) {
                Some(ObjectName::Stage(..)) => self.account(&path, Class::Garbage),
                Some(name @ ObjectName::Session(session)) => self.session(&path, &name, session)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn session(&mut self, path: &str, name: &ObjectName, session: SessionId) -> Result<(), VaultError> {
        let (mut class, mut lineage) = (Class::InProgress, None);
        // When it is gone, the session ended since the listing.
        if let Some(bytes) = self.vault.objects.read(name)? {
            let body: Result<SessionBody, _> = records::open(name, &bytes, &self.vault.record);
            if let Some(body) = self.damage_of(name, body)? {
                let target = ObjectName::Point(LineageId(body.lineage), PointNumber(body.target));
                if self.vault.objects.exists(&target)? {
                    class = Class::Garbage;
                }
                lineage = self.lineages.get(&LineageId(body.lineage)).cloned();
            }
        }
        self.account(path, class);
        for path in self.left.keys().cloned().collect::<Vec<_>>() {
            let Some(name) = ObjectName::parse(&path) else { continue };
            let (ObjectName::Pack(_, owner, pack) | ObjectName::PackCopy(_, owner, pack)) = name else {
                continue;
            };
            if owner != session {
                continue;
            }
            self.account(&path, class);
            if let Some(lineage) = lineage.as_ref().filter(|_| class == Class::InProgress) {
                self.unnamed_pack(lineage, &PackPlace { lineage: None, session, name: pack }, &name)?;
            }
        }
        Ok(())
    }

    /// Checks a pack that no point names yet.
    fn unnamed_pack(
        &mut self,
        lineage: &Lineage,
        place: &PackPlace,
        name: &ObjectName,
    ) -> Result<(), VaultError> {
        match self.vault.read_index(lineage, place, name) {
            // Its session was ended and swept since the listing.
            Err(VaultError::Missing { .. }) => Ok(()),
            index => match self.damage_of(name, index)? {
                Some(index) => self.slots(lineage, place, &index, name),
                None => Ok(()),
            },
        }
    }

    /// Everything not accounted for: packs of sessions that are gone and keys that no VM uses are garbage, the rest has
    /// no business here.
    fn leftovers(&mut self) -> Result<(), VaultError> {
        for (path, size) in std::mem::take(&mut self.left) {
            self.cancel.check()?;
            let name = ObjectName::parse(&path);
            let garbage = match &name {
                Some(ObjectName::Key { .. }) => true,
                Some(
                    name @ (ObjectName::Pack(lineage, session, pack)
                    | ObjectName::PackCopy(lineage, session, pack)),
                ) => match self.lineages.get(lineage) {
                    Some(lineage) => {
                        let place = PackPlace { lineage: None, session: *session, name: *pack };
                        match self.vault.read_index(lineage, &place, name) {
                            Err(e) if e.is_of_one_object() => matches!(e, VaultError::Missing { .. }),
                            index => index.map(|_| true)?,
                        }
                    }
                    None => false,
                },
                _ => false,
            };
            if garbage {
                self.tally(Class::Garbage, size);
            } else {
                let what = FormatError("it does not belong to this vault".to_owned());
                let error = VaultError::malformed(&path, what);
                (self.found)(Damage { object: path.clone(), error });
                self.accounting.unexplained.push((path, size));
            }
        }
        Ok(())
    }

    /// Checks every entry of a stream, and their chain; gives those that can be read.
    fn journal(&mut self, stream: [u8; 16]) -> Result<Vec<JournalEntry>, VaultError> {
        let (mut entries, mut next, mut before) = (Vec::new(), 1, Some([0; 32]));
        let mut numbers = BTreeSet::new();
        for path in self.under(&format!("journal/{}/", LineageId(stream))) {
            if let Some(ObjectName::Journal(_, n)) = ObjectName::parse(&path) {
                self.account(&path, Class::Live);
                numbers.insert(n);
            }
        }
        for n in numbers {
            self.cancel.check()?;
            if n > next {
                self.must_exist(ObjectName::Journal(stream, next))?;
                before = None;
            }
            let name = ObjectName::Journal(stream, n);
            let entry = self.damage_of(&name, journal::entry(self.vault, stream, n, before))?.flatten();
            before = entry.as_ref().map(|(_, hash)| *hash);
            entries.extend(entry.map(|(record, _)| record.entry));
            next = n.saturating_add(1);
        }
        Ok(entries)
    }

    /// Opens a record of the vault's own and accounts for it.
    fn record<T: crate::format::Body>(&mut self, name: &ObjectName) -> Result<Option<T>, VaultError> {
        self.account(&name.to_string(), Class::Live);
        let Some(bytes) = self.vault.objects.read(name)? else { return Ok(None) };
        self.damage_of(name, records::open(name, &bytes, &self.vault.record))
    }

    /// Tells of damage and goes on; any other failure ends the audit.
    fn damage_of<T>(
        &mut self,
        name: &ObjectName,
        result: Result<T, VaultError>,
    ) -> Result<Option<T>, VaultError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_of_one_object() => {
                self.tell(name, e);
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn tell(&mut self, name: &ObjectName, error: VaultError) {
        let object = error.object().map_or_else(|| name.to_string(), str::to_owned);
        (self.found)(Damage { object, error });
    }

    fn under(&self, prefix: &str) -> Vec<String> {
        let from = self.left.range(prefix.to_owned()..);
        from.map(|(path, _)| path).take_while(|path| path.starts_with(prefix)).cloned().collect()
    }

    fn account(&mut self, path: &str, class: Class) {
        if let Some(size) = self.left.remove(path) {
            self.tally(class, size);
        }
    }

    fn tally(&mut self, class: Class, size: u64) {
        let tally = match class {
            Class::Live => &mut self.accounting.live,
            Class::Garbage => &mut self.accounting.garbage,
            Class::InProgress => &mut self.accounting.in_progress,
        };
        tally.objects += 1;
        tally.bytes += size;
    }
}
