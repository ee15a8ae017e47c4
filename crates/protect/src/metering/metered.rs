//! What readings come to: where each line of points stands, and the events that each reading makes.

use std::collections::BTreeMap;

use vmkeep_billing::{Event, EventKind, Tier};
use vmkeep_model::{LineageId, Timestamp, VmName};

use super::document::{Entry, Reading, Restored};
use crate::ProtectError;
use crate::note::StateNote;

/// A VM as the ledger knows it: one line of points.
#[derive(Clone, Debug)]
pub struct Metered {
    /// The VM.
    pub vm: VmName,
    /// How many events there are so far.
    pub events: u64,
    /// When the last of them was.
    last_event: Option<Timestamp>,
    /// What the last reading left.
    pub(super) last: Option<Level>,
    /// Events of the note that is being taken.
    made: Vec<Event>,
}

/// What the last reading left.
#[derive(Clone, Debug)]
pub(super) struct Level {
    pub(super) point: u64,
    pub(super) bytes: u64,
    pub(super) state: Option<StateNote>,
    pub(super) is_protected: bool,
    /// Since when bytes are in the vault.
    pub(super) since: Timestamp,
    /// When they were soft-deleted, and until when they stay.
    pub(super) deleted: Option<(Timestamp, Timestamp)>,
}
/// Where every line of points stands after the notes so far. Memory holds no event that was handed on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standings(pub(super) BTreeMap<LineageId, Metered>);

impl Standings {
    /// Takes what a note says, and gives the events it makes, in order. An error says what cannot be.
    pub(super) fn take(&mut self, at: Timestamp, entry: &Entry) -> Result<Vec<Event>, String> {
        let lineage = match entry {
            Entry::Reading(Reading { lineage, .. }) | Entry::Restored(Restored { lineage, .. }) => lineage,
        };
        let id: LineageId = lineage.parse().map_err(|_| format!("{lineage:?} is no line of points"))?;
        let vm: VmName = entry.vm().parse().map_err(|e: vmkeep_model::NameError| e.to_string())?;
        match entry {
            Entry::Reading(reading) => {
                let metered = self.0.entry(id).or_insert_with(|| Metered::new(vm.clone()));
                metered.vm = vm;
                metered.take(id, at, reading)?;
                Ok(std::mem::take(&mut metered.made))
            }
            Entry::Restored(restored) => {
                // Before the first reading nothing is billed, and what is restored costs nothing.
                let Some(metered) = self.0.get_mut(&id) else { return Ok(Vec::new()) };
                metered.push(id, at, EventKind::Restored { bytes: restored.bytes });
                Ok(std::mem::take(&mut metered.made))
            }
        }
    }

    /// Takes a note as it is stored.
    pub(crate) fn take_note(
        &mut self,
        number: u64,
        at: Timestamp,
        body: &[u8],
    ) -> Result<Vec<Event>, ProtectError> {
        let taken = Entry::decode(body).and_then(|entry| self.take(at, &entry));
        taken.map_err(|why| ProtectError::Note { number, why })
    }
}

impl Metered {
    fn new(vm: VmName) -> Self {
        Self { vm, events: 0, last_event: None, last: None, made: Vec::new() }
    }

    fn push(&mut self, instance: LineageId, at: Timestamp, kind: EventKind) {
        // A clock that went back counts as having stood still.
        let at = self.last_event.map_or(at, |last| last.max(at));
        self.made.push(Event { instance, number: self.events, at, kind });
        (self.events, self.last_event) = (self.events + 1, Some(at));
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
        if reading.protected && !level.is_protected || !reading.protected && self.events == 0 {
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
            let since = self.last_event.map_or(since.min(at), |last| since.min(at).max(last));
            let purge_at = until.max(since);
            self.push(id, since, EventKind::SoftDeleted { tier, bytes: level.bytes, purge_at });
            level.deleted = self.last_event.map(|last| (last, purge_at));
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
