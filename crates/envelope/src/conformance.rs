//! What every key vault must do, as functions that a test calls in one line.

use vmkeep_model::DomainId;

use crate::{KeyVault, SecretKey, SeededEntropy, Unwrapped, WrapContext, WrappedKey};

/// Checks the contract of [`KeyVault`] on `vault`; `stranger` is another of its kind, with another KEK.
///
/// ```
/// use vmkeep_envelope::{KeyFileVault, OsEntropy, SecretKey, conformance};
/// let vault = || Ok::<_, vmkeep_envelope::EntropyError>(KeyFileVault::from_key(SecretKey::generate(&OsEntropy)?));
/// conformance::key_vault(&vault()?, &vault()?);
/// # Ok::<(), vmkeep_envelope::EntropyError>(())
/// ```
///
/// # Panics
/// When `vault` breaks the contract.
pub fn key_vault(vault: &dyn KeyVault, stranger: &dyn KeyVault) {
    let entropy = SeededEntropy::new(1);
    let context = WrapContext { domain: DomainId([7; 16]), epoch: 3 };
    let key = SecretKey::generate(&entropy).expect("a seeded source does not fail");
    let wrapped = vault.wrap(&key, &context, &entropy).expect("wraps");

    assert!(wrapped.algorithm.is_ascii() && wrapped.algorithm.len() <= 64, "algorithm: 64 bytes of ASCII");
    assert!(
        wrapped.key_version.is_ascii() && wrapped.key_version.len() <= 128,
        "version: 128 bytes of ASCII"
    );
    assert!(wrapped.kek_id.len() <= 64, "KEK id: at most 64 bytes");
    assert!(wrapped.bytes.len() <= 1024, "wrapped key: at most 1024 bytes");
    let shows_key = wrapped.bytes.windows(32).any(|bytes| bytes == key.expose());
    assert!(!shows_key, "the wrapped key does not show the key");

    let yields = |vault: &dyn KeyVault, wrapped: &WrappedKey, context: &WrapContext| match vault
        .unwrap(wrapped, context)
        .expect("the question can be answered")
    {
        Unwrapped::Key(key) => Some(key),
        Unwrapped::NotMine | Unwrapped::Broken(_) => None,
    };
    let again = yields(vault, &wrapped, &context).expect("unwraps what it wrapped");
    assert!(again.ct_eq(&key), "unwraps to the same key");

    let strangers = stranger.wrap(&key, &context, &entropy).expect("wraps");
    let not_mine = |vault: &dyn KeyVault, wrapped: &WrappedKey| {
        matches!(vault.unwrap(wrapped, &context), Ok(Unwrapped::NotMine))
    };
    assert!(not_mine(stranger, &wrapped), "a stranger says that it is not its own");
    assert!(not_mine(vault, &strangers), "the wrap of a stranger is not its own");
    let other = WrappedKey { algorithm: "something else".to_owned(), ..wrapped.clone() };
    assert!(not_mine(vault, &other), "a wrap of an unknown algorithm is not its own");

    for at in 0..wrapped.bytes.len() {
        let mut broken = wrapped.clone();
        broken.bytes[at] ^= 1;
        assert!(yields(vault, &broken, &context).is_none(), "a flipped bit at {at} yields no key");
    }
    for len in [0, wrapped.bytes.len().saturating_sub(1)] {
        let short = WrappedKey { bytes: wrapped.bytes[..len].to_vec(), ..wrapped.clone() };
        assert!(yields(vault, &short, &context).is_none(), "cut to {len} bytes it yields no key");
    }
    for at in 0..wrapped.kek_id.len() {
        let mut broken = wrapped.clone();
        broken.kek_id[at] ^= 1;
        assert!(yields(vault, &broken, &context).is_none(), "a changed KEK id yields no key");
    }
    for context in [WrapContext { epoch: 4, ..context }, WrapContext { domain: DomainId([8; 16]), ..context }]
    {
        assert!(yields(vault, &wrapped, &context).is_none(), "another context yields no key");
    }
    let again = yields(vault, &wrapped, &context).expect("still unwraps after all this");
    assert!(again.ct_eq(&key), "to the same key");
}
