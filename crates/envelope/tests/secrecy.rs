//! Nothing that holds a secret shows it, no error tells one, and a source that was taken from is empty.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;

use common::*;
use vmkeep_envelope::guest::{CapturedDisk, CapturedKeys, CapturedSecret, GuestKeysError};
use vmkeep_envelope::*;
use vmkeep_model::DomainId;

/// Fills everything with one byte, so that any key made from it is easy to spot.
#[derive(Debug)]
struct Constant(u8);

impl Entropy for Constant {
    fn fill(&self, buf: &mut [u8]) -> Result<(), EntropyError> {
        buf.fill(self.0);
        Ok(())
    }
}

const PASSPHRASE: &str = "hunter2hunter2";

/// The key that stands for all: 32 times one byte, which is easy to spot.
fn secret() -> SecretKey {
    SecretKey::from_bytes(&mut [0xb7; 32])
}

fn branch_key(branch: Branch) -> BranchKey {
    BranchKey::from_parts(BranchId { domain: DOMAIN, branch, epoch: 0 }, secret())
}

fn passphrase() -> Passphrase {
    Passphrase::new(PASSPHRASE.to_owned()).unwrap()
}

/// A secret of a store whose value is `bytes`.
fn value(bytes: &[u8]) -> SecretValue {
    let tags = BTreeMap::from([("name".to_owned(), "value".to_owned())]);
    SecretValue { value: SecretBytes::new(bytes.to_vec()), content_type: None, tags }
}

fn captured(bytes: &[u8]) -> CapturedKeys {
    let url: SecretUrl = "https://vault/secrets/bek/1".parse().unwrap();
    let bek = CapturedSecret { url, value: value(bytes), backup: None };
    CapturedKeys { disks: vec![CapturedDisk { disk: "os".parse().unwrap(), bek, kek: None }] }
}

#[test]
fn debug_output_never_shows_key_bytes() {
    let ciphers = SlotCiphers::default();
    let words = PassphraseVault::new(passphrase(), weakest(), &Constant(0xb7)).unwrap();
    let mut builder = PackBuilder::new(PackContent::Data, 0);
    builder.push(SlotKind::Blocks, Codec::Stored, 32, &[0xb7; 32]).unwrap();
    let mut repack = RepackBuilder::new(data_key().id(), 0).unwrap();
    let sealed = seal(PackContent::Data, &[stored(SlotKind::Blocks, &[0xb7; 32])], b"", 1);
    let (slots, ..) = take_apart(sealed.object.bytes()).unwrap();
    repack.push(&slots[0], SlotId { pack: sealed.name, slot: 0 }).unwrap();
    let slot = OpenedSlot { body: &[0xb7; 32], codec: Codec::Stored, plain_len: 32 };
    let keys = || DomainKeys::generate(DOMAIN, 0, &Constant(0xb7)).unwrap();
    let url = "https://vault/secrets/bek/1".parse().unwrap();
    for shown in [
        format!("{:?}", secret()),
        format!("{:?}", passphrase()),
        format!("{:#?}", branch_key(Branch::Identity)),
        format!("{:?}", branch_key(Branch::Identity).subkey("x")),
        format!("{:#?}", IdentityKey::new(branch_key(Branch::Identity)).unwrap()),
        format!("{:#?} {:?}", keys(), OpenedKeys::Keys(keys())),
        format!("{:?}", Unwrapped::Key(secret())),
        format!("{:?}", KeyFileVault::from_key(secret())),
        format!("{words:?}{ciphers:?}{builder:?}{repack:?}{slot:?}"),
        format!("{:?}", SeededEntropy::new(0xb7b7)),
        format!("{:?} {:#?}", SecretBytes::new(vec![0xb7; 32]), value(&[0xb7; 32])),
        format!("{:#?}", Secret { url, value: value(PASSPHRASE.as_bytes()) }),
        format!("{:#?} {:?}", captured(&[0xb7; 32]), captured(PASSPHRASE.as_bytes())),
    ] {
        for trace in ["183", "b7", "B7", "0xb7", "hunter2", "46967", "104, 117"] {
            assert!(!shown.contains(trace), "{trace} in {shown}");
        }
    }
}

