//! A raw image: a sparse file or a block device, read as it is.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, SeekFrom as Whence};
use rustix::io::Errno;
use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::range::{in_memory, on_disk, within};
use crate::{BlockRead, DiskError, DiskOperation};

/// A raw image file or a block device, opened read-only.
///
/// Holes of a file are found by `SEEK_DATA`, where the file system can tell; a block device is all data.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    path: PathBuf,
    len: ByteLen,
    holes: Holes,
}

/// Whether the system can be asked where the holes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holes {
    Sought,
    Unknown,
}

impl RawFile {
    /// Opens a file or a block device. Anything else (a directory, a pipe, a character device) is
    /// [`DiskError::Unsupported`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DiskError> {
        let path = path.as_ref();
        // Without NONBLOCK the open of a pipe would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| opening(path, e.into()))?;
        Self::from_file(File::from(fd), path)
    }

    /// A disk of what was opened already; `path` is for messages.
    pub(crate) fn from_file(mut file: File, path: &Path) -> Result<Self, DiskError> {
        let metadata = file.metadata().map_err(|e| opening(path, e))?;
        let kind = metadata.file_type();
        let (len, holes) = if kind.is_file() {
            (metadata.len(), Holes::Sought)
        } else if kind.is_block_device() {
            (file.seek(SeekFrom::End(0)).map_err(|e| opening(path, e))?, Holes::Unknown)
        } else {
            let reason = "not a disk: it is neither a file nor a block device".to_owned();
            return Err(DiskError::Unsupported { path: path.to_owned(), reason });
        };
        Ok(Self { file, path: path.to_owned(), len: ByteLen(len), holes })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second handle on the same open file.
    pub(crate) fn handle(&self) -> Result<File, DiskError> {
        self.file.try_clone().map_err(|e| opening(&self.path, e))
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn shrank(&self, range: Extent) -> DiskError {
        DiskError::Shrank { disk: self.name(), range, len: self.len }
    }

    fn mapping(&self, rest: Extent, source: io::Error) -> DiskError {
        DiskError::io(DiskOperation::Map, self.name(), Some(rest), source)
    }

    /// Fails when the file is now shorter than it was; what is behind its end is lost, not a hole.
    pub(crate) fn check_not_shrunk(&self, range: Extent) -> Result<(), DiskError> {
        if self.holes == Holes::Unknown {
            return Ok(()); // a device; its metadata has no length, and reads behind its end fail
        }
        let now = self.file.metadata().map_err(|e| self.mapping(range, e))?.len();
        if now < self.len.0 { Err(self.shrank(range)) } else { Ok(()) }
    }

    /// The next data in `rest`, as the system tells it; all of `rest` where it cannot tell.
    ///
    /// `lseek` returns the position it moves to, so the position that all handles share carries nothing from one
    /// call to the next, and threads may ask at once; reads are `pread` and do not use it.
    fn seek_data(&self, rest: Extent) -> Result<Option<Extent>, DiskError> {
        let start = match rustix::fs::seek(&self.file, Whence::Data(rest.start().0)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return self.check_not_shrunk(rest).map(|()| None),
            Err(e) if cannot_seek_data(e) => return Ok(Some(rest)),
            Err(e) => return Err(self.mapping(rest, e.into())),
        };
        if start >= self.len.0 {
            return Ok(None); // data behind the end: the file has grown
        }
        let end = match rustix::fs::seek(&self.file, Whence::Hole(start)) {
            Ok(end) => end.min(self.len.0),
            Err(Errno::NXIO) => return Err(self.shrank(rest)),
            Err(e) => return Err(self.mapping(rest, e.into())),
        };
        let data = Extent::between(ByteOffset(start), ByteOffset(end));
        // Empty when the file changes under us; calling the rest data is always right.
        Ok(Some(if data.is_empty() { rest } else { data }))
    }
}

pub(crate) fn opening(path: &Path, source: io::Error) -> DiskError {
    DiskError::io(DiskOperation::Open, path.display().to_string(), None, source)
}

fn cannot_seek_data(e: Errno) -> bool {
    [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS, Errno::NOTTY, Errno::SPIPE].contains(&e)
}

impl BlockRead for RawFile {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = within(offset, buf.len(), self.len)?;
        read_full(&self.file, offset.0, buf)
            .map_err(|e| DiskError::io(DiskOperation::Read, self.name(), Some(range), e))
            .and_then(|whole| if whole { Ok(()) } else { Err(self.shrank(range)) })
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let rest = Extent::between(from, ByteOffset(self.len.0));
        if rest.is_empty() {
            return Ok(None);
        }
        match self.holes {
            Holes::Sought => self.seek_data(rest),
            Holes::Unknown => Ok(Some(rest)),
        }
    }
}

/// Fills `buf` from `offset` on; `false` when the file ended before.
pub(crate) fn read_full(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + on_disk(done)) {
            Ok(0) => return Ok(false),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// The first `len` bytes of a disk, or all of it when it is shorter.
pub(crate) fn head(disk: &RawFile, len: u64) -> Result<Vec<u8>, DiskError> {
    let mut head = vec![0; in_memory(len.min(disk.len.0))];
    disk.read_at(ByteOffset(0), &mut head)?;
    Ok(head)
}
