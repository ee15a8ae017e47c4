//! New qcow2 images: they conform, and qemu-img finds nothing wrong and the same content.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

mod tools;

use std::fs;

use proptest::prelude::*;
use tools::{data_bytes, open_in, qemu_img, qemu_img_is_here};
use vmkeep_disk::{BlockWrite, DiskError, Overwrite, Qcow2Target, conformance};
use vmkeep_model::{ByteLen, ByteOffset, Extent};

const LEN: usize = (1 << 20) + 512; // the last cluster is one sector

#[test]
fn qcow2_target_conforms_and_qemu_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let target =
        Qcow2Target::create(folder.path().join("image"), ByteLen(LEN as u64), Overwrite::Refuse).unwrap();
    let content = conformance::writes(&target, vec![0; LEN]);
    drop(target);
    conformance::reads(&*open_in(&folder, "image", &[]).unwrap(), &content);
    if qemu_img_is_here() {
        fs::write(folder.path().join("raw"), &content).unwrap();
        qemu_img(folder.path(), "check -q -f qcow2 image");
        qemu_img(folder.path(), "compare -q -f raw -F qcow2 raw image");
    }
}

#[test]
fn an_image_takes_room_only_for_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let target = Qcow2Target::create(&path, ByteLen(1 << 44), Overwrite::Refuse).unwrap();
    target.write_zeroes(Extent::new(ByteOffset(0), ByteLen(1 << 44))).unwrap();
    target.write_at(ByteOffset(1 << 43), &[5; 4096]).unwrap();
    target.sync().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    assert_eq!(data_bytes(&target), 65_536);
    if qemu_img_is_here() {
        qemu_img(folder.path(), "check -q -f qcow2 image");
    }
}

#[test]
fn each_sync_leaves_a_whole_image_while_the_writer_lives() {
    if !qemu_img_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let target =
        Qcow2Target::create(folder.path().join("image"), ByteLen(8 << 20), Overwrite::Refuse).unwrap();
    for round in 0..4_u8 {
        target.write_at(ByteOffset(u64::from(round) << 20), &vec![round + 1; 100_000]).unwrap();
        target.sync().unwrap();
        qemu_img(folder.path(), "check -q -U -f qcow2 image");
        let mut byte = [0];
        let read = open_in(&folder, "image", &[]).unwrap();
        read.read_at(ByteOffset((u64::from(round) << 20) + 99_999), &mut byte).unwrap();
        assert_eq!(byte, [round + 1]);
    }
}

#[test]
fn targets_that_exist_and_sizes_that_qemu_would_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, vec![0xff; 1 << 20]).unwrap();
    let error = Qcow2Target::create(&path, ByteLen(512), Overwrite::Refuse).unwrap_err();
    assert!(matches!(error, DiskError::Exists { .. }), "{error}");
    let error = Qcow2Target::create(&path, ByteLen(1000), Overwrite::Replace).unwrap_err();
    assert!(matches!(error, DiskError::Unsupported { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), vec![0xff; 1 << 20]);
    let target = Qcow2Target::create(&path, ByteLen(512), Overwrite::Replace).unwrap();
    conformance::writes(&target, vec![0; 512]);
    let empty = Qcow2Target::create(folder.path().join("empty"), ByteLen(0), Overwrite::Refuse).unwrap();
    conformance::writes(&empty, vec![]);
    conformance::reads(&*open_in(&folder, "empty", &[]).unwrap(), &[]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn random_writes_make_the_image_qemu_expects(
        writes in prop::collection::vec((0..LEN, 0_usize..200_000, any::<u8>()), 0..12),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut model = vec![0; LEN];
        let target =
            Qcow2Target::create(folder.path().join("image"), ByteLen(LEN as u64), Overwrite::Refuse).unwrap();
        for (start, len, byte) in writes {
            let end = (start + len).min(LEN);
            let byte = if byte < 80 { 0 } else { byte };
            model[start..end].fill(byte);
            let extent = Extent::between(ByteOffset(start as u64), ByteOffset(end as u64));
            if byte == 0 {
                target.write_zeroes(extent).unwrap();
            } else {
                target.write_at(extent.start(), &model[start..end]).unwrap();
            }
        }
        target.sync().unwrap();
        drop(target);
        conformance::reads(&*open_in(&folder, "image", &[]).unwrap(), &model);
        if qemu_img_is_here() {
            fs::write(folder.path().join("raw"), &model).unwrap();
            qemu_img(folder.path(), "check -q -f qcow2 image");
            qemu_img(folder.path(), "compare -q -f raw -F qcow2 raw image");
        }
    }
}
