//! The life of a protected VM: stopped, deleted, had back, purged; each step as the state machine of retention allows it.
//!
//! ```text
//! protect ─► protected ─ stop ─► stopped ─ resume ─► protected
//!                └─ delete ─┬─────┘
//!                           ▼
//!                     soft-deleted ─ undelete ─► stopped, its points retained
//!                           └─ its time is over, or purge ─► purged ─ settle ─► points forgotten, line closed
//! ```
//!
//! A step is a note, and changes no point. [`Protection::settle`] does what a state calls for, as often as it is called: so whoever is
//! stopped between the two finds the rest to do.

use std::collections::BTreeMap;

use vmkeep_model::{Op, Permit, PointNumber, PointRef, PointSelector, VmName, op};
use vmkeep_retention::{
    Blocked, Change, Confirmation, Context, Decision, Effect, Event, Irreversible, LifecycleError, State,
};
use vmkeep_vault::VaultError;

use crate::note::{Note, StateNote};
use crate::{ProtectError, Protection};

/// How protection is stopped with the points left as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All points are kept for ever.
    Retain,
    /// Points expire by the policy, all but the newest.
    ByPolicy,
}

/// What [`Protection::settle`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Where the protection stands now.
    pub state: State,
    /// Points that were forgotten, for the VM is purged.
    pub forgotten: Vec<PointNumber>,
    /// Points of a purged VM that stay because they are held.
    pub held: Vec<PointNumber>,
    /// Whether the VM's line of points was closed by this: what comes later begins anew.
    pub closed: bool,
}

