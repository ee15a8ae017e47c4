//! Key objects: the keys come back, to the holder of the KEK, from the right name only.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use common::*;
use proptest::prelude::*;
use vmkeep_envelope::*;
use vmkeep_model::DomainId;

fn sealed(keys: &DomainKeys, vault: &dyn KeyVault) -> (String, Vec<u8>) {
    let prefix = key_prefix(keys.domain(), keys.epoch());
    let (name, object) = seal_key_object(keys, vault, &prefix, &Sealer::new(1).ctx()).unwrap();
    (name, object.bytes().to_vec())
}

fn vm_keys() -> DomainKeys {
    DomainKeys::generate(DOMAIN, 4, &SeededEntropy::new(8)).unwrap()
}

fn open(bytes: &[u8], name: &str, vault: &dyn KeyVault) -> DomainKeys {
    match open_key_object(bytes, name, vault).unwrap() {
        OpenedKeys::Keys(keys) => keys,
        OpenedKeys::NotMine => panic!("not mine"),
    }
}

/// Every key that one side has, the other has too, and it is the same key.
fn assert_same(one: &DomainKeys, two: &DomainKeys) {
    assert_eq!((one.domain(), one.epoch()), (two.domain(), two.epoch()));
    let print =
        |key: Result<&BranchKey, KeyError>| key.ok().map(|key| (key.id(), key.subkey("test").hash16(&[])));
    for branch in [DomainKeys::record, DomainKeys::map, DomainKeys::data] {
        assert_eq!(print(branch(one)), print(branch(two)));
    }
    let print = |keys: &DomainKeys| keys.identity().ok().map(|key| (key.id(), key.block_hash(b"x")));
    assert_eq!(print(one), print(two));
}

#[test]
fn the_keys_come_back() {
    let vault = key_file_vault(5);
    let vaults_own = || DomainKeys::generate(DomainId::VAULT, 0, &SeededEntropy::new(8)).unwrap();
    assert!(vaults_own().record().is_ok() && vaults_own().map().is_err() && vaults_own().identity().is_err());
    assert!(vm_keys().record().is_err() && vm_keys().map().is_ok() && vm_keys().data().is_ok());
    for keys in [
        vaults_own(),
        vm_keys(),
        vm_keys().without(Branch::Data),
        vm_keys().without(Branch::Data).without(Branch::Identity),
    ] {
        let (name, bytes) = sealed(&keys, &vault);
        assert!(name.starts_with(&key_prefix(keys.domain(), keys.epoch())));
        assert_same(&keys, &open(&bytes, &name, &vault));
    }
    let without = vm_keys().without(Branch::Data);
    assert!(matches!(without.data(), Err(KeyError::BranchMissing { branch: Branch::Data, epoch: 4, .. })));
}

#[test]
fn the_keys_come_back_by_passphrase_and_both_wraps_lie_side_by_side() {
    let (file, words) = (key_file_vault(5), passphrase_vault("correct horse", 1));
    let keys = vm_keys();
    let ((file_name, by_file), (words_name, by_words)) = (sealed(&keys, &file), sealed(&keys, &words));
    assert_ne!(file_name, words_name);
    // A vault opened on another day has another salt of its own until it has seen the stored one.
    assert_same(&keys, &open(&by_words, &words_name, &passphrase_vault("correct horse", 2)));
    let wrong = passphrase_vault("battery staple", 2);
    for (bytes, name, vault) in [
        (&by_words, &words_name, &wrong as &dyn KeyVault),
        (&by_words, &words_name, &file),
        (&by_file, &file_name, &words),
        (&by_file, &file_name, &key_file_vault(6)),
    ] {
        assert!(matches!(open_key_object(bytes, name, vault), Ok(OpenedKeys::NotMine)));
    }
}

