//! What a user does to a point after it is made: forget it, have it back, hold it; pin it while reading; and close a
//! VM's protection.

use std::fmt;
use std::sync::Arc;

use vmkeep_model::{
    LineageId, Permit, PointNumber, PointRef, PointSelector, Principal, RecoveryPoint, SessionId, Timestamp,
    VmName, op,
};

use crate::drive::{Driver, NoData};
use crate::error::VaultError;
use crate::format::{ClosedBody, FormatError, HELD, MarkBody, PIN_REASON_MAX, PinBody};
use crate::journal::{self, JournalEntry};
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::permits::Reading;
use crate::point::OpenPoint;
use crate::protocol::{Change, MarkOutcome, PinOutcome, PinPoint, Record, SetMark, TakeNumber, Taken};
use crate::records::{self, random_id};
use crate::vault::{Inner, Vault};

/// How often closing starts over because a backup took the number first.
const CLOSE_TRIES: u32 = 16;

/// A pin on a point, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinInfo {
    /// Its id.
    pub id: SessionId,
    /// The point.
    pub number: PointNumber,
    /// When it was set, by the clock of the host that reads.
    pub at: Timestamp,
    /// What for, as the reader said.
    pub why: String,
}

/// Keeps a point from being swept while it is read. Dropped, it is taken away; a reader that dies leaves it, and
/// [`Vault::break_pin`] removes it on purpose.
pub struct Pin {
    vault: Arc<Inner>,
    lineage: LineageId,
    number: PointNumber,
    id: [u8; 16],
    held: bool,
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({})", self.name())
    }
}

impl Pin {
    fn name(&self) -> ObjectName {
        ObjectName::Pin(self.lineage, self.number, self.id)
    }

    /// Its id.
    pub fn id(&self) -> SessionId {
        SessionId(self.id)
    }

    /// Whether it is still there; false when somebody broke it.
    pub fn holds(&self) -> Result<bool, VaultError> {
        self.vault.objects.exists(&self.name())
    }

    /// Takes it away, and tells when that fails.
    pub fn release(mut self) -> Result<(), VaultError> {
        self.held = false;
        self.vault.objects.delete(&self.name())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.held {
            // A pin that stays is shown by every sweep, which names it.
            self.vault.objects.delete(&self.name()).ok();
        }
    }
}

impl OpenPoint {
    /// Pins the point: no sweep takes it until the pin is gone, even when it is forgotten meanwhile.
    ///
    /// `why` is shown to whoever wonders what keeps the point: at most 256 bytes. Fails with
    /// [`VaultError::PointTaken`] when a sweep was first.
    pub fn pin(&self, permit: &impl Reading, why: &str) -> Result<Pin, VaultError> {
        permit.check_reading(&self.point.vm)?;
        let (vault, lineage, number) = (&self.vault, self.lineage.id, self.point.id.number);
        let id = random_id(&*vault.ports.entropy)?;
        let body = PinBody {
            lineage: lineage.0,
            number: number.0,
            id,
            at: vault.ports.clock.now().0,
            why: why.chars().take(PIN_REASON_MAX / 4).collect(),
        };
        let mut pin = PinPoint::new(body, 0, vault.rules);
        let mut data = NoData;
        match Driver::new(vault, None, &mut data).finish(|reply| pin.step(reply))? {
            PinOutcome::Pinned => Ok(Pin { vault: Arc::clone(vault), lineage, number, id, held: true }),
            PinOutcome::Gone => Err(VaultError::PointTaken { point: self.reference() }),
        }
    }

    /// What it means that something of the point is missing: [`VaultError::PinBroken`] or [`VaultError::PointSwept`]
    /// when a sweep took the point meanwhile, else the error as it is.
    pub fn explain(&self, error: VaultError, pin: Option<&Pin>) -> VaultError {
        if !error.is_damage() {
            return error;
        }
        match (self.swept(), pin) {
            (Some(_), Some(_)) => VaultError::PinBroken { point: self.reference() },
            (Some(swept), None) => swept,
            (None, _) => error,
        }
    }

