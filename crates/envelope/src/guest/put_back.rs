//! Putting captured keys back where they were, or into another store.

use vmkeep_model::{DiskName, VmName};

use super::{CapturedDisk, CapturedKey, GuestKeyStores, GuestKeysError};
use crate::{KeyStoreError, KeyUrl, SecretUrl, SecretValue, WrapAlgorithm};

/// The content type and the tags that Azure Disk Encryption finds a wrapped BEK by (Azure Backup's
/// `backup-azure-restore-key-secret`).
const WRAPPED_BEK: &str = "Wrapped BEK";
const ALGORITHM: &str = "DiskEncryptionKeyEncryptionAlgorithm";
const FILE_NAME: &str = "DiskEncryptionKeyFileName";
pub(super) const KEK_URL: &str = "DiskEncryptionKeyEncryptionKeyURL";
const MACHINE: &str = "MachineName";
const LINUX_FILE_NAME: &str = "LinuxPassPhraseFileName";

/// Which kind of guest unlocks the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestOs {
    /// BitLocker, which looks for a file named like the secret.
    Windows,
    /// dm-crypt.
    Linux,
}

/// How captured keys are put back.
#[derive(Clone, Copy, Debug)]
pub struct PutBack<'a> {
    /// Into these stores; they need not be those that the keys came from.
    pub stores: GuestKeyStores<'a>,
    /// The VM that the disk belongs to.
    pub vm: &'a VmName,
    /// What kind of guest it is, when the captured secret does not tell.
    pub os: Option<GuestOs>,
    /// Whether a secret that is there and holds something else gets a new version with what was captured. It keeps the
    /// versions it has.
    pub overwrite: bool,
}

/// What came of putting one thing back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutBackState<T> {
    /// It was there as captured.
    AlreadyThere(T),
    /// It was not there and is now.
    Restored(T),
    /// Something else was there, and has a new version now.
    Replaced(T),
}

impl<T> PutBackState<T> {
    /// Where it is.
    pub fn url(&self) -> &T {
        match self {
            Self::AlreadyThere(url) | Self::Restored(url) | Self::Replaced(url) => url,
        }
    }
}

/// What came of putting the keys of one disk back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutBackDisk {
    /// Which disk.
    pub disk: DiskName,
    /// Its secret.
    pub bek: PutBackState<SecretUrl>,
    /// The key that wraps it.
    pub kek: Option<PutBackState<KeyUrl>>,
}

