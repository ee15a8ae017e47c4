//! A qcow2 image being read.

use std::fmt;
use std::path::Path;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use vmkeep_model::{ByteLen, ByteOffset, Extent};

use super::header::Header;
use super::stored::{Stored, failed, next_data, span, stored_at};
use super::tables::{Tables, behind_the_end};
use super::wait::wait;
use crate::range::{cut, in_memory, on_disk, within};
use crate::raw::RawFile;
use crate::{BlockRead, DiskError, DiskOperation};

/// A qcow2 image, opened read-only, on top of its backing disk if it has one.
///
/// Every answer ends with a look at the length of the file: a table that imago read after the file was cut is zeros,
/// and zeros in a table are holes.
pub(crate) struct Qcow2Image {
    access: FormatAccess<File>,
    tables: Tables,
    file: RawFile,
    /// Where the clusters are, when not in `file`.
    data_file: Option<RawFile>,
    backing: Option<Box<dyn BlockRead>>,
}

impl Qcow2Image {
    /// Opens `file`, whose header was read, on the files that the header names.
    pub(crate) fn open(
        file: RawFile,
        header: &Header,
        data_file: Option<RawFile>,
        backing: Option<Box<dyn BlockRead>>,
    ) -> Result<Self, DiskError> {
        let tables = Tables::read(&file, header)?;
        let opening = |e| failed(file.path(), DiskOperation::Open, None, e);
        let storage = |file: &RawFile| File::try_from(file.handle()?).map_err(opening);
        let data_storage = data_file.as_ref().map(storage).transpose()?;
        // Everything the image refers to is given or denied: imago opens no file by itself.
        let image = Qcow2::<File>::builder(storage(&file)?).backing(None).data_file(data_storage);
        let image = wait(image.open(DenyImplicitOpenGate::default())).map_err(opening)?;
        Ok(Self { access: FormatAccess::new(image), tables, file, data_file, backing })
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn read_stored(&self, stored: Stored, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        match stored {
            Stored::Data(host) => self.read_data(host, at, buf),
            Stored::Compressed => self.read_compressed(at, buf),
            Stored::Unallocated => self.read_backing(at, buf),
            Stored::Zero => {
                buf.fill(0);
                Ok(())
            }
        }
    }

    /// Reads plain clusters past imago: it would read zeros behind the end of a file that was cut short.
    fn read_data(&self, host: u64, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let file = self.data_file.as_ref().unwrap_or(&self.file);
        file.read_at(ByteOffset(host), buf).map_err(|e| match e {
            DiskError::OutOfRange { len, .. } => {
                behind_the_end(file, span(at, on_disk(buf.len())), host, len)
            }
            other => other,
        })
    }

    fn read_compressed(&self, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = span(at, on_disk(buf.len()));
        self.tables.check_compressed(&self.file, range)?;
        wait(self.access.read(buf, at)).map_err(|e| failed(self.path(), DiskOperation::Read, Some(range), e))
    }

    /// Reads from the backing disk, which may be shorter and then goes on as zeros.
    fn read_backing(&self, at: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let Some(backing) = &self.backing else {
            buf.fill(0);
            return Ok(());
        };
        let (there, beyond) = buf.split_at_mut(cut(backing.len().0.saturating_sub(at), buf.len()));
        beyond.fill(0);
        if there.is_empty() { Ok(()) } else { backing.read_at(ByteOffset(at), there) }
    }
}

impl fmt::Debug for Qcow2Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qcow2Image")
            .field("file", &self.file)
            .field("len", &self.len())
            .field("data_file", &self.data_file)
            .field("backing", &self.backing)
            .finish_non_exhaustive()
    }
}

impl BlockRead for Qcow2Image {
    fn len(&self) -> ByteLen {
        ByteLen(self.access.size())
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = within(offset, buf.len(), self.len())?;
        let (mut at, mut rest) = (offset.0, buf);
        while !rest.is_empty() {
            let (stored, len) = stored_at(&self.access, self.path(), at, on_disk(rest.len()))?;
            let (here, behind) = rest.split_at_mut(in_memory(len));
            self.read_stored(stored, at, here)?;
            at += len;
            rest = behind;
        }
        self.file.check_not_shrunk(range)
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let data = next_data(&self.access, self.path(), self.backing.as_deref(), from.0)?;
        self.file.check_not_shrunk(Extent::between(from, ByteOffset(self.len().0)))?;
        Ok(data)
    }
}
