//! Where it is known which parts of a disk may have changed.
//!
//! | source | knows it from | granularity |
//! |---|---|---|
//! | [`Everything`] | nothing: the whole disk is looked at | the disk |
//! | [`DirtyBitmap`] | what recorded writes, QEMU for one ([`vmkeep_disk::read_bitmap`]) | 512 bytes to 2 GiB |
//! | [`ExtentList`] | what `qemu-img map` or `nbdinfo --map` printed, or a list of one's own | 1 byte |
//!
//! Holes are no business of a source: a stretch that may have changed and is a hole now is found by
//! [`BlockRead::next_data`](vmkeep_disk::BlockRead::next_data) and costs no read.
//!
//! What a source says is believed as far as it says "changed": a block that it reports is read and compared. What it
//! does not report is not looked at, so a source that misses a change makes a wrong backup. That is what an
//! audit ([`AuditPlan`](crate::AuditPlan)) is for.

mod bitmap;
mod bitmap_bytes;
pub mod conformance;
mod list;
mod list_json;
mod runs;

use std::error::Error;
use std::fmt;

use thiserror::Error;
use vmkeep_model::{ByteLen, ByteOffset, ChangeMethod, Extent};

pub use bitmap::{DirtyBitmap, DirtyBitmapError, GRANULES_MAX};
pub use list::ExtentList;
pub use list_json::{ExtentListError, LIST_BYTES_MAX};
pub use runs::{changed_runs, unchanged_runs};

/// Says which parts of a disk may have changed since the base.
///
/// # Contract
/// - It may over-report; it must never under-report: every byte that differs from the base is in an extent that it
///   returns. Who cannot promise that returns an error, or is not used.
/// - Which bytes it reports does not depend on where it is asked from, nor on how often.
/// - It is asked about one disk, whose length does not change while the value lives.
///
/// [`conformance::check`] checks an implementation.
pub trait ChangeSource: Send + Sync + fmt::Debug {
    /// The next extent at or after `from` that may have changed; `None` when there are no more.
    ///
    /// It starts at or after `from`, is not empty and ends within the disk. The next call from its end goes on; two
    /// extents may touch. From the end of the disk on the answer is `None`.
    fn next_changed(&self, from: ByteOffset) -> Result<Option<Extent>, ChangeSourceError>;

    /// The smallest stretch that it tells apart, in bytes, at least 1. What it reports is rounded outwards to
    /// multiples of it, or to the end of the disk.
    fn granularity(&self) -> ByteLen;

    /// How the changes are known.
    fn method(&self) -> ChangeMethod;
}

/// A source could not say what changed. Whoever asked must look at the whole disk, or end.
#[derive(Debug, Error)]
#[error("cannot tell what changed by {method}")]
pub struct ChangeSourceError {
    /// How it was to be known.
    pub method: ChangeMethod,
    /// What went wrong.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

impl<T: ChangeSource + ?Sized> ChangeSource for std::sync::Arc<T> {
    fn next_changed(&self, from: ByteOffset) -> Result<Option<Extent>, ChangeSourceError> {
        (**self).next_changed(from)
    }

    fn granularity(&self) -> ByteLen {
        (**self).granularity()
    }

    fn method(&self) -> ChangeMethod {
        (**self).method()
    }
}

/// Says that all of a disk may have changed: the source of a first backup, and of one whose tracking was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Everything {
    disk_len: ByteLen,
}

impl Everything {
    /// All of a disk of `disk_len` bytes.
    pub fn new(disk_len: ByteLen) -> Self {
        Self { disk_len }
    }
}

impl ChangeSource for Everything {
    fn next_changed(&self, from: ByteOffset) -> Result<Option<Extent>, ChangeSourceError> {
        let rest = Extent::between(from, ByteOffset(self.disk_len.0));
        Ok((!rest.is_empty()).then_some(rest))
    }

    /// The whole disk; 1 for a disk without bytes.
    fn granularity(&self) -> ByteLen {
        self.disk_len.max(ByteLen(1))
    }

    fn method(&self) -> ChangeMethod {
        ChangeMethod::FullScan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_conforms() {
        for len in [0, 1, 511, 1 << 20, u64::MAX] {
            let last = Extent::between(ByteOffset(len.saturating_sub(1)), ByteOffset(len));
            conformance::check(&Everything::new(ByteLen(len)), &[last], ByteLen(len));
        }
    }
}
