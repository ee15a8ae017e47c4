//! Before what cannot be undone: what it means, until when, and a token that says somebody has read that.

use std::fmt;

use thiserror::Error;
use vmkeep_model::{Timestamp, VmName};

/// Something that nobody can take back once it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Irreversible {
    /// Locks immutability: from then on retention only grows, for as long as the vault exists.
    LockImmutability {
        /// When the last point that is there now expires; `None` when one never does.
        last_expiry: Option<Timestamp>,
        /// The longest any rule of a policy in use keeps a point, in days.
        longest_days: u64,
        /// How many VMs are under it.
        vms: u64,
    },
    /// Makes soft delete permanent.
    AlwaysOnSoftDelete {
        /// Days for which what is deleted stays.
        days: u32,
    },
    /// Ends the protection of a VM and removes its points at once, for there is no soft delete.
    DeleteForGood {
        /// Whose.
        vm: VmName,
        /// How many points.
        points: u64,
    },
    /// Removes the points of a soft-deleted VM before their time.
    Purge {
        /// Whose.
        vm: VmName,
        /// When they would go by themselves.
        until: Timestamp,
    },
    /// Lets a plan remove the newest point too.
    PruneToZero {
        /// Whose.
        vm: VmName,
        /// How many points go.
        points: u64,
    },
    /// Keeps points for a long time under locked immutability.
    LongRetentionUnderLock {
        /// For how many days at the most.
        days: u64,
    },
}

impl Irreversible {
    /// What it means, in a sentence or two.
    pub fn meaning(&self) -> String {
        match self {
            Self::LockImmutability { last_expiry, longest_days, vms } => {
                let last = match last_expiry {
                    Some(at) => format!("the last of the points that are there now goes at {at}"),
                    None => "at least one point that is there now never expires".to_owned(),
                };
                format!(
                    "immutability can never be unlocked or switched off again: of {vms} VMs no point can be removed before its time \
                     and no retention can be shortened; {last}, and new points are kept for up to {longest_days} days, which are \
                     to be paid for"
                )
            }
            Self::AlwaysOnSoftDelete { days } => {
                format!(
                    "soft delete can never be switched off or shortened again: what is deleted stays for {days} days"
                )
            }
            Self::DeleteForGood { vm, points } => {
                format!("all {points} points of {vm} are removed at once, and nothing brings them back")
            }
            Self::Purge { vm, until } => {
                format!(
                    "the points of {vm} are removed now rather than at {until}, and nothing brings them back"
                )
            }
            Self::PruneToZero { vm, points } => {
                format!(
                    "{points} points of {vm} are removed, the newest among them, and none is left to restore from"
                )
            }
            Self::LongRetentionUnderLock { days } => {
                format!(
                    "points made from now on are kept for up to {days} days, and immutability is locked: that can never be shortened"
                )
            }
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::LockImmutability { .. } => "lock",
            Self::AlwaysOnSoftDelete { .. } => "always-on",
            Self::DeleteForGood { .. } => "delete",
            Self::Purge { .. } => "purge",
            Self::PruneToZero { .. } => "zero",
            Self::LongRetentionUnderLock { .. } => "keep",
        }
    }

    /// What a person types to say so. It stands for exactly these facts: when one of them changes, so does the token.
    pub fn token(&self) -> String {
        // FNV-1a over all facts; it guards against mistakes, not against anybody.
        let hash = self.meaning().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{}-{:06x}", self.word(), hash & 0x00ff_ffff)
    }

    /// Takes what was typed.
    ///
    /// ```
    /// # use vmkeep_retention::Irreversible;
    /// let lock = Irreversible::AlwaysOnSoftDelete { days: 30 };
    /// assert!(lock.confirm("yes").is_err());
    /// let confirmed = lock.confirm(&lock.token())?;
    /// assert!(confirmed.is_of(&lock));
    /// assert!(!confirmed.is_of(&Irreversible::AlwaysOnSoftDelete { days: 60 }));
    /// # Ok::<(), vmkeep_retention::NotConfirmed>(())
    /// ```
    pub fn confirm(&self, typed: &str) -> Result<Confirmation, NotConfirmed> {
        let token = self.token();
        if typed == token {
            Ok(Confirmation { of: self.clone() })
        } else {
            Err(NotConfirmed { meaning: self.meaning(), token })
        }
    }
}

impl fmt::Display for Irreversible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.meaning())
    }
}

/// That somebody confirmed something irreversible. Only [`Irreversible::confirm`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    of: Irreversible,
}

impl Confirmation {
    /// Whether it was this that was confirmed, every fact included.
    pub fn is_of(&self, what: &Irreversible) -> bool {
        self.of == *what
    }
}

/// What cannot be undone was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("this cannot be undone: {meaning}; to go on, confirm with {token}")]
pub struct NotConfirmed {
    /// What it means.
    pub meaning: String,
    /// What confirms it.
    pub token: String,
}

/// Holds `confirmation` against what it should be for.
pub(crate) fn require(what: &Irreversible, confirmation: Option<&Confirmation>) -> Result<(), NotConfirmed> {
    if confirmation.is_some_and(|c| c.is_of(what)) {
        Ok(())
    } else {
        Err(NotConfirmed { meaning: what.meaning(), token: what.token() })
    }
}
