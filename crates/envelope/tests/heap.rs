//! Whole lives of keys, under an allocator that looks at every block before it is freed: no piece of a key is in one.
//!
//! Looked for are branch keys, object keys, KEKs, the keys that are derived from all these, the sealing keys of whatever is
//! opened, the passphrase, and secrets of guests. What is not seen, and so is not promised: stacks and registers, and the
//! memory of C libraries. What was left on a stack can come into a block by the parts of a value that are not set, such as
//! the inside of a `None`; so the lives are lived one after another, each on a stack that was wiped.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use argon2::{Algorithm, Argon2, Params, Version};
use common::*;
use hkdf::Hkdf;
use sha2::Sha256;
use vmkeep_envelope::guest::{CapturedDisk, CapturedKeys, CapturedSecret};
use vmkeep_envelope::*;
use vmkeep_heapwatch::{HeapWatch, hits_here, watch};
use vmkeep_model::DomainId;
use zeroize::Zeroizing;

#[global_allocator]
static HEAP: HeapWatch = HeapWatch;

const PASSPHRASE: &str = "correct horse battery staple";

/// A random source whose every 32 bytes are watched for: keys are made of nothing else.
#[derive(Debug)]
struct Watched(SeededEntropy);

impl Entropy for Watched {
    fn fill(&self, buf: &mut [u8]) -> Result<(), EntropyError> {
        self.0.fill(buf)?;
        if buf.len() == 32 {
            watch_key(buf.first_chunk().unwrap());
        }
        Ok(())
    }
}

/// Watches for a key, and for every key that hashing derives from it.
fn watch_key(key: &[u8; 32]) {
    watch(key);
    for label in ["salt", "kek id", "block", "page", "node"] {
        let derived = Zeroizing::new(blake3::derive_key(&format!("vmkeep v1 {label}"), key));
        // The first half of a KEK's id key is that id, which is stored in the clear.
        watch(if label == "kek id" { &derived[16..] } else { derived.as_slice() });
    }
    wipe_stack();
}

/// Watches for the key that seals under `salt`.
fn watch_sealing_key(key: &[u8; 32], salt: &[u8], label: &str) {
    let mut made = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(salt), key).expand(label.as_bytes(), made.as_mut_slice()).unwrap();
    watch(made.as_slice());
    wipe_stack();
}

/// Wipes what functions that returned have left below the caller's frame.
#[inline(never)]
#[allow(clippy::large_stack_arrays)] // that is the point
fn wipe_stack() {
    black_box(&mut [0_u8; 1 << 16]);
}

/// What a life is given: a source of keys, and a context to seal in.
struct Host {
    entropy: Watched,
    counter: AtomicU64,
}

impl Host {
    fn new(seed: u64) -> Self {
        Self { entropy: Watched(SeededEntropy::new(seed)), counter: AtomicU64::new(1) }
    }

    fn ctx(&self) -> SealContext<'_> {
        SealContext { session: SESSION, counter: &self.counter, entropy: &self.entropy }
    }

    /// A key with bytes that are known here.
    fn key(&self, id: BranchId) -> (BranchKey, Zeroizing<[u8; 32]>) {
        let mut bytes = Zeroizing::new([0; 32]);
        self.entropy.fill(bytes.as_mut_slice()).unwrap();
        (BranchKey::from_parts(id, SecretKey::from_bytes(&mut bytes.clone())), bytes)
    }
}

/// Blocks freed by `act` that show a piece of a key.
fn shown(act: impl FnOnce()) -> usize {
    static ONE_AFTER_ANOTHER: Mutex<()> = Mutex::new(());
    let _turn = ONE_AFTER_ANOTHER.lock().unwrap_or_else(PoisonError::into_inner);
    wipe_stack();
    let before = hits_here();
    act();
    hits_here() - before
}

