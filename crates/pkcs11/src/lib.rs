//! Keys on PKCS#11 tokens, as a [`KeyStore`]: the private half of a key never leaves its token.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use vmkeep_envelope::{SecretBytes, StoreKek};
//! use vmkeep_pkcs11::Pkcs11Store;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = "/usr/lib/softhsm/libsofthsm2.so";
//! let pin = SecretBytes::new(b"1234".to_vec());
//! let token = Pkcs11Store::open(module, "backups", pin)?;
//! let kek = StoreKek::new(Arc::new(token), "kek", None, None)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Which objects are keys
//!
//! A key is what bears its name as `CKA_LABEL`: RSA key pairs, and AES keys of 256 bits. Several of one label are its
//! versions. The version is `CKA_ID` in hex, and the newest is the one whose `CKA_ID` is the highest number, read big
//! endian. So a key is rotated by making another of the same label with a higher id. Objects without an id do not count.
//!
//! A key may be used when it may unwrap: `CKA_DECRYPT` of the private key, `CKA_UNWRAP` of the AES key. With one that may
//! not, nothing is wrapped either: it would be wrapped for good.
//!
//! # What a token does
//!
//! RSA-OAEP is asked for by `C_Encrypt` and `C_Decrypt`. Not every token knows it with SHA-256; whether this one does is
//! tried once. AES key wrap is asked for by `C_WrapKey` and `C_UnwrapKey`, of session objects that are gone afterwards:
//! the wrapped bytes are the caller's, and so are known to this process anyway.
//!
//! # What it does not do
//!
//! It makes and changes no keys on the token: that is for the token's own tools. Nothing is backed up from it, or restored.

mod call;
mod error;
mod find;
mod module;

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::session::Session;
use cryptoki::types::AuthPin;
use vmkeep_envelope::{
    Entropy, KeyInfo, KeyStore, KeyStoreError, KeyUrl, SecretBytes, StoreWrapped, WrapAlgorithm,
};

use crate::error::{Asked, again, unreachable};
use crate::find::{Found, Kind};

/// The keys of one token.
///
/// It has one session, which all callers take turns with, and which is opened again when the token was away. A PIN is
/// judged when nobody in this process is logged in to the token yet: it is the process that logs in, not the session.
pub struct Pkcs11Store {
    module: Pkcs11,
    label: String,
    url: String,
    pin: AuthPin,
    state: Mutex<State>,
}

/// What is known of the token.
#[derive(Debug, Default)]
struct State {
    /// Logged in.
    session: Option<Session>,
    /// Whether it does RSA-OAEP with SHA-256, once that was tried.
    sha256: Option<bool>,
}

/// How well a key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Its value cannot be read in the clear (`CKA_SENSITIVE`).
    pub sensitive: bool,
    /// It can be taken out wrapped with another key (`CKA_EXTRACTABLE`).
    pub extractable: bool,
}

impl Pkcs11Store {
    /// Logs in to the token called `label`, by the library at `module`.
    ///
    /// A library is loaded once per process and stays loaded.
    pub fn open(module: impl AsRef<Path>, label: &str, pin: SecretBytes) -> Result<Self, KeyStoreError> {
        let url = format!("pkcs11:{}", percent_encoded(label));
        let pin = std::str::from_utf8(pin.expose()).map(AuthPin::from).map_err(|_| {
            KeyStoreError::Credentials { store: url.clone(), why: "the PIN is not UTF-8".to_owned() }
        })?;
        let module = module::load(module.as_ref()).map_err(|error| unreachable(&url, error))?;
        let store = Self { module, label: label.to_owned(), url, pin, state: Mutex::default() };
        store.with(|_, _| Ok(()))?;
        Ok(store)
    }

    /// How the token keeps a key; the newest version when none is given.
    pub fn protection(&self, name: &str, version: Option<&str>) -> Result<Protection, KeyStoreError> {
        self.with(|session, _| {
            let (found, url) = self.find(session, name, version)?;
            find::protection(session, &found).map_err(|error| self.failed(error, &url, Asked::Look))
        })
    }

