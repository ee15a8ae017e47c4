//! The file vault: what the ports demand, versions, deletion, blobs, crashes, other processes.
#![cfg(feature = "file-vault")]
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use vmkeep_envelope::file_vault::*;
use vmkeep_envelope::*;
use vmkeep_model::{DomainId, ManualClock, Timestamp};

const DAY: i64 = 24 * 3600 * 1000;

struct Scene {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Scene {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(Timestamp(1_700_000_000_000))),
        }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("keys")
    }

    fn ports(&self) -> Ports {
        Ports { clock: self.clock.clone(), ..Ports::default() }
    }

    fn create(&self, settings: Settings) -> FileVault {
        FileVault::create(self.path(), key(7), settings, self.ports()).unwrap()
    }

    fn open(&self) -> FileVault {
        FileVault::open(self.path(), key(7), self.ports()).unwrap()
    }
}

fn key(byte: u8) -> FileVaultKey {
    FileVaultKey::Key(SecretKey::from_bytes(&mut [byte; 32]))
}

fn words(text: &str) -> FileVaultKey {
    let weakest = Argon2Params::new(19_456, 2, 1).unwrap();
    FileVaultKey::Passphrase(Passphrase::new(text.to_owned()).unwrap(), weakest)
}

fn secret(text: &str) -> SecretValue {
    SecretValue {
        value: SecretBytes::new(text.as_bytes().to_vec()),
        content_type: None,
        tags: BTreeMap::new(),
    }
}

#[test]
fn it_does_what_stores_of_keys_and_secrets_must() {
    let scene = Scene::new();
    let vault = scene.create(Settings::default());
    for (name, kind) in [("rsa", KeyKind::Rsa2048), ("aes", KeyKind::Aes256)] {
        vault.create_key(name, kind).unwrap();
        conformance::key_store(&vault, name, "missing");
    }
    conformance::secret_store(&vault, "bek");
}

#[test]
fn its_keys_wrap_the_keys_of_a_vault() {
    let scene = Scene::new();
    let vault = Arc::new(scene.create(Settings::default()));
    let algorithms = [
        ("rsa", KeyKind::Rsa2048, WrapAlgorithm::RsaOaep),
        ("rsa", KeyKind::Rsa2048, WrapAlgorithm::RsaOaep256),
        ("aes", KeyKind::Aes256, WrapAlgorithm::A256Kw),
    ];
    vault.create_key("stranger", KeyKind::Aes256).unwrap();
    for (name, kind, algorithm) in algorithms {
        vault.create_key(name, kind).unwrap();
        let kek = |name: &str, algorithm| StoreKek::new(vault.clone(), name, None, algorithm).unwrap();
        conformance::key_vault(&kek(name, Some(algorithm)), &kek("stranger", None));
        let context = WrapContext { domain: DomainId([1; 16]), epoch: 0 };
        let wrapped =
            kek(name, Some(algorithm)).wrap(&SecretKey::from_bytes(&mut [1; 32]), &context, &OsEntropy);
        assert!(wrapped.unwrap().algorithm.starts_with(&format!("{algorithm}+")), "it says how");
    }
}

#[test]
fn every_version_of_a_key_is_a_kek_of_its_own_and_old_ones_still_unwrap() {
    let scene = Scene::new();
    let vault = Arc::new(scene.create(Settings::default()));
    vault.create_key("kek", KeyKind::Aes256).unwrap();
    let kek = StoreKek::new(vault.clone(), "kek", None, None).unwrap();
    let context = WrapContext { domain: DomainId([1; 16]), epoch: 0 };
    let wrap = || kek.wrap(&SecretKey::from_bytes(&mut [9; 32]), &context, &OsEntropy).unwrap();
    let old = wrap();
    vault.create_key("kek", KeyKind::Aes256).unwrap();
    let new = wrap();
    assert!(old.kek_id != new.kek_id && old.key_version != new.key_version);
    for wrapped in [&old, &new] {
        assert!(matches!(kek.unwrap(wrapped, &context), Ok(Unwrapped::Key(_))));
    }
    // A wrap of one version under the name of the other is nobody's.
    let mixed = WrappedKey { key_version: new.key_version.clone(), ..old };
    assert!(matches!(kek.unwrap(&mixed, &context), Ok(Unwrapped::NotMine)));
}

