//! Why a restore or a verification ended early.

use std::sync::Arc;

use thiserror::Error;
use vmkeep_disk::DiskError;
use vmkeep_model::{ByteLen, Cancelled, DiskName};
use vmkeep_vault::{DiskReader, VaultError};

/// Why a restore or a verification ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The vault could not be read, or what it holds is damaged.
    #[error("cannot read disk {disk} from the vault")]
    Vault {
        /// Which disk.
        disk: DiskName,
        /// Why.
        #[source]
        source: Arc<VaultError>,
    },
    /// The vault could not be read before any disk was named.
    #[error("cannot read the vault")]
    Open(#[from] VaultError),
    /// The target could not be written.
    #[error("cannot write disk {disk} to its target")]
    Target {
        /// Which disk.
        disk: DiskName,
        /// Why.
        #[source]
        source: DiskError,
    },
    /// The target has another size than the disk.
    #[error("disk {disk} has {size} bytes and its target {target}")]
    Size {
        /// Which disk.
        disk: DiskName,
        /// Its size.
        size: ByteLen,
        /// The target's.
        target: ByteLen,
    },
    /// The caller asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl RestoreError {
    /// What went wrong with a disk, or that its point was swept while it was read.
    pub(crate) fn of_disk(disk: &DiskReader, source: Arc<VaultError>) -> Self {
        let source = disk.swept(&source).map_or(source, Arc::new);
        Self::Vault { disk: disk.name().clone(), source }
    }

    /// Whether the point that was read was swept meanwhile.
    pub fn is_swept(&self) -> bool {
        match self {
            Self::Vault { source, .. } => matches!(**source, VaultError::PointSwept { .. }),
            Self::Open(source) => matches!(source, VaultError::PointSwept { .. }),
            _ => false,
        }
    }

    /// Whether stored data is wrong, as opposed to out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Vault { source, .. } => source.is_damage(),
            Self::Open(source) => source.is_damage(),
            _ => false,
        }
    }
}
