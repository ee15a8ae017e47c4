//! An export as a disk.

use std::collections::VecDeque;
use std::io;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use vmkeep_disk::{BlockRead, DiskError, DiskOperation};
use vmkeep_model::{ByteLen, ByteOffset, Extent, ExtentSet};

use crate::connection::Connection;
use crate::error::NbdError;
use crate::options::{ALLOCATION, ConnectOptions, bitmap_context};
use crate::pending::{Reply, Status};
use crate::session::{Command, Request};
use crate::wire::STATE_ZERO;

/// Most extents of a context that are kept at once: 64 MiB of memory.
pub const EXTENTS_MAX: usize = 1 << 22;

/// A long read is cut into requests of so many bytes, so that the server works on several at once.
const PIECE_BYTES: u64 = 1 << 20;
/// So many of them are under way for one read.
const PIECES_IN_FLIGHT: usize = 8;
/// One question about extents covers so many bytes.
const STATUS_SPAN: u64 = 2 << 30;

/// An export of an NBD server as a disk.
///
/// The export must not change while this lives, or holes may be out of date.
#[derive(Debug)]
pub struct NbdDisk {
    connection: Connection,
    /// The last answer about allocation: where it begins, where it ends, and the data within.
    allocation: Mutex<Option<(Extent, Vec<Extent>)>>,
}

impl NbdDisk {
    /// The export that `connection` is to.
    pub fn new(connection: Connection) -> Self {
        Self { connection, allocation: Mutex::new(None) }
    }

    /// Connects to a Unix socket.
    pub fn connect_unix(path: &Path, options: &ConnectOptions) -> Result<Self, NbdError> {
        Connection::unix(path, options).map(Self::new)
    }

    /// Connects by TCP, without encryption.
    pub fn connect_tcp(address: impl ToSocketAddrs, options: &ConnectOptions) -> Result<Self, NbdError> {
        Connection::tcp(address, options).map(Self::new)
    }

    /// The connection below.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Tells the server that this is the end.
    pub fn close(self) -> Result<(), NbdError> {
        self.connection.close()
    }

    /// What the QEMU dirty bitmap `name` holds, which must be among the contexts connected with.
    ///
    /// Everything that is not clean for certain counts as dirty.
    pub fn dirty_extents(&self, name: &str) -> Result<ExtentSet, NbdError> {
        self.extents(&bitmap_context(name), |flags| flags != 0)
    }

    /// What may hold anything but zeros.
    pub fn data_extents(&self) -> Result<ExtentSet, NbdError> {
        self.extents(ALLOCATION, |flags| flags & STATE_ZERO == 0)
    }

    /// The extents of `context` whose flags are `wanted`; at most [`EXTENTS_MAX`].
    pub fn extents(&self, context: &str, wanted: impl Fn(u32) -> bool) -> Result<ExtentSet, NbdError> {
        let mut found = ExtentSet::new();
        let mut at = ByteOffset(0);
        while at.0 < self.len().0 {
            let (covered, extents) = self.status(context, at, &wanted)?;
            for extent in extents {
                found.insert(extent);
            }
            if found.as_slice().len() > EXTENTS_MAX {
                return Err(NbdError::TooManyExtents { context: context.to_owned(), max: EXTENTS_MAX });
            }
            at = covered.end();
        }
        Ok(found)
    }

