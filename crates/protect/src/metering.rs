//! The ledger: what a bill rests on, noted in the vault as it was read there.
//!
//! A reading says which points are new since the last one, how large their disks were, how many bytes the VM's line of points
//! takes now, and where its protection stands. Readings are notes: appended, sealed, never changed, so that the same bill
//! comes out whenever they are replayed.
//!
//! After a backup none need be taken, and the cost of a backup need not grow with the number of notes that are replayed: its
//! time, its sizes and the bytes that its session wrote are in the vault and authenticated, and the next reading finds them and
//! lets them count from the time of the point on. What does not stay must be read before it goes: a reading precedes a sweep.
//! What comes without a point (marks, pins, journals) counts from the reading that first sees it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmkeep_billing::{Agent, DiskSize, Event, EventKind, Selection, Tier};
use vmkeep_model::{DiskRole, LineageId, Op, Permit, RecoveryPoint, Timestamp, VmName};
use vmkeep_retention::State;
use vmkeep_vault::{LineageUsage, Vault, VaultError, VaultUsage};

use crate::ProtectError;
use crate::note::StateNote;

/// The topic of the notes that are written here.
pub(crate) const TOPIC: &str = "metering";

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    reading: Reading,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reading {
    vm: String,
    lineage: String,
    /// Points that are new, by number.
    backups: Vec<Backup>,
    /// Bytes that the line of points takes in the vault.
    bytes: u64,
    /// Whether backups of it are to be expected: not of an older line of points, nor of a VM whose protection was stopped.
    protected: bool,
    /// Where protection stands; absent for a VM that is under no policy.
    state: Option<StateNote>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    point: u64,
    at: i64,
    disks: Vec<Disk>,
    /// Bytes that its session wrote and that were there at the reading: they count from the time of the point on.
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Disk {
    role: Role,
    /// Bytes of blocks that are not zero; absent for a temporary disk, which nobody looked into.
    nonzero: Option<u64>,
    /// Bytes that its file systems said they use; absent when that was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filesystem: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Role {
    Os,
    Data,
    Temporary,
}

impl From<DiskRole> for Role {
    fn from(role: DiskRole) -> Self {
        match role {
            DiskRole::Os => Self::Os,
            DiskRole::Data => Self::Data,
            DiskRole::Temporary => Self::Temporary,
        }
    }
}

impl From<Role> for DiskRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Os => Self::Os,
            Role::Data => Self::Data,
            Role::Temporary => Self::Temporary,
        }
    }
}

impl Backup {
    fn new(point: &RecoveryPoint, usage: &LineageUsage) -> Self {
        let disk = |disk: &vmkeep_model::DiskRecord| Disk {
            role: disk.description.role.into(),
            nonzero: disk.stored.as_ref().map(|stored| stored.allocated.0),
            filesystem: disk.stored.as_ref().and_then(|stored| Some(stored.used.as_ref()?.bytes.0)),
        };
        Self {
            point: point.id.number.0,
            at: point.created.0,
            disks: point.disks.iter().map(disk).collect(),
            bytes: usage.sessions.get(&point.session).copied().unwrap_or(0),
        }
    }
}

/// A VM as the ledger knows it: one line of points.
#[derive(Clone, Debug)]
pub struct Metered {
    /// The VM.
    pub vm: VmName,
    /// What happened, in order, as far as its bill is concerned.
    pub events: Vec<Event>,
    last: Option<Level>,
}

/// What the last reading left.
#[derive(Clone, Debug)]
struct Level {
    point: u64,
    bytes: u64,
    state: Option<StateNote>,
    is_protected: bool,
    /// Since when bytes are in the vault.
    since: Timestamp,
    /// When they were soft-deleted, and until when they stay.
    deleted: Option<(Timestamp, Timestamp)>,
}

/// What a bill rests on, as the notes of a vault say.
#[derive(Debug)]
pub struct Ledger<'v> {
    vault: &'v Vault,
    metered: BTreeMap<LineageId, Metered>,
}

