//! Handing what was framed to the writer of the disk, and telling how far that is.

use vmkeep_model::{BlockSize, ByteLen};
use vmkeep_vault::{DiskWriter, Frame, PatchFrame};

use crate::BackupError;
use crate::disk::DiskWalk;
use crate::groups::Step;
use crate::observer::Event;

/// A disk that is being stored.
pub(crate) struct Storing<'s> {
    pub(crate) writer: DiskWriter<'s>,
    block_size: BlockSize,
    /// Bytes read of it so far.
    pub(crate) bytes_read: u64,
    bytes_changed: u64,
    bytes_adopted: u64,
    /// Blocks stored as a whole because it was not known which pages changed.
    pub(crate) whole_unknown: u64,
}

impl<'s> Storing<'s> {
    /// Nothing is stored yet; `read` bytes were read before.
    pub(crate) fn new(writer: DiskWriter<'s>, block_size: BlockSize, read: ByteLen) -> Self {
        Self { writer, block_size, bytes_read: read.0, bytes_changed: 0, bytes_adopted: 0, whole_unknown: 0 }
    }

    pub(crate) fn take(
        &mut self,
        step: Step<Frame, PatchFrame>,
        walk: &DiskWalk<'_>,
    ) -> Result<(), BackupError> {
        let DiskWalk { name, disk, settings, observer, cancel, .. } = *walk;
        match step {
            Step::Blocks(frame) => {
                self.bytes_changed += u64::from(frame.plain_len);
                settings.limits.before_write(&frame.body, cancel)?;
                self.writer.frame(&frame).map_err(BackupError::Store)?;
            }
            Step::Patches(frame) => {
                self.bytes_changed += frame.patches.len() as u64 * self.block_size.bytes_u64();
                settings.limits.before_write(&frame.body, cancel)?;
                self.writer.patches(&frame).map_err(BackupError::Store)?;
            }
            Step::Adopted(blocks) => {
                let bytes = blocks.len() as u64 * self.block_size.bytes_u64();
                self.bytes_changed += bytes;
                self.bytes_adopted += bytes;
                for (block, hash, at) in blocks {
                    self.writer.adopt(block, at, hash).map_err(BackupError::Store)?;
                }
            }
            Step::Zero(run) => {
                self.writer.zero(run).map_err(BackupError::Store)?;
                observer.event(Event::Zeroed { disk: name, run });
            }
            Step::Reached { block, settled, scanned } => {
                self.writer.settled(settled).map_err(BackupError::Store)?;
                self.bytes_read += scanned.bytes_read;
                self.whole_unknown += scanned.whole_unknown;
                let position = block.0.saturating_mul(self.block_size.bytes_u64()).min(disk.len().0);
                observer.event(Event::Progress {
                    disk: name,
                    position: ByteLen(position),
                    bytes_read: self.bytes_read,
                    bytes_changed: self.bytes_changed,
                    bytes_adopted: self.bytes_adopted,
                });
            }
        }
        Ok(())
    }
}
