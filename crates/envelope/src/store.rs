//! The port to whatever keeps keys and secrets under names, with versions: a file, a token, a key service.
//!
//! [`KeyStore`] and [`SecretStore`] are what a VM's own encryption needs: its BEK is a secret, its KEK a key. A key of a
//! [`KeyStore`] is also what a vault's keys can be wrapped with: `StoreKek`.

pub(crate) mod codec;
mod error;
mod secret;
mod url;

use std::fmt;

pub use self::error::KeyStoreError;
pub use self::secret::{Secret, SecretBytes, SecretValue};
pub use self::url::{KeyUrl, ObjectUrlError, SecretUrl};
use crate::Entropy;

/// How a key wraps another: the names of Azure Key Vault, which follow RFC 7518.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WrapAlgorithm {
    /// RSA OAEP with SHA-1 and MGF1 with SHA-1.
    RsaOaep,
    /// RSA OAEP with SHA-256 and MGF1 with SHA-256.
    RsaOaep256,
    /// AES-256 key wrap (RFC 3394): keys whose length is a multiple of 8 bytes, 16 at least.
    A256Kw,
}

impl WrapAlgorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::RsaOaep, Self::RsaOaep256, Self::A256Kw];

    /// Its name, as it is stored with each wrapped key.
    pub fn name(self) -> &'static str {
        match self {
            Self::RsaOaep => "RSA-OAEP",
            Self::RsaOaep256 => "RSA-OAEP-256",
            Self::A256Kw => "A256KW",
        }
    }

    /// The algorithm of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

impl fmt::Display for WrapAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a store tells of a key. Nothing here is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Which key, with its version.
    pub url: KeyUrl,
    /// Whether it may be used.
    pub enabled: bool,
    /// What it can do, the one to prefer first.
    pub algorithms: Vec<WrapAlgorithm>,
}

/// Bytes that a key of a store wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreWrapped {
    /// Which key did it, with its version.
    pub url: KeyUrl,
    /// How.
    pub algorithm: WrapAlgorithm,
    /// The wrapped bytes.
    pub bytes: Vec<u8>,
}

/// Keeps keys under names, each with versions, and wraps with them. The keys need not ever leave it.
///
/// The contract, which `conformance::key_store` checks:
///
/// - A version that is not given is the newest. A version once made wraps and unwraps as long as it is enabled and there.
/// - A key that is disabled, deleted, not there or not allowed is an error that says which key and what is missing; it
///   works again when it is enabled, recovered, made or allowed again.
/// - Bytes that do not unwrap are [`KeyStoreError::NotUnwrapped`], whatever is wrong with them: no oracle.
/// - All calls may block, and may come from several threads at once.
pub trait KeyStore: Send + Sync + fmt::Debug {
    /// What the URLs of its objects begin with.
    fn url(&self) -> &str;

    /// What tells its keys from those of the same name and version in other stores: its URL; nothing where versions are
    /// random and so belong to one key alone. Then a key that was restored into another store is still the same key.
    fn key_scope(&self) -> &str {
        self.url()
    }

    /// What is known of a key.
    fn key(&self, name: &str, version: Option<&str>) -> Result<KeyInfo, KeyStoreError>;

    /// Wraps `plain` with a key.
    fn wrap(
        &self,
        name: &str,
        version: Option<&str>,
        algorithm: WrapAlgorithm,
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<StoreWrapped, KeyStoreError>;

    /// Unwraps what this version of the key wrapped.
    fn unwrap(
        &self,
        name: &str,
        version: &str,
        algorithm: WrapAlgorithm,
        wrapped: &[u8],
    ) -> Result<SecretBytes, KeyStoreError>;

    /// All versions of a key as an opaque blob that this store, or one that stands in for it, can restore.
    /// [`KeyStoreError::Unsupported`] where keys never leave in any form.
    fn backup_key(&self, name: &str) -> Result<Vec<u8>, KeyStoreError>;

    /// Puts back what [`backup_key`](Self::backup_key) gave, versions and all. A key of that name that is there is
    /// [`KeyStoreError::Exists`].
    fn restore_key(&self, blob: &[u8]) -> Result<KeyInfo, KeyStoreError>;
}

/// Keeps secrets under names, each with versions.
///
/// The contract, which `conformance::secret_store` checks, is that of [`KeyStore`]
/// where it applies; setting a secret that is there makes a new version of it.
pub trait SecretStore: Send + Sync + fmt::Debug {
    /// What the URLs of its objects begin with.
    fn url(&self) -> &str;

    /// A secret, of the newest version when none is given.
    fn secret(&self, name: &str, version: Option<&str>) -> Result<Secret, KeyStoreError>;

    /// Sets a secret; gives it the version that it was stored as.
    fn set_secret(&self, name: &str, value: &SecretValue) -> Result<SecretUrl, KeyStoreError>;

    /// All versions of a secret as an opaque blob; see [`KeyStore::backup_key`].
    fn backup_secret(&self, name: &str) -> Result<Vec<u8>, KeyStoreError>;

    /// Puts back what [`backup_secret`](Self::backup_secret) gave; gives the newest version.
    fn restore_secret(&self, blob: &[u8]) -> Result<SecretUrl, KeyStoreError>;
}
