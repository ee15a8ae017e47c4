//! What a source says, in blocks.

use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteLen};

use super::{ChangeSource, ChangeSourceError};

/// The runs of blocks of which any byte may have changed: ascending, not touching one another, on a disk of `disk_len`
/// bytes. Ends after an error.
pub fn changed_runs(
    source: &dyn ChangeSource,
    block_size: BlockSize,
    disk_len: ByteLen,
) -> impl Iterator<Item = Result<BlockRun, ChangeSourceError>> {
    let blocks = block_size.count_for(disk_len);
    let mut next = 0;
    std::iter::from_fn(move || match changed_run(source, block_size, next, blocks) {
        Ok(run) => {
            next = run.end().0.max(next);
            (!run.is_empty()).then_some(Ok(run))
        }
        Err(e) => {
            next = blocks;
            Some(Err(e))
        }
    })
}

/// The runs of blocks of which no byte changed by what `source` says, as [`AuditPlan::blocks`](crate::AuditPlan::blocks)
/// takes them: what [`changed_runs`] leaves out.
pub fn unchanged_runs(
    source: &dyn ChangeSource,
    block_size: BlockSize,
    disk_len: ByteLen,
) -> impl Iterator<Item = Result<BlockRun, ChangeSourceError>> {
    let end = BlockIndex(block_size.count_for(disk_len));
    let mut changed = changed_runs(source, block_size, disk_len).fuse();
    let mut next = Some(BlockIndex(0));
    std::iter::from_fn(move || {
        loop {
            let from = next?;
            let before = match changed.next() {
                Some(Ok(run)) => {
                    next = Some(run.end());
                    BlockRun::between(from, run.start)
                }
                Some(Err(e)) => {
                    next = None;
                    return Some(Err(e));
                }
                None => {
                    next = None;
                    BlockRun::between(from, end)
                }
            };
            if !before.is_empty() {
                return Some(Ok(before));
            }
        }
    })
}

/// The first run at or after block `next`; empty at the end of the disk.
fn changed_run(
    source: &dyn ChangeSource,
    block_size: BlockSize,
    next: u64,
    blocks: u64,
) -> Result<BlockRun, ChangeSourceError> {
    let mut run = BlockRun::default();
    let mut from = next;
    while from < blocks {
        let Some(extent) = source.next_changed(block_size.start_of(BlockIndex(from)))? else { break };
        let found = block_size.blocks_touching(extent);
        if run.is_empty() {
            run = found;
        } else if found.start == run.end() {
            run.len += found.len;
        } else {
            break;
        }
        from = run.end().0;
    }
    Ok(BlockRun::between(run.start, run.end().min(BlockIndex(blocks))))
}
