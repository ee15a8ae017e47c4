//! Why a backup ended without a point.

use thiserror::Error;
use vmkeep_disk::DiskError;
use vmkeep_envelope::guest::GuestKeysError;
use vmkeep_model::{Cancelled, DiskName, VmDescriptionError};
use vmkeep_vault::{FrameError, VaultError};

/// Why a backup ended without a point. The variant tells how far it came; in every case earlier points are intact.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The disks do not describe a VM.
    #[error("the plan does not describe a VM")]
    Plan(#[from] VmDescriptionError),
    /// A setting is out of its range.
    #[error("{0}")]
    Settings(String),
    /// A disk could not be read.
    #[error("cannot read disk {disk}")]
    Read {
        /// Which disk.
        disk: DiskName,
        /// Why.
        #[source]
        source: DiskError,
    },
    /// Data could not be compressed.
    #[error("cannot make a frame of disk {disk}")]
    Frame {
        /// Which disk.
        disk: DiskName,
        /// Why.
        #[source]
        source: FrameError,
    },
    /// The keys of an encrypted disk could not be captured. Nothing was stored.
    #[error("cannot capture the keys of the VM's disks")]
    GuestKeys(#[source] Box<GuestKeysError>),
    /// The vault could not be read or written before the commit.
    #[error("cannot write to the vault")]
    Store(#[source] VaultError),
    /// What was read is not what it was taken for, says the plan's guard. Nothing was committed.
    #[error("the source did not last until all of it was read")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The point was not committed.
    #[error("the recovery point was not committed")]
    Commit(#[source] VaultError),
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}
