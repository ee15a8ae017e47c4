//! Ciphers of packs, kept while slots of one pack are opened one after another.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::aead::{Cipher, SALT_LEN};
use crate::{BranchKey, SecretKey, labels};

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
    // The key itself and not its id: two keys of one id must not be taken for one another.
    key: SecretKey,
    cipher: Arc<Cipher>,
}

impl SlotCiphers {
    /// Keeps up to `capacity` ciphers, about 1 KiB each; with one more, the one used longest ago is dropped.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), entries: Mutex::default() }
    }

    /// The cipher of slots with this birth salt, sealed with `key`.
    pub(crate) fn get(&self, key: &BranchKey, salt: &[u8; SALT_LEN]) -> Arc<Cipher> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let at = entries.iter().position(|e| e.salt == *salt && e.key.ct_eq(key.secret()));
        if let Some(entry) = at.and_then(|at| entries.remove(at)) {
            let cipher = Arc::clone(&entry.cipher);
            entries.push_front(entry);
            return cipher;
        }
        let cipher = Arc::new(slot_cipher(key, salt));
        entries.truncate(self.capacity - 1);
        entries.push_front(Entry { salt: *salt, key: key.secret().duplicate(), cipher: Arc::clone(&cipher) });
        cipher
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

/// The cipher of all slots that were born in one pack.
pub(crate) fn slot_cipher(key: &BranchKey, salt: &[u8; SALT_LEN]) -> Cipher {
    Cipher::new(key.secret(), salt, labels::SLOT)
}
