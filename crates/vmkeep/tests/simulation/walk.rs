//! Backing up and reading back, with packs as small as a simulation wants them: the walk of the backup crate fills
//! packs of a MiB at least.

use std::collections::BTreeSet;
use std::sync::Arc;
use vmkeep::model::op;
use vmkeep_testkit::permit;

use vmkeep::blockdiff::{Chunk, ScanBuffer, SegmentError, SegmentSize, Segments, scan};
use vmkeep::disk::Memory;
use vmkeep::model::{
    BlockIndex, BlockRun, BlockSize, ByteLen, ChangeProvenance, ConsistencyLevel, ContentHash, DiskName,
    RecoveryPoint, SessionId, VmName,
};
use vmkeep::vault::{
    CompressionLevel, DiskWriter, Draft, DraftDisk, FrameEncoder, OpenPoint, Session, Vault, VaultError,
    WrittenDisk,
};

use super::guest::Disks;
use crate::common::{BLOCK, description};

/// How a backup stores what changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    pub(crate) pack_bytes: usize,
    pub(crate) frame_blocks: usize,
}

/// Backs up `disks` as the next point of `vm`; `began` is told of the session before anything else is done.
pub(crate) fn back_up(
    vault: &Vault,
    vm: &VmName,
    interrupted: Option<SessionId>,
    disks: &Disks,
    packing: Packing,
    began: impl FnOnce(&Session),
) -> Result<RecoveryPoint, VaultError> {
    let session = match interrupted {
        Some(interrupted) => vault.resume(&permit(), vm, interrupted)?,
        None => vault.begin(&permit(), vm)?,
    };
    began(&session);
    let mut drafts = Vec::new();
    for (name, bytes) in disks {
        let written = write_disk(&session, &name.parse().unwrap(), bytes, packing)?;
        let provenance = ChangeProvenance::Scan;
        drafts.push(DraftDisk::Stored { description: description(name), written, provenance });
    }
    let draft = Draft {
        disks: drafts,
        consistency: ConsistencyLevel::Crash,
        evidence: Vec::new(),
        config: None,
        keys: None,
        bytes_read: 0,
        duration_ms: 0,
    };
    Ok(session.commit(draft)?.point)
}

fn write_disk(
    session: &Session,
    name: &DiskName,
    bytes: &Arc<Vec<u8>>,
    packing: Packing,
) -> Result<WrittenDisk, VaultError> {
    let disk = Memory::from(bytes.as_ref().clone());
    let base = session.base_disk(name)?;
    let identity = session.identity()?;
    let mut writer = session.disk_writer(name, BlockSize::MIN, packing.pack_bytes)?;
    let mut encoder = FrameEncoder::new(CompressionLevel::Fast).unwrap();
    let mut buffer = ScanBuffer::default();
    let before = base.iter().flat_map(|base| base.hashes(BlockIndex(0)));
    let mut frame: Vec<Chunk> = Vec::new();
    let mut flush = |writer: &mut DiskWriter<'_>, chunks: &mut Vec<Chunk>| -> Result<(), VaultError> {
        if chunks.is_empty() {
            return Ok(());
        }
        let blocks: Vec<(BlockIndex, ContentHash)> = chunks.iter().map(|c| (c.block, c.hash)).collect();
        let packed = encoder.encode(blocks, Chunk::together(chunks)).unwrap();
        chunks.clear();
        writer.frame(&packed)
    };
    for segment in Segments::new(&disk, BlockSize::MIN, SegmentSize::default(), before) {
        let segment = match segment {
            Ok(segment) => segment,
            Err(SegmentError::Before(e)) => return Err(e),
            Err(e) => panic!("a disk in memory can be walked: {e}"),
        };
        let hash = |block: &[u8]| identity.block_hash(block);
        let scanned = scan(&disk, &segment, &hash, &mut buffer).unwrap();
        let mut zeroed = scanned.zeroed.into_iter().peekable();
        for chunk in scanned.data {
            while let Some(run) = zeroed.next_if(|run| run.start < chunk.block) {
                flush(&mut writer, &mut frame)?;
                writer.zero(run)?;
            }
            let at = match session.adopted() {
                Some(adopted) => adopted.lookup(name, BlockSize::MIN, chunk.block, chunk.hash)?,
                None => None,
            };
            if let Some(at) = at {
                flush(&mut writer, &mut frame)?;
                writer.adopt(chunk.block, at, chunk.hash)?;
                continue;
            }
            frame.push(chunk);
            if frame.len() >= packing.frame_blocks {
                flush(&mut writer, &mut frame)?;
            }
        }
        flush(&mut writer, &mut frame)?;
        for run in zeroed {
            writer.zero(run)?;
        }
    }
    writer.finish(ByteLen(bytes.len() as u64))
}

/// Why a point is not what it should be.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// It cannot be read.
    Error(Arc<VaultError>),
    /// It has other bytes, as told.
    Content(String),
}

impl From<VaultError> for Wrong {
    fn from(error: VaultError) -> Self {
        Self::Error(Arc::new(error))
    }
}

/// Reads every byte of a point and compares it with what the disks were.
pub(crate) fn compare(point: &OpenPoint, expected: &Disks) -> Result<(), Wrong> {
    let names: Vec<String> = point.stored_disks().map(ToString::to_string).collect();
    if !names.iter().eq(expected.keys()) {
        return Err(Wrong::Content(format!("its disks are {names:?}")));
    }
    for (name, bytes) in expected {
        let disk = point.disk(&permit::<op::Restore>(), &name.parse().unwrap())?;
        if disk.size() != ByteLen(bytes.len() as u64) {
            return Err(Wrong::Content(format!("disk {name} has {} bytes", disk.size())));
        }
        let entries = disk.entries(BlockIndex(0))?.collect::<Result<Vec<_>, _>>()?;
        let stored: BTreeSet<BlockIndex> = entries.iter().map(|(block, _)| *block).collect();
        for (number, block) in (0..).zip(bytes.chunks(BLOCK)) {
            if block.iter().any(|&byte| byte != 0) && !stored.contains(&BlockIndex(number)) {
                return Err(Wrong::Content(format!("block {number} of disk {name} is zero")));
            }
        }
        let mut wrong = None;
        disk.fetch(&entries, &mut |block, found| {
            let extent = BlockSize::MIN.extent_of(BlockRun { start: block, len: 1 }, disk.size());
            let range = usize::try_from(extent.start().0).unwrap()..usize::try_from(extent.end().0).unwrap();
            match found {
                Err(error) => wrong = Some(Wrong::Error(error)),
                Ok(found) if found[..range.len()] != bytes[range] => {
                    wrong.get_or_insert(Wrong::Content(format!("block {block} of disk {name} is another")));
                }
                Ok(_) => {}
            }
            Ok(())
        })?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
    }
    Ok(())
}
