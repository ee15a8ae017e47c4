//! How much of a disk its file systems say they use, read off their superblocks: a few reads, whatever the size of the disk.
//!
//! The counters are those of ext2, ext3 and ext4 (kernel documentation, "The Super Block") and of XFS ("XFS Filesystem
//! Structure", superblocks). On a disk whose guest runs they may be some minutes old: what was written since is in the
//! journal. A disk with anything else on it than these and the small partitions that firmware boots from is not measured, because
//! what the rest uses is not known.

use vmkeep_model::{ByteLen, ByteOffset};

use crate::{BlockRead, DiskError};

/// Kinds of file systems whose counters are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileSystemKind {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// A partition that firmware boots from, which counts as full.
    Boot,
}

/// A file system on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystemUse {
    /// Its kind.
    pub kind: FileSystemKind,
    /// Where it begins.
    pub at: ByteOffset,
    /// How large it is, in bytes.
    pub size: ByteLen,
    /// How much of that is in use, its own structures with it.
    pub used: ByteLen,
}

const SECTOR: u64 = 512;
/// Most partitions that are looked at.
const PARTITIONS_MAX: usize = 1024;
/// A partition for firmware is no larger.
const BOOT_BYTES_MAX: u64 = 4 << 30;
/// `C12A7328-F81F-11D2-BA4B-00A0C93EC93B`, the EFI system partition, as it lies on disk.
const GPT_EFI: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// `21686148-6449-6E6F-744E-656564454649`, the BIOS boot partition.
const GPT_BIOS: [u8; 16] = *b"Hah!IdontNeedEFI";
/// Kinds of MBR partitions that hold no file system of their own: none, and the three extended ones.
const MBR_EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const MBR_EFI: u8 = 0xef;
const MBR_PROTECTIVE: u8 = 0xee;

/// A stretch of a disk that may hold a file system.
#[derive(Clone, Copy, Debug)]
struct Partition {
    at: u64,
    len: u64,
    is_boot: bool,
}

/// The file systems of a disk, or `None` when what it uses cannot be told: there is none, or something else as well.
///
/// ```
/// use vmkeep_disk::{Memory, file_system_use};
///
/// assert_eq!(file_system_use(&Memory::new(1 << 20))?, None);
/// # Ok::<(), vmkeep_disk::DiskError>(())
/// ```
pub fn file_system_use(disk: &dyn BlockRead) -> Result<Option<Vec<FileSystemUse>>, DiskError> {
    let whole = Partition { at: 0, len: disk.len().0, is_boot: false };
    if let Some(found) = file_system(disk, whole)? {
        return Ok(Some(vec![found]));
    }
    let Some(partitions) = partitions(disk)? else { return Ok(None) };
    let mut found = Vec::new();
    for partition in partitions {
        match file_system(disk, partition)? {
            Some(file_system) => found.push(file_system),
            None => return Ok(None),
        }
    }
    Ok((!found.is_empty()).then_some(found))
}

/// What is in use of all of them, in bytes.
pub fn used_bytes(file_systems: &[FileSystemUse]) -> ByteLen {
    ByteLen(file_systems.iter().map(|found| found.used.0).sum())
}

fn file_system(disk: &dyn BlockRead, on: Partition) -> Result<Option<FileSystemUse>, DiskError> {
    let found = |kind, size: u64, used: u64| {
        let (at, size, used) = (ByteOffset(on.at), ByteLen(size), ByteLen(used));
        Some(FileSystemUse { kind, at, size, used })
    };
    // Both superblocks lie within the first 2 KiB.
    let Some(head) = read(disk, on.at, 2048.min(on.len))? else { return Ok(None) };
    if let Some((size, used)) = ext(&head) {
        return Ok(if size <= on.len { found(FileSystemKind::Ext, size, used) } else { None });
    }
    if let Some((size, used)) = xfs(&head) {
        return Ok(if size <= on.len { found(FileSystemKind::Xfs, size, used) } else { None });
    }
    Ok(if on.is_boot && on.len <= BOOT_BYTES_MAX {
        found(FileSystemKind::Boot, on.len, on.len)
    } else {
        None
    })
}

/// Size and used bytes by an ext superblock, which begins at 1024; all numbers little endian.
fn ext(head: &[u8]) -> Option<(u64, u64)> {
    let block = head.get(1024..2048)?;
    let (u16_at, u32_at) = (|at| le(block, at, 2), |at| le(block, at, 4));
    if u16_at(56)? != 0xef53 {
        return None;
    }
    let log = u32_at(24)?;
    let bytes = 1024_u64.checked_shl(u32::try_from(log).ok()?).filter(|_| log <= 6)?;
    // With the feature 64BIT the counters have a high half.
    let high = |at| if u32_at(96)? & 0x80 == 0 { Some(0) } else { u32_at(at) };
    let blocks = u32_at(4)? | high(336)? << 32;
    let free = u32_at(12)? | high(344)? << 32;
    Some((blocks.checked_mul(bytes)?, blocks.checked_sub(free)?.checked_mul(bytes)?))
}

