//! Keys of disks that are encrypted within the guest: captured with a recovery point, and put back after a loss.
//!
//! The encryption key of such a disk (its BEK) is a secret in some store; a key there may wrap it (its KEK). Without them a
//! restored disk is noise, so a backup captures both: the secret's value and the key's backup blob, each with the version it
//! was seen at. They are sealed into the point with its data key, so that who may not read the disk may not have its keys.
//!
//! ```text
//! disk description          store                          recovery point
//! secret URL  ── secret ──► value, content type, tags ─┐
//!                           backup blob ───────────────┼──► CapturedKeys, sealed with the BEK of the VM in the vault
//! key URL     ── key ─────► version, backup blob ──────┘
//! ```
//!
//! What is captured is what the stores hold when the backup runs. A secret or key that got a new version needs nothing: the
//! next point has the new one, and earlier points keep what they had. The same holds when a disk is given another secret or
//! key altogether; then what an earlier point needs is put back from that point first. (Azure Backup's answers to the same
//! questions: `backup-azure-vm-backup-faq` in its documentation.)

#[cfg(feature = "azure-config")]
mod azure;
mod capture;
mod codec;
mod put_back;

use std::fmt;

use thiserror::Error;
use vmkeep_model::DiskName;

#[cfg(feature = "azure-config")]
pub use self::azure::azure_config;
pub use self::capture::{GuestKeyStores, capture};
pub use self::put_back::{GuestOs, PutBack, PutBackDisk, PutBackState};
use crate::{KeyStoreError, KeyUrl, SecretUrl, SecretValue};

/// Where the keys of a disk are that its guest encrypts. A URL without a version means the newest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskEncryption {
    /// The disk's encryption key, or passphrase: a secret.
    pub bek: SecretUrl,
    /// The key that wraps it, if one does.
    pub kek: Option<KeyUrl>,
}

/// The keys of a VM's encrypted disks, as they were at one time.
#[derive(Debug, Default)]
pub struct CapturedKeys {
    /// One entry for each such disk.
    pub disks: Vec<CapturedDisk>,
}

/// The keys of one disk.
#[derive(Debug)]
pub struct CapturedDisk {
    /// Which disk.
    pub disk: DiskName,
    /// Its encryption key.
    pub bek: CapturedSecret,
    /// The key that wraps it.
    pub kek: Option<CapturedKey>,
}

/// A secret as it was.
pub struct CapturedSecret {
    /// Which, with the version that was seen.
    pub url: SecretUrl,
    /// What it held.
    pub value: SecretValue,
    /// All its versions as its store gives them out; `None` for a store that does not.
    pub backup: Option<Vec<u8>>,
}

/// A key as it was.
#[derive(PartialEq, Eq)]
pub struct CapturedKey {
    /// Which, with the version that was seen.
    pub url: KeyUrl,
    /// The key as its store gives it out; `None` for a store whose keys never leave, such as a token.
    pub backup: Option<Vec<u8>>,
}

// What a store gives out may be no secret, or may be one: it is not shown.
impl fmt::Debug for CapturedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backup = self.backup.as_ref().map(Vec::len);
        write!(f, "CapturedSecret({}, {:?}, backup of {backup:?} bytes)", self.url, self.value)
    }
}

impl fmt::Debug for CapturedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CapturedKey({}, backup of {:?} bytes)", self.url, self.backup.as_ref().map(Vec::len))
    }
}

/// Why keys of a disk were not captured or not put back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GuestKeysError {
    /// The store did not do what it was asked.
    #[error("the {what} of disk {disk}")]
    Store {
        /// Secret or key.
        what: &'static str,
        /// Which disk.
        disk: DiskName,
        /// What the store said.
        source: KeyStoreError,
    },
    /// The store at hand is not the one that the URL names.
    #[error("{url} of disk {disk} is not in {store}, the store that was given")]
    WrongStore {
        /// The URL.
        url: String,
        /// Which disk.
        disk: DiskName,
        /// The store that was given, or that none was.
        store: String,
    },
    /// The secret says that another version of the KEK wraps it than the one given.
    #[error(
        "disk {disk}: {secret} is wrapped by {found}, as its tag says, and not by {given}; give that version, or none"
    )]
    OtherKek {
        /// Which disk.
        disk: DiskName,
        /// The secret.
        secret: String,
        /// The KEK that its tag names.
        found: String,
        /// The KEK that was given.
        given: String,
    },
    /// The secret that is there now is another than the captured one, and is not overwritten unasked.
    #[error(
        "disk {disk}: {live} is there and holds something else than was captured as {captured}; it stays unless \
         overwriting is asked for"
    )]
    Newer {
        /// Which disk.
        disk: DiskName,
        /// What is there.
        live: String,
        /// What was captured.
        captured: String,
    },
    /// The key is there without the version that wrapped the secret.
    #[error("disk {disk}: the key is there, but not as {url}, which wraps the captured secret")]
    KeyVersion {
        /// Which disk.
        disk: DiskName,
        /// The version that is needed.
        url: String,
    },
    /// The key is gone, and the point holds no copy of it: its store does not give keys out.
    #[error("disk {disk}: {url} is gone, and its store never gave out a copy of it")]
    NoBackup {
        /// Which disk.
        disk: DiskName,
        /// The key.
        url: String,
    },
    /// It is not known whether the guest is Windows or Linux, which the tags of the secret depend on.
    #[error("disk {disk}: say whether its guest is Windows or Linux; the captured secret does not tell")]
    UnknownOs {
        /// Which disk.
        disk: DiskName,
    },
    /// A secret was set, and reads back as something else.
    #[error("disk {disk}: {url} does not read back as it was set")]
    NotSet {
        /// Which disk.
        disk: DiskName,
        /// The secret.
        url: String,
    },
    /// The captured keys are too large for a point, or malformed.
    #[error("captured keys: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
}
