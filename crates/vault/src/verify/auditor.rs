//! Accounting for every object of a vault, one kind after another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_envelope::{OpenedKeys, open_key_object};
use vmkeep_model::{CancelToken, DomainId, LineageId, PointNumber, PointRef, SessionId, VmName};

use super::{Accounting, Audit, AuditDepth, Damage};
use crate::error::VaultError;
use crate::format::{DestroyedBody, FormatError, RotationBody, SessionBody};
use crate::journal::{self, JournalEntry};
use crate::keys::{DestroyedKeys, Needs};
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::point::OpenPoint;
use crate::records;
use crate::vault::Inner;

/// An audit under way.
pub(super) struct Auditor<'a> {
    pub(super) vault: &'a Arc<Inner>,
    pub(super) depth: AuditDepth,
    pub(super) cancel: &'a CancelToken,
    found: &'a mut dyn FnMut(Damage),
    /// Objects not accounted for yet, with their sizes.
    pub(super) left: BTreeMap<String, u64>,
    accounting: Accounting,
    /// What the records of sessions say; `None` where one cannot be read.
    pub(super) sessions: BTreeMap<SessionId, Option<SessionBody>>,
    pub(super) points: Vec<OpenPoint>,
    foreign_keys: u64,
    destroyed: Vec<DestroyedKeys>,
}

