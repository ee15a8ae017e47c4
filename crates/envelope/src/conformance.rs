//! What every key vault must do, as functions that a test calls in one line.

use std::collections::BTreeMap;

use vmkeep_model::DomainId;

use crate::{
    KeyError, KeyStore, KeyStoreError, KeyVault, OsEntropy, SecretBytes, SecretKey, SecretStore, SecretValue,
    SeededEntropy, Unwrapped, WrapAlgorithm, WrapContext, WrappedKey,
};

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

/// Checks that a key vault whose KEK is withheld says so with the text of a [`KeyStoreError`] that has all of `words` in it,
/// that it does not take what the KEK wrapped for broken, and that it works again when the KEK is given back.
///
/// # Panics
/// When it does not.
pub fn withheld(vault: &dyn KeyVault, withhold: impl FnOnce(), words: &[&str], give_back: impl FnOnce()) {
    let entropy = SeededEntropy::new(2);
    let context = WrapContext { domain: DomainId([7; 16]), epoch: 0 };
    let key = SecretKey::generate(&entropy).expect("a seeded source does not fail");
    let before = vault.wrap(&key, &context, &entropy).expect("wraps before");
    let unwraps = |wrapped: &WrappedKey| match vault.unwrap(wrapped, &context).expect("answers") {
        Unwrapped::Key(found) => assert!(found.ct_eq(&key), "unwraps to the same key"),
        other => panic!("does not unwrap: {other:?}"),
    };
    unwraps(&before);
    withhold();
    let wraps = vault.wrap(&key, &context, &entropy).map(drop);
    for refused in [wraps, vault.unwrap(&before, &context).map(drop)] {
        let Err(KeyError::Store(error)) = refused else { panic!("not refused by the store: {refused:?}") };
        let error = error.to_string();
        for word in words {
            assert!(error.contains(word), "{error:?} does not say {word:?}");
        }
    }
    give_back();
    unwraps(&before);
    unwraps(&vault.wrap(&key, &context, &entropy).expect("wraps again"));
}

/// Checks the contract of [`KeyStore`] on the key `name` of `store`, which is there and enabled and whose name `missing`
/// differs from. Every algorithm that the key says it has is tried.
///
/// # Panics
/// When `store` breaks the contract.
pub fn key_store(store: &dyn KeyStore, name: &str, missing: &str) {
    let info = store.key(name, None).expect("the key is there");
    let version = info.url.version().expect("a store says which version it means").to_owned();
    assert_eq!(
        (info.url.store(), info.url.name()),
        (store.url(), name),
        "its URL is of the store and the key"
    );
    assert_eq!(info.url.to_string().parse().as_ref(), Ok(&info.url), "its URL parses to itself");
    assert!(info.enabled && !info.algorithms.is_empty(), "it is there to be used");
    assert_eq!(
        store.key(name, Some(&version)).expect("that version is there"),
        info,
        "the newest has a name"
    );

    for algorithm in WrapAlgorithm::ALL {
        let wrap = |plain: &[u8]| store.wrap(name, None, algorithm, plain, &OsEntropy);
        if !info.algorithms.contains(&algorithm) {
            let refused = wrap(&[7; 32]);
            assert!(matches!(refused, Err(KeyStoreError::Algorithm { .. })), "{algorithm}: {refused:?}");
            let refused = store.unwrap(name, &version, algorithm, &[7; 40]);
            assert!(matches!(refused, Err(KeyStoreError::Algorithm { .. })), "{algorithm}: {refused:?}");
            continue;
        }
        for len in [16, 32, 64] {
            let plain: Vec<u8> = (0_u8..).take(len).collect();
            let wrapped = wrap(&plain).unwrap_or_else(|e| panic!("{algorithm} wraps {len} bytes: {e}"));
            assert_eq!(
                (&wrapped.url, wrapped.algorithm),
                (&info.url, algorithm),
                "it says who wrapped, and how"
            );
            assert!(!wrapped.bytes.windows(len).any(|bytes| bytes == plain), "what is wrapped does not show");
            let unwrap = |bytes: &[u8]| store.unwrap(name, &version, algorithm, bytes);
            let again = unwrap(&wrapped.bytes).expect("unwraps what it wrapped");
            assert!(again.expose() == plain, "to what it was");
            let last = wrapped.bytes.len() - 1;
            for at in [0, last / 2, last] {
                let mut broken = wrapped.bytes.clone();
                broken[at] ^= 1;
                let refused = unwrap(&broken);
                assert!(
                    matches!(refused, Err(KeyStoreError::NotUnwrapped { .. })),
                    "changed at {at}: {refused:?}"
                );
            }
            for bytes in [&[][..], &wrapped.bytes[..last]] {
                let refused = unwrap(bytes);
                assert!(matches!(refused, Err(KeyStoreError::NotUnwrapped { .. })), "cut: {refused:?}");
            }
        }
    }

    let absent = "00000000000000000000000000000000";
    let refusals = [
        store.key(missing, None).map(drop),
        store.key(name, Some(absent)).map(drop),
        store.wrap(missing, None, info.algorithms[0], &[7; 32], &OsEntropy).map(drop),
        store.unwrap(missing, &version, info.algorithms[0], &[7; 32]).map(drop),
        store.unwrap(name, absent, info.algorithms[0], &[7; 32]).map(drop),
    ];
    for refused in refusals {
        match refused {
            Err(KeyStoreError::NotFound { url }) => {
                assert!(url.contains(missing) || url.contains(absent), "it says what is not there: {url}");
            }
            other => panic!("what is not there is said not to be there: {other:?}"),
        }
    }
    match store.backup_key(name) {
        Err(KeyStoreError::Unsupported { .. }) => {}
        Ok(blob) => {
            let there = store.restore_key(&blob);
            assert!(matches!(there, Err(KeyStoreError::Exists { .. })), "nothing is overwritten: {there:?}");
            let mut broken = blob;
            let middle = broken.len() / 2;
            broken[middle] ^= 1;
            let refused = store.restore_key(&broken);
            assert!(matches!(refused, Err(KeyStoreError::Blob { .. })), "a changed blob: {refused:?}");
        }
        Err(e) => panic!("it gives keys out or says that it does not: {e}"),
    }
}

