//! The seal around a vault's content and around backup blobs: a fresh root key wrapped by what opens the vault, and the
//! body under it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use vmkeep_model::DomainId;
use zeroize::Zeroizing;

use super::FileVaultKey;
use crate::aead::{Cipher, SALT_LEN, TAG_LEN};
use crate::kek::{Kek, WRAPPED_LEN};
use crate::reader::{Reader, exactly, narrow};
use crate::salt::Salter;
use crate::{
    Argon2Kdf, Argon2Params, Entropy, KeyError, KeyStoreError, OpenError, Passphrase, SecretKey, Unwrapped,
    WrapContext, labels,
};

const VERSION: u16 = 1;
/// Longest body.
pub(super) const BODY_MAX: usize = 16 << 20;
/// Longest sealed object.
pub(super) const SEALED_MAX: usize = BODY_MAX + 1024;

/// What a sealed object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A vault.
    Vault,
    /// A backup of one item.
    Blob,
}

impl Kind {
    fn magic(self) -> &'static str {
        match self {
            Self::Vault => "vmkeepF1",
            Self::Blob => "vmkeepB1",
        }
    }
}

/// What opens a vault.
pub(super) struct Lock {
    key: Opener,
    /// Derived keys by what they were derived with: Argon2id is slow on purpose.
    derived: Mutex<Vec<(Argon2Kdf, Arc<Kek>)>>,
}

enum Opener {
    Passphrase(Passphrase, Argon2Kdf),
    Key(Arc<Kek>),
}

/// Why something did not open.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// With another passphrase or key it may.
    NotMine,
    Open(OpenError),
    Key(KeyError),
}

impl From<OpenError> for NotOpened {
    fn from(e: OpenError) -> Self {
        Self::Open(e)
    }
}

impl Lock {
    pub(super) fn new(key: FileVaultKey, entropy: &dyn Entropy, path: &Path) -> Result<Self, KeyStoreError> {
        let key = match key {
            FileVaultKey::Key(key) => Opener::Key(Arc::new(Kek::new(key))),
            FileVaultKey::Passphrase(passphrase, params) => {
                let mut salt = [0; 16];
                entropy.fill(&mut salt).map_err(|e| KeyStoreError::Unreachable {
                    store: path.display().to_string(),
                    source: e.into(),
                })?;
                Opener::Passphrase(passphrase, Argon2Kdf { params, salt })
            }
        };
        Ok(Self { key, derived: Mutex::default() })
    }

    /// The KEK of what was sealed with `kdf`, and how to say so; with none, that of what is sealed anew.
    fn kek(&self, kdf: Option<Argon2Kdf>) -> Result<Option<Arc<Kek>>, KeyError> {
        match (&self.key, kdf) {
            (Opener::Key(kek), None) => Ok(Some(Arc::clone(kek))),
            (Opener::Passphrase(passphrase, _), Some(kdf)) => {
                let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((_, kek)) = derived.iter().find(|(known, _)| *known == kdf) {
                    return Ok(Some(Arc::clone(kek)));
                }
                let kek = Arc::new(Kek::new(kdf.derive(passphrase)?));
                derived.truncate(3);
                derived.push((kdf, Arc::clone(&kek)));
                Ok(Some(kek))
            }
            (Opener::Key(_), Some(_)) | (Opener::Passphrase(..), None) => Ok(None),
        }
    }

    /// Seals `body`; `like` is what was sealed before in the same place, whose salt is used again so that Argon2id runs once.
    pub(super) fn seal(
        &self,
        kind: Kind,
        body: &[u8],
        like: Option<Argon2Kdf>,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, KeyError> {
        let kdf = match &self.key {
            Opener::Key(_) => None,
            Opener::Passphrase(_, own) => Some(like.unwrap_or(*own)),
        };
        let kek = self.kek(kdf)?.ok_or(KeyError::Tampered)?;
        let root = SecretKey::generate(entropy)?;
        let wrapped = kek.wrap(&root, &context(kind), None, entropy)?;

        let mut sealed = Vec::with_capacity(256 + body.len());
        sealed.extend_from_slice(kind.magic().as_bytes());
        sealed.extend_from_slice(&VERSION.to_le_bytes());
        sealed.extend_from_slice(&[0; 2]);
        match kdf {
            None => sealed.push(0),
            Some(Argon2Kdf { params, salt }) => {
                sealed.push(1);
                sealed.extend_from_slice(&params.memory_kib().to_le_bytes());
                sealed.extend_from_slice(&params.passes().to_le_bytes());
                sealed.extend_from_slice(&params.lanes().to_le_bytes());
                sealed.extend_from_slice(&salt);
            }
        }
        sealed.extend_from_slice(&kek.id);
        sealed.extend_from_slice(&wrapped.bytes);
        let len = narrow(body.len()).to_le_bytes();
        let mut salter = Salter::outside_session(&root, entropy)?;
        salter.cover(&[&sealed, &len], body);
        let salt = salter.finish();
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(&len);
        let aad = sealed.clone();
        let at = sealed.len();
        sealed.extend_from_slice(body);
        let tag = Cipher::new(&root, &salt, labels::FILE_VAULT).seal(0, &aad, &mut sealed[at..]);
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens what was sealed; gives its body, and how its key is derived.
    pub(super) fn open(
        &self,
        kind: Kind,
        sealed: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, Option<Argon2Kdf>), NotOpened> {
        let mut from = Reader::new(sealed);
        from.magic(kind.magic())?;
        from.version(VERSION)?;
        from.reserved(2)?;
        let kdf = from.optional(|from| {
            let (memory_kib, passes, lanes) = (from.u32()?, from.u32()?, from.u32()?);
            let params = Argon2Params::new(memory_kib, passes, lanes).map_err(OpenError::BrokenWrap)?;
            Ok(Argon2Kdf { params, salt: from.array()? })
        })?;
        let kek_id: [u8; 16] = from.array()?;
        let wrapped = from.take(WRAPPED_LEN)?;
        let salt = from.array::<SALT_LEN>()?;
        let len = from.count("body", BODY_MAX)?;
        let body_at = from.position();
        exactly(body_at + len + TAG_LEN, sealed)?;
        let mut body = Zeroizing::new(from.take(len)?.to_vec());
        let tag = from.array()?;

        let kek = self.kek(kdf).map_err(NotOpened::Key)?.filter(|kek| kek.id == kek_id);
        let Some(kek) = kek else { return Err(NotOpened::NotMine) };
        let root = match kek.unwrap_bytes(wrapped, &context(kind)) {
            Unwrapped::Key(root) => root,
            Unwrapped::NotMine | Unwrapped::Broken(_) => return Err(OpenError::Tampered.into()),
        };
        Cipher::new(&root, &salt, labels::FILE_VAULT).open(0, &sealed[..body_at], &mut body, &tag)?;
        Ok((body, kdf))
    }
}

/// What a root key is bound to beside the KEK: the kind of object. There is no domain and no epoch here.
fn context(kind: Kind) -> WrapContext {
    let epoch = match kind {
        Kind::Vault => 0,
        Kind::Blob => 1,
    };
    WrapContext { domain: DomainId::VAULT, epoch }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock(..)")
    }
}
