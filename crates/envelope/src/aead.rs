//! The key schedule and the cipher: `subkey`, `sealing key` and AES-256-GCM of FORMAT.md section 3.
//!
//! Two libraries can be behind the cipher and give the same bytes: `aes-gcm`, or `aws-lc-rs` with the feature `aws-lc`.

#[cfg(feature = "aws-lc")]
mod aws_lc;
mod rust_crypto;
#[cfg(test)]
mod tests;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::{OpenError, SecretKey};

#[cfg(feature = "aws-lc")]
pub(crate) use self::aws_lc::AwsLc;
pub(crate) use self::rust_crypto::RustCrypto;

/// Length of an authentication tag, which follows its ciphertext.
pub const TAG_LEN: usize = 16;

/// Length of the salt that makes a sealing key.
pub(crate) const SALT_LEN: usize = 32;

const NONCE_LEN: usize = 12;

/// AES-256-GCM with nonces of 96 and tags of 128 bits, as one library has it.
pub(crate) trait Aes256Gcm: Sized {
    fn new(key: &[u8; 32]) -> Self;

    /// Encrypts `text` in place and gives its tag.
    fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN];

    /// Decrypts `text` in place, or says that it does not authenticate. Then `text` holds nothing of the plaintext.
    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), Forged>;
}

/// Something does not authenticate. Nothing says what: that would be an oracle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forged;

#[cfg(feature = "aws-lc")]
type Chosen = AwsLc;
#[cfg(not(feature = "aws-lc"))]
type Chosen = RustCrypto;

/// `subkey(key, label)`: BLAKE3 in key derivation mode.
pub(crate) fn subkey(key: &SecretKey, label: &'static str) -> SecretKey {
    let mut bytes = blake3::derive_key(label, key.expose());
    SecretKey::from_bytes(&mut bytes)
}

/// `sealing key(key, salt, label)`: HKDF-SHA256 (RFC 5869), into `made`.
pub(crate) fn sealing_key(key: &[u8], salt: &[u8], label: &[u8], made: &mut [u8]) {
    let (mut extracted, schedule) = Hkdf::<Sha256>::extract(Some(salt), key);
    extracted.as_mut_slice().zeroize();
    schedule.expand(label, made).expect("32 bytes are within the 8160 that HKDF-SHA256 gives");
}

/// AES-256-GCM under `sealing key(key, salt, label)`.
pub(crate) struct Cipher<A = Chosen> {
    aes: A,
}

impl Cipher {
    pub(crate) fn new(key: &SecretKey, salt: &[u8; SALT_LEN], label: &str) -> Self {
        Self::with(key, salt, label)
    }

    /// The same of what two sides agree on.
    pub(crate) fn of(shared: &[u8; 32], salt: &[u8], label: &str) -> Self {
        Self::derived(shared, salt, label)
    }
}

impl<A: Aes256Gcm> Cipher<A> {
    /// As [`new`](Cipher::new), with the library of the caller's choice.
    pub(crate) fn with(key: &SecretKey, salt: &[u8; SALT_LEN], label: &str) -> Self {
        Self::derived(key.expose(), salt, label)
    }

    fn derived(key: &[u8; 32], salt: &[u8], label: &str) -> Self {
        let mut made = Zeroizing::new([0; 32]);
        sealing_key(key, salt, label.as_bytes(), made.as_mut_slice());
        Self { aes: A::new(&made) }
    }

    /// Encrypts `text` in place and returns its tag. Once per `number`: the caller's salt sees to that.
    pub(crate) fn seal(&self, number: u32, aad: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.aes.seal(nonce(number), aad, text)
    }

    /// Decrypts `text` in place, or says that it was changed; then it holds zeros.
    pub(crate) fn open(
        &self,
        number: u32,
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), OpenError> {
        self.aes.open(nonce(number), aad, text, tag).map_err(|Forged| {
            text.zeroize();
            OpenError::Tampered
        })
    }
}

/// `number` as a big endian integer of 12 bytes.
fn nonce(number: u32) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[8..].copy_from_slice(&number.to_be_bytes());
    nonce
}
