//! What file systems say they use, against the tools that made them.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

mod tools;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use FileSystemKind::{Boot, Ext, Xfs};
use proptest::prelude::*;
use vmkeep_disk::{BlockWrite, FileSystemKind, Memory, RawFile, file_system_use, used_bytes};
use vmkeep_model::ByteOffset;

const MIB: u64 = 1 << 20;

/// Runs a program that must succeed; `None` when it is not here, which is a failure under `VMKEEP_REQUIRE_TOOLS`.
fn run(folder: &Path, words: &str) -> Option<String> {
    let mut parts = words.split_whitespace();
    let program = parts.next().unwrap();
    match Command::new(program).args(parts).current_dir(folder).output() {
        Ok(out) => {
            assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
            Some(String::from_utf8_lossy(&out.stdout).into_owned())
        }
        Err(error) => {
            assert!(std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{program}: {error}");
            eprintln!("{program} is not here; skipped");
            None
        }
    }
}

fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

fn number(text: &str, label: &str) -> u64 {
    let line =
        text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("{label} in {text}"));
    line.split(':').nth(1).unwrap().trim().parse().unwrap()
}

#[test]
fn ext_file_systems_say_what_dumpe2fs_says() {
    for options in ["-t ext4", "-t ext4 -O 64bit", "-t ext2 -b 1024", "-t ext3 -b 2048"] {
        let folder = tempfile::tempdir().unwrap();
        sparse(&folder.path().join("disk"), 64 * MIB);
        // Some content, so that not only its own structures are in use.
        fs::create_dir(folder.path().join("content")).unwrap();
        fs::write(folder.path().join("content/file"), vec![7; 5 << 20]).unwrap();
        if run(folder.path(), &format!("mke2fs -q {options} -d content disk")).is_none() {
            return;
        }
        let said = run(folder.path(), "dumpe2fs -h disk").unwrap();
        let (blocks, free) = (number(&said, "Block count"), number(&said, "Free blocks"));
        let size = number(&said, "Block size");
        let disk = RawFile::open(folder.path().join("disk")).unwrap();
        let found = file_system_use(&disk).unwrap().unwrap();
        assert_eq!(found.len(), 1, "{options}");
        assert_eq!((found[0].kind, found[0].size.0), (Ext, blocks * size), "{options}");
        assert_eq!(used_bytes(&found).0, (blocks - free) * size, "{options}");
        assert!(used_bytes(&found).0 > 5 * MIB);
    }
}

#[test]
fn a_partitioned_disk_is_the_sum_of_its_file_systems() {
    let folder = tempfile::tempdir().unwrap();
    sparse(&folder.path().join("disk"), 512 * MIB);
    sparse(&folder.path().join("root"), 64 * MIB);
    sparse(&folder.path().join("data"), 320 * MIB);
    let made = [
        "mke2fs -q -t ext4 root",
        "mkfs.xfs -q data",
        "sgdisk -n 1:2048:+16M -t 1:ef00 -n 2:0:+64M -n 3:0:+320M disk",
    ];
    if made.iter().any(|words| run(folder.path(), words).is_none()) {
        return;
    }
    let (disk, mut bytes) = (folder.path().join("disk"), Vec::new());
    for (at, from) in [(17 * MIB, "root"), (81 * MIB, "data")] {
        bytes.push((at, fs::read(folder.path().join(from)).unwrap()));
    }
    {
        use std::os::unix::fs::FileExt;
        let file = File::options().write(true).open(&disk).unwrap();
        for (at, bytes) in &bytes {
            file.write_all_at(bytes, *at).unwrap();
        }
    }
    let found = file_system_use(&RawFile::open(&disk).unwrap()).unwrap().unwrap();
    let kinds: Vec<_> = found.iter().map(|found| (found.kind, found.at.0)).collect();
    assert_eq!(kinds, [(Boot, MIB), (Ext, 17 * MIB), (Xfs, 81 * MIB)]);
    assert_eq!(found[0].used.0, 16 * MIB, "a boot partition counts as full");
    let said = run(folder.path(), "xfs_db -r -c sb -c p data").unwrap();
    let of = |name: &str| -> u64 {
        let line = said.lines().find(|line| line.starts_with(&format!("{name} ="))).unwrap();
        line.split('=').nth(1).unwrap().trim().parse().unwrap()
    };
    assert_eq!(found[2].used.0, (of("dblocks") - of("fdblocks")) * of("blocksize"));
    // Something that is not understood beside them: the disk is not measured.
    run(folder.path(), "sgdisk -n 4:0:+16M disk").unwrap();
    assert_eq!(file_system_use(&RawFile::open(&disk).unwrap()).unwrap(), None);
}

proptest! {
    /// Whatever is on a disk: no panic, and nothing uses more than it has.
    #[test]
    fn any_bytes_give_an_answer(pieces in prop::collection::vec((0_usize..4096, any::<[u8; 16]>()), 0..20), signs in any::<u8>()) {
        let disk = Memory::new(1 << 20);
        let put = |at: u64, bytes: &[u8]| disk.write_at(ByteOffset(at), bytes).unwrap();
        for (at, bytes) in pieces {
            put(at as u64, &bytes);
        }
        for (bit, at, sign) in [(1, 510, &[0x55, 0xaa][..]), (2, 512, b"EFI PART"), (4, 1080, &[0x53, 0xef]), (8, 0, b"XFSB"), (16, 450, &[0xee])] {
            if signs & bit != 0 {
                put(at, sign);
            }
        }
        if let Some(found) = file_system_use(&disk).unwrap() {
            for found in found {
                prop_assert!(found.used <= found.size && found.at.0 + found.size.0 <= 1 << 20);
            }
        }
    }
}
