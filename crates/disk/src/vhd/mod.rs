//! VHD, the older image format of Hyper-V and the one that Azure takes: fixed and dynamic, read.
//!
//! ```text
//! fixed     | data ............................................ | footer |
//! dynamic   | footer copy | header | BAT | block | ... | block  | footer |
//!                                          block = bitmap of its sectors, then its data
//! ```
//! Numbers are big endian. Described in Microsoft's "Virtual Hard Disk Image Format Specification".

mod dynamic;
mod footer;

use std::path::Path;

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::raw::RawFile;
use crate::{BlockRead, DiskError};

pub use footer::fixed_vhd_footer;
pub(crate) use footer::{COOKIE, FOOTER_LEN, Footer};

use dynamic::DynamicVhd;
use footer::Kind;

/// Opens an image whose footer was found.
pub(crate) fn open(file: RawFile, footer: &Footer) -> Result<Box<dyn BlockRead>, DiskError> {
    match footer.kind {
        Kind::Fixed => Ok(Box::new(FixedVhd::open(file, footer)?)),
        Kind::Dynamic { header } => Ok(Box::new(DynamicVhd::open(file, footer.size, header)?)),
        Kind::Differencing => Err(DiskError::Unsupported {
            path: file.path().to_owned(),
            reason:
                "it is a differencing VHD, which holds changes to another disk; merge it with that disk, or \
                     convert the pair with Convert-VHD"
                    .to_owned(),
        }),
    }
}

/// A fixed VHD: the data of a raw image, then the footer.
#[derive(Debug)]
struct FixedVhd {
    file: RawFile,
    len: ByteLen,
}

impl FixedVhd {
    fn open(file: RawFile, footer: &Footer) -> Result<Self, DiskError> {
        let room = file.len().0.saturating_sub(FOOTER_LEN);
        if footer.size.0 > room {
            let size = footer.size;
            let reason = format!(
                "its footer tells of a disk of {size} bytes, and the file has {room} before the footer"
            );
            return Err(damaged(file.path(), reason));
        }
        Ok(Self { len: footer.size, file })
    }
}

impl BlockRead for FixedVhd {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        crate::range::within(offset, buf.len(), self.len)?;
        self.file.read_at(offset, buf)
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let disk = Extent::between(ByteOffset(0), ByteOffset(self.len.0));
        if from >= disk.end() {
            return Ok(None);
        }
        let data = self.file.next_data(from)?.map(|data| data.intersection(disk));
        Ok(data.filter(|data| !data.is_empty()))
    }
}

fn damaged(path: &Path, reason: String) -> DiskError {
    DiskError::Damaged { path: path.to_owned(), reason }
}
