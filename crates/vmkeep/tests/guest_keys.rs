//! Keys of guests in points: sealed with the data key of their time, given to whoever may restore keys, lost with that key.

#![allow(clippy::unwrap_used)] // in helpers too
#![cfg(feature = "file-vault")]

mod common;

use std::sync::Arc;

use common::*;
use vmkeep::backup::{self, BackupError, DiskKeys, Plan};
use vmkeep::disk::Memory;
use vmkeep::envelope::file_vault::{FileVault, FileVaultKey, ItemKind, KeyKind, Settings};
use vmkeep::envelope::guest::{DiskEncryption, GuestKeyStores, GuestOs, PutBack, PutBackState};
use vmkeep::envelope::{
    KeyStore, KeyUrl, SecretBytes, SecretKey, SecretStore, SecretUrl, SecretValue, file_vault,
};
use vmkeep::model::{CancelToken, DiskName, Owner, Scope, op};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Vault, VaultError};
use vmkeep_testkit::{RecordingStore, permit};

/// A key vault with a BEK and a KEK.
struct Stores {
    _folder: tempfile::TempDir,
    vault: FileVault,
}

impl Stores {
    fn new(passphrase: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = FileVaultKey::Key(SecretKey::from_bytes(&mut [4; 32]));
        let ports = file_vault::Ports::default();
        let vault = FileVault::create(folder.path().join("kv"), key, Settings::default(), ports).unwrap();
        vault.create_key("kek", KeyKind::Rsa2048).unwrap();
        let stores = Self { _folder: folder, vault };
        stores.set(passphrase);
        stores
    }

    fn set(&self, passphrase: &str) {
        let value = SecretBytes::new(passphrase.as_bytes().to_vec());
        let value = SecretValue { value, content_type: None, tags: [].into() };
        self.vault.set_secret("bek", &value).unwrap();
    }

    fn encryption(&self) -> DiskEncryption {
        let url = KeyStore::url(&self.vault);
        DiskEncryption {
            bek: SecretUrl::new(url, "bek", None).unwrap(),
            kek: Some(KeyUrl::new(url, "kek", None).unwrap()),
        }
    }

    fn of_guests(&self) -> GuestKeyStores<'_> {
        GuestKeyStores { secrets: &self.vault, keys: Some(&self.vault) }
    }
}

fn os() -> DiskName {
    "os".parse().unwrap()
}

fn back_up_with_keys(vault: &Vault, stores: &Stores, seed: u64) -> Result<backup::Report, BackupError> {
    let memory = Memory::from(disk(&[Some(block(seed, 500)), Some(block(9, 500))]));
    let (encryption, os) = (stores.encryption(), os());
    let keys = vec![DiskKeys { disk: &os, encryption: &encryption, stores: stores.of_guests() }];
    let plan = Plan { keys, ..plan("web", &[("os", &memory)]) };
    backup::run(&permit(), vault, &plan, &inline(), &backup::Silent, &CancelToken::new())
}

fn captured(vault: &Vault, point: &str) -> Result<Option<String>, VaultError> {
    let keys = vault.point(&point_ref(point))?.captured_keys(&permit())?;
    Ok(keys.map(|keys| String::from_utf8(keys.disks[0].bek.value.value.expose().to_vec()).unwrap()))
}

#[test]
fn each_point_has_the_keys_of_its_time_and_says_which_versions_it_saw() {
    let stores = Stores::new("the first passphrase");
    let recording = RecordingStore::new(Arc::new(InMemory::new()));
    let vault = create(Arc::new(recording.clone()), 1);
    let first = back_up_with_keys(&vault, &stores, 1).unwrap().point;
    stores.set("the second passphrase");
    stores.vault.create_key("kek", KeyKind::Aes256).unwrap();
    let second = back_up_with_keys(&vault, &stores, 2).unwrap().point;
    back_up(&vault, "web", &disks([("os", disk(&[None]))])).unwrap();

    assert_eq!(captured(&vault, "web@1").unwrap().as_deref(), Some("the first passphrase"));
    assert_eq!(captured(&vault, "web@2").unwrap().as_deref(), Some("the second passphrase"));
    assert_eq!(captured(&vault, "web@3").unwrap(), None);
    let seen = |point: &vmkeep::model::RecoveryPoint| point.disks[0].encryption.clone().unwrap();
    let (one, two) = (seen(&first), seen(&second));
    assert!(one.bek != two.bek && one.kek != two.kek && one.kek_captured, "{one:?} {two:?}");
    assert_vault_clean(&vault, "with captured keys");
    for (_, object) in recording.puts() {
        let object = object.to_vec();
        for word in ["first passphrase", "second passphrase", "vmkeepB1"] {
            let found = object.windows(word.len()).any(|bytes| bytes == word.as_bytes());
            assert!(!found, "{word:?} lies in the store");
        }
    }
    let other = Owner.permit::<op::RestoreKeys>(Scope::Vm(vm("db")));
    let refused = vault.point(&point_ref("web@1")).unwrap().captured_keys(&other);
    assert!(matches!(refused, Err(VaultError::Denied(_))), "{refused:?}");
}

