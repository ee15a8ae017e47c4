//! Entry points for a fuzzer: readers of bytes that others wrote, as plain functions that must never panic.
//!
//! `fuzz/` runs each, and the test `fuzz_corpora` replays what was found.

use vmkeep_model::{ByteLen, ByteOffset};

use crate::{ChangeSource, DirtyBitmap, ExtentList};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 2] = [("dirty_bitmap", dirty_bitmap), ("extent_list", extent_list)];

/// Most extents that are looked at.
const EXTENTS_MAX: usize = 10_000;

/// A stored dirty bitmap, with and without the checksum that keeps most of the others out: what is read is written
/// back as the same bytes.
pub fn dirty_bitmap(data: &[u8]) {
    for bytes in [data.to_vec(), sealed(data)] {
        if let Ok(bitmap) = DirtyBitmap::decode(&bytes) {
            assert_eq!(bitmap.encode(), bytes);
            walk(&bitmap, bitmap.disk_len());
        }
    }
}

/// The checksum put behind `data`.
fn sealed(data: &[u8]) -> Vec<u8> {
    [data, &xxhash_rust::xxh3::xxh3_64(data).to_le_bytes()].concat()
}

/// A list of extents in JSON, about disks of several sizes.
pub fn extent_list(data: &[u8]) {
    for disk_len in [0, 1000, 8 << 20, u64::MAX].map(ByteLen) {
        if let Ok(list) = ExtentList::from_json(data, disk_len) {
            walk(&list, disk_len);
        }
    }
}

/// Extents come in order, not empty and on the disk.
fn walk(source: &dyn ChangeSource, disk_len: ByteLen) {
    let mut from = ByteOffset(0);
    for _ in 0..EXTENTS_MAX {
        let Ok(Some(extent)) = source.next_changed(from) else { return };
        assert!(!extent.is_empty() && extent.start() >= from && extent.end().0 <= disk_len.0, "{extent}");
        from = extent.end();
    }
}