impl Protection<'_> {
    /// Stops the protection of `vm`; its points stay, or go on expiring.
    pub fn stop(
        &mut self,
        permit: &Permit<op::Close>,
        vm: &VmName,
        how: Stop,
    ) -> Result<Vec<Effect>, ProtectError> {
        let event = match how {
            Stop::Retain => Event::StopRetain,
            Stop::ByPolicy => Event::StopByPolicy,
        };
        self.step(permit, vm, event, None)
    }

    /// Stops the protection of `vm` and deletes its points: they can be had back while soft delete keeps them, and are gone after.
    ///
    /// # Errors
    /// [`LifecycleError::NotConfirmed`] without soft delete, when `confirmation` is not that of [`Protection::irreversible`].
    pub fn delete(
        &mut self,
        permit: &Permit<op::StopWithDelete>,
        vm: &VmName,
        confirmation: Option<&Confirmation>,
    ) -> Result<Vec<Effect>, ProtectError> {
        self.step(permit, vm, Event::StopDelete, confirmation)
    }

    /// Has the points of a soft-deleted VM back; its protection is stopped then, with all of them retained.
    pub fn undelete(
        &mut self,
        permit: &Permit<op::Undelete>,
        vm: &VmName,
    ) -> Result<Vec<Effect>, ProtectError> {
        self.step(permit, vm, Event::Undelete, None)
    }

    /// Backs up a stopped VM again. Points that are overdue go with the next plan.
    pub fn resume(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        vm: &VmName,
    ) -> Result<Vec<Effect>, ProtectError> {
        self.step(permit, vm, Event::Resume, None)
    }

    /// Ends soft delete before its time; only while soft delete is off by now.
    pub fn purge(
        &mut self,
        permit: &Permit<op::StopWithDelete>,
        vm: &VmName,
        confirmation: Option<&Confirmation>,
    ) -> Result<Vec<Effect>, ProtectError> {
        self.step(permit, vm, Event::Purge, confirmation)
    }

    /// Notes that the host of `vm` has no such VM any more.
    pub fn vm_gone(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        vm: &VmName,
    ) -> Result<Vec<Effect>, ProtectError> {
        self.step(permit, vm, Event::VmGone, None)
    }

    /// Notes that there is a VM of this name again.
    pub fn vm_back(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        vm: &VmName,
    ) -> Result<Vec<Effect>, ProtectError> {
        self.step(permit, vm, Event::VmBack, None)
    }

    /// What about a step cannot be undone, to be shown and confirmed; `None` where there is nothing of the kind.
    pub fn irreversible(&self, vm: &VmName, event: Event) -> Result<Option<Irreversible>, ProtectError> {
        let state = self.instance(vm)?.state;
        Ok(state.irreversible(event, &self.context(vm, None)?))
    }

    /// Does what the state of `vm` calls for by now: purges what was soft-deleted when its time is over, and forgets the points of a
    /// purged VM and closes its line. A sweep frees their space.
    ///
    /// Held points stay until they are released and this is called again.
    pub fn settle(
        &mut self,
        forget: &Permit<op::Forget>,
        close: &Permit<op::Close>,
        vm: &VmName,
    ) -> Result<Settled, ProtectError> {
        forget.check(vm)?;
        self.step(close, vm, Event::Tick, None)?;
        let state = self.instance(vm)?.state;
        let mut settled = Settled { state, forgotten: Vec::new(), held: Vec::new(), closed: false };
        if !matches!(state, State::Purged { .. }) {
            return Ok(settled);
        }
        for point in self.points(vm)? {
            if point.held {
                settled.held.push(point.number);
                continue;
            }
            self.vault.forget(forget, &reference(vm, point.number))?;
            settled.forgotten.push(point.number);
        }
        if settled.held.is_empty() {
            settled.closed = match self.vault.close(close, vm) {
                // It was purged before its first backup.
                Err(VaultError::NoSuchVm(_)) => false,
                closed => closed?,
            };
        }
        Ok(settled)
    }

    /// Whether points of `vm` may be restored: not while it is soft-deleted, as in Azure, and can be had back. What is still there
    /// after that time is restored rather than lost.
    ///
    /// # Errors
    /// [`ProtectError::SoftDeleted`].
    pub fn may_restore(&self, vm: &VmName) -> Result<(), ProtectError> {
        match self.instance(vm).map(|instance| instance.state) {
            Ok(State::SoftDeleted { until, .. }) if until > self.vault.clock().now() => {
                Err(ProtectError::SoftDeleted { vm: vm.clone(), until })
            }
            _ => Ok(()),
        }
    }

    /// Whether somebody may forget this point by hand: not while immutability keeps it, nor out of a VM that is soft-deleted. A point
    /// whose policy lets it go, and one of a VM under no policy, may go.
    pub fn may_forget(&self, vm: &VmName, number: PointNumber) -> Result<(), ProtectError> {
        let Ok(instance) = self.instance(vm) else { return Ok(()) };
        if let State::SoftDeleted { until, .. } = instance.state {
            return Err(LifecycleError::SoftDeleteIsOn { until, soft_delete: self.soft_delete() }.into());
        }
        let allowed: Result<(), Blocked> = self.immutability().allows(Change::ShortenPoint);
        let Err(blocked) = allowed else { return Ok(()) };
        let plan = self.plan(vm)?;
        let goes = plan.verdicts().iter().any(|v| v.number == number && v.decision == Decision::Expire);
        if goes { Ok(()) } else { Err(blocked.into()) }
    }

    /// Whether somebody may destroy the keys that these points need: as [`may_forget`](Self::may_forget) of each, but for those that
    /// were forgotten already.
    pub fn may_destroy<'p>(
        &self,
        points: impl IntoIterator<Item = &'p PointRef>,
    ) -> Result<(), ProtectError> {
        let mut kept: BTreeMap<&VmName, Vec<PointNumber>> = BTreeMap::new();
        for point in points {
            if !kept.contains_key(&point.vm) {
                let points = match self.vault.points(&point.vm) {
                    Err(VaultError::NoSuchVm(_)) => Vec::new(),
                    points => points?,
                };
                let numbers = points.iter().filter(|point| !point.forgotten).map(|point| point.id.number);
                kept.insert(&point.vm, numbers.collect());
            }
            if let PointSelector::Number(number) = point.selector
                && kept[&point.vm].contains(&number)
            {
                self.may_forget(&point.vm, number)?;
            }
        }
        Ok(())
    }

    pub(crate) fn context<'a>(
        &self,
        vm: &'a VmName,
        confirmation: Option<&'a Confirmation>,
    ) -> Result<Context<'a>, ProtectError> {
        Ok(Context {
            vm,
            points: u64::try_from(self.points(vm)?.len()).unwrap_or(u64::MAX),
            soft_delete: self.soft_delete(),
            immutability: self.immutability(),
            confirmation,
            now: self.vault.clock().now(),
        })
    }

    fn step<O: Op>(
        &mut self,
        permit: &Permit<O>,
        vm: &VmName,
        event: Event,
        confirmation: Option<&Confirmation>,
    ) -> Result<Vec<Effect>, ProtectError> {
        permit.check(vm)?;
        // Another may have taken a step in the meantime.
        self.reload()?;
        let from = self.instance(vm)?.state;
        let step = from.step(event, &self.context(vm, confirmation)?)?;
        if let Some(state) = StateNote::of(step.state).filter(|_| step.state != from) {
            self.note(permit, Note::State { vm: vm.to_string(), state })?;
        }
        Ok(step.effects)
    }
}

pub(crate) fn reference(vm: &VmName, number: PointNumber) -> PointRef {
    PointRef { vm: vm.clone(), selector: PointSelector::Number(number) }
}
