//! The token's library, the token, and being logged in to it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use vmkeep_envelope::KeyStoreError;

use crate::error::{Asked, credentials, plain, unreachable};

/// Libraries that were loaded. They stay: one that is unloaded while it is initialized takes its sessions with it, and
/// one that is finalized does so for everyone in the process.
static LOADED: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

pub(crate) fn load(path: &Path) -> Result<Pkcs11, Error> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = loaded.get(path) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(path)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        // By another part of the program, or under another path.
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(other) => return Err(other),
    }
    loaded.insert(path.to_owned(), module.clone());
    Ok(module)
}

/// A session with the token called `label`, logged in.
pub(crate) fn log_in(
    module: &Pkcs11,
    label: &str,
    pin: &AuthPin,
    url: &str,
) -> Result<Session, KeyStoreError> {
    let failed = |error| plain(error, url, Asked::Look);
    let mut found = Vec::new();
    for slot in module.get_slots_with_token().map_err(failed)? {
        // A slot whose token cannot be asked is not the one that is meant.
        if module.get_token_info(slot).is_ok_and(|token| token.label() == label) {
            found.push(slot);
        }
    }
    let slot = match found.as_slice() {
        [slot] => *slot,
        [] => {
            let missing = io::Error::new(io::ErrorKind::NotFound, "no token of that label is there");
            return Err(unreachable(url, missing));
        }
        _ => {
            let what = "tell two tokens of the same label apart";
            return Err(KeyStoreError::Unsupported { store: url.to_owned(), what });
        }
    };
    let session = module.open_ro_session(slot).map_err(failed)?;
    match session.login(UserType::User, Some(pin)) {
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
        Err(Error::Pkcs11(refused, _)) if credentials(refused).is_some() => Err(KeyStoreError::Credentials {
            store: url.to_owned(),
            why: credentials(refused).unwrap_or_default().to_owned(),
        }),
        Err(other) => Err(failed(other)),
    }
}
