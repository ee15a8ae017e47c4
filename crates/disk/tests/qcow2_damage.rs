//! Images that were cut short or changed: an error or the right bytes, never a panic, never made-up bytes.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

mod tools;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;
use tools::{folder_with_raw, open_in, qemu_img, qemu_img_is_here};
use vmkeep_disk::{BlockRead, DiskError, OpenOptions, open};
use vmkeep_model::{ByteLen, ByteOffset};

/// The bytes of an image of `raw` made with these options, `raw`'s folder and content.
fn image_bytes(options: &str) -> (TempDir, Vec<u8>, Vec<u8>) {
    let (folder, content) = folder_with_raw();
    qemu_img(folder.path(), &format!("convert -f raw {options} raw image"));
    let bytes = fs::read(folder.path().join("image")).unwrap();
    (folder, bytes, content)
}

/// Reads everything the disk says it has, hole by hole, as a backup does.
fn read_all(disk: &dyn BlockRead) -> Result<Vec<u8>, DiskError> {
    let len = usize::try_from(disk.len().0.min(8 << 20)).unwrap();
    let mut content = vec![0; len];
    let mut at = ByteOffset(0);
    while let Some(data) = disk.next_data(at)? {
        let (start, end) = (data.start().0.min(len as u64), data.end().0.min(len as u64));
        let part = &mut content[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
        disk.read_at(ByteOffset(start), part)?;
        if end == len as u64 {
            break;
        }
        at = data.end();
    }
    Ok(content)
}

fn open_and_read_all(path: &Path) -> Result<Vec<u8>, DiskError> {
    read_all(&*open(path, &OpenOptions::default())?)
}

/// Cuts the image at many lengths. Its first bytes must be there: without them it is a raw disk.
fn check_cuts(options: &str, header: usize) {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, bytes, content) = image_bytes(options);
    let path = folder.path().join("cut");
    let mut refused = 0;
    let cuts = (header..bytes.len()).step_by(bytes.len() / 150).chain(bytes.len() - 520..bytes.len());
    for cut in cuts {
        fs::write(&path, &bytes[..cut]).unwrap();
        match open_and_read_all(&path) {
            Ok(read) => assert!(read == content, "cut at {cut} of {}: made-up bytes", bytes.len()),
            Err(DiskError::Damaged { .. } | DiskError::Shrank { .. }) => refused += 1,
            Err(other) => panic!("cut at {cut}: {other}"),
        }
    }
    assert!(refused > 100, "only {refused} cuts were noticed");
}

#[test]
fn a_cut_plain_image_is_noticed() {
    check_cuts("-O qcow2", 4);
}

#[test]
fn a_cut_image_of_many_tables_is_noticed() {
    check_cuts("-O qcow2 -o cluster_size=512", 4);
}

#[test]
fn a_cut_compressed_image_is_noticed() {
    check_cuts("-O qcow2 -c", 4);
    check_cuts("-O qcow2 -c -o cluster_size=512,compat=0.10", 4);
}

#[test]
fn a_cut_dynamic_vhd_is_noticed() {
    check_cuts("-O vpc -o force_size=on", 512);
}

#[test]
fn a_table_that_points_behind_the_end_is_noticed_when_opened() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, bytes, _) = image_bytes("-O qcow2");
    let l1 = usize::try_from(u64::from_be_bytes(bytes[40..48].try_into().unwrap())).unwrap();
    let check = |change: &dyn Fn(&mut Vec<u8>), says: &str| {
        let mut changed = bytes.clone();
        change(&mut changed);
        fs::write(folder.path().join("changed"), changed).unwrap();
        match open_in(&folder, "changed", &[]) {
            Err(DiskError::Damaged { reason, .. }) => assert!(reason.contains(says), "{reason}"),
            other => panic!("should be damaged, not {other:?}"),
        }
    };
    check(&|b| b[l1 + 2] = 1, "behind the end");
    check(&|b| b[l1 + 6] ^= 2, "start of a cluster");
    check(&|b| b[36..40].copy_from_slice(&0_u32.to_be_bytes()), "too short");
    check(&|b| b[36..40].fill(0xff), "cannot be");
    check(&|b| b[24] = 1, "too short");
    check(&|b| b[20..24].copy_from_slice(&40_u32.to_be_bytes()), "cluster size");
}

/// imago indexes into a table of feature names whose last entry is one byte long.
#[test]
fn a_table_of_feature_names_that_is_cut_is_no_panic() {
    if !qemu_img_is_here() {
        return;
    }
    let (folder, mut bytes, _) = image_bytes("-O qcow2");
    let names = 0x6803_f857_u32.to_be_bytes();
    let at = bytes.windows(4).position(|w| w == names).unwrap();
    bytes[at + 4..at + 8].copy_from_slice(&49_u32.to_be_bytes());
    fs::write(folder.path().join("changed"), bytes).unwrap();
    let error = open_in(&folder, "changed", &[]).unwrap_err();
    assert!(matches!(error, DiskError::Damaged { .. }), "{error}");
}

/// Changed bytes may change the content where they are part of it or of its tables; they may not panic, hang, or
/// make the disk another size than the header says.
fn check_changed(folder: &TempDir, bytes: &[u8], changes: &[(usize, u8)]) {
    let mut image = bytes.to_vec();
    for &(at, byte) in changes {
        let at = at % image.len();
        image[at] = byte;
    }
    let path = folder.path().join("changed");
    fs::write(&path, &image).unwrap();
    if let Ok(disk) = open(&path, &OpenOptions::default()) {
        assert!(disk.len() < ByteLen(1 << 62));
        drop(read_all(&*disk)); // an error or bytes
    }
}

#[test]
fn changed_bytes_never_panic() {
    if !qemu_img_is_here() {
        return;
    }
    for options in ["-O qcow2", "-O qcow2 -c -o cluster_size=512", "-O qcow2 -o compat=0.10", "-O vpc"] {
        let (folder, bytes, _) = image_bytes(options);
        let places = prop_oneof![3 => 0_usize..600, 1 => 0..4096_usize, 3 => 0..bytes.len()];
        let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x80), Just(1)];
        let changes = prop::collection::vec((places, byte), 1..6);
        proptest!(ProptestConfig::with_cases(150), |(changes in changes)| {
            check_changed(&folder, &bytes, &changes);
        });
        for at in 0..112 {
            for byte in [0, 0xff, bytes[at] ^ 1] {
                check_changed(&folder, &bytes, &[(at, byte)]);
            }
        }
    }
}
