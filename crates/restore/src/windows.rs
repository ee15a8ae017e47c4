//! Stored blocks in windows, worked on by several threads.

use std::sync::{Mutex, PoisonError};
use std::thread;

use vmkeep_model::{BlockIndex, BlockSize, CancelToken};
use vmkeep_vault::DiskReader;
use vmkeep_vault::map::Entry;

use crate::RestoreError;

/// How to read a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Threads that fetch, open and check; 1 does everything on the caller's.
    pub workers: usize,
    /// Memory for data on its way, in bytes. Caches of the vault come on top (32 MiB).
    pub memory_bytes: usize,
}

impl Default for Settings {
    /// A worker per processor (at most 8), 128 MiB.
    fn default() -> Self {
        let workers = thread::available_parallelism().map_or(1, usize::from).min(8);
        Self { workers, memory_bytes: 128 << 20 }
    }
}

/// Map entries of a window: what is remembered of a block on its way, in bytes.
const ENTRY_BYTES: usize = 256;
/// Bytes of disk that a window covers at most: frames that lie on its edge are read twice.
const WINDOW_BYTES: usize = 32 << 20;

impl Settings {
    pub(crate) fn window_blocks(&self, block_size: BlockSize) -> usize {
        let fits = self.memory_bytes / self.workers.max(1) / 2 / ENTRY_BYTES;
        (WINDOW_BYTES / block_size.bytes()).clamp(1, fits.max(1))
    }
}

/// Gives `work` every window of stored blocks of `disk`, on several threads, in no particular order of ends.
///
/// The first error ends it and is returned.
pub(crate) fn for_each_window(
    disk: &DiskReader,
    settings: &Settings,
    cancel: &CancelToken,
    work: impl Fn(&[(BlockIndex, Entry)]) -> Result<(), RestoreError> + Sync,
) -> Result<(), RestoreError> {
    let window_blocks = settings.window_blocks(disk.block_size());
    let vault_error = |source| RestoreError::of_disk(disk, std::sync::Arc::new(source));
    let entries = Mutex::new((disk.entries(BlockIndex(0)).map_err(vault_error)?, false));
    let failed = Mutex::new(None);
    let take = || -> Result<Vec<(BlockIndex, Entry)>, RestoreError> {
        let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.1 {
            return Ok(Vec::new());
        }
        cancel.check()?;
        entries.0.by_ref().take(window_blocks).collect::<Result<_, _>>().map_err(vault_error)
    };
    let stop = |error: RestoreError| {
        entries.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    let run = || {
        loop {
            match take() {
                Ok(window) if window.is_empty() => return,
                Ok(window) => {
                    if let Err(error) = work(&window) {
                        return stop(error);
                    }
                }
                Err(error) => return stop(error),
            }
        }
    };
    if settings.workers <= 1 {
        run();
    } else {
        thread::scope(|scope| (0..settings.workers).for_each(|_| drop(scope.spawn(run))));
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.map_or(Ok(()), Err)
}