#[test]
fn a_key_object_opens_under_its_name_only() {
    let vault = key_file_vault(5);
    let (name, bytes) = sealed(&vm_keys(), &vault);
    for other in [
        name.replacen(&DOMAIN.to_string(), &DomainId([9; 16]).to_string(), 1),
        name.replace("/4/", "/5/"),
        name.replace("/4/", "/04/"),
        format!("{}{}", key_prefix(DOMAIN, 4), wrap_name(b"another")),
        String::new(),
    ] {
        assert_ne!(other, name);
        match open_key_object(&bytes, &other, &vault) {
            Err(OpenError::WrongName { expected }) => assert_eq!(expected, name),
            opened => panic!("{other}: {opened:?}"),
        }
    }
    let elsewhere = seal_key_object(&vm_keys(), &vault, &key_prefix(DOMAIN, 5), &Sealer::new(1).ctx());
    assert!(matches!(elsewhere, Err(KeyError::WrongPrefix { .. })));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let vault = key_file_vault(5);
    let (name, bytes) = sealed(&vm_keys(), &vault);
    for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << bit;
        let opened = open_key_object(&bad, &name, &vault);
        // The name of the algorithm and the key version say whose it is; both are authenticated once it is ours.
        assert!(!matches!(opened, Ok(OpenedKeys::Keys(_))), "byte {at}, bit {bit}");
        fuzzing::key_object(&bad);
    }
    for len in 0..bytes.len() {
        let opened = open_key_object(&bytes[..len], &name, &vault);
        assert!(matches!(opened, Err(OpenError::Truncated { .. })), "{len}: {opened:?}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(open_key_object(&longer, &name, &vault), Err(OpenError::TrailingBytes { .. })));
    let mut newer = bytes;
    newer[8] = 2;
    assert!(matches!(open_key_object(&newer, &name, &vault), Err(OpenError::Newer { found: 2, known: 1 })));
}

#[test]
fn a_broken_wrap_is_told_from_a_strangers() {
    let vault = key_file_vault(5);
    let (name, mut bytes) = sealed(&vm_keys(), &vault);
    // Fixed head 32, algorithm 1 + 19, id 1 + 16, version 1, KDF 1, length 2: the wrapped key begins at 73.
    bytes[73 + 40] ^= 1;
    let opened = open_key_object(&bytes, &name, &vault);
    assert!(matches!(opened, Err(OpenError::BrokenWrap(KeyError::Tampered))), "{opened:?}");
    assert!(matches!(open_key_object(&bytes, &name, &key_file_vault(6)), Ok(OpenedKeys::NotMine)));
}

#[test]
fn argon2_parameters_out_of_bounds_are_refused_before_use() {
    let vault = passphrase_vault("correct horse", 1);
    let (name, bytes) = sealed(&vm_keys(), &vault);
    // The KDF begins after the fixed head 32, algorithm 20, id 17, version 1: its parameters at 71.
    assert_eq!(bytes[70..83], [1, 0, 0x4c, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
    for (at, value) in [(71, u32::MAX), (71, 8), (75, 1), (75, 17), (79, 0), (79, 9)] {
        let mut bad = bytes.clone();
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let opened = open_key_object(&bad, &name, &vault);
        assert!(
            matches!(opened, Err(OpenError::BrokenWrap(KeyError::Argon2Bounds { value: found, .. })) if found == value)
        );
    }
}

/// A vault whose wraps do not fit the format.
#[derive(Debug)]
struct Verbose(WrappedKey);

impl KeyVault for Verbose {
    fn wrap(&self, _: &SecretKey, _: &WrapContext, _: &dyn Entropy) -> Result<WrappedKey, KeyError> {
        Ok(self.0.clone())
    }

    fn unwrap(&self, _: &WrappedKey, _: &WrapContext) -> Result<Unwrapped, KeyError> {
        Err(KeyError::Service("out of order".into()))
    }
}

#[test]
fn a_wrap_that_does_not_fit_the_format_is_refused_and_a_failing_service_is_not_a_broken_wrap() {
    let longest = WrappedKey {
        algorithm: "a".repeat(64),
        kek_id: vec![1; 64],
        key_version: "v".repeat(128),
        kdf: None,
        bytes: vec![2; 1024],
    };
    let (name, bytes) = sealed(&vm_keys(), &Verbose(longest.clone()));
    let opened = open_key_object(&bytes, &name, &Verbose(longest.clone()));
    assert!(matches!(opened, Err(OpenError::KeyVault(KeyError::Service(_)))));
    for (field, bad) in [
        ("algorithm", WrappedKey { algorithm: "a".repeat(65), ..longest.clone() }),
        ("algorithm", WrappedKey { algorithm: "ä".to_owned(), ..longest.clone() }),
        ("KEK id", WrappedKey { kek_id: vec![1; 65], ..longest.clone() }),
        ("key version", WrappedKey { key_version: "v".repeat(129), ..longest.clone() }),
        ("key", WrappedKey { bytes: vec![2; 1025], ..longest }),
    ] {
        let refused =
            seal_key_object(&vm_keys(), &Verbose(bad), &key_prefix(DOMAIN, 4), &Sealer::new(1).ctx());
        assert!(
            matches!(refused, Err(KeyError::WrapField { field: found, .. }) if found == field),
            "{field}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(open_key_object(&bytes, "", &key_file_vault(5)).is_err());
        fuzzing::key_object(&bytes);
        fuzzing::record(&bytes);
        // Past the magic, where more can go wrong.
        for (magic, fuzz) in [
            (b"vmkeepK1\x01\0", fuzzing::key_object as fn(&[u8])),
            (b"vmkeepR1\x01\0", fuzzing::record),
            (b"vmkeepP1\x01\0", fuzzing::pack),
        ] {
            fuzz(&[magic.as_slice(), &bytes].concat());
        }
    }
}

#[test]
fn the_head_of_a_key_object_is_read_without_its_kek() {
    let vault = key_file_vault(5);
    let (name, bytes) = sealed(&vm_keys(), &vault);
    let head = KeyObjectHead::parse(&bytes).unwrap();
    assert_eq!((head.domain, head.epoch), (DOMAIN, 4));
    assert_eq!(head.algorithm, "HKDF-SHA256+A256GCM");
    assert_eq!(name, format!("{}{}", key_prefix(DOMAIN, 4), wrap_name(&head.kek_id)));
    assert!(matches!(KeyObjectHead::parse(&bytes[..30]), Err(OpenError::Truncated { .. })));
}

#[test]
fn the_next_epoch_has_fresh_keys_and_the_same_identity() {
    let (old, new) = (vm_keys(), vm_keys().successor(&SeededEntropy::new(9)).unwrap());
    assert_eq!((new.domain(), new.epoch(), new.is_full()), (DOMAIN, 5, true));
    let print = |key: &BranchKey| key.subkey("test").hash16(&[]);
    assert_ne!(print(old.data().unwrap()), print(new.data().unwrap()));
    assert_ne!(print(old.map().unwrap()), print(new.map().unwrap()));
    let (one, two) = (old.identity().unwrap(), new.identity().unwrap());
    assert_eq!(one.block_hash(b"x"), two.block_hash(b"x"));
    assert_eq!((one.id().epoch, two.id().epoch), (4, 5));
    let reduced = vm_keys().without(Branch::Map).successor(&SeededEntropy::new(9));
    assert!(matches!(reduced, Err(KeyError::BranchMissing { branch: Branch::Map, .. })));
}

#[test]
fn the_same_keys_are_told_from_others() {
    assert!(vm_keys().same_keys(&vm_keys()));
    let other = DomainKeys::generate(DOMAIN, 4, &SeededEntropy::new(9)).unwrap();
    let next = vm_keys().successor(&SeededEntropy::new(9)).unwrap();
    for other in [other, next, vm_keys().without(Branch::Data)] {
        assert!(!vm_keys().same_keys(&other) && !other.same_keys(&vm_keys()));
    }
}

#[test]
fn a_reduced_key_object_lies_beside_the_full_one_and_its_name_is_held_to_what_it_has() {
    let vault = key_file_vault(5);
    let (full, _) = sealed(&vm_keys(), &vault);
    let reduced = vm_keys().without(Branch::Data);
    let seal = |keys: &DomainKeys| {
        let (naming, prefix) = (WrapNaming::KekAndBranches, key_prefix(DOMAIN, 4));
        seal_key_object_as(keys, &vault, &prefix, naming, &Sealer::new(1).ctx()).unwrap()
    };
    let (name, object) = seal(&reduced);
    assert_ne!(name, full);
    assert_same(&reduced, &open(object.bytes(), &name, &vault));
    let (all, _) = seal(&vm_keys());
    assert!(all != full && all != name);
    for other in [full, all] {
        // The name is authenticated: under that of another object it does not open.
        let opened = open_key_object(object.bytes(), &other, &vault);
        assert!(matches!(opened, Err(OpenError::Tampered)), "{opened:?}");
    }
}
