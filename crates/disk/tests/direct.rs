//! Reads that bypass the page cache return what reads through it return.
#![allow(clippy::unwrap_used)] // in helpers too

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use vmkeep_disk::{BlockRead, DiskError, Format, OpenOptions, Overwrite, Qcow2Target, conformance, open};
use vmkeep_model::{ByteLen, ByteOffset};

/// `None` where the file system of the temporary folder refuses it; then there is nothing to test.
fn open_direct(path: &Path) -> Option<Box<dyn BlockRead>> {
    let options = OpenOptions { format: Some(Format::Raw), direct: true, ..OpenOptions::default() };
    match open(path, &options) {
        Ok(disk) => Some(disk),
        Err(DiskError::Unsupported { reason, .. }) => {
            assert!(reason.contains("page cache"), "{reason}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

/// A file with a hole in its middle; its content.
fn sparse(path: &Path, len: usize) -> Vec<u8> {
    let mut content = bytes(len);
    let hole = len / 4 / 4096 * 4096..len / 2 / 4096 * 4096;
    content[hole.clone()].fill(0);
    let file = File::create(path).unwrap();
    file.set_len(len as u64).unwrap();
    file.write_all_at(&content[..hole.start], 0).unwrap();
    file.write_all_at(&content[hole.end..], hole.end as u64).unwrap();
    content
}

#[test]
fn it_keeps_the_contract_of_a_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    for len in [0, 1, 511, 4096, 4097, 1 << 20, (3 << 20) + 12_345] {
        let content = sparse(&path, len);
        let Some(disk) = open_direct(&path) else { return };
        conformance::reads(&*disk, &content);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_range_reads_as_through_the_page_cache(
        len in 1_usize..4 << 20, ranges in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..8)
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        sparse(&path, len);
        let Some(direct) = open_direct(&path) else { return Ok(()) };
        let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::default() };
        let buffered = open(&path, &options).unwrap();
        for (start, part) in ranges {
            let at = start.index(len);
            let wanted = part.index(len - at + 1);
            let (mut one, mut other) = (vec![1; wanted], vec![2; wanted]);
            direct.read_at(ByteOffset(at as u64), &mut one).unwrap();
            buffered.read_at(ByteOffset(at as u64), &mut other).unwrap();
            prop_assert!(one == other, "{} bytes at {}", wanted, at);
        }
    }
}

#[test]
fn a_file_that_shrank_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    fs::write(&path, bytes(1 << 20)).unwrap();
    let Some(disk) = open_direct(&path) else { return };
    for len in [700_000, 1] {
        File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
        disk.read_at(ByteOffset(0), &mut vec![0; usize::try_from(len).unwrap()]).unwrap();
        let error = disk.read_at(ByteOffset(0), &mut vec![0; 1 << 20]).unwrap_err();
        assert!(matches!(error, DiskError::Shrank { .. }), "{error}");
        let error = disk.read_at(ByteOffset(len), &mut [0; 1]).unwrap_err();
        assert!(matches!(error, DiskError::Shrank { .. }), "{error}");
    }
}

#[test]
fn other_formats_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    Qcow2Target::create(&path, ByteLen(1 << 20), Overwrite::Refuse).unwrap();
    for format in [None, Some(Format::Qcow2)] {
        let options = OpenOptions { format, direct: true, ..OpenOptions::default() };
        let error = open(&path, &options).unwrap_err();
        assert!(error.to_string().contains("only raw images and block devices"), "{error}");
    }
}
