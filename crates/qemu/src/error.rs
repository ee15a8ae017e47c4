//! What can go wrong with QEMU and with the agent.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vmkeep_disk::DiskError;
use vmkeep_nbd::NbdError;

/// Why QEMU or the guest agent did not do what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QemuError {
    /// The socket failed.
    #[error("cannot {doing} {socket}", socket = socket.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The socket or file.
        socket: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No answer in time. What was asked may still happen.
    #[error("no answer to {command} from {socket} in time; the connection is of no use any more", socket = socket.display())]
    TimedOut {
        /// What was asked.
        command: String,
        /// The socket.
        socket: PathBuf,
    },
    /// What came is not the protocol.
    #[error("{socket} does not speak the protocol: {reason}", socket = socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A command was refused.
    #[error("{command} was refused ({class}): {message}")]
    Refused {
        /// The command.
        command: String,
        /// The class of the error, such as `GenericError` or `CommandNotFound`.
        class: String,
        /// What QEMU or the agent said.
        message: String,
    },
    /// A disk that QEMU does not have under this name.
    #[error("QEMU has no block node {node:?}; see query-named-block-nodes for the names")]
    NoSuchNode {
        /// The name of its node.
        node: String,
    },
    /// A plan that cannot be followed.
    #[error("{reason}")]
    BadPlan {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The guest wrote so much that the scratch image of a disk passed its bound, or the disk failed: the snapshot
    /// is lost and the guest went on. Begin a new one, with a larger bound or at a quieter time.
    #[error("the snapshot of {node} is lost: {reason}")]
    SnapshotLost {
        /// The name of its node.
        node: String,
        /// Why.
        reason: String,
    },
    /// There is no room for a scratch image. The guest was not touched.
    #[error("cannot reserve {bytes} bytes for {path}; free some, choose another folder or a smaller bound", path = path.display())]
    NoScratchSpace {
        /// The scratch image.
        path: PathBuf,
        /// How many bytes it is to have.
        bytes: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Reading the snapshot failed.
    #[error("cannot read the snapshot")]
    Nbd(#[source] Box<NbdError>),
    /// Making a scratch image failed.
    #[error("cannot make a scratch image")]
    Scratch(#[source] Box<DiskError>),
}

impl From<NbdError> for QemuError {
    fn from(error: NbdError) -> Self {
        Self::Nbd(Box::new(error))
    }
}
