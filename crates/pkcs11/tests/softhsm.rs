//! Keys on a token of SoftHSM. Each test has a token and a process of its own.
#![allow(clippy::unwrap_used)] // in helpers too

use std::path::Path;
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, ObjectClass};
use vmkeep_envelope::{
    KekManagement, KeyStore, KeyStoreError, KeyVault, OsEntropy, SecretBytes, StoreKek, WrapAlgorithm,
    conformance,
};
use vmkeep_pkcs11::{Pkcs11Store, Protection};
use vmkeep_testkit::softhsm::Token;

fn pin(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn open(token: &Token) -> Pkcs11Store {
    Pkcs11Store::open(token.module(), Token::LABEL, pin(Token::PIN)).unwrap()
}

fn kek(store: &Arc<Pkcs11Store>, name: &str) -> StoreKek {
    StoreKek::new(Arc::clone(store) as Arc<dyn KeyStore>, name, None, None).unwrap()
}

/// Sets attributes of keys as the token's owner may, in a session beside that of the store.
fn set(token: &Token, label: &str, class: ObjectClass, attribute: &Attribute) {
    let module = Pkcs11::new(token.module()).unwrap();
    // The store has initialized it already: the library is the same.
    let _ = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = module
        .get_slots_with_token()
        .unwrap()
        .into_iter()
        .find(|&slot| module.get_token_info(slot).unwrap().label() == Token::LABEL);
    let session = module.open_rw_session(slot.unwrap()).unwrap();
    let template = [Attribute::Class(class), Attribute::Label(label.as_bytes().to_vec())];
    for key in session.find_objects(&template).unwrap() {
        session.update_attributes(key, std::slice::from_ref(attribute)).unwrap();
    }
}

#[test]
fn a_token_is_a_store_of_keys() {
    Token::run_alone("a_token_is_a_store_of_keys", |token| {
        let store = open(token);
        assert_eq!(KeyStore::url(&store), "pkcs11:vmkeep%20test");
        conformance::key_store(&store, Token::RSA, "missing");
        conformance::key_store(&store, Token::AES, "missing");
        let info = store.key(Token::RSA, None).unwrap();
        assert_eq!(info.url.to_string(), "pkcs11:vmkeep%20test/keys/rsa-kek/01");
        assert!(info.algorithms.contains(&WrapAlgorithm::RsaOaep));
        assert_eq!(store.key(Token::AES, None).unwrap().algorithms, [WrapAlgorithm::A256Kw]);
    });
}

#[test]
fn keys_of_a_token_are_key_vaults() {
    Token::run_alone("keys_of_a_token_are_key_vaults", |token| {
        let store = Arc::new(open(token));
        let (rsa, aes) = (kek(&store, Token::RSA), kek(&store, Token::AES));
        conformance::key_vault(&rsa, &aes);
        conformance::key_vault(&aes, &rsa);
        let described = rsa.describe();
        assert_eq!(described.managed, KekManagement::Customer);
        assert_eq!(described.url.unwrap().to_string(), "pkcs11:vmkeep%20test/keys/rsa-kek/01");
    });
}

#[test]
fn keys_never_leave_the_token() {
    Token::run_alone("keys_never_leave_the_token", |token| {
        let store = open(token);
        for name in [Token::RSA, Token::AES] {
            let kept = store.protection(name, None).unwrap();
            assert_eq!(kept, Protection { sensitive: true, extractable: false }, "{name}");
            assert!(matches!(store.backup_key(name), Err(KeyStoreError::Unsupported { .. })));
        }
        assert!(matches!(store.restore_key(b"blob"), Err(KeyStoreError::Unsupported { .. })));
        // What was imported to be wrapped is gone.
        store.wrap(Token::AES, None, WrapAlgorithm::A256Kw, &[7; 32], &OsEntropy).unwrap();
        let module = Pkcs11::new(token.module()).unwrap();
        let slot = module.get_slots_with_token().unwrap()[0];
        let session = module.open_ro_session(slot).unwrap();
        assert_eq!(session.find_objects(&[Attribute::Token(false)]).unwrap(), []);
    });
}

#[test]
fn the_highest_id_is_the_newest_version_and_older_ones_still_unwrap() {
    Token::run_alone("the_highest_id_is_the_newest_version_and_older_ones_still_unwrap", |token| {
        let store = open(token);
        let wrap = || store.wrap(Token::AES, None, WrapAlgorithm::A256Kw, &[7; 32], &OsEntropy).unwrap();
        let old = wrap();
        // As numbers: 256 is higher than 16, and zeros in front count for nothing.
        for (id, newest) in
            [("10", "10"), ("0100", "0100"), ("0002", "0100"), ("ff", "0100"), ("0101", "0101")]
        {
            token.generate_aes(Token::AES, id);
            assert_eq!(store.key(Token::AES, None).unwrap().url.version(), Some(newest), "with {id}");
        }
        let new = wrap();
        assert_eq!((old.url.version(), new.url.version()), (Some("01"), Some("0101")));
        for wrapped in [&old, &new] {
            let version = wrapped.url.version().unwrap();
            let plain = store.unwrap(Token::AES, version, wrapped.algorithm, &wrapped.bytes).unwrap();
            assert_eq!(plain.expose(), [7; 32]);
        }
        let other = store.unwrap(Token::AES, "10", old.algorithm, &old.bytes);
        assert!(matches!(other, Err(KeyStoreError::NotUnwrapped { .. })), "{other:?}");
    });
}

#[test]
fn a_wrong_pin_is_said_to_be_wrong() {
    Token::run_alone("a_wrong_pin_is_said_to_be_wrong", |token| {
        for wrong in ["4321", "1", "12345"] {
            let refused = Pkcs11Store::open(token.module(), Token::LABEL, pin(wrong));
            assert!(matches!(refused, Err(KeyStoreError::Credentials { .. })), "{refused:?}");
        }
        open(token);
    });
}

#[test]
fn a_token_or_library_that_is_not_there_is_out_of_reach() {
    Token::run_alone("a_token_or_library_that_is_not_there_is_out_of_reach", |token| {
        let other = Pkcs11Store::open(token.module(), "another token", pin(Token::PIN));
        assert!(matches!(other, Err(KeyStoreError::Unreachable { .. })), "{other:?}");
        let nothing = Pkcs11Store::open(Path::new("/no/such/library.so"), Token::LABEL, pin(Token::PIN));
        assert!(matches!(nothing, Err(KeyStoreError::Unreachable { .. })), "{nothing:?}");
    });
}

#[test]
fn a_key_that_may_not_unwrap_is_named_with_what_it_lacks() {
    Token::run_alone("a_key_that_may_not_unwrap_is_named_with_what_it_lacks", |token| {
        let store = Arc::new(open(token));
        let decrypt = |yes| set(token, Token::RSA, ObjectClass::PRIVATE_KEY, &Attribute::Decrypt(yes));
        let words = ["no permission to", "CKA_DECRYPT", "pkcs11:vmkeep%20test/keys/rsa-kek/01"];
        conformance::withheld(&kek(&store, Token::RSA), || decrypt(false), &words, || decrypt(true));
        let unwrap = |yes| set(token, Token::AES, ObjectClass::SECRET_KEY, &Attribute::Unwrap(yes));
        let words = ["no permission to", "CKA_UNWRAP", "pkcs11:vmkeep%20test/keys/aes-kek/01"];
        conformance::withheld(&kek(&store, Token::AES), || unwrap(false), &words, || unwrap(true));
        decrypt(false);
        assert!(!store.key(Token::RSA, None).unwrap().enabled);
    });
}

#[test]
fn a_key_that_was_destroyed_is_missed_and_works_again_when_it_is_back() {
    Token::run_alone("a_key_that_was_destroyed_is_missed_and_works_again_when_it_is_back", |token| {
        let store = Arc::new(open(token));
        let import = || token.import_aes([7; 32], "escrowed", "01");
        import();
        let destroy = || token.destroy_aes("escrowed", "01");
        let words = ["pkcs11:vmkeep%20test/keys/escrowed", "is not there"];
        conformance::withheld(&kek(&store, "escrowed"), destroy, &words, import);
        token.destroy_rsa(Token::RSA, "01");
        let gone = store.key(Token::RSA, None);
        assert!(
            matches!(gone, Err(KeyStoreError::NotFound { .. })),
            "a public key alone is no key: {gone:?}"
        );
    });
}

#[test]
fn two_stores_of_one_token_do_not_disturb_one_another() {
    Token::run_alone("two_stores_of_one_token_do_not_disturb_one_another", |token| {
        let (one, two) = (open(token), open(token));
        let wrapped = one.wrap(Token::RSA, None, WrapAlgorithm::RsaOaep, &[7; 32], &OsEntropy).unwrap();
        drop(one);
        let plain = two.unwrap(Token::RSA, "01", wrapped.algorithm, &wrapped.bytes).unwrap();
        assert_eq!(plain.expose(), [7; 32]);
        std::thread::scope(|scope| {
            for name in [Token::RSA, Token::AES, Token::RSA, Token::AES] {
                let two = &two;
                scope.spawn(move || conformance::key_store(two, name, "missing"));
            }
        });
    });
}

/// RFC 3394, section 4.6.
#[test]
fn a_token_wraps_to_the_bytes_that_rfc_3394_prints() {
    Token::run_alone("a_token_wraps_to_the_bytes_that_rfc_3394_prints", |token| {
        let kek = std::array::from_fn(|at| u8::try_from(at).unwrap());
        token.import_aes(kek, "rfc", "01");
        let plain: Vec<u8> = (0..16).map(|nibble| nibble * 0x11).chain(0..16).collect();
        let wrapped = open(token).wrap("rfc", None, WrapAlgorithm::A256Kw, &plain, &OsEntropy).unwrap();
        let made: String =
            wrapped.bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().concat();
        let published = "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21";
        assert_eq!(made, published);
    });
}
