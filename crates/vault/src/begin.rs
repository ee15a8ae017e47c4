//! Beginning a session, going on from one that was interrupted, and ending one that was abandoned.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkeep_model::{Labels, LineageId, Permit, PointNumber, Principal, SessionId, Timestamp, VmName, op};

use crate::drive::{Driver, NoData};
use crate::error::VaultError;
use crate::format::{SessionBody, VoidBody};
use crate::journal::{self, JournalEntry};
use crate::keyring;
use crate::layout::ObjectName;
use crate::lineage::{AtNumber, Lineage};
use crate::pack::{Orphans, PackNodes};
use crate::protocol::{Begin, Begun, Record, Retirement, TakeNumber, Taken};
use crate::records::{self, Sealer, random_id};
use crate::session::{Session, Writing};
use crate::vault::{Inner, Vault};

/// How often a session begins again because its number was taken while it began.
const BEGIN_TRIES: u32 = 16;

/// Longest chain of sessions that went on from one another.
const CHAIN_MAX: usize = 64;

/// A session that has not committed, as its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Its id.
    pub id: SessionId,
    /// The number it wants.
    pub target: PointNumber,
    /// When it began, by the clock of its host.
    pub opened: Timestamp,
}

impl Session {
    /// Begins the next session of `vm`, going on from the open session `adopted` when one is given.
    fn begin(
        vault: &Arc<Inner>,
        by: &Principal,
        vm: &VmName,
        adopted: Option<SessionId>,
    ) -> Result<Self, VaultError> {
        let (lineage, stored) = vault.lineage_to_continue(vm)?;
        let adopted = match adopted {
            None => None,
            Some(session) => {
                Some(vault.session_of(&lineage, session)?.ok_or(VaultError::NoSuchSession { session })?)
            }
        };
        for _ in 0..BEGIN_TRIES {
            let id = SessionId(random_id(&*vault.ports.entropy)?);
            let body = SessionBody {
                session: id.0,
                lineage: lineage.id.0,
                domain: lineage.domain.id.0,
                base: 0,
                target: 0,
                opened: vault.ports.clock.now().0,
                adopted: None,
            };
            let mut data = NoData;
            let mut driver = Driver::new(vault, Some(&lineage), &mut data);
            let mut begin = Begin::new(body, adopted.clone(), vault.rules);
            let (body, found) = match driver.finish(|reply| begin.step(reply))? {
                Begun::Open(body, head) => (body, head),
                Begun::Again if adopted.is_none() => continue,
                Begun::Closed => return Err(VaultError::LineageClosed { vm: vm.clone() }),
                Begun::Again | Begun::NotAdoptable => {
                    let session = adopted.map_or(id, |adopted| SessionId(adopted.session));
                    return Err(VaultError::NotAdoptable { session, why: "its number is taken by now" });
                }
            };
            let head = lineage.whole_head(found, &mut driver);
            // After its record: whoever destroys keys ends the sessions it finds, and one that it does not find is told
            // here what new data is sealed with.
            let lineage = Lineage { domain: keyring::refreshed(&lineage.domain)?, ..lineage.clone() };
            let ended =
                adopted.as_ref().map(|ended| ObjectName::Point(lineage.id, PointNumber(ended.target)));
            let stored = stored
                + driver.stored(&ObjectName::Session(id))
                + ended.map_or(0, |ended| driver.stored(&ended));
            let base = head.newest.as_ref().map(|base| PointNumber(base.head.number));
            let marks = Arc::new(vault.damage_marks(lineage.id)?.for_base(base));
            let inherited = match &adopted {
                Some(adopted) => vault.estate(&lineage, adopted)?,
                None => Vec::new(),
            };
            let nodes = PackNodes { vault: Arc::clone(vault), lineage: lineage.clone() };
            let writing = Writing {
                vault: Arc::clone(vault),
                lineage,
                id,
                target: PointNumber(body.target),
                nodes,
                adopted: None,
                orphans: Orphans::default(),
                sealer: Sealer::new(id),
                by: by.clone(),
            };
            let mut session = Self {
                writing,
                base: head.newest,
                unreadable: head.unreadable,
                body,
                retired: head.retired,
                labels: Labels::default(),
                snapshot: None,
                marks,
                inherited: inherited.clone(),
                stored,
            };
            if !inherited.is_empty() {
                session.inherit(&inherited)?;
            }
            return Ok(session);
        }
        Err(VaultError::Taken { object: format!("points/{}", lineage.id) })
    }
}

impl Session {
    /// Whether its keys are those of a write-only client: what is stored cannot be read, not even what it stores itself.
    pub fn is_write_only(&self) -> bool {
        self.writing.lineage.domain.is_write_only()
    }
}

impl Inner {
    /// The record of an open session of `lineage`.
    fn session_of(&self, lineage: &Lineage, session: SessionId) -> Result<Option<SessionBody>, VaultError> {
        let name = ObjectName::Session(session);
        let Some(bytes) = self.objects.read(&name)? else { return Ok(None) };
        let body: SessionBody = records::open(&name, &bytes, &self.record)?;
        Ok((body.lineage == lineage.id.0).then_some(body))
    }

    /// The session itself and those whose packs it had inherited, the first of them first.
    fn estate(&self, lineage: &Lineage, session: &SessionBody) -> Result<Vec<SessionId>, VaultError> {
        let (mut chain, mut heir) = (vec![SessionId(session.session)], session.clone());
        while let Some(adopted) = heir.adopted.map(SessionId).filter(|_| chain.len() < CHAIN_MAX) {
            let Some(body) = self.session_of(lineage, adopted)? else { break };
            match lineage.at(self, body.target)? {
                Some(AtNumber::Inherited(ended))
                    if (ended.session, ended.heir) == (body.session, heir.session) => {}
                _ => break,
            }
            chain.push(adopted);
            heir = body;
        }
        chain.reverse();
        Ok(chain)
    }