/// Fails when `error`, or anything that caused it, tells the secret in its message or when it is printed for debugging.
fn tells_nothing<T>(of: &str, result: Result<T, impl Error + 'static>) {
    let error = result.err().unwrap_or_else(|| panic!("{of} is refused"));
    let mut next: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = next {
        let told = format!("{error} {error:?} {error:#?}");
        for trace in
            ["183, 183", "183,\n", "b7b7", "B7B7", "\\xb7", "\u{fffd}", "t7e3", "hunter2", "104, 117"]
        {
            assert!(!told.contains(trace), "{of}: {trace} in {told}");
        }
        next = error.source();
    }
}

#[test]
fn errors_of_sealing_and_opening_tell_no_secret() {
    let (body, sealer) = ([0xb7; 40], Sealer::new(1));
    let ctx = sealer.ctx();
    let (map, data, identity) =
        (branch_key(Branch::Map), branch_key(Branch::Data), branch_key(Branch::Identity));
    let too_long = vec![0xb7; RECORD_BODY_MAX + 1];
    tells_nothing("a record too long", seal_record(1, &data, "x", &too_long, &ctx));
    tells_nothing("a record of the identity key", seal_record(1, &identity, "x", &body, &ctx));
    let stuck = SealContext { entropy: &Dry, ..ctx };
    tells_nothing("a record without randomness", seal_record(1, &data, "x", &body, &stuck));
    let record = seal_record(1, &data, "x", &body, &ctx).unwrap();
    tells_nothing("another name", open_record(record.bytes(), "y", &data, 1));
    tells_nothing("another kind", open_record(record.bytes(), "x", &data, 2));
    tells_nothing("another key", open_record(record.bytes(), "x", &map, 1));
    for len in 0..record.len() {
        tells_nothing("a cut record", open_record(&record.bytes()[..len], "x", &data, 1));
    }
    tells_nothing("plain bytes as a record", open_record(&body, "x", &data, 1));

    let mut pack = PackBuilder::new(PackContent::Data, 0);
    tells_nothing("a slot of the wrong kind", pack.push(SlotKind::Nodes, Codec::Stored, 40, &body));
    tells_nothing("a slot of the wrong length", pack.push(SlotKind::Blocks, Codec::Stored, 4, &body));
    pack.push(SlotKind::Blocks, Codec::Stored, 40, &body).unwrap();
    tells_nothing("a pack of the wrong key", pack.seal(&identity, &map, &body, &ctx));
    let mut moved = RepackBuilder::new(data.id(), 0).unwrap();
    let id = SlotId { pack: PackName([0; 16]), slot: 0 };
    tells_nothing("plain bytes as a slot to move", moved.push(&body, id));
    tells_nothing("a moved pack of the wrong key", moved.seal(&identity, &body, &ctx));
    tells_nothing(
        "plain bytes as a slot",
        open_slot(&mut body.clone(), &data, id, SlotKind::Blocks, &SlotCiphers::default()),
    );
    tells_nothing("the wrong branch", IdentityKey::new(map));
}

