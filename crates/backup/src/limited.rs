//! Limits on what a walk reads and writes per second.

use std::num::NonZeroU64;
use std::sync::Arc;

use vmkeep_blockdiff::{Limiter, TokenBucket};
use vmkeep_disk::{BlockRead, DiskError, DiskOperation};
use vmkeep_model::{ByteLen, ByteOffset, CancelToken, Cancelled, DiskName, Extent, PAGE_SIZE};

use crate::BackupError;

/// How fast a walk may read its disks and write to the vault, for all disks together; by default as fast as it can.
///
/// Limiters may be shared by several walks. Two values are equal when they hold the very same limiters.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Bytes read from the disks. Holes are not read and cost nothing.
    pub read: Option<Arc<Limiter>>,
    /// Bytes of data written to the vault: frames, after compression. Metadata (maps, records) is not held up.
    pub write: Option<Arc<Limiter>>,
}

impl PartialEq for Limits {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Limiter>>, b: &Option<Arc<Limiter>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same(&self.read, &other.read) && same(&self.write, &other.write)
    }
}

impl Eq for Limits {}

impl Limits {
    /// Limits in bytes per second, by the clock of the system; `None` is no limit.
    ///
    /// ```
    /// use std::num::NonZeroU64;
    /// use vmkeep_backup::{Limits, Settings};
    ///
    /// let limits = Limits::per_second(NonZeroU64::new(100 << 20), None); // reads at 100 MiB/s
    /// let settings = Settings { limits, ..Settings::default() };
    /// assert!(settings.limits.write.is_none());
    /// ```
    pub fn per_second(read: Option<NonZeroU64>, write: Option<NonZeroU64>) -> Self {
        let limiter = |rate| Arc::new(Limiter::new(TokenBucket::per_second(rate)));
        Self { read: read.map(limiter), write: write.map(limiter) }
    }

    /// `disk`, read no faster than this allows.
    pub(crate) fn reading<'a>(&'a self, disk: &'a dyn BlockRead, cancel: &'a CancelToken) -> Limited<'a> {
        Limited { disk, limiter: self.read.as_deref(), cancel }
    }

    /// Waits until `body` may be written.
    pub(crate) fn before_write(&self, body: &[u8], cancel: &CancelToken) -> Result<(), BackupError> {
        match &self.write {
            Some(limiter) => Ok(limiter.acquire(ByteLen(body.len() as u64), cancel)?),
            None => Ok(()),
        }
    }
}

/// A disk that is read no faster than a limiter allows.
#[derive(Debug)]
pub(crate) struct Limited<'a> {
    disk: &'a dyn BlockRead,
    limiter: Option<&'a Limiter>,
    cancel: &'a CancelToken,
}

impl BlockRead for Limited<'_> {
    fn len(&self) -> ByteLen {
        self.disk.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let Some(limiter) = self.limiter else { return self.disk.read_at(offset, buf) };
        // Whoever waits for a second piece lets others go first, so a long read of one disk holds up none.
        let mut at = offset.0;
        for piece in buf.chunks_mut(piece_len(limiter.burst())) {
            let len = ByteLen(piece.len() as u64);
            let extent = Extent::new(ByteOffset(at), len);
            limiter.acquire(len, self.cancel).map_err(|cancelled| {
                let source = std::io::Error::other(cancelled);
                DiskError::io(DiskOperation::Read, format!("{:?}", self.disk), Some(extent), source)
            })?;
            self.disk.read_at(ByteOffset(at), piece)?;
            at = at.saturating_add(len.0);
        }
        Ok(())
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        self.disk.next_data(from)
    }
}

/// Bytes to read at a time: a burst, of whole pages where it holds one.
fn piece_len(burst: ByteLen) -> usize {
    let burst = usize::try_from(burst.0).unwrap_or(usize::MAX);
    if burst < PAGE_SIZE { burst.max(1) } else { burst - burst % PAGE_SIZE }
}

/// Why `disk` could not be read; being cancelled while waiting to read is being cancelled.
pub(crate) fn unread(disk: &DiskName) -> impl Fn(DiskError) -> BackupError + '_ {
    let is_cancelled = |source: &std::io::Error| {
        source.get_ref().and_then(|inner| inner.downcast_ref::<Cancelled>()).is_some()
    };
    move |source| match &source {
        DiskError::Io { source, .. } if is_cancelled(source) => BackupError::Cancelled(Cancelled),
        _ => BackupError::Read { disk: disk.clone(), source },
    }
}
