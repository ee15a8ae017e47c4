//! qcow2, by the imago crate, with the checks that a backup needs and a general reader does not make.
//!
//! imago decodes the tables, unpacks compressed clusters and writes new images. Around it:
//!
//! - [`header`] reads the header first. It refuses what imago would read wrongly or not at all: encrypted images
//!   (whose ciphertext imago returns as data), zstd, subclusters, tables that cannot be.
//! - [`tables`] finds what lies behind the end of a file that was cut short. imago, like QEMU, reads zeros there;
//!   a backup of those zeros would look whole.
//! - [`image`] reads data clusters itself, straight into the caller's buffer and as many at once as there are
//!   callers. It opens backing files only through [`open`](crate::open()), which asks whether they are allowed.
//! - [`bitmap`] reads QEMU's persistent dirty bitmaps, which imago does not.
//! - [`wait`] runs imago's futures where the caller stands, inside an async program or not.

mod bitmap;
mod create;
mod header;
mod image;
mod stored;
mod tables;
mod wait;

pub use bitmap::{
    BITMAP_BYTES_MAX, Bitmap, BitmapError, BitmapInfo, Inconsistency, list_bitmaps, read_bitmap,
};
pub use create::Qcow2Target;
pub(crate) use header::{Header, MAGIC};
pub(crate) use image::Qcow2Image;