#[test]
fn a_key_that_is_switched_off_or_deleted_says_which_one_and_works_again_when_it_is_back() {
    let scene = Scene::new();
    let vault = Arc::new(scene.create(Settings::default()));
    vault.create_key("kek", KeyKind::Rsa2048).unwrap();
    let kek = StoreKek::new(vault.clone(), "kek", None, None).unwrap();
    let context = WrapContext { domain: DomainId([1; 16]), epoch: 0 };
    let wrapped = kek.wrap(&SecretKey::from_bytes(&mut [9; 32]), &context, &OsEntropy).unwrap();
    let refused = |what: &str| {
        let wrap = kek.wrap(&SecretKey::from_bytes(&mut [9; 32]), &context, &OsEntropy).map(drop);
        for refused in [kek.unwrap(&wrapped, &context).map(drop), wrap] {
            let Err(KeyError::Store(error)) = refused else { panic!("{what}: {refused:?}") };
            let text = error.to_string();
            assert!(text.contains("/keys/kek") && text.contains(what), "{text}");
        }
    };
    vault.set_enabled(ItemKind::Key, "kek", None, false).unwrap();
    refused("disabled");
    vault.set_enabled(ItemKind::Key, "kek", None, true).unwrap();
    assert!(matches!(kek.unwrap(&wrapped, &context), Ok(Unwrapped::Key(_))));
    vault.delete(ItemKind::Key, "kek").unwrap();
    refused("deleted");
    vault.recover(ItemKind::Key, "kek").unwrap();
    assert!(matches!(kek.unwrap(&wrapped, &context), Ok(Unwrapped::Key(_))));
}

#[test]
fn what_is_deleted_can_be_recovered_for_its_days_and_purged_unless_that_is_protected() {
    let scene = Scene::new();
    let vault = scene.create(Settings { recoverable_days: 7, purge_protection: false });
    for name in ["one", "two", "three"] {
        vault.set_secret(name, &secret(name)).unwrap();
    }
    vault.delete(ItemKind::Secret, "one").unwrap();
    assert!(matches!(vault.secret("one", None), Err(KeyStoreError::Deleted { .. })));
    assert!(matches!(vault.set_secret("one", &secret("x")), Err(KeyStoreError::Deleted { .. })));
    assert!(matches!(vault.delete(ItemKind::Secret, "one"), Err(KeyStoreError::Deleted { .. })));
    let gone = vault.list().unwrap()[0].deleted.unwrap().1;
    assert_eq!(gone, Timestamp(1_700_000_000_000 + 7 * DAY));
    vault.recover(ItemKind::Secret, "one").unwrap();
    assert_eq!(vault.secret("one", None).unwrap().value.value.expose(), b"one");
    assert!(matches!(vault.recover(ItemKind::Secret, "one"), Err(KeyStoreError::NotFound { .. })));

    vault.delete(ItemKind::Secret, "one").unwrap();
    vault.purge(ItemKind::Secret, "one").unwrap();
    assert!(matches!(vault.secret("one", None), Err(KeyStoreError::NotFound { .. })));

    vault.protect_from_purge().unwrap();
    vault.delete(ItemKind::Secret, "two").unwrap();
    assert!(matches!(vault.purge(ItemKind::Secret, "two"), Err(KeyStoreError::PurgeProtected { .. })));
    scene.clock.set(Timestamp(1_700_000_000_000 + 7 * DAY - 1));
    vault.delete(ItemKind::Secret, "three").unwrap();
    assert_eq!(vault.purge_expired().unwrap(), 0);
    scene.clock.set(Timestamp(1_700_000_000_000 + 7 * DAY));
    assert_eq!(vault.purge_expired().unwrap(), 1);
    let left: Vec<String> = vault.list().unwrap().into_iter().map(|item| item.name).collect();
    assert_eq!(left, ["three"]);
    assert!(scene.open().is_purge_protected().unwrap());
}

