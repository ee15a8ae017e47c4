//! Immutability and soft delete of a vault: what they block, and how they change.
//!
//! learn.microsoft.com/azure/backup/backup-azure-immutable-vault-concept and backup-azure-enhanced-soft-delete-about.

use std::fmt;
use std::ops::RangeInclusive;

use thiserror::Error;
use vmkeep_model::Operation;

use crate::confirm::{self, Confirmation, Irreversible, NotConfirmed};

/// Whether points can be removed before their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Immutability {
    /// They can.
    #[default]
    Disabled,
    /// They cannot, and that can be switched off.
    Unlocked,
    /// They cannot, for ever.
    Locked,
}

impl fmt::Display for Immutability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "disabled",
            Self::Unlocked => "unlocked",
            Self::Locked => "locked",
        })
    }
}

/// A change that could take points away sooner, or looks as if.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// Stop protection and delete the data.
    StopWithDelete,
    /// Let a policy keep less.
    ReduceRetention,
    /// Put a VM under a policy that keeps less.
    SwitchToLower,
    /// Let a policy keep more.
    IncreaseRetention {
        /// Whether protection of a VM under it is stopped.
        suspended: bool,
    },
    /// Change when backups are made.
    ChangeSchedule,
    /// Let a point expire sooner than it was told.
    ShortenPoint,
    /// Remove points of a VM that is soft-deleted, before their time.
    Purge,
    /// Switch soft delete off, or shorten it.
    WeakenSoftDelete,
    /// Let a plan remove the newest point.
    PruneToZero,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::StopWithDelete,
        Self::ReduceRetention,
        Self::SwitchToLower,
        Self::IncreaseRetention { suspended: false },
        Self::IncreaseRetention { suspended: true },
        Self::ChangeSchedule,
        Self::ShortenPoint,
        Self::Purge,
        Self::WeakenSoftDelete,
        Self::PruneToZero,
    ];

    /// The operation that needs a permit, and where it is protected the approval of a second person.
    pub fn operation(self) -> Operation {
        match self {
            Self::StopWithDelete | Self::Purge => Operation::StopWithDelete,
            Self::ReduceRetention | Self::SwitchToLower | Self::ShortenPoint | Self::PruneToZero => {
                Operation::ShortenRetention
            }
            Self::IncreaseRetention { .. } | Self::ChangeSchedule => Operation::ChangePolicy,
            Self::WeakenSoftDelete => Operation::DisableSoftDelete,
        }
    }

    /// Whether a second person must approve it once a vault has one.
    pub fn needs_approval(self) -> bool {
        self.operation().is_protected()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StopWithDelete => "stopping protection with its data deleted",
            Self::ReduceRetention => "reducing the retention of a policy",
            Self::SwitchToLower => "switching to a policy that keeps less",
            Self::IncreaseRetention { .. } => "increasing the retention of a policy",
            Self::ChangeSchedule => "changing a schedule",
            Self::ShortenPoint => "letting a point expire sooner",
            Self::Purge => "removing soft-deleted points before their time",
            Self::WeakenSoftDelete => "switching soft delete off or shortening it",
            Self::PruneToZero => "pruning to zero",
        })
    }
}

/// Immutability does not allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Blocked {
    /// While immutability is on.
    #[error("{change} is refused while immutability is {state}; {}", what_to_do(*.state))]
    Immutable {
        /// What was asked for.
        change: Change,
        /// The state.
        state: Immutability,
    },
    /// A VM under the policy is suspended: its points would not follow.
    #[error(
        "{change} is refused under immutability while protection of a VM under the policy is stopped; resume it first"
    )]
    Suspended {
        /// What was asked for.
        change: Change,
    },
}

fn what_to_do(state: Immutability) -> &'static str {
    match state {
        Immutability::Locked => "it is locked for ever, so wait until the points expire",
        _ => "switch it off first, which needs an approval of its own",
    }
}

