//! The guest agent as the port of a session.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use vmkeep_consistency as consistency;
use vmkeep_consistency::{AgentError, FreezeState, GuestOs, MountOutcome};

use crate::agent::{Agent, FreezeReport, Mount};
use crate::error::QemuError;

/// File systems that Linux cannot freeze: nothing is written to the one kind, and the other has no journal to order writes.
const UNFREEZABLE: [&str; 8] = ["vfat", "msdos", "exfat", "iso9660", "udf", "squashfs", "erofs", "cramfs"];

/// The agent of a QEMU guest, as sessions and scripts use it. After a failure it connects again.
#[derive(Debug)]
pub struct QemuAgent {
    socket: PathBuf,
    limit: Duration,
    agent: Mutex<Option<Agent>>,
}

impl QemuAgent {
    /// Connects, and waits at most `limit` until the agent answers; each later command that has no limit of its own has
    /// this one.
    pub fn connect(socket: &Path, limit: Duration) -> Result<Self, QemuError> {
        let agent = Agent::connect(socket, limit)?;
        Ok(Self { socket: socket.to_owned(), limit, agent: Mutex::new(Some(agent)) })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Agent>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the agent with a limit. A connection that is broken is not used again.
    fn with<T>(
        &self,
        limit: Duration,
        call: impl FnOnce(&mut Agent) -> Result<T, QemuError>,
    ) -> Result<T, QemuError> {
        let mut held = self.lock();
        let agent = match held.as_mut() {
            Some(agent) => agent,
            None => held.insert(Agent::connect(&self.socket, limit)?),
        };
        agent.set_limit(limit);
        let result = call(agent);
        if let Err(QemuError::Io { .. } | QemuError::Protocol { .. }) = result {
            *held = None;
        }
        result
    }

    /// Runs a command of the agent.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, QemuError> {
        self.with(self.limit, |agent| agent.execute(command, arguments))
    }

    /// The mounted file systems that lie on disks.
    pub fn mounts(&self) -> Result<Vec<Mount>, QemuError> {
        self.with(self.limit, Agent::mounts)
    }

    /// The guest's operating system, as far as the agent tells.
    pub fn os(&self) -> Result<GuestOs, QemuError> {
        match self.execute("guest-get-osinfo", serde_json::json!({})) {
            Ok(info) if info["id"] == "mswindows" => Ok(GuestOs::Windows),
            Ok(_) => Ok(GuestOs::Linux),
            Err(QemuError::Refused { .. }) => Ok(GuestOs::Other),
            Err(error) => Err(error),
        }
    }

    /// Another handle of the connection, for the process that [`thaw_over`] is called in.
    pub fn connection(&self) -> Result<OwnedFd, QemuError> {
        self.with(self.limit, |agent| agent.connection())
    }

