//! The bitmap directory: one entry per bitmap, one after another, each padded to 8 bytes.
//!
//! ```text
//!   0 table offset, at the start of a cluster     17 log2 of the granularity
//!   8 table entries                               18 bytes of the name
//!  12 flags                                       20 bytes of extra data
//!  16 type, 1: dirty tracking                     24 extra data, then the name
//! ```

use std::collections::HashSet;

use super::error::damaged;
use super::locate::{Image, Place};
use super::{BITMAP_BYTES_MAX, BitmapError, Inconsistency};

const FIXED_LEN: usize = 24;
const IN_USE: u32 = 1;
const AUTO: u32 = 1 << 1;
const EXTRA_DATA_COMPATIBLE: u32 = 1 << 2;
const FLAGS_KNOWN: u32 = IN_USE | AUTO | EXTRA_DATA_COMPATIBLE;
const DIRTY_TRACKING: u8 = 1;
const NAME_LEN_MAX: usize = 1023;

/// The bitmaps of an image.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    pub(super) stale: bool,
}

/// One of them; its table is not yet checked against the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) table_offset: u64,
    pub(super) table_entries: u32,
    pub(super) granularity_bits: u8,
    flags: u32,
    has_extra_data: bool,
}

impl Directory {
    pub(super) fn read(image: &Image<'_>, place: &Place) -> Result<Self, BitmapError> {
        let bytes = image.bytes(place.offset, place.len, "the bitmap directory")?;
        let mut rest = bytes.as_slice();
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..place.count {
            let (entry, name, after) = Entry::parse(rest).ok_or_else(|| {
                damaged(format!("entry {} of the bitmap directory was cut short", entries.len()))
            })?;
            if name.is_empty() || name.len() > NAME_LEN_MAX {
                return Err(damaged(format!("a bitmap name of {} bytes cannot be", name.len())));
            }
            entry.check(image)?;
            if !names.insert(name) {
                return Err(damaged(format!("there are two bitmaps {:?}", entry.name)));
            }
            entries.push(entry);
            rest = after;
        }
        if !rest.is_empty() {
            return Err(damaged(format!(
                "{} bytes follow the last entry of the bitmap directory",
                rest.len()
            )));
        }
        Ok(Self { entries, stale: place.stale })
    }
}

impl Entry {
    /// The first entry of `bytes`, its name as it stands there, and what follows; `None` when it was cut short.
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let fixed: &[u8; FIXED_LEN] = bytes.first_chunk()?;
        let u32_at = |at: usize| Some(u32::from_be_bytes(*fixed[at..].first_chunk()?));
        let extra_len = usize::try_from(u32_at(20)?).ok()?;
        let name_len = usize::from(u16::from_be_bytes([fixed[18], fixed[19]]));
        let name_start = FIXED_LEN.checked_add(extra_len)?;
        let end = name_start.checked_add(name_len)?;
        let name = bytes.get(name_start..end)?;
        let after = bytes.get(end.checked_next_multiple_of(8)?..)?;
        let entry = Self {
            name: String::from_utf8_lossy(name).into_owned(),
            table_offset: u64::from_be_bytes(*fixed.first_chunk()?),
            table_entries: u32_at(8)?,
            granularity_bits: if fixed[16] == DIRTY_TRACKING { fixed[17] } else { u8::MAX },
            flags: u32_at(12)?,
            has_extra_data: extra_len > 0,
        };
        Some((entry, name, after))
    }

    /// What QEMU demands of an entry before it looks at its table.
    fn check(&self, image: &Image<'_>) -> Result<(), BitmapError> {
        let name = &self.name;
        if !(9..=31).contains(&self.granularity_bits) {
            return Err(damaged(format!("bitmap {name:?} is of an unknown type or granularity")));
        }
        if self.flags & !FLAGS_KNOWN != 0 {
            return Err(damaged(format!("bitmap {name:?} has unknown flags ({:#x})", self.flags)));
        }
        let bytes = u64::from(self.table_entries) << image.cluster_bits;
        if self.table_entries == 0 || bytes > BITMAP_BYTES_MAX {
            return Err(damaged(format!("bitmap {name:?} has {} clusters of bits", self.table_entries)));
        }
        if self.table_offset == 0 || !self.table_offset.is_multiple_of(image.cluster_len()) {
            let reason = format!(
                "the table of bitmap {name:?} at {} is not at the start of a cluster",
                self.table_offset
            );
            return Err(damaged(reason));
        }
        Ok(())
    }

    pub(super) fn recording(&self) -> bool {
        self.flags & AUTO != 0
    }

    pub(super) fn inconsistency(&self) -> Option<Inconsistency> {
        if self.flags & IN_USE != 0 {
            Some(Inconsistency::InUse)
        } else if self.has_extra_data && self.flags & EXTRA_DATA_COMPATIBLE == 0 {
            Some(Inconsistency::UnknownData)
        } else {
            None
        }
    }
}
