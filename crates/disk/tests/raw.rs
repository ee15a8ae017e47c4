//! Raw images: what is written reads back, holes stay holes, and a file that changes is noticed.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

mod tools;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use vmkeep_disk::{
    BlockRead, BlockWrite, DiskError, Format, OpenOptions, Overwrite, RawFile, RawTarget, conformance, open,
};
use vmkeep_model::{ByteLen, ByteOffset, Extent};

#[test]
fn raw_file_conforms() {
    let (folder, content) = tools::folder_with_raw();
    let disk = RawFile::open(folder.path().join("raw")).unwrap();
    conformance::reads(&disk, &content);
}

#[test]
fn raw_target_conforms_and_is_what_is_opened_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let target = RawTarget::create(&path, ByteLen(1_000_001), Overwrite::Refuse).unwrap();
    let content = conformance::writes(&target, vec![0; 1_000_001]);
    drop(target);
    conformance::reads(&*open(&path, &OpenOptions::default()).unwrap(), &content);
    assert_eq!(fs::read(&path).unwrap(), content);
}

#[test]
fn an_empty_file_is_a_disk_of_no_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    File::create(&path).unwrap();
    conformance::reads(&*open(&path, &OpenOptions::default()).unwrap(), &[]);
}

#[test]
fn a_new_target_takes_no_space_and_zeros_give_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new");
    let target = RawTarget::create(&path, ByteLen(1 << 40), Overwrite::Refuse).unwrap();
    assert_eq!(target.next_data(ByteOffset(0)).unwrap(), None);
    target.write_at(ByteOffset(1 << 30), &vec![7; 1 << 20]).unwrap();
    target.sync().unwrap();
    let data = target.next_data(ByteOffset(0)).unwrap().unwrap();
    assert!(data.len().0 >= 1 << 20 && data.start().0 <= 1 << 30, "{data}");
    assert!(fs::metadata(&path).unwrap().blocks() >= 2048);
    target.write_zeroes(Extent::new(ByteOffset(0), ByteLen(1 << 40))).unwrap();
    assert_eq!(target.next_data(ByteOffset(0)).unwrap(), None);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 40);
}

#[test]
fn a_target_that_exists_is_refused_or_replaced_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("there");
    fs::write(&path, "precious").unwrap();
    let refused = RawTarget::create(&path, ByteLen(4), Overwrite::Refuse).unwrap_err();
    assert!(matches!(refused, DiskError::Exists { .. }), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let target = RawTarget::create(&path, ByteLen(4), Overwrite::Replace).unwrap();
    conformance::reads(&target, &[0; 4]);
}

#[test]
fn what_is_not_a_disk_is_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [folder.path(), pipe.as_path(), "/dev/null".as_ref(), "/dev/zero".as_ref()] {
        let error = RawFile::open(path).unwrap_err();
        assert!(matches!(error, DiskError::Unsupported { .. }), "{error}");
    }
    let missing = RawFile::open(folder.path().join("missing")).unwrap_err();
    assert!(matches!(missing, DiskError::Io { .. }), "{missing}");
    let over_pipe = RawTarget::create("/dev/null", ByteLen(1), Overwrite::Replace).unwrap_err();
    assert!(matches!(over_pipe, DiskError::Unsupported { .. }), "{over_pipe}");
    let device = RawTarget::open_device(folder.path()).unwrap_err();
    assert!(matches!(device, DiskError::Unsupported { .. }), "{device}");
}

#[test]
fn a_file_that_shrinks_fails_and_does_not_read_as_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    fs::write(&path, vec![9; 200_000]).unwrap();
    let disk = RawFile::open(&path).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(100_000).unwrap();
    assert_eq!(disk.len(), ByteLen(200_000));
    disk.read_at(ByteOffset(0), &mut vec![0; 100_000]).unwrap();
    let error = disk.read_at(ByteOffset(99_999), &mut [0; 2]).unwrap_err();
    assert!(matches!(error, DiskError::Shrank { len: ByteLen(200_000), .. }), "{error}");
    let first = disk.next_data(ByteOffset(0)).unwrap().unwrap();
    let error = disk.next_data(first.end()).unwrap_err();
    assert!(matches!(error, DiskError::Shrank { .. }), "{error}");
}

#[test]
fn a_file_that_grows_stays_as_long_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("raw");
    fs::write(&path, vec![0; 100]).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    let disk = RawFile::open(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(1 << 22).unwrap();
    tools::patch(&path, 3 << 20, b"behind the end");
    let mut content = vec![0; 1 << 20];
    conformance::reads(&disk, &content);
    tools::patch(&path, 500_000, b"data");
    content[500_000..500_004].copy_from_slice(b"data");
    conformance::reads(&disk, &content);
}

/// The guest wrote a qcow2 header into the first sector of its raw disk.
#[test]
fn a_raw_disk_that_begins_like_qcow2_is_read_raw_when_told_and_never_follows_the_header() {
    if !tools::qemu_img_is_here() {
        return;
    }
    let (folder, _) = tools::folder_with_raw();
    fs::write(folder.path().join("secret"), vec![1; 1 << 20]).unwrap();
    tools::qemu_img(folder.path(), "create -q -f qcow2 -b secret -F raw disk 1M");
    let path = folder.path().join("disk");
    let detected = open(&path, &OpenOptions::default()).unwrap_err();
    assert!(
        matches!(&detected, DiskError::BackingNotAllowed { other, .. } if other == "secret"),
        "{detected}"
    );
    let raw = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
    conformance::reads(&*open(&path, &raw).unwrap(), &fs::read(&path).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_writes_and_holes_round_trip(
        writes in prop::collection::vec((0_usize..400_000, 0_usize..60_000, any::<u8>()), 0..10),
        len in 1_usize..500_000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let target = RawTarget::create(&path, ByteLen(len as u64), Overwrite::Refuse).unwrap();
        let mut model = vec![0; len];
        for (start, count, byte) in writes {
            let (start, end) = (start.min(len), (start + count).min(len));
            model[start..end].fill(byte);
            let extent = Extent::between(ByteOffset(start as u64), ByteOffset(end as u64));
            if byte < 64 {
                model[start..end].fill(0);
                target.write_zeroes(extent).unwrap();
            } else {
                target.write_at(extent.start(), &model[start..end]).unwrap();
            }
        }
        target.sync().unwrap();
        conformance::reads(&RawFile::open(&path).unwrap(), &model);
    }
}
