//! Persistent dirty bitmaps that QEMU wrote: what was written is what is read, and what it left open is refused.
#![allow(clippy::unwrap_used)] // in helpers too

mod tools;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tools::{patch, qemu_img, qemu_img_is_here, qemu_io, qemu_io_is_here};
use vmkeep_disk::{
    Bitmap, BitmapError, BlockRead, Inconsistency, Memory, RawFile, list_bitmaps, read_bitmap,
};
use vmkeep_model::{ByteLen, ByteOffset};

const SECTOR: u64 = 512;

/// `SplitMix64` (Steele, Lea, Flood 2014): the cases are the same in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn open(folder: &TempDir) -> RawFile {
    RawFile::open(folder.path().join("disk.qcow2")).unwrap()
}

fn read(folder: &TempDir, name: &str) -> Result<Bitmap, BitmapError> {
    read_bitmap(&open(folder), name)
}

fn granules(bitmap: &Bitmap) -> BTreeSet<u64> {
    let granularity = bitmap.granularity().0;
    let mut last_end = None;
    let mut set = BTreeSet::new();
    for extent in bitmap.extents() {
        assert!(!extent.is_empty() && extent.end().0 <= bitmap.disk_len().0);
        assert!(last_end.is_none_or(|end| end < extent.start()), "extents that touch or go back");
        assert_eq!(extent.start().0 % granularity, 0);
        assert!(extent.end().0 % granularity == 0 || extent.end().0 == bitmap.disk_len().0);
        last_end = Some(extent.end());
        set.extend(extent.start().0 / granularity..extent.end().0.div_ceil(granularity));
    }
    set
}

fn touched(writes: &[(u64, u64)], granularity: u64) -> BTreeSet<u64> {
    writes.iter().flat_map(|&(at, len)| at / granularity..(at + len).div_ceil(granularity)).collect()
}

/// A folder with `disk.qcow2` of 8 MiB and bitmap `b` of 64 KiB, in which two stretches are set.
fn folder_with_bitmap() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), "create -q -f qcow2 disk.qcow2 8M");
    qemu_img(folder.path(), "bitmap --add -g 65536 disk.qcow2 b");
    qemu_io(folder.path(), "disk.qcow2", &["write 64k 4k".to_owned(), "write 3M 200k".to_owned()]);
    folder
}

/// Where the directory entry of the first bitmap lies.
fn first_entry(image: &Path) -> u64 {
    let bytes = std::fs::read(image).unwrap();
    let word = |at: usize| u32::from_be_bytes(*bytes[at..].first_chunk().unwrap());
    let mut at = word(100) as usize;
    while word(at) != 0x2385_2875 {
        at += 8 + (word(at + 4) as usize).next_multiple_of(8);
    }
    u64::from_be_bytes(*bytes[at + 24..].first_chunk().unwrap())
}

#[test]
fn what_was_written_is_what_is_set() {
    if !qemu_img_is_here() || !qemu_io_is_here() {
        return;
    }
    let mut seeded = Seeded(7);
    for (cluster, granularity, sectors) in [
        (65_536, 65_536, 100_000),
        (65_536, 512, 65_537),
        (512, 512, 20_000), // many clusters of bits
        (4096, 1 << 20, 300_001),
        (2 << 20, 4096, 1_000_003),
        (512, 1024, 1),
        (65_536, 2 << 30, 9_000_000),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let len = sectors * SECTOR;
        qemu_img(folder.path(), &format!("create -q -f qcow2 -o cluster_size={cluster} disk.qcow2 {len}"));
        qemu_io(folder.path(), "disk.qcow2", &["write 0 512".to_owned()]); // before the bitmap: not recorded
        qemu_img(folder.path(), &format!("bitmap --add -g {granularity} disk.qcow2 all"));
        qemu_img(folder.path(), "bitmap --add -g 65536 disk.qcow2 half");
        let mut writes = Vec::new();
        for round in 0..3 {
            let mut commands = Vec::new();
            for _ in 0..12 {
                let at = seeded.below(sectors);
                let longest = if seeded.below(4) == 0 { 4000 } else { 8 };
                let n = 1 + seeded.below(longest.min(sectors - at));
                let zeros = if seeded.below(3) == 0 { "-z " } else { "" };
                commands.push(format!("write {zeros}{} {}", at * SECTOR, n * SECTOR));
                writes.push((at * SECTOR, n * SECTOR));
            }
            qemu_io(folder.path(), "disk.qcow2", &commands);
            let bitmap = read(&folder, "all").unwrap();
            assert_eq!(bitmap.disk_len(), ByteLen(len));
            assert_eq!(
                granules(&bitmap),
                touched(&writes, granularity),
                "cluster {cluster}, granularity {granularity}"
            );
            if round == 0 {
                let half = granules(&read(&folder, "half").unwrap());
                assert_eq!(half, touched(&writes, 65_536));
                qemu_img(folder.path(), "bitmap --disable disk.qcow2 half");
            }
        }
        // A bitmap that does not record keeps what it had, and says that it does not record.
        let half = read(&folder, "half").unwrap();
        assert!(!half.info().recording);
        assert_eq!(granules(&half), touched(&writes[..12], 65_536));
        let listed = list_bitmaps(&open(&folder)).unwrap();
        let told: Vec<_> =
            listed.iter().map(|b| (b.name.as_str(), b.granularity.0, b.recording, b.inconsistent)).collect();
        assert_eq!(told, [("all", granularity, true, None), ("half", 65_536, false, None)]);
        assert!(
            matches!(read(&folder, "al"), Err(BitmapError::NoSuchBitmap { there, .. }) if there == ["all", "half"])
        );
    }
}

