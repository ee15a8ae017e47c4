//! The operations that need a permit.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A kind of operation as a type, so that a permit for one does not pass for another.
///
/// Implemented by the types of [`op`] and by no others.
pub trait Op: sealed::Sealed + fmt::Debug + Send + Sync + 'static {
    /// Which operation.
    const OPERATION: Operation;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident $text:literal)*) => {
        /// What somebody wants to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        impl Operation {
            /// Every operation.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in role files, journals and messages.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }

        /// The operations as types.
        pub mod op {
            use super::{Op, Operation, sealed};

            $(
                $(#[$doc])*
                #[derive(Clone, Copy, Debug)]
                pub struct $name;

                impl sealed::Sealed for $name {}

                impl Op for $name {
                    const OPERATION: Operation = Operation::$name;
                }
            )*
        }
    };
}

operations! {
    /// See names, points, sizes, sessions, pins and the journal.
    View "view"
    /// Read and check everything, without giving any of it away.
    Verify "verify"
    /// Make a recovery point; the first of a VM begins its protection.
    Backup "backup"
    /// Read disks and configuration out of a point.
    Restore "restore"
    /// Put captured guest keys back, or export them.
    RestoreKeys "restore-keys"
    /// Forget a point.
    Forget "forget"
    /// Take back that a point was forgotten.
    Undelete "undelete"
    /// Hold a point against every sweep.
    Hold "hold"
    /// Release a hold.
    Release "release"
    /// Break the pin of a reader.
    BreakPin "break-pin"
    /// Remove what was forgotten, for good.
    Sweep "sweep"
    /// Put back what was lost of the vault, where it is known for certain, and note what is lost for good.
    Repair "repair"
    /// End the protection of a VM, its points retained.
    Close "close"
    /// End an abandoned session.
    EndSession "end-session"
    /// Change the KEK that wraps the keys.
    RotateKek "rotate-kek"
    /// Give new data of a VM a new key, or move old data to it.
    RotateBek "rotate-bek"
    /// Destroy keys, and with them what they sealed.
    DestroyKeys "destroy-keys"
    /// Give a write-only client keys, or take them from it.
    GrantKeys "grant-keys"
    /// Change who may do what.
    ManageRoles "manage-roles"
    /// Ask for the approval of a protected operation.
    RequestApproval "request-approval"
    /// Approve a protected operation of somebody else.
    Approve "approve"
    /// Make, change or remove a policy.
    ChangePolicy "change-policy"
    /// Switch soft delete off, or shorten it.
    DisableSoftDelete "disable-soft-delete"
    /// Keep points for a shorter time than before.
    ShortenRetention "shorten-retention"
    /// End the protection of a VM and remove its points.
    StopWithDelete "stop-with-delete"
}

impl Operation {
    /// Whether one person alone may not do it once a vault has somebody who approves: it destroys what nobody can bring
    /// back, or takes away what protects against that.
    pub fn is_protected(self) -> bool {
        matches!(
            self,
            Self::DestroyKeys | Self::DisableSoftDelete | Self::ShortenRetention | Self::StopWithDelete
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No operation has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no operation is called {name:?}")]
pub struct UnknownOperation {
    /// The name.
    pub name: String,
}

impl FromStr for Operation {
    type Err = UnknownOperation;

    fn from_str(name: &str) -> Result<Self, UnknownOperation> {
        let found = Self::ALL.iter().copied().find(|operation| operation.name() == name);
        found.ok_or_else(|| UnknownOperation { name: name.to_owned() })
    }
}
