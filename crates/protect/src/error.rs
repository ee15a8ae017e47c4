//! What can go wrong.

use thiserror::Error;
use vmkeep_billing::Month;
use vmkeep_model::{Denied, Operation, Timestamp, VmName};
use vmkeep_retention::azure::AzureError;
use vmkeep_retention::{
    ApplyError, Blocked, Change, LifecycleError, PlanError, PolicyError, ProtectionChangeError, TextError,
};
use vmkeep_vault::VaultError;

/// Why a bill is not made or closed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BillError {
    /// It cannot be rated.
    #[error(transparent)]
    Rate(#[from] vmkeep_billing::Error),
    /// The month is closed.
    #[error("{month} is closed; what turns out later is a correction on the statement after it")]
    Closed {
        /// Which.
        month: Month,
    },
    /// Months are closed one after the other.
    #[error("{last} is the last month that was closed; the next to close is the one after it, not {month}")]
    Order {
        /// Which was to be closed.
        month: Month,
        /// Which was closed last.
        last: Month,
    },
    /// The month is not over.
    #[error("{month} is not over until {until}")]
    Running {
        /// Which.
        month: Month,
        /// Its end.
        until: Timestamp,
    },
    /// A statement that cannot be kept.
    #[error("the statement of {month} is longer than can be kept")]
    TooLong {
        /// Its month.
        month: Month,
    },
}

impl From<vmkeep_billing::Error> for ProtectError {
    fn from(error: vmkeep_billing::Error) -> Self {
        Self::Bill(Box::new(error.into()))
    }
}

impl From<BillError> for ProtectError {
    fn from(error: BillError) -> Self {
        Self::Bill(Box::new(error))
    }
}

/// Why something about a protected instance is not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProtectError {
    /// The vault could not be read or written.
    #[error("the vault")]
    Vault(#[from] VaultError),
    /// The permit is for something else.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A text that is no policy.
    #[error("not a policy")]
    Text(#[from] TextError),
    /// A document that is no policy of Azure.
    #[error("not a policy of Azure")]
    Azure(#[from] Box<AzureError>),
    /// A policy that says what none may.
    #[error("the policy does not hold")]
    Policy(#[from] PolicyError),
    /// The points cannot be planned.
    #[error("no plan can be made")]
    Plan(#[from] PlanError),
    /// The plan does not fit any more.
    #[error("the plan is not applied")]
    Apply(#[from] ApplyError),
    /// Immutability forbids it.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// There is no such step in the life of the VM.
    #[error(transparent)]
    Life(Box<LifecycleError>),
    /// Immutability or soft delete cannot be changed like this.
    #[error(transparent)]
    Change(Box<ProtectionChangeError>),
    /// It takes leave of another kind too.
    #[error("{change} takes leave to {operation}")]
    NeedsLeave {
        /// What was asked for.
        change: Change,
        /// Leave for what.
        operation: Operation,
    },
    /// It keeps less than before, which takes a permit of its own.
    #[error(
        "it keeps less than before ({}); that takes leave to shorten retention",
        what.join("; ")
    )]
    Shortens {
        /// How it does.
        what: Vec<String>,
    },
    /// No policy of this name.
    #[error("no policy is called {name:?}; there are {}", known(.there))]
    NoSuchPolicy {
        /// The name.
        name: String,
        /// Those there are.
        there: Vec<String>,
    },
    /// The name of a policy: 1 to 64 of a-z, 0-9, '.', '_' and '-'.
    #[error("{name:?} is no name of a policy: 1 to 64 of a-z, 0-9, '.', '_' and '-'")]
    PolicyName {
        /// What was given.
        name: String,
    },
    /// The VM is under no policy.
    #[error("{vm} is under no policy")]
    NotProtected {
        /// Which VM.
        vm: VmName,
    },
    /// The VM is deleted, and can be had back.
    #[error("{vm} is soft-deleted, until {until}: it is restored once it was had back")]
    SoftDeleted {
        /// Which VM.
        vm: VmName,
        /// Until when.
        until: Timestamp,
    },
    /// A bill is not made or closed.
    #[error("no bill")]
    Bill(#[source] Box<BillError>),
    /// A note that cannot be read.
    #[error("note {number} of the vault cannot be read: {why}; a later version may have written it")]
    Note {
        /// Which.
        number: u64,
        /// Why not.
        why: String,
    },
}

impl ProtectError {
    /// Whether something that cannot be undone was not confirmed; the message says what confirms it.
    pub fn is_unconfirmed(&self) -> bool {
        match self {
            Self::Life(error) => matches!(**error, LifecycleError::NotConfirmed(_)),
            Self::Change(error) => matches!(**error, ProtectionChangeError::NotConfirmed(_)),
            _ => false,
        }
    }
}

fn known(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl From<LifecycleError> for ProtectError {
    fn from(error: LifecycleError) -> Self {
        match error {
            LifecycleError::Blocked(blocked) => blocked.into(),
            error => Self::Life(Box::new(error)),
        }
    }
}

impl From<AzureError> for ProtectError {
    fn from(error: AzureError) -> Self {
        Self::Azure(Box::new(error))
    }
}