#[test]
fn merged_cleared_and_resized_bitmaps_are_read() {
    if !qemu_img_is_here() || !qemu_io_is_here() {
        return;
    }
    let folder = folder_with_bitmap();
    qemu_img(folder.path(), "bitmap --add -g 4096 disk.qcow2 other");
    qemu_img(folder.path(), "bitmap --merge b disk.qcow2 other");
    assert_eq!(
        granules(&read(&folder, "other").unwrap()),
        touched(&[(65_536, 65_536), (3 << 20, 262_144)], 4096)
    );
    qemu_img(folder.path(), "bitmap --clear disk.qcow2 b");
    assert_eq!(read(&folder, "b").unwrap().extents().count(), 0);
    qemu_img(folder.path(), "resize -q disk.qcow2 12M");
    assert_eq!(read(&folder, "b").unwrap().disk_len(), ByteLen(12 << 20));
    assert!(granules(&read(&folder, "other").unwrap()).is_superset(&touched(&[(3 << 20, 262_144)], 4096)));
}

#[test]
fn an_image_without_bitmaps_has_none() {
    if !qemu_img_is_here() {
        return;
    }
    for options in ["", "-o compat=0.10"] {
        let folder = tempfile::tempdir().unwrap();
        qemu_img(folder.path(), &format!("create -q -f qcow2 {options} disk.qcow2 8M"));
        assert_eq!(list_bitmaps(&open(&folder)).unwrap(), []);
        assert!(
            matches!(read(&folder, "b"), Err(BitmapError::NoSuchBitmap { there, .. }) if there.is_empty())
        );
    }
    let raw = Memory::new(1 << 20);
    assert!(matches!(list_bitmaps(&raw), Err(BitmapError::Unsupported { .. })));
    assert!(matches!(list_bitmaps(&Memory::new(0)), Err(BitmapError::Unsupported { .. })));
}

/// qemu-io marks the bitmap in use when it opens the image. Killed, it never writes the bitmap back.
#[test]
fn a_bitmap_whose_writer_was_killed_is_not_trusted() {
    if !qemu_img_is_here() || !qemu_io_is_here() {
        return;
    }
    let folder = folder_with_bitmap();
    let mut writer = Command::new("qemu-io")
        .arg("disk.qcow2")
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = writer.stdin.as_mut().unwrap();
    stdin.write_all(b"write 1M 64k\n").unwrap();
    stdin.flush().unwrap();
    let mut said = String::new();
    let mut stdout = BufReader::new(writer.stdout.take().unwrap());
    while !said.contains("wrote") {
        assert_ne!(stdout.read_line(&mut said).unwrap(), 0, "qemu-io ended: {said}");
    }
    let check = |when: &str| {
        let refused = read(&folder, "b").unwrap_err();
        assert!(
            matches!(&refused, BitmapError::Inconsistent { name, why: Inconsistency::InUse } if name == "b"),
            "{when}: {refused:?}"
        );
        assert_eq!(
            list_bitmaps(&open(&folder)).unwrap()[0].inconsistent,
            Some(Inconsistency::InUse),
            "{when}"
        );
    };
    check("while it is open");
    writer.kill().unwrap();
    writer.wait().unwrap();
    check("after the kill");
    // Closing it properly later does not heal what was lost.
    qemu_io(folder.path(), "disk.qcow2", &["write 2M 64k".to_owned()]);
    check("after a clean use");
}

#[test]
fn bitmaps_that_an_older_program_outdated_are_not_trusted() {
    if !qemu_img_is_here() || !qemu_io_is_here() {
        return;
    }
    let folder = folder_with_bitmap();
    let image = folder.path().join("disk.qcow2");
    patch(&image, 88, &0_u64.to_be_bytes()); // what a program does that knows no autoclear bit
    let refused = read(&folder, "b").unwrap_err();
    assert!(matches!(refused, BitmapError::Inconsistent { why: Inconsistency::Stale, .. }), "{refused}");
    assert_eq!(list_bitmaps(&open(&folder)).unwrap()[0].inconsistent, Some(Inconsistency::Stale));
}

