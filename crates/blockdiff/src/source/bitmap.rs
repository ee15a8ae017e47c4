//! A dirty bitmap in memory.

use roaring::RoaringTreemap;
use thiserror::Error;
use vmkeep_disk::Bitmap;
use vmkeep_model::{ByteLen, ByteOffset, Extent};

use super::{ChangeMethod, ChangeSource, ChangeSourceError};

/// Most granules of one bitmap: a disk of 64 TiB at 512 bytes, of 8 PiB at 64 KiB. Past the bound
/// [`DirtyBitmap::new`] refuses; take a coarser granularity. At the bound a bitmap of one run takes about 100 MiB.
pub const GRANULES_MAX: u64 = 1 << 37;

/// log2 of the finest granularity: 512 bytes.
pub(super) const LOG2_MIN: u8 = 9;
/// log2 of the coarsest: 2 GiB.
pub(super) const LOG2_MAX: u8 = 31;

/// A set of granules of a disk that may have changed.
///
/// Kept as a roaring bitmap: a run costs a few bytes however long, scattered granules two bytes each, dense ones a bit
/// each. The numbers of granules pass 2^32 (32 TiB in pages of 4 KiB is 2^33), so it is the 64-bit kind.
///
/// ```
/// use vmkeep_blockdiff::{ChangeSource, DirtyBitmap};
/// use vmkeep_model::{ByteLen, ByteOffset, Extent};
///
/// let mut dirty = DirtyBitmap::new(ByteLen(1 << 30), ByteLen(65_536))?;
/// dirty.mark(Extent::new(ByteOffset(70_000), ByteLen(1)));
/// let found = dirty.next_changed(ByteOffset(0))?;
/// assert_eq!(found, Some(Extent::new(ByteOffset(65_536), ByteLen(65_536))));
///
/// assert_eq!(DirtyBitmap::decode(&dirty.encode())?, dirty);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DirtyBitmap {
    disk_len: ByteLen,
    log2: u8,
    granules: RoaringTreemap,
}

