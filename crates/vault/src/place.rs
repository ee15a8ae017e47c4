//! Where stored bytes lie: packs, places within them, and references that carry a birth.
//!
//! Two identities run through a vault and nothing converts one into the other. [`ContentHash`] answers "is it the
//! same data": an increment, a diff and a restore ask it. [`StorageId`] answers "is it the same stored bytes":
//! deletion, metering and the sweep ask it. Two clones have equal content hashes and different storage ids; freeing
//! by content would take away what only one of them may lose.
//!
//! [`ContentHash`]: vmkeep_model::ContentHash

use std::fmt;

use vmkeep_envelope::PackName;
use vmkeep_model::{LineageId, PointNumber, SessionId};

/// Where a pack lies in the vault: all that its object name is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackPlace {
    /// The lineage it belongs to; `None` for the lineage of the disk whose map names it.
    pub lineage: Option<LineageId>,
    /// The session that wrote it.
    pub session: SessionId,
    /// Its name.
    pub name: PackName,
}

impl fmt::Display for PackPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(lineage) = self.lineage {
            write!(f, "{lineage}/")?;
        }
        write!(f, "{}/{}", self.session, self.name)
    }
}

/// Storage identity: which stored bytes, by the pack they were born in.
///
/// It stays the same when a sweep moves the slot to another pack. What `index` counts depends on the slot: whole
/// blocks, pages or nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorageId {
    /// The pack the bytes were born in.
    pub pack: PackPlace,
    /// The slot within that pack.
    pub slot: u32,
    /// The block, first page or node within that slot.
    pub index: u32,
}

impl fmt::Display for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.pack, self.slot, self.index)
    }
}

/// A reference to stored bytes, with the point that first held it.
///
/// The birth is what makes deletion cheap: a reference born at or before the kept point i is never looked at when a
/// point after i is collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Which stored bytes.
    pub at: StorageId,
    /// The number of the point that first held this reference.
    pub birth: PointNumber,
}
