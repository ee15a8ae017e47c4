//! Sealing and opening by either library, for benchmarks.

use crate::SecretKey;
#[cfg(feature = "aws-lc")]
use crate::aead::AwsLc;
use crate::aead::{Aes256Gcm, Cipher, RustCrypto, SALT_LEN, TAG_LEN};

/// A cipher of one library.
struct Bench<A>(Cipher<A>);

/// By `aes-gcm`.
pub fn rust_crypto() -> impl SealOpen {
    Bench::<RustCrypto>::new()
}

/// By `aws-lc-rs`.
#[cfg(feature = "aws-lc")]
pub fn aws_lc() -> impl SealOpen {
    Bench::<AwsLc>::new()
}

impl<A: Aes256Gcm> Bench<A> {
    fn new() -> Self {
        Self(Cipher::with(&SecretKey::from_bytes(&mut [7; 32]), &[8; SALT_LEN], "bench"))
    }
}

/// What is measured.
pub trait SealOpen {
    /// Seals `text` in place.
    fn seal(&self, text: &mut [u8]) -> [u8; TAG_LEN];
    /// Opens `text` in place; whether it authenticates.
    fn open(&self, text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool;
}

impl<A: Aes256Gcm> SealOpen for Bench<A> {
    fn seal(&self, text: &mut [u8]) -> [u8; TAG_LEN] {
        self.0.seal(0, b"aad", text)
    }

    fn open(&self, text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        self.0.open(0, b"aad", text, tag).is_ok()
    }
}