/// Why a dirty bitmap cannot be made, read or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DirtyBitmapError {
    /// The granularity is not a power of two from 512 bytes to 2 GiB.
    #[error("a granularity of {0} bytes is not a power of two from 512 bytes to 2 GiB")]
    Granularity(ByteLen),
    /// The disk has more than [`GRANULES_MAX`] granules.
    #[error(
        "a disk of {disk_len} bytes has more than {GRANULES_MAX} granules of {granularity} bytes; take a coarser granularity"
    )]
    TooFine {
        /// Size of the disk.
        disk_len: ByteLen,
        /// The granularity asked for.
        granularity: ByteLen,
    },
    /// The bitmap is about a disk of another size.
    #[error("the bitmap is about a disk of {about} bytes, not of {disk_len}")]
    WrongSize {
        /// Size of the disk that it is about.
        about: ByteLen,
        /// Size of the disk at hand.
        disk_len: ByteLen,
    },
    /// The bytes are not a bitmap of this crate.
    #[error("not a dirty bitmap: the magic number is missing")]
    Foreign,
    /// The bytes are a bitmap of a later version.
    #[error("a dirty bitmap of version {0}, which is not known")]
    Version(u16),
    /// The bytes were cut short, changed, or say what cannot be.
    #[error("the dirty bitmap is damaged: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl DirtyBitmap {
    /// A bitmap for a disk of `disk_len` bytes on which nothing changed yet. `granularity` is a power of two from
    /// 512 bytes to 2 GiB, as in QEMU.
    pub fn new(disk_len: ByteLen, granularity: ByteLen) -> Result<Self, DirtyBitmapError> {
        let log2 = u8::try_from(granularity.0.trailing_zeros()).unwrap_or(u8::MAX);
        if !granularity.0.is_power_of_two() || !(LOG2_MIN..=LOG2_MAX).contains(&log2) {
            return Err(DirtyBitmapError::Granularity(granularity));
        }
        if disk_len.0.div_ceil(granularity.0) > GRANULES_MAX {
            return Err(DirtyBitmapError::TooFine { disk_len, granularity });
        }
        Ok(Self { disk_len, log2, granules: RoaringTreemap::new() })
    }

    /// A bitmap of parts that were checked.
    pub(super) fn of_parts(disk_len: ByteLen, log2: u8, granules: RoaringTreemap) -> Self {
        Self { disk_len, log2, granules }
    }

    pub(super) fn log2(&self) -> u8 {
        self.log2
    }

    pub(super) fn granules(&self) -> &RoaringTreemap {
        &self.granules
    }

    /// Size of the disk that it is about.
    pub fn disk_len(&self) -> ByteLen {
        self.disk_len
    }

    /// Says that `extent` may have changed: every granule it touches. What lies behind the end of the disk is
    /// ignored.
    pub fn mark(&mut self, extent: Extent) {
        let extent = extent.intersection(Extent::new(ByteOffset(0), self.disk_len));
        if !extent.is_empty() {
            self.granules.insert_range(extent.start().0 >> self.log2..=(extent.end().0 - 1) >> self.log2);
        }
    }

    /// Adds what `other` says, rounded outwards where it is the finer one.
    ///
    /// # Errors
    /// [`DirtyBitmapError::WrongSize`] when it is about a disk of another size; then nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), DirtyBitmapError> {
        other.check_disk(self.disk_len)?;
        if self.log2 == other.log2 {
            self.granules |= &other.granules;
        } else {
            other.extents().for_each(|extent| self.mark(extent));
        }
        Ok(())
    }

    /// Whether it is about a disk of `disk_len` bytes; [`DirtyBitmapError::WrongSize`] otherwise.
    pub fn check_disk(&self, disk_len: ByteLen) -> Result<(), DirtyBitmapError> {
        if self.disk_len == disk_len {
            Ok(())
        } else {
            Err(DirtyBitmapError::WrongSize { about: self.disk_len, disk_len })
        }
    }

    /// The same for the disk after it grew to `disk_len` bytes: what was added may hold anything, and counts as
    /// changed.
    ///
    /// # Errors
    /// [`DirtyBitmapError::WrongSize`] when the disk is smaller than before, [`DirtyBitmapError::TooFine`] when it
    /// is too large for the granularity.
    pub fn grown_to(&self, disk_len: ByteLen) -> Result<Self, DirtyBitmapError> {
        if disk_len < self.disk_len {
            return Err(DirtyBitmapError::WrongSize { about: self.disk_len, disk_len });
        }
        let empty = Self::new(disk_len, self.granularity())?;
        let mut grown = Self { granules: self.granules.clone(), ..empty };
        grown.mark(Extent::between(ByteOffset(self.disk_len.0), ByteOffset(disk_len.0)));
        Ok(grown)
    }

    /// Bytes that may have changed.
    pub fn changed_bytes(&self) -> ByteLen {
        let granularity = self.granularity().0;
        let last = self.disk_len.0.div_ceil(granularity).saturating_sub(1);
        let count = self.granules.len();
        if !self.granules.contains(last) {
            return ByteLen(count * granularity);
        }
        // The last granule ends with the disk.
        ByteLen((count - 1) * granularity + (self.disk_len.0 - last * granularity))
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.granules.is_empty()
    }

    /// Every extent that may have changed, ascending, cut at the end of the disk. Two may touch.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        let mut from = ByteOffset(0);
        std::iter::from_fn(move || {
            let extent = self.next_extent(from)?;
            from = extent.end();
            Some(extent)
        })
    }

    fn next_extent(&self, from: ByteOffset) -> Option<Extent> {
        if from.0 >= self.disk_len.0 {
            return None;
        }
        let first = from.0 >> self.log2;
        self.granules.bitmaps().find_map(|(part, granules)| {
            // A part holds 2^32 granules.
            let base = u64::from(part) << 32;
            let low = u32::try_from(first.saturating_sub(base)).ok()?;
            let run = granules.range(low..).next_range()?;
            let start = (base + u64::from(*run.start())) << self.log2;
            let end = (base + u64::from(*run.end()) + 1).saturating_mul(1 << self.log2);
            Some(Extent::between(ByteOffset(start.max(from.0)), ByteOffset(end.min(self.disk_len.0))))
        })
    }
}

impl ChangeSource for DirtyBitmap {
    fn next_changed(&self, from: ByteOffset) -> Result<Option<Extent>, ChangeSourceError> {
        Ok(self.next_extent(from))
    }

    fn granularity(&self) -> ByteLen {
        ByteLen(1 << self.log2)
    }

    fn method(&self) -> ChangeMethod {
        ChangeMethod::DirtyBitmap
    }
}

/// What QEMU recorded, as a source.
///
/// # Errors
/// [`DirtyBitmapError::TooFine`] for more granules than [`GRANULES_MAX`].
impl TryFrom<&Bitmap> for DirtyBitmap {
    type Error = DirtyBitmapError;

    fn try_from(recorded: &Bitmap) -> Result<Self, DirtyBitmapError> {
        let mut bitmap = Self::new(recorded.disk_len(), recorded.granularity())?;
        recorded.extents().for_each(|extent| bitmap.mark(extent));
        Ok(bitmap)
    }
}