#[test]
fn keys_that_cannot_be_captured_end_the_backup_before_anything_is_stored() {
    let stores = Stores::new("a passphrase");
    let vault = create(Arc::new(InMemory::new()), 1);
    let end = |what: &str| {
        let error = back_up_with_keys(&vault, &stores, 1).unwrap_err();
        let text = format!("{error:?}");
        assert!(matches!(error, BackupError::GuestKeys(_)) && text.contains(what), "{text}");
        assert!(vault.vms().unwrap().is_empty(), "{what}: something was stored");
    };
    stores.vault.set_enabled(ItemKind::Key, "kek", None, false).unwrap();
    end("Disabled");
    stores.vault.set_enabled(ItemKind::Key, "kek", None, true).unwrap();
    stores.vault.delete(ItemKind::Secret, "bek").unwrap();
    end("Deleted");
    stores.vault.recover(ItemKind::Secret, "bek").unwrap();
    back_up_with_keys(&vault, &stores, 1).unwrap();
}

#[test]
fn they_outlive_rotations_and_go_with_the_key_of_their_time() {
    let stores = Stores::new("a passphrase");
    let vault = create(Arc::new(InMemory::new()), 1);
    back_up_with_keys(&vault, &stores, 1).unwrap();
    let cancel = CancelToken::new();
    vault.rotate_bek(&permit(), &vm("web"), &[], &cancel).unwrap();
    back_up_with_keys(&vault, &stores, 2).unwrap();
    vault.rewrite(&permit(), &vm("web"), u64::MAX, &cancel, &mut |_| {}).unwrap();
    for point in ["web@1", "web@2"] {
        assert_eq!(captured(&vault, point).unwrap().as_deref(), Some("a passphrase"), "{point}");
    }

    // All data was moved, and yet something would be lost with the first key: the plan says so.
    let plan = vault.destroy_plan(&vm("web"), Some(0), &cancel).unwrap();
    assert_eq!((plan.points.len(), plan.closes), (0, false), "{plan:?}");
    assert_eq!(plan.guest_keys, [point_ref("web@1")]);
    vault.destroy_keys(&permit(), &plan, &cancel).unwrap();
    let error = captured(&vault, "web@1").unwrap_err();
    assert!(error.is_destroyed(), "{error:?}");
    assert_eq!(captured(&vault, "web@2").unwrap().as_deref(), Some("a passphrase"));
    restore(&vault, "web@1").unwrap();
    assert_vault_clean(&vault, "after the first key");
}

