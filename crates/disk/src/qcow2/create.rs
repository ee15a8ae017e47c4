//! A new qcow2 image being written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder};
use vmkeep_model::{ByteLen, ByteOffset, Extent};

use super::stored::{Stored, failed, next_data, span, stored_at};
use super::wait::wait;
use crate::range::{extent_within, in_memory, within};
use crate::raw_target::{Overwrite, create_file, creating, folder_of, sync_folder};
use crate::{BlockRead, BlockWrite, DiskError, DiskOperation};

const CLUSTER: u64 = 1 << 16;
/// QEMU counts the size of a disk in sectors and drops the rest.
const SECTOR: u64 = 512;

/// A new qcow2 image (version 3, 64 KiB clusters, no backing file); it can be read back as well.
///
/// Its tables are kept in memory until [`sync`](BlockWrite::sync): without it the file is not a readable image.
pub struct Qcow2Target {
    access: FormatAccess<File>,
    path: PathBuf,
    folder: PathBuf,
}

impl Qcow2Target {
    /// Makes an image of `len` zeros, none of them allocated. `len` must be of whole sectors of 512 bytes.
    pub fn create(path: impl AsRef<Path>, len: ByteLen, overwrite: Overwrite) -> Result<Self, DiskError> {
        let path = path.as_ref();
        if !len.0.is_multiple_of(SECTOR) {
            let reason =
                format!("a qcow2 image holds whole sectors, and {len} bytes are not; make a raw image");
            return Err(DiskError::Unsupported { path: path.to_owned(), reason });
        }
        let file = File::try_from(create_file(path, overwrite)?).map_err(|e| creating(path, e))?;
        let open = |file| Ok(Qcow2::<File>::builder(file).backing(None));
        let create = Qcow2::<File>::create_builder(file).size(len.0).cluster_size(in_memory(CLUSTER));
        let image =
            wait(create.create_open(DenyImplicitOpenGate::default(), open)).map_err(|e| creating(path, e))?;
        Ok(Self { access: FormatAccess::new(image), path: path.to_owned(), folder: folder_of(path) })
    }

    fn size(&self) -> ByteLen {
        ByteLen(self.access.size())
    }

    /// Zeroes a range that is allocated: whole clusters in their table, the rest by writing. imago would do both,
    /// but counts below zero for part of a cluster at the end of a disk (`soft_ensure_zero` in 0.2.6).
    fn zero_data(&self, range: Extent) -> Result<(), DiskError> {
        let (start, end) = (range.start().0, range.end().0);
        let whole_start = start.next_multiple_of(CLUSTER).min(end);
        let whole_end = (end - end % CLUSTER).max(whole_start);
        let zeros = vec![0; in_memory((whole_start - start).max(end - whole_end))];
        wait(async {
            self.access.write(&zeros[..in_memory(whole_start - start)], start).await?;
            if whole_start < whole_end {
                self.access.write_zeroes(whole_start, whole_end - whole_start).await?;
            }
            self.access.write(&zeros[..in_memory(end - whole_end)], whole_end).await
        })
        .map_err(|e| self.failed(DiskOperation::Write, Some(range), e))
    }

    fn failed(&self, operation: DiskOperation, at: Option<Extent>, source: io::Error) -> DiskError {
        DiskError::io(operation, self.path.display().to_string(), at, source)
    }
}

impl fmt::Debug for Qcow2Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qcow2Target")
            .field("path", &self.path)
            .field("len", &self.size())
            .finish_non_exhaustive()
    }
}

impl BlockRead for Qcow2Target {
    fn len(&self) -> ByteLen {
        self.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = within(offset, buf.len(), self.size())?;
        wait(self.access.read(buf, offset.0))
            .map_err(|e| failed(&self.path, DiskOperation::Read, Some(range), e))
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        next_data(&self.access, &self.path, None, from.0)
    }
}

impl BlockWrite for Qcow2Target {
    fn len(&self) -> ByteLen {
        self.size()
    }

    fn write_at(&self, offset: ByteOffset, data: &[u8]) -> Result<(), DiskError> {
        let range = within(offset, data.len(), self.size())?;
        wait(self.access.write(data, offset.0)).map_err(|e| self.failed(DiskOperation::Write, Some(range), e))
    }

    /// Zeroes what is allocated; what is not reads as zeros already and stays unallocated.
    fn write_zeroes(&self, extent: Extent) -> Result<(), DiskError> {
        let extent = extent_within(extent, self.size())?;
        let mut at = extent.start().0;
        while at < extent.end().0 {
            let (stored, len) = stored_at(&self.access, &self.path, at, extent.end().0 - at)?;
            if !matches!(stored, Stored::Zero | Stored::Unallocated) {
                self.zero_data(span(at, len))?;
            }
            at += len;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        wait(async {
            self.access.flush().await?;
            self.access.sync().await
        })
        .and_then(|()| sync_folder(&self.folder))
        .map_err(|e| self.failed(DiskOperation::Sync, None, e))
    }
}