/// Immutability or soft delete cannot be changed like this.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProtectionChangeError {
    /// Locked for ever.
    #[error("immutability is locked for ever and cannot become {to}")]
    Locked {
        /// What it should become.
        to: Immutability,
    },
    /// From off to locked in one step.
    #[error(
        "immutability goes from disabled to unlocked first, so that its effects can be seen before it is locked"
    )]
    NotAtOnce,
    /// Soft delete is always on.
    #[error("soft delete is always on, for {now} days at least; it cannot become {to}")]
    AlwaysOn {
        /// Days that it has.
        now: u32,
        /// What it should become.
        to: SoftDelete,
    },
    /// A number of days out of range.
    #[error("soft delete for {days} days is out of range: from {} to {} days", SOFT_DELETE_DAYS.start(), SOFT_DELETE_DAYS.end())]
    Days {
        /// The number.
        days: u32,
    },
    /// Immutability forbids it.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// It is irreversible and was not confirmed.
    #[error(transparent)]
    NotConfirmed(#[from] NotConfirmed),
}

impl Immutability {
    /// Whether `change` may be made in this state.
    pub fn allows(self, change: Change) -> Result<(), Blocked> {
        match (self, change) {
            (Self::Disabled, _)
            | (_, Change::ChangeSchedule | Change::IncreaseRetention { suspended: false }) => Ok(()),
            (_, Change::IncreaseRetention { suspended: true }) => Err(Blocked::Suspended { change }),
            (state, change) => Err(Blocked::Immutable { change, state }),
        }
    }

    /// What it becomes. Locking takes a confirmation of `lock`, which the caller fills with the facts of the vault.
    pub fn change_to(
        self,
        to: Self,
        lock: &Irreversible,
        confirmation: Option<&Confirmation>,
    ) -> Result<Self, ProtectionChangeError> {
        match (self, to) {
            (Self::Locked, to) if to != Self::Locked => Err(ProtectionChangeError::Locked { to }),
            (Self::Disabled, Self::Locked) => Err(ProtectionChangeError::NotAtOnce),
            (Self::Unlocked, Self::Locked) => {
                confirm::require(lock, confirmation)?;
                Ok(to)
            }
            (_, to) => Ok(to),
        }
    }
}

/// How many days soft delete may keep what was deleted.
pub const SOFT_DELETE_DAYS: RangeInclusive<u32> = 14..=180;

/// What becomes of what is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SoftDelete {
    /// It is gone at once.
    Disabled,
    /// It stays for so many days and can be had back.
    Enabled {
        /// 14 to 180.
        days: u32,
    },
    /// The same, for ever.
    AlwaysOn {
        /// 14 to 180.
        days: u32,
    },
}

impl Default for SoftDelete {
    /// On for 14 days.
    fn default() -> Self {
        Self::Enabled { days: *SOFT_DELETE_DAYS.start() }
    }
}

impl fmt::Display for SoftDelete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("disabled"),
            Self::Enabled { days } => write!(f, "enabled for {days} days"),
            Self::AlwaysOn { days } => write!(f, "always on for {days} days"),
        }
    }
}

impl SoftDelete {
    /// For how many days; `None` when it is off.
    pub fn days(self) -> Option<u32> {
        match self {
            Self::Disabled => None,
            Self::Enabled { days } | Self::AlwaysOn { days } => Some(days),
        }
    }

    /// Whether `to` protects less.
    pub fn is_weakened_by(self, to: Self) -> bool {
        to.days() < self.days()
            || (matches!(self, Self::AlwaysOn { .. }) && !matches!(to, Self::AlwaysOn { .. }))
    }

    /// What it becomes. What was deleted before keeps the days it was deleted with.
    pub fn change_to(
        self,
        to: Self,
        immutability: Immutability,
        confirmation: Option<&Confirmation>,
    ) -> Result<Self, ProtectionChangeError> {
        if let Some(days) = to.days().filter(|days| !SOFT_DELETE_DAYS.contains(days)) {
            return Err(ProtectionChangeError::Days { days });
        }
        match self {
            Self::AlwaysOn { days } if self.is_weakened_by(to) => {
                return Err(ProtectionChangeError::AlwaysOn { now: days, to });
            }
            _ if self.is_weakened_by(to) => immutability.allows(Change::WeakenSoftDelete)?,
            _ => {}
        }
        if let (Self::Disabled | Self::Enabled { .. }, Self::AlwaysOn { days }) = (self, to) {
            confirm::require(&Irreversible::AlwaysOnSoftDelete { days }, confirmation)?;
        }
        Ok(to)
    }
}
