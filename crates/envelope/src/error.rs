//! What can go wrong, one type per direction: sealing, opening, and getting at keys.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use vmkeep_model::DomainId;

use crate::{Branch, BranchId, EntropyError, KeyStoreError, PackContent, SlotId, SlotKind};

/// Why something could not be sealed: the random source, or a caller that asks for what the format has not.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The random source failed.
    #[error("no salt could be made")]
    Entropy(#[from] EntropyError),
    /// Longer or more than the format allows.
    #[error("{what} of {len} is over the limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        len: u64,
        /// The largest allowed.
        max: u64,
    },
    /// This kind of object is not sealed with this branch.
    #[error("{what} is not sealed with {found}")]
    WrongBranch {
        /// What was to be sealed.
        what: &'static str,
        /// The key that was given.
        found: BranchId,
    },
    /// A slot of this kind has no place in a pack of this content.
    #[error("a slot of {kind} does not go into a pack of {content}")]
    KindInContent {
        /// The slot's kind.
        kind: SlotKind,
        /// The pack's content.
        content: PackContent,
    },
    /// The length of a slot's body contradicts its plain length and codec.
    #[error("a slot body of {body} bytes does not fit its plain length {plain} and codec")]
    BodyLength {
        /// Length of the body.
        body: u64,
        /// Plain length that was given with it.
        plain: u64,
    },
    /// The bytes of a slot to be moved are not those of that slot.
    #[error("the bytes given are not {expected}")]
    NotThatSlot {
        /// The slot that was to be moved.
        expected: SlotId,
        /// How it shows.
        #[source]
        source: OpenError,
    },
}