/// Size and used bytes by an XFS superblock; all numbers big endian.
fn xfs(head: &[u8]) -> Option<(u64, u64)> {
    if head.get(..4)? != b"XFSB" {
        return None;
    }
    let number = |at: usize, len: usize| -> Option<u64> {
        Some(head.get(at..at + len)?.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    };
    let bytes = number(4, 4).filter(|bytes| bytes.is_power_of_two() && (512..=65_536).contains(bytes))?;
    let (blocks, free) = (number(8, 8)?, number(144, 8)?);
    Some((blocks.checked_mul(bytes)?, blocks.checked_sub(free)?.checked_mul(bytes)?))
}

fn le(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    Some(bytes.get(at..at + len)?.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

/// The partitions of a disk; `None` when it has no table that is understood.
fn partitions(disk: &dyn BlockRead) -> Result<Option<Vec<Partition>>, DiskError> {
    let Some(first) = read(disk, 0, SECTOR)? else { return Ok(None) };
    if first[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let entries = || first[446..510].chunks_exact(16);
    if entries().any(|entry| entry[4] == MBR_PROTECTIVE) {
        return gpt(disk);
    }
    let mut found = Vec::new();
    for entry in entries().filter(|entry| entry[4] != 0) {
        // What logical partitions hold is not looked at.
        if MBR_EXTENDED.contains(&entry[4]) {
            return Ok(None);
        }
        let (Some(at), Some(len)) = (le(entry, 8, 4), le(entry, 12, 4)) else { return Ok(None) };
        found.push(Partition { at: at * SECTOR, len: len * SECTOR, is_boot: entry[4] == MBR_EFI });
    }
    Ok(within(disk, found))
}

fn gpt(disk: &dyn BlockRead) -> Result<Option<Vec<Partition>>, DiskError> {
    // The second sector, of whichever size sectors are.
    for sector in [SECTOR, 4096] {
        let Some(header) = read(disk, sector, SECTOR)? else { continue };
        if &header[..8] != b"EFI PART" {
            continue;
        }
        let numbers = (le(&header, 72, 8), le(&header, 80, 4), le(&header, 84, 4));
        let (Some(table), Some(count), Some(size)) = numbers else { return Ok(None) };
        let count = usize::try_from(count).ok().filter(|count| *count <= PARTITIONS_MAX);
        let size = usize::try_from(size).ok().filter(|size| (128..=4096).contains(size));
        let (Some(count), Some(size), Some(at)) = (count, size, table.checked_mul(sector)) else {
            return Ok(None);
        };
        let Some(table) = read(disk, at, (count * size) as u64)? else { return Ok(None) };
        let mut found = Vec::new();
        for entry in table.chunks_exact(size).filter(|entry| entry[..16] != [0; 16]) {
            let (Some(from), Some(last)) = (le(entry, 32, 8), le(entry, 40, 8)) else { return Ok(None) };
            let len = last.checked_sub(from).and_then(|sectors| (sectors + 1).checked_mul(sector));
            let (Some(at), Some(len)) = (from.checked_mul(sector), len) else { return Ok(None) };
            let is_boot = entry[..16] == GPT_EFI || entry[..16] == GPT_BIOS;
            found.push(Partition { at, len, is_boot });
        }
        return Ok(within(disk, found));
    }
    Ok(None)
}

/// The partitions, when all of them lie on the disk and none over another.
fn within(disk: &dyn BlockRead, mut found: Vec<Partition>) -> Option<Vec<Partition>> {
    found.sort_by_key(|partition| partition.at);
    let mut end = 0;
    for partition in &found {
        if partition.at < end || partition.len == 0 {
            return None;
        }
        end = partition.at.checked_add(partition.len)?;
    }
    (end <= disk.len().0).then_some(found)
}

/// A range of the disk; `None` when it is not within it.
fn read(disk: &dyn BlockRead, at: u64, len: u64) -> Result<Option<Vec<u8>>, DiskError> {
    if at.checked_add(len).is_none_or(|end| end > disk.len().0) || len == 0 {
        return Ok(None);
    }
    let Ok(len) = usize::try_from(len) else { return Ok(None) };
    let mut bytes = vec![0; len];
    disk.read_at(ByteOffset(at), &mut bytes)?;
    Ok(Some(bytes))
}
