//! What one qcow2 image stores at a position, as imago's tables tell it.

use std::io;
use std::path::Path;

use imago::file::File;
use imago::{FormatAccess, ShallowMapping};
use vmkeep_model::{ByteOffset, Extent};

use super::wait::wait;
use crate::{BlockRead, DiskError, DiskOperation};

/// Most bytes that one answer of [`next_data`] covers, so that mapping a full disk is many short calls.
const MAP_STEP: u64 = 1 << 30;

/// How a range is stored in an image, its backing file not considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// As plain data at this offset of the file.
    Data(u64),
    /// Compressed.
    Compressed,
    /// As the statement that it is zeros.
    Zero,
    /// Not at all: the backing file has it, or it is zeros.
    Unallocated,
}

/// How the range from `offset` on is stored, and for how many bytes, 1 to `max`.
pub(super) fn stored_at(
    image: &FormatAccess<File>,
    path: &Path,
    offset: u64,
    max: u64,
) -> Result<(Stored, u64), DiskError> {
    let (mapping, len) = wait(image.get_shallow_mapping(offset, max))
        .map_err(|e| failed(path, DiskOperation::Map, Some(span(offset, max)), e))?;
    let stored = match mapping {
        ShallowMapping::Raw { offset, .. } => Stored::Data(offset),
        ShallowMapping::Zero { explicit: true, .. } => Stored::Zero,
        ShallowMapping::Zero { explicit: false, .. } => Stored::Unallocated,
        ShallowMapping::Special { .. } => Stored::Compressed,
        other => return Err(contradiction(path, offset, &format!("maps to {other:?}"))),
    };
    if len == 0 || len > max {
        return Err(contradiction(path, offset, &format!("is mapped for {len} bytes of {max}")));
    }
    Ok((stored, len))
}

/// The next data of an image of `len` bytes on top of `backing`.
pub(super) fn next_data(
    image: &FormatAccess<File>,
    path: &Path,
    backing: Option<&dyn BlockRead>,
    from: u64,
) -> Result<Option<Extent>, DiskError> {
    let len = image.size();
    let mut below = Below { backing, ahead: Ahead::NotAsked };
    let mut at = from;
    let mut start = None;
    while at < len && start.is_none_or(|start| at - start < MAP_STEP) {
        let (stored, n) = stored_at(image, path, at, len - at)?;
        match (stored, start) {
            (Stored::Data(_) | Stored::Compressed, _) => start = start.or(Some(at)),
            (Stored::Zero | Stored::Unallocated, Some(_)) => break,
            (Stored::Zero, None) => {}
            (Stored::Unallocated, None) => {
                if let Some(data) = below.data_in(span(at, n))? {
                    return Ok(Some(data));
                }
            }
        }
        at += n;
    }
    Ok(start.map(|start| Extent::between(ByteOffset(start), ByteOffset(at))))
}

/// The backing file's data ahead, asked for once and used for every unallocated range before it.
struct Below<'a> {
    backing: Option<&'a dyn BlockRead>,
    ahead: Ahead,
}

enum Ahead {
    NotAsked,
    Data(Extent),
    None,
}

impl Below<'_> {
    /// The backing file's first data in `range`. Ranges must be asked for in order.
    fn data_in(&mut self, range: Extent) -> Result<Option<Extent>, DiskError> {
        let Some(backing) = self.backing else { return Ok(None) };
        let stale = match self.ahead {
            Ahead::NotAsked => true,
            Ahead::Data(data) => data.end() <= range.start(),
            Ahead::None => false,
        };
        if stale {
            self.ahead = backing.next_data(range.start())?.map_or(Ahead::None, Ahead::Data);
        }
        match self.ahead {
            Ahead::Data(data) => Ok(Some(data.intersection(range)).filter(|data| !data.is_empty())),
            Ahead::NotAsked | Ahead::None => Ok(None),
        }
    }
}

pub(super) fn span(offset: u64, len: u64) -> Extent {
    Extent::between(ByteOffset(offset), ByteOffset(offset.saturating_add(len)))
}

/// An error of imago. One with a code of the system is the system's; the others are what imago says of the image.
pub(super) fn failed(
    path: &Path,
    operation: DiskOperation,
    at: Option<Extent>,
    source: io::Error,
) -> DiskError {
    if source.raw_os_error().is_some() {
        return DiskError::io(operation, path.display().to_string(), at, source);
    }
    let place = at.map(|at| format!(" at {at}")).unwrap_or_default();
    DiskError::Damaged { path: path.to_owned(), reason: format!("cannot {operation} it{place}: {source}") }
}

fn contradiction(path: &Path, offset: u64, what: &str) -> DiskError {
    DiskError::Damaged { path: path.to_owned(), reason: format!("offset {offset} {what}") }
}
