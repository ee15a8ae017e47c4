//! Keys and secrets with versions in one file: a key vault without a service.
//!
//! The file is encrypted under a passphrase or a 32-byte key and rewritten as a whole with every change: a new file beside
//! it, synced, then renamed over it. A lock file beside it keeps processes from losing one another's changes. What is deleted
//! stays recoverable for a number of days; under purge protection, which cannot be taken off again, nobody can shorten that.
//!
//! ```
//! use vmkeep_envelope::file_vault::{FileVault, FileVaultKey, KeyKind, Ports, Settings};
//! use vmkeep_envelope::{KeyStore, OsEntropy, SecretBytes, SecretKey, SecretStore, SecretValue, WrapAlgorithm};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("keys");
//! let key = || -> Result<_, Box<dyn std::error::Error>> { Ok(FileVaultKey::Key(SecretKey::from_bytes(&mut [7; 32]))) };
//! let vault = FileVault::create(&path, key()?, Settings::default(), Ports::default())?;
//! vault.create_key("kek", KeyKind::Aes256)?;
//! let wrapped = vault.wrap("kek", None, WrapAlgorithm::A256Kw, &[1; 32], &OsEntropy)?;
//!
//! // A new version of the key does not keep what the old one wrapped from being unwrapped.
//! vault.create_key("kek", KeyKind::Aes256)?;
//! let vault = FileVault::open(&path, key()?, Ports::default())?;
//! let version = wrapped.url.version().unwrap_or_default();
//! assert_eq!(vault.unwrap("kek", version, wrapped.algorithm, &wrapped.bytes)?.expose(), [1; 32]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod blob;
mod content;
mod file;
mod items;
mod ports;
mod sealed;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmkeep_model::{Clock, SystemClock, Timestamp};

use self::content::Content;
use self::file::Locked;
use self::sealed::Lock;
use crate::writer::Written;
use crate::{Argon2Params, Entropy, KeyStoreError, OsEntropy, Passphrase, SecretKey};

/// What kind of thing an item of a vault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKind {
    /// A key, which wraps and is not shown.
    Key,
    /// A secret.
    Secret,
}

/// Kinds of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, 2048 bits: what Azure Backup takes for customer-managed keys.
    Rsa2048,
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
    /// AES, 256 bits.
    Aes256,
}

/// What a file vault is opened with.
#[derive(Debug)]
pub enum FileVaultKey {
    /// A passphrase, and how a new vault derives its key from it.
    Passphrase(Passphrase, Argon2Params),
    /// A key of 32 bytes.
    Key(SecretKey),
}

/// Settings of a new file vault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For how many days what is deleted can be recovered: 7 to 90.
    pub recoverable_days: u8,
    /// Whether nothing can be purged before these days are over. It cannot be taken off again.
    pub purge_protection: bool,
}

impl Default for Settings {
    /// 90 days, without purge protection: what Azure Key Vault has when nothing is said.
    fn default() -> Self {
        Self { recoverable_days: 90, purge_protection: false }
    }
}

/// What a file vault needs from outside.
#[derive(Clone, Debug)]
pub struct Ports {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where random bytes come from, but for those of RSA keys.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for Ports {
    /// The machine's clock and random source.
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(OsEntropy) }
    }
}

/// A version of a key or secret, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its name: 32 hexadecimal digits.
    pub version: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it may be used.
    pub enabled: bool,
}

/// A key or secret, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemInfo {
    /// What it is.
    pub kind: ItemKind,
    /// Its name.
    pub name: String,
    /// Its versions, the newest last.
    pub versions: Vec<VersionInfo>,
    /// When it was deleted and from when on it is gone, if it was.
    pub deleted: Option<(Timestamp, Timestamp)>,
}

/// A vault of keys and secrets in a file.
///
/// Cheap to open; every call reads the file, so that what another process changed is seen.
pub struct FileVault {
    path: PathBuf,
    lock: Lock,
    ports: Ports,
    id: [u8; 16],
    url: String,
}

impl FileVault {
    /// Makes a new, empty vault in a file that is not there yet, of mode 0600.
    pub fn create(
        path: impl AsRef<Path>,
        key: FileVaultKey,
        settings: Settings,
        ports: Ports,
    ) -> Result<Self, KeyStoreError> {
        let path = file::real(path.as_ref())?;
        if !(7..=90).contains(&settings.recoverable_days) {
            return Err(KeyStoreError::Settings { what: "recoverable days are 7 to 90" });
        }
        let mut id = [0; 16];
        ports.entropy.fill(&mut id).map_err(|e| KeyStoreError::Unreachable {
            store: path.display().to_string(),
            source: e.into(),
        })?;
        let lock = Lock::new(key, &*ports.entropy, &path)?;
        let content = Content::new(id, settings);
        let vault = Self { url: url(id), path, lock, ports, id };
        let locked = Locked::exclusive(&vault.path)?;
        if vault.path.try_exists().map_err(|source| vault.io(source))? {
            return Err(KeyStoreError::Exists { url: vault.path.display().to_string() });
        }
        vault.store(&locked, &content)?;
        drop(locked);
        Ok(vault)
    }

    /// Opens a vault. A wrong passphrase or key is [`KeyStoreError::Credentials`].
    pub fn open(path: impl AsRef<Path>, key: FileVaultKey, ports: Ports) -> Result<Self, KeyStoreError> {
        let path = file::real(path.as_ref())?;
        let lock = Lock::new(key, &*ports.entropy, &path)?;
        let mut vault = Self { url: String::new(), path, lock, ports, id: [0; 16] };
        let content = vault.read()?;
        (vault.id, vault.url) = (content.id, url(content.id));
        Ok(vault)
    }

    /// Whether deleted things cannot be purged before their days are over.
    pub fn is_purge_protected(&self) -> Result<bool, KeyStoreError> {
        Ok(self.read()?.purge_protection)
    }

    /// Sets purge protection. It cannot be taken off again.
    pub fn protect_from_purge(&self) -> Result<(), KeyStoreError> {
        self.change(|content| {
            content.purge_protection = true;
            Ok(())
        })
    }

    fn io(&self, source: std::io::Error) -> KeyStoreError {
        KeyStoreError::Io { path: self.path.clone(), source }
    }

    fn damaged(&self, what: impl ToString) -> KeyStoreError {
        KeyStoreError::Damaged { store: self.path.display().to_string(), what: what.to_string() }
    }
}

/// For fuzzing: no bytes may panic or take memory that they do not have, sealed or opened.
pub(crate) fn fuzz(data: &[u8]) {
    let lock =
        Lock::new(FileVaultKey::Key(SecretKey::from_bytes(&mut [0x22; 32])), &OsEntropy, Path::new("fuzz"));
    if let Ok(lock) = lock {
        for kind in [sealed::Kind::Vault, sealed::Kind::Blob] {
            let _ = lock.open(kind, data);
        }
    }
    if let Ok(content) = Content::decode(data) {
        let again = content.written().map(|bytes| bytes.to_vec());
        assert!(again.is_ok_and(|again| again == data), "what was read is written otherwise");
    }
    let _ = blob::decode(data);
}

fn url(id: [u8; 16]) -> String {
    format!("vmkeep-file:{}", crate::pack::hex(&id))
}

impl fmt::Debug for FileVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileVault({})", self.path.display())
    }
}