impl<'v> Ledger<'v> {
    /// Replays the readings in `vault`: one read for each note.
    ///
    /// # Errors
    /// [`ProtectError::Note`] for a reading that this version does not understand: a bill without it would be wrong.
    pub fn open(vault: &'v Vault) -> Result<Self, ProtectError> {
        let notes = vault.notes()?;
        let readings = notes.iter().filter(|note| note.topic == TOPIC);
        let metered = replay(readings.map(|note| (note.number, note.at, &*note.body)))?;
        Ok(Self { vault, metered })
    }

    /// Every VM that was read, by its line of points.
    pub fn metered(&self) -> impl Iterator<Item = (&LineageId, &Metered)> {
        self.metered.iter()
    }

    /// The events of a line of points; none when it was never read.
    pub fn events(&self, lineage: &LineageId) -> &[Event] {
        self.metered.get(lineage).map_or(&[], |metered| &metered.events)
    }

    /// Takes a reading of `vm` and notes it when anything is new. `state` is where its protection stands, if it is under a policy.
    /// Returns whether anything was noted. One listing of the store.
    ///
    /// # Errors
    /// When a point cannot be read: it would be left out of the bill.
    pub fn read<O: Op>(
        &mut self,
        permit: &Permit<O>,
        vm: &VmName,
        state: Option<State>,
    ) -> Result<bool, ProtectError> {
        let usage = self.vault.usage()?;
        let readings = self.readings(&usage, vm, state)?;
        let noted = !readings.is_empty();
        readings.into_iter().try_for_each(|reading| self.note(permit, reading))?;
        Ok(noted)
    }

    /// Takes a reading of some VMs and notes nothing: the events are those that a reading now would make. One listing of the store,
    /// and one more for the points of each VM.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn look<'a>(
        &mut self,
        vms: impl IntoIterator<Item = (&'a VmName, Option<State>)>,
    ) -> Result<VaultUsage, ProtectError> {
        let (usage, at) = (self.vault.usage()?, self.vault.clock().now());
        for (vm, state) in vms {
            for reading in self.readings(&usage, vm, state)? {
                take(&mut self.metered, at, &reading).map_err(|why| ProtectError::Note { number: 0, why })?;
            }
        }
        Ok(usage)
    }

    /// What is new of `vm`.
    fn readings(
        &self,
        usage: &VaultUsage,
        vm: &VmName,
        state: Option<State>,
    ) -> Result<Vec<Reading>, ProtectError> {
        let points = match self.vault.points(vm) {
            Err(VaultError::NoSuchVm(_)) => Vec::new(),
            points => points?,
        };
        let mut readings = Vec::new();
        for lineage in usage.lineages.iter().filter(|lineage| lineage.vm.as_ref() == Some(vm)) {
            let last = self.metered.get(&lineage.id).and_then(|metered| metered.last.clone());
            let seen = last.as_ref().map_or(0, |last| last.point);
            let is_newest = points.last().is_none_or(|point| point.id.lineage == lineage.id);
            let new = points.iter().filter(|point| is_newest && point.id.number.0 > seen);
            // An older line of points of a VM stays as it was, and no backups of it are to be expected.
            let state =
                if is_newest { state.and_then(StateNote::of) } else { last.as_ref().and_then(|l| l.state) };
            let backups_follow = match state {
                None => !points.is_empty(),
                Some(state) => matches!(state, StateNote::Protected | StateNote::VmGone { .. }),
            };
            let reading = Reading {
                vm: vm.to_string(),
                lineage: lineage.id.to_string(),
                backups: new.map(|point| Backup::new(point, lineage)).collect(),
                bytes: lineage.data + lineage.metadata,
                protected: is_newest && backups_follow,
                state,
            };
            let is_new = match &last {
                None => !reading.backups.is_empty(),
                Some(last) => {
                    let now = (reading.bytes, reading.state, reading.protected);
                    !reading.backups.is_empty() || (last.bytes, last.state, last.is_protected) != now
                }
            };
            if is_new {
                readings.push(reading);
            }
        }
        Ok(readings)
    }

