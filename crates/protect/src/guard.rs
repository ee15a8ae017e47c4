//! Immutability and soft delete of a vault, as its notes say.

use vmkeep_model::{Permit, op};
use vmkeep_retention::{
    Change, Confirmation, Expiry, Immutability, Irreversible, NotConfirmed, Policy, ProtectionChangeError,
    Retention, SoftDelete, State,
};

use crate::note::{ImmutabilityNote, Note, SoftDeleteNote};
use crate::{ProtectError, Protection};

impl Protection<'_> {
    /// Whether points of the vault can be removed before their time.
    pub fn immutability(&self) -> Immutability {
        self.immutability
    }

    /// For how long deleted VMs can be had back.
    pub fn soft_delete(&self) -> SoftDelete {
        self.soft_delete
    }

    /// Switches immutability. Off takes leave to shorten retention too; locking it cannot be undone, and takes the confirmation of
    /// [`Protection::locking`].
    pub fn set_immutability(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        weaken: Option<&Permit<op::ShortenRetention>>,
        to: Immutability,
        confirmation: Option<&Confirmation>,
    ) -> Result<(), ProtectError> {
        permit.check_vault()?;
        self.reload()?;
        let from = self.immutability;
        if from == to {
            return Ok(());
        }
        // The facts cost a plan of every VM, and only locking is held against them.
        let facts = if to == Immutability::Locked { self.locking()? } else { NO_FACTS };
        let now = from.change_to(to, &facts, confirmation)?;
        if now < from {
            match weaken {
                Some(weaken) => weaken.check_vault()?,
                None => {
                    let what = vec![format!("immutability is switched from {from} to {to}")];
                    return Err(ProtectError::Shortens { what });
                }
            }
        }
        self.note(permit, Note::Immutability { is: ImmutabilityNote::of(now) })
    }

    /// What locking immutability would mean for this vault as it is.
    pub fn locking(&self) -> Result<Irreversible, ProtectError> {
        let (mut last, mut longest_days, mut vms, mut never) = (None, 0, 0, false);
        for (vm, instance) in self.instances().filter(|(_, of)| !matches!(of.state, State::Purged { .. })) {
            vms += 1;
            for verdict in self.plan(vm)?.verdicts() {
                match verdict.expires {
                    Expiry::At(at) => last = last.max(Some(at)),
                    Expiry::WhenReplaced | Expiry::Never => never = true,
                }
            }
            longest_days = longest_days.max(longest(&self.policy(&instance.policy)?.policy.retention));
        }
        Ok(Irreversible::LockImmutability { last_expiry: last.filter(|_| !never), longest_days, vms })
    }

    /// What keeping points by `policy` means while immutability is locked.
    pub fn long_retention(policy: &Policy) -> Irreversible {
        Irreversible::LongRetentionUnderLock { days: longest(&policy.retention) }
    }

    /// Changes soft delete. Less takes leave to disable it; for ever takes the confirmation of
    /// [`Irreversible::AlwaysOnSoftDelete`]. What was deleted before keeps the days it was deleted with.
    pub fn set_soft_delete(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        weaken: Option<&Permit<op::DisableSoftDelete>>,
        to: SoftDelete,
        confirmation: Option<&Confirmation>,
    ) -> Result<(), ProtectError> {
        permit.check_vault()?;
        self.reload()?;
        let from = self.soft_delete;
        if from == to {
            return Ok(());
        }
        let now = from.change_to(to, self.immutability, confirmation)?;
        if from.is_weakened_by(now) {
            match weaken {
                Some(weaken) => weaken.check_vault()?,
                None => {
                    return Err(ProtectError::NeedsLeave {
                        change: Change::WeakenSoftDelete,
                        operation: Change::WeakenSoftDelete.operation(),
                    });
                }
            }
        }
        self.note(permit, Note::SoftDelete { is: SoftDeleteNote::of(now) })
    }
}

/// Refuses to keep points longer for ever, unless somebody confirms that.
pub(crate) fn longer_for_ever(
    immutability: Immutability,
    (before, after): (u64, u64),
    confirmation: Option<&Confirmation>,
) -> Result<(), NotConfirmed> {
    let what = Irreversible::LongRetentionUnderLock { days: after };
    if immutability < Immutability::Locked
        || after <= before
        || confirmation.is_some_and(|confirmed| confirmed.is_of(&what))
    {
        return Ok(());
    }
    Err(NotConfirmed { meaning: what.meaning(), token: what.token() })
}

const NO_FACTS: Irreversible = Irreversible::LockImmutability { last_expiry: None, longest_days: 0, vms: 0 };

/// The longest that any rule keeps a point, in days; months and years are counted long.
pub(crate) fn longest(retention: &Retention) -> u64 {
    let Retention::Calendar(rules) = retention else { return 0 };
    let spans = [
        rules.every,
        rules.daily,
        rules.weekly.map(|rule| rule.keep),
        rules.monthly.map(|rule| rule.keep),
        rules.yearly.map(|rule| rule.keep),
    ];
    spans.into_iter().flatten().map(|span| span.day_bounds().1).max().unwrap_or(0)
}

impl From<NotConfirmed> for ProtectError {
    fn from(error: NotConfirmed) -> Self {
        ProtectionChangeError::from(error).into()
    }
}

impl From<ProtectionChangeError> for ProtectError {
    fn from(error: ProtectionChangeError) -> Self {
        match error {
            ProtectionChangeError::Blocked(blocked) => blocked.into(),
            error => Self::Change(Box::new(error)),
        }
    }
}
