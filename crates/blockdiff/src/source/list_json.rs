//! Reading lists of extents that other programs printed; the rules are in the documentation of [`ExtentList`].

use std::fmt;
use std::io::Read;
use std::num::NonZeroU32;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use thiserror::Error;
use vmkeep_model::{ByteLen, ByteOffset, Extent, ExtentSet};

use super::ExtentList;

/// Longest list that is read: 256 MiB, some two million entries of `qemu-img map`. Past the bound it is refused.
pub const LIST_BYTES_MAX: u64 = 256 << 20;

const SECTOR: u64 = 512;

/// Why a list of extents cannot be used. Entries are counted from 0.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExtentListError {
    /// It is longer than [`LIST_BYTES_MAX`].
    #[error("the list is longer than {LIST_BYTES_MAX} bytes")]
    TooLong,
    /// It could not be read.
    #[error("cannot read the list")]
    Read(#[source] std::io::Error),
    /// It is not a JSON array of objects, or a number is negative, broken or past 64 bits.
    #[error("the list is not what it should be")]
    Json(#[source] serde_json::Error),
    /// The entry has not the fields of any form that is known.
    #[error(
        "entry {entry} is of no known form: it needs offset and length, or what qemu-img map or nbdinfo --map print"
    )]
    UnknownForm {
        /// Number of the entry.
        entry: usize,
    },
    /// The entry has a type whose meaning is not given.
    #[error("entry {entry} has type {kind}, and its description does not say what that means")]
    UnknownType {
        /// Number of the entry.
        entry: usize,
        /// The type.
        kind: u64,
    },
    /// The entry is of another form than the first.
    #[error("entry {entry} is of another form than the ones before")]
    MixedForms {
        /// Number of the entry.
        entry: usize,
    },
    /// The entry passes the end of what 64 bits can count.
    #[error("entry {entry} of {length} bytes at {start} passes 2^64")]
    Overflow {
        /// Number of the entry.
        entry: usize,
        /// Where it starts.
        start: ByteOffset,
        /// How long it says it is.
        length: ByteLen,
    },
    /// The entry passes the end of the disk.
    #[error("entry {entry} ends at {end}, behind the end of the disk ({disk_len} bytes)")]
    PastEnd {
        /// Number of the entry.
        entry: usize,
        /// Where it ends.
        end: ByteOffset,
        /// Size of the disk.
        disk_len: ByteLen,
    },
    /// The entry starts before the one before it.
    #[error("entry {entry} starts at {start}, before the one before it")]
    NotAscending {
        /// Number of the entry.
        entry: usize,
        /// Where it starts.
        start: ByteOffset,
    },
    /// A listing of a whole disk says nothing about what lies before the entry, or says it twice.
    #[error("entry {entry} starts at {start} and not at {expected}: the listing is not of the whole disk")]
    Gap {
        /// Number of the entry.
        entry: usize,
        /// Where it should start.
        expected: ByteOffset,
        /// Where it starts.
        start: ByteOffset,
    },
    /// A listing of a whole disk ends before the disk does.
    #[error("the listing is about {end} bytes, and the disk has {disk_len}")]
    WrongSize {
        /// Where the listing ends.
        end: ByteOffset,
        /// Size of the disk.
        disk_len: ByteLen,
    },
}

impl ExtentList {
    /// Reads a list about a disk of `disk_len` bytes in any of [the forms](ExtentList#forms) that are known; its
    /// fields say which it is. Of a
    /// backing chain, what the top image holds may have changed.
    ///
    /// An empty list is one of the last form and says that nothing changed. Extents that overlap or touch become
    /// one.
    ///
    /// ```
    /// use vmkeep_blockdiff::ExtentList;
    /// use vmkeep_model::{ByteLen, ByteOffset, Extent};
    ///
    /// let list = ExtentList::from_json(
    ///     br#"[{"start": 0, "length": 65536, "depth": 1, "zero": false, "data": true},
    ///          {"start": 65536, "length": 65536, "depth": 0, "zero": true, "data": false}]"#,
    ///     ByteLen(131_072),
    /// )?;
    /// assert_eq!(list.extents().as_slice(), [Extent::new(ByteOffset(65_536), ByteLen(65_536))]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_json(json: &[u8], disk_len: ByteLen) -> Result<Self, ExtentListError> {
        Self::from_json_above(json, disk_len, NonZeroU32::MIN)
    }

    /// The same where the base lies `images` images below the top of the chain: what any of the top `images` images
    /// holds may have changed.
    pub fn from_json_above(
        json: &[u8],
        disk_len: ByteLen,
        images: NonZeroU32,
    ) -> Result<Self, ExtentListError> {
        if json.len() as u64 > LIST_BYTES_MAX {
            return Err(ExtentListError::TooLong);
        }
        let mut list = Listing::new(disk_len, images);
        let mut json = serde_json::Deserializer::from_slice(json);
        let parsed = (&mut list).deserialize(&mut json).and_then(|()| json.end());
        match (list.refused.take(), parsed) {
            (Some(refused), _) => Err(refused),
            (None, Err(e)) => Err(ExtentListError::Json(e)),
            (None, Ok(())) => list.finish(),
        }
    }

    /// [`from_json`](Self::from_json) of all that `reader` gives, but never more than [`LIST_BYTES_MAX`].
    pub fn read_json(reader: impl Read, disk_len: ByteLen) -> Result<Self, ExtentListError> {
        let mut json = Vec::new();
        reader.take(LIST_BYTES_MAX + 1).read_to_end(&mut json).map_err(ExtentListError::Read)?;
        Self::from_json(&json, disk_len)
    }
}

