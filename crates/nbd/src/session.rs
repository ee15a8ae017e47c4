//! Requests and answers after the negotiation, any number of them under way at once.

use std::collections::BTreeMap;
use std::fmt;

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::error::{NbdError, ProtocolError};
use crate::negotiation::Export;
use crate::pending::{Pending, Reply};
use crate::wire::{self, Fields, index};

/// Most requests under way at once on one connection. So few that they always fit the buffer of a socket, even when
/// the server reads none.
pub const IN_FLIGHT_MAX: usize = 256;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The bytes of a range.
    Read,
    /// The extents of all agreed contexts from the start of a range on.
    Status,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Status => "tell the extents of",
        })
    }
}

/// A question to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// First byte.
    pub offset: ByteOffset,
    /// Number of bytes, at least 1.
    pub len: u32,
}

impl Request {
    /// The range it is about.
    pub fn extent(&self) -> Extent {
        Extent::new(self.offset, ByteLen(self.len.into()))
    }
}

/// Which request an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cookie(u64);

/// Requests and answers of one connection, without its I/O.
///
/// Send what [`submit`](Self::submit) returns, in that order; give what comes in to [`receive`](Self::receive); take
/// answers by cookie. After an error of `receive` the connection is of no use.
#[derive(Debug)]
pub struct Session {
    export: Export,
    next: u64,
    pending: BTreeMap<u64, Pending>,
    answered: BTreeMap<u64, Result<Reply, NbdError>>,
    state: State,
    gathered: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The first 16 bytes of an answer, which both kinds have.
    Head,
    /// The length of a chunk.
    ChunkLen(Chunk),
    /// What comes before the data of a chunk, or all of one without data.
    ChunkBody(Chunk, u32),
    /// Data of a read, of which `left` bytes are to come, the next at `at` in its buffer.
    Data { cookie: u64, at: usize, left: usize, is_last: bool },
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    is_last: bool,
    kind: u16,
    cookie: u64,
}

impl Session {
    /// Begins after the negotiation.
    pub fn new(export: Export) -> Self {
        Self {
            export,
            next: 1,
            pending: BTreeMap::new(),
            answered: BTreeMap::new(),
            state: State::Head,
            gathered: Vec::new(),
        }
    }

    /// What was agreed.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Number of requests that were not fully answered.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Notes a request and returns the bytes to send. Refused are ranges outside the export or not at multiples of
    /// its smallest block, reads longer than it takes, status without contexts, and more than [`IN_FLIGHT_MAX`].
    pub fn submit(&mut self, request: Request) -> Result<(Cookie, Vec<u8>), NbdError> {
        let bad = |reason| Err(NbdError::BadRequest { reason });
        let end = request.offset.checked_add(ByteLen(request.len.into()));
        if request.len == 0 || end.is_none_or(|end| end.0 > self.export.len.0) {
            return bad("a request is empty or not within the export");
        }
        let block = u64::from(self.export.block_min);
        let is_aligned = |at: u64| at.is_multiple_of(block) || at == self.export.len.0;
        if !is_aligned(request.offset.0) || !is_aligned(request.extent().end().0) {
            return bad("a request does not begin and end at multiples of the export's smallest block");
        }
        let kind = match request.command {
            Command::Read if request.len > self.export.read_max => {
                return bad("a read is longer than the server takes");
            }
            Command::Status if self.export.contexts.is_empty() => return bad("the export has no contexts"),
            Command::Read => wire::CMD_READ,
            Command::Status => wire::CMD_BLOCK_STATUS,
        };
        if self.pending.len() >= IN_FLIGHT_MAX {
            return bad("too many requests are under way");
        }
        let cookie = self.next;
        self.next += 1;
        self.pending.insert(cookie, Pending::new(request));
        Ok((Cookie(cookie), message(kind, cookie, request.offset.0, request.len)))
    }

    /// The message that ends the connection. The server does not answer.
    pub fn disconnect() -> Vec<u8> {
        message(wire::CMD_DISCONNECT, 0, 0, 0)
    }

    /// The answer to a request, once.
    pub fn take(&mut self, cookie: Cookie) -> Option<Result<Reply, NbdError>> {
        self.answered.remove(&cookie.0)
    }

    /// Takes bytes from the server.
    pub fn receive(&mut self, mut input: &[u8]) -> Result<(), NbdError> {
        while !input.is_empty() {
            if let State::Data { cookie, at, left, is_last } = self.state {
                let (now, rest) = input.split_at(input.len().min(left));
                self.pending_of(cookie)?.fill(at, now);
                input = rest;
                let (at, left) = (at + now.len(), left - now.len());
                self.state = State::Data { cookie, at, left, is_last };
                if left == 0 {
                    self.chunk_ended(cookie, is_last)?;
                }
                continue;
            }
            let missing = self.message_bytes() - self.gathered.len();
            let (now, rest) = input.split_at(input.len().min(missing));
            self.gathered.extend_from_slice(now);
            input = rest;
            while self.gathered.len() == self.message_bytes() && !matches!(self.state, State::Data { .. }) {
                let message = std::mem::take(&mut self.gathered);
                self.step(&message)?;
            }
        }
        Ok(())
    }

    fn message_bytes(&self) -> usize {
        match self.state {
            State::Head => 16,
            State::ChunkLen(_) => 4,
            State::ChunkBody(chunk, _) if chunk.kind == wire::CHUNK_DATA => 8,
            State::ChunkBody(_, len) => index(len),
            State::Data { .. } => 0,
        }
    }

