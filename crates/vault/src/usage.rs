//! Whose bytes a vault's objects are.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_model::{CancelToken, DomainId, LineageId, SessionId, VmName};

use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::vault::Vault;

/// What a line of points takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageUsage {
    /// Which.
    pub id: LineageId,
    /// The VM; `None` when no name of the vault leads to it.
    pub vm: Option<VmName>,
    /// Bytes of packs that hold content of disks.
    pub data: u64,
    /// Bytes of everything else that is its own: maps in both copies, points, marks, its journal, its keys.
    pub metadata: u64,
    /// Of all these, the bytes that each session wrote and that are still there: a point is of one session.
    pub sessions: BTreeMap<SessionId, u64>,
}

/// What a vault takes: every object belongs to a line of points or to the vault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaultUsage {
    /// Lines of points, by id.
    pub lineages: Vec<LineageUsage>,
    /// Bytes of the vault's own records: names, roles, notes, open sessions, its own keys.
    pub records: u64,
    /// Bytes that the next sweep removes; counted by [`Vault::usage_without_garbage`], else 0 and with those that they were made for.
    pub garbage: u64,
    /// Bytes of files that are no objects of a vault.
    pub foreign: u64,
}

impl VaultUsage {
    /// All bytes that are in the store.
    pub fn total(&self) -> u64 {
        let lineages = self.lineages.iter().map(|lineage| lineage.data + lineage.metadata);
        lineages.sum::<u64>() + self.records + self.garbage + self.foreign
    }
}

/// What one line of points takes so far.
#[derive(Default)]
struct Sums {
    /// Packs with their bytes, of which those are metadata that have a second copy.
    packs: BTreeMap<(SessionId, String), u64>,
    copied: BTreeSet<(SessionId, String)>,
    metadata: u64,
    sessions: BTreeMap<SessionId, u64>,
}

impl Vault {
    /// What everything takes, by one listing of the store and the records of names.
    pub fn usage(&self) -> Result<VaultUsage, VaultError> {
        self.usage_beside(&BTreeSet::new())
    }

    /// The same, and what the next sweep would remove is counted by itself. Costs a sweep that changes nothing: what it would free,
    /// not what the vault holds.
    pub fn usage_without_garbage(&self, cancel: &CancelToken) -> Result<VaultUsage, VaultError> {
        self.usage_beside(&self.garbage(cancel)?.into_iter().collect())
    }

    fn usage_beside(&self, garbage: &BTreeSet<String>) -> Result<VaultUsage, VaultError> {
        let names = self.inner.name_records()?;
        let of_domain: BTreeMap<DomainId, LineageId> =
            names.iter().map(|(body, _)| (DomainId(body.domain), LineageId(body.lineage))).collect();
        let vms: BTreeMap<LineageId, VmName> =
            names.into_iter().map(|(body, vm)| (LineageId(body.lineage), vm)).collect();
        let mut sums: BTreeMap<LineageId, Sums> = vms.keys().map(|id| (*id, Sums::default())).collect();
        let mut usage = VaultUsage::default();
        for (path, bytes) in self.inner.objects.list("")? {
            let Some(name) = ObjectName::parse(&path) else {
                usage.foreign += bytes;
                continue;
            };
            let is_garbage = garbage.contains(&path);
            if is_garbage {
                usage.garbage += bytes;
            }
            // Of a pack that goes it still has to be known whether it was the one of two copies.
            let bytes = if is_garbage { 0 } else { bytes };
            let Some(lineage) = lineage_of(&name, &of_domain).filter(|id| is_lineage(*id, &name, &sums))
            else {
                usage.records += bytes;
                continue;
            };
            let sums = sums.entry(lineage).or_default();
            match name {
                ObjectName::Pack(_, session, pack) => {
                    *sums.sessions.entry(session).or_default() += bytes;
                    sums.packs.insert((session, pack.to_string()), bytes);
                }
                ObjectName::PackCopy(_, session, pack) => {
                    *sums.sessions.entry(session).or_default() += bytes;
                    sums.copied.insert((session, pack.to_string()));
                    sums.metadata += bytes;
                }
                _ => sums.metadata += bytes,
            }
        }
        usage.lineages = sums
            .into_iter()
            .map(|(id, sums)| {
                let of_metadata = |(pack, _): &(&_, &u64)| sums.copied.contains(*pack);
                let metadata: u64 = sums.packs.iter().filter(of_metadata).map(|(_, bytes)| bytes).sum();
                let all: u64 = sums.packs.values().sum();
                LineageUsage {
                    id,
                    vm: vms.get(&id).cloned(),
                    data: all - metadata,
                    metadata: sums.metadata + metadata,
                    sessions: sums.sessions,
                }
            })
            .collect();
        Ok(usage)
    }
}

/// The journal of the vault has a stream that is no line of points.
fn is_lineage(id: LineageId, name: &ObjectName, sums: &BTreeMap<LineageId, Sums>) -> bool {
    !matches!(name, ObjectName::Journal(..)) || sums.contains_key(&id)
}

/// The line of points that an object is of.
fn lineage_of(name: &ObjectName, of_domain: &BTreeMap<DomainId, LineageId>) -> Option<LineageId> {
    use ObjectName as Name;
    match name {
        Name::Point(id, _)
        | Name::Head(id)
        | Name::Retired(id, _)
        | Name::Forget(id, _)
        | Name::Mark(id, ..)
        | Name::Pin(id, ..)
        | Name::Plan(id, ..)
        | Name::Worn(id, ..)
        | Name::Repack(id, _)
        | Name::Moved(id, ..)
        | Name::Pack(id, ..)
        | Name::PackCopy(id, ..) => Some(*id),
        Name::Journal(stream, _) => Some(LineageId(*stream)),
        Name::Key { domain, .. } | Name::KeyDestroyed { domain, .. } => of_domain.get(domain).copied(),
        Name::Vault | Name::Rotation(_) | Name::Name(_) | Name::Session(_) | Name::Stage(..) => None,
    }
}
