//! What records hold, as stored (FORMAT.md sections 8 and 9).
//!
//! These types are the stored ones: they derive serde and nothing outside this crate sees them. A field never
//! changes meaning; a new need is a new section or a new record kind.

mod codec;
mod destroyed;
mod footer;
mod point;
mod rotation;
mod thinned;
mod upkeep;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use codec::FormatError;
pub(crate) use codec::{decode_exact, encode};
pub(crate) use destroyed::DestroyedBody;
pub(crate) use footer::{FooterBody, FooterSlot, Origin, SlotBirth};
pub(crate) use point::{
    ChangesBody, DiskBody, DiskKeysBody, EncryptionBody, JobBody, PlaceBody, PointBody, PointHead, RootBody,
    SNAPSHOT_MAX, StoredBody, TrackingBody,
};
pub(crate) use rotation::RotationBody;
pub(crate) use thinned::{Part, Thinned, Unit};
pub(crate) use upkeep::{
    DOOMED, DeadPackBody, FORGOTTEN, HELD, InheritedBody, MarkBody, MovedBody, MovedSlotBody, PIN_REASON_MAX,
    PLAN_PARTS_MAX, PackBody, PinBody, PlanBody, RepackBody, TAKEN, WornBody,
};

/// A kind of sealed record; the number is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum RecordKind {
    Vault = 1,
    Name = 2,
    Point = 3,
    Void = 4,
    Closed = 5,
    Head = 6,
    Retired = 7,
    Session = 8,
    Forget = 9,
    Journal = 10,
    Mark = 11,
    Pin = 12,
    Plan = 13,
    Inherited = 14,
    Moved = 15,
    Worn = 16,
    Repack = 17,
    Destroyed = 18,
    CapturedKeys = 19,
    Entry = 20,
    Checkpoint = 21,
    Rotation = 22,
}

impl RecordKind {
    pub(crate) fn number(self) -> u8 {
        self as u8
    }
}

/// The body of a record that is one encoded value.
pub(crate) trait Body: Serialize + DeserializeOwned {
    const KIND: RecordKind;

    /// What the type alone does not say.
    fn check(&self) -> Result<(), FormatError> {
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VaultBody {
    pub(crate) vault: [u8; 16],
    pub(crate) created: i64,
}

impl Body for VaultBody {
    const KIND: RecordKind = RecordKind::Vault;
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameBody {
    pub(crate) vm: String,
    pub(crate) generation: u32,
    pub(crate) lineage: [u8; 16],
    pub(crate) domain: [u8; 16],
}

impl Body for NameBody {
    const KIND: RecordKind = RecordKind::Name;

    fn check(&self) -> Result<(), FormatError> {
        if self.domain == [0; 16] {
            return Err(FormatError("a VM's key domain is the vault's own".to_owned()));
        }
        self.vm.parse::<vmkeep_model::VmName>().map(drop).map_err(|e| FormatError(e.to_string()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct VoidBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) number: u64,
    pub(crate) session: [u8; 16],
    pub(crate) at: i64,
}

impl Body for VoidBody {
    const KIND: RecordKind = RecordKind::Void;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ClosedBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) number: u64,
    pub(crate) at: i64,
}

impl Body for ClosedBody {
    const KIND: RecordKind = RecordKind::Closed;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct HeadBody {
    pub(crate) newest: u64,
    pub(crate) retired: u64,
}

impl Body for HeadBody {
    const KIND: RecordKind = RecordKind::Head;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct RetiredBody {
    pub(crate) k: u64,
    /// First and last number of each range, ascending, apart.
    pub(crate) ranges: Vec<(u64, u64)>,
    pub(crate) newest: u64,
}

impl Body for RetiredBody {
    const KIND: RecordKind = RecordKind::Retired;

    fn check(&self) -> Result<(), FormatError> {
        let sorted = self.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if !sorted || self.ranges.iter().any(|&(first, last)| first == 0 || first > last) {
            return Err(FormatError("ranges of retired numbers are not ascending".to_owned()));
        }
        if self.ranges.last().is_some_and(|&(_, last)| last >= self.newest) {
            return Err(FormatError("the newest committed number is retired".to_owned()));
        }
        Ok(())
    }
}

impl RetiredBody {
    /// Whether `number` no longer counts.
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.ranges.iter().any(|&(first, last)| (first..=last).contains(&number))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SessionBody {
    pub(crate) session: [u8; 16],
    pub(crate) lineage: [u8; 16],
    pub(crate) domain: [u8; 16],
    /// 0 when there is none.
    pub(crate) base: u64,
    pub(crate) target: u64,
    pub(crate) opened: i64,
    pub(crate) adopted: Option<[u8; 16]>,
}

impl Body for SessionBody {
    const KIND: RecordKind = RecordKind::Session;

    fn check(&self) -> Result<(), FormatError> {
        if self.base < self.target {
            return Ok(());
        }
        Err(FormatError(format!("a session on base {} targets {}", self.base, self.target)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ForgetBody {
    pub(crate) lineage: [u8; 16],
    pub(crate) number: u64,
    pub(crate) at: i64,
}

impl Body for ForgetBody {
    const KIND: RecordKind = RecordKind::Forget;
}

/// An entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryBody {
    pub(crate) stream: [u8; 16],
    pub(crate) n: u64,
    /// BLAKE3 of the whole object of the entry before; zeros for the first.
    pub(crate) before: [u8; 32],
    pub(crate) at: i64,
    /// Who did it.
    pub(crate) by: String,
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl Body for EntryBody {
    const KIND: RecordKind = RecordKind::Entry;

    fn check(&self) -> Result<(), FormatError> {
        self.by.parse::<vmkeep_model::Principal>().map(drop).map_err(|e| FormatError(e.to_string()))
    }
}

/// How far a reader has seen the vault: kept by the reader, outside of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointBody {
    pub(crate) vault: [u8; 16],
    pub(crate) at: i64,
    /// Of each journal stream, ascending: the newest entry, and BLAKE3 of its whole object.
    pub(crate) heads: Vec<([u8; 16], u64, [u8; 32])>,
    /// Of each lineage, ascending: the newest number taken.
    pub(crate) tops: Vec<([u8; 16], u64)>,
}

impl Body for CheckpointBody {
    const KIND: RecordKind = RecordKind::Checkpoint;

    fn check(&self) -> Result<(), FormatError> {
        let heads = self.heads.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let tops = self.tops.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if heads && tops && self.heads.iter().all(|(_, n, _)| *n > 0) {
            return Ok(());
        }
        Err(FormatError("streams or lineages of a checkpoint do not ascend, or are empty".to_owned()))
    }
}

/// An entry as it was written before entries said who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JournalBody {
    pub(crate) stream: [u8; 16],
    pub(crate) n: u64,
    /// BLAKE3 of the whole object of the entry before; zeros for the first.
    pub(crate) before: [u8; 32],
    pub(crate) at: i64,
    pub(crate) kind: u16,
    pub(crate) body: Vec<u8>,
}

impl Body for JournalBody {
    const KIND: RecordKind = RecordKind::Journal;
}

/// The value that all of `bytes` are, checked.
pub(crate) fn decode_body<T: Body>(bytes: &[u8]) -> Result<T, FormatError> {
    let body: T = decode_exact(bytes)?;
    body.check()?;
    Ok(body)
}
