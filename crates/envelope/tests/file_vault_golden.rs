//! A file vault and a backup blob as they were always written, and the seeds of their fuzz target.
#![cfg(feature = "file-vault")]
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmkeep_envelope::file_vault::*;
use vmkeep_envelope::*;
use vmkeep_model::{ManualClock, Timestamp};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/file_vault")
}

fn key() -> FileVaultKey {
    FileVaultKey::Key(SecretKey::from_bytes(&mut [0x22; 32]))
}

fn ports() -> Ports {
    Ports {
        clock: Arc::new(ManualClock::new(Timestamp(1_700_000_000_000))),
        entropy: Arc::new(SeededEntropy::new(42)),
    }
}

fn check(name: &str, made: &[u8]) {
    let path = golden(name);
    if std::env::var_os("VMKEEP_BLESS").is_some() && !path.exists() {
        std::fs::write(&path, made).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == made, "{name} is made otherwise than it was");
}

#[test]
fn the_same_keys_and_seed_make_the_same_file_and_blob() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    let vault = FileVault::create(&path, key(), Settings::default(), ports()).unwrap();
    // RSA keys come from a random source that no seed repeats.
    vault.create_key("kek", KeyKind::Aes256).unwrap();
    let value = SecretValue {
        value: SecretBytes::new(b"a passphrase".to_vec()),
        content_type: Some("Wrapped BEK".to_owned()),
        tags: BTreeMap::from([("MachineName".to_owned(), "web-01".to_owned())]),
    };
    vault.set_secret("bek", &value).unwrap();
    vault.set_secret("old", &value).unwrap();
    vault.delete(ItemKind::Secret, "old").unwrap();
    vault.set_enabled(ItemKind::Key, "kek", None, false).unwrap();
    let blob = vault.backup_secret("bek").unwrap();
    check("v1-file-vault.bin", &std::fs::read(&path).unwrap());
    check("v1-backup-blob.bin", &blob);
}

#[cfg(unix)]
#[test]
fn the_file_of_old_still_opens() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    std::fs::copy(golden("v1-file-vault.bin"), &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let vault = FileVault::open(&path, key(), ports()).unwrap();
    let secret = vault.secret("bek", None).unwrap();
    assert_eq!(secret.value.value.expose(), b"a passphrase");
    assert!(matches!(vault.secret("old", None), Err(KeyStoreError::Deleted { .. })));
    assert!(!vault.key("kek", None).unwrap().enabled);
    vault.delete(ItemKind::Secret, "bek").unwrap();
    vault.purge(ItemKind::Secret, "bek").unwrap();
    let blob = std::fs::read(golden("v1-backup-blob.bin")).unwrap();
    assert_eq!(vault.restore_secret(&blob).unwrap().name(), "bek");
}

#[test]
fn every_seed_of_the_fuzz_target_passes() {
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus()).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        fuzzing::file_vault(&std::fs::read(path).unwrap());
        seeds += 1;
    }
    assert!(seeds >= 3);
    for name in ["v1-file-vault.bin", "v1-backup-blob.bin"] {
        let bytes = std::fs::read(golden(name)).unwrap();
        for entry in std::fs::read_dir(corpus()).unwrap() {
            if std::fs::read(entry.unwrap().path()).unwrap() == bytes {
                seeds += 100;
            }
        }
    }
    assert!(seeds > 200, "the golden files are among the seeds");
}