/// Why bytes could not be opened. The object's name is added by whoever fetched them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes end too early.
    #[error("ends after {found} bytes where at least {needed} are needed")]
    Truncated {
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// Bytes follow where the object should have ended.
    #[error("should end after {expected} bytes, but has {found}")]
    TrailingBytes {
        /// Bytes that belong to it.
        expected: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// It does not begin (or, a trailer, end) with the magic of what was asked for.
    #[error("the magic is not {expected}")]
    BadMagic {
        /// The magic that belongs there.
        expected: &'static str,
    },
    /// Written by a newer version; only a newer program can read it.
    #[error("format version {found} is newer than {known}, the newest this program knows")]
    Newer {
        /// The version it has.
        found: u16,
        /// The newest version known here.
        known: u16,
    },
    /// A good object of another kind.
    #[error("kind {found} where kind {expected} is expected")]
    WrongKind {
        /// The kind that was asked for.
        expected: u8,
        /// The kind it has.
        found: u8,
    },
    /// A slot that belongs to another place.
    #[error("{found} where {expected} is expected")]
    WrongPlace {
        /// The place that was asked for.
        expected: SlotId,
        /// The place it says it was born at.
        found: SlotId,
    },
    /// A key object under a name that is not its own.
    #[error("its name should be {expected}")]
    WrongName {
        /// The name that belongs to its content.
        expected: String,
    },
    /// Sealed with another key than the one given; `found` says which key to bring.
    #[error("sealed with {found}, not with {expected}")]
    WrongKey {
        /// The key that was given.
        expected: BranchId,
        /// The key it says it was sealed with.
        found: BranchId,
    },
    /// The authentication tag does not match: the bytes were changed, or moved to another name.
    #[error("authentication failed: the content was changed, or is not at its place")]
    Tampered,
    /// A length beyond what the format allows; nothing was allocated for it.
    #[error("{what} of {len} is over the limit of {max}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it says it is.
        len: u64,
        /// The largest allowed.
        max: u64,
    },
    /// A field holds what the format does not allow there.
    #[error("malformed: {what}")]
    Malformed {
        /// Which field, and what is expected of it.
        what: &'static str,
    },
    /// The key vault could not be asked; trying again may help.
    #[error("the key vault could not unwrap the object key")]
    KeyVault(#[source] KeyError),
    /// The wrap is meant for this key vault and does not open, or asks for what is refused.
    #[error("the wrapped object key is broken")]
    BrokenWrap(#[source] KeyError),
}

/// Why a key could not be made, found, wrapped or unwrapped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The random source failed.
    #[error("no key or salt could be made")]
    Entropy(#[from] EntropyError),
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// A parameter of Argon2id outside what is accepted.
    #[error("Argon2id {parameter} of {value} is outside {min} to {max}")]
    Argon2Bounds {
        /// Which parameter.
        parameter: &'static str,
        /// Its value.
        value: u32,
        /// The smallest accepted.
        min: u32,
        /// The largest accepted.
        max: u32,
    },
    /// There is not enough memory for Argon2id.
    #[error("Argon2id needs {memory_kib} KiB of memory, which are not to be had")]
    Argon2Memory {
        /// What the parameters ask for.
        memory_kib: u32,
    },
    /// There is no key file at this path.
    #[error("no key file at {}", path.display())]
    KeyFileMissing {
        /// The path.
        path: PathBuf,
    },
    /// A key file is never overwritten: what it protects would be lost.
    #[error("{} exists and is not overwritten", path.display())]
    KeyFileExists {
        /// The path.
        path: PathBuf,
    },
    /// Something other than a regular file.
    #[error("{} is not a regular file", path.display())]
    KeyFileKind {
        /// The path.
        path: PathBuf,
    },
    /// A key file holds exactly 32 bytes.
    #[error("key file {} has {found} bytes; a key file has exactly 32", path.display())]
    KeyFileLength {
        /// The path.
        path: PathBuf,
        /// Its length.
        found: u64,
    },
    /// Others than its owner have rights on the key file.
    #[error("key file {} has mode {mode:04o}; run chmod 600 on it", path.display())]
    KeyFileMode {
        /// The path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file could not be read or written.
    #[error("key file {}", path.display())]
    KeyFileIo {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// These keys do not include the branch that is needed.
    #[error("the keys of domain {domain}, epoch {epoch}, hold no {branch} key")]
    BranchMissing {
        /// Whose keys.
        domain: DomainId,
        /// Their epoch.
        epoch: u32,
        /// The branch that was asked for.
        branch: Branch,
    },
    /// A key of another branch than the one needed.
    #[error("{found} given where a {expected} key is needed")]
    WrongBranch {
        /// The branch that is needed.
        expected: Branch,
        /// The key that was given.
        found: BranchId,
    },
    /// A key object of these keys is not named so.
    #[error("a key object of these keys lies under {expected}")]
    WrongPrefix {
        /// The prefix that belongs to the keys.
        expected: String,
    },
    /// The wrapped key does not authenticate: changed, or bound to another domain or epoch.
    #[error("the wrapped key does not authenticate")]
    Tampered,
    /// A field of a wrapped key that the format has no room for, or not in this form.
    #[error("wrapped key: {field} of {len} bytes; {limit}")]
    WrapField {
        /// Which field.
        field: &'static str,
        /// Its length.
        len: usize,
        /// What is allowed.
        limit: &'static str,
    },
    /// The key store that holds the KEK did not do what it was asked; the source says which key and why.
    #[error("the key that wraps these keys cannot be used")]
    Store(#[from] KeyStoreError),
    /// The service behind a key vault failed.
    #[error("the key service failed")]
    Service(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl OpenError {
    /// Whether the KEK that wrapped it could not be asked, so that nothing is known of what is in it. A KEK that is not there, in a
    /// store that answers, is none of these: another key object may do.
    pub fn is_unanswered(&self) -> bool {
        match self {
            Self::KeyVault(KeyError::Store(KeyStoreError::NotFound { .. })) => false,
            Self::KeyVault(_) => true,
            _ => false,
        }
    }
}

/// An error and what lies below it, as one line.
#[cfg(feature = "file-vault")]
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
