//! The identity of content.

use std::fmt;

/// Keyed hash of content: equal hashes of one key domain mean equal data.
///
/// It answers "is it the same data" (diff, increment, dedup) and nothing else: whether two things are the same
/// stored bytes is a question about where they lie, and liveness never asks this type.
/// 128 bits of keyed BLAKE3; for 2^40 blocks the chance of any collision is below 2^-48.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 16]);

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentHash({self})")
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
