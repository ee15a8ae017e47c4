//! A recovery point, as everyone but the vault's format sees it.

use std::fmt;

use crate::{
    BlockSize, ByteLen, ContentHash, DiskDescription, Labels, LineageId, PointNumber, SessionId, Timestamp,
    VmName,
};

/// How consistent the data of a point is, from least to most.
///
/// After Azure's three levels: application, file system, crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConsistencyLevel {
    /// As after a power cut: what was flushed is there.
    Crash,
    /// File systems were quiesced: no file is lost, applications may have to recover.
    FileSystem,
    /// Applications took part: no recovery is needed.
    Application,
}

impl fmt::Display for ConsistencyLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crash => "crash",
            Self::FileSystem => "file-system",
            Self::Application => "application",
        })
    }
}

/// What tells which parts of a disk may have changed since a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ChangeMethod {
    /// Nothing: the whole disk is read.
    FullScan,
    /// A bitmap in which every write was recorded.
    DirtyBitmap,
    /// A list of extents made by a program that knows.
    ExtentList,
    /// The block status of an NBD export.
    BlockStatus,
}

impl fmt::Display for ChangeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FullScan => "full scan",
            Self::DirtyBitmap => "dirty bitmap",
            Self::ExtentList => "extent list",
            Self::BlockStatus => "block status",
        })
    }
}

/// How it was found out what had changed on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeProvenance {
    /// First backup of the disk: everything that was not a hole was read and stored.
    Full,
    /// Everything that was not a hole was read and compared with the point before by keyed hash.
    Scan,
    /// What change tracking named was read and compared, and of the rest a sample.
    Tracked,
}

impl fmt::Display for ChangeProvenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Scan => "scan",
            Self::Tracked => "tracked",
        })
    }
}

/// What a point rests on when change tracking was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tracking {
    /// What told the changes.
    pub method: ChangeMethod,
    /// The smallest stretch it tells apart, in bytes.
    pub granularity: ByteLen,
    /// Blocks it called unchanged that were read all the same, and were.
    pub audited: u64,
    /// The newest point at which every block had been read since the one it is compared with: points up to it need not
    /// trust the tracking.
    pub whole_at: PointNumber,
    /// Of the windows that cover the disk one after another, so many were read since the last round was whole.
    pub windows_done: u32,
    /// How many windows cover the disk.
    pub windows: u32,
    /// The point before which the first of these windows was read.
    pub round_from: PointNumber,
}

/// Which point of which lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId {
    /// The line of points.
    pub lineage: LineageId,
    /// Its number on that line.
    pub number: PointNumber,
}

/// What the file systems of a disk said they use, when a point was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedBytes {
    /// How much.
    pub bytes: ByteLen,
    /// How that was found, in words.
    pub method: String,
}

/// What a point holds of a disk whose content is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredDisk {
    /// Block size, fixed at the disk's first backup.
    pub block_size: BlockSize,
    /// Identity of the whole content; `None` when every byte is zero.
    pub content: Option<ContentHash>,
    /// Bytes in blocks that are not all zero.
    pub allocated: ByteLen,
    /// Bytes in the blocks whose data this point stored.
    pub changed: ByteLen,
    /// Bytes in the blocks that became zero since the point before.
    pub zeroed: ByteLen,
    /// How the changes were found.
    pub provenance: ChangeProvenance,
    /// What it rests on when change tracking was believed.
    pub tracking: Option<Tracking>,
    /// Why change tracking was there and was not believed.
    pub fallback: Option<String>,
    /// Of the changed blocks, those of which only pages were stored.
    pub patched_blocks: u64,
    /// The pages that were stored of them.
    pub patched_pages: u64,
    /// What its file systems said they use; `None` when that was not measured.
    pub used: Option<UsedBytes>,
}

/// Where the keys of a disk were that its guest encrypts, when a point was made. Not secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestEncryption {
    /// URL of the secret that is its encryption key (BEK), with the version that was seen.
    pub bek: String,
    /// URL of the key that wraps it (KEK), with the version that was seen.
    pub kek: Option<String>,
    /// Whether the point holds a copy of the KEK as its store gives it out; a token does not.
    pub kek_captured: bool,
}

/// What wrapped the keys of the vault that a point is sealed with, when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageEncryption {
    /// A key file or a passphrase, which belong to the vault.
    VaultManaged,
    /// A key in a store of the vault's owner.
    CustomerManaged {
        /// Its URL.
        key: String,
    },
}

/// A disk within a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRecord {
    /// Which disk.
    pub description: DiskDescription,
    /// Size of the disk in bytes when the point was taken.
    pub size: ByteLen,
    /// What is stored of it; `None` for a temporary disk, which is described only.
    pub stored: Option<StoredDisk>,
    /// Where its keys were when its guest encrypts it.
    pub encryption: Option<GuestEncryption>,
}

/// A recovery point: what a VM's disks were at one time, restorable by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// Which point.
    pub id: PointId,
    /// The VM.
    pub vm: VmName,
    /// The point it was made against; `None` for the first of its lineage.
    pub base: Option<PointNumber>,
    /// The session that made it.
    pub session: SessionId,
    /// When the session began, by the clock of the host that made it.
    pub created: Timestamp,
    /// What the data is worth to an application.
    pub consistency: ConsistencyLevel,
    /// Every disk, stored or only described.
    pub disks: Vec<DiskRecord>,
    /// Length of the VM configuration stored with it, in bytes; 0 when there is none.
    pub config_len: u64,
    /// What wrapped the vault's keys.
    pub storage_encryption: StorageEncryption,
    /// Whether it was forgotten and awaits the sweep.
    pub forgotten: bool,
    /// Why it was made, and what else its maker wants to find again.
    pub labels: Labels,
    /// Why its consistency is what it is, and what else was found: one line each.
    pub evidence: Vec<String>,
}
