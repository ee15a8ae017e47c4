//! What a store of keys and secrets says when it cannot do what it is asked.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::WrapAlgorithm;

/// Why a store of keys or secrets did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyStoreError {
    /// There is no such key, secret, or version of it.
    #[error("{url} is not there")]
    NotFound {
        /// Which.
        url: String,
    },
    /// It was deleted, and can be recovered.
    #[error("{url} was deleted; recover it in {store}")]
    Deleted {
        /// Which.
        url: String,
        /// The store.
        store: String,
    },
    /// It was switched off.
    #[error("{url} is disabled; enable it, or use another")]
    Disabled {
        /// Which.
        url: String,
    },
    /// The store does not let this caller do that.
    #[error("no permission to {permission} {url}")]
    Forbidden {
        /// Which object.
        url: String,
        /// The permission that is missing, by the store's own name for it.
        permission: String,
    },
    /// The store does not take this caller for who it says it is: a wrong passphrase, PIN or token.
    #[error("{store} refuses the credentials: {why}")]
    Credentials {
        /// The store.
        store: String,
        /// What it says.
        why: String,
    },
    /// It is there already and is not overwritten.
    #[error("{url} is there already and is not overwritten")]
    Exists {
        /// Which.
        url: String,
    },
    /// The key cannot do this.
    #[error("{url} does not do {algorithm}")]
    Algorithm {
        /// The key.
        url: String,
        /// What was asked for.
        algorithm: WrapAlgorithm,
    },
    /// The store cannot do this at all.
    #[error("{store} cannot {what}")]
    Unsupported {
        /// The store.
        store: String,
        /// What it was asked for.
        what: &'static str,
    },
    /// The bytes do not unwrap with this key.
    #[error("the bytes do not unwrap with {url}")]
    NotUnwrapped {
        /// The key.
        url: String,
    },
    /// Bytes that this key cannot wrap: too many, or not a length that the algorithm takes.
    #[error("{len} bytes cannot be wrapped with {algorithm} by {url}")]
    Length {
        /// The key.
        url: String,
        /// How.
        algorithm: WrapAlgorithm,
        /// How many.
        len: usize,
    },
    /// A name that the store does not take.
    #[error("{name:?} is no name for a key or secret: 1 to 127 of A-Z a-z 0-9 and -")]
    Name {
        /// The name.
        name: String,
    },
    /// A value over the store's limits.
    #[error("{what} of {len} is over the limit of {max}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// How large it is.
        len: usize,
        /// The largest allowed.
        max: usize,
    },
    /// A backup blob that is not one, was changed, or belongs to another store.
    #[error("the backup blob does not open: {why}")]
    Blob {
        /// How it shows.
        why: String,
    },
    /// A setting out of its range.
    #[error("{what}")]
    Settings {
        /// Which, and what is allowed.
        what: &'static str,
    },
    /// Others than its owner have rights on the file.
    #[error("{} has mode {mode:04o}; run chmod 600 on it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It may not be purged: the store protects deleted objects until their time is over.
    #[error("{url} is under purge protection")]
    PurgeProtected {
        /// Which.
        url: String,
    },
    /// The store asks to wait.
    #[error("{store} asks to wait{}", after.map(|after| format!(" {} s", after.as_secs())).unwrap_or_default())]
    Throttled {
        /// The store.
        store: String,
        /// How long, when it says so.
        after: Option<Duration>,
    },
    /// The content of the store does not authenticate, or is malformed.
    #[error("{store} is damaged: {what}")]
    Damaged {
        /// The store.
        store: String,
        /// What is wrong.
        what: String,
    },
    /// A file of the store could not be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store could not be asked; trying again may help.
    #[error("{store} could not be asked")]
    Unreachable {
        /// The store.
        store: String,
        /// Why not.
        source: Box<dyn StdError + Send + Sync>,
    },
}
