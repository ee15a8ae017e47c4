//! What to back up and how.

use std::path::PathBuf;

use vmkeep_disk::BlockRead;
use vmkeep_model::{BlockSize, ByteLen, ConsistencyLevel, DiskDescription, VmName};
use vmkeep_vault::CompressionLevel;

use crate::{BackupError, Resume};

/// A VM to back up, as its snapshot left it.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The VM.
    pub vm: VmName,
    /// All its disks, also those that are only described.
    pub disks: Vec<SourceDisk<'a>>,
    /// What the snapshot is worth. Disks that nobody froze are crash-consistent.
    pub consistency: ConsistencyLevel,
    /// Why, one line per finding.
    pub evidence: Vec<String>,
    /// The VM's configuration, opaque; at most [`vmkeep_vault::CONFIG_MAX`] bytes.
    pub config: Option<Vec<u8>>,
}

/// A disk of the plan.
#[derive(Debug)]
pub struct SourceDisk<'a> {
    /// Which disk.
    pub description: DiskDescription,
    /// Its content.
    pub source: Source<'a>,
}

/// Where the content of a disk comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// It is read from here.
    Read(&'a dyn BlockRead),
    /// It is not stored, only described: a temporary disk of this size.
    Describe(ByteLen),
}

impl Source<'_> {
    /// Size of the disk in bytes.
    pub fn size(&self) -> ByteLen {
        match self {
            Self::Read(disk) => disk.len(),
            Self::Describe(size) => *size,
        }
    }
}

/// How it is found out which pages of a changed block changed, so that no more than these need be stored.
///
/// Fingerprints of the pages of the point before tell it at once. Without them the block is fetched from the vault and
/// compared, or stored as a whole: [`DiskReport::whole_unknown`](crate::DiskReport::whole_unknown) counts those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Folder in which fingerprints are kept from one backup to the next; `None` keeps none. It may be deleted at any time.
    pub folder: Option<PathBuf>,
    /// Most bytes of fingerprints of one disk; `None` is a quarter of a percent of the disk, enough for all of it with
    /// blocks of 64 KiB. With less, those of the blocks that changed last are kept.
    pub limit: Option<ByteLen>,
    /// When a changed block whose fingerprints are not known is fetched from the vault.
    pub compare: Compare,
}

/// When a changed block is fetched from the vault to see which of its pages changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compare {
    /// When the vault lies on this machine ([`Vault::is_near`](vmkeep_vault::Vault::is_near)).
    #[default]
    WhenNear,
    /// Always: a read of some hundred KiB for every changed block.
    Always,
    /// Never.
    Never,
}

/// How to back up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Effort that goes into making data small.
    pub level: CompressionLevel,
    /// Block size of disks that are backed up for the first time; the others keep theirs.
    pub block_size: BlockSize,
    /// Threads that scan and compress, for all disks together about twice this; 1 runs everything inline.
    pub workers: usize,
    /// Memory for data on its way, in bytes: at least [`Settings::MEMORY_MIN`]. Caches of the vault come on top (32 MiB).
    pub memory_bytes: usize,
    /// Which interrupted backup of the VM this one goes on from.
    pub resume: Resume,
    /// How changed pages are found.
    pub pages: Pages,
}

impl Default for Settings {
    /// Level default, 64 KiB blocks, a worker per processor (at most 8), 128 MiB, going on from an interrupted
    /// backup that began more than a week ago.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        Self {
            level: CompressionLevel::default(),
            block_size: BlockSize::default(),
            workers,
            memory_bytes: 128 << 20,
            resume: Resume::default(),
            pages: Pages::default(),
        }
    }
}

/// How the memory of one disk's walk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Disks walked at the same time.
    pub(crate) disks: usize,
    pub(crate) pack_bytes: usize,
    /// Segments between scan and frame.
    pub(crate) segments: usize,
    /// Frames between compressing and packing.
    pub(crate) frames: usize,
}

/// Size of a pack when memory allows.
const PACK_BYTES_MAX: usize = 32 << 20;
/// Smaller packs cost more requests than memory is worth.
const PACK_BYTES_MIN: usize = 1 << 20;
/// Disks walked at the same time: more only make the source seek.
const DISKS_AT_ONCE_MAX: usize = 4;
const SEGMENT_BYTES: usize = 1 << 20;

impl Settings {
    /// The least memory that a walk can be told to keep to: 32 MiB.
    pub const MEMORY_MIN: usize = 32 << 20;

    pub(crate) fn shares(&self, disks: usize) -> Result<Shares, BackupError> {
        if self.workers == 0 {
            return Err(BackupError::Settings("0 workers cannot do anything; give at least 1".to_owned()));
        }
        if self.memory_bytes < Self::MEMORY_MIN {
            let (given, least) = (self.memory_bytes, Self::MEMORY_MIN);
            return Err(BackupError::Settings(format!(
                "{given} bytes of memory; a backup needs at least {least}"
            )));
        }
        let disks = if self.workers == 1 { 1 } else { disks.clamp(1, DISKS_AT_ONCE_MAX) };
        // Of a disk's share, half is for two packs (one filling, one on its way), a quarter each for segments and
        // frames on their way.
        let share = self.memory_bytes / disks;
        let block = self.block_size.bytes();
        let frame = block * self.level.frame_blocks(self.block_size);
        Ok(Shares {
            disks,
            pack_bytes: (share / 4).clamp(PACK_BYTES_MIN, PACK_BYTES_MAX),
            segments: (share / 4 / SEGMENT_BYTES.max(block)).clamp(1, 4 * self.workers),
            frames: (share / 8 / frame).clamp(1, 4 * self.workers),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_shares_of_all_disks_fit_the_budget(
            memory in Settings::MEMORY_MIN..1 << 34, workers in 1_usize..64, disks in 1_usize..256, log2 in 14_u32..=22
        ) {
            let settings = Settings {
                memory_bytes: memory, workers, block_size: BlockSize::try_from(1_u64 << log2).unwrap(), ..Settings::default()
            };
            let shares = settings.shares(disks).unwrap();
            let frame = settings.block_size.bytes() * settings.level.frame_blocks(settings.block_size);
            let segment = SEGMENT_BYTES.max(settings.block_size.bytes());
            let sum = 2 * shares.pack_bytes + shares.segments * segment + 2 * shares.frames * frame;
            // One segment and one frame are the least, whatever the share.
            prop_assert!(shares.disks * sum <= memory + shares.disks * (segment + 2 * frame));
        }
    }

    #[test]
    fn a_budget_too_small_to_work_with_is_refused() {
        let settings = Settings { memory_bytes: 1 << 20, ..Settings::default() };
        assert!(matches!(settings.shares(1), Err(BackupError::Settings(_))));
        let settings = Settings { workers: 0, ..Settings::default() };
        assert!(matches!(settings.shares(1), Err(BackupError::Settings(_))));
    }
}
