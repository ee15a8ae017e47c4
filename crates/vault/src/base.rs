//! What a backup would be made against, and what earlier ones took, without beginning one.

use vmkeep_envelope::IdentityKey;
use vmkeep_model::VmName;

use crate::error::VaultError;
use crate::point::OpenPoint;
use crate::read::DiskReader;
use crate::vault::Vault;

/// What the backup that made a point took, by its own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobFacts {
    /// Bytes read from the disks.
    pub bytes_read: u64,
    /// Bytes written to the vault, metadata included, up to the point's own record.
    pub bytes_stored: u64,
    /// How long it took until the commit, in milliseconds, by the clock of its host.
    pub duration_ms: u64,
}

impl Vault {
    /// The point that a backup of `vm` would be made against; `None` when it would be a first one: the VM is not in the
    /// vault, has no point, or its protection was closed. Writes nothing.
    ///
    /// # Errors
    /// When the vault cannot be read, or all that is newest of the VM is damaged: a backup would store everything again.
    pub fn base(&self, vm: &VmName) -> Result<Option<OpenPoint>, VaultError> {
        let Some(lineage) = self.inner.lineage(vm)? else { return Ok(None) };
        let head = lineage.head(&self.inner)?;
        match (head.newest, head.unreadable) {
            _ if head.closed => Ok(None),
            (Some(body), _) => OpenPoint::of(&self.inner, &lineage, body).map(Some),
            (None, Some((_, error))) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

impl OpenPoint {
    /// What the backup that made it took.
    pub fn job(&self) -> JobFacts {
        let job = &self.body.job;
        JobFacts { bytes_read: job.bytes_read, bytes_stored: job.bytes_stored, duration_ms: job.duration_ms }
    }
}

impl DiskReader {
    /// What names the content of the disk's blocks.
    pub fn identity(&self) -> Result<&IdentityKey, VaultError> {
        self.nodes().lineage.domain.identity()
    }
}
