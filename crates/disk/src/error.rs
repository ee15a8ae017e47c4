//! Why a disk could not be read or written.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vmkeep_model::{ByteLen, Extent};

/// What a disk was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskOperation {
    /// Opening an existing image or device.
    Open,
    /// Making a new image.
    Create,
    /// Reading data.
    Read,
    /// Asking which ranges hold data.
    Map,
    /// Writing data or zeros.
    Write,
    /// Making writes durable.
    Sync,
}

impl fmt::Display for DiskOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::Read => "read",
            Self::Map => "map the data of",
            Self::Write => "write",
            Self::Sync => "sync",
        })
    }
}

/// Why a disk could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A range that is not within the disk.
    #[error("range {range} is not within the disk of {len} bytes")]
    OutOfRange {
        /// The range asked for.
        range: Extent,
        /// Size of the disk.
        len: ByteLen,
    },
    /// The source became smaller than it was when it was opened.
    #[error("{disk} ended while {range} was read: it shrank below the {len} bytes it had when it was opened")]
    Shrank {
        /// Path or description of the disk.
        disk: String,
        /// What was being read.
        range: Extent,
        /// Size of the disk when it was opened.
        len: ByteLen,
    },
    /// The image is of a kind that is not read, or that must not be read as if it were plain.
    #[error("{path}: {reason}", path = path.display())]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// What it is and what to do.
        reason: String,
    },
    /// The image contradicts itself or its format.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The image names another file that the caller did not allow.
    #[error("{path} refers to {other:?}, which is not among the allowed backing paths; allow it if it is part of the disk", path = path.display())]
    BackingNotAllowed {
        /// The image.
        path: PathBuf,
        /// The file it names.
        other: String,
    },
    /// The target is there already.
    #[error("{path} exists; it is not overwritten unless asked for", path = path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The system or the embedder's disk failed.
    #[error("cannot {operation} {disk}{}", at.map(|e| format!(" at {e}")).unwrap_or_default())]
    Io {
        /// What was being done.
        operation: DiskOperation,
        /// Path or description of the disk.
        disk: String,
        /// Where, when it was at a range.
        at: Option<Extent>,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl DiskError {
    /// A failure of the system below a disk, or of an embedder's own disk.
    pub fn io(
        operation: DiskOperation,
        disk: impl Into<String>,
        at: Option<Extent>,
        source: io::Error,
    ) -> Self {
        Self::Io { operation, disk: disk.into(), at, source }
    }
}
