//! Hedged salts: a salt depends on what is sealed under it, not on the random source alone.

use vmkeep_model::SessionId;
use zeroize::Zeroizing;

use crate::aead::{SALT_LEN, subkey};
use crate::{Entropy, EntropyError, SealContext, SecretKey, labels};

/// Makes one salt: fed everything that is to be sealed under it, then finished.
pub(crate) struct Salter {
    hasher: blake3::Hasher,
}

impl Salter {
    /// A salt for sealing with `key` within a session.
    pub(crate) fn in_session(key: &SecretKey, ctx: &SealContext<'_>) -> Result<Self, EntropyError> {
        Self::new(key, ctx.session, ctx.next(), ctx.entropy)
    }

    /// A salt for what is sealed outside of any session: a wrap.
    pub(crate) fn outside_session(key: &SecretKey, entropy: &dyn Entropy) -> Result<Self, EntropyError> {
        Self::new(key, SessionId([0; 16]), 0, entropy)
    }

    fn new(
        key: &SecretKey,
        session: SessionId,
        counter: u64,
        entropy: &dyn Entropy,
    ) -> Result<Self, EntropyError> {
        let mut random = Zeroizing::new([0; 32]);
        entropy.fill(random.as_mut_slice())?;
        let mut hasher = blake3::Hasher::new_keyed(subkey(key, labels::SALT).expose());
        hasher.update(&session.0).update(&counter.to_le_bytes()).update(random.as_slice());
        Ok(Self { hasher })
    }

    /// Adds one thing to be sealed: its AAD without the salt, in parts, and its plaintext.
    pub(crate) fn cover(&mut self, aad: &[&[u8]], text: &[u8]) {
        for part in aad {
            self.hasher.update(part);
        }
        let len = u64::try_from(text.len()).expect("a length in memory fits 64 bits");
        self.hasher.update(&len.to_le_bytes()).update(text);
    }

    pub(crate) fn finish(self) -> [u8; SALT_LEN] {
        self.hasher.finalize().into()
    }
}
