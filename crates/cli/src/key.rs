//! The key of a vault: which one is meant, and how it is read.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use vmkeep::envelope::{
    Argon2Params, KeyError, KeyFileVault, KeyVault, OsEntropy, Passphrase, PassphraseVault,
};

use crate::args::{ClientKekArgs, KeyArgs, NewKekArgs, StoreArgs};
use crate::error::Error;
use crate::stores::Stores;
use crate::{output, paths};

/// The environment variable that holds a passphrase.
const VARIABLE: &str = "VMKEEP_PASSPHRASE";
/// Longest passphrase file that is read, in bytes.
const PASSPHRASE_FILE_MAX: usize = 64 << 10;

/// Where the key of a vault comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeySource<'a> {
    /// 32 bytes in a file.
    File(&'a Path),
    /// The first line of a file.
    PassphraseFile(&'a Path),
    /// [`VARIABLE`].
    Environment,
    /// A key of a store.
    Store(&'a StoreArgs, &'a str),
}

impl<'a> KeySource<'a> {
    /// The one source that is given.
    pub(crate) fn choose(args: &'a KeyArgs) -> Result<Self, Error> {
        let environment = env::var_os(VARIABLE).map(|_| Self::Environment);
        let given = [
            args.key_file.as_deref().map(Self::File),
            args.passphrase_file.as_deref().map(Self::PassphraseFile),
            args.kek.as_deref().map(|name| Self::Store(&args.stores, name)),
            environment,
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(source), None) => Ok(source),
            (None, _) => Err(Error::usage(format!(
                "the vault's key is needed: give --key-file FILE, --passphrase-file FILE or --kek KEY, or set {VARIABLE}"
            ))),
            _ => Err(Error::usage(format!(
                "more than one key is given; leave only one of --key-file, --passphrase-file, --kek and {VARIABLE}"
            ))),
        }
    }

    /// The key that a vault is to have from now on; clap sees to it that no more than one is given.
    pub(crate) fn new_one(args: &'a NewKekArgs, stores: &'a StoreArgs) -> Result<Self, Error> {
        let given = [
            args.key_file.as_deref().map(Self::File),
            args.passphrase_file.as_deref().map(Self::PassphraseFile),
            args.kek.as_deref().map(|name| Self::Store(stores, name)),
        ];
        given.into_iter().flatten().next().ok_or_else(|| {
            Error::usage(
                "the new key is needed: give --new-key-file FILE, --new-passphrase-file FILE or --new-kek KEY",
            )
        })
    }

    /// The key of a client; clap sees to it that it is exactly one.
    pub(crate) fn of_client(args: &'a ClientKekArgs, stores: &'a StoreArgs) -> Result<Self, Error> {
        let given = [
            args.key_file.as_deref().map(Self::File),
            args.passphrase_file.as_deref().map(Self::PassphraseFile),
            args.kek.as_deref().map(|name| Self::Store(stores, name)),
        ];
        given.into_iter().flatten().next().ok_or_else(|| {
            Error::usage(
                "the client's key is needed: give --client-key-file FILE, --client-passphrase-file FILE or --client-kek KEY",
            )
        })
    }

    /// The key file, when it is one.
    pub(crate) fn key_file(self) -> Option<&'a Path> {
        match self {
            Self::File(path) => Some(path),
            _ => None,
        }
    }

    /// What kind of key it is, for programs.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::PassphraseFile(_) | Self::Environment => "passphrase",
            Self::Store(..) => "store",
        }
    }

    /// The key, to open a vault with.
    pub(crate) fn open(self) -> Result<Arc<dyn KeyVault>, Error> {
        match self {
            Self::File(path) => Ok(Arc::new(KeyFileVault::open(path)?)),
            Self::Store(stores, name) => Stores::open(stores)?.kek(name),
            // A vault that exists brings its own parameters.
            _ => self.passphrase_vault(Argon2Params::default()),
        }
    }

    /// The key, to make a vault with. A key file that is not there is made; returns whether that was so.
    pub(crate) fn open_or_make(self, params: Argon2Params) -> Result<(Arc<dyn KeyVault>, bool), Error> {
        match self {
            Self::File(path) => match KeyFileVault::open(path) {
                Err(KeyError::KeyFileMissing { .. }) => {
                    Ok((Arc::new(KeyFileVault::create(path, &OsEntropy)?), true))
                }
                opened => Ok((Arc::new(opened?), false)),
            },
            Self::Store(..) => Ok((self.open()?, false)),
            _ => Ok((self.passphrase_vault(params)?, false)),
        }
    }

    fn passphrase_vault(self, params: Argon2Params) -> Result<Arc<dyn KeyVault>, Error> {
        let text = match self {
            Self::PassphraseFile(path) | Self::File(path) => first_line(path)?,
            Self::Environment | Self::Store(..) => {
                env::var(VARIABLE).map_err(|_| Error::usage(format!("{VARIABLE} is not text in UTF-8")))?
            }
        };
        Ok(Arc::new(PassphraseVault::new(Passphrase::new(text)?, params, &OsEntropy)?))
    }
}

/// The first line of a passphrase file, without its end.
pub(crate) fn first_line(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::File { what: "read passphrase file", path: path.to_owned(), source };
    let content = |what: &str| Error::Content { path: path.to_owned(), what: what.to_owned() };
    let file = File::open(path).map_err(failed)?;
    warn_if_shared(path, &file.metadata().map_err(failed)?);
    // One buffer with room for all of it: no copies of the passphrase are left behind by growing.
    let mut bytes = Vec::with_capacity(PASSPHRASE_FILE_MAX + 1);
    file.take(PASSPHRASE_FILE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > PASSPHRASE_FILE_MAX {
        return Err(content("longer than a passphrase file may be (64 KiB)"));
    }
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    bytes.truncate(end);
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| content("not text in UTF-8"))
}

/// Says so when others may read a passphrase file. It may be a secret that some system mounts that way.
fn warn_if_shared(path: &Path, found: &fs::Metadata) {
    let mode = std::os::unix::fs::PermissionsExt::mode(&found.permissions());
    if found.is_file() && mode & 0o077 != 0 {
        output::note(&format!(
            "others than its owner have rights on {}; chmod 600 takes them away",
            path.display()
        ));
    }
}

/// Refuses a key file that would lie in the vault it opens.
pub(crate) fn check_apart(vault: &Path, key_file: &Path) -> Result<(), Error> {
    if paths::lies_in(key_file, vault) {
        return Err(Error::usage(format!(
            "key file {} lies in the vault; whoever gets the vault would get the key with it",
            key_file.display()
        )));
    }
    Ok(())
}
