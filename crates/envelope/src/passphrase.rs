//! A KEK from a passphrase, by Argon2id.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::kek::{Kek, is_ours};
use crate::{
    Argon2Kdf, Argon2Params, Entropy, KeyError, KeyVault, Passphrase, SecretKey, Unwrapped, WrapContext,
    WrappedKey,
};

/// Derived KEKs that are kept; with one more, the one used longest ago is derived again when it is needed.
const KEKS_MAX: usize = 4;

/// Wraps with a KEK that is derived from a passphrase.
///
/// A wrong passphrase is not an error here: it makes another KEK, so every wrapped key is "not mine".
///
/// The first wrapped key that opens also decides how this vault wraps from then on: with that key's salt and
/// parameters. So all key objects of a vault share one KEK, and Argon2id runs once instead of once per key object.
/// To change the parameters, wrap with a new `PassphraseVault` that has opened nothing.
pub struct PassphraseVault {
    passphrase: Passphrase,
    state: Mutex<State>,
}

struct State {
    /// What `wrap` uses.
    current: Argon2Kdf,
    /// Whether `current` comes from a wrapped key that opened.
    adopted: bool,
    /// Derived KEKs, the one used last at the end.
    keks: Vec<(Argon2Kdf, Arc<Kek>)>,
}

impl PassphraseVault {
    /// A vault that wraps with `params` and a fresh salt until it has opened something. Derives nothing yet.
    pub fn new(
        passphrase: Passphrase,
        params: Argon2Params,
        entropy: &dyn Entropy,
    ) -> Result<Self, KeyError> {
        let mut salt = [0; 16];
        entropy.fill(&mut salt)?;
        let current = Argon2Kdf { params, salt };
        Ok(Self { passphrase, state: Mutex::new(State { current, adopted: false, keks: Vec::new() }) })
    }

    /// Runs `act` on the state; the lock is held while a key is derived, so that no two threads derive the same.
    fn with_state<T>(&self, act: impl FnOnce(&mut State, &Passphrase) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), &self.passphrase)
    }
}

impl State {
    fn kek(&mut self, kdf: Argon2Kdf, passphrase: &Passphrase) -> Result<Arc<Kek>, KeyError> {
        let kek = match self.keks.iter().position(|(known, _)| *known == kdf) {
            Some(at) => self.keks.remove(at).1,
            None => Arc::new(Kek::new(kdf.derive(passphrase)?)),
        };
        if self.keks.len() == KEKS_MAX {
            self.keks.remove(0);
        }
        self.keks.push((kdf, Arc::clone(&kek)));
        Ok(kek)
    }
}

impl KeyVault for PassphraseVault {
    fn wrap(
        &self,
        key: &SecretKey,
        context: &WrapContext,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        let (kdf, kek) = self.with_state(|state, passphrase| {
            let kdf = state.current;
            state.kek(kdf, passphrase).map(|kek| (kdf, kek))
        })?;
        kek.wrap(key, context, Some(kdf), entropy)
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Unwrapped, KeyError> {
        let Some(kdf) = wrapped.kdf.filter(|_| is_ours(wrapped)) else {
            return Ok(Unwrapped::NotMine);
        };
        self.with_state(|state, passphrase| {
            let unwrapped = state.kek(kdf, passphrase)?.unwrap(wrapped, context);
            if matches!(unwrapped, Unwrapped::Key(_)) && !state.adopted {
                (state.current, state.adopted) = (kdf, true);
            }
            Ok(unwrapped)
        })
    }
}

impl fmt::Debug for PassphraseVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassphraseVault(..)")
    }
}
