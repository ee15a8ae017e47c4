//! Accounting for packs and the sessions that wrote them.

use std::collections::BTreeMap;

use vmkeep_envelope::PackContent;
use vmkeep_model::{LineageId, SessionId};

use super::AuditDepth;
use super::auditor::{Auditor, Class};
use super::line::{Line, Standing};
use super::pack::check_metadata;
use super::reach::Reach;
use crate::error::VaultError;
use crate::format::PackBody;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::pack::PackIndex;
use crate::place::PackPlace;

/// Longest chain of sessions that went on from one another.
const CHAIN_MAX: usize = 64;

impl Auditor<'_> {
    /// Accounts for every pack of a lineage, and for its sessions, and checks the packs that are needed or may be.
    pub(super) fn packs(&mut self, line: &Line<'_>, reach: &Reach) -> Result<(), VaultError> {
        let open = self.sessions_of(line)?;
        let mut copies: BTreeMap<PackPlace, u8> = BTreeMap::new();
        for path in self.under(&format!("packs/{}/", line.lineage.id)) {
            self.cancel.check()?;
            let Some(name) = ObjectName::parse(&path) else { continue };
            let (ObjectName::Pack(_, session, pack) | ObjectName::PackCopy(_, session, pack)) = name else {
                continue;
            };
            let place = PackPlace { lineage: None, session, name: pack };
            let body = (session.0, pack.0);
            let reached = reach.needs(&body);
            let in_progress =
                || line.repacking.contains(&session) || open.get(&session).copied().unwrap_or(false);
            if reached && line.doomed.contains(&body) {
                self.tell_wrong(&name, "a sweep is about to remove it, and a point needs it");
            }
            if reached || self.holds_a_copy(line, reach, &place, &name)? {
                self.needed_pack(line, reach, &place, &path, &mut copies)?;
            } else if line.doomed.contains(&body) {
                self.account(&path, Class::Garbage);
            } else if in_progress() {
                self.account(&path, Class::InProgress);
                self.unnamed_pack(line.lineage, &place, &name)?;
            } else if reach.unknown {
                self.needed_pack(line, reach, &place, &path, &mut copies)?;
            } else if open.contains_key(&session) {
                self.account(&path, Class::Garbage);
            } else {
                match self.vault.read_index(line.lineage, &place, &name) {
                    Ok(_) | Err(VaultError::Missing { .. }) => self.account(&path, Class::Garbage),
                    // It is no pack of this VM: nobody's.
                    Err(e) if e.is_of_one_object() => {}
                    Err(e) => return Err(e),
                }
            }
        }
        for (place, _) in copies.iter().filter(|(_, copies)| **copies == 1) {
            let first = ObjectName::pack(line.lineage.id, place);
            let second = ObjectName::PackCopy(line.lineage.id, place.session, place.name);
            for name in [first, second] {
                if !self.vault.objects.exists(&name)? && !self.removed_since(line, reach, &body_of(place))? {
                    self.tell(&name, VaultError::Missing { object: name.to_string() });
                }
            }
        }
        Ok(())
    }

    /// Checks a pack that is needed, or may be.
    fn needed_pack(
        &mut self,
        line: &Line<'_>,
        reach: &Reach,
        place: &PackPlace,
        path: &str,
        copies: &mut BTreeMap<PackPlace, u8>,
    ) -> Result<(), VaultError> {
        self.account(path, Class::Live);
        let Some(name) = ObjectName::parse(path) else { return Ok(()) };
        let checked = match self.vault.read_index(line.lineage, place, &name) {
            Ok(index) if index.content == PackContent::Metadata => {
                *copies.entry(*place).or_default() += 1;
                self.slots(line.lineage, place, &index, &name)
            }
            Ok(_) => {
                if matches!(name, ObjectName::PackCopy(..)) {
                    self.tell_wrong(&name, "a second copy of a data pack");
                }
                Ok(())
            }
            Err(e) => Err(e),
        };
        if matches!(checked, Err(VaultError::Missing { .. }))
            && self.removed_since(line, reach, &body_of(place))?
        {
            return Ok(());
        }
        self.damage_of(&name, checked).map(drop)
    }

    /// Whether it is a metadata pack of a session whose point does not say where its copy is.
    fn holds_a_copy(
        &self,
        line: &Line<'_>,
        reach: &Reach,
        place: &PackPlace,
        name: &ObjectName,
    ) -> Result<bool, VaultError> {
        if !reach.copies_in.contains(&place.session) {
            return Ok(false);
        }
        match self.vault.read_index(line.lineage, place, name) {
            Ok(index) => Ok(index.content == PackContent::Metadata),
            // Then it may.
            Err(e) if e.is_of_one_object() => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Checks a pack that no point names yet.
    fn unnamed_pack(
        &mut self,
        lineage: &Lineage,
        place: &PackPlace,
        name: &ObjectName,
    ) -> Result<(), VaultError> {
        let checked = match self.vault.read_index(lineage, place, name) {
            Ok(index) => self.slots(lineage, place, &index, name),
            Err(e) => Err(e),
        };
        match checked {
            // Whose it was has ended and was swept since the listing.
            Err(VaultError::Missing { .. }) => Ok(()),
            checked => self.damage_of(name, checked).map(drop),
        }
    }

    /// Opens every slot of a pack, when so much is asked for. Fails with what is missing; other damage is told.
    fn slots(
        &mut self,
        lineage: &Lineage,
        place: &PackPlace,
        index: &PackIndex,
        name: &ObjectName,
    ) -> Result<(), VaultError> {
        let is_destroyed =
            index.content == PackContent::Data && lineage.domain.destroyed().contains_key(&index.epoch);
        if self.depth == AuditDepth::Structure || is_destroyed {
            return Ok(());
        }
        for (slot, placed) in (0_u32..).zip(&index.slots) {
            let plain = match self.vault.plain_slot(lineage, place, index, name, slot, placed.kind) {
                Err(gone @ VaultError::Missing { .. }) => return Err(gone),
                plain => plain,
            };
            let Some(plain) = self.damage_of(name, plain)? else { continue };
            if let Err(e) = check_metadata(placed.kind, plain) {
                self.tell(name, VaultError::malformed(name, e));
            }
        }
        Ok(())
    }

    /// Accounts for the records of the sessions of a lineage. Gives every session that has one, with whether what it
    /// stored may still become part of a point.
    fn sessions_of(&mut self, line: &Line<'_>) -> Result<BTreeMap<SessionId, bool>, VaultError> {
        let mut open = BTreeMap::new();
        for (&session, body) in &self.sessions {
            match body {
                Some(body) if LineageId(body.lineage) != line.lineage.id => {}
                _ => drop(open.insert(session, self.may_commit(line, session, 0)?)),
            }
        }
        for (session, may_commit) in &open {
            // One that cannot be read is nobody's in particular.
            if let Some(Some(_)) = self.sessions.get(session) {
                let class = if *may_commit { Class::InProgress } else { Class::Garbage };
                self.account(&ObjectName::Session(*session).to_string(), class);
            }
        }
        Ok(open)
    }

    /// Whether the session, or the one that inherited from it, may still commit.
    fn may_commit(&self, line: &Line<'_>, session: SessionId, depth: usize) -> Result<bool, VaultError> {
        let body = match self.sessions.get(&session) {
            Some(Some(body)) => body,
            // It cannot be read, or ended since the listing.
            Some(None) => return Ok(true),
            // It began since the listing.
            None => return self.vault.objects.exists(&ObjectName::Session(session)),
        };
        match line.standing.get(&body.target) {
            None => Ok(!line.is_retired(body.target)),
            Some(Standing::Unreadable) => Ok(true),
            Some(Standing::Inherited(ended)) if ended.session == session.0 && depth < CHAIN_MAX => {
                self.may_commit(line, SessionId(ended.heir), depth + 1)
            }
            Some(_) => Ok(false),
        }
    }
}

fn body_of(place: &PackPlace) -> PackBody {
    (place.session.0, place.name.0)
}
