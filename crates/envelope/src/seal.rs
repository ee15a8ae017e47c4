//! What sealing takes and what it gives: the type that says "this may be stored".

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use vmkeep_model::SessionId;

use crate::Entropy;

/// An object as it is stored: encrypted and authenticated.
///
/// Only the sealing functions of this crate make one, so a function that takes a `SealedObject` cannot be handed
/// plaintext:
///
/// ```compile_fail,E0451
/// let bytes = Default::default();
/// let object = vmkeep_envelope::SealedObject { bytes }; // private field
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "a sealed object that is not stored is work thrown away"]
pub struct SealedObject {
    bytes: Bytes,
}

impl SealedObject {
    /// For the sealing functions of this crate alone.
    pub(crate) fn from_sealed(bytes: Vec<u8>) -> Self {
        Self { bytes: bytes.into() }
    }

    /// The bytes to store.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes to store, by value. Nothing is copied.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Number of bytes.
    #[allow(clippy::len_without_is_empty)] // never empty: there is always a header and a tag
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

impl fmt::Debug for SealedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedObject({} bytes)", self.bytes.len())
    }
}

/// What every salt is made from beside the content: the session, a counter of it, and the random source.
///
/// One counter belongs to one session and only ever goes up. Should the random source repeat itself, as on a cloned
/// host, salts still differ wherever session, counter or content differ; where all agree the sealed bytes are the
/// same bytes, which says nothing.
#[derive(Clone, Copy, Debug)]
pub struct SealContext<'a> {
    /// The session that seals.
    pub session: SessionId,
    /// Counts what the session sealed.
    pub counter: &'a AtomicU64,
    /// Random bytes.
    pub entropy: &'a dyn Entropy,
}

impl SealContext<'_> {
    /// The next number of the counter.
    pub(crate) fn next(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}