fn id(branch: Branch) -> BranchId {
    let domain = if branch == Branch::Record { DomainId::VAULT } else { DOMAIN };
    BranchId { domain, branch, epoch: 0 }
}

/// Keys of a domain: made, put away, fetched, changed, and dropped.
fn key_objects(host: &Host, vault: &dyn KeyVault) {
    for domain in [DOMAIN, DomainId::VAULT] {
        let keys = DomainKeys::generate(domain, 0, &host.entropy).unwrap();
        let prefix = key_prefix(domain, 0);
        let (name, object) = seal_key_object(&keys, vault, &prefix, &host.ctx()).unwrap();
        drop(keys);
        match open_key_object(object.bytes(), &name, vault).unwrap() {
            OpenedKeys::Keys(keys) if domain == DOMAIN => {
                let identity = keys.identity().unwrap();
                black_box(identity.page_secret());
                black_box(identity.block_hash(&[1; 4096]));
                black_box(identity.node_hash(&[1; 4096]));
                black_box(identity.subkey("vmkeep v1 page").hash16(&[b"x"]));
                let fewer = keys.without(Branch::Data);
                drop(seal_key_object(&fewer, vault, &prefix, &host.ctx()).unwrap());
            }
            OpenedKeys::Keys(keys) => drop(keys.into_record().unwrap()),
            OpenedKeys::NotMine => panic!("the same vault wrapped it"),
        }
        // But for the parameters of Argon2id, which would only ask for more work.
        for at in (0..64).chain(108..object.len()) {
            let mut changed = object.bytes().to_vec();
            changed[at] ^= 1;
            drop(open_key_object(&changed, &name, vault));
        }
        drop(seal_key_object(&fresh(host, domain), vault, "keys/elsewhere/", &host.ctx()).unwrap_err());
    }
}

fn fresh(host: &Host, domain: DomainId) -> DomainKeys {
    DomainKeys::generate(domain, 0, &host.entropy).unwrap()
}

#[test]
fn a_key_that_is_left_in_freed_memory_is_found() {
    let host = Host::new(1);
    let key = SecretKey::generate(&host.entropy).unwrap();
    assert_eq!(shown(|| drop(black_box(key.expose().to_vec()))), 1);
    let derived = black_box(blake3::derive_key("vmkeep v1 salt", key.expose()).to_vec());
    assert_eq!(shown(|| drop(derived)), 1);
    assert_eq!(shown(|| drop(key)), 0);
}

#[test]
fn a_key_file_and_what_it_wraps_leave_no_key_in_freed_memory() {
    let (host, folder) = (Host::new(2), tempfile::tempdir().unwrap());
    let path = folder.path().join("vault.key");
    let leaks = shown(|| {
        drop(KeyFileVault::create(&path, &host.entropy).unwrap());
        drop(KeyFileVault::create(&path, &host.entropy).unwrap_err());
        let vault = KeyFileVault::open(&path).unwrap();
        key_objects(&host, &vault);
        let stranger = KeyFileVault::from_key(SecretKey::generate(&host.entropy).unwrap());
        let (name, object) =
            seal_key_object(&fresh(&host, DOMAIN), &vault, &key_prefix(DOMAIN, 0), &host.ctx()).unwrap();
        assert!(matches!(open_key_object(object.bytes(), &name, &stranger), Ok(OpenedKeys::NotMine)));
    });
    assert_eq!(leaks, 0);
}

