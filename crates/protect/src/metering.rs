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

mod document;
mod metered;

use vmkeep_billing::Event;
use vmkeep_model::{LineageId, Op, Permit, RecoveryPoint, Timestamp, VmName};
use vmkeep_retention::State;
use vmkeep_vault::{Vault, VaultError, VaultUsage};

use self::document::{Backup, Entry, Reading, Restored};
pub use self::metered::Metered;
pub(crate) use self::metered::Standings;
use crate::ProtectError;
use crate::note::StateNote;

/// The topic of the notes that are written here.
pub(crate) const TOPIC: &str = "metering";

/// What a bill rests on, as the notes of a vault say.
///
/// It holds where each line of points stands, and no events: [`replay`](Self::replay) makes them again from the notes, one by one, so
/// that memory does not grow with their number.
#[derive(Debug)]
pub struct Ledger<'v> {
    vault: &'v Vault,
    standings: Standings,
    /// The last note that was there when it was opened.
    until: u64,
    /// What came since by this ledger: noted, or only looked at.
    since: Vec<(Timestamp, Entry)>,
}

impl<'v> Ledger<'v> {
    /// Replays the readings in `vault`: one read for each note.
    ///
    /// # Errors
    /// [`ProtectError::Note`] for a note that this version does not understand: a bill without it would be wrong.
    pub fn open(vault: &'v Vault) -> Result<Self, ProtectError> {
        Self::open_with(vault, &mut |_, _| Ok(()))
    }

    /// The same, and hands on each event with its VM, as [`replay`](Self::replay) does, without reading the notes twice.
    ///
    /// # Errors
    /// As [`Self::open`], and what `visit` returns.
    pub fn open_with(
        vault: &'v Vault,
        visit: &mut dyn FnMut(&Metered, &Event) -> Result<(), ProtectError>,
    ) -> Result<Self, ProtectError> {
        let mut ledger = Self { vault, standings: Standings::default(), until: 0, since: Vec::new() };
        (ledger.standings, ledger.until) = replayed(vault, u64::MAX, visit)?;
        Ok(ledger)
    }

    /// Every VM that was read, by its line of points.
    pub fn metered(&self) -> impl Iterator<Item = (&LineageId, &Metered)> {
        self.standings.0.iter()
    }

    /// Hands on every event, with what is known of its line of points by then: those of one line in order, those of different lines
    /// in the order of their readings. Reads the notes again, one by one.
    ///
    /// # Errors
    /// As [`Self::open`], and what `visit` returns.
    pub fn replay(
        &self,
        visit: &mut dyn FnMut(&Metered, &Event) -> Result<(), ProtectError>,
    ) -> Result<(), ProtectError> {
        let (mut standings, _) = replayed(self.vault, self.until, visit)?;
        for (at, entry) in &self.since {
            let events = standings.take(*at, entry).map_err(|why| ProtectError::Note { number: 0, why })?;
            hand_on(&standings, &events, visit)?;
        }
        Ok(())
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
        for reading in readings {
            let (at, entry) = (self.vault.clock().now(), Entry::Reading(reading));
            note(self.vault, permit, &entry)?;
            self.take(at, entry)?;
        }
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
                self.take(at, Entry::Reading(reading))?;
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
            let last = self.standings.0.get(&lineage.id).and_then(|metered| metered.last.clone());
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

    fn take(&mut self, at: Timestamp, entry: Entry) -> Result<(), ProtectError> {
        let taken = self.standings.take(at, &entry);
        self.since.push((at, entry));
        taken.map(drop).map_err(|why| ProtectError::Note { number: 0, why })
    }
}

/// Notes that `bytes` of `point` were restored: it costs nothing, and is on record for the bill and for `log`.
///
/// # Errors
/// When the vault cannot be written. What was restored is restored all the same.
pub fn note_restore<O: Op>(
    vault: &Vault,
    permit: &Permit<O>,
    point: &RecoveryPoint,
    bytes: u64,
) -> Result<(), ProtectError> {
    let (vm, lineage) = (point.vm.to_string(), point.id.lineage.to_string());
    note(vault, permit, &Entry::Restored(Restored { vm, lineage, point: point.id.number.0, bytes }))
}

/// What a note of the ledger says to a person: its kind, its VM and its words.
pub(crate) fn words(body: &[u8]) -> Option<(&'static str, String, String)> {
    let entry = Entry::decode(body).ok()?;
    let (kind, what) = entry.words();
    Some((kind, entry.vm().to_owned(), what))
}

fn note<O: Op>(vault: &Vault, permit: &Permit<O>, entry: &Entry) -> Result<(), ProtectError> {
    let body = entry.encode().map_err(|why| ProtectError::Note { number: 0, why })?;
    Ok(vault.note(permit, TOPIC, &body)?)
}

/// Takes the notes up to `until`; the number of the last one.
fn replayed(
    vault: &Vault,
    until: u64,
    visit: &mut dyn FnMut(&Metered, &Event) -> Result<(), ProtectError>,
) -> Result<(Standings, u64), ProtectError> {
    let (mut standings, mut last) = (Standings::default(), 0);
    for note in vault.notes() {
        let note = note?;
        if note.number > until {
            break;
        }
        last = note.number;
        if note.topic == TOPIC {
            let events = standings.take_note(note.number, note.at, &note.body)?;
            hand_on(&standings, &events, visit)?;
        }
    }
    Ok((standings, last))
}

fn hand_on(
    standings: &Standings,
    events: &[Event],
    visit: &mut dyn FnMut(&Metered, &Event) -> Result<(), ProtectError>,
) -> Result<(), ProtectError> {
    events.iter().try_for_each(|event| match standings.0.get(&event.instance) {
        Some(metered) => visit(metered, event),
        None => Ok(()),
    })
}
