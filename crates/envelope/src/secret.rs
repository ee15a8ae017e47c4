//! Bytes that must not leave the process: 32-byte keys and passphrases.

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

use crate::{Entropy, EntropyError, KeyError};

/// A 32-byte secret key, wiped when dropped.
///
/// It cannot be cloned,
///
/// ```compile_fail,E0599
/// # use vmkeep_envelope::{OsEntropy, SecretKey};
/// let key = SecretKey::generate(&OsEntropy).unwrap();
/// let copy = key.clone(); // no such method
/// ```
///
/// is moved and not copied,
///
/// ```compile_fail,E0382
/// # use vmkeep_envelope::{KeyFileVault, OsEntropy, SecretKey};
/// let key = SecretKey::generate(&OsEntropy).unwrap();
/// let vault = KeyFileVault::from_key(key);
/// let copy = key.expose(); // moved
/// ```
///
/// cannot be compared by `==`, which would tell by its time how much of two keys is equal ([`ct_eq`](Self::ct_eq) does not),
///
/// ```compile_fail,E0369
/// # use vmkeep_envelope::{OsEntropy, SecretKey};
/// let (one, other) = (SecretKey::generate(&OsEntropy).unwrap(), SecretKey::generate(&OsEntropy).unwrap());
/// let same = one == other; // no such operator
/// ```
///
/// and shows nothing when it is printed:
///
/// ```
/// # use vmkeep_envelope::{OsEntropy, SecretKey};
/// let key = SecretKey::generate(&OsEntropy)?;
/// assert_eq!(format!("{key:?}"), "SecretKey(..)");
/// # Ok::<(), vmkeep_envelope::EntropyError>(())
/// ```
pub struct SecretKey {
    // Boxed, so that moving the key does not leave copies of it behind on the stack.
    bytes: Box<[u8; 32]>,
}

impl SecretKey {
    /// A fresh random key.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        Self::fill(|bytes| entropy.fill(bytes))
    }

    /// Takes the key out of `source`, which is zeros afterwards.
    pub fn from_bytes(source: &mut [u8; 32]) -> Self {
        let mut key = Self { bytes: Box::new([0; 32]) };
        key.bytes.copy_from_slice(source);
        source.zeroize();
        key
    }

    /// A key whose bytes `fill` writes where they will stay.
    pub(crate) fn fill<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self { bytes: Box::new([0; 32]) };
        fill(&mut key.bytes)?;
        Ok(key)
    }

    /// The bytes, for an implementation of [`KeyVault`](crate::KeyVault) that has to wrap them.
    ///
    /// Whoever calls this answers for every copy made of what it returns.
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Whether both hold the same bytes, in time that does not depend on where they differ.
    pub fn ct_eq(&self, other: &Self) -> bool {
        let difference = self.bytes.iter().zip(other.bytes.iter()).fold(0, |seen, (a, b)| seen | (a ^ b));
        std::hint::black_box(difference) == 0
    }

    /// A second key of the same bytes; only for caches that must know which key they were made from.
    pub(crate) fn duplicate(&self) -> Self {
        Self { bytes: self.bytes.clone() }
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// A passphrase: text that is not empty, wiped when dropped.
///
/// Its UTF-8 bytes count as they are: no trimming, no Unicode normalisation.
pub struct Passphrase {
    text: Zeroizing<String>,
}

impl Passphrase {
    /// Takes over `text`; an empty one is refused.
    pub fn new(text: String) -> Result<Self, KeyError> {
        let text = Zeroizing::new(text);
        if text.is_empty() { Err(KeyError::EmptyPassphrase) } else { Ok(Self { text }) }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(..)")
    }
}