    /// [`VaultError::PointSwept`] when a sweep took the point since it was opened.
    pub fn swept(&self) -> Option<VaultError> {
        self.lineage.swept(&self.vault, self.point.id.number.0)
    }
}

impl Vault {
    /// Forgets a point: it no longer counts for `latest`, and the sweep may take it.
    ///
    /// Instant. Its data stays, the point can be restored by its number, and [`undelete`](Self::undelete) takes it
    /// back, until a sweep takes it. Forgetting twice is no error.
    pub fn forget(&self, permit: &Permit<op::Forget>, point: &PointRef) -> Result<RecoveryPoint, VaultError> {
        permit.check(&point.vm)?;
        self.mark(permit.who(), point, Change::Forget, |number| JournalEntry::Forgotten { number })
    }

    /// Takes back that a point was forgotten. Fails with [`VaultError::PointTaken`] when a sweep was first.
    pub fn undelete(
        &self,
        permit: &Permit<op::Undelete>,
        point: &PointRef,
    ) -> Result<RecoveryPoint, VaultError> {
        permit.check(&point.vm)?;
        self.mark(permit.who(), point, Change::Undelete, |number| JournalEntry::Undeleted { number })
    }

    /// Holds a point: while it is held no sweep takes it, forgotten or not.
    pub fn hold(&self, permit: &Permit<op::Hold>, point: &PointRef) -> Result<RecoveryPoint, VaultError> {
        permit.check(&point.vm)?;
        self.mark(permit.who(), point, Change::Hold, |number| JournalEntry::Held { number })
    }

    /// Releases a hold.
    pub fn release(
        &self,
        permit: &Permit<op::Release>,
        point: &PointRef,
    ) -> Result<RecoveryPoint, VaultError> {
        permit.check(&point.vm)?;
        self.mark(permit.who(), point, Change::Release, |number| JournalEntry::Released { number })
    }

    fn mark(
        &self,
        by: &Principal,
        point: &PointRef,
        change: Change,
        entry: impl FnOnce(u64) -> JournalEntry,
    ) -> Result<RecoveryPoint, VaultError> {
        let vault = &self.inner;
        let mut open = self.point(point)?;
        let (lineage, number) = (open.lineage.id, open.point.id.number);
        let mark = MarkBody {
            lineage: lineage.0,
            number: number.0,
            g: 0,
            state: 0,
            at: vault.ports.clock.now().0,
            by: [0; 16],
            nonce: random_id(&*vault.ports.entropy)?,
        };
        let mut set = SetMark::new(mark, change, 0, vault.rules);
        let mut data = NoData;
        match Driver::new(vault, None, &mut data).finish(|reply| set.step(reply))? {
            MarkOutcome::Set => journal::append(vault, lineage.0, by, &entry(number.0))?,
            MarkOutcome::Was => {}
            MarkOutcome::Taken if change == Change::Forget => {}
            MarkOutcome::Taken => return Err(VaultError::PointTaken { point: open.reference() }),
            MarkOutcome::Retired => {
                return Err(VaultError::NoSuchPoint { point: open.reference(), why: "it was removed" });
            }
        }
        open.point.forgotten = match change {
            Change::Forget => true,
            Change::Undelete => false,
            Change::Hold | Change::Release => open.point.forgotten,
        };
        Ok(open.point)
    }

    /// Whether a point is held.
    pub fn is_held(&self, point: &OpenPoint) -> Result<bool, VaultError> {
        point.lineage.mark(&self.inner, point.point.id.number.0).map(|state| state & HELD != 0)
    }

    /// The points of `vm` that are held, oldest first. One listing, whatever their number.
    pub fn held(&self, vm: &VmName) -> Result<Vec<PointNumber>, VaultError> {
        let lineage = self.inner.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let marks = lineage.marks(&self.inner)?;
        Ok(marks.iter().filter(|(_, state)| **state & HELD != 0).map(|(n, _)| PointNumber(*n)).collect())
    }

