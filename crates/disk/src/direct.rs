//! A raw image or a block device, read past the page cache.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;
use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::range::{in_memory, on_disk, within};
use crate::raw::{RawFile, opening};
use crate::{BlockRead, DiskError, DiskOperation};

/// What offsets, lengths and addresses are multiples of: the largest logical sector there is in practice.
const ALIGNMENT: usize = 4096;
/// Most bytes of one request: what a scan reads at a time, and the sector it may begin and end within.
const REQUEST_MAX: usize = (1 << 20) + 2 * ALIGNMENT;

/// A raw image file or a block device whose reads bypass the page cache (`O_DIRECT`), so that a backup does not push
/// out what the host's programs keep there.
///
/// Any range may be read: what is asked for is read in whole sectors of 4096 bytes and copied.
#[derive(Debug)]
pub(crate) struct DirectFile {
    raw: RawFile,
    /// Buffers that no read uses just now; there are never more than there were threads reading at once.
    idle: Mutex<Vec<Vec<u8>>>,
}

impl DirectFile {
    /// Makes the reads of `raw` bypass the page cache. [`DiskError::Unsupported`] where its file system or device
    /// refuses that.
    pub(crate) fn of(raw: RawFile) -> Result<Self, DiskError> {
        let refused = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => DiskError::Unsupported {
                path: raw.path().to_owned(),
                reason: "the file system or device refuses reads that bypass the page cache; read it without"
                    .to_owned(),
            },
            _ => opening(raw.path(), e),
        };
        let flags = rustix::fs::fcntl_getfl(raw.file()).map_err(|e| refused(e.into()))?;
        rustix::fs::fcntl_setfl(raw.file(), flags | OFlags::DIRECT).map_err(|e| refused(e.into()))?;
        // Some take the flag and refuse the reads.
        let mut buffer = vec![0; 2 * ALIGNMENT];
        raw.file().read_at(&mut aligned(&mut buffer)[..ALIGNMENT], 0).map_err(refused)?;
        Ok(Self { raw, idle: Mutex::default() })
    }

    fn buffer(&self) -> Vec<u8> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| vec![0; REQUEST_MAX + ALIGNMENT])
    }

    /// Reads into `buf` what lies at `offset`, of which all fits in one request through `buffer`; false when the file
    /// ended before.
    fn request(&self, offset: u64, buf: &mut [u8], buffer: &mut [u8]) -> io::Result<bool> {
        let sector = on_disk(ALIGNMENT);
        let start = offset - offset % sector;
        let skip = in_memory(offset - start);
        let needed = skip + buf.len();
        let buffer = &mut aligned(buffer)[..needed.next_multiple_of(ALIGNMENT)];
        let mut done = 0;
        while done < needed {
            match self.raw.file().read_at(&mut buffer[done..], start + on_disk(done)) {
                Ok(0) => return Ok(false),
                Ok(read) if done + read >= needed => done += read,
                // The rest is asked for from a whole sector on. Less than one is the end of the file.
                Ok(read) if read < ALIGNMENT => return Ok(false),
                Ok(read) => done += read - read % ALIGNMENT,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        buf.copy_from_slice(&buffer[skip..needed]);
        Ok(true)
    }
}

/// `buffer` from its first aligned address on; an alignment is lost at most.
fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let skip = buffer.as_ptr().align_offset(ALIGNMENT).min(buffer.len());
    &mut buffer[skip..]
}

impl BlockRead for DirectFile {
    fn len(&self) -> ByteLen {
        self.raw.len()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = within(offset, buf.len(), self.len())?;
        let mut buffer = self.buffer();
        let mut at = offset.0;
        let mut outcome = Ok(());
        for piece in buf.chunks_mut(REQUEST_MAX - 2 * ALIGNMENT) {
            outcome = match self.request(at, piece, &mut buffer) {
                Ok(true) => Ok(()),
                Ok(false) => Err(self.raw.shrank(range)),
                Err(e) => Err(DiskError::io(DiskOperation::Read, self.raw.name(), Some(range), e)),
            };
            if outcome.is_err() {
                break;
            }
            at += on_disk(piece.len());
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        outcome
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        self.raw.next_data(from)
    }
}
