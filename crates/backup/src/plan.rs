//! What to back up and how.

use std::error::Error;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

use vmkeep_blockdiff::{AuditRate, AuditSettings, ChangeSource};
use vmkeep_disk::BlockRead;
use vmkeep_envelope::guest::{DiskEncryption, GuestKeyStores};
use vmkeep_model::{
    BlockSize, ByteLen, ConsistencyLevel, DiskDescription, DiskName, Labels, PointNumber, VmName,
};
use vmkeep_vault::CompressionLevel;

use crate::{BackupError, Limits, Resume};

/// A VM to back up, as its snapshot left it.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The VM.
    pub vm: VmName,
    /// All its disks, also those that are only described.
    pub disks: Vec<SourceDisk<'a>>,
    /// The keys of disks that their guests encrypt, captured from the stores they are in
    /// ([`capture`](vmkeep_envelope::guest::capture)). They are sealed into the point.
    pub keys: Vec<DiskKeys<'a>>,
    /// What the snapshot is worth. Disks that nobody froze are crash-consistent.
    pub consistency: ConsistencyLevel,
    /// Why, one line per finding.
    pub evidence: Vec<String>,
    /// What was seen when the snapshot was taken, kept as it is
    /// ([`SNAPSHOT_EVIDENCE_MAX`](vmkeep_vault::SNAPSHOT_EVIDENCE_MAX)).
    pub snapshot: Option<Vec<u8>>,
    /// What is to be found on the point again: why it was made, say.
    pub labels: Labels,
    /// The VM's configuration, opaque; at most [`vmkeep_vault::CONFIG_MAX`] bytes.
    pub config: Option<Vec<u8>>,
    /// Asked after the last read and before the commit.
    pub guard: Option<&'a dyn SourceGuard>,
}

/// Knows whether what was read is what it was taken for: whether a snapshot held to the end, say.
pub trait SourceGuard: fmt::Debug + Sync {
    /// Nothing is committed when this fails.
    fn check(&self) -> Result<(), Box<dyn Error + Send + Sync>>;
}

impl<'a> Plan<'a> {
    /// A plan of disks that nobody froze: crash-consistent, and nothing said beside them.
    pub fn new(vm: VmName, disks: Vec<SourceDisk<'a>>) -> Self {
        Self {
            vm,
            disks,
            keys: Vec::new(),
            consistency: ConsistencyLevel::Crash,
            evidence: Vec::new(),
            snapshot: None,
            labels: Labels::default(),
            config: None,
            guard: None,
        }
    }
}

/// A disk of the plan.
#[derive(Debug)]
pub struct SourceDisk<'a> {
    /// Which disk.
    pub description: DiskDescription,
    /// Its content.
    pub source: Source<'a>,
}

/// Where the keys of a disk are that its guest encrypts.
#[derive(Clone, Copy, Debug)]
pub struct DiskKeys<'a> {
    /// Which disk of the plan.
    pub disk: &'a DiskName,
    /// URLs of its keys.
    pub encryption: &'a DiskEncryption,
    /// The stores they are in.
    pub stores: GuestKeyStores<'a>,
}

/// Where the content of a disk comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// It is read from here, all of it.
    Read(&'a dyn BlockRead),
    /// It is read from here, and it is known where it may have changed.
    Tracked(&'a dyn BlockRead, Changes<'a>),
    /// It is not stored, only described: a temporary disk of this size.
    Describe(ByteLen),
}

/// Where a disk may have changed since a point.
///
/// It is believed when that point is the one before and the disk has the size it had then; else the disk is scanned, and
/// the point says why. What it does not name is sampled ([`Audit`]); when that finds a change, the disk is scanned at once.
#[derive(Clone, Copy, Debug)]
pub enum Changes<'a> {
    /// Changes lie within what this names.
    Known {
        /// What names them.
        by: &'a dyn ChangeSource,
        /// The point since which they are recorded; `None` when the caller vouches that it is the newest.
        since: Option<PointNumber>,
    },
    /// They were to be known and are not, for this reason.
    Lost(&'a str),
}