impl PutBack<'_> {
    /// Puts the keys of one disk back: its key first, for without it the secret is of no use. Repeating it changes nothing.
    pub fn disk(&self, captured: &CapturedDisk) -> Result<PutBackDisk, GuestKeysError> {
        let kek = captured.kek.as_ref().map(|kek| self.key(&captured.disk, kek)).transpose()?;
        let bek = self.secret(captured, kek.as_ref().map(PutBackState::url))?;
        Ok(PutBackDisk { disk: captured.disk.clone(), bek, kek })
    }

    fn key(&self, disk: &DiskName, captured: &CapturedKey) -> Result<PutBackState<KeyUrl>, GuestKeysError> {
        let url = &captured.url;
        let failed = |source| GuestKeysError::Store { what: "key", disk: disk.clone(), source };
        let Some(keys) = self.stores.keys else {
            return Err(GuestKeysError::WrongStore {
                url: url.to_string(),
                disk: disk.clone(),
                store: "no key store".to_owned(),
            });
        };
        match keys.key(url.name(), url.version()) {
            Ok(info) if info.enabled => return Ok(PutBackState::AlreadyThere(info.url)),
            Ok(info) => return Err(failed(KeyStoreError::Disabled { url: info.url.to_string() })),
            Err(KeyStoreError::NotFound { .. }) => {}
            Err(e) => return Err(failed(e)),
        }
        match keys.key(url.name(), None) {
            Err(KeyStoreError::NotFound { .. }) => {}
            Ok(_) => {
                return Err(GuestKeysError::KeyVersion { disk: disk.clone(), url: url.to_string() });
            }
            Err(e) => return Err(failed(e)),
        }
        let Some(blob) = &captured.backup else {
            return Err(GuestKeysError::NoBackup { disk: disk.clone(), url: url.to_string() });
        };
        keys.restore_key(blob).map_err(failed)?;
        let info = keys.key(url.name(), url.version()).map_err(failed)?;
        Ok(PutBackState::Restored(info.url))
    }

    fn secret(
        &self,
        captured: &CapturedDisk,
        kek: Option<&KeyUrl>,
    ) -> Result<PutBackState<SecretUrl>, GuestKeysError> {
        let (disk, secrets) = (&captured.disk, self.stores.secrets);
        let failed = |source| GuestKeysError::Store { what: "secret", disk: disk.clone(), source };
        let (name, old) = (captured.bek.url.name(), &captured.bek.value);
        let live = match secrets.secret(name, None) {
            Ok(live) if live.value.value.ct_eq(&old.value) => {
                return Ok(PutBackState::AlreadyThere(live.url));
            }
            Ok(live) => Some(live.url),
            Err(KeyStoreError::NotFound { .. }) => None,
            Err(e) => return Err(failed(e)),
        };
        if let Some(live) = live.as_ref().filter(|_| !self.overwrite) {
            return Err(GuestKeysError::Newer {
                disk: disk.clone(),
                live: live.to_string(),
                captured: captured.bek.url.to_string(),
            });
        }
        let set = match (kek, &captured.bek.backup, &live) {
            // All its versions, as they were; another store cannot read the blob, and gets the value.
            (None, Some(blob), None) => match secrets.restore_secret(blob) {
                Ok(url) => url,
                Err(KeyStoreError::Blob { .. } | KeyStoreError::Unsupported { .. }) => {
                    secrets.set_secret(name, &old.again()).map_err(failed)?
                }
                Err(e) => return Err(failed(e)),
            },
            (None, ..) => secrets.set_secret(name, &old.again()).map_err(failed)?,
            (Some(kek), ..) => secrets.set_secret(name, &self.wrapped(captured, kek)?).map_err(failed)?,
        };
        let mut now = secrets.secret(name, None).map_err(failed)?;
        if !now.value.value.ct_eq(&old.value) && live.is_none() {
            // The blob held newer versions than the one that was captured.
            secrets.set_secret(name, &old.again()).map_err(failed)?;
            now = secrets.secret(name, None).map_err(failed)?;
        }
        if !now.value.value.ct_eq(&old.value) {
            return Err(GuestKeysError::NotSet { disk: disk.clone(), url: set.to_string() });
        }
        Ok(if live.is_some() { PutBackState::Replaced(now.url) } else { PutBackState::Restored(now.url) })
    }

    /// What a BEK that `kek` wraps is set to: what it was, with the content type and tags that it is found by.
    fn wrapped(&self, captured: &CapturedDisk, kek: &KeyUrl) -> Result<SecretValue, GuestKeysError> {
        let old = &captured.bek.value;
        let name = captured.bek.url.name();
        let file_name = match (self.os, old.tags.get(FILE_NAME)) {
            (Some(GuestOs::Windows), _) => format!("{name}.BEK"),
            (Some(GuestOs::Linux), _) => LINUX_FILE_NAME.to_owned(),
            (None, Some(known)) => known.clone(),
            (None, None) => return Err(GuestKeysError::UnknownOs { disk: captured.disk.clone() }),
        };
        let algorithm =
            old.tags.get(ALGORITHM).cloned().unwrap_or_else(|| WrapAlgorithm::RsaOaep.name().to_owned());
        let mut value = old.again();
        value.content_type = Some(WRAPPED_BEK.to_owned());
        value.tags.extend([
            (ALGORITHM.to_owned(), algorithm),
            (FILE_NAME.to_owned(), file_name),
            (KEK_URL.to_owned(), kek.to_string()),
            (MACHINE.to_owned(), self.vm.to_string()),
        ]);
        Ok(value)
    }
}