/// What an object is there for; see [`Accounting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
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
            sessions: BTreeMap::new(),
            points: Vec::new(),
            foreign_keys: 0,
            destroyed: Vec::new(),
        })
    }

    pub(super) fn run(mut self) -> Result<Audit, VaultError> {
        self.vault_itself()?;
        // Before the points: a session whose number is free then is open, or has ended since.
        self.read_sessions()?;
        let lineages = self.names()?;
        for lineage in &lineages {
            let first = self.points.len();
            self.lineage(lineage)?;
            self.destroyed(lineage, first)?;
        }
        self.strays()?;
        self.leftovers();
        let Self { accounting, points, foreign_keys, destroyed, .. } = self;
        Ok(Audit { accounting, points, foreign_keys, destroyed, lineages })
    }

    fn vault_itself(&mut self) -> Result<(), VaultError> {
        // It was opened: its record and one of its key objects are good.
        self.account(&ObjectName::Vault.to_string(), Class::Live);
        self.keys(DomainId::VAULT)?;
        self.journal(self.vault.id.0)?;
        self.journal(self.vault.authority_stream())?;
        self.journal(self.vault.note_stream())?;
        self.journal(self.vault.verify_stream())?;
        for path in self.under("keys/rotations/") {
            if let Some(name @ ObjectName::Rotation(_)) = ObjectName::parse(&path) {
                self.record::<RotationBody>(&name, Class::Live)?;
            }
        }
        Ok(())
    }

    /// Checks the key objects of a domain that is in use and gives their names.
    fn keys(&mut self, domain: DomainId) -> Result<Vec<String>, VaultError> {
        let paths = self.under(&format!("keys/{domain}/"));
        for path in paths.clone() {
            let name = match ObjectName::parse(&path) {
                Some(name @ ObjectName::Key { .. }) => name,
                Some(ObjectName::KeyDestroyed { domain, epoch }) => {
                    self.tombstone(domain, epoch)?;
                    continue;
                }
                _ => continue,
            };
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

    fn tombstone(&mut self, domain: DomainId, epoch: u32) -> Result<(), VaultError> {
        let name = ObjectName::KeyDestroyed { domain, epoch };
        let Some(body) = self.record::<DestroyedBody>(&name, Class::Live)? else { return Ok(()) };
        if (body.domain, body.epoch) != (domain.0, epoch) {
            self.tell_wrong(&name, "it is the tombstone of other keys");
        }
        Ok(())
    }

    /// The keys of a lineage that were destroyed, with the points, from `first` on, that need them.
    fn destroyed(&mut self, lineage: &Lineage, first: usize) -> Result<(), VaultError> {
        let epochs: BTreeSet<u32> = lineage.domain.destroyed().keys().copied().collect();
        if epochs.is_empty() {
            return Ok(());
        }
        let packs = self.vault.data_packs(lineage, self.cancel)?;
        let unfinished = self.vault.unfinished(lineage)?;
        let mut needs = Needs::of(self.vault, lineage, &epochs, &packs);
        let mut points = BTreeMap::<u32, Vec<PointRef>>::new();
        for point in &self.points[first..] {
            self.cancel.check()?;
            for epoch in needs.of_point(point, self.cancel)? {
                points.entry(epoch).or_default().push(point.reference());
            }
        }
        self.destroyed.extend(DestroyedKeys::of(lineage, &unfinished, points));
        Ok(())
    }

    /// What the records of sessions say. One that is gone by now ended since the listing.
    fn read_sessions(&mut self) -> Result<(), VaultError> {
        for path in self.under("sessions/") {
            self.cancel.check()?;
            let Some(name @ ObjectName::Session(session)) = ObjectName::parse(&path) else { continue };
            let body = match self.vault.objects.read(&name)? {
                Some(bytes) => self.damage_of(&name, records::open(&name, &bytes, &self.vault.record))?,
                None => None,
            };
            self.sessions.insert(session, body);
        }
        Ok(())
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
                self.tell_wrong(&name, "it names another VM than its own name says");
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
        for first in ["points", "heads", "retired", "forgets", "pins", "sweep", "moved", "packs", "journal"] {
            for path in self.under(&format!("{first}/{lineage}")) {
                if ObjectName::parse(&path).is_some() {
                    self.account(&path, Class::Live);
                }
            }
        }
    }

    /// Tells of an object that another one names and that is not there. Asks the store: since the listing more may
    /// have come.
    pub(super) fn must_exist(&mut self, name: ObjectName) -> Result<(), VaultError> {
        if !self.vault.objects.exists(&name)? {
            self.tell(&name, VaultError::Missing { object: name.to_string() });
        }
        Ok(())
    }

    /// Half-written files, and sessions of VMs that were not looked at or cannot be told.
    fn strays(&mut self) -> Result<(), VaultError> {
        for path in self.under("sessions/") {
            self.cancel.check()?;
            match ObjectName::parse(&path) {
                Some(ObjectName::Stage(..)) => self.account(&path, Class::Garbage),
                Some(ObjectName::Session(session)) => {
                    let ended = match self.sessions.get(&session) {
                        Some(Some(body)) => {
                            let number = PointNumber(body.target);
                            self.vault.objects.exists(&ObjectName::Point(LineageId(body.lineage), number))?
                        }
                        _ => false,
                    };
                    self.account(&path, if ended { Class::Garbage } else { Class::InProgress });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Everything not accounted for: keys that no VM uses are garbage, the rest has no business here.
    fn leftovers(&mut self) {
        for (path, size) in std::mem::take(&mut self.left) {
            if let Some(ObjectName::Key { .. } | ObjectName::KeyDestroyed { .. }) = ObjectName::parse(&path) {
                self.tally(Class::Garbage, size);
                continue;
            }
            let what = FormatError("it does not belong to this vault".to_owned());
            let error = VaultError::malformed(&path, what);
            (self.found)(Damage { object: path.clone(), error });
            self.accounting.unexplained.push((path, size));
        }
    }

    /// Checks every entry of a stream, and their chain; gives those that can be read.
    pub(super) fn journal(&mut self, stream: [u8; 16]) -> Result<Vec<JournalEntry>, VaultError> {
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

    /// Opens a record of the vault's own and accounts for it. `None` also when it is gone by now.
    pub(super) fn record<T: crate::format::Body>(
        &mut self,
        name: &ObjectName,
        class: Class,
    ) -> Result<Option<T>, VaultError> {
        self.account(&name.to_string(), class);
        let Some(bytes) = self.vault.objects.read(name)? else { return Ok(None) };
        self.damage_of(name, records::open(name, &bytes, &self.vault.record))
    }

    /// Tells of damage and goes on; any other failure ends the audit.
    pub(super) fn damage_of<T>(
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

    /// Tells of an object that says something it must not.
    pub(super) fn tell_wrong(&mut self, name: &ObjectName, what: &str) {
        self.tell(name, VaultError::malformed(name, FormatError(what.to_owned())));
    }

    pub(super) fn tell(&mut self, name: &ObjectName, error: VaultError) {
        let object = error.object().map_or_else(|| name.to_string(), str::to_owned);
        (self.found)(Damage { object, error });
    }

    pub(super) fn under(&self, prefix: &str) -> Vec<String> {
        let from = self.left.range(prefix.to_owned()..);
        from.map(|(path, _)| path).take_while(|path| path.starts_with(prefix)).cloned().collect()
    }

    pub(super) fn account(&mut self, path: &str, class: Class) {
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
