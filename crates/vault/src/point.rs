//! One recovery point, opened.

use std::sync::Arc;

use vmkeep_envelope::guest::CapturedKeys;
use vmkeep_envelope::{RecordHead, open_record};
use vmkeep_model::{BlockSize, DiskName, Permit, PointNumber, PointRef, PointSelector, RecoveryPoint, op};

use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::format::{PointBody, RecordKind};
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::permits::Reading;
use crate::read::DiskReader;
use crate::session::captured_keys_name;
use crate::vault::Inner;

/// A recovery point, opened for reading.
#[derive(Clone, Debug)]
pub struct OpenPoint {
    pub(crate) vault: Arc<Inner>,
    pub(crate) lineage: Lineage,
    pub(crate) body: Box<PointBody>,
    pub(crate) point: RecoveryPoint,
}

impl OpenPoint {
    pub(crate) fn of(
        vault: &Arc<Inner>,
        lineage: &Lineage,
        body: Box<PointBody>,
    ) -> Result<Self, VaultError> {
        let forgotten = match lineage.is_forgotten(vault, body.head.number) {
            // Verification tells of it; the point is what it is.
            Err(e) if e.is_of_one_object() => false,
            answer => answer?,
        };
        Self::known(vault, lineage, body, forgotten)
    }

    pub(crate) fn known(
        vault: &Arc<Inner>,
        lineage: &Lineage,
        body: Box<PointBody>,
        forgotten: bool,
    ) -> Result<Self, VaultError> {
        let name = ObjectName::Point(lineage.id, PointNumber(body.head.number));
        let point = body.to_point(forgotten).map_err(|e| VaultError::malformed(&name, e))?;
        Ok(Self { vault: Arc::clone(vault), lineage: lineage.clone(), body, point })
    }

    /// The same point with nothing remembered: what is read comes from the store.
    #[must_use]
    pub fn uncached(&self) -> Self {
        let vault = Arc::new(self.vault.with_objects(self.vault.objects.uncached()));
        Self { vault, ..self.clone() }
    }

    /// The disks whose content is stored, in order.
    pub fn stored_disks(&self) -> impl Iterator<Item = &DiskName> {
        self.point.disks.iter().filter(|disk| disk.stored.is_some()).map(|disk| &disk.description.name)
    }

    /// What the point says of itself.
    pub fn point(&self) -> &RecoveryPoint {
        &self.point
    }

    /// The point as a person writes it.
    pub fn reference(&self) -> PointRef {
        PointRef { vm: self.point.vm.clone(), selector: PointSelector::Number(self.point.id.number) }
    }

    /// The VM configuration stored with the point.
    pub fn config(&self, permit: &Permit<op::Restore>) -> Result<Option<&[u8]>, VaultError> {
        permit.check(&self.point.vm)?;
        Ok(self.body.config.as_deref())
    }

    /// What was seen when the snapshot was taken, as whoever made the point wrote it.
    pub fn snapshot_evidence(&self) -> Option<&[u8]> {
        self.body.snapshot.as_deref()
    }

    /// The keys of disks that their guests encrypt, as they were captured with the point; `None` when there are none.
    pub fn captured_keys(
        &self,
        permit: &Permit<op::RestoreKeys>,
    ) -> Result<Option<CapturedKeys>, VaultError> {
        permit.check(&self.point.vm)?;
        let Some(sealed) = &self.body.keys else { return Ok(None) };
        let name = captured_keys_name(self.lineage.id, self.point.id.number);
        let opened = |source| VaultError::open(&name, source);
        let epoch = RecordHead::parse(sealed).map_err(opened)?.branch.epoch;
        let key = self.lineage.domain.data_key_of(epoch)?;
        let plain = open_record(sealed, &name, key, RecordKind::CapturedKeys.number()).map_err(opened)?;
        let keys = CapturedKeys::decode(&Zeroizing::new(plain));
        keys.map(Some).map_err(|source| VaultError::GuestKeys { object: name, source: Box::new(source) })
    }

    /// The epoch of the data key that the captured keys need, as their record claims.
    pub(crate) fn epoch_of_captured_keys(&self) -> Option<u32> {
        let sealed = self.body.keys.as_ref()?;
        RecordHead::parse(sealed).ok().map(|head| head.branch.epoch)
    }

    /// The content of one stored disk.
    pub fn disk(&self, permit: &impl Reading, name: &DiskName) -> Result<DiskReader, VaultError> {
        permit.check_reading(&self.point.vm)?;
        self.reader(name)
    }

    /// As [`disk`](Self::disk), for what goes on within the vault.
    pub(crate) fn reader(&self, name: &DiskName) -> Result<DiskReader, VaultError> {
        let none = || VaultError::NoSuchDisk { point: self.reference(), disk: name.clone() };
        let disk = self.body.disks.iter().find(|disk| disk.name == name.as_str()).ok_or_else(none)?;
        let stored = disk.stored.as_ref().ok_or_else(none)?;
        let object = ObjectName::Point(self.lineage.id, self.point.id.number);
        let malformed = |e| VaultError::malformed(&object, e);
        let block_size: BlockSize = stored.block_size().map_err(malformed)?;
        let root = stored.root(disk.size).map_err(malformed)?;
        Ok(DiskReader::new(
            Arc::clone(&self.vault),
            self.lineage.clone(),
            (self.point.id.number, name.clone()),
            block_size,
            disk.size,
            root,
        ))
    }
}
