//! A list of extents that may have changed.

use vmkeep_model::{ByteLen, ByteOffset, Extent, ExtentSet};

use super::{ChangeMethod, ChangeSource, ChangeSourceError, ExtentListError};

/// The extents of a disk that may have changed, exact to the byte.
///
/// [`from_json`](Self::from_json) reads what `qemu-img map` and `nbdinfo --map` print.
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
