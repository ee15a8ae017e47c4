//! A KEK of 32 bytes and the wrap it makes: what key file and passphrase have in common.

use crate::aead::{Cipher, SALT_LEN, TAG_LEN, subkey};
use crate::branch::half;
use crate::salt::Salter;
use crate::{Argon2Kdf, Entropy, KeyError, SecretKey, Unwrapped, WrapContext, WrappedKey, labels};

/// Name of the wrap in key objects.
const ALGORITHM: &str = "HKDF-SHA256+A256GCM";

/// Length of what it wraps a key of 32 bytes to.
pub(crate) const WRAPPED_LEN: usize = SALT_LEN + 32 + TAG_LEN;

#[derive(Debug)]
pub(crate) struct Kek {
    key: SecretKey,
    pub(crate) id: [u8; 16],
}

impl Kek {
    pub(crate) fn new(key: SecretKey) -> Self {
        let id = half(&blake3::Hash::from_bytes(*subkey(&key, labels::KEK_ID).expose()));
        Self { key, id }
    }

    pub(crate) fn into_key(self) -> SecretKey {
        self.key
    }

    pub(crate) fn wrap(
        &self,
        key: &SecretKey,
        context: &WrapContext,
        kdf: Option<Argon2Kdf>,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        let aad = self.aad(context);
        let mut salter = Salter::outside_session(&self.key, entropy)?;
        salter.cover(&[&aad], key.expose());
        let salt = salter.finish();

        let mut bytes = Vec::with_capacity(WRAPPED_LEN);
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(key.expose());
        let tag = Cipher::new(&self.key, &salt, labels::WRAP).seal(0, &aad, &mut bytes[SALT_LEN..]);
        bytes.extend_from_slice(&tag);
        Ok(WrappedKey {
            algorithm: ALGORITHM.to_owned(),
            kek_id: self.id.to_vec(),
            key_version: String::new(),
            kdf,
            bytes,
        })
    }

    pub(crate) fn unwrap(&self, wrapped: &WrappedKey, context: &WrapContext) -> Unwrapped {
        if wrapped.kek_id != self.id {
            return Unwrapped::NotMine;
        }
        self.unwrap_bytes(&wrapped.bytes, context)
    }

    /// As [`unwrap`](Self::unwrap), of bytes that are known to be of this KEK.
    pub(crate) fn unwrap_bytes(&self, bytes: &[u8], context: &WrapContext) -> Unwrapped {
        let Ok(bytes) = <[u8; WRAPPED_LEN]>::try_from(bytes) else {
            let len = bytes.len();
            return Unwrapped::Broken(KeyError::WrapField { field: "key", len, limit: "it has 80" });
        };
        let (mut salt, mut tag) = ([0; SALT_LEN], [0; TAG_LEN]);
        salt.copy_from_slice(&bytes[..SALT_LEN]);
        tag.copy_from_slice(&bytes[SALT_LEN + 32..]);
        let opened = SecretKey::fill(|key| {
            key.copy_from_slice(&bytes[SALT_LEN..SALT_LEN + 32]);
            Cipher::new(&self.key, &salt, labels::WRAP).open(0, &self.aad(context), key, &tag)
        });
        opened.map_or(Unwrapped::Broken(KeyError::Tampered), Unwrapped::Key)
    }

    fn aad(&self, context: &WrapContext) -> [u8; 36] {
        let mut aad = [0; 36];
        aad[..16].copy_from_slice(&context.domain.0);
        aad[16..20].copy_from_slice(&context.epoch.to_le_bytes());
        aad[20..].copy_from_slice(&self.id);
        aad
    }
}

/// Whether a wrap is of the kind made here: when not, it is somebody else's.
pub(crate) fn is_ours(wrapped: &WrappedKey) -> bool {
    wrapped.algorithm == ALGORITHM && wrapped.key_version.is_empty() && wrapped.kek_id.len() == 16
}
