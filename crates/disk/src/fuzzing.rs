//! Entry points for a fuzzer: readers of files that others wrote, as plain functions that must never panic.
//!
//! `fuzz/` runs each, and the test `fuzz_corpora` replays what was found.

use vmkeep_model::ByteOffset;

use crate::{Memory, list_bitmaps, read_bitmap};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 1] = [("qcow2_bitmaps", qcow2_bitmaps)];

/// Most extents that are looked at.
const EXTENTS_MAX: usize = 10_000;

/// The dirty bitmaps of a qcow2 image: what is listed is read or refused with a reason, and what is read lies in order
/// and on the disk.
pub fn qcow2_bitmaps(data: &[u8]) {
    let image = Memory::from(data.to_vec());
    for info in list_bitmaps(&image).unwrap_or_default() {
        match read_bitmap(&image, &info.name) {
            Ok(bitmap) => {
                assert!(info.inconsistent.is_none(), "an inconsistent bitmap was read");
                let mut end = None;
                for extent in bitmap.extents().take(EXTENTS_MAX) {
                    assert!(!extent.is_empty() && extent.end().0 <= bitmap.disk_len().0, "{extent}");
                    assert!(end.is_none_or(|end: ByteOffset| end < extent.start()), "{extent}");
                    end = Some(extent.end());
                }
            }
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
}