#[test]
fn a_blob_restores_into_a_new_vault_of_the_same_passphrase_with_all_versions() {
    let scene = Scene::new();
    let vault = FileVault::create(scene.path(), words("one"), Settings::default(), scene.ports()).unwrap();
    let first = vault.create_key("kek", KeyKind::Aes256).unwrap().url;
    vault.create_key("kek", KeyKind::Rsa2048).unwrap();
    vault.set_secret("bek", &secret("hunter2")).unwrap();
    let version = first.version().unwrap();
    let wrapped = vault.wrap("kek", Some(version), WrapAlgorithm::A256Kw, &[5; 32], &OsEntropy).unwrap();
    let (key_blob, secret_blob) = (vault.backup_key("kek").unwrap(), vault.backup_secret("bek").unwrap());

    let other = scene.folder.path().join("other");
    let other = FileVault::create(other, words("one"), Settings::default(), scene.ports()).unwrap();
    assert!(matches!(other.restore_key(&secret_blob), Err(KeyStoreError::Blob { .. })));
    other.restore_key(&key_blob).unwrap();
    let unwrapped = other.unwrap("kek", version, WrapAlgorithm::A256Kw, &wrapped.bytes).unwrap();
    assert_eq!(unwrapped.expose(), [5; 32]);
    assert_eq!(other.restore_secret(&secret_blob).unwrap().name(), "bek");
    assert_eq!(other.secret("bek", None).unwrap().value.value.expose(), b"hunter2");
    assert!(matches!(other.restore_key(&key_blob), Err(KeyStoreError::Exists { .. })));

    // What it wrapped as a KEK is still its own: a lost key vault costs no backup vault.
    let context = WrapContext { domain: DomainId([1; 16]), epoch: 0 };
    let vault = Arc::new(vault);
    let kek = StoreKek::new(vault.clone(), "kek", None, None).unwrap();
    let wrapped = kek.wrap(&SecretKey::from_bytes(&mut [9; 32]), &context, &OsEntropy).unwrap();
    let other = Arc::new(other);
    let kek = StoreKek::new(other.clone(), "kek", None, None).unwrap();
    assert!(matches!(kek.unwrap(&wrapped, &context), Ok(Unwrapped::Key(_))));
    other.delete(ItemKind::Key, "kek").unwrap();
    assert!(matches!(other.restore_key(&key_blob), Err(KeyStoreError::Deleted { .. })));

    let stranger = scene.folder.path().join("stranger");
    let stranger = FileVault::create(stranger, words("two"), Settings::default(), scene.ports()).unwrap();
    let refused = stranger.restore_key(&key_blob).unwrap_err().to_string();
    assert!(refused.contains("another passphrase"), "{refused}");
}

#[test]
fn a_wrong_key_says_so_and_a_vault_is_never_overwritten() {
    let scene = Scene::new();
    drop(scene.create(Settings::default()));
    for wrong in [key(8), words("guess")] {
        let refused = FileVault::open(scene.path(), wrong, scene.ports());
        assert!(matches!(refused, Err(KeyStoreError::Credentials { .. })), "{refused:?}");
    }
    let again = FileVault::create(scene.path(), key(7), Settings::default(), scene.ports());
    assert!(matches!(again, Err(KeyStoreError::Exists { .. })), "{again:?}");
    let missing = FileVault::open(scene.folder.path().join("none"), key(7), scene.ports());
    assert!(matches!(missing, Err(KeyStoreError::NotFound { .. })), "{missing:?}");
    let days = Settings { recoverable_days: 91, purge_protection: false };
    let days = FileVault::create(scene.folder.path().join("x"), key(7), days, scene.ports());
    assert!(matches!(days, Err(KeyStoreError::Settings { .. })), "{days:?}");
    fs::set_permissions(scene.path(), fs::Permissions::from_mode(0o640)).unwrap();
    let shared = FileVault::open(scene.path(), key(7), scene.ports()).unwrap_err();
    assert!(matches!(shared, KeyStoreError::Mode { mode: 0o640, .. }), "{shared:?}");
}

#[test]
fn names_and_values_are_held_to_their_limits() {
    let vault = Scene::new();
    let vault = vault.create(Settings::default());
    for bad in ["", "a/b", "a b", "\u{e4}", &"x".repeat(128)] {
        assert!(matches!(vault.create_key(bad, KeyKind::Aes256), Err(KeyStoreError::Name { .. })), "{bad:?}");
    }
    let long = secret(&"x".repeat((25 << 10) + 1));
    assert!(matches!(vault.set_secret("s", &long), Err(KeyStoreError::TooLarge { .. })));
    let mut tagged = secret("x");
    tagged.tags = (0..16).map(|n| (n.to_string(), String::new())).collect();
    assert!(matches!(vault.set_secret("s", &tagged), Err(KeyStoreError::TooLarge { .. })));
    assert!(vault.list().unwrap().is_empty(), "nothing of it was kept");
}

#[test]
fn changes_of_many_handles_at_once_are_all_there_afterwards() {
    let scene = Scene::new();
    drop(scene.create(Settings::default()));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let vault = scene.open();
            scope.spawn(move || {
                for n in 0..8 {
                    vault.set_secret(&format!("own-{worker}"), &secret(&n.to_string())).unwrap();
                    vault.set_secret("shared", &secret(&format!("{worker}-{n}"))).unwrap();
                }
            });
        }
    });
    let items = scene.open().list().unwrap();
    let versions: Vec<usize> = items.iter().map(|item| item.versions.len()).collect();
    assert_eq!(versions, [8, 8, 8, 8, 32]);
}

