//! Looking for damage a part at a time: packs by themselves, several at once.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use vmkeep_model::{CancelToken, Cancelled, Permit, op};
use vmkeep_vault::{
    Budget, Checked, Coverage, PackDamage, PackDepth, PackToCheck, Rolling, Tally, Vault, VaultError,
};

use crate::{Event, Observer, RestoreError, Settings};

/// About what a pack takes in memory while it is checked: some slots, what they unpack to, and a footer.
const PACK_MEMORY: usize = 16 << 20;

/// How much a rolling run reads, and how deep it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollingSettings {
    /// How much of the vault.
    pub budget: Budget,
    /// How deep.
    pub depth: PackDepth,
    /// Threads and memory.
    pub walk: Settings,
}

/// What a rolling run did.
#[derive(Clone, Debug)]
pub struct RollingReport {
    /// What it checked.
    pub checked: Checked,
    /// All packs of the vault when it began.
    pub total: Tally,
    /// How far the vault is verified now.
    pub coverage: Coverage,
}

impl RollingReport {
    /// Whether this run found nothing wrong.
    pub fn is_clean(&self) -> bool {
        self.checked.damaged == 0
    }
}

/// Checks the packs that were unchecked for the longest, as many as the budget allows, and remembers it in the journal of the
/// vault; [`Rolling`] says what is kept of what is stated. Damage is told to the observer as it is found.
///
/// A run that is cancelled or fails is not remembered: the next one takes the same packs. Memory does not grow with the vault.
pub fn verify_rolling(
    permit: &Permit<op::Verify>,
    vault: &Vault,
    settings: &RollingSettings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<RollingReport, RestoreError> {
    let rolling = vault.rolling(permit, settings.budget, settings.depth, cancel).map_err(failed)?;
    let total = rolling.total();
    observer.event(Event::RollingBegan { total });
    let run = Run {
        rolling: &rolling,
        observer,
        cancel,
        checked: Mutex::new(rolling.nothing_yet()),
        failure: Mutex::default(),
    };
    let workers = settings.walk.workers.min(settings.walk.memory_bytes / PACK_MEMORY);
    let given =
        if workers <= 1 { run.give(&mut |pack| run.check_or_stop(&pack)) } else { run.on_threads(workers) };
    let Run { checked, failure, .. } = run;
    if let Some(failure) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(failed(failure));
    }
    given.map_err(failed)?;
    // Whoever asked to stop does not want it to count.
    cancel.check()?;
    let checked = checked.into_inner().unwrap_or_else(PoisonError::into_inner);
    let coverage = rolling.finish(checked).map_err(failed)?;
    Ok(RollingReport { checked: coverage.last.clone(), total, coverage })
}

fn failed(error: VaultError) -> RestoreError {
    if error.is_cancelled() { Cancelled.into() } else { RestoreError::Open(error) }
}

struct Run<'a> {
    rolling: &'a Rolling,
    observer: &'a dyn Observer,
    cancel: &'a CancelToken,
    checked: Mutex<Checked>,
    failure: Mutex<Option<VaultError>>,
}

impl Run<'_> {
    fn give(&self, give: &mut dyn FnMut(PackToCheck) -> Result<(), VaultError>) -> Result<(), VaultError> {
        // A VM that cannot be opened is one damaged object.
        self.rolling.each_pack(self.cancel, &mut |damage| self.found(&damage, true), give)
    }

    /// Lists on this thread and checks on others. A failure is kept and stops the listing.
    fn on_threads(&self, workers: usize) -> Result<(), VaultError> {
        let (sender, receiver) = sync_channel(workers);
        // Shared by the workers alone: when they are gone, sending fails and does not wait.
        let receiver = Arc::new(Mutex::new(receiver));
        thread::scope(|scope| {
            for _ in 0..workers {
                let receiver = Arc::clone(&receiver);
                scope.spawn(move || {
                    while let Some(pack) = next(&receiver) {
                        if self.check_or_stop(&pack).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(receiver);
            // The workers end when the sender is dropped with this closure.
            let sender = sender;
            self.give(&mut |pack| sender.send(pack).map_err(|_| Cancelled.into()))
        })
    }

    fn check_or_stop(&self, pack: &PackToCheck) -> Result<(), VaultError> {
        self.check(pack).map_err(|error| {
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            Cancelled.into()
        })
    }

    fn check(&self, pack: &PackToCheck) -> Result<(), VaultError> {
        let mut is_first = true;
        let size = self.rolling.check(pack, self.cancel, &mut |damage| {
            self.found(&damage, std::mem::take(&mut is_first));
        })?;
        let Some(bytes) = size else { return Ok(()) };
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.objects += 1;
        checked.bytes = checked.bytes.saturating_add(bytes);
        drop(checked);
        self.observer.event(Event::PackChecked { bytes });
        Ok(())
    }

    fn found(&self, damage: &PackDamage, is_first: bool) {
        if is_first {
            let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            checked.add_damaged(&damage.damage.object);
        }
        self.observer.event(Event::Damaged(damage));
    }
}

fn next(receiver: &Mutex<Receiver<PackToCheck>>) -> Option<PackToCheck> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
