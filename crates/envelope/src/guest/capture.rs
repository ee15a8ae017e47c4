//! Reading the keys of a disk out of their stores.

use vmkeep_model::DiskName;

use super::{CapturedDisk, CapturedKey, CapturedSecret, DiskEncryption, GuestKeysError};
use crate::{KeyStore, KeyStoreError, SecretStore};

/// The stores that hold the keys of guests. Secrets and keys may lie in different ones.
#[derive(Clone, Copy, Debug)]
pub struct GuestKeyStores<'a> {
    /// Where the BEKs are.
    pub secrets: &'a dyn SecretStore,
    /// Where the KEKs are, when there are any.
    pub keys: Option<&'a dyn KeyStore>,
}

/// Reads the secret of `encryption`, the version of its key, and the backup blobs of both.
///
/// Fails when the key is disabled or gone, although nothing is unwrapped: a point whose keys cannot be used would look
/// protected and not be.
pub fn capture(
    stores: &GuestKeyStores<'_>,
    disk: &DiskName,
    encryption: &DiskEncryption,
) -> Result<CapturedDisk, GuestKeysError> {
    let failed = |what| move |source| GuestKeysError::Store { what, disk: disk.clone(), source };
    let wrong = |url: String, store: &str| GuestKeysError::WrongStore {
        url,
        disk: disk.clone(),
        store: store.to_owned(),
    };
    let DiskEncryption { bek, kek } = encryption;
    if bek.store() != stores.secrets.url() {
        return Err(wrong(bek.to_string(), stores.secrets.url()));
    }
    let secret = stores.secrets.secret(bek.name(), bek.version()).map_err(failed("secret"))?;
    let backup = given_out(stores.secrets.backup_secret(bek.name())).map_err(failed("secret"))?;
    let bek = CapturedSecret { url: secret.url, value: secret.value, backup };
    let kek = match (kek, stores.keys) {
        (None, _) => None,
        (Some(url), None) => return Err(wrong(url.to_string(), "no key store")),
        (Some(url), Some(keys)) if url.store() != keys.url() => {
            return Err(wrong(url.to_string(), keys.url()));
        }
        (Some(url), Some(keys)) => {
            let info = keys.key(url.name(), url.version()).map_err(failed("key"))?;
            if !info.enabled {
                return Err(failed("key")(KeyStoreError::Disabled { url: info.url.to_string() }));
            }
            let backup = given_out(keys.backup_key(url.name())).map_err(failed("key"))?;
            Some(CapturedKey { url: info.url, backup })
        }
    };
    Ok(CapturedDisk { disk: disk.clone(), bek, kek })
}

/// `None` for a store that gives nothing out.
fn given_out(blob: Result<Vec<u8>, KeyStoreError>) -> Result<Option<Vec<u8>>, KeyStoreError> {
    match blob {
        Ok(blob) => Ok(Some(blob)),
        Err(KeyStoreError::Unsupported { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
