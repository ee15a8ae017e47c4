//! Reading the keys of a disk out of their stores.

use vmkeep_model::DiskName;

use super::put_back::KEK_URL;
use super::{CapturedDisk, CapturedKey, CapturedSecret, DiskEncryption, GuestKeysError};
use crate::{KeyStore, KeyStoreError, KeyUrl, SecretStore};

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
            let version = wrapped_by(&bek, url).map_err(|found| GuestKeysError::OtherKek {
                disk: disk.clone(),
                secret: bek.url.to_string(),
                found,
                given: url.to_string(),
            })?;
            let info = keys.key(url.name(), version.as_deref()).map_err(failed("key"))?;
            if !info.enabled {
                return Err(failed("key")(KeyStoreError::Disabled { url: info.url.to_string() }));
            }
            let backup = given_out(keys.backup_key(url.name())).map_err(failed("key"))?;
            Some(CapturedKey { url: info.url, backup })
        }
    };
    Ok(CapturedDisk { disk: disk.clone(), bek, kek })
}

/// The version of the KEK that wraps a secret: the one that its tag names, whatever is newest by now; the one that was given where it
/// has no tag of this key. The URL in the tag when that is of another version than the one given.
fn wrapped_by(secret: &CapturedSecret, given: &KeyUrl) -> Result<Option<String>, String> {
    let given_version = || given.version().map(str::to_owned);
    let Some(tag) = secret.value.tags.get(KEK_URL) else { return Ok(given_version()) };
    let found = tag.parse::<KeyUrl>().ok().filter(|found| found.unversioned() == given.unversioned());
    let Some(found) = found else { return Ok(given_version()) };
    match (given.version(), found.version()) {
        (Some(given), Some(found)) if given != found => Err(tag.clone()),
        (given, found) => Ok(found.or(given).map(str::to_owned)),
    }
}

/// `None` for a store that gives nothing out.
fn given_out(blob: Result<Vec<u8>, KeyStoreError>) -> Result<Option<Vec<u8>>, KeyStoreError> {
    match blob {
        Ok(blob) => Ok(Some(blob)),
        Err(KeyStoreError::Unsupported { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}