    /// An agent over a connection of another process ([`connection`](Self::connection)); when that breaks, `socket` is
    /// connected to.
    pub fn from_connection(connection: OwnedFd, socket: &Path, limit: Duration) -> Self {
        let agent = Agent::from_stream(UnixStream::from(connection), limit);
        Self { socket: socket.to_owned(), limit, agent: Mutex::new(Some(agent)) }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// How long [`thaw_over`] waits between tries that fail at once.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Thaws a guest in place of a session that cannot: again and again until the agent says that it did, for at most
/// `within`.
#[allow(clippy::disallowed_methods)] // nothing tells when a socket that refuses is served again
pub fn thaw_over(agent: &QemuAgent, within: Duration) -> Result<usize, AgentError> {
    let start = Instant::now();
    loop {
        match consistency::GuestAgent::thaw(agent, agent.limit) {
            Err(error) if start.elapsed() >= within => return Err(error),
            Err(AgentError::TimedOut(_)) => {}
            Err(_) => std::thread::sleep(TRY_EVERY),
            Ok(thawed) => return Ok(thawed),
        }
    }
}

impl QemuError {
    /// The error as a session knows it; `limit` is what the agent had to answer.
    pub fn into_agent_error(self, limit: Duration) -> AgentError {
        match self {
            Self::TimedOut { .. } => AgentError::TimedOut(limit),
            Self::Refused { message, .. } => AgentError::Refused(message),
            error => {
                let cause = std::error::Error::source(&error).map(|e| format!(": {e}")).unwrap_or_default();
                AgentError::Unreachable(format!("{error}{cause}"))
            }
        }
    }
}

impl consistency::GuestAgent for QemuAgent {
    fn freeze(&self, timeout: Duration) -> Result<consistency::FreezeReport, AgentError> {
        let report = self.with(timeout, Agent::freeze).map_err(|error| error.into_agent_error(timeout))?;
        Ok(consistency::FreezeReport { mounts: outcomes(report), vss: None })
    }

    fn thaw(&self, timeout: Duration) -> Result<usize, AgentError> {
        let thawed = self.with(timeout, Agent::thaw).map_err(|error| error.into_agent_error(timeout))?;
        Ok(usize::try_from(thawed).unwrap_or(usize::MAX))
    }

    fn status(&self, timeout: Duration) -> Result<FreezeState, AgentError> {
        let frozen = self.with(timeout, Agent::is_frozen).map_err(|error| error.into_agent_error(timeout))?;
        Ok(if frozen { FreezeState::Frozen } else { FreezeState::Thawed })
    }
}

/// What became of each mount. The agent only counts file systems, so where the count fits neither all of them nor all
/// that can be frozen, none is taken as frozen.
fn outcomes(report: FreezeReport) -> Vec<consistency::Mount> {
    let FreezeReport { frozen, mounts } = report;
    let mount = |path: &str, outcome| consistency::Mount { path: path.to_owned(), outcome };
    if mounts.is_empty() && frozen > 0 {
        return vec![mount("all", MountOutcome::Frozen)];
    }
    let can_freeze = |m: &&Mount| !UNFREEZABLE.contains(&&*m.kind);
    let devices = |mounts: Vec<&Mount>| {
        let mut devices: Vec<&str> = mounts.iter().map(|m| &*m.device).collect();
        devices.sort_unstable();
        devices.dedup();
        devices.len() as u64
    };
    let all = frozen == devices(mounts.iter().collect());
    let all_that_can = frozen == devices(mounts.iter().filter(can_freeze).collect());
    let outcome = |m: &Mount| match (all, all_that_can, can_freeze(&m)) {
        (true, ..) | (_, true, true) => MountOutcome::Frozen,
        (_, _, false) => MountOutcome::Skipped(format!("{} cannot be frozen", m.kind)),
        (false, false, true) => MountOutcome::Failed(format!(
            "the agent froze {frozen} file systems of {} and does not say which",
            mounts.len()
        )),
    };
    mounts.iter().map(|m| mount(&m.mountpoint, outcome(m))).collect()
}

pub(crate) fn as_io(error: QemuError) -> io::Error {
    io::Error::other(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_frozen_file_systems_is_believed_when_it_fits() {
        let mounts = [("/", "ext4", "vda1"), ("/boot/efi", "vfat", "vda2"), ("/srv", "ext4", "vda1")];
        let words = |frozen: u64| -> Vec<&str> {
            let mounts = mounts.map(|(path, kind, device)| Mount {
                mountpoint: path.to_owned(),
                kind: kind.to_owned(),
                device: device.to_owned(),
            });
            let outcomes = outcomes(FreezeReport { frozen, mounts: mounts.to_vec() });
            let word = |m: &consistency::Mount| match m.outcome {
                MountOutcome::Frozen => "frozen",
                MountOutcome::Skipped(_) => "skipped",
                MountOutcome::Failed(_) => "failed",
            };
            outcomes.iter().map(word).collect()
        };
        assert_eq!(words(2), ["frozen", "frozen", "frozen"]);
        assert_eq!(words(1), ["frozen", "skipped", "frozen"], "two mounts of one file system count once");
        assert_eq!(words(0), ["failed", "skipped", "failed"]);
        assert_eq!(words(3), ["failed", "skipped", "failed"]);
    }
}
