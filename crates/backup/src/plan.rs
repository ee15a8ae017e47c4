//! What to back up and how.

use std::path::PathBuf;

use vmkeep_disk::BlockRead;
use vmkeep_model::{BlockSize, ByteLen, ConsistencyLevel, DiskDescription, VmName};
use vmkeep_vault::CompressionLevel;

use crate::{BackupError, Limits, Resume};

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
    /// It is shared by up to 32 disks at the same time, fewer when there is less than 4 MiB for each.
    pub memory_bytes: usize,
    /// Which interrupted backup of the VM this one goes on from.
    pub resume: Resume,
    /// How changed pages are found.
    pub pages: Pages,
    /// How fast it may read and write.
    pub limits: Limits,
}

impl Default for Settings {
    /// Level default, 64 KiB blocks, a worker per processor (at most 8), 128 MiB, going on from an interrupted
    /// backup that began more than a week ago, as fast as it can.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        Self {
            level: CompressionLevel::default(),
            block_size: BlockSize::default(),
            workers,
            memory_bytes: 128 << 20,
            resume: Resume::default(),
            pages: Pages::default(),
            limits: Limits::default(),
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
const PACK_BYTES_MIN: usize = 768 << 10;
/// Disks walked at the same time when memory allows: more only make the source seek.
const DISKS_AT_ONCE_MAX: usize = 32;
const SEGMENT_BYTES: usize = 1 << 20;
/// A writer needs room for two packs of data, one filling and one on its way, and for two of metadata, each a quarter
/// of the size: so many halves of a pack.
const HALF_PACKS: usize = 5;

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
        let block = self.block_size.bytes();
        let (segment, frame) = (SEGMENT_BYTES.max(block), self.level.frame_bytes().max(block));
        // Half for packs, a quarter each for segments and for frames on their way, which are there twice.
        let least = (2 * packs(PACK_BYTES_MIN)).max(4 * segment).max(8 * frame);
        let at_once = if self.workers == 1 { 1 } else { DISKS_AT_ONCE_MAX.min(self.memory_bytes / least) };
        let disks = disks.clamp(1, at_once.max(1));
        let share = self.memory_bytes / disks;
        Ok(Shares {
            disks,
            pack_bytes: (share / HALF_PACKS).clamp(PACK_BYTES_MIN, PACK_BYTES_MAX),
            segments: (share / 4 / segment).clamp(1, 4 * self.workers),
            frames: (share / 8 / frame).clamp(1, 4 * self.workers),
        })
    }
}

/// Memory for the packs of a writer, when those of data have `pack_bytes`.
fn packs(pack_bytes: usize) -> usize {
    pack_bytes * HALF_PACKS / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_shares_of_all_disks_fit_the_budget(
            memory in Settings::MEMORY_MIN..1 << 34, workers in 1_usize..64, disks in 1_usize..256, log2 in 14_u32..=22,
            level in prop_oneof![Just(CompressionLevel::Fast), Just(CompressionLevel::Default), Just(CompressionLevel::Best)]
        ) {
            let block_size = BlockSize::try_from(1_u64 << log2).unwrap();
            let settings = Settings { memory_bytes: memory, workers, block_size, level, ..Settings::default() };
            let shares = settings.shares(disks).unwrap();
            let frame = settings.level.frame_bytes().max(block_size.bytes());
            let segment = SEGMENT_BYTES.max(block_size.bytes());
            prop_assert!(shares.disks * packs(shares.pack_bytes) <= memory / 2);
            let sum = packs(shares.pack_bytes) + shares.segments * segment + 2 * shares.frames * frame;
            if log2 < 22 {
                prop_assert!(shares.disks * sum <= memory);
            } else {
                // A block of 4 MiB takes more than its share of the least memory there is.
                prop_assert!(shares.disks * sum <= memory + 16 * segment);
            }
            prop_assert!(shares.disks >= 1 && shares.disks <= disks.min(32));
        }
    }

    #[test]
    fn thirty_two_disks_are_walked_at_once_with_the_default_memory() {
        for level in [CompressionLevel::Fast, CompressionLevel::Default] {
            let settings = Settings { level, workers: 2, ..Settings::default() };
            assert_eq!(settings.shares(32).unwrap().disks, 32);
            assert_eq!(settings.shares(100).unwrap().disks, 32);
        }
        let settings = Settings { workers: 2, memory_bytes: Settings::MEMORY_MIN, ..Settings::default() };
        assert_eq!(settings.shares(32).unwrap().disks, 8);
    }

    #[test]
    fn a_budget_too_small_to_work_with_is_refused() {
        let settings = Settings { memory_bytes: 1 << 20, ..Settings::default() };
        assert!(matches!(settings.shares(1), Err(BackupError::Settings(_))));
        let settings = Settings { workers: 0, ..Settings::default() };
        assert!(matches!(settings.shares(1), Err(BackupError::Settings(_))));
    }
}