    /// What one answer says from `from` on: the range it covers, not empty, and the wanted extents within.
    fn status(
        &self,
        context: &str,
        from: ByteOffset,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<(Extent, Vec<Extent>), NbdError> {
        let export = self.connection.export();
        let number = export.contexts.iter().position(|(_, name)| name == context);
        let number = number.ok_or_else(|| NbdError::NoContext { context: context.to_owned() })?;
        let block = u64::from(export.block_min);
        let start = from.0 / block * block;
        let asked = request(Command::Status, start, (export.len.0 - start).min(STATUS_SPAN));
        let reply = self.connection.submit(asked).and_then(|cookie| self.connection.wait(cookie))?;
        let Status { runs } = match reply {
            Reply::Status(mut statuses) if number < statuses.len() => statuses.swap_remove(number),
            _ => Status::default(),
        };
        let mut at = ByteOffset(start);
        let mut extents = Vec::new();
        for run in runs {
            let extent = Extent::new(at, ByteLen(run.len.into()));
            at = extent.end();
            let kept = Extent::between(extent.start().max(from), at);
            if wanted(run.flags) && !kept.is_empty() {
                extents.push(kept);
            }
        }
        if at <= from {
            // The answer ends before the byte asked for: the caller would ask the same for ever.
            let error = crate::ProtocolError::Incomplete { what: "one whole block of extents" };
            return Err(error.into());
        }
        Ok((Extent::between(from, at), extents))
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), NbdError> {
        let export = self.connection.export();
        let block = u64::from(export.block_min);
        let piece = PIECE_BYTES.min(export.read_max.into());
        let end = offset + buf.len() as u64;
        // The server takes whole blocks only, up to the end of the export.
        let last = end.next_multiple_of(block).min(export.len.0);
        let mut next = offset / block * block;
        let mut under_way = VecDeque::new();
        let mut failed = None;
        // After a failure the other answers are still waited for, so that none is kept for a caller who left.
        while (next < last && failed.is_none()) || !under_way.is_empty() {
            if next < last && under_way.len() < PIECES_IN_FLIGHT && failed.is_none() {
                let request = request(Command::Read, next, piece.min(last - next));
                match self.connection.submit(request) {
                    Ok(cookie) => under_way.push_back((next, cookie)),
                    Err(error) => failed = Some(error),
                }
                next += u64::from(request.len);
            } else if let Some((start, cookie)) = under_way.pop_front() {
                match self.connection.wait(cookie) {
                    Ok(Reply::Read(data)) => copy_common(offset, buf, start, &data),
                    Ok(Reply::Status(_)) => {}
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn next_data_of(&self, from: ByteOffset) -> Result<Option<Extent>, NbdError> {
        let export = self.connection.export();
        let mut at = from;
        if !export.contexts.iter().any(|(_, name)| name == ALLOCATION) {
            let rest = Extent::between(from, ByteOffset(export.len.0));
            return Ok((!rest.is_empty()).then_some(rest));
        }
        while at.0 < export.len.0 {
            let mut cache = self.allocation.lock().unwrap_or_else(PoisonError::into_inner);
            let known = cache.take().filter(|(covered, _)| covered.start() <= at && at < covered.end());
            let (covered, data) = match known {
                Some(known) => known,
                None => self.status(ALLOCATION, at, |flags| flags & STATE_ZERO == 0)?,
            };
            let next = data.partition_point(|e| e.end() <= at);
            let found = data.get(next).map(|e| Extent::between(e.start().max(at), e.end()));
            *cache = Some((covered, data));
            if found.is_some() {
                return Ok(found);
            }
            at = covered.end();
        }
        Ok(None)
    }

    fn disk_error(&self, operation: DiskOperation, at: Option<Extent>, error: NbdError) -> DiskError {
        DiskError::io(
            operation,
            format!("the export of {}", self.connection.server()),
            at,
            io::Error::other(error),
        )
    }
}

/// Copies what `data`, which begins at `start` on the disk, has of `buf`, which begins at `offset`.
fn copy_common(offset: u64, buf: &mut [u8], start: u64, data: &[u8]) {
    let ours = Extent::new(ByteOffset(offset), ByteLen(buf.len() as u64));
    let both = Extent::new(ByteOffset(start), ByteLen(data.len() as u64)).intersection(ours);
    let within = |base: u64| {
        let at = |position: ByteOffset| usize::try_from(position.0 - base).unwrap_or(usize::MAX);
        at(both.start())..at(both.end())
    };
    if !both.is_empty() {
        buf[within(offset)].copy_from_slice(&data[within(start)]);
    }
}

fn request(command: Command, start: u64, len: u64) -> Request {
    Request { command, offset: ByteOffset(start), len: u32::try_from(len).unwrap_or(u32::MAX) }
}

impl BlockRead for NbdDisk {
    fn len(&self) -> ByteLen {
        self.connection.export().len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let len = ByteLen(buf.len() as u64);
        let range = Extent::new(offset, len);
        if offset.checked_add(len).is_none_or(|end| end.0 > self.len().0) {
            return Err(DiskError::OutOfRange { range, len: self.len() });
        }
        if buf.is_empty() {
            return Ok(());
        }
        self.read(offset.0, buf).map_err(|e| self.disk_error(DiskOperation::Read, Some(range), e))
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        self.next_data_of(from).map_err(|e| self.disk_error(DiskOperation::Map, None, e))
    }
}