/// Every field that tells a form or what changed; others are ignored.
#[derive(Deserialize)]
struct Entry {
    start: Option<u64>,
    /// In `qemu-img map`, where the data lies in the image file.
    offset: Option<u64>,
    length: Option<u64>,
    depth: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<u64>,
    description: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    QemuImgMap,
    DirtyBitmap,
    AllocationDepth,
    Allocation,
    Plain,
}

/// A list while it is read.
struct Listing {
    disk_len: ByteLen,
    images: u64,
    form: Option<Form>,
    entries: usize,
    last_start: u64,
    /// Where a listing of a whole disk goes on.
    end: u64,
    changed: ExtentSet,
    refused: Option<ExtentListError>,
}

impl Listing {
    fn new(disk_len: ByteLen, images: NonZeroU32) -> Self {
        Self {
            disk_len,
            images: u64::from(images.get()),
            form: None,
            entries: 0,
            last_start: 0,
            end: 0,
            changed: ExtentSet::new(),
            refused: None,
        }
    }

    fn push(&mut self, parsed: &Entry) -> Result<(), ExtentListError> {
        let entry = self.entries;
        self.entries += 1;
        let (form, changed) = self.form_of(parsed, entry)?;
        if *self.form.get_or_insert(form) != form {
            return Err(ExtentListError::MixedForms { entry });
        }
        let start = if form == Form::QemuImgMap { parsed.start } else { parsed.offset };
        let (Some(start), Some(length)) = (start, parsed.length) else {
            return Err(ExtentListError::UnknownForm { entry });
        };
        let Some(end) = start.checked_add(length) else {
            return Err(ExtentListError::Overflow {
                entry,
                start: ByteOffset(start),
                length: ByteLen(length),
            });
        };
        let disk_len = self.disk_len;
        if start < self.last_start {
            return Err(ExtentListError::NotAscending { entry, start: ByteOffset(start) });
        }
        let mut end_max = disk_len.0;
        if form != Form::Plain {
            if start != self.end {
                let expected = ByteOffset(self.end);
                return Err(ExtentListError::Gap { entry, expected, start: ByteOffset(start) });
            }
            end_max = end_max.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX);
        }
        if end > end_max {
            return Err(ExtentListError::PastEnd { entry, end: ByteOffset(end), disk_len });
        }
        (self.last_start, self.end) = (start, end);
        if changed {
            self.changed.insert(Extent::between(ByteOffset(start), ByteOffset(end.min(disk_len.0))));
        }
        Ok(())
    }

    /// Of which form an entry is, and whether what it lists may have changed.
    fn form_of(&self, parsed: &Entry, entry: usize) -> Result<(Form, bool), ExtentListError> {
        if parsed.start.is_some() {
            // Without a depth there is no chain.
            return Ok((Form::QemuImgMap, parsed.depth.unwrap_or(0) < self.images));
        }
        let Some(kind) = parsed.kind else {
            // A description belongs to a type.
            let plain = parsed.description.is_none() && parsed.depth.is_none();
            return if plain { Ok((Form::Plain, true)) } else { Err(ExtentListError::UnknownForm { entry }) };
        };
        match (kind, parsed.description.as_deref().unwrap_or("")) {
            (0, "clean") => Ok((Form::DirtyBitmap, false)),
            (1, "dirty") => Ok((Form::DirtyBitmap, true)),
            // "unallocated" in early versions of nbdinfo
            (0, "absent" | "unallocated") => Ok((Form::AllocationDepth, false)),
            (1, "local") => Ok((Form::AllocationDepth, true)),
            (2.., text) if text.starts_with("backing depth ") => {
                Ok((Form::AllocationDepth, kind <= self.images))
            }
            (0, "data") | (1, "hole") | (2, "zero") | (3, "hole,zero") => Ok((Form::Allocation, true)),
            _ => Err(ExtentListError::UnknownType { entry, kind }),
        }
    }

    fn finish(self) -> Result<ExtentList, ExtentListError> {
        if self.form.is_some_and(|form| form != Form::Plain) && self.end < self.disk_len.0 {
            return Err(ExtentListError::WrongSize { end: ByteOffset(self.end), disk_len: self.disk_len });
        }
        ExtentList::new(self.changed, self.disk_len)
    }
}

/// Entries are looked at one by one as they are parsed: memory goes with what changed, not with the listing.
impl<'de> DeserializeSeed<'de> for &mut Listing {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Listing {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of extents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(entry) = entries.next_element::<Entry>()? {
            if let Err(refused) = self.push(&entry) {
                self.refused = Some(refused);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}