    fn note<O: Op>(&mut self, permit: &Permit<O>, reading: Reading) -> Result<(), ProtectError> {
        let document = Document { version: VERSION, reading };
        let broken = |why: String| ProtectError::Note { number: 0, why };
        let body = serde_json::to_vec(&document).map_err(|e| broken(e.to_string()))?;
        let at = self.vault.clock().now();
        self.vault.note(permit, TOPIC, &body)?;
        take(&mut self.metered, at, &document.reading).map_err(broken)
    }
}

/// What readings say: number, time and body of each note.
pub(crate) fn replay<'n>(
    notes: impl Iterator<Item = (u64, Timestamp, &'n [u8])>,
) -> Result<BTreeMap<LineageId, Metered>, ProtectError> {
    let mut metered = BTreeMap::new();
    for (number, at, body) in notes {
        let unreadable = |why: String| ProtectError::Note { number, why };
        let document: Document = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
        if document.version != VERSION {
            return Err(unreadable(format!("version {} of a reading", document.version)));
        }
        take(&mut metered, at, &document.reading).map_err(unreadable)?;
    }
    Ok(metered)
}

fn take(all: &mut BTreeMap<LineageId, Metered>, at: Timestamp, reading: &Reading) -> Result<(), String> {
    let vm: VmName = reading.vm.parse().map_err(|e: vmkeep_model::NameError| e.to_string())?;
    let lineage: LineageId =
        reading.lineage.parse().map_err(|_| format!("{:?} is no line of points", reading.lineage))?;
    let new = || Metered { vm: vm.clone(), events: Vec::new(), last: None };
    let metered = all.entry(lineage).or_insert_with(new);
    metered.vm.clone_from(&vm);
    metered.take(lineage, at, reading)
}

impl Metered {
    fn push(&mut self, instance: LineageId, at: Timestamp, kind: EventKind) {
        let number = self.events.len() as u64;
        // A clock that went back counts as having stood still.
        let at = self.events.last().map_or(at, |last| last.at.max(at));
        self.events.push(Event { instance, number, at, kind });
    }

    fn take(&mut self, id: LineageId, at: Timestamp, reading: &Reading) -> Result<(), String> {
        let none =
            || Level { point: 0, bytes: 0, state: None, is_protected: false, since: at, deleted: None };
        let mut level = self.last.take().unwrap_or_else(none);
        let tier = Tier::Vault;
        let until = match reading.state {
            Some(StateNote::SoftDeleted { since, until }) => Some((Timestamp(since), Timestamp(until))),
            _ => None,
        };
        let purged = matches!(reading.state, Some(StateNote::Purged { .. }));
        let deleted_anew = until.is_some() && reading.state != level.state;
        if (deleted_anew || (until.is_none() && !purged))
            && let Some((deleted_at, purge_at)) = level.deleted.take()
        {
            let back = until.map_or(at, |(since, _)| since.min(at));
            self.push(id, back, EventKind::Undeleted { tier, bytes: level.bytes, deleted_at, purge_at });
        }
        if reading.protected && !level.is_protected || !reading.protected && self.events.is_empty() {
            // It was configured before its first backup, which may be noted later.
            let first = reading.backups.first().map_or(at, |backup| Timestamp(backup.at).min(at));
            self.push(id, first, EventKind::Protected);
            level.is_protected = true;
        }
        for backup in &reading.backups {
            if backup.point <= level.point {
                return Err(format!("point {} after point {}", backup.point, level.point));
            }
            level.point = backup.point;
            let made = Timestamp(backup.at).min(at);
            self.push(id, made, backup.event());
            // What went before it was ever read is not known of; what is there was written for the point.
            let bytes = backup.bytes.min(reading.bytes.saturating_sub(level.bytes));
            if bytes > 0 && level.deleted.is_none() {
                level.since = if level.bytes == 0 { made } else { level.since };
                level.bytes += bytes;
                self.push(id, made, EventKind::Stored { tier, bytes });
            }
        }
        if !reading.protected && level.is_protected {
            let since = reading.state.and_then(StateNote::since).map_or(at, |since| since.min(at));
            self.push(id, since, EventKind::Stopped);
        }
        if let (true, Some((since, until))) = (deleted_anew, until) {
            // Events follow one another: the deletion counts from when the one before does.
            let since = self.events.last().map_or(since.min(at), |event| since.min(at).max(event.at));
            let purge_at = until.max(since);
            self.push(id, since, EventKind::SoftDeleted { tier, bytes: level.bytes, purge_at });
            level.deleted = self.events.last().map(|event| (event.at, purge_at));
        }
        self.settle(id, at, &mut level, reading.bytes);
        (level.state, level.is_protected) = (reading.state, reading.protected);
        self.last = Some(level);
        Ok(())
    }

