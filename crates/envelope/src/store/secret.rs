//! Secrets: bytes that are wiped, and what goes with them.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::url::SecretUrl;

/// Secret bytes of any length, wiped when dropped. Not shown, not copied.
pub struct SecretBytes {
    bytes: Zeroizing<Vec<u8>>,
}

impl SecretBytes {
    /// Takes `bytes` over, memory and all: nothing is copied.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Zeroizing::new(bytes) }
    }

    /// The bytes. Whoever calls this answers for every copy made of what it returns.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether both hold the same bytes, in time that depends on their lengths alone.
    pub fn ct_eq(&self, other: &Self) -> bool {
        let same_len = self.bytes.len() == other.bytes.len();
        let difference = self.bytes.iter().zip(other.bytes.iter()).fold(0, |seen, (a, b)| seen | (a ^ b));
        same_len && std::hint::black_box(difference) == 0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

/// What a secret is set to.
#[derive(Debug)]
pub struct SecretValue {
    /// The secret itself, at most 25 KiB.
    pub value: SecretBytes,
    /// What kind of secret it is, such as `Wrapped BEK`; at most 255 bytes.
    pub content_type: Option<String>,
    /// Names and values that are not secret: at most 15, each at most 512 and 256 bytes.
    pub tags: BTreeMap<String, String>,
}

impl SecretValue {
    /// The same value once more: for stores, which keep one and give one out.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            value: SecretBytes::new(self.value.expose().to_vec()),
            content_type: self.content_type.clone(),
            tags: self.tags.clone(),
        }
    }
}

/// A secret as a store gives it.
#[derive(Debug)]
pub struct Secret {
    /// Which, with its version.
    pub url: SecretUrl,
    /// What it holds.
    pub value: SecretValue,
}
