//! A whole disk out of a point.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vmkeep_disk::BlockWrite;
use vmkeep_model::{BlockRun, ByteLen, CancelToken};
use vmkeep_vault::DiskReader;

use crate::windows::for_each_window;
use crate::{Event, Observer, RestoreError, Settings};

/// A disk that was copied and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Copied {
    /// Size of the disk.
    pub size: ByteLen,
    /// Bytes of data written; the rest are zeros.
    pub written: ByteLen,
}

/// Writes the content of `disk` to `target`, which must be as long and hold only zeros, and syncs it.
///
/// Only blocks that hold data are written, so a sparse target stays sparse. After an error the target holds part
/// of the disk and must not be used. When a sweep took the point meanwhile the error says so
/// ([`RestoreError::is_swept`]): pin a point that may be forgotten.
pub fn copy_disk(
    disk: &DiskReader,
    target: &dyn BlockWrite,
    settings: &Settings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<Copied, RestoreError> {
    let (name, size, block_size) = (disk.name(), disk.size(), disk.block_size());
    if target.len() != size {
        return Err(RestoreError::Size { disk: name.clone(), size, target: target.len() });
    }
    let stored = ByteLen(disk.stored_blocks() * block_size.bytes_u64());
    observer.event(Event::DiskBegan { disk: name, size, stored });
    let vault_error = |source| RestoreError::of_disk(disk, source);
    let target_error = |source| RestoreError::Target { disk: name.clone(), source };
    let written = AtomicU64::new(0);
    for_each_window(disk, settings, cancel, |window| {
        let mut failed = None;
        let fetched = disk.fetch(window, &mut |block, bytes| {
            cancel.check()?;
            if failed.is_some() {
                return Ok(());
            }
            match bytes {
                Err(e) => failed = Some(vault_error(e)),
                Ok(bytes) => {
                    let extent = block_size.extent_of(BlockRun { start: block, len: 1 }, size);
                    // The tail block is stored padded.
                    let len = usize::try_from(extent.len().0).unwrap_or(bytes.len());
                    failed = target.write_at(extent.start(), &bytes[..len]).map_err(target_error).err();
                    written.fetch_add(extent.len().0, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        if let Some(error) = failed {
            return Err(error);
        }
        fetched.map_err(|e| {
            if e.is_cancelled() { vmkeep_model::Cancelled.into() } else { vault_error(Arc::new(e)) }
        })?;
        let bytes = ByteLen(window.len() as u64 * block_size.bytes_u64());
        observer.event(Event::Progress { disk: name, bytes });
        Ok(())
    })?;
    target.sync().map_err(target_error)?;
    observer.event(Event::DiskDone { disk: name });
    Ok(Copied { size, written: ByteLen(written.into_inner()) })
}