    /// Bytes that came or went and are of no new point.
    fn settle(&mut self, id: LineageId, at: Timestamp, level: &mut Level, now: u64) {
        let (had, since, tier) = (level.bytes, level.since, Tier::Vault);
        match level.deleted {
            None if now > had => {
                level.since = if had == 0 { at } else { since };
                self.push(id, at, EventKind::Stored { tier, bytes: now - had });
            }
            None if now < had => self.push(id, at, EventKind::Removed { tier, bytes: had - now, since }),
            Some((deleted_at, purge_at)) if now < had => {
                self.push(id, at, EventKind::Purged { tier, bytes: had - now, since, deleted_at, purge_at });
            }
            _ => {}
        }
        // Marks that come to a VM that is deleted count when it comes back.
        level.bytes = if level.deleted.is_some() { now.min(had) } else { now };
    }
}

impl Backup {
    fn event(&self) -> EventKind {
        let disk = |disk: &Disk| DiskSize {
            role: disk.role.into(),
            selection: Selection::Included,
            nonzero_bytes: disk.nonzero,
            filesystem_bytes: disk.filesystem,
        };
        EventKind::Backup { disks: self.disks.iter().map(disk).collect(), agent: Agent::Used }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is stored today, and must be read for ever.
    const STORED: &str = concat!(
        r#"{"version":1,"reading":{"vm":"web-01","lineage":"07070707070707070707070707070707","backups":["#,
        r#"{"point":3,"at":1767225600000,"disks":[{"role":"os","nonzero":65536},{"role":"temporary","nonzero":null}],"bytes":700}],"#,
        r#""bytes":4096,"protected":false,"state":{"is":"soft-deleted","since":1,"until":2}}}"#
    );

    #[test]
    fn readings_are_stored_as_ever() {
        let disk = |role, nonzero| Disk { role, nonzero, filesystem: None };
        let disks = vec![disk(Role::Os, Some(65_536)), disk(Role::Temporary, None)];
        let reading = Reading {
            vm: "web-01".to_owned(),
            lineage: LineageId([7; 16]).to_string(),
            backups: vec![Backup { point: 3, at: 1_767_225_600_000, disks, bytes: 700 }],
            bytes: 4096,
            protected: false,
            state: Some(StateNote::SoftDeleted { since: 1, until: 2 }),
        };
        let document = Document { version: VERSION, reading };
        assert_eq!(serde_json::to_string(&document).unwrap(), STORED);
        let read: Document = serde_json::from_str(STORED).unwrap();
        assert_eq!(read.reading, document.reading);
        for wrong in
            [STORED.replacen("\"protected\"", "\"protekted\"", 1), STORED.replacen("\"bytes\":4096,", "", 1)]
        {
            assert!(serde_json::from_str::<Document>(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_readings_cannot_say_is_refused() {
        let replayed = |body: &str| replay(std::iter::once((9, Timestamp(5), body.as_bytes())));
        assert!(replayed(STORED).is_ok());
        for (was, becomes) in [
            ("\"version\":1", "\"version\":2"),
            ("web-01", "a/b"),
            ("07070707", "xyz"),
            ("\"point\":3", "\"point\":0"),
        ] {
            let told = replayed(&STORED.replacen(was, becomes, 1));
            assert!(matches!(told, Err(ProtectError::Note { number: 9, .. })), "{becomes}: {told:?}");
        }
    }
}
