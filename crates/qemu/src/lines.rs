//! JSON values, one a line, over a Unix socket, with a bound on their length and on the time.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::QemuError;

/// Longest line that is taken, in bytes. A longer one ends the connection.
pub const LINE_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Lines {
    stream: UnixStream,
    path: PathBuf,
    /// What came and was not taken yet.
    buffer: Vec<u8>,
    /// Up to here the buffer has no end of a line.
    searched: usize,
}

/// The end of a wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }
}

impl Lines {
    pub(crate) fn connect(path: &Path) -> Result<Self, QemuError> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Self::over(stream, path)),
            Err(source) => Err(QemuError::Io { doing: "connect to", socket: path.to_owned(), source }),
        }
    }

    pub(crate) fn over(stream: UnixStream, path: &Path) -> Self {
        Self { stream, path: path.to_owned(), buffer: Vec::new(), searched: 0 }
    }

    /// Another handle of the same connection.
    pub(crate) fn handle(&self) -> Result<OwnedFd, QemuError> {
        let handle = self.stream.try_clone().map(OwnedFd::from);
        handle.map_err(|source| self.failed("duplicate", "", source))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn protocol(&self, reason: &'static str) -> QemuError {
        QemuError::Protocol { socket: self.path.clone(), reason }
    }

    fn failed(&self, doing: &'static str, command: &str, source: io::Error) -> QemuError {
        let socket = self.path.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                QemuError::TimedOut { command: command.to_owned(), socket }
            }
            _ => QemuError::Io { doing, socket, source },
        }
    }

    /// Sends a value, behind `before`.
    pub(crate) fn send(
        &mut self,
        before: &[u8],
        value: &Value,
        command: &str,
        limit: Duration,
    ) -> Result<(), QemuError> {
        let bytes = [before, value.to_string().as_bytes(), b"\n"].concat();
        let sent = self.stream.set_write_timeout(Some(limit)).and_then(|()| self.stream.write_all(&bytes));
        sent.map_err(|source| self.failed("send to", command, source))
    }

    /// The next line that is not empty, without its end.
    pub(crate) fn next_line(&mut self, command: &str, deadline: Deadline) -> Result<Vec<u8>, QemuError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') {
                let rest = self.buffer.split_off(self.searched + at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.searched = 0;
                let line = line.trim_ascii();
                if !line.is_empty() {
                    return Ok(line.to_vec());
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES_MAX {
                return Err(self.protocol("a line is longer than 16 MiB"));
            }
            self.fill(command, deadline)?;
        }
    }

    /// Drops what comes up to and with `mark`.
    pub(crate) fn skip_past(&mut self, mark: u8, command: &str, deadline: Deadline) -> Result<(), QemuError> {
        loop {
            let found = self.buffer.iter().position(|&b| b == mark);
            let end = found.map_or(self.buffer.len(), |at| at + 1);
            self.buffer.drain(..end);
            self.searched = 0;
            if found.is_some() {
                return Ok(());
            }
            self.fill(command, deadline)?;
        }
    }

    fn fill(&mut self, command: &str, deadline: Deadline) -> Result<(), QemuError> {
        let left = deadline.0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(QemuError::TimedOut { command: command.to_owned(), socket: self.path.clone() });
        }
        let mut part = [0; 8192];
        let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut part));
        match read {
            Ok(0) => Err(self.failed("receive from", command, io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.buffer.extend_from_slice(&part[..count]);
                Ok(())
            }
            Err(source) if source.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(source) => Err(self.failed("receive from", command, source)),
        }
    }

    /// The next line as JSON.
    pub(crate) fn next_value(&mut self, command: &str, deadline: Deadline) -> Result<Value, QemuError> {
        let line = self.next_line(command, deadline)?;
        serde_json::from_slice(&line).map_err(|_| self.protocol("a line is not JSON"))
    }
}

/// The result in an answer, or the refusal.
pub(crate) fn result_of(mut answer: Value, command: &str) -> Option<Result<Value, QemuError>> {
    if let Some(error) = answer.get("error") {
        let text = |field: &str| error.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        let (class, message) = (text("class"), text("desc"));
        return Some(Err(QemuError::Refused { command: command.to_owned(), class, message }));
    }
    answer.get_mut("return").map(|value| Ok(value.take()))
}
