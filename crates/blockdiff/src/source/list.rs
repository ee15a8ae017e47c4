//! A list of extents that may have changed.

use vmkeep_model::{ByteLen, ByteOffset, Extent, ExtentSet};

use super::{ChangeMethod, ChangeSource, ChangeSourceError, ExtentListError};

/// The extents of a disk that may have changed, exact to the byte.
///
/// # Forms
/// [`from_json`](Self::from_json) reads what these programs print:
///
/// | printed by | fields of an entry | may have changed |
/// |---|---|---|
/// | `qemu-img map --output=json` | `start`, `length`, `depth`, `present`, `zero`, `data` | `depth` 0, whatever it holds |
/// | `nbdinfo --map=qemu:dirty-bitmap:NAME --json` | `offset`, `length`, `type`, `description` | type 1, "dirty" |
/// | `nbdinfo --map=qemu:allocation-depth --json` | the same | type 1, "local" |
/// | `nbdinfo --map --json` (`base:allocation`) | the same | all of it |
/// | whoever knows | `offset`, `length` | all that is listed |
///
/// Why it is so:
/// - `depth` counts the images of a backing chain from the top. When an overlay is made at the moment of the base,
///   what is found in the overlay itself (depth 0: data, and zeros that were written or discarded there) was written
///   since; what is found deeper, or nowhere in the chain, was not. `present` is false both for what no image holds
///   and for the part of an overlay behind the end of its backing image; the depth decides. An image without a
///   backing image is all depth 0, and all of it may have changed.
/// - In `base:allocation`, a hole that reads as zeros may have held data at the base. So it tells nothing about
///   changes; it is read so that handing over the wrong listing costs time and not a change.
/// - `type` 0 is "clean" in one listing of `nbdinfo` and "data" in another, so an entry without a description that is
///   known is refused.
/// - The programs list a disk without gaps. A listing that begins later, has a gap or ends early was cut
///   (`--start-offset`, `--max-length`, a pipe that broke) or is about another disk, and is refused. An end rounded
///   up to a sector of 512 bytes is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentList {
    extents: ExtentSet,
    disk_len: ByteLen,
}

impl ExtentList {
    /// The changes `extents` of a disk of `disk_len` bytes.
    ///
    /// # Errors
    /// [`ExtentListError::PastEnd`] when one of them passes the end of the disk, with its number in the set.
    pub fn new(extents: ExtentSet, disk_len: ByteLen) -> Result<Self, ExtentListError> {
        let past_end = extents.iter().position(|extent| extent.end().0 > disk_len.0);
        if let Some(entry) = past_end {
            let end = extents.as_slice()[entry].end();
            return Err(ExtentListError::PastEnd { entry, end, disk_len });
        }
        Ok(Self { extents, disk_len })
    }

    /// The extents: ascending, neither overlapping nor touching.
    pub fn extents(&self) -> &ExtentSet {
        &self.extents
    }

    /// Size of the disk that it is about.
    pub fn disk_len(&self) -> ByteLen {
        self.disk_len
    }
}

impl ChangeSource for ExtentList {
    fn next_changed(&self, from: ByteOffset) -> Result<Option<Extent>, ChangeSourceError> {
        let extents = self.extents.as_slice();
        let next = extents.get(extents.partition_point(|extent| extent.end() <= from));
        Ok(next.map(|extent| Extent::between(extent.start().max(from), extent.end())))
    }

    fn granularity(&self) -> ByteLen {
        ByteLen(1)
    }

    fn method(&self) -> ChangeMethod {
        ChangeMethod::ExtentList
    }
}