#[test]
fn a_passphrase_and_its_kek_leave_nothing_in_freed_memory() {
    let host = Host::new(3);
    let leaks = shown(|| {
        watch(PASSPHRASE.as_bytes());
        let passphrase = Passphrase::new(PASSPHRASE.to_owned()).unwrap();
        let vault = PassphraseVault::new(passphrase, weakest(), &host.entropy).unwrap();
        let key = SecretKey::generate(&host.entropy).unwrap();
        let wrapped = vault.wrap(&key, &WrapContext { domain: DOMAIN, epoch: 0 }, &host.entropy).unwrap();

        // The KEK is known from what is stored with the wrap.
        let (params, mut kek) = (Params::new(19_456, 2, 1, Some(32)).unwrap(), Zeroizing::new([0; 32]));
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let salt = wrapped.kdf.unwrap().salt;
        argon.hash_password_into(PASSPHRASE.as_bytes(), &salt, kek.as_mut_slice()).unwrap();
        watch_key(&kek);
        watch_sealing_key(&kek, &wrapped.bytes[..32], "vmkeep v1 wrap");

        key_objects(&host, &vault);
        // Another vault of the passphrase derives it again, and others besides until it is dropped from those kept.
        let passphrase = Passphrase::new(PASSPHRASE.to_owned()).unwrap();
        let again = PassphraseVault::new(passphrase, weakest(), &host.entropy).unwrap();
        let context = WrapContext { domain: DOMAIN, epoch: 0 };
        assert!(matches!(again.unwrap(&wrapped, &context), Ok(Unwrapped::Key(_))));
        for salt in 0..5 {
            let kdf = Some(Argon2Kdf { params: weakest(), salt: [salt; 16] });
            let other = WrappedKey { kdf, ..wrapped.clone() };
            assert!(matches!(again.unwrap(&other, &context), Ok(Unwrapped::NotMine)));
        }
    });
    assert_eq!(leaks, 0);
}

#[test]
fn sealing_and_opening_records_leaves_no_key_in_freed_memory() {
    let host = Host::new(4);
    let leaks = shown(|| {
        for branch in [Branch::Record, Branch::Map, Branch::Data] {
            let (key, bytes) = host.key(id(branch));
            let record = seal_record(1, &key, "a name", b"a body", &host.ctx()).unwrap();
            watch_sealing_key(&bytes, &record.bytes()[32..64], "vmkeep v1 record");
            assert_eq!(open_record(record.bytes(), "a name", &key, 1).unwrap(), b"a body");
            assert!(open_record(record.bytes(), "another", &key, 1).is_err());
            black_box(key.subkey("vmkeep v1 salt").hash16(&[b"x"]));
        }
    });
    assert_eq!(leaks, 0);
}

#[test]
fn packs_and_the_ciphers_kept_for_them_leave_no_key_in_freed_memory() {
    let host = Host::new(5);
    let leaks = shown(|| {
        let ((data, data_bytes), (map, map_bytes)) = (host.key(id(Branch::Data)), host.key(id(Branch::Map)));
        let ciphers = SlotCiphers::new(2);
        for number in 0..5_u8 {
            let slots = [stored(SlotKind::Blocks, &[number; 4096]), stored(SlotKind::Patches, b"a page")];
            let pack = build(PackContent::Data, &slots).seal(&data, &map, b"a footer", &host.ctx()).unwrap();
            let (mut bytes, _, _) = take_apart(pack.object.bytes()).unwrap();
            let salt = SlotHead::parse(&bytes[0]).unwrap().salt;
            watch_sealing_key(&data_bytes, &salt, "vmkeep v1 slot");
            watch_sealing_key(&map_bytes, &salt, "vmkeep v1 footer");

            let mut moved = RepackBuilder::new(data.id(), 0).unwrap();
            moved.push(&bytes[0], SlotId { pack: pack.name, slot: 0 }).unwrap();
            let moved = moved.seal(&map, b"a footer", &host.ctx()).unwrap();
            let kinds = [SlotKind::Blocks, SlotKind::Patches];
            for (slot, (bytes, kind)) in (0..).zip(bytes.iter_mut().zip(kinds)) {
                let place = SlotId { pack: pack.name, slot };
                // A third pack drops the cipher of the first: it goes while its key is watched for.
                open_slot(bytes, &data, place, kind, &ciphers).unwrap();
                assert!(open_slot(bytes, &data, place, kind, &ciphers).is_err(), "it is open");
            }
            for pack in [pack, moved] {
                let (_, mut footer, trailer) = take_apart(pack.object.bytes()).unwrap();
                let header = pack.object.bytes().first_chunk().unwrap();
                assert_eq!(open_footer(&mut footer, header, &trailer, &map, pack.name).unwrap(), b"a footer");
            }
        }
    });
    assert_eq!(leaks, 0);
}

