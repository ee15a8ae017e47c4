//! Stores of keys and secrets that are given on the command line: a key vault in a file, a token.

use std::env;
use std::path::Path;
use std::sync::Arc;

use vmkeep::envelope::file_vault::{FileVault, FileVaultKey, Ports};
use vmkeep::envelope::guest::GuestKeyStores;
use vmkeep::envelope::{
    Argon2Params, KeyFileVault, KeyStore, KeyStoreError, KeyUrl, KeyVault, OsEntropy, Passphrase,
    SecretBytes, SecretStore, SecretUrl, StoreKek,
};
use vmkeep::pkcs11::Pkcs11Store;

use crate::args::StoreArgs;
use crate::error::Error;
use crate::key::first_line;

/// The environment variable that holds the passphrase of the key vault.
const VARIABLE: &str = "VMKEEP_KEYVAULT_PASSPHRASE";

/// The environment variable that holds the PIN of the token.
const PIN_VARIABLE: &str = "VMKEEP_PIN";

/// The stores that were given.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    file: Option<Arc<FileVault>>,
    keys: Vec<Arc<dyn KeyStore>>,
}

impl Stores {
    pub(crate) fn open(args: &StoreArgs) -> Result<Self, Error> {
        let mut stores = Self::default();
        if let Some(path) = &args.keyvault {
            let vault = Arc::new(FileVault::open(path, file_vault_key(args)?, Ports::default())?);
            stores.keys.push(Arc::clone(&vault) as Arc<dyn KeyStore>);
            stores.file = Some(vault);
        }
        if let (Some(library), Some(label)) = (&args.pkcs11, &args.token) {
            stores.keys.push(Arc::new(Pkcs11Store::open(library, label, pin(args)?)?));
        }
        Ok(stores)
    }

    /// The key vault in a file, which was given.
    pub(crate) fn file(&self) -> Result<&FileVault, Error> {
        self.file.as_deref().ok_or_else(|| Error::usage("a key vault is needed: give --keyvault FILE"))
    }

    /// The store of a key, its name and its version. `text` is a URL, or a name when there is one store only.
    pub(crate) fn key(&self, text: &str) -> Result<(Arc<dyn KeyStore>, KeyUrl), Error> {
        if let Ok(url) = text.parse::<KeyUrl>() {
            let store = self.keys.iter().find(|store| store.url() == url.store());
            let store = store.ok_or_else(|| {
                Error::usage(format!(
                    "{url} is in {}, which is none of the stores that are given",
                    url.store()
                ))
            })?;
            return Ok((Arc::clone(store), url));
        }
        match self.keys.as_slice() {
            [store] => {
                let url = KeyUrl::new(store.url(), text, None).map_err(Error::usage)?;
                Ok((Arc::clone(store), url))
            }
            [] => Err(Error::usage(format!(
                "key {text} is in a store that is not given: give --keyvault FILE, or --pkcs11 and --token"
            ))),
            _ => Err(Error::usage(format!("key {text} may be in more than one store; give its URL"))),
        }
    }

    /// A secret by its URL, or by its name in the key vault.
    pub(crate) fn secret(&self, text: &str) -> Result<SecretUrl, Error> {
        if let Ok(url) = text.parse() {
            return Ok(url);
        }
        SecretUrl::new(SecretStore::url(self.file()?), text, None).map_err(Error::usage)
    }

    /// A key of a store, to wrap the keys of a vault.
    pub(crate) fn kek(&self, text: &str) -> Result<Arc<dyn KeyVault>, Error> {
        let (store, url) = self.key(text)?;
        Ok(Arc::new(StoreKek::new(store, url.name(), url.version(), None)?))
    }

    /// Where the keys of guests are; those that wrap them are in the store of `kek`.
    pub(crate) fn of_guests<'a>(
        &'a self,
        kek: Option<&'a Arc<dyn KeyStore>>,
    ) -> Result<GuestKeyStores<'a>, Error> {
        Ok(GuestKeyStores { secrets: self.file()?, keys: kek.map(|store| &**store) })
    }

    /// The store that a URL names, when it was given.
    pub(crate) fn of_url(&self, url: &KeyUrl) -> Option<&Arc<dyn KeyStore>> {
        self.keys.iter().find(|store| store.url() == url.store())
    }
}

/// The PIN of the token.
fn pin(args: &StoreArgs) -> Result<SecretBytes, Error> {
    let environment = env::var_os(PIN_VARIABLE).is_some();
    let text = match (&args.pin_file, environment) {
        (Some(path), false) => first_line(path)?,
        (None, true) => env::var(PIN_VARIABLE)
            .map_err(|_| Error::usage(format!("{PIN_VARIABLE} is not text in UTF-8")))?,
        (None, false) => {
            return Err(Error::usage(format!(
                "the PIN of the token is needed: give --pin-file FILE, or set {PIN_VARIABLE}"
            )));
        }
        (Some(_), true) => {
            return Err(Error::usage(format!(
                "two PINs are given; leave only one of --pin-file and {PIN_VARIABLE}"
            )));
        }
    };
    Ok(SecretBytes::new(text.into_bytes()))
}

/// What the key vault is opened with, or made with.
pub(crate) fn file_vault_key(args: &StoreArgs) -> Result<FileVaultKey, Error> {
    let environment = env::var_os(VARIABLE).is_some();
    match (&args.kv_key_file, &args.kv_passphrase_file, environment) {
        (Some(path), None, false) => Ok(FileVaultKey::Key(KeyFileVault::open(path)?.into_key())),
        (None, Some(path), false) => passphrase(first_line(path)?),
        (None, None, true) => passphrase(
            env::var(VARIABLE).map_err(|_| Error::usage(format!("{VARIABLE} is not text in UTF-8")))?,
        ),
        (None, None, false) => Err(Error::usage(format!(
            "the key vault's own key is needed: give --kv-key-file FILE or --kv-passphrase-file FILE, or set \
             {VARIABLE}"
        ))),
        _ => Err(Error::usage(format!(
            "more than one key of the key vault is given; leave only one of --kv-key-file, \
             --kv-passphrase-file and {VARIABLE}"
        ))),
    }
}

fn passphrase(text: String) -> Result<FileVaultKey, Error> {
    Ok(FileVaultKey::Passphrase(Passphrase::new(text)?, Argon2Params::default()))
}

/// The key of a key vault to be made: as [`file_vault_key`], but a key file that is not there is made.
pub(crate) fn new_file_vault_key(args: &StoreArgs) -> Result<(FileVaultKey, bool), Error> {
    match &args.kv_key_file {
        Some(path) if !path.exists() => Ok((FileVaultKey::Key(make_key(path)?), true)),
        _ => Ok((file_vault_key(args)?, false)),
    }
}

fn make_key(path: &Path) -> Result<vmkeep::envelope::SecretKey, Error> {
    Ok(KeyFileVault::create(path, &OsEntropy)?.into_key())
}

/// Why a secret that was given out is not what it should be.
pub(crate) fn broken(url: &SecretUrl, what: &str) -> Error {
    Error::Store(KeyStoreError::Damaged { store: url.to_string(), what: what.to_owned() })
}
