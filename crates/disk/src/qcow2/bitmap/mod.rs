//! QEMU's persistent dirty bitmaps, read out of a qcow2 file that nobody has open.
//!
//! A dirty bitmap has one bit per `granularity` bytes of the disk; a set bit says that something there was written
//! while the bitmap was recording. Where they lie in the file (QEMU's `docs/interop/qcow2.txt`, "Bitmaps extension"
//! and "Bitmaps"):
//!
//! ```text
//! header ─ extension 0x23852875 ─► directory ─ one entry per bitmap ─► table ─ one entry per cluster ─► bits
//! ```
//!
//! QEMU writes a bitmap back when it closes the image. Until then the copy in the file is old, and is marked
//! [in use](Inconsistency::InUse): such a bitmap misses changes and is never read here. Numbers are big endian, bits
//! are counted from the lowest of each byte.

mod directory;
mod error;
mod locate;
mod table;

use std::fmt;

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::BlockRead;
use directory::{Directory, Entry};
pub use error::{BitmapError, Inconsistency};
use locate::Image;
use table::Bits;

/// Most bytes that the bits of one bitmap may take, as in QEMU: 512 MiB, which is 256 TiB of disk at 64 KiB. At the
/// bound the image is called damaged, before anything of that size is read.
pub const BITMAP_BYTES_MAX: u64 = 512 << 20;

/// What the directory says of one bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name, unique in the image; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Bytes of disk that one bit stands for: a power of two from 512 bytes to 2 GiB.
    pub granularity: ByteLen,
    /// Whether QEMU records writes in it whenever it has the image open (the flag `auto`). A bitmap that does not
    /// record says nothing about writes since it stopped.
    pub recording: bool,
    /// Why it must not be trusted, if so.
    pub inconsistent: Option<Inconsistency>,
}

/// The bits of one bitmap, all in memory: at most [`BITMAP_BYTES_MAX`], stretches of equal bits not counted.
#[derive(Clone)]
pub struct Bitmap {
    info: BitmapInfo,
    disk_len: ByteLen,
    bits: Bits,
}

/// The bitmaps of the qcow2 image in `image`, in the order of the image; none for an image that holds none.
///
/// `image` is the file itself, not the disk in it: [`RawFile::open`](crate::RawFile::open) on its path.
pub fn list_bitmaps(image: &dyn BlockRead) -> Result<Vec<BitmapInfo>, BitmapError> {
    let Some((_, directory)) = directory_of(image)? else { return Ok(Vec::new()) };
    Ok(directory.entries.iter().map(|entry| directory.info(entry)).collect())
}

/// Reads the bitmap `name` of the qcow2 image in `image`.
///
/// # Errors
/// - [`BitmapError::NoSuchBitmap`] lists the names there are.
/// - [`BitmapError::Inconsistent`] when the bitmap misses changes: whoever asks must look at the whole disk.
/// - [`BitmapError::WrongSize`] when it is not about a disk of the size of this one.
/// - [`BitmapError::Damaged`] when anything does not lie where it must, or cannot be.
pub fn read_bitmap(image: &dyn BlockRead, name: &str) -> Result<Bitmap, BitmapError> {
    let none = |there: Vec<String>| BitmapError::NoSuchBitmap { name: name.to_owned(), there };
    let (file, directory) = directory_of(image)?.ok_or_else(|| none(Vec::new()))?;
    let Some(entry) = directory.entries.iter().find(|entry| entry.name == name) else {
        return Err(none(directory.entries.iter().map(|entry| entry.name.clone()).collect()));
    };
    let info = directory.info(entry);
    if let Some(why) = info.inconsistent {
        return Err(BitmapError::Inconsistent { name: info.name, why });
    }
    let bits = Bits::read(&file, entry)?;
    Ok(Bitmap { info, disk_len: file.disk_len, bits })
}

fn directory_of(file: &dyn BlockRead) -> Result<Option<(Image<'_>, Directory)>, BitmapError> {
    let Some((image, place)) = Image::locate(file)? else { return Ok(None) };
    let directory = Directory::read(&image, &place)?;
    Ok(Some((image, directory)))
}

impl Directory {
    fn info(&self, entry: &Entry) -> BitmapInfo {
        BitmapInfo {
            name: entry.name.clone(),
            granularity: ByteLen(1 << entry.granularity_bits),
            recording: entry.recording(),
            inconsistent: if self.stale { Some(Inconsistency::Stale) } else { entry.inconsistency() },
        }
    }
}

impl Bitmap {
    /// What the directory says of it.
    pub fn info(&self) -> &BitmapInfo {
        &self.info
    }

    /// Size of the disk that it is about.
    pub fn disk_len(&self) -> ByteLen {
        self.disk_len
    }

    /// Bytes of disk that one bit stands for.
    pub fn granularity(&self) -> ByteLen {
        self.info.granularity
    }

    /// The stretches whose bits are set: ascending, not touching one another, cut at the end of the disk.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = self.bits.find(next, true)?;
            let end = self.bits.find(start, false).unwrap_or(self.bits.count());
            next = end;
            Some(Extent::between(self.at(start), self.at(end)))
        })
    }

    /// Where the stretch of bit `bit` begins, or the end of the disk when that comes first.
    fn at(&self, bit: u64) -> ByteOffset {
        let start = bit.saturating_mul(self.info.granularity.0);
        ByteOffset(start.min(self.disk_len.0))
    }
}

impl fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bitmap")
            .field("info", &self.info)
            .field("disk_len", &self.disk_len)
            .finish_non_exhaustive()
    }
}
