//! Which blocks of a disk changed.
//!
//! [`Segments`] walks a disk and what it was before side by side, in ascending order, and cuts what must be looked
//! at into [`Segment`]s; [`scan`] reads one segment and says per block what became of it. Segments are
//! independent, so scans may run on several threads; each block is read once, and the buffer it was read into is
//! the buffer that goes on.
//!
//! "Unchanged" is decided by a keyed hash of the whole block ([`BlockHasher`]) and by nothing weaker. A hole of the
//! source is zeros without being read; a block of zeros is in [`Scanned::zeroed`] only when it held data before.
//!
//! What surrounds the diff, each useful without the others:
//!
//! - [`ChangeSource`] says which parts may have changed since the base, so that the rest is not read: a
//!   [`DirtyBitmap`], an [`ExtentList`] of `qemu-img map` or `nbdinfo --map`, or [`Everything`];
//! - [`AuditPlan`] picks blocks to look at although a source calls them unchanged, and [`detection_probability`] says
//!   what that finds;
//! - [`RunHistogram`], [`churn_per_day`] and [`change_warnings`] tell how changes lie, how fast they come, and what of
//!   that makes backups slow;
//! - [`Limiter`] holds reads and writes to so many bytes per second.
//!
//! The crate knows no vault: what a disk was before comes in as an iterator of block hashes.
//!
//! ```
//! use vmkeep_blockdiff::{Segments, scan, ScanBuffer, SegmentSize};
//! use vmkeep_disk::Memory;
//! use vmkeep_model::{BlockSize, ByteOffset, ContentHash};
//! # use vmkeep_disk::BlockWrite;
//!
//! // A stand-in; a real one is keyed and collision resistant.
//! let hasher = |block: &[u8]| ContentHash([block[0]; 16]);
//! let disk = Memory::new(1 << 20);
//! disk.write_at(ByteOffset(65_536), b"new")?;
//!
//! let before = std::iter::empty::<Result<(_, ContentHash), std::convert::Infallible>>();
//! let mut changed = Vec::new();
//! for segment in Segments::new(&disk, BlockSize::default(), SegmentSize::default(), before) {
//!     let scanned = scan(&disk, &segment?, &hasher, &mut ScanBuffer::default())?;
//!     changed.extend(scanned.data.iter().map(|chunk| chunk.block.0));
//! }
//! assert_eq!(changed, [1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod audit;
mod fingerprint_file;
#[doc(hidden)]
pub mod fuzzing;
mod limit;
mod page;
mod scan;
mod segment;
mod shape;
mod source;

pub use audit::{AuditPlan, AuditRate, AuditSettings, detection_probability, sample_size_for};
pub use fingerprint_file::{FingerprintError, FingerprintFile, default_limit};
pub use limit::{Limiter, SystemWaiter, Take, TokenBucket, Waiter};
pub use page::{
    Fingerprints, NoFingerprints, PageHasher, PreviousContent, Was, changed_pages, pages_to_store,
};
pub use scan::{BlockHasher, Chunk, PageDiff, ScanBuffer, Scanned, is_zero, scan, scan_pages};
pub use segment::{Before, Segment, SegmentError, SegmentSize, Segments};
pub use shape::{
    ChangeFacts, ChangeShape, ChangeWarning, ChurnSample, Fragmentation, RunBucket, RunHistogram, Thresholds,
    change_warnings, churn_per_day,
};
pub use source::{
    ChangeSource, ChangeSourceError, DirtyBitmap, DirtyBitmapError, Everything, ExtentList, ExtentListError,
    GRANULES_MAX, LIST_BYTES_MAX, changed_runs, conformance, unchanged_runs,
};
pub use vmkeep_model::ChangeMethod;
