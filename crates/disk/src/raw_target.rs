//! A raw image being written: a new sparse file, or a block device that is there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;
use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::range::{cut, extent_within, on_disk, within};
use crate::raw::RawFile;
use crate::{BlockRead, BlockWrite, DiskError, DiskOperation};

/// What to do when the target of a new image exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave it alone and fail with [`DiskError::Exists`].
    Refuse,
    /// Empty the file that is there and write into it. Only a plain file is replaced.
    Replace,
}

/// A raw image opened for writing; it can be read back as well.
#[derive(Debug)]
pub struct RawTarget {
    disk: RawFile,
    file: File,
    /// Its folder, whose entry is made durable with the first sync; `None` for a device.
    folder: Option<PathBuf>,
}

impl RawTarget {
    /// Makes a sparse file of `len` zeros.
    pub fn create(path: impl AsRef<Path>, len: ByteLen, overwrite: Overwrite) -> Result<Self, DiskError> {
        let path = path.as_ref();
        let file = create_file(path, overwrite)?;
        if let Err(source) = file.set_len(len.0) {
            fs::remove_file(path).ok(); // nothing of worth is in it; the first error is the one to report
            return Err(creating(path, source));
        }
        let disk = RawFile::from_file(file.try_clone().map_err(|e| creating(path, e))?, path)?;
        Ok(Self { disk, file, folder: Some(folder_of(path)) })
    }

    /// Opens a block device to be written over.
    ///
    /// What it holds is lost where it is written, and kept elsewhere: unlike a new file it does not start as zeros.
    /// The open is exclusive: a device that is mounted, or otherwise claimed, is refused by the system as busy.
    pub fn open_device(path: impl AsRef<Path>) -> Result<Self, DiskError> {
        let path = path.as_ref();
        let opening = |e| DiskError::io(DiskOperation::Open, path.display().to_string(), None, e);
        if !fs::metadata(path).map_err(opening)?.file_type().is_block_device() {
            let reason = "not a block device; make a new image file instead".to_owned();
            return Err(DiskError::Unsupported { path: path.to_owned(), reason });
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flag_bits(OFlags::EXCL | OFlags::NOCTTY));
        let file = options.open(path).map_err(opening)?;
        let disk = RawFile::from_file(file.try_clone().map_err(opening)?, path)?;
        Ok(Self { disk, file, folder: None })
    }

    fn failed(&self, at: Option<Extent>, source: io::Error) -> DiskError {
        let operation = if at.is_some() { DiskOperation::Write } else { DiskOperation::Sync };
        DiskError::io(operation, self.disk.path().display().to_string(), at, source)
    }

    /// For file systems and devices that have no holes to punch.
    fn write_plain_zeroes(&self, extent: Extent) -> io::Result<()> {
        let zeros = [0; 1 << 12];
        let mut at = extent.start().0;
        while at < extent.end().0 {
            let n = cut(extent.end().0 - at, zeros.len());
            self.file.write_all_at(&zeros[..n], at)?;
            at += on_disk(n);
        }
        Ok(())
    }
}

/// Opens a file for a new image, empty and readable. Made for its owner alone: it will hold all that a VM knows.
pub(crate) fn create_file(path: &Path, overwrite: Overwrite) -> Result<File, DiskError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(flag_bits(OFlags::NONBLOCK | OFlags::NOCTTY));
    match overwrite {
        Overwrite::Refuse => options.create_new(true),
        Overwrite::Replace => options.create(true).truncate(false), // not before it is known to be a file
    };
    let file = options.open(path).map_err(|source| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            DiskError::Exists { path: path.to_owned() }
        } else {
            creating(path, source)
        }
    })?;
    if !file.metadata().map_err(|e| creating(path, e))?.is_file() {
        let reason = "not a file, and only files are replaced by a new image".to_owned();
        return Err(DiskError::Unsupported { path: path.to_owned(), reason });
    }
    file.set_len(0).map_err(|e| creating(path, e))?;
    Ok(file)
}

/// The folder that holds the entry of `path`.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(crate) fn creating(path: &Path, source: io::Error) -> DiskError {
    DiskError::io(DiskOperation::Create, path.display().to_string(), None, source)
}

fn flag_bits(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).expect("open flags are small positive numbers")
}

impl BlockRead for RawTarget {
    fn len(&self) -> ByteLen {
        BlockRead::len(&self.disk)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.disk.read_at(offset, buf)
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        self.disk.next_data(from)
    }
}

impl BlockWrite for RawTarget {
    fn len(&self) -> ByteLen {
        BlockRead::len(&self.disk)
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> Result<(), DiskError> {
        let range = within(offset, data.len(), BlockRead::len(self))?;
        self.file.write_all_at(data, offset.0).map_err(|e| self.failed(Some(range), e))
    }

    fn write_zeroes(&self, extent: Extent) -> Result<(), DiskError> {
        let extent = extent_within(extent, BlockRead::len(self))?;
        if extent.is_empty() {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zeroed = match rustix::fs::fallocate(&self.file, punch, extent.start().0, extent.len().0) {
            Ok(()) => Ok(()),
            // A device refuses a hole that is not of whole sectors as an invalid argument.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.write_plain_zeroes(extent),
            Err(e) => Err(e.into()),
        };
        zeroed.map_err(|e| self.failed(Some(extent), e))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_all().map_err(|e| self.failed(None, e))?;
        self.folder.as_deref().map_or(Ok(()), sync_folder).map_err(|e| self.failed(None, e))
    }
}