/// Checks the contract of [`SecretStore`] on `store`, which has no secret `name` yet and gets one.
///
/// # Panics
/// When `store` breaks the contract.
pub fn secret_store(store: &dyn SecretStore, name: &str) {
    let value = |text: &str, kind: Option<&str>| SecretValue {
        value: SecretBytes::new(text.as_bytes().to_vec()),
        content_type: kind.map(str::to_owned),
        tags: BTreeMap::from([("MachineName".to_owned(), "web-01".to_owned())]),
    };
    let missing = store.secret(name, None);
    assert!(matches!(&missing, Err(KeyStoreError::NotFound { url }) if url.contains(name)), "{missing:?}");

    let first = store.set_secret(name, &value("one", Some("Wrapped BEK"))).expect("sets");
    let second = store.set_secret(name, &value("two", None)).expect("sets a new version");
    assert!(first != second && first.unversioned() == second.unversioned(), "{first} {second}");
    assert_eq!((first.store(), first.name()), (store.url(), name));
    for (asked, url, text, kind) in [
        (None, &second, "two", None),
        (second.version(), &second, "two", None),
        (first.version(), &first, "one", Some("Wrapped BEK")),
    ] {
        let found = store.secret(name, asked).expect("it is there");
        assert_eq!(&found.url, url, "it says which version it gives");
        assert!(found.value.value.expose() == text.as_bytes(), "the value of that version");
        assert_eq!(found.value.content_type.as_deref(), kind);
        assert_eq!(found.value.tags.get("MachineName").map(String::as_str), Some("web-01"));
        assert!(!format!("{found:?}").contains(text), "it does not show");
    }
    let absent = store.secret(name, Some("00000000000000000000000000000000"));
    assert!(matches!(absent, Err(KeyStoreError::NotFound { .. })), "{absent:?}");
    match store.backup_secret(name) {
        Err(KeyStoreError::Unsupported { .. }) => {}
        Ok(blob) => {
            assert!(!blob.windows(3).any(|bytes| bytes == b"two"), "a blob does not show the secret");
            let there = store.restore_secret(&blob);
            assert!(matches!(there, Err(KeyStoreError::Exists { .. })), "nothing is overwritten: {there:?}");
        }
        Err(e) => panic!("it gives secrets out or says that it does not: {e}"),
    }
}