#[test]
fn they_are_put_back_with_the_tags_that_azure_disk_encryption_looks_for() {
    let stores = Stores::new("d3JhcHBlZA");
    let vault = create(Arc::new(InMemory::new()), 1);
    back_up_with_keys(&vault, &stores, 1).unwrap();
    let keys = vault.point(&point_ref("web@1")).unwrap().captured_keys(&permit()).unwrap().unwrap();
    // Another key vault with the same key of its own: all is gone but that.
    let folder = tempfile::tempdir().unwrap();
    let key = FileVaultKey::Key(SecretKey::from_bytes(&mut [4; 32]));
    let ports = file_vault::Ports::default();
    let fresh = FileVault::create(folder.path().join("kv"), key, Settings::default(), ports).unwrap();
    let put_back = |os| {
        let stores = GuestKeyStores { secrets: &fresh, keys: Some(&fresh) };
        PutBack { stores, vm: &vm("web"), os, overwrite: false }.disk(&keys.disks[0])
    };
    let error = put_back(None).unwrap_err().to_string();
    assert!(error.contains("Windows or Linux"), "{error}");
    let done = put_back(Some(GuestOs::Windows)).unwrap();
    assert!(matches!(done.bek, PutBackState::Restored(_)));
    assert!(matches!(done.kek, Some(PutBackState::AlreadyThere(_))), "restored by the first try");

    let secret = fresh.secret("bek", None).unwrap();
    assert_eq!(secret.value.content_type.as_deref(), Some("Wrapped BEK"));
    let kek = done.kek.unwrap().url().to_string();
    let tags: Vec<(&str, &str)> = secret.value.tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        tags,
        [
            ("DiskEncryptionKeyEncryptionAlgorithm", "RSA-OAEP"),
            ("DiskEncryptionKeyEncryptionKeyURL", kek.as_str()),
            ("DiskEncryptionKeyFileName", "bek.BEK"),
            ("MachineName", "web"),
        ]
    );
    let again = put_back(Some(GuestOs::Linux)).unwrap();
    assert!(matches!(again.bek, PutBackState::AlreadyThere(_)), "nothing is changed");
}

/// The secret's tag says which version of the KEK wraps it; that one is captured, whatever is newest by now.
#[test]
fn the_kek_that_wraps_the_secret_is_captured_and_not_the_newest() {
    let stores = Stores::new("unused");
    let first = KeyStore::key(&stores.vault, "kek", None).unwrap().url;
    let tags = [("DiskEncryptionKeyEncryptionKeyURL".to_owned(), first.to_string())].into();
    let value = SecretBytes::new(b"wrapped".to_vec());
    stores.vault.set_secret("bek", &SecretValue { value, content_type: None, tags }).unwrap();
    stores.vault.create_key("kek", KeyKind::Aes256).unwrap();
    let newest = KeyStore::key(&stores.vault, "kek", None).unwrap().url;
    assert_ne!(first, newest);
    let vault = create(Arc::new(InMemory::new()), 1);
    back_up_with_keys(&vault, &stores, 1).unwrap();
    let keys = vault.point(&point_ref("web@1")).unwrap().captured_keys(&permit()).unwrap().unwrap();
    assert_eq!(keys.disks[0].kek.as_ref().unwrap().url, first);

    // Whoever names another version is told.
    let memory = Memory::from(disk(&[Some(block(1, 500))]));
    let encryption = DiskEncryption { kek: Some(newest), ..stores.encryption() };
    let name = os();
    let keys = vec![DiskKeys { disk: &name, encryption: &encryption, stores: stores.of_guests() }];
    let plan = Plan { keys, ..plan("web", &[("os", &memory)]) };
    let refused = backup::run(&permit(), &vault, &plan, &inline(), &backup::Silent, &CancelToken::new());
    assert!(format!("{:?}", refused.unwrap_err()).contains("OtherKek"));
}

/// What a point says wraps its vault's keys is what does, also when the store has a newer version.
#[test]
fn a_point_names_the_version_of_the_kek_that_the_vault_rests_on() {
    let stores = Stores::new("unused");
    let store = Arc::new(InMemory::new());
    let files = Arc::new(stores.vault);
    let kek = |files: &Arc<FileVault>| {
        Arc::new(vmkeep::envelope::StoreKek::new(files.clone(), "kek", None, None).unwrap())
    };
    let first = KeyStore::key(&*files, "kek", None).unwrap().url;
    Vault::create(store.clone(), kek(&files), ports(1)).unwrap();
    files.create_key("kek", KeyKind::Aes256).unwrap();
    let vault = Vault::open(store.clone(), kek(&files), ports(2)).unwrap();
    assert_eq!(vault.keys().unwrap()[0].epochs[0].wraps[0].key_version, first.version().unwrap());
    let content = disks([("os", disk(&[Some(block(1, 100))]))]);
    // A VM that is new is wrapped by the newest; one that is there says what its keys are wrapped by.
    back_up(&vault, "web", &content).unwrap();
    let again = Vault::open(store, kek(&files), ports(3)).unwrap();
    let point = back_up(&again, "web", &content).unwrap().point;
    let newest = KeyStore::key(&*files, "kek", None).unwrap().url;
    let said = format!("{:?}", point.storage_encryption);
    assert!(said.contains(newest.version().unwrap()), "{said}");
}