    /// The point of `vm` that stays even when it is forgotten, because the next backup builds on it: the newest.
    /// `None` when there is none, or the VM is closed.
    pub fn newest(&self, vm: &VmName) -> Result<Option<PointNumber>, VaultError> {
        let lineage = self.inner.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let head = lineage.head(&self.inner)?;
        Ok(head.newest.filter(|_| !head.closed).map(|point| PointNumber(point.head.number)))
    }

    /// The pins on points of `vm`, oldest point first.
    pub fn pins(&self, vm: &VmName) -> Result<Vec<PinInfo>, VaultError> {
        let lineage = self.inner.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let mut pins = Vec::new();
        for (path, _) in self.inner.objects.list(&format!("pins/{}", lineage.id))? {
            let Some(name @ ObjectName::Pin(_, number, id)) = ObjectName::parse(&path) else { continue };
            let Some(bytes) = self.inner.objects.read(&name)? else { continue };
            let body: PinBody = records::open(&name, &bytes, &self.inner.record)?;
            pins.push(PinInfo { id: SessionId(id), number, at: Timestamp(body.at), why: body.why });
        }
        pins.sort_by_key(|pin| (pin.number, pin.id));
        Ok(pins)
    }

    /// Breaks a pin: whoever set it may find the point gone, and is told so. Returns false when there was none.
    pub fn break_pin(
        &self,
        permit: &Permit<op::BreakPin>,
        point: &PointRef,
        pin: SessionId,
    ) -> Result<bool, VaultError> {
        permit.check(&point.vm)?;
        let open = self.point(point)?;
        let number = open.point.id.number;
        let name = ObjectName::Pin(open.lineage.id, number, pin.0);
        if !self.inner.objects.exists(&name)? {
            return Ok(false);
        }
        let entry = JournalEntry::PinBroken { number: number.0, pin };
        journal::append(&self.inner, open.lineage.id.0, permit.who(), &entry)?;
        self.inner.objects.delete(&name)?;
        Ok(true)
    }

    /// Closes the protection of `vm`: no backup goes into this lineage any more, and its newest point can be swept
    /// like any other once it is forgotten. The VM protected again begins a lineage of its own.
    ///
    /// A backup that runs loses. What is not forgotten stays. Returns false when it was closed already.
    pub fn close(&self, permit: &Permit<op::Close>, vm: &VmName) -> Result<bool, VaultError> {
        permit.check(vm)?;
        let lineage = self.inner.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        self.inner.close_lineage(&lineage, permit.who())
    }
}

impl Inner {
    /// Closes a lineage; false when it was closed already.
    pub(crate) fn close_lineage(&self, lineage: &Lineage, by: &Principal) -> Result<bool, VaultError> {
        for _ in 0..CLOSE_TRIES {
            let head = lineage.head(self)?;
            if head.closed {
                return Ok(false);
            }
            let number = head.top + 1;
            let body = ClosedBody { lineage: lineage.id.0, number, at: self.ports.clock.now().0 };
            let k = head.retired.as_ref().map_or(0, |retired| retired.k);
            let mut take = TakeNumber::new(lineage.id, number, Record::Closed(body), k, self.rules);
            let mut data = NoData;
            let taken = Driver::new(self, Some(lineage), &mut data).finish(|reply| take.step(reply))?;
            if taken == Taken::Ours {
                journal::append(self, lineage.id.0, by, &JournalEntry::Closed { number })?;
                return Ok(true);
            }
        }
        let what = FormatError("backups took every number that closing wanted".to_owned());
        Err(VaultError::malformed(format!("points/{}", lineage.id), what))
    }
}

impl Lineage {
    /// The error that says so when a point was removed.
    pub(crate) fn swept(&self, vault: &Inner, number: u64) -> Option<VaultError> {
        // When that cannot be read nothing is known.
        let retired = self.retired(vault).ok().flatten()?;
        retired.holds(number).then(|| VaultError::PointSwept { point: self.reference(number) })
    }

    /// A point of it as a person writes it.
    pub(crate) fn reference(&self, number: u64) -> PointRef {
        PointRef { vm: self.vm.clone(), selector: PointSelector::Number(PointNumber(number)) }
    }
}