#[test]
fn errors_of_keys_tell_no_secret() {
    let sealer = Sealer::new(1);
    let ctx = sealer.ctx();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    for len in [0, 31, 33, 4096] {
        fs::write(&path, vec![0xb7; len]).unwrap();
        tells_nothing("a key file of the wrong length", KeyFileVault::open(&path));
    }
    tells_nothing("a key file that is there", KeyFileVault::create(&path, &Constant(0xb7)));
    tells_nothing("a folder", KeyFileVault::open(folder.path()));
    tells_nothing("no key file", KeyFileVault::open(folder.path().join("other")));
    tells_nothing("no randomness", PassphraseVault::new(passphrase(), weakest(), &Dry));

    let keys = || DomainKeys::generate(DOMAIN, 0, &Constant(0xb7)).unwrap();
    let (prefix, vault) = (key_prefix(DOMAIN, 0), KeyFileVault::from_key(secret()));
    tells_nothing("a key that is not there", keys().record().map(|_| ()));
    tells_nothing("a wrong prefix", seal_key_object(&keys(), &vault, "keys/", &ctx));
    let words = PassphraseVault::new(passphrase(), weakest(), &Constant(0x11)).unwrap();
    for vault in [&vault as &dyn KeyVault, &words] {
        let (name, object) = seal_key_object(&keys(), vault, &prefix, &ctx).unwrap();
        tells_nothing("another name", open_key_object(object.bytes(), "keys/x", vault));
        for at in (0..object.len()).step_by(7) {
            tells_nothing("a cut key object", open_key_object(&object.bytes()[..at], &name, vault));
        }
        for at in object.len() - 300..object.len() {
            let mut changed = object.bytes().to_vec();
            changed[at] ^= 0x80;
            let opened = open_key_object(&changed, &name, vault);
            if !matches!(opened, Ok(OpenedKeys::NotMine)) {
                tells_nothing("a changed key object", opened);
            }
        }
    }
    let context = WrapContext { domain: DOMAIN, epoch: 0 };
    let wrapped = vault.wrap(&secret(), &context, &Constant(1)).unwrap();
    let elsewhere = WrapContext { domain: DomainId::VAULT, ..context };
    match vault.unwrap(&wrapped, &elsewhere).unwrap() {
        Unwrapped::Broken(error) => tells_nothing("another context", Err::<(), _>(error)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_of_guests_keys_tell_no_secret() {
    tells_nothing("a secret too long", captured(&vec![0xb7; 1 << 20]).encode());
    for secret in [&[0xb7; 40][..], PASSPHRASE.as_bytes()] {
        let bytes = captured(secret).encode().unwrap();
        for len in 0..bytes.len() {
            tells_nothing("cut keys", CapturedKeys::decode(&bytes[..len]));
        }
    }
    #[cfg(feature = "azure-config")]
    tells_nothing(
        "a secret that is no text",
        guest::azure_config(&captured(&[0xb7; 40]), &"os".parse().unwrap()),
    );
    let disk = "os".parse().unwrap();
    let source = KeyStoreError::NotUnwrapped { url: "https://vault/keys/kek/1".to_owned() };
    tells_nothing("a store that fails", Err::<(), _>(GuestKeysError::Store { what: "key", disk, source }));
}

#[test]
fn a_source_that_a_key_was_taken_from_is_zeros() {
    let mut source = [0xb7; 32];
    let key = SecretKey::from_bytes(&mut source);
    assert_eq!(source, [0; 32]);
    assert!(key.ct_eq(&SecretKey::from_bytes(&mut [0xb7; 32])));
    for at in 0..32 {
        let mut other = [0xb7; 32];
        other[at] ^= 1;
        assert!(!key.ct_eq(&SecretKey::from_bytes(&mut other)), "{at}");
    }
}

/// A source that cannot deliver.
#[derive(Debug)]
struct Dry;

impl Entropy for Dry {
    fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError::new("dry"))
    }
}

#[test]
fn without_randomness_nothing_is_sealed() {
    let sealer = Sealer::new(1);
    let ctx = SealContext { entropy: &Dry, ..sealer.ctx() };
    assert!(matches!(seal_record(1, &record_key(), "x", b"", &ctx), Err(SealError::Entropy(_))));
    let pack = PackBuilder::new(PackContent::Data, 0).seal(&data_key(), &map_key(), b"", &ctx);
    assert!(matches!(pack, Err(SealError::Entropy(_))));
    assert!(matches!(DomainKeys::generate(DOMAIN, 0, &Dry), Err(KeyError::Entropy(_))));
    let keys = DomainKeys::generate(DOMAIN, 0, &OsEntropy).unwrap();
    let object = seal_key_object(&keys, &key_file_vault(1), &key_prefix(DOMAIN, 0), &ctx);
    assert!(matches!(object, Err(KeyError::Entropy(_))));
}

#[test]
fn the_identity_key_is_the_identity_branch() {
    let refused = IdentityKey::try_from(map_key());
    assert!(matches!(refused, Err(KeyError::WrongBranch { expected: Branch::Identity, .. })));
    let identity = IdentityKey::new(key(Branch::Identity, 0, 4)).unwrap();
    assert_ne!(identity.block_hash(b"x"), identity.node_hash(b"x"));
    assert_eq!(identity.block_hash(b"x"), identity.block_hash(b"x"));
}

#[test]
fn seeds_repeat_and_the_system_does_not() {
    let take = |entropy: &dyn Entropy| {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes).unwrap();
        bytes
    };
    assert_eq!(take(&SeededEntropy::new(5)), take(&SeededEntropy::new(5)));
    assert_ne!(take(&SeededEntropy::new(5)), take(&SeededEntropy::new(6)));
    assert_ne!(take(&OsEntropy), take(&OsEntropy));
}