/// How much of what change tracking calls unchanged is read all the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Audit {
    /// How large the sample of a run is.
    pub rate: AuditRate,
    /// In how many runs the rest of the disk is read, part by part.
    pub rounds: Rounds,
}

impl Default for Audit {
    /// A sample that finds a tracker which misses 1 % of the blocks with 99 % (some 460 blocks), and 64 MiB of a round.
    fn default() -> Self {
        Self { rate: AuditSettings::default().rate, rounds: Rounds::Bytes(ByteLen(64 << 20)) }
    }
}

/// In how many runs change tracking is audited over the whole disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// Never: the sample alone.
    Off,
    /// In so many, at least 1.
    Runs(NonZeroU32),
    /// In as many as it takes when a run reads about so many bytes for it.
    Bytes(ByteLen),
}

impl Source<'_> {
    /// Size of the disk in bytes.
    pub fn size(&self) -> ByteLen {
        match self {
            Self::Read(disk) | Self::Tracked(disk, _) => disk.len(),
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
#[derive(Clone, Debug, PartialEq)]
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
    /// Whether every disk is read as a whole, whatever is known of its changes.
    pub full_scan: bool,
    /// How change tracking is audited.
    pub audit: Audit,
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
            full_scan: false,
            audit: Audit::default(),
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
    /// Most bytes of a segment.
    pub(crate) segment_bytes: usize,
    /// Segments between scan and frame.
    pub(crate) segments: usize,
    /// Frames between compressing and packing.
    pub(crate) frames: usize,
}

/// Size of a pack when memory allows.
const PACK_BYTES_MAX: usize = 32 << 20;
/// Smaller packs cost more requests than memory is worth.
const PACK_BYTES_MIN: usize = 1 << 20;
/// Disks walked at the same time when memory allows: more only make the source seek.
const DISKS_AT_ONCE_MAX: usize = 32;
/// Least memory of a disk.
const SHARE_MIN: usize = 4 << 20;
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
        let (block, frame) = (self.block_size.bytes(), self.level.frame_bytes().max(self.block_size.bytes()));
        let least = SHARE_MIN.max(8 * frame).max(11 * block);
        let at_once = if self.workers == 1 { 1 } else { DISKS_AT_ONCE_MAX.min(self.memory_bytes / least) };
        let disks = disks.clamp(1, at_once.max(1));
        // Of a disk's share, half is for two packs, one filling and one on its way; a sixteenth for two of metadata; three
        // sixteenths for segments, of which one more is there than between scan and frame; a quarter for frames on their
        // way, which are there twice.
        let share = self.memory_bytes / disks;
        let for_segments = share / 16 * 3;
        let segment_bytes = (for_segments / 2 / block * block).clamp(block, SEGMENT_BYTES.max(block));
        Ok(Shares {
            disks,
            pack_bytes: (share / 4).clamp(PACK_BYTES_MIN, PACK_BYTES_MAX),
            segment_bytes,
            segments: (for_segments / segment_bytes).saturating_sub(1).clamp(1, 4 * self.workers),
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
            memory in Settings::MEMORY_MIN..1 << 34, workers in 1_usize..64, disks in 1_usize..256, log2 in 14_u32..=22,
            level in prop_oneof![Just(CompressionLevel::Fast), Just(CompressionLevel::Default), Just(CompressionLevel::Best)]
        ) {
            let block_size = BlockSize::try_from(1_u64 << log2).unwrap();
            let settings = Settings { memory_bytes: memory, workers, block_size, level, ..Settings::default() };
            let shares = settings.shares(disks).unwrap();
            let frame = settings.level.frame_bytes().max(block_size.bytes());
            // Two packs of data and two of metadata, an eighth of their size.
            let packs = 2 * shares.pack_bytes;
            prop_assert!(shares.disks * packs <= memory / 2);
            let sum = packs + packs / 8 + (shares.segments + 1) * shares.segment_bytes + 2 * shares.frames * frame;
            // Of a few blocks of 4 MiB, or frames of best, not even one may fit.
            let least = packs + packs / 8 + 2 * block_size.bytes() + 2 * frame;
            prop_assert!(shares.disks * sum <= memory.max(least), "{shares:?}");
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
