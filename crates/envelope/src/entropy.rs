//! Randomness as a port: nothing in this crate asks the operating system by itself.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use rand::rngs::{ChaCha12Rng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use thiserror::Error;

/// The random source could not deliver.
#[derive(Debug, Error)]
#[error("the random source failed")]
pub struct EntropyError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl EntropyError {
    /// A failure of a random source, with its cause.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Where random bytes come from.
///
/// `fill` must write all of `buf` or return an error; it may be called from several threads at once.
/// Salts are hedged (see [`SealContext`](crate::SealContext)), so a source that repeats itself does not make a key
/// and nonce pair repeat; keys made from such a source are as weak as the source.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `buf` with bytes that nobody can guess.
    fn fill(&self, buf: &mut [u8]) -> Result<(), EntropyError>;
}

/// The operating system's random source.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, buf: &mut [u8]) -> Result<(), EntropyError> {
        SysRng.try_fill_bytes(buf).map_err(EntropyError::new)
    }
}

/// The same bytes for the same seed, in every release: **for tests and simulation only**.
///
/// A `ChaCha12` stream behind a lock. Anyone who guesses the 64-bit seed knows every key made from it.
pub struct SeededEntropy {
    stream: Mutex<ChaCha12Rng>,
}

impl SeededEntropy {
    /// The stream that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self { stream: Mutex::new(ChaCha12Rng::from_seed(key)) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buf: &mut [u8]) -> Result<(), EntropyError> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buf);
        Ok(())
    }
}

impl fmt::Debug for SeededEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeededEntropy(..)")
    }
}
