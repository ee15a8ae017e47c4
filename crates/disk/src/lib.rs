//! Disks as the seam between a VM and its protection.
//!
//! A disk that is backed up is a [`BlockRead`], a disk that is restored to is a [`BlockWrite`]. The walks know
//! nothing else about disks, and an embedder may bring their own. This crate has the usual ones:
//!
//! | disk | reads | writes | holes |
//! |---|---|---|---|
//! | [`open`] on a raw image or block device, past the page cache if wished | yes | | of files |
//! | [`open`] on qcow2, with its backing chain | yes | | yes |
//! | [`open`] on VHD, fixed and dynamic | yes | | yes |
//! | [`RawTarget`], a new sparse file or a block device | yes | yes | of files |
//! | [`Qcow2Target`], a new qcow2 image | yes | yes | yes |
//! | [`Overlay`], writes in memory over another disk | yes | yes | yes |
//! | [`Memory`], [`SparseMemory`] | yes | yes | yes |
//!
//! ```
//! use vmkeep_disk::{BlockRead, BlockWrite, OpenOptions, Overwrite, RawTarget, open};
//! use vmkeep_model::{ByteLen, ByteOffset, Extent};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("disk.raw");
//! let target = RawTarget::create(&path, ByteLen(1 << 30), Overwrite::Refuse)?; // a hole of 1 GiB
//! target.write_at(ByteOffset(4096), b"data")?;
//! target.sync()?;
//!
//! let disk = open(&path, &OpenOptions::default())?;
//! let mut word = [0; 4];
//! disk.read_at(ByteOffset(4096), &mut word)?;
//! assert_eq!(&word, b"data");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds for all of them
//! - A read returns what is on the disk or an error, never made-up bytes. A file that was cut short is
//!   [`DiskError::Damaged`] or [`DiskError::Shrank`] where its data is missing, not zeros.
//! - A hole is certain: what [`BlockRead::next_data`] leaves out reads as zeros.
//! - An image opens no other file unless the caller allowed it by path, and an image that is encrypted is refused
//!   ([`OpenOptions`] tells why the format should be given for raw disks).
//! - Everything may be called from several threads at once, inside an async program or not. No thread is started.
//!
//! What changed on a disk since a moment is known where QEMU recorded it: [`read_bitmap`] reads the dirty bitmaps that
//! a qcow2 image keeps.
//!
//! [`conformance`] is this contract as tests, for implementations elsewhere too.
//!
//! # What it does not do
//! It takes no snapshot: a disk that a VM writes to while it is read is torn. It reads no VHDX and no VMDK; the error
//! names the conversion. It does not lock an image against other programs.

mod error;
mod seam;

mod direct;
mod open;
mod range;
mod raw;
mod raw_target;

mod chunk;
mod memory;
mod overlay;
mod sparse;

mod qcow2;
mod used;
mod vhd;

pub mod conformance;
#[doc(hidden)]
pub mod fuzzing;

pub use error::{DiskError, DiskOperation};
pub use memory::Memory;
pub use open::{Format, OpenOptions, open};
pub use overlay::Overlay;
pub use qcow2::{
    BITMAP_BYTES_MAX, Bitmap, BitmapError, BitmapInfo, Inconsistency, Qcow2Target, list_bitmaps, read_bitmap,
};
pub use raw::RawFile;
pub use raw_target::{Overwrite, RawTarget};
pub use seam::{BlockRead, BlockWrite};
pub use sparse::SparseMemory;
pub use used::{FileSystemKind, FileSystemUse, file_system_use, used_bytes};
pub use vhd::fixed_vhd_footer;