    fn step(&mut self, message: &[u8]) -> Result<(), NbdError> {
        match self.state {
            State::Head => self.head(message)?,
            State::ChunkLen(chunk) => {
                let len = Fields(message).u32().unwrap_or(0);
                self.check_len(chunk, len)?;
                self.state = State::ChunkBody(chunk, len);
            }
            State::ChunkBody(chunk, len) => self.body(chunk, len, message)?,
            State::Data { .. } => {}
        }
        Ok(())
    }

    fn pending_of(&mut self, cookie: u64) -> Result<&mut Pending, ProtocolError> {
        let unknown = ProtocolError::NotAsked { what: "an answer", number: cookie };
        self.pending.get_mut(&cookie).ok_or(unknown)
    }

    fn head(&mut self, message: &[u8]) -> Result<(), NbdError> {
        let mut fields = Fields(message);
        let (magic, second) = (fields.u32().unwrap_or(0), fields.u32().unwrap_or(0));
        let cookie = fields.u64().unwrap_or(0);
        let is_structured = self.export.structured;
        match magic {
            wire::SIMPLE_REPLY_MAGIC => {
                let request = self.pending_of(cookie)?.request;
                if second != 0 {
                    self.pending_of(cookie)?.failed(second, String::new());
                    return Ok(self.chunk_ended(cookie, true)?);
                }
                if is_structured || request.command != Command::Read {
                    return Err(ProtocolError::Incomplete { what: "its chunks" }.into());
                }
                let len = self.pending_of(cookie)?.place(request.extent())?;
                self.state = State::Data { cookie, at: 0, left: len, is_last: true };
            }
            wire::STRUCTURED_REPLY_MAGIC if is_structured => {
                self.pending_of(cookie)?.count_chunk()?;
                let [flags @ .., _, _] = second.to_be_bytes();
                let [_, _, kind @ ..] = second.to_be_bytes();
                let is_last = u16::from_be_bytes(flags) & wire::CHUNK_DONE != 0;
                self.state = State::ChunkLen(Chunk { is_last, kind: u16::from_be_bytes(kind), cookie });
            }
            _ => return Err(ProtocolError::Magic { what: "an answer", found: magic.into() }.into()),
        }
        Ok(())
    }

    fn check_len(&mut self, chunk: Chunk, len: u32) -> Result<(), ProtocolError> {
        let request = self.pending_of(chunk.cookie)?.request;
        let is_read = request.command == Command::Read;
        let right = match chunk.kind {
            wire::CHUNK_NONE => len == 0 && chunk.is_last,
            wire::CHUNK_DATA => is_read && len > 8 && len - 8 <= request.len,
            wire::CHUNK_HOLE => is_read && len == 12,
            wire::CHUNK_STATUS => {
                !is_read && (12..=wire::STATUS_BYTES_MAX).contains(&len) && (len - 4).is_multiple_of(8)
            }
            kind if kind & wire::CHUNK_ERROR_BIT != 0 => len >= 4 && index(len) <= wire::TEXT_BYTES_MAX + 14,
            kind => return Err(ProtocolError::NotAsked { what: "a chunk", number: kind.into() }),
        };
        right.then_some(()).ok_or(ProtocolError::Length { what: "a chunk", len: len.into() })
    }

    fn body(&mut self, chunk: Chunk, len: u32, message: &[u8]) -> Result<(), NbdError> {
        let Chunk { is_last, kind, cookie } = chunk;
        let mut fields = Fields(message);
        match kind {
            wire::CHUNK_DATA => {
                let start = ByteOffset(fields.u64().unwrap_or(0));
                let extent = Extent::new(start, ByteLen(u64::from(len - 8)));
                let pending = self.pending_of(cookie)?;
                let left = pending.place(extent)?;
                let at = pending.position(start);
                self.state = State::Data { cookie, at, left, is_last };
                return Ok(());
            }
            wire::CHUNK_HOLE => {
                let start = ByteOffset(fields.u64().unwrap_or(0));
                let extent = Extent::new(start, ByteLen(fields.u32().unwrap_or(0).into()));
                self.pending_of(cookie)?.place(extent)?;
            }
            wire::CHUNK_STATUS => {
                let id = fields.u32().unwrap_or(0);
                let number = self.export.contexts.iter().position(|(known, _)| *known == id);
                let number =
                    number.ok_or(ProtocolError::NotAsked { what: "a context", number: id.into() })?;
                self.pending_of(cookie)?.status(number, fields)?;
            }
            wire::CHUNK_NONE => {}
            _ => {
                let code = fields.u32().unwrap_or(0);
                let text_len = fields.u16().unwrap_or(0);
                let text = fields.0.get(..usize::from(text_len)).unwrap_or(&[]);
                self.pending_of(cookie)?.failed(code.max(1), wire::text(text));
            }
        }
        Ok(self.chunk_ended(cookie, is_last)?)
    }

    fn chunk_ended(&mut self, cookie: u64, is_last: bool) -> Result<(), ProtocolError> {
        self.state = State::Head;
        if is_last && let Some(pending) = self.pending.remove(&cookie) {
            let contexts = self.export.contexts.len();
            self.answered.insert(cookie, pending.finish(contexts)?);
        }
        Ok(())
    }
}

fn message(kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend_from_slice(&wire::REQUEST_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&0_u16.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes
}
