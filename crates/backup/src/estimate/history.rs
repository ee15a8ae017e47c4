//! What the last backups of a VM found and took.

use vmkeep_blockdiff::ChurnSample;
use vmkeep_model::{
    ByteLen, DiskName, PAGE_SIZE, PointNumber, PointRef, PointSelector, RecoveryPoint, StoredDisk,
};
use vmkeep_vault::{JobFacts, OpenPoint, Vault, VaultError};

use super::{Ratio, RatioFrom};

/// The last points of a VM, oldest first, each with what its backup took.
#[derive(Debug, Default)]
pub(super) struct LastRuns(Vec<(RecoveryPoint, JobFacts)>);

/// The last `most` points up to `newest`, each the base of the next. A gap ends them: what is before it says nothing
/// of the time in between.
pub(super) fn last_runs(
    vault: &Vault,
    newest: Option<&OpenPoint>,
    most: usize,
) -> Result<LastRuns, VaultError> {
    let mut runs = Vec::new();
    let mut next = newest.filter(|_| most > 0).cloned();
    while let Some(point) = next {
        runs.push((point.point().clone(), point.job()));
        next = match point.point().base {
            Some(base) if runs.len() < most => before(vault, point.point(), base)?,
            _ => None,
        };
    }
    runs.reverse();
    Ok(LastRuns(runs))
}

/// The point `number` that `point` was made against, if it is still there and whole.
fn before(
    vault: &Vault,
    point: &RecoveryPoint,
    number: PointNumber,
) -> Result<Option<OpenPoint>, VaultError> {
    let reference = PointRef { vm: point.vm.clone(), selector: PointSelector::Number(number) };
    match vault.point(&reference) {
        Ok(before) => Ok(Some(before)),
        Err(VaultError::NoSuchPoint { .. } | VaultError::PointSwept { .. }) => Ok(None),
        Err(e) if e.is_of_one_object() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Bytes of blocks and pages that a point stored of a disk, before compression.
fn plain(disk: &StoredDisk) -> u64 {
    let patched = disk.patched_blocks.saturating_mul(disk.block_size.bytes_u64());
    let pages = disk.patched_pages.saturating_mul(PAGE_SIZE as u64);
    disk.changed.0.saturating_sub(patched).saturating_add(pages)
}

impl LastRuns {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Changed bytes of all disks by time.
    pub(super) fn churn(&self) -> Vec<ChurnSample> {
        let changed = |point: &RecoveryPoint| {
            let disks = point.disks.iter().filter_map(|disk| disk.stored.as_ref());
            disks.fold(0_u64, |sum, disk| sum.saturating_add(disk.changed.0))
        };
        let sample =
            |point: &RecoveryPoint| ChurnSample { at: point.created, changed: ByteLen(changed(point)) };
        self.0.iter().map(|(point, _)| sample(point)).collect()
    }

    /// The same of one disk, from when it was there.
    pub(super) fn churn_of(&self, name: &DiskName) -> Vec<ChurnSample> {
        let sample = |point: &RecoveryPoint| {
            let disk = point.disks.iter().find(|disk| disk.description.name == *name)?;
            Some(ChurnSample { at: point.created, changed: disk.stored.as_ref()?.changed })
        };
        self.0.iter().filter_map(|(point, _)| sample(point)).collect()
    }

    /// What was stored of what changed.
    pub(super) fn ratio(&self) -> Option<Ratio> {
        let (mut all, mut stored) = (0_u64, 0_u64);
        for (point, job) in &self.0 {
            let disks = point.disks.iter().filter_map(|disk| disk.stored.as_ref());
            all = disks.fold(all, |sum, disk| sum.saturating_add(plain(disk)));
            stored = stored.saturating_add(job.bytes_stored);
        }
        Ratio::new(RatioFrom::LastRuns, all, stored)
    }

    /// How long it takes to read `bytes` at the speed of these runs; `None` when they do not tell.
    pub(super) fn duration_ms(&self, bytes: u64) -> Option<u64> {
        let (read, took) = self.0.iter().fold((0_u128, 0_u128), |(read, took), (_, job)| {
            (read + u128::from(job.bytes_read), took + u128::from(job.duration_ms))
        });
        let ms = (u128::from(bytes) * took).checked_div(read).filter(|_| took > 0)?;
        u64::try_from(ms).ok()
    }
}