    /// Every session record in the vault that opens, by lineage.
    pub(crate) fn open_sessions(&self) -> Result<BTreeMap<LineageId, Vec<SessionBody>>, VaultError> {
        let mut found: BTreeMap<LineageId, Vec<SessionBody>> = BTreeMap::new();
        for (path, _) in self.objects.list("sessions")? {
            let Some(name @ ObjectName::Session(_)) = ObjectName::parse(&path) else { continue };
            let Some(bytes) = self.objects.read(&name)? else { continue };
            match records::open::<SessionBody>(&name, &bytes, &self.record) {
                Ok(body) => found.entry(LineageId(body.lineage)).or_default().push(body),
                Err(e) if e.is_of_one_object() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }
}

impl Vault {
    /// Begins a backup of `vm`, making its lineage and keys when it is the first.
    pub fn begin(&self, permit: &Permit<op::Backup>, vm: &VmName) -> Result<Session, VaultError> {
        permit.check(vm)?;
        Session::begin(&self.inner, permit.who(), vm, None)
    }

    /// Begins a backup of `vm` that goes on from `interrupted`, an open session of the same VM that no longer runs.
    ///
    /// That session is ended by it: should it still run, it can no longer commit and is told so. What it has stored is
    /// used again ([`Session::adopted`]). Fails when it has committed or was ended meanwhile.
    pub fn resume(
        &self,
        permit: &Permit<op::Backup>,
        vm: &VmName,
        interrupted: SessionId,
    ) -> Result<Session, VaultError> {
        permit.check(vm)?;
        Session::begin(&self.inner, permit.who(), vm, Some(interrupted))
    }

    /// The sessions of `vm` that may still commit, running or abandoned, the newest last.
    pub fn open_sessions(&self, vm: &VmName) -> Result<Vec<OpenSession>, VaultError> {
        // Most often there is none, and that takes one listing.
        let mut sessions = self.inner.open_sessions()?;
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let Some(lineage) = self.inner.lineage(vm)? else { return Ok(Vec::new()) };
        // Numbers have no gaps: one that is free is above all that are taken or retired.
        let top = lineage.head(&self.inner)?.top;
        let bodies = sessions.remove(&lineage.id).unwrap_or_default();
        let mut open: Vec<OpenSession> = bodies
            .iter()
            .filter(|body| body.target > top)
            .map(|body| OpenSession {
                id: SessionId(body.session),
                target: PointNumber(body.target),
                opened: Timestamp(body.opened),
            })
            .collect();
        open.sort_by_key(|session| (session.target, session.opened.0, session.id));
        Ok(open)
    }

    /// Bytes that a backup of `vm` would find when it went on from `session` ([`resume`](Self::resume)): what the
    /// session has stored, and what it had inherited.
    pub fn stored_by(&self, vm: &VmName, session: SessionId) -> Result<u64, VaultError> {
        let vault = &self.inner;
        let lineage = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let body = vault.session_of(&lineage, session)?.ok_or(VaultError::NoSuchSession { session })?;
        let mut stored = 0;
        for session in vault.estate(&lineage, &body)? {
            let packs = vault.objects.list(&format!("packs/{}/{session}", lineage.id))?;
            stored += packs.iter().map(|(_, size)| size).sum::<u64>();
        }
        Ok(stored)
    }

    /// Ends an abandoned session: it can never commit from then on, whoever still runs it.
    ///
    /// Returns false when its target was taken already, by its own commit or by something else.
    pub fn void_session(
        &self,
        permit: &Permit<op::EndSession>,
        session: SessionId,
    ) -> Result<bool, VaultError> {
        permit.check_vault()?;
        self.inner.end_session(session, permit.who())
    }
}

impl Inner {
    /// As [`Vault::void_session`].
    pub(crate) fn end_session(&self, session: SessionId, by: &Principal) -> Result<bool, VaultError> {
        let vault = self;
        let name = ObjectName::Session(session);
        let bytes = vault.objects.read(&name)?.ok_or(VaultError::NoSuchSession { session })?;
        let body: SessionBody = records::open(&name, &bytes, &vault.record)?;
        let void = VoidBody {
            lineage: body.lineage,
            number: body.target,
            session: body.session,
            at: vault.ports.clock.now().0,
        };
        // Numbers have no gaps: a session that goes on from another is ended after that one.
        let below = ObjectName::Point(LineageId(body.lineage), PointNumber(body.target.saturating_sub(1)));
        if body.adopted.is_some() && !vault.objects.exists(&below)? {
            return Ok(false);
        }
        let lineage = LineageId(body.lineage);
        let mut data = NoData;
        let mut driver = Driver::new(vault, None, &mut data);
        let mut probe = Retirement::after(lineage, 0, None);
        let retired = driver.finish(|reply| probe.step(reply))?;
        if retired.as_ref().is_some_and(|retired| retired.holds(body.target)) {
            return Ok(false);
        }
        let k = retired.map_or(0, |retired| retired.k);
        let mut take = TakeNumber::new(lineage, body.target, Record::Void(void), k, vault.rules);
        if driver.finish(|reply| take.step(reply))? != Taken::Ours {
            return Ok(false);
        }
        let entry = JournalEntry::Voided { number: body.target, session };
        journal::append(vault, body.lineage, by, &entry)?;
        Ok(true)
    }
}