#[test]
fn a_change_that_was_cut_off_leaves_the_vault_as_it_was() {
    let scene = Scene::new();
    let vault = scene.create(Settings::default());
    vault.set_secret("bek", &secret("old")).unwrap();
    // What a process that died while it wrote leaves beside the vault.
    let half = scene.folder.path().join(".vmkeep-stage-keys");
    fs::write(&half, b"vmkeepF1 and then nothing").unwrap();
    assert_eq!(scene.open().secret("bek", None).unwrap().value.value.expose(), b"old");
    vault.set_secret("bek", &secret("new")).unwrap();
    assert_eq!(scene.open().secret("bek", None).unwrap().value.value.expose(), b"new");
    assert!(!half.exists());
    let rights = fs::metadata(scene.path()).unwrap().permissions().mode() & 0o777;
    assert_eq!(rights, 0o600);
}

#[test]
fn a_change_that_cannot_be_written_is_an_error_and_changes_nothing() {
    let scene = Scene::new();
    let vault = scene.create(Settings::default());
    vault.set_secret("bek", &secret("old")).unwrap();
    // A folder where the new file would go: it cannot be made, whoever tries.
    let blocked = scene.folder.path().join(".vmkeep-stage-keys");
    fs::create_dir(&blocked).unwrap();
    fs::write(blocked.join("x"), b"").unwrap();
    assert!(matches!(vault.set_secret("bek", &secret("new")), Err(KeyStoreError::Io { .. })));
    assert_eq!(scene.open().secret("bek", None).unwrap().value.value.expose(), b"old");
}

/// Another vault beside it, whatever its name, is nobody's leftover; and a link to a vault stays one.
#[test]
fn a_change_touches_no_file_but_its_own() {
    let scene = Scene::new();
    let vault = scene.create(Settings::default());
    let key = || FileVaultKey::Key(SecretKey::from_bytes(&mut [9; 32]));
    let beside = scene.folder.path().join("keys.new");
    let other = FileVault::create(&beside, key(), Settings::default(), Ports::default()).unwrap();
    other.set_secret("bek", &secret("other")).unwrap();
    vault.set_secret("bek", &secret("one")).unwrap();
    assert_eq!(other.secret("bek", None).unwrap().value.value.expose(), b"other");

    let link = scene.folder.path().join("link");
    std::os::unix::fs::symlink(&beside, &link).unwrap();
    let through = FileVault::open(&link, key(), Ports::default()).unwrap();
    through.set_secret("bek", &secret("through")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(other.secret("bek", None).unwrap().value.value.expose(), b"through");
    let stage = scene.folder.path().join(".vmkeep-stage-keys");
    let refused = FileVault::create(stage, key(), Settings::default(), Ports::default());
    assert!(matches!(refused, Err(KeyStoreError::Settings { .. })));
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let scene = Scene::new();
    scene.create(Settings::default()).set_secret("bek", &secret("old")).unwrap();
    let whole = fs::read(scene.path()).unwrap();
    for at in 0..whole.len() {
        damage(&scene.path(), |bytes| bytes[at] ^= 1);
        let opened = FileVault::open(scene.path(), key(7), scene.ports());
        let told = matches!(opened, Err(KeyStoreError::Damaged { .. } | KeyStoreError::Credentials { .. }));
        assert!(told, "flipped at {at}: {opened:?}");
        damage(&scene.path(), |bytes| bytes[at] ^= 1);
    }
    for len in 0..whole.len() {
        fs::write(scene.path(), &whole[..len]).unwrap();
        let opened = FileVault::open(scene.path(), key(7), scene.ports());
        assert!(matches!(opened, Err(KeyStoreError::Damaged { .. })), "cut to {len}: {opened:?}");
    }
    fs::write(scene.path(), &whole).unwrap();
    assert_eq!(scene.open().secret("bek", None).unwrap().value.value.expose(), b"old");
}

#[test]
fn another_vault_in_its_place_is_not_taken_for_it() {
    let scene = Scene::new();
    let vault = scene.create(Settings::default());
    let other = scene.folder.path().join("other");
    drop(FileVault::create(&other, key(7), Settings::default(), scene.ports()).unwrap());
    fs::rename(&other, scene.path()).unwrap();
    let refused = vault.list().unwrap_err();
    assert!(refused.to_string().contains("another vault"), "{refused}");
}
