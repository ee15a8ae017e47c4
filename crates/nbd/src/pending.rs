//! A request that is not fully answered yet, and what answers it.

use vmkeep_model::{ByteOffset, Extent, ExtentSet};

use crate::error::{NbdError, ProtocolError};
use crate::session::{Command, Request};
use crate::wire::{Fields, index};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The bytes of the range.
    Read(Vec<u8>),
    /// The extents of each context, in the order of [`Export::contexts`](crate::Export::contexts).
    Status(Vec<Status>),
}

/// The extents of one context, from the start of the range that was asked about.
///
/// They cover at least one byte of it, within it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Stretches that follow one another.
    pub runs: Vec<StatusRun>,
}

/// A stretch of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRun {
    /// Length in bytes, at least 1.
    pub len: u32,
    /// What the context says of it.
    pub flags: u32,
}

#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    data: Vec<u8>,
    placed: ExtentSet,
    statuses: Vec<(usize, Status)>,
    error: Option<(u32, String)>,
    chunks: usize,
}

impl Pending {
    pub(crate) fn new(request: Request) -> Self {
        let bytes = if request.command == Command::Read { index(request.len) } else { 0 };
        Self {
            request,
            data: vec![0; bytes],
            placed: ExtentSet::new(),
            statuses: Vec::new(),
            error: None,
            chunks: 0,
        }
    }

    /// One more chunk. Honest servers cut at sectors at the finest.
    pub(crate) fn count_chunk(&mut self) -> Result<(), ProtocolError> {
        let max = match self.request.command {
            Command::Read => 64 + index(self.request.len) / 512,
            Command::Status => 64,
        };
        self.chunks += 1;
        if self.chunks > max {
            Err(ProtocolError::TooMany { what: "chunks in one answer", max })
        } else {
            Ok(())
        }
    }

    /// Claims a part of the range, which must not be claimed yet, and returns its length.
    pub(crate) fn place(&mut self, extent: Extent) -> Result<usize, ProtocolError> {
        let asked = self.request.extent();
        let next = self.placed.as_slice().partition_point(|e| e.end() <= extent.start());
        let meets = self.placed.as_slice().get(next).is_some_and(|e| e.start() < extent.end());
        let len = usize::try_from(extent.len().0).ok();
        match len {
            Some(len) if !extent.is_empty() && asked.intersection(extent) == extent && !meets => {
                self.placed.insert(extent);
                Ok(len)
            }
            _ => Err(ProtocolError::Misplaced { at: extent }),
        }
    }

    /// Where the byte at `start`, which was placed, lies in the buffer.
    pub(crate) fn position(&self, start: ByteOffset) -> usize {
        usize::try_from(start.0 - self.request.offset.0).unwrap_or(usize::MAX)
    }

    pub(crate) fn fill(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.data.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            place.copy_from_slice(bytes);
        }
    }

    pub(crate) fn failed(&mut self, code: u32, message: String) {
        self.error.get_or_insert((code, message));
    }

    /// The extents of the context with this number in the agreed list, cut to the range.
    pub(crate) fn status(&mut self, number: usize, mut fields: Fields<'_>) -> Result<(), ProtocolError> {
        if self.statuses.iter().any(|(known, _)| *known == number) {
            return Err(ProtocolError::TooMany { what: "answers on one context", max: 1 });
        }
        let mut left = self.request.len;
        let mut runs = Vec::new();
        while let (Some(len), Some(flags)) = (fields.u32(), fields.u32()) {
            if len == 0 {
                return Err(ProtocolError::Length { what: "an extent", len: 0 });
            }
            if left > 0 {
                let len = len.min(left);
                left -= len;
                runs.push(StatusRun { len, flags });
            }
        }
        self.statuses.push((number, Status { runs }));
        Ok(())
    }

    /// The answer, when all of it has come.
    pub(crate) fn finish(mut self, contexts: usize) -> Result<Result<Reply, NbdError>, ProtocolError> {
        let request = self.request;
        if let Some((code, message)) = self.error {
            let at = request.extent();
            return Ok(Err(NbdError::Request { command: request.command, at, code, message }));
        }
        match request.command {
            Command::Read if self.placed.byte_count() == request.extent().len() => {
                Ok(Ok(Reply::Read(self.data)))
            }
            Command::Read => Err(ProtocolError::Incomplete { what: "all of the data" }),
            Command::Status if self.statuses.len() == contexts => {
                self.statuses.sort_by_key(|(number, _)| *number);
                Ok(Ok(Reply::Status(self.statuses.into_iter().map(|(_, status)| status).collect())))
            }
            Command::Status => Err(ProtocolError::Incomplete { what: "the extents of a context" }),
        }
    }
}
