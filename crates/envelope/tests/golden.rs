//! Files that stay for ever: the same keys, seed and content make the same bytes in every release.
//!
//! With `VMKEEP_BLESS=1` in the environment, files that are missing are written. One that is there is never changed: a
//! difference is a change of the format, which takes a new version and a new file.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::path::Path;

use common::*;
use vmkeep_envelope::*;
use vmkeep_model::DomainId;

fn check(name: &str, made: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("VMKEEP_BLESS").is_some() && !path.exists() {
        std::fs::write(&path, made).unwrap();
    }
    let golden =
        std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}; VMKEEP_BLESS=1 writes it"));
    let differs = golden.iter().zip(made).position(|(a, b)| a != b);
    assert_eq!((differs, golden.len()), (None, made.len()), "{name}: first byte that differs, and length");
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)).unwrap()
}

#[test]
fn record() {
    let ctx = Sealer::new(42);
    let made = seal_record(1, &record_key(), "vault", b"a record body", &ctx.ctx()).unwrap();
    check("v1-record.bin", made.bytes());
    let body = open_record(&golden("v1-record.bin"), "vault", &record_key(), 1).unwrap();
    assert_eq!(body, b"a record body");
}

#[test]
fn data_pack() {
    let slots = [
        stored(SlotKind::Blocks, b"two blocks, as they are"),
        (SlotKind::Blocks, Codec::Zstd, 65_536, b"not really a zstd frame".to_vec()),
        stored(SlotKind::Patches, b""),
    ];
    let made = seal(PackContent::Data, &slots, b"a footer body", 42);
    check("v1-data-pack.bin", made.object.bytes());
    let opened = open_all(&golden("v1-data-pack.bin"), made.name).unwrap();
    assert_eq!(opened, (slots.to_vec(), b"a footer body".to_vec()));
}

/// As a write-only client seals it.
#[test]
fn data_pack_to_public() {
    let slots = [stored(SlotKind::Blocks, b"a block"), stored(SlotKind::Patches, b"a page")];
    let (key, hedge) = (PublicKey::of(&data_key()).unwrap(), map_key());
    let sealing = SealingKey::Public { key: &key, hedge: &hedge };
    let pack = build(PackContent::Data, &slots);
    let made = pack.seal(sealing, &map_key(), b"a footer body", &Sealer::new(42).ctx()).unwrap();
    check("v1-data-pack-public.bin", made.object.bytes());
    let opened = open_all(&golden("v1-data-pack-public.bin"), made.name).unwrap();
    assert_eq!(opened, (slots.to_vec(), b"a footer body".to_vec()));
}

#[test]
fn write_only_key_object() {
    let keys = DomainKeys::generate(DOMAIN, 4, &SeededEntropy::new(8)).unwrap().write_only().unwrap();
    let (vault, prefix) = (key_file_vault(5), key_prefix(DOMAIN, 4));
    let naming = WrapNaming::KekAndBranches;
    let (name, made) = seal_key_object_as(&keys, &vault, &prefix, naming, &Sealer::new(42).ctx()).unwrap();
    check("v1-key-object-write-only.bin", made.bytes());
    check("v1-key-object-write-only.name", name.as_bytes());
    let opened = open_key_object(&golden("v1-key-object-write-only.bin"), &name, &vault);
    assert!(matches!(opened, Ok(OpenedKeys::Keys(opened)) if opened.same_keys(&keys)));
}

#[test]
fn metadata_pack() {
    let slots = [
        stored(SlotKind::Nodes, b"nodes"),
        stored(SlotKind::ChangeList, b"changes"),
        stored(SlotKind::PointCopy, b"point"),
    ];
    let made = seal(PackContent::Metadata, &slots, b"a footer body", 42);
    check("v1-metadata-pack.bin", made.object.bytes());
    let opened = open_all(&golden("v1-metadata-pack.bin"), made.name).unwrap();
    assert_eq!(opened, (slots.to_vec(), b"a footer body".to_vec()));
}

/// Two slots of the golden data pack, moved: the last comes first.
#[test]
fn repacked_data_pack() {
    let born = golden("v1-data-pack.bin");
    let (slots, ..) = take_apart(&born).unwrap();
    let id = |slot| SlotId { pack: SlotHead::parse(&slots[0]).unwrap().birth_pack(), slot };
    let mut pack = RepackBuilder::new(data_key().id(), 0).unwrap();
    pack.push(&slots[2], id(2)).unwrap();
    pack.push(&slots[0], id(0)).unwrap();
    let made = pack.seal(&map_key(), b"a footer of moved slots", &Sealer::new(42).ctx()).unwrap();
    check("v1-repacked-data-pack.bin", made.object.bytes());

    let stored = golden("v1-repacked-data-pack.bin");
    let (moved, mut footer, trailer) = take_apart(&stored).unwrap();
    assert_eq!(moved, [slots[2].clone(), slots[0].clone()]);
    let header = stored.first_chunk().unwrap();
    let footer = open_footer(&mut footer, header, &trailer, &map_key(), made.name).unwrap();
    assert_eq!(footer, b"a footer of moved slots");
    let ciphers = SlotCiphers::default();
    let mut slot = moved[1].clone();
    let opened = open_slot(&mut slot, &data_key(), id(0), SlotKind::Blocks, &ciphers).unwrap();
    assert_eq!(opened.body, b"two blocks, as they are");
}

#[test]
fn key_object_by_key_file() {
    let keys = DomainKeys::generate(DomainId::VAULT, 0, &SeededEntropy::new(8)).unwrap();
    key_object("v1-key-object-file.bin", &keys, &key_file_vault(5));
}

#[test]
fn key_object_by_passphrase() {
    let keys = DomainKeys::generate(DOMAIN, 4, &SeededEntropy::new(8)).unwrap();
    key_object("v1-key-object-passphrase.bin", &keys, &passphrase_vault("correct horse", 1));
}

#[test]
fn reduced_key_object() {
    let keys = DomainKeys::generate(DOMAIN, 4, &SeededEntropy::new(8)).unwrap().without(Branch::Data);
    let (vault, prefix) = (key_file_vault(5), key_prefix(DOMAIN, 4));
    let naming = WrapNaming::KekAndBranches;
    let (name, made) = seal_key_object_as(&keys, &vault, &prefix, naming, &Sealer::new(42).ctx()).unwrap();
    check("v1-key-object-reduced.bin", made.bytes());
    check("v1-key-object-reduced.name", name.as_bytes());
    let Ok(OpenedKeys::Keys(opened)) = open_key_object(&golden("v1-key-object-reduced.bin"), &name, &vault)
    else {
        panic!("it does not open")
    };
    assert!(opened.same_keys(&keys));
}

fn key_object(file: &str, keys: &DomainKeys, vault: &dyn KeyVault) {
    let prefix = key_prefix(keys.domain(), keys.epoch());
    let (name, made) = seal_key_object(keys, vault, &prefix, &Sealer::new(42).ctx()).unwrap();
    check(file, made.bytes());
    let Ok(OpenedKeys::Keys(opened)) = open_key_object(&golden(file), &name, vault) else {
        panic!("{file} does not open")
    };
    let prints = |keys: &DomainKeys| {
        let print = |key: Result<&BranchKey, KeyError>| key.ok().map(|key| key.subkey("test").hash16(&[]));
        let identity = keys.identity().ok().map(|key| key.subkey("test").hash16(&[]));
        [print(keys.record()), print(keys.map()), print(keys.data()), identity]
    };
    assert_eq!(prints(&opened), prints(keys));
}
