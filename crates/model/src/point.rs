//! A recovery point, as everyone but the vault's format sees it.

use std::fmt;

use crate::{
    BlockSize, ByteLen, ContentHash, DiskDescription, LineageId, PointNumber, SessionId, Timestamp, VmName,
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

/// How it was found out what had changed on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeProvenance {
    /// First backup of the disk: everything that was not a hole was read and stored.
    Full,
    /// Everything that was not a hole was read and compared with the point before by keyed hash.
    Scan,
}

impl fmt::Display for ChangeProvenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Scan => "scan",
        })
    }
}

/// Which point of which lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointId {
    /// The line of points.
    pub lineage: LineageId,
    /// Its number on that line.
    pub number: PointNumber,
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
    /// Whether it was forgotten and awaits the sweep.
    pub forgotten: bool,
}
