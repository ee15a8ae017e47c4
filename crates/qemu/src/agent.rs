//! The guest agent: freezing and thawing file systems from inside the guest.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::QemuError;
use crate::lines::{Deadline, Lines, result_of};

/// A mounted file system of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub mountpoint: String,
    /// Its kind, such as `ext4`.
    pub kind: String,
    /// The device it is on, such as `vda1`; several mounts may be of one.
    pub device: String,
}

/// What became of a freeze.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeReport {
    /// How many file systems are frozen now. The agent gives no list.
    pub frozen: u64,
    /// The mounts there were just before; empty when the agent does not tell. Not all of them can be frozen.
    pub mounts: Vec<Mount>,
}

/// A connection to a guest agent.
///
/// After [`QemuError::TimedOut`] the next command begins with a new synchronisation, so that a late answer is not taken
/// for the answer to something else.
#[derive(Debug)]
pub struct Agent {
    lines: Lines,
    limit: Duration,
    next: u64,
    is_in_step: bool,
}

impl Agent {
    /// Connects to the socket and waits until the agent answers. Each command has `limit` to be answered.
    pub fn connect(path: &Path, limit: Duration) -> Result<Self, QemuError> {
        let mut agent = Self::over(Lines::connect(path)?, limit);
        agent.synchronize()?;
        Ok(agent)
    }

    /// An agent over a connection that was made elsewhere ([`connection`](Self::connection)); nothing is sent yet.
    pub fn from_stream(stream: UnixStream, limit: Duration) -> Self {
        Self::over(Lines::over(stream, Path::new("the agent's connection")), limit)
    }

    fn over(lines: Lines, limit: Duration) -> Self {
        // A number that an agent's leftover answers to someone else hardly have.
        let next = u64::from(std::process::id()) << 20;
        Self { lines, limit, next, is_in_step: false }
    }

    /// Another handle of the same connection, for a process that is to thaw when this one cannot: QEMU serves one
    /// connection at a time.
    pub fn connection(&self) -> Result<OwnedFd, QemuError> {
        self.lines.handle()
    }

    /// Gives each further command `limit` to be answered.
    pub fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// Drops whatever the agent still had to say, up to the answer to this very call.
    fn synchronize(&mut self) -> Result<(), QemuError> {
        let command = "guest-sync-delimited";
        self.next += 1;
        let id = self.next;
        let message = json!({ "execute": command, "arguments": { "id": id } });
        // 0xff is in no UTF-8 text: the agent drops half a command that came before, and marks its answer likewise.
        self.lines.send(&[0xff], &message, command, self.limit)?;
        let deadline = Deadline::after(self.limit);
        loop {
            self.lines.skip_past(0xff, command, deadline)?;
            let line = self.lines.next_line(command, deadline)?;
            let answer: Option<Value> = serde_json::from_slice(&line).ok();
            if answer.and_then(|a| a.get("return")?.as_u64()) == Some(id) {
                self.is_in_step = true;
                return Ok(());
            }
        }
    }

    /// Runs a command and returns its result.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QemuError> {
        if !self.is_in_step {
            self.synchronize()?;
        }
        self.is_in_step = false;
        let message = json!({ "execute": command, "arguments": arguments });
        self.lines.send(&[], &message, command, self.limit)?;
        let answer = self.lines.next_value(command, Deadline::after(self.limit))?;
        self.is_in_step = true;
        let wrong = || self.lines.protocol("an answer without a result");
        result_of(answer, command).unwrap_or_else(|| Err(wrong()))
    }

    /// The mounted file systems that lie on disks.
    pub fn mounts(&mut self) -> Result<Vec<Mount>, QemuError> {
        let list = self.execute("guest-get-fsinfo", json!({}))?;
        let mount = |entry: &Value| {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
            Some(Mount { mountpoint: text("mountpoint")?, kind: text("type")?, device: text("name")? })
        };
        Ok(list.as_array().map(|list| list.iter().filter_map(mount).collect()).unwrap_or_default())
    }

    /// Whether file systems are frozen.
    pub fn is_frozen(&mut self) -> Result<bool, QemuError> {
        self.execute("guest-fsfreeze-status", json!({})).map(|status| status == "frozen")
    }

    /// Freezes all file systems. When it fails, thaw: the answer may have been lost and not the freeze.
    pub fn freeze(&mut self) -> Result<FreezeReport, QemuError> {
        let mounts = match self.mounts() {
            Err(QemuError::Refused { .. }) => Vec::new(),
            mounts => mounts?,
        };
        let frozen = self.execute("guest-fsfreeze-freeze", json!({}))?;
        let frozen = frozen.as_u64().ok_or_else(|| self.lines.protocol("a freeze without a count"))?;
        Ok(FreezeReport { frozen, mounts })
    }

    /// Thaws all file systems, and returns how many were frozen. A guest that is not frozen is no error.
    pub fn thaw(&mut self) -> Result<u64, QemuError> {
        let thawed = self.execute("guest-fsfreeze-thaw", json!({}))?;
        thawed.as_u64().ok_or_else(|| self.lines.protocol("a thaw without a count"))
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        self.lines.path()
    }
}
