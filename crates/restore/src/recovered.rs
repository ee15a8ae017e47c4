//! A disk of a point as a disk: any range, read when it is asked for.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmkeep_disk::{BlockRead, DiskError, DiskOperation};
use vmkeep_model::{BlockIndex, BlockRun, ByteLen, ByteOffset, Extent};
use vmkeep_vault::map::Entry;
use vmkeep_vault::{DiskReader, VaultError};

/// Blocks kept from one read to the next.
const KEPT_BLOCKS: usize = 64;

/// A block and its content.
type Block = (BlockIndex, Arc<[u8]>);

/// A disk of a recovery point, readable like any other disk; what it returns is what was backed up.
#[derive(Debug)]
pub struct RecoveredDisk {
    disk: DiskReader,
    kept: Mutex<VecDeque<Block>>,
}

impl RecoveredDisk {
    /// The disk that `disk` reads.
    pub fn new(disk: DiskReader) -> Self {
        Self { disk, kept: Mutex::default() }
    }

    /// The stored blocks among `run`, with their content.
    fn blocks(&self, run: BlockRun) -> Result<Vec<Block>, Arc<VaultError>> {
        let (mut found, mut missing): (Vec<_>, Vec<(BlockIndex, Entry)>) = (Vec::new(), Vec::new());
        for entry in self.disk.entries_within(run)? {
            let (block, entry) = entry?;
            match self.kept(block) {
                Some(bytes) => found.push((block, bytes)),
                None => missing.push((block, entry)),
            }
        }
        let mut failed = None;
        self.disk.fetch(&missing, &mut |block, bytes| {
            match bytes {
                Ok(bytes) => found.push((block, bytes.into())),
                Err(e) => failed = failed.take().or(Some(e)),
            }
            Ok(())
        })?;
        match failed {
            Some(e) => Err(e),
            None => {
                self.keep(&found);
                Ok(found)
            }
        }
    }

    fn kept(&self, block: BlockIndex) -> Option<Arc<[u8]>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(known, _)| *known == block).map(|(_, bytes)| Arc::clone(bytes))
    }

    fn keep(&self, found: &[Block]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (block, bytes) in found.iter().rev().take(KEPT_BLOCKS) {
            if !kept.iter().any(|(known, _)| known == block) {
                kept.push_back((*block, Arc::clone(bytes)));
            }
        }
        let over = kept.len().saturating_sub(KEPT_BLOCKS);
        kept.drain(..over);
    }

    fn error(&self, operation: DiskOperation, at: Extent, source: Arc<VaultError>) -> DiskError {
        let source = self.disk.swept(&source).map_or(source, Arc::new);
        DiskError::io(
            operation,
            format!("recovered disk {}", self.disk.name()),
            Some(at),
            io::Error::other(source),
        )
    }
}

impl BlockRead for RecoveredDisk {
    fn len(&self) -> ByteLen {
        self.disk.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let (len, asked) = (self.len(), Extent::new(offset, ByteLen(buf.len() as u64)));
        if asked.len().0 != buf.len() as u64 || asked.end().0 > len.0 {
            return Err(DiskError::OutOfRange { range: asked, len });
        }
        buf.fill(0);
        let block_size = self.disk.block_size();
        let blocks = self
            .blocks(block_size.blocks_touching(asked))
            .map_err(|e| self.error(DiskOperation::Read, asked, e))?;
        for (block, bytes) in blocks {
            let whole = block_size.extent_of(BlockRun { start: block, len: 1 }, len);
            let part = whole.intersection(asked);
            // Both differences are below the length of a block or of the buffer.
            let within = |from: ByteOffset| usize::try_from(part.start().0 - from.0).unwrap_or(usize::MAX);
            let count = usize::try_from(part.len().0).unwrap_or(0);
            let (to, from) = (within(offset), within(whole.start()));
            buf[to..to + count].copy_from_slice(&bytes[from..from + count]);
        }
        Ok(())
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let (len, block_size) = (self.len(), self.disk.block_size());
        if from.0 >= len.0 {
            return Ok(None);
        }
        let rest = Extent::between(from, ByteOffset(len.0));
        let error = |e: VaultError| self.error(DiskOperation::Map, rest, Arc::new(e));
        let mut run: Option<BlockRun> = None;
        for entry in self.disk.entries(block_size.block_of(from)).map_err(error)? {
            let (block, _) = entry.map_err(error)?;
            match &mut run {
                None => run = Some(BlockRun { start: block, len: 1 }),
                Some(run) if run.end() == block && run.len < 4096 => run.len += 1,
                Some(_) => break,
            }
        }
        Ok(run.map(|run| block_size.extent_of(run, len).intersection(rest)))
    }
}
