//! The key schedule and the cipher: `subkey`, `sealing key` and AES-256-GCM of FORMAT.md section 3.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::{OpenError, SecretKey};

/// Length of an authentication tag, which follows its ciphertext.
pub const TAG_LEN: usize = 16;

/// Length of the salt that makes a sealing key.
pub(crate) const SALT_LEN: usize = 32;

/// `subkey(key, label)`: BLAKE3 in key derivation mode.
pub(crate) fn subkey(key: &SecretKey, label: &'static str) -> SecretKey {
    let mut bytes = blake3::derive_key(label, key.expose());
    SecretKey::from_bytes(&mut bytes)
}

/// AES-256-GCM under `sealing key(key, salt, label)`.
pub(crate) struct Cipher {
    aes: Aes256Gcm,
}

impl Cipher {
    pub(crate) fn new(key: &SecretKey, salt: &[u8; SALT_LEN], label: &str) -> Self {
        let mut sealing_key = Zeroizing::new([0; 32]);
        let (mut extracted, schedule) = Hkdf::<Sha256>::extract(Some(salt), key.expose());
        extracted.as_mut_slice().zeroize();
        schedule
            .expand(label.as_bytes(), sealing_key.as_mut_slice())
            .expect("32 bytes are within the 8160 that HKDF-SHA256 gives");
        Self { aes: Aes256Gcm::new((&*sealing_key).into()) }
    }

    /// Encrypts `text` in place and returns its tag. Once per `number`: the caller's salt sees to that.
    pub(crate) fn seal(&self, number: u32, aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.aes
            .encrypt_inout_detached(&nonce(number), aad, InOutBuf::from(text))
            .expect("every length limit of the format is below that of the cipher")
            .into()
    }

    /// Decrypts `text` in place, or leaves it alone and says so.
    pub(crate) fn open(
        &self,
        number: u32,
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), OpenError> {
        self.aes
            .decrypt_inout_detached(&nonce(number), aad, InOutBuf::from(text), tag.into())
            .map_err(|_| OpenError::Tampered)
    }
}

/// `number` as a big endian integer of 12 bytes.
fn nonce(number: u32) -> Nonce<aes_gcm::aead::consts::U12> {
    let mut nonce = [0; 12];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    nonce.into()
}
