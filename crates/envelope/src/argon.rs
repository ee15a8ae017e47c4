//! Argon2id: a passphrase becomes a key, with parameters that are checked before any memory is taken.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroizing;

use crate::{KeyError, Passphrase, SecretKey};

/// How hard it is to try passphrases: memory, passes over it, lanes.
///
/// The bounds are part of the format. Below them a passphrase is too cheap to guess (19 MiB with two passes is the
/// least that OWASP recommends); above them a forged key object could take the machine's memory away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Params {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Argon2Params {
    /// Parameters within the bounds of the format.
    ///
    /// ```
    /// use vmkeep_envelope::{Argon2Params, KeyError};
    /// assert!(Argon2Params::new(256 * 1024, 3, 4).is_ok());
    /// assert!(matches!(
    ///     Argon2Params::new(u32::MAX, 3, 4),
    ///     Err(KeyError::Argon2Bounds { parameter: "memory in KiB", max: 1_048_576, .. })
    /// ));
    /// ```
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, KeyError> {
        check("memory in KiB", memory_kib, 19_456, 1_048_576)?;
        check("passes", passes, 2, 16)?;
        check("lanes", lanes, 1, 8)?;
        Ok(Self { memory_kib, passes, lanes })
    }

    /// Memory in KiB.
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn passes(self) -> u32 {
        self.passes
    }

    /// Lanes: part of the result, though computed by one thread here.
    pub fn lanes(self) -> u32 {
        self.lanes
    }
}

impl Default for Argon2Params {
    /// 64 MiB, 3 passes, 1 lane: about a tenth of a second on a present-day core.
    fn default() -> Self {
        Self { memory_kib: 65_536, passes: 3, lanes: 1 }
    }
}

fn check(parameter: &'static str, value: u32, min: u32, max: u32) -> Result<(), KeyError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(KeyError::Argon2Bounds { parameter, value, min, max })
    }
}

/// Parameters and the salt that go with them: stored beside what the derived key wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Kdf {
    /// The parameters.
    pub params: Argon2Params,
    /// The salt.
    pub salt: [u8; 16],
}

impl Argon2Kdf {
    /// Derives the 32 bytes that belong to `passphrase`. Slow on purpose.
    pub(crate) fn derive(&self, passphrase: &Passphrase) -> Result<SecretKey, KeyError> {
        let Argon2Params { memory_kib, passes, lanes } = self.params;
        let out_of_memory = || KeyError::Argon2Memory { memory_kib };
        let params = Params::new(memory_kib, passes, lanes, Some(32))
            .expect("the bounds of the format are within those of Argon2");
        let mut memory = Zeroizing::new(Vec::new());
        memory.try_reserve_exact(params.block_count()).map_err(|_| out_of_memory())?;
        memory.resize(params.block_count(), Block::new());
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        SecretKey::fill(|key| {
            argon
                .hash_password_into_with_memory(passphrase.as_bytes(), &self.salt, key, memory.as_mut_slice())
                .map_err(|_| out_of_memory())
        })
    }
}
