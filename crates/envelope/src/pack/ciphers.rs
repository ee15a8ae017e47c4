//! Ciphers of packs, kept while slots of one pack are opened one after another.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::aead::{Cipher, SALT_LEN};
use crate::public::{self, opening_cipher};
use crate::{Branch, BranchKey, OpenError, SecretKey};

/// A few ciphers, the most recently used kept: a key is derived once per pack and not once per slot.
///
/// Safe to share between threads and between key domains.
///
/// A key and its cipher stay as long as they are kept here, and are wiped when they go. With the feature `aws-lc` the cipher
/// itself is in memory of the C library, which wipes it by itself.
pub struct SlotCiphers {
    capacity: usize,
    entries: Mutex<VecDeque<Entry>>,
}

struct Entry {
    salt: [u8; SALT_LEN],
    sealed: Branch,
    // The key itself and not its id: two keys of one id must not be taken for one another.
    key: SecretKey,
    cipher: Arc<Cipher>,
}

impl SlotCiphers {
    /// Keeps up to `capacity` ciphers, about 1 KiB each; with one more, the one used longest ago is dropped.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), entries: Mutex::default() }
    }

    /// The cipher of slots with this birth salt, sealed with the branch `sealed`, which `key` opens.
    pub(crate) fn get(
        &self,
        key: &BranchKey,
        sealed: Branch,
        salt: &[u8; SALT_LEN],
    ) -> Result<Arc<Cipher>, OpenError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at =
            entries.iter().position(|e| e.salt == *salt && e.sealed == sealed && e.key.ct_eq(key.secret()));
        if let Some(entry) = at.and_then(|at| entries.remove(at)) {
            let cipher = Arc::clone(&entry.cipher);
            entries.push_front(entry);
            return Ok(cipher);
        }
        let cipher = Arc::new(opening_cipher(key, sealed, salt, public::SLOT)?);
        entries.truncate(self.capacity - 1);
        let (salt, key) = (*salt, key.secret().duplicate());
        entries.push_front(Entry { salt, sealed, key, cipher: Arc::clone(&cipher) });
        Ok(cipher)
    }
}

impl Default for SlotCiphers {
    /// Enough for a restore that goes back and forth between 32 packs.
    fn default() -> Self {
        Self::new(32)
    }
}

impl fmt::Debug for SlotCiphers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotCiphers").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}
