//! What a command ends with: an outcome, or an error with its exit code and advice.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use vmkeep::backup::BackupError;
use vmkeep::disk::DiskError;
use vmkeep::envelope::guest::GuestKeysError;
use vmkeep::envelope::{Branch, KeyError, KeyStoreError};
use vmkeep::live::LiveError;
use vmkeep::model::{Cancelled, Denied, DiskName, PointRef, SessionId, VmName};
use vmkeep::protect::ProtectError;
use vmkeep::qemu::QemuError;
use vmkeep::restore::RestoreError;
use vmkeep::vault::VaultError;

/// Exit code of a command that failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// Exit code of a command that found damage in the vault.
pub(crate) const EXIT_DAMAGE: u8 = 3;

/// Exit code of a look at health that found something to look at.
pub(crate) const EXIT_WARNING: u8 = 4;
/// Exit code of a look at health that found a VM that cannot be restored, or damage.
pub(crate) const EXIT_CRITICAL: u8 = 5;

/// How a command ended that did what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing is wrong.
    Good,
    /// It found damage and told of it.
    Damage,
    /// It was asked how well VMs are protected, and somebody should look.
    Warning,
    /// The same, and something cannot be restored.
    Critical,
}

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] KeyStoreError),
    #[error(transparent)]
    GuestKeys(#[from] GuestKeysError),
    #[error("{point} holds no keys of disks; back up with --disk-key to capture them")]
    NoCapturedKeys { point: PointRef },
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("{0}")]
    Billing(Box<vmkeep::billing::Error>),
    #[error(transparent)]
    Live(#[from] LiveError),
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Protect(Box<ProtectError>),
    #[error("cannot open disk {disk}")]
    Source {
        disk: DiskName,
        #[source]
        source: DiskError,
    },
    #[error("cannot make disk {disk}")]
    Target {
        disk: DiskName,
        #[source]
        source: DiskError,
    },
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    #[error("{} is there: another restore into this folder is running, or one was killed", .0.display())]
    Unfinished(PathBuf),
    #[error("{path}: {what}", path = path.display())]
    Content { path: PathBuf, what: String },
    #[error("cannot {what} {path}", path = path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("VMs that were due and are not backed up: {0}")]
    NotBackedUp(usize),
    #[error("not confirmed; nothing was changed")]
    NotConfirmed,
    #[error("keys that only the old key opens: {0}; VMs went on being protected under it")]
    KeysLeft(u64),
    #[error("the protection of {0} has ended; when it is backed up again, that is with new keys")]
    Unprotected(VmName),
    #[error("session {0} has ended already: it committed, or something else took its number")]
    SessionOver(SessionId),
    #[error("{0} has no pin {1}")]
    NoSuchPin(PointRef, SessionId),
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    #[error("cannot listen for Ctrl-C")]
    Signal(#[source] ctrlc::Error),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl From<ProtectError> for Error {
    fn from(error: ProtectError) -> Self {
        match error {
            ProtectError::Vault(error) => error.into(),
            ProtectError::Denied(denied) => denied.into(),
            error => Self::Protect(Box::new(error)),
        }
    }
}

impl Error {
    pub(crate) fn usage(what: impl ToString) -> Self {
        Self::Usage(what.to_string())
    }

    pub(crate) fn billing(error: vmkeep::billing::Error) -> Self {
        Self::Billing(Box::new(error))
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => crate::EXIT_USAGE,
            _ if self.is_damage() => EXIT_DAMAGE,
            _ => EXIT_FAILED,
        }
    }

    fn is_damage(&self) -> bool {
        match self {
            Self::Restore(error) => error.is_damage(),
            _ => self.vault().is_some_and(VaultError::is_damage),
        }
    }

    /// The vault's own error, when that is what lies below.
    fn vault(&self) -> Option<&VaultError> {
        match self {
            Self::Vault(error)
            | Self::Backup(BackupError::Store(error) | BackupError::Commit(error))
            | Self::Restore(RestoreError::Open(error)) => Some(error),
            Self::Restore(RestoreError::Vault { source, .. }) => Some(source),
            _ => None,
        }
    }

    fn disk(&self) -> Option<&DiskError> {
        match self {
            Self::Source { source, .. }
            | Self::Target { source, .. }
            | Self::Backup(BackupError::Read { source, .. })
            | Self::Restore(RestoreError::Target { source, .. }) => Some(source),
            _ => None,
        }
    }

    fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Cancelled(_)
                | Self::Backup(BackupError::Cancelled(_))
                | Self::Restore(RestoreError::Cancelled(_))
        ) || self.vault().is_some_and(VaultError::is_cancelled)
    }

    /// The message, and what lies below it, from the outside in. A cancelled command is "cancelled" and no more.
    pub(crate) fn chain(&self) -> (String, Vec<String>) {
        if self.is_cancelled() {
            return (Cancelled.to_string(), Vec::new());
        }
        (self.to_string(), causes(self))
    }

    /// What to do about it, when that is known and the message does not say it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        if self.is_cancelled() {
            return None;
        }
        if std::iter::successors(self.source(), |&e| e.source()).any(is_full) {
            return Some("free some space and run the command again");
        }
        if std::iter::successors(self.source(), |&e| e.source()).any(is_of_client) {
            return Some(
                "this key is that of a write-only client; reading stored data takes the vault's own key",
            );
        }
        match self {
            Self::Exists(_) => return Some("restore to another folder, or replace the file with --force"),
            Self::Protect(error) if matches!(**error, ProtectError::NotProtected { .. }) => {
                return Some("vmkeep protect puts a VM under a policy");
            }
            Self::Protect(error) if matches!(**error, ProtectError::SoftDeleted { .. }) => {
                return Some("vmkeep undelete-vm has it back");
            }
            Self::Protect(error) if error.is_unconfirmed() => {
                return Some("give that word with --confirm");
            }
            Self::NoSuchPin(..) => return Some("vmkeep pins lists the pins of a VM"),
            Self::SessionOver(_) => {
                return Some("vmkeep sessions lists the backups of a VM that have not finished");
            }
            Self::KeysLeft(_) => return Some("keep the old key, and run the command again"),
            Self::Unfinished(_) => return Some("when no other restore is running, delete it"),
            Self::Key(KeyError::KeyFileMissing { .. }) => {
                return Some(
                    "give the key file that the vault was made with; without it nothing in the vault opens",
                );
            }
            _ => {}
        }
        match (self.vault(), self.disk()) {
            (Some(VaultError::WrongKey { .. }), _) => {
                Some("give the key file or the passphrase that the vault was made with")
            }
            (Some(VaultError::NoSuchVm(_) | VaultError::NoSuchPoint { .. }), _) => {
                Some("vmkeep points lists what the vault holds")
            }
            (Some(VaultError::NoSuchSession { .. }), _) => {
                Some("vmkeep sessions lists the backups of a VM that have not finished")
            }
            (Some(VaultError::KeyDestroyed { .. }), _) => {
                Some("vmkeep points marks what cannot be restored any more; nothing is damaged")
            }
            (Some(VaultError::NotGranted { .. }), _) => Some(
                "with the vault's own key: vmkeep keys grant-client VAULT --vm VM --client-key-file FILE",
            ),
            (Some(VaultError::NoSuchEpoch { .. }), _) => Some("vmkeep keys list shows the epochs"),
            (Some(VaultError::SweepUnderWay { .. }), _) => {
                Some("of one that was stopped, vmkeep sweep --abandoned-after 0s removes what is left")
            }
            (Some(VaultError::PlanOutdated { .. }), _) => Some("run the command again"),
            (Some(VaultError::ForeignWraps { .. }), _) => Some(
                "give the others with --also-key-file or --also-kek; when a change of the vault's key was interrupted, finish it \
                 first: vmkeep keys rotate-kek",
            ),
            (Some(error), _) if error.is_damage() => {
                Some("vmkeep verify lists everything that is damaged; other points and disks may be whole")
            }
            (_, Some(DiskError::BackingNotAllowed { .. })) => Some("allow it with --allow-backing PATH"),
            _ => None,
        }
    }
}

/// The texts of everything below `error`, from the outside in.
pub(crate) fn causes(error: &dyn StdError) -> Vec<String> {
    std::iter::successors(error.source(), |&e| e.source()).map(ToString::to_string).collect()
}

/// An error and what lies below it, from the outside in.
pub(crate) fn chain(error: &dyn StdError) -> Vec<String> {
    std::iter::once(error.to_string()).chain(causes(error)).collect()
}

/// A message and what lies below it, in one line.
pub(crate) fn sentence(message: &str, causes: &[String]) -> String {
    std::iter::once(message).chain(causes.iter().map(String::as_str)).collect::<Vec<_>>().join(": ")
}

/// What a holder meets that has the public side of a data key alone.
fn is_of_client(error: &(dyn StdError + 'static)) -> bool {
    let missing = error.downcast_ref::<KeyError>();
    matches!(missing, Some(KeyError::BranchMissing { branch: Branch::Data, .. }))
}

fn is_full(error: &(dyn StdError + 'static)) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    error.downcast_ref::<io::Error>().is_some_and(|e| full.contains(&e.kind()))
}
