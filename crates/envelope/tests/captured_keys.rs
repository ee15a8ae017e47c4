//! Captured keys of guests as bytes: what was written reads back, what is hostile is refused, and nothing shows.
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use vmkeep_envelope::guest::*;
use vmkeep_envelope::{KeyUrl, SecretBytes, SecretUrl, SecretValue};

fn disk(name: &str, secret: &[u8], kek: Option<(&str, Option<&[u8]>)>) -> CapturedDisk {
    let tags = [("MachineName", "web-01"), ("DiskEncryptionKeyFileName", "LinuxPassPhraseFileName")];
    CapturedDisk {
        disk: name.parse().unwrap(),
        bek: CapturedSecret {
            url: "https://web.vault.azure.net/secrets/bek/41aa".parse().unwrap(),
            value: SecretValue {
                value: SecretBytes::new(secret.to_vec()),
                content_type: Some("Wrapped BEK".to_owned()),
                tags: tags.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            },
            backup: Some(b"a blob of the secret".to_vec()),
        },
        kek: kek
            .map(|(url, blob)| CapturedKey { url: url.parse().unwrap(), backup: blob.map(<[u8]>::to_vec) }),
    }
}

fn keys() -> CapturedKeys {
    let mut plain = disk("data", b"a passphrase", None);
    plain.bek.value = SecretValue {
        value: SecretBytes::new(b"another".to_vec()),
        content_type: None,
        tags: BTreeMap::new(),
    };
    plain.bek.backup = None;
    let kek = "https://keys.vault.azure.net/keys/kek/7f0c";
    CapturedKeys {
        disks: vec![
            disk("os", b"d3JhcHBlZA", Some((kek, Some(b"a blob of the key")))),
            plain,
            disk("logs", b"", Some(("pkcs11:token/keys/kek/01", None))),
        ],
    }
}

#[test]
fn captured_keys_are_stored_as_ever() {
    let made = keys().encode().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/captured-keys.bin");
    if std::env::var_os("VMKEEP_BLESS").is_some() && !path.exists() {
        std::fs::write(&path, &*made).unwrap();
    }
    assert!(std::fs::read(&path).unwrap() == *made, "captured keys are encoded otherwise than they were");
    let read = CapturedKeys::decode(&made).unwrap();
    assert_eq!(read.disks.len(), 3);
    for (read, written) in read.disks.iter().zip(&keys().disks) {
        assert_eq!((&read.disk, &read.bek.url, &read.kek), (&written.disk, &written.bek.url, &written.kek));
        assert_eq!((&read.bek.backup, &read.bek.value.tags), (&written.bek.backup, &written.bek.value.tags));
        assert_eq!(read.bek.value.content_type, written.bek.value.content_type);
        assert!(read.bek.value.value.ct_eq(&written.bek.value.value));
    }
}

#[test]
fn what_is_cut_or_has_more_is_refused() {
    let bytes = keys().encode().unwrap();
    for len in 0..bytes.len() {
        assert!(CapturedKeys::decode(&bytes[..len]).is_err(), "cut to {len}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(CapturedKeys::decode(&longer).is_err());
    let newer = [&[2, 0], &bytes[2..]].concat();
    assert!(CapturedKeys::decode(&newer).unwrap_err().to_string().contains("newer"));
    // Four billion disks in six bytes.
    assert!(CapturedKeys::decode(&[1, 0, 0xff, 0xff, 0xff, 0xff]).is_err());
}

#[test]
fn what_is_too_large_for_a_point_is_refused_before_it_is_written() {
    let mut keys = keys();
    keys.disks[0].bek.backup = Some(vec![0; (1 << 20) + 1]);
    assert!(keys.encode().unwrap_err().to_string().contains("backup blob"));
}

#[test]
fn no_secret_shows() {
    let shown = format!("{:?} {:#?}", keys(), keys());
    for secret in ["a passphrase", "d3JhcHBlZA", "another", "97, 32, 112"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[cfg(feature = "azure-config")]
#[test]
fn azures_configuration_blob_has_the_fields_that_its_scripts_read() {
    let json = azure_config(&keys(), &"os".parse().unwrap()).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let details = &json["OsDiskKeyAndSecretDetails"];
    assert_eq!(details["KeyUrl"], "https://keys.vault.azure.net/keys/kek/7f0c");
    assert_eq!(details["SecretUrl"], "https://web.vault.azure.net/secrets/bek/41aa");
    assert_eq!(details["SecretData"], "d3JhcHBlZA");
    assert_eq!(details["KeyBackupData"], "YSBibG9iIG9mIHRoZSBrZXk=");
    assert_eq!(details["KeyVaultSecretBackupData"], "YSBibG9iIG9mIHRoZSBzZWNyZXQ=");
    let alone = azure_config(&keys(), &"data".parse().unwrap()).unwrap();
    let alone: serde_json::Value = serde_json::from_slice(&alone).unwrap();
    assert!(alone["OsDiskKeyAndSecretDetails"]["KeyUrl"].is_null());
    assert!(azure_config(&keys(), &"scratch".parse().unwrap()).is_err());
}

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,40}"
}

fn captured() -> impl Strategy<Value = CapturedDisk> {
    let blob = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50));
    let secret = (
        "[a-z]{1,8}",
        proptest::collection::vec(any::<u8>(), 0..60),
        proptest::option::of(text()),
        proptest::collection::btree_map(text(), text(), 0..4),
        blob(),
    );
    let key = proptest::option::of(("[a-z]{1,8}", blob()));
    ("[a-z]{1,8}", secret, key).prop_map(|(disk, (name, value, content_type, tags, backup), kek)| {
        CapturedDisk {
            disk: disk.parse().unwrap(),
            bek: CapturedSecret {
                url: SecretUrl::new("https://x", &name, Some("1")).unwrap(),
                value: SecretValue { value: SecretBytes::new(value), content_type, tags },
                backup,
            },
            kek: kek.map(|(name, backup)| CapturedKey {
                url: KeyUrl::new("https://x", &name, Some("2")).unwrap(),
                backup,
            }),
        }
    })
}

proptest! {
    #[test]
    fn whatever_is_captured_reads_back_as_it_was(disks in proptest::collection::vec(captured(), 0..5)) {
        let written = CapturedKeys { disks }.encode().unwrap();
        let read = CapturedKeys::decode(&written).unwrap();
        prop_assert_eq!(&*read.encode().unwrap(), &*written);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = CapturedKeys::decode(&bytes);
        let _ = CapturedKeys::decode(&[&[1, 0, 1, 0, 0, 0], &bytes[..]].concat());
    }
}
