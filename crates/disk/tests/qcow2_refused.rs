//! Images that must not be read as if they were plain, or cannot be: each is refused with its own error.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

mod tools;

use std::fs;

use tempfile::TempDir;
use tools::{folder_with_raw, open_in, patch, qemu_img, qemu_img_is_here};
use vmkeep_disk::DiskError;

/// A folder with `raw` and `image`, a plain conversion of it.
fn folder_with_image() -> TempDir {
    let (folder, _) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O qcow2 raw image");
    folder
}

fn check_unsupported(folder: &TempDir, name: &str, says: &[&str]) {
    match open_in(folder, name, &["raw", "image"]) {
        Err(DiskError::Unsupported { reason, .. }) => {
            for word in says {
                assert!(reason.contains(word), "{reason:?} does not say {word:?}");
            }
        }
        other => panic!("{name} should be unsupported, not {other:?}"),
    }
}

fn check_damaged(folder: &TempDir, name: &str, says: &str) {
    match open_in(folder, name, &["raw", "image"]) {
        Err(DiskError::Damaged { reason, .. }) => assert!(reason.contains(says), "{reason}"),
        other => panic!("{name} should be damaged, not {other:?}"),
    }
}

#[test]
fn encrypted_images() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let secret = "--object secret,id=key,data=hunter2";
    let luks = "-o encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    qemu_img(folder.path(), &format!("create -q {secret} -f qcow2 {luks} image 1M"));
    check_unsupported(&folder, "image", &["encrypted", "LUKS", "qemu-img convert"]);
    patch(&folder.path().join("image"), 32, &0_u32.to_be_bytes()); // the key header remains
    check_unsupported(&folder, "image", &["encrypted", "LUKS"]);
    patch(&folder.path().join("image"), 32, &1_u32.to_be_bytes());
    check_unsupported(&folder, "image", &["encrypted", "AES"]);
    patch(&folder.path().join("image"), 32, &77_u32.to_be_bytes());
    check_unsupported(&folder, "image", &["encrypted", "method 77"]);
}

#[test]
fn an_encrypted_backing_image() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = folder_with_image();
    qemu_img(folder.path(), "create -q -f qcow2 -b image -F qcow2 top");
    patch(&folder.path().join("image"), 32, &2_u32.to_be_bytes());
    check_unsupported(&folder, "top", &["encrypted", "LUKS"]);
}

#[test]
fn features_that_are_not_read() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, _) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O qcow2 -c -o compression_type=zstd raw zstd");
    check_unsupported(&folder, "zstd", &["zlib", "qemu-img convert"]);
    qemu_img(folder.path(), "convert -f raw -O qcow2 -o extended_l2=on raw subclusters");
    check_unsupported(&folder, "subclusters", &["subclusters", "qemu-img convert"]);
}

#[test]
fn feature_bits() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = folder_with_image();
    let set = |bits: u64| patch(&folder.path().join("image"), 72, &bits.to_be_bytes());
    set(1);
    check_unsupported(&folder, "image", &["in use", "qemu-img check"]);
    set(2);
    check_damaged(&folder, "image", "marked corrupt");
    set(1 << 40);
    check_unsupported(&folder, "image", &["0x10000000000"]);
    set(0);
    open_in(&folder, "image", &[]).unwrap();
}

#[test]
fn versions_that_are_not_qcow2() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = folder_with_image();
    for version in [0_u32, 1, 4, u32::MAX] {
        patch(&folder.path().join("image"), 4, &version.to_be_bytes());
        check_unsupported(&folder, "image", &["version", "qemu-img convert"]);
    }
}

#[test]
fn backing_files_that_are_not_allowed() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = folder_with_image();
    qemu_img(folder.path(), "create -q -f qcow2 -b image -F qcow2 middle");
    qemu_img(folder.path(), "create -q -f qcow2 -b middle -F qcow2 top");
    let refused = |allowed: &[&str]| match open_in(&folder, "top", allowed) {
        Err(DiskError::BackingNotAllowed { other, .. }) => other,
        other => panic!("should be refused, not {other:?}"),
    };
    assert_eq!(refused(&[]), "middle");
    assert_eq!(refused(&["image"]), "middle");
    assert_eq!(refused(&["middle"]), "image", "each of a chain is asked for");
    assert_eq!(refused(&["."]), "middle", "a folder does not allow what is in it");
    open_in(&folder, "top", &["middle", "image"]).unwrap();

    fs::remove_file(folder.path().join("image")).unwrap();
    let missing = open_in(&folder, "top", &["middle", "image"]).unwrap_err();
    assert!(matches!(missing, DiskError::Io { .. }), "{missing}");
    let silent = open_in(&folder, "top", &["middle"]).unwrap_err();
    assert!(matches!(silent, DiskError::BackingNotAllowed { .. }), "{silent}");
}

#[test]
fn an_external_data_file_that_is_not_allowed() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, _) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O qcow2 -o data_file=data raw image");
    let error = open_in(&folder, "image", &["raw"]).unwrap_err();
    assert!(matches!(&error, DiskError::BackingNotAllowed { other, .. } if other == "data"), "{error}");
}

#[test]
fn backing_chains_that_come_back_or_do_not_end() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = folder_with_image();
    qemu_img(folder.path(), "create -q -f qcow2 -b image -F qcow2 top");
    qemu_img(folder.path(), "rebase -u -f qcow2 -b top -F qcow2 image");
    let error = open_in(&folder, "top", &["top", "image"]).unwrap_err();
    assert!(matches!(error, DiskError::Damaged { .. }), "{error}");

    qemu_img(folder.path(), "create -q -f qcow2 0 1M");
    for image in 1..=64 {
        let below = image - 1;
        qemu_img(folder.path(), &format!("create -q -u -f qcow2 -b {below} -F qcow2 {image} 1M"));
    }
    let names: Vec<String> = (0..64).map(|image| image.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    open_in(&folder, "63", &names).unwrap();
    let error = open_in(&folder, "64", &names).unwrap_err();
    assert!(matches!(error, DiskError::Unsupported { .. }), "{error}");
}

#[test]
fn backing_formats_and_protocols_that_are_not_read() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = folder_with_image();
    qemu_img(folder.path(), "create -q -u -f qcow2 -b raw -F vmdk vmdk 1M");
    check_unsupported(&folder, "vmdk", &["vmdk", "qemu-img convert"]);
    qemu_img(folder.path(), "create -q -u -f qcow2 -b nbd://localhost/x -F raw nbd 1M");
    let error = open_in(&folder, "nbd", &["raw"]).unwrap_err();
    assert!(
        matches!(&error, DiskError::BackingNotAllowed { other, .. } if other.starts_with("nbd:")),
        "{error}"
    );
}

#[test]
fn images_of_other_formats() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, _) = folder_with_raw();
    for (format, name) in
        [("vhdx", "VHDX"), ("vmdk", "VMDK"), ("vdi", "VDI"), ("qed", "QED"), ("parallels", "Parallels")]
    {
        qemu_img(folder.path(), &format!("convert -f raw -O {format} raw other"));
        check_unsupported(&folder, "other", &[name, "qemu-img convert"]);
    }
    qemu_img(folder.path(), "convert -f raw -O vmdk -o subformat=monolithicFlat raw flat.vmdk");
    check_unsupported(&folder, "flat.vmdk", &["VMDK"]);
}
