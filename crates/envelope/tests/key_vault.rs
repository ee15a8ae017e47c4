//! The two key vaults: their contract, and what is particular to each.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::fs;
use std::path::Path;

use common::*;
use vmkeep_envelope::*;

#[test]
fn a_key_file_is_a_key_vault() {
    conformance::key_vault(&key_file_vault(1), &key_file_vault(2));
}

#[test]
fn a_passphrase_is_a_key_vault() {
    conformance::key_vault(&passphrase_vault("correct horse", 1), &passphrase_vault("battery staple", 2));
}

#[test]
fn a_key_file_and_a_passphrase_are_strangers() {
    conformance::key_vault(&key_file_vault(1), &passphrase_vault("correct horse", 2));
    conformance::key_vault(&passphrase_vault("correct horse", 1), &key_file_vault(2));
}

fn wrap(vault: &dyn KeyVault) -> WrappedKey {
    let key = SecretKey::from_bytes(&mut [7; 32]);
    vault.wrap(&key, &WrapContext { domain: DOMAIN, epoch: 0 }, &SeededEntropy::new(3)).unwrap()
}

fn unwraps(vault: &dyn KeyVault, wrapped: &WrappedKey) -> bool {
    let unwrapped = vault.unwrap(wrapped, &WrapContext { domain: DOMAIN, epoch: 0 }).unwrap();
    matches!(unwrapped, Unwrapped::Key(_))
}

#[test]
fn a_passphrase_vault_goes_on_with_the_first_salt_that_opened() {
    let stored = wrap(&passphrase_vault("correct horse", 1));
    let vault = passphrase_vault("correct horse", 2);
    let own = wrap(&vault);
    assert_ne!(own.kek_id, stored.kek_id);
    assert_eq!(wrap(&vault).kek_id, own.kek_id);
    assert!(!unwraps(&vault, &wrap(&passphrase_vault("battery staple", 9))));
    assert_eq!(wrap(&vault).kek_id, own.kek_id, "what did not open changes nothing");
    assert!(unwraps(&vault, &stored));
    assert_eq!((wrap(&vault).kek_id, wrap(&vault).kdf), (stored.kek_id.clone(), stored.kdf));
    assert!(unwraps(&vault, &own), "and opens what it wrapped before");
    assert_eq!(wrap(&vault).kek_id, stored.kek_id, "only the first that opened counts");
}

#[test]
fn an_empty_passphrase_is_refused() {
    assert!(matches!(Passphrase::new(String::new()), Err(KeyError::EmptyPassphrase)));
}

#[test]
fn argon2_parameters_have_bounds() {
    let check =
        |memory, passes, lanes, parameter: Option<&str>| match Argon2Params::new(memory, passes, lanes) {
            Ok(params) => {
                assert_eq!((params.memory_kib(), params.passes(), params.lanes()), (memory, passes, lanes));
                assert_eq!(parameter, None, "{params:?}");
            }
            Err(KeyError::Argon2Bounds { parameter: found, value, min, max }) => {
                assert_eq!(parameter, Some(found));
                assert!(value < min || value > max);
            }
            Err(other) => panic!("{other:?}"),
        };
    check(19_456, 2, 1, None);
    check(1_048_576, 16, 8, None);
    for memory in [0, 19_455, 1_048_577, u32::MAX] {
        check(memory, 3, 1, Some("memory in KiB"));
    }
    for passes in [0, 1, 17, u32::MAX] {
        check(65_536, passes, 1, Some("passes"));
    }
    for lanes in [0, 9, u32::MAX] {
        check(65_536, 3, lanes, Some("lanes"));
    }
    assert_eq!(Argon2Params::default(), Argon2Params::new(65_536, 3, 1).unwrap());
}

#[test]
fn a_key_file_that_was_made_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.key");
    let made = KeyFileVault::create(&path, &OsEntropy).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 32);
    let opened = KeyFileVault::open(&path).unwrap();
    assert!(unwraps(&opened, &wrap(&made)) && unwraps(&made, &wrap(&opened)));

    let before = fs::read(&path).unwrap();
    let again = KeyFileVault::create(&path, &OsEntropy);
    assert!(matches!(again, Err(KeyError::KeyFileExists { .. })));
    assert_eq!(fs::read(&path).unwrap(), before, "it is not overwritten");
    let nowhere = KeyFileVault::create(folder.path().join("no/such/folder"), &OsEntropy);
    assert!(matches!(nowhere, Err(KeyError::KeyFileIo { .. })));
}

fn write(path: &Path, len: usize, mode: u32) {
    fs::write(path, vec![7; len]).unwrap();
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_file_that_is_no_key_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.key");
    assert!(matches!(KeyFileVault::open(&path), Err(KeyError::KeyFileMissing { .. })));
    assert!(matches!(KeyFileVault::open(folder.path()), Err(KeyError::KeyFileKind { .. })));
    for len in [0, 31, 33, 64] {
        write(&path, len, 0o600);
        match KeyFileVault::open(&path) {
            Err(KeyError::KeyFileLength { found, .. }) => assert_eq!(found, len as u64),
            other => panic!("{len}: {other:?}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_have_rights_on_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.key");
    let fresh = folder.path().join("made.key");
    KeyFileVault::create(&fresh, &OsEntropy).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&fresh).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);

    let link = folder.path().join("link.key");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(KeyFileVault::open(&link), Err(KeyError::KeyFileMissing { .. })));
    for bad in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o777] {
        write(&path, 32, bad);
        for path in [&path, &link] {
            let error = KeyFileVault::open(path).unwrap_err();
            assert!(matches!(error, KeyError::KeyFileMode { mode, .. } if mode == bad), "{bad:o}: {error:?}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }
    for good in [0o600, 0o400] {
        let _ = fs::remove_file(&path);
        write(&path, 32, good);
        assert!(KeyFileVault::open(&path).is_ok() && KeyFileVault::open(&link).is_ok(), "{good:o}");
    }
}