#[test]
fn secrets_of_guests_leave_nothing_in_freed_memory() {
    let leaks = shown(|| {
        let secret = b"the BEK of a disk that its guest encrypts";
        watch(secret);
        let value = SecretValue {
            value: SecretBytes::new(secret.to_vec()),
            content_type: Some("BEK".to_owned()),
            tags: BTreeMap::new(),
        };
        let bek = CapturedSecret { url: "https://vault/secrets/bek/1".parse().unwrap(), value, backup: None };
        let disk: vmkeep_model::DiskName = "os".parse().unwrap();
        let keys = CapturedKeys { disks: vec![CapturedDisk { disk: disk.clone(), bek, kek: None }] };
        let bytes = keys.encode().unwrap();
        let keys = CapturedKeys::decode(&bytes).unwrap();
        assert!(keys.disks[0].bek.value.value.ct_eq(&SecretBytes::new(secret.to_vec())));
        for len in 0..bytes.len() {
            assert!(CapturedKeys::decode(&bytes[..len]).is_err());
        }
        #[cfg(feature = "azure-config")]
        drop(guest::azure_config(&keys, &disk).unwrap());
    });
    assert_eq!(leaks, 0);
}

#[cfg(feature = "file-vault")]
#[test]
fn a_file_vault_leaves_no_secret_in_freed_memory() {
    use std::sync::Arc;
    use vmkeep_envelope::file_vault::{FileVault, FileVaultKey, ItemKind, KeyKind, Ports, Settings};

    let folder = tempfile::tempdir().unwrap();
    let leaks = shown(|| {
        let secret = b"a passphrase that is kept in the vault";
        let bytes = |salt: u8| -> [u8; 32] { std::array::from_fn(|at| u8::try_from(at).unwrap() ^ salt) };
        let (mut own, mut wrapped) = (bytes(0x3d), bytes(0xc9));
        watch_key(&own);
        watch_key(&wrapped);
        watch(secret);
        let path = folder.path().join("keys");
        let key = FileVaultKey::Key(SecretKey::from_bytes(&mut own));
        let vault = FileVault::create(&path, key, Settings::default(), Ports::default()).unwrap();
        vault.create_key("aes", KeyKind::Aes256).unwrap();
        vault.create_key("rsa", KeyKind::Rsa2048).unwrap();
        let value = SecretValue {
            value: SecretBytes::new(secret.to_vec()),
            content_type: None,
            tags: BTreeMap::new(),
        };
        for _ in 0..3 {
            vault.set_secret("bek", &value).unwrap();
        }
        assert_eq!(vault.secret("bek", None).unwrap().value.value.expose(), secret);
        let blob = vault.backup_secret("bek").unwrap();
        vault.delete(ItemKind::Secret, "bek").unwrap();
        vault.purge(ItemKind::Secret, "bek").unwrap();
        vault.restore_secret(&blob).unwrap();

        let key = SecretKey::from_bytes(&mut wrapped);
        let context = WrapContext { domain: DomainId([1; 16]), epoch: 0 };
        let vault = Arc::new(vault);
        for name in ["aes", "rsa"] {
            let kek = StoreKek::new(vault.clone(), name, None, None).unwrap();
            let wrapped = kek.wrap(&key, &context, &OsEntropy).unwrap();
            let Ok(Unwrapped::Key(again)) = kek.unwrap(&wrapped, &context) else { panic!("unwraps") };
            assert!(again.ct_eq(&key));
        }
    });
    assert_eq!(leaks, 0);
}
