//! VHD images made by qemu-img, and by this crate.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

mod tools;

use std::fs::{self, File};

use tools::{data_bytes, folder_with_raw, open_in, patch, qemu_img, qemu_img_is_here};
use vmkeep_disk::{DiskError, conformance, fixed_vhd_footer};
use vmkeep_model::ByteLen;

/// Without `force_size` qemu-img makes the disk larger, to a whole number of cylinders.
fn check_converted(options: &str) {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, mut content) = folder_with_raw();
    qemu_img(folder.path(), &format!("convert -f raw -O vpc -o {options} raw image"));
    let image = open_in(&folder, "image", &[]).unwrap();
    let len = usize::try_from(image.len().0).unwrap();
    assert!(len >= content.len() && len < content.len() + (1 << 20));
    content.resize(len, 0);
    conformance::reads(&*image, &content);
    assert!(data_bytes(&*image) <= image.len().0);
}

#[test]
fn fixed() {
    check_converted("subformat=fixed");
    check_converted("subformat=fixed,force_size=on");
}

#[test]
fn dynamic() {
    check_converted("subformat=dynamic");
    check_converted("subformat=dynamic,force_size=on");
}

#[test]
fn a_dynamic_image_has_holes_and_lives_without_its_last_footer() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, content) = folder_with_raw();
    let in_folder = |words: &str| qemu_img(folder.path(), words);
    File::options().write(true).open(folder.path().join("raw")).unwrap().set_len(16 << 20).unwrap();
    in_folder("convert -f raw -O vpc -o force_size=on raw image");
    let mut content = content;
    content.resize(16 << 20, 0);
    let check = || {
        let image = open_in(&folder, "image", &[]).unwrap();
        conformance::reads(&*image, &content);
        assert_eq!(data_bytes(&*image), 4 << 20, "two blocks of 2 MiB");
    };
    check();
    let len = fs::metadata(folder.path().join("image")).unwrap().len();
    File::options().write(true).open(folder.path().join("image")).unwrap().set_len(len - 512).unwrap();
    check();
}

#[test]
fn our_footer_makes_a_raw_image_one_that_qemu_reads() {
    let (folder, content) = folder_with_raw();
    let footer = fixed_vhd_footer(ByteLen(content.len() as u64), [9; 16]);
    fs::write(folder.path().join("image"), [&content[..], &footer].concat()).unwrap();
    let image = open_in(&folder, "image", &[]).unwrap();
    conformance::reads(&*image, &content);
    if qemu_img_is_here() {
        qemu_img(folder.path(), "convert -f vpc -O raw image back");
        assert_eq!(fs::read(folder.path().join("back")).unwrap(), content);
    }
}

#[test]
fn a_differencing_image_is_refused() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, _) = folder_with_raw();
    qemu_img(folder.path(), "convert -f raw -O vpc -o force_size=on raw image");
    let path = folder.path().join("image");
    let last = fs::metadata(&path).unwrap().len() - 512;
    for footer in [0, last] {
        let bytes = fs::read(&path).unwrap();
        let at = usize::try_from(footer).unwrap();
        let sum = u32::from_be_bytes(bytes[at + 64..at + 68].try_into().unwrap());
        patch(&path, footer + 60, &4_u32.to_be_bytes()); // dynamic is 3
        patch(&path, footer + 64, &(sum - 1).to_be_bytes());
    }
    let error = open_in(&folder, "image", &[]).unwrap_err();
    assert!(matches!(error, DiskError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("differencing"), "{error}");
}

#[test]
fn a_footer_that_lies_is_noticed() {
    let (folder, content) = folder_with_raw();
    let len = content.len() as u64;
    let write =
        |footer: &[u8]| fs::write(folder.path().join("image"), [&content[..], footer].concat()).unwrap();
    write(&fixed_vhd_footer(ByteLen(len + 512), [9; 16]));
    let larger = open_in(&folder, "image", &[]).unwrap_err();
    assert!(matches!(larger, DiskError::Damaged { .. }), "{larger}");
    let mut broken = fixed_vhd_footer(ByteLen(len), [9; 16]);
    broken[70] ^= 1;
    write(&broken);
    let broken = open_in(&folder, "image", &[]).unwrap_err();
    assert!(matches!(broken, DiskError::Damaged { .. }), "{broken}");
}
