//! What happened to a protected instance, as far as its bill is concerned.
//!
//! Events are values: whoever runs the walks writes them down as they happen, in order, and hands them in again to be
//! rated. The same events give the same bill, whenever they are replayed.

use std::fmt;

use vmkeep_model::{DiskRole, LineageId, Timestamp};

/// Where bytes of recovery points are kept. Each has a price of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Snapshots beside the VM's disks.
    Snapshot,
    /// The vault.
    Vault,
    /// The archive, where a shortest stay may be charged.
    Archive,
}

impl Tier {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Snapshot, Self::Vault, Self::Archive];

    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Vault => "vault",
            Self::Archive => "archive",
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Snapshot => 0,
            Self::Vault => 1,
            Self::Archive => 2,
        }
    }
}

/// How a recovery point was taken; without an agent in the guest, a book may charge less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agent {
    /// With the help of the guest, or of a VM that is off.
    #[default]
    Used,
    /// From outside, crash-consistent by policy.
    Agentless,
}

/// Whether a disk is in the recovery point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// It is.
    Included,
    /// It was left out by the user's selection.
    Excluded,
}

/// One disk as a backup found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSize {
    /// What the disk is for. A temporary disk is never counted.
    pub role: DiskRole,
    /// Whether it is in the point.
    pub selection: Selection,
    /// Bytes of its blocks that are not zero; `None` when nobody looked.
    pub nonzero_bytes: Option<u64>,
    /// Bytes that its file systems say are in use; `None` when they were not read.
    pub filesystem_bytes: Option<u64>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Protection was configured, or resumed. Costs nothing until a backup succeeds.
    Protected,
    /// A backup succeeded. The first of them starts the bill.
    Backup {
        /// Every disk of the VM.
        disks: Vec<DiskSize>,
        /// How it was taken.
        agent: Agent,
    },
    /// Bytes came to a tier.
    Stored {
        /// Where.
        tier: Tier,
        /// How many.
        bytes: u64,
    },
    /// Bytes left a tier for good: points expired, or were deleted without a way back.
    Removed {
        /// Where.
        tier: Tier,
        /// How many.
        bytes: u64,
        /// Since when they were there; decides the shortest stay in the archive.
        since: Timestamp,
    },
    /// Bytes went to another tier; the copy may be larger or smaller.
    Moved {
        /// From where.
        from: Tier,
        /// How many left it.
        bytes: u64,
        /// Since when they were there.
        since: Timestamp,
        /// To where.
        to: Tier,
        /// How many arrived.
        bytes_there: u64,
    },
    /// Bytes are kept only so that a deletion can be taken back.
    SoftDeleted {
        /// Where they stay.
        tier: Tier,
        /// How many.
        bytes: u64,
        /// When they will go.
        purge_at: Timestamp,
    },
    /// Soft-deleted bytes came back to life.
    Undeleted {
        /// Where.
        tier: Tier,
        /// How many.
        bytes: u64,
        /// When they were soft-deleted.
        deleted_at: Timestamp,
        /// When they would have gone, as said then.
        purge_at: Timestamp,
    },
    /// Soft-deleted bytes went for good.
    Purged {
        /// Where.
        tier: Tier,
        /// How many.
        bytes: u64,
        /// Since when they were in the tier; decides the shortest stay in the archive.
        since: Timestamp,
        /// When they were soft-deleted.
        deleted_at: Timestamp,
        /// When they were to go, as said then.
        purge_at: Timestamp,
    },
    /// Something was restored. Costs nothing, and is on record.
    Restored {
        /// How many bytes.
        bytes: u64,
    },
    /// Protection was stopped; what is stored stays and goes on costing.
    Stopped,
}

impl EventKind {
    /// Its name in documents and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Protected => "protected",
            Self::Backup { .. } => "backup",
            Self::Stored { .. } => "stored",
            Self::Removed { .. } => "removed",
            Self::Moved { .. } => "moved",
            Self::SoftDeleted { .. } => "soft-deleted",
            Self::Undeleted { .. } => "undeleted",
            Self::Purged { .. } => "purged",
            Self::Restored { .. } => "restored",
            Self::Stopped => "stopped",
        }
    }
}

/// One thing that happened to one protected instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of which instance.
    pub instance: LineageId,
    /// Its place among the events of the instance: grows from one to the next.
    pub number: u64,
    /// When, by the clock of who wrote it down. A clock that went back counts as having stood still.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
}

impl Event {
    /// Which event this is, for messages and for the evidence of a line.
    pub fn id(&self) -> EventId {
        EventId { instance: self.instance, number: self.number }
    }
}

/// Names one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Of which instance.
    pub instance: LineageId,
    /// Its number there.
    pub number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.instance, self.number)
    }
}
