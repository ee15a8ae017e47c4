//! What a disk was at the point before: hashes in order, and content when it is asked for.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use vmkeep_blockdiff::{
    Before, FingerprintError, FingerprintFile, PageHasher, PreviousContent, Was, default_limit,
};
use vmkeep_disk::BlockRead;
use vmkeep_model::{BlockIndex, BlockSize, ByteLen, ContentHash, DiskName, LineageId, PageMask};
use vmkeep_vault::map::Entry;
use vmkeep_vault::{BaseDisk, DiskEntries, DiskReader, Session, VaultError};

use crate::Pages;

/// One block in so many has what fingerprints say of it checked against the vault, beside the first.
const CHECKED_PART: u64 = 256;

/// The blocks of the base point in order.
pub(crate) struct Known<'s> {
    entries: Option<DiskEntries<'s>>,
    ahead: Option<(BlockIndex, Was)>,
    /// Says of blocks that they are lost.
    is_damaged: Option<IsDamaged>,
    block_size: BlockSize,
}

type IsDamaged = Box<dyn Fn(&Entry) -> bool + Send>;

impl<'s> Known<'s> {
    pub(crate) fn new(base: Option<&BaseDisk<'s>>) -> Self {
        let is_damaged = base.filter(|base| base.has_damage());
        let is_damaged = is_damaged.map(|base| Box::new(base.is_damaged()) as IsDamaged);
        Self {
            block_size: base.map_or_else(BlockSize::default, |base| base.block_size),
            is_damaged,
            ..Self::of(base.map(|base| base.entries(BlockIndex(0))))
        }
    }

    /// The same of entries that begin with the first; `None` where nothing is known.
    pub(crate) fn of(entries: Option<DiskEntries<'s>>) -> Self {
        Self { entries, ahead: None, is_damaged: None, block_size: BlockSize::default() }
    }
}

impl Before for Known<'_> {
    type Error = VaultError;

    fn next_in(
        &mut self,
        from: BlockIndex,
        below: BlockIndex,
    ) -> Result<Option<(BlockIndex, Was)>, VaultError> {
        if self.ahead.as_ref().is_none_or(|(block, _)| *block < from) {
            let Some(entries) = &mut self.entries else { return Ok(None) };
            entries.skip_to(from);
            let next = entries.next().transpose()?;
            let size = self.block_size;
            let is_lost = |entry: &Entry| self.is_damaged.as_ref().is_some_and(|lost| lost(entry));
            self.ahead = next.map(|(block, entry)| {
                let was = if is_lost(&entry) { lost(&entry, size) } else { was(entry) };
                (block, was)
            });
        }
        Ok(self.ahead.take_if(|(block, _)| *block < below))
    }
}

/// A block whose stored bytes are lost: whatever it is now, that is another content and all of it is stored.
fn lost(entry: &Entry, size: BlockSize) -> Was {
    Was {
        hash: ContentHash(entry.hash().0.map(|byte| !byte)),
        patched: PageMask::from_pages(size, 0..size.pages()).ok(),
    }
}

fn was(entry: Entry) -> Was {
    let hash = entry.hash();
    let patched = match entry {
        Entry::Full { .. } => None,
        Entry::Patched { pages, .. } => Some(pages),
    };
    Was { hash, patched }
}

/// The content of the base point, fetched block by block; of nothing, where it cannot be read.
pub(crate) struct Stored(pub(crate) Option<DiskReader>);

impl Stored {
    /// The entries of `blocks`, which ascend or do not.
    fn entries(reader: &DiskReader, blocks: &[BlockIndex]) -> Result<Vec<(BlockIndex, Entry)>, VaultError> {
        let mut sorted = blocks.to_vec();
        sorted.sort_unstable();
        let mut wanted = Vec::with_capacity(sorted.len());
        let Some(first) = sorted.first() else { return Ok(wanted) };
        let (mut entries, mut ahead) = (reader.entries(*first)?, None::<(BlockIndex, Entry)>);
        for block in sorted {
            if ahead.as_ref().is_none_or(|(found, _)| *found < block) {
                entries.skip_to(block);
                ahead = entries.next().transpose()?;
            }
            wanted.extend(ahead.take_if(|(found, _)| *found == block));
        }
        Ok(wanted)
    }
}

impl PreviousContent for Stored {
    fn previous(&self, blocks: &[BlockIndex], sink: &mut dyn FnMut(BlockIndex, Option<&[u8]>)) {
        let Some(reader) = &self.0 else {
            for block in blocks {
                sink(*block, None);
            }
            return;
        };
        // What cannot be read now is stored as a whole, and needs nothing of the base any more.
        let Ok(wanted) = Self::entries(reader, blocks) else {
            for block in blocks {
                sink(*block, None);
            }
            return;
        };
        let fetched = reader.fetch(&wanted, &mut |block, bytes| {
            sink(block, bytes.ok());
            Ok(())
        });
        if fetched.is_err() {
            for block in blocks {
                sink(*block, None);
            }
        }
    }
}

/// Which blocks are checked: the first that is asked about, and then one in [`CHECKED_PART`], by its number.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    begun: AtomicBool,
    seed: u64,
}

impl Sample {
    pub(crate) fn new(session: &Session) -> Self {
        let seed = session.id().0.iter().fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte));
        Self { begun: AtomicBool::new(false), seed }
    }

    pub(crate) fn takes(&self, block: BlockIndex) -> bool {
        // Multiplying by an odd constant spreads neighbours over the upper bits.
        let spread = (block.0 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        spread.is_multiple_of(CHECKED_PART) || !self.begun.swap(true, Ordering::Relaxed)
    }
}

/// The fingerprints of one disk in the folder of `pages`; `None` when none are kept.
pub(crate) fn fingerprints(
    pages: &Pages,
    session: &Session,
    disk: &DiskName,
    source: &dyn BlockRead,
    block_size: BlockSize,
    hasher: &PageHasher,
) -> Result<Option<FingerprintFile>, FingerprintError> {
    let Some(folder) = &pages.folder else { return Ok(None) };
    let folder = make(folder)?;
    let path = folder.join(file_name(session.lineage(), disk));
    let limit = limit(pages, source);
    let run = u32::try_from(session.target().0).unwrap_or(u32::MAX);
    FingerprintFile::open(&path, block_size, source.len(), limit, hasher.clone(), run).map(Some)
}

/// The same to look things up in: nothing is made and nothing is written.
pub(crate) fn kept_fingerprints(
    pages: &Pages,
    lineage: LineageId,
    disk: &DiskName,
    source: &dyn BlockRead,
    block_size: BlockSize,
    hasher: &PageHasher,
) -> Result<Option<FingerprintFile>, FingerprintError> {
    let Some(folder) = &pages.folder else { return Ok(None) };
    let path = folder.join(FOLDER).join(file_name(lineage, disk));
    FingerprintFile::open_read_only(&path, block_size, source.len(), limit(pages, source), hasher.clone())
}

/// Folder of the fingerprints within that of the cache.
const FOLDER: &str = "fingerprints";

fn file_name(lineage: LineageId, disk: &DiskName) -> String {
    format!("{lineage}-{disk}.fingerprints")
}

fn limit(pages: &Pages, source: &dyn BlockRead) -> ByteLen {
    pages.limit.unwrap_or_else(|| default_limit(source.len()))
}

fn make(folder: &Path) -> Result<std::path::PathBuf, FingerprintError> {
    let folder = folder.join(FOLDER);
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&folder).map_err(|source| FingerprintError { path: folder.clone(), source })?;
    Ok(folder)
}
