//! A key of a key store as the KEK of a vault.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::branch::half;
use crate::kek::Kek;
use crate::{
    Entropy, KekDescription, KekManagement, KeyError, KeyStore, KeyStoreError, KeyUrl, KeyVault, SecretKey,
    Unwrapped, WrapAlgorithm, WrapContext, WrappedKey, labels,
};

/// What follows the name of the store's algorithm in that of the wrap.
const SUFFIX: &str = "+HKDF-SHA256+A256GCM";

/// Wraps with a key of a [`KeyStore`]: of a file vault, a token, a key service.
///
/// Such a key wraps bytes and binds them to nothing. So it wraps a transport key, fresh for each wrap, and that one seals
/// what is to be wrapped, bound to its context as with a key file. Every version of the key is a KEK of its own: what an
/// older one wrapped still unwraps as long as the store has it, and a new version takes effect by rotating to it.
///
/// ```
/// # #[cfg(feature = "file-vault")] {
/// use std::sync::Arc;
/// use vmkeep_envelope::file_vault::{FileVault, FileVaultKey, KeyKind, Ports, Settings};
/// use vmkeep_envelope::{DomainKeys, KeyVault, OsEntropy, SecretKey, StoreKek};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("keys");
/// let key = FileVaultKey::Key(SecretKey::generate(&OsEntropy)?);
/// let store = FileVault::create(path, key, Settings::default(), Ports::default())?;
/// store.create_key("backup-kek", KeyKind::Rsa2048)?;
/// let kek = StoreKek::new(Arc::new(store), "backup-kek", None, None)?;
/// assert!(kek.describe().url.is_some_and(|url| url.to_string().contains("/keys/backup-kek/")));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StoreKek {
    store: Arc<dyn KeyStore>,
    name: String,
    /// As the store had it when this was made.
    url: KeyUrl,
    /// The version that last wrapped or unwrapped: what is stated in points, as it is what the vault rests on.
    used: Mutex<Option<String>>,
    version: Option<String>,
    algorithm: Option<WrapAlgorithm>,
}

impl StoreKek {
    /// The key `name` of `store`. A version or algorithm that is not given is the newest, and the key's preferred one, each
    /// time something is wrapped.
    ///
    /// Fails when the store does not have the key; one that is disabled fails when it is used.
    pub fn new(
        store: Arc<dyn KeyStore>,
        name: &str,
        version: Option<&str>,
        algorithm: Option<WrapAlgorithm>,
    ) -> Result<Self, KeyError> {
        let url = store.key(name, version)?.url;
        let version = version.map(str::to_owned);
        Ok(Self { store, name: name.to_owned(), url, used: Mutex::default(), version, algorithm })
    }

    fn note(&self, version: &str) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Some(version.to_owned());
    }

    fn kek_id(&self, version: &str) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(labels::STORE_KEK).update(&[0]);
        hasher.update(self.store.key_scope().as_bytes()).update(&[0]);
        hasher.update(self.name.as_bytes()).update(&[0]);
        half(&hasher.update(version.as_bytes()).finalize())
    }
}

impl KeyVault for StoreKek {
    fn wrap(
        &self,
        key: &SecretKey,
        context: &WrapContext,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        let info = self.store.key(&self.name, self.version.as_deref())?;
        let algorithm = self.algorithm.or_else(|| info.algorithms.first().copied());
        let algorithm = algorithm.ok_or_else(|| KeyStoreError::Unsupported {
            store: self.store.url().to_owned(),
            what: "wrap with a key that has no algorithm for it",
        })?;
        let transport = SecretKey::generate(entropy)?;
        let wrapped =
            self.store.wrap(&self.name, info.url.version(), algorithm, transport.expose(), entropy)?;
        let version = wrapped.url.version().unwrap_or_default().to_owned();
        self.note(&version);
        let bound = Kek::new(transport).wrap(key, context, None, entropy)?;
        let len = u16::try_from(wrapped.bytes.len()).map_err(|_| KeyError::WrapField {
            field: "key",
            len: wrapped.bytes.len(),
            limit: "at most 1024",
        })?;
        Ok(WrappedKey {
            algorithm: format!("{algorithm}{SUFFIX}"),
            kek_id: self.kek_id(&version).to_vec(),
            key_version: version,
            kdf: None,
            bytes: [&len.to_le_bytes(), wrapped.bytes.as_slice(), &bound.bytes].concat(),
        })
    }

    fn describe(&self) -> KekDescription {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let of_used = used.and_then(|version| KeyUrl::new(self.url.store(), &self.name, Some(&version)).ok());
        let url = of_used.unwrap_or_else(|| self.url.clone());
        KekDescription { managed: KekManagement::Customer, url: Some(url) }
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Unwrapped, KeyError> {
        let algorithm = wrapped.algorithm.strip_suffix(SUFFIX).and_then(WrapAlgorithm::from_name);
        let Some(algorithm) = algorithm.filter(|_| wrapped.kdf.is_none()) else {
            return Ok(Unwrapped::NotMine);
        };
        if wrapped.kek_id != self.kek_id(&wrapped.key_version) {
            return Ok(Unwrapped::NotMine);
        }
        let broken = || Ok(Unwrapped::Broken(KeyError::Tampered));
        let Some((len, rest)) = wrapped.bytes.split_first_chunk::<2>() else { return broken() };
        let Some((raw, bound)) = rest.split_at_checked(u16::from_le_bytes(*len).into()) else {
            return broken();
        };
        let transport = match self.store.unwrap(&self.name, &wrapped.key_version, algorithm, raw) {
            Ok(transport) => transport,
            Err(KeyStoreError::NotUnwrapped { .. }) => return broken(),
            Err(e) => return Err(e.into()),
        };
        let Ok(transport) = SecretKey::fill(|key| match transport.expose().len() {
            32 => {
                key.copy_from_slice(transport.expose());
                Ok(())
            }
            _ => Err(()),
        }) else {
            return broken();
        };
        self.note(&wrapped.key_version);
        Ok(Kek::new(transport).unwrap_bytes(bound, context))
    }
}

impl fmt::Debug for StoreKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKek({})", self.url)
    }
}