    /// Runs `act` in a session that is logged in. When the session turns out to be dead, once more in a new one.
    fn with<T>(
        &self,
        act: impl Fn(&Session, &mut Option<bool>) -> Result<T, KeyStoreError>,
    ) -> Result<T, KeyStoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = state.session.is_some();
        for first in [was_open, false] {
            let session = match state.session.take() {
                Some(session) => session,
                None => module::log_in(&self.module, &self.label, &self.pin, &self.url)?,
            };
            let done = act(&session, &mut state.sha256);
            match &done {
                Err(error) if again(error) => {
                    drop(session);
                    if first {
                        continue;
                    }
                }
                _ => state.session = Some(session),
            }
            return done;
        }
        unreachable!("the second turn returns")
    }

    fn key_url(&self, name: &str, version: Option<&str>) -> Result<KeyUrl, KeyStoreError> {
        KeyUrl::new(&self.url, name, version).map_err(|_| KeyStoreError::Name { name: name.to_owned() })
    }

    fn find(
        &self,
        session: &Session,
        name: &str,
        version: Option<&str>,
    ) -> Result<(Found, KeyUrl), KeyStoreError> {
        let asked = self.key_url(name, version)?;
        let found =
            find::key(session, name, version).map_err(|error| self.failed(error, &asked, Asked::Look))?;
        let found = found.ok_or_else(|| KeyStoreError::NotFound { url: asked.to_string() })?;
        let url = self.key_url(name, Some(&found.version()))?;
        Ok((found, url))
    }

    /// What a key can do, the one to prefer first.
    fn algorithms(
        &self,
        session: &Session,
        sha256: &mut Option<bool>,
        found: &Found,
        url: &KeyUrl,
    ) -> Result<Vec<WrapAlgorithm>, KeyStoreError> {
        let Kind::Rsa { public, .. } = found.kind else { return Ok(vec![WrapAlgorithm::A256Kw]) };
        let Some(public) = public else { return Ok(Vec::new()) };
        let does = match *sha256 {
            Some(known) => known,
            None => *sha256.insert(
                call::does_sha256(session, public).map_err(|error| self.failed(error, url, Asked::Look))?,
            ),
        };
        let all = [WrapAlgorithm::RsaOaep256, WrapAlgorithm::RsaOaep];
        Ok(all[usize::from(!does)..].to_vec())
    }

    /// A key that may be used, and by this algorithm.
    fn usable(
        &self,
        session: &Session,
        sha256: &mut Option<bool>,
        name: &str,
        version: Option<&str>,
        algorithm: WrapAlgorithm,
    ) -> Result<(Found, KeyUrl), KeyStoreError> {
        let (found, url) = self.find(session, name, version)?;
        if let Some(permission) = found.missing() {
            let (url, permission) = (url.to_string(), permission.to_owned());
            return Err(KeyStoreError::Forbidden { url, permission });
        }
        if !self.algorithms(session, sha256, &found, &url)?.contains(&algorithm) {
            return Err(KeyStoreError::Algorithm { url: url.to_string(), algorithm });
        }
        Ok((found, url))
    }

    fn failed(&self, error: cryptoki::error::Error, url: &KeyUrl, asked: Asked) -> KeyStoreError {
        error::failed(error, &self.url, url, asked)
    }

    fn cannot<T>(&self, what: &'static str) -> Result<T, KeyStoreError> {
        Err(KeyStoreError::Unsupported { store: self.url.clone(), what })
    }
}

impl KeyStore for Pkcs11Store {
    fn url(&self) -> &str {
        &self.url
    }

    fn key(&self, name: &str, version: Option<&str>) -> Result<KeyInfo, KeyStoreError> {
        self.with(|session, sha256| {
            let (found, url) = self.find(session, name, version)?;
            let algorithms = self.algorithms(session, sha256, &found, &url)?;
            Ok(KeyInfo { url, enabled: found.missing().is_none(), algorithms })
        })
    }

    /// The padding of RSA-OAEP comes from the token, not from `_entropy`.
    fn wrap(
        &self,
        name: &str,
        version: Option<&str>,
        algorithm: WrapAlgorithm,
        plain: &[u8],
        _entropy: &dyn Entropy,
    ) -> Result<StoreWrapped, KeyStoreError> {
        self.with(|session, sha256| {
            let (found, url) = self.usable(session, sha256, name, version, algorithm)?;
            if !found.takes(algorithm, plain.len()) {
                return Err(KeyStoreError::Length { url: url.to_string(), algorithm, len: plain.len() });
            }
            match call::wrap(session, &found, algorithm, plain) {
                Ok(bytes) => Ok(StoreWrapped { url, algorithm, bytes }),
                Err(error) => Err(self.failed(error, &url, Asked::Wrap { algorithm, len: plain.len() })),
            }
        })
    }

    fn unwrap(
        &self,
        name: &str,
        version: &str,
        algorithm: WrapAlgorithm,
        wrapped: &[u8],
    ) -> Result<SecretBytes, KeyStoreError> {
        self.with(|session, sha256| {
            let (found, url) = self.usable(session, sha256, name, Some(version), algorithm)?;
            let not_unwrapped = || KeyStoreError::NotUnwrapped { url: url.to_string() };
            if !found.gives(wrapped.len()) {
                return Err(not_unwrapped());
            }
            call::unwrap(session, &found, algorithm, wrapped).map_err(|error| {
                let failed = self.failed(error, &url, Asked::Unwrap { algorithm });
                // Tokens say of bytes that do not unwrap what they say when they are broken. A key that still works says
                // that it is the bytes.
                match failed {
                    KeyStoreError::Unreachable { .. } if call::works(session, &found, algorithm) => {
                        not_unwrapped()
                    }
                    other => other,
                }
            })
        })
    }

    fn backup_key(&self, _name: &str) -> Result<Vec<u8>, KeyStoreError> {
        self.cannot("back up keys: they never leave the token")
    }

    fn restore_key(&self, _blob: &[u8]) -> Result<KeyInfo, KeyStoreError> {
        self.cannot("restore keys: that is for the token's own tools")
    }
}

/// Text with all but letters, digits and `-._~` as `%` and two hex digits (RFC 3986).
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            let digits = [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
            encoded.extend(digits.into_iter().flatten().map(|digit| digit.to_ascii_uppercase()));
        }
    }
    encoded
}

impl fmt::Debug for Pkcs11Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11Store").field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_percent_encoded_in_urls() {
        assert_eq!(percent_encoded("backups-1.a_b~"), "backups-1.a_b~");
        assert_eq!(percent_encoded("my token/ä%"), "my%20token%2F%C3%A4%25");
        assert!(KeyUrl::new("pkcs11:my%20token%2F", "kek", Some("01")).is_ok());
    }
}