#[test]
fn a_bitmap_of_another_size_is_told_apart() {
    if !qemu_img_is_here() || !qemu_io_is_here() {
        return;
    }
    let folder = folder_with_bitmap();
    patch(&folder.path().join("disk.qcow2"), 24, &(1_u64 << 40).to_be_bytes());
    let refused = read(&folder, "b").unwrap_err();
    assert!(matches!(refused, BitmapError::WrongSize { clusters: 1, needed: 32, .. }), "{refused:?}");
}

#[test]
fn what_cannot_be_is_called_damaged() {
    if !qemu_img_is_here() || !qemu_io_is_here() {
        return;
    }
    let folder = folder_with_bitmap();
    let image = folder.path().join("disk.qcow2");
    let sound = std::fs::read(&image).unwrap();
    let entry = first_entry(&image);
    let table = u64::from_be_bytes(*sound[usize::try_from(entry).unwrap()..].first_chunk().unwrap());
    let cases: [(&str, u64, &[u8]); 14] = [
        ("table not at the start of a cluster", entry, &(table + 8).to_be_bytes()),
        ("table behind the end of the file", entry, &(1_u64 << 40).to_be_bytes()),
        ("table at the end of u64", entry, &(!0xffff_u64).to_be_bytes()),
        ("no table", entry + 8, &0_u32.to_be_bytes()),
        ("a table of 2^32 entries", entry + 8, &u32::MAX.to_be_bytes()),
        ("reserved flags", entry + 12, &10_u32.to_be_bytes()),
        ("unknown type", entry + 16, &[2]),
        ("granularity of 256", entry + 17, &[8]),
        ("granularity of 2^255", entry + 17, &[255]),
        ("no name", entry + 18, &0_u16.to_be_bytes()),
        ("name past the directory", entry + 18, &900_u16.to_be_bytes()),
        ("extra data past the directory", entry + 20, &u32::MAX.to_be_bytes()),
        ("bits not at the start of a cluster", table, &(table + 512).to_be_bytes()),
        ("bits behind the end of the file", table, &(1_u64 << 50).to_be_bytes()),
    ];
    for (what, at, bytes) in cases {
        std::fs::write(&image, &sound).unwrap();
        patch(&image, at, bytes);
        let refused = read(&folder, "b");
        assert!(matches!(refused, Err(BitmapError::Damaged { .. })), "{what}: {refused:?}");
    }
    for reserved in [2_u64, 1 << 56, 1 << 63, (table & !1) | 1] {
        std::fs::write(&image, &sound).unwrap();
        patch(&image, table, &reserved.to_be_bytes());
        assert!(matches!(read(&folder, "b"), Err(BitmapError::Damaged { .. })), "{reserved:#x}");
    }
    // Of a cluster that the table calls all ones, the bits behind the end of the disk do not count.
    std::fs::write(&image, &sound).unwrap();
    patch(&image, table, &1_u64.to_be_bytes());
    assert_eq!(granules(&read(&folder, "b").unwrap()), (0..128).collect());
}

/// No byte of the metadata, whatever it becomes, makes reading panic or allocate beyond the bound.
#[test]
fn no_changed_byte_is_fatal() {
    if !qemu_img_is_here() || !qemu_io_is_here() {
        return;
    }
    let folder = folder_with_bitmap();
    let image = folder.path().join("disk.qcow2");
    let entry = first_entry(&image);
    let mut head = [0; 32];
    let file = File::options().read(true).open(&image).unwrap();
    file.read_exact_at(&mut head, entry).unwrap();
    let table = u64::from_be_bytes(*head.first_chunk().unwrap());
    let disk = Memory::from(std::fs::read(&image).unwrap());
    let metadata = (0..112).chain(496..560).chain(entry..entry + 32).chain(table..table + 8);
    let mut byte = [0];
    for at in metadata {
        disk.read_at(ByteOffset(at), &mut byte).unwrap();
        for other in [0, 1, 0x7f, 0x80, 0xff, byte[0] ^ 2] {
            vmkeep_disk::BlockWrite::write_at(&disk, ByteOffset(at), &[other]).unwrap();
            if let Ok(bitmap) = read_bitmap(&disk, "b") {
                granules(&bitmap);
            }
        }
        vmkeep_disk::BlockWrite::write_at(&disk, ByteOffset(at), &byte).unwrap();
    }
    for len in 0..600 {
        let cut = Memory::from(disk.to_vec()[..len].to_vec());
        assert!(read_bitmap(&cut, "b").is_err());
    }
}
