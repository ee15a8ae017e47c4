//! Reading one segment and saying what became of each block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_disk::{BlockRead, DiskError};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ContentHash, PAGE_SIZE, PageMask};

use crate::Segment;
use crate::page::{
    Fingerprints, PageHasher, PreviousContent, Was, changed_fingerprints, changed_pages, pages_to_store,
};
use crate::source::ChangeSource;

/// What names the content of a block. Must be collision resistant and keyed: whoever writes to the disk chooses
/// the content, and an equal hash means "not stored again".
pub trait BlockHasher: Sync {
    /// The hash of a whole block, a tail padded with zeros.
    fn block_hash(&self, block: &[u8]) -> ContentHash;
}

impl<F: Fn(&[u8]) -> ContentHash + Sync> BlockHasher for F {
    fn block_hash(&self, block: &[u8]) -> ContentHash {
        self(block)
    }
}

/// Buffers kept from one scan to the next on the same thread.
#[derive(Debug, Default)]
pub struct ScanBuffer {
    bytes: Vec<u8>,
    before: Vec<u64>,
    now: Vec<u64>,
}

/// A changed block, within the buffer its segment was read into, or the pages of it that are to be stored.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Which block.
    pub block: BlockIndex,
    /// What it is now.
    pub hash: ContentHash,
    /// The pages to store over the whole block that the map knows; `None` when the whole block is to be stored.
    pub pages: Option<PageMask>,
    segment: Arc<Vec<u8>>,
    start: usize,
    len: usize,
}

impl std::fmt::Debug for PageDiff<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PageDiff({:?}, {:?})", self.hasher, self.known)
    }
}

impl Chunk {
    /// What is to be stored of the block: all of it, padded to a whole block, or its pages one after another.
    pub fn bytes(&self) -> &[u8] {
        &self.segment[self.start..self.start + self.len]
    }

    /// The bytes of `chunks` one after another, without a copy when they are neighbours in one buffer.
    pub fn together(chunks: &[Self]) -> std::borrow::Cow<'_, [u8]> {
        let adjacent = |pair: &[Self]| {
            Arc::ptr_eq(&pair[0].segment, &pair[1].segment) && pair[0].start + pair[0].len == pair[1].start
        };
        match chunks {
            [] => (&[]).into(),
            [first, .., last] if chunks.windows(2).all(adjacent) => {
                first.segment[first.start..last.start + last.len].into()
            }
            chunks => chunks.iter().flat_map(Self::bytes).copied().collect::<Vec<u8>>().into(),
        }
    }
}

/// What became of the blocks of a segment.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    /// Runs that held data and are zero now, ascending, none of them among `data`.
    pub zeroed: Vec<BlockRun>,
    /// Blocks whose content is new, ascending.
    pub data: Vec<Chunk>,
    /// Blocks that hold what they held.
    pub same: u64,
    /// Of the changed blocks, those that are stored as a whole because it is not known which pages changed.
    pub unknown_pages: u64,
    /// A block that fingerprints were wrong about. What they say is not to be relied on: the disk is to be scanned again
    /// without them.
    pub distrusted: Option<BlockIndex>,
    /// A block of which change tracking named some pages and not all that changed. It is not to be relied on: the disk is
    /// to be scanned again without it.
    pub missed: Option<BlockIndex>,
    /// Bytes read from the disk.
    pub bytes_read: u64,
}

/// How the changed pages of a changed block are found.
#[derive(Clone, Copy)]
pub struct PageDiff<'a> {
    /// Makes fingerprints.
    pub hasher: &'a PageHasher,
    /// Knows those of the point before.
    pub known: &'a dyn Fingerprints,
    /// Knows the content of the point before.
    pub previous: &'a dyn PreviousContent,
    /// Whether a block whose fingerprints are not known is fetched and compared; else all of it is stored.
    pub fetch_unknown: bool,
    /// Tells which pages may have changed, when it tells pages apart: for blocks whose fingerprints are not known.
    pub tracked: Option<&'a dyn ChangeSource>,
    /// Says whether what fingerprints or change tracking tell of a block is checked against the content of the point before.
    pub is_checked: &'a (dyn Fn(BlockIndex) -> bool + Sync),
}

/// Reads `segment` of `disk` and compares each block with what it was.
///
/// Allocates only when something changed: then the buffer goes on with the changed blocks.
pub fn scan(
    disk: &dyn BlockRead,
    segment: &Segment,
    hasher: &dyn BlockHasher,
    buffer: &mut ScanBuffer,
) -> Result<Scanned, DiskError> {
    scan_pages(disk, segment, hasher, None, buffer)
}

/// The same, and with `pages` says of changed blocks which pages of them changed, when that can be told.
pub fn scan_pages(
    disk: &dyn BlockRead,
    segment: &Segment,
    hasher: &dyn BlockHasher,
    pages: Option<&PageDiff<'_>>,
    buffer: &mut ScanBuffer,
) -> Result<Scanned, DiskError> {
    let block_len = segment.block_size.bytes();
    let mut scanned = Scanned { zeroed: segment.zeroed.clone(), ..Scanned::default() };
    if segment.run.is_empty() {
        return Ok(scanned);
    }
    let extent = segment.block_size.extent_of(segment.run, disk.len());
    let read_len = usize::try_from(extent.len().0).unwrap_or(usize::MAX);
    buffer.bytes.resize(read_len.next_multiple_of(block_len), 0);
    disk.read_at(extent.start(), &mut buffer.bytes[..read_len])?;
    buffer.bytes[read_len..].fill(0);
    scanned.bytes_read = extent.len().0;

    let mut changed = Changed::default();
    let mut before = segment.before.iter().peekable();
    let ScanBuffer { bytes: read, before: fingerprints, now } = buffer;
    for (block, bytes) in segment.run.iter().zip(read.chunks_exact(block_len)) {
        let was = before.next_if(|(known, _)| *known == block).map(|(_, was)| was);
        if is_zero(bytes) {
            if was.is_some() {
                scanned.zeroed.push(BlockRun { start: block, len: 1 });
            }
            continue;
        }
        let hash = hasher.block_hash(bytes);
        let is_same = was.is_some_and(|was| was.hash == hash);
        scanned.same += u64::from(is_same);
        if let Some(pages) = pages.filter(|pages| !is_same || pages.known.wants_all()) {
            // The block has just been hashed, so it is in a cache near by.
            pages.hasher.pages(bytes, now);
            let is_known = !is_same && was.is_some_and(|was| pages.known.get(block, was.hash, fingerprints));
            pages.known.put(block, hash, now);
            if is_known {
                changed.told.push((block, changed_fingerprints(segment.block_size, fingerprints, now)));
            }
        }
        if !is_same {
            changed.blocks.push((block, hash));
        }
    }
    if changed.blocks.is_empty() {
        return Ok(scanned);
    }
    let masks = match pages {
        Some(pages) => page_masks(segment, &changed, pages, &buffer.bytes, &mut scanned),
        None => BTreeMap::new(),
    };
    // The buffer goes on with whole blocks; pages are taken out of it.
    let whole = changed.blocks.iter().any(|(block, _)| !masks.contains_key(block));
    let shared = Arc::new(if whole { std::mem::take(&mut buffer.bytes) } else { Vec::new() });
    let read = if whole { &*shared } else { &buffer.bytes };
    scanned.data.reserve(changed.blocks.len());
    for (block, hash) in changed.blocks {
        let start = segment.offset_of(block);
        scanned.data.push(match masks.get(&block) {
            None => Chunk { block, hash, pages: None, segment: Arc::clone(&shared), start, len: block_len },
            Some(pages) => {
                let mut bytes = Vec::with_capacity(pages.count() as usize * PAGE_SIZE);
                pages.copy_from(&read[start..start + block_len], &mut bytes);
                let (len, pages) = (bytes.len(), Some(pages.clone()));
                Chunk { block, hash, pages, segment: Arc::new(bytes), start: 0, len }
            }
        });
    }
    Ok(scanned)
}

/// What changed in a segment.
#[derive(Default)]
struct Changed {
    blocks: Vec<(BlockIndex, ContentHash)>,
    /// Blocks whose fingerprints were known, with the pages that differ; `None` when none do, which cannot be.
    told: Vec<(BlockIndex, Option<PageMask>)>,
}

/// The pages to store of the changed blocks of which not all is to be stored.
fn page_masks(
    segment: &Segment,
    changed: &Changed,
    pages: &PageDiff<'_>,
    bytes: &[u8],
    scanned: &mut Scanned,
) -> BTreeMap<BlockIndex, PageMask> {
    let size = segment.block_size;
    let was: BTreeMap<BlockIndex, &Was> = segment.before.iter().map(|(block, was)| (*block, was)).collect();
    let mut told: BTreeMap<BlockIndex, PageMask> = BTreeMap::new();
    let (mut unknown, mut by_tracker) = (Vec::new(), BTreeSet::new());
    let mut known = changed.told.iter().peekable();
    let tracked = pages.tracked.filter(|tracked| tracked.granularity().0 <= PAGE_SIZE as u64);
    for (block, _) in changed.blocks.iter().filter(|(block, _)| was.contains_key(block)) {
        match known.next_if(|(known, _)| known == block) {
            Some((_, Some(mask))) => drop(told.insert(*block, mask.clone())),
            _ => match tracked.and_then(|tracked| tracked_pages(tracked, size, *block)) {
                Some(mask) => {
                    by_tracker.insert(*block);
                    told.insert(*block, mask);
                }
                None => unknown.push(*block),
            },
        }
    }
    let checked: Vec<BlockIndex> = told.keys().copied().filter(|block| (pages.is_checked)(*block)).collect();
    let fetch = if pages.fetch_unknown { unknown.as_slice() } else { &[] };
    let asked: Vec<BlockIndex> = checked.iter().chain(fetch).copied().collect();
    scanned.unknown_pages = unknown.len() as u64;
    if !asked.is_empty() {
        pages.previous.previous(&asked, &mut |block, before| {
            let start = segment.offset_of(block);
            let now = bytes.get(start..start + size.bytes()).unwrap_or_default();
            let found = before.and_then(|before| changed_pages(size, before, now));
            match (told.get(&block), found) {
                (Some(mask), Some(found)) if mask.holds(&found) => {}
                (Some(_), Some(_)) if by_tracker.contains(&block) => scanned.missed = Some(block),
                (Some(_), Some(_)) => scanned.distrusted = Some(block),
                // What lies below cannot be read: nothing is laid over it.
                (Some(_), None) => drop(told.remove(&block)),
                (None, Some(found)) => {
                    scanned.unknown_pages -= 1;
                    told.insert(block, found);
                }
                (None, None) => {}
            }
        });
    }
    let store = told
        .into_iter()
        .filter_map(|(block, mask)| Some((block, pages_to_store(size, was.get(&block)?, mask)?)));
    store.collect()
}

/// The pages of a block that may have changed; `None` when none may have, or it cannot be told.
fn tracked_pages(tracked: &dyn ChangeSource, size: BlockSize, block: BlockIndex) -> Option<PageMask> {
    let (start, end) = (size.start_of(block), size.start_of(BlockIndex(block.0 + 1)));
    let page = |at: u64| usize::try_from((at - start.0) / PAGE_SIZE as u64).unwrap_or(usize::MAX);
    let (mut pages, mut from) = (BTreeSet::new(), start);
    while let Some(extent) = tracked.next_changed(from).ok()? {
        if extent.start() >= end {
            break;
        }
        from = extent.end();
        pages.extend(page(extent.start().0)..=page(from.min(end).0 - 1));
    }
    PageMask::from_pages(size, pages).ok()
}

/// Whether every byte is zero. Ends early at the first stretch that is not.
pub fn is_zero(bytes: &[u8]) -> bool {
    // A whole stretch without a branch inside is what the compiler turns into wide instructions.
    bytes.chunks(512).all(|stretch| stretch.iter().fold(0, |any, byte| any | byte) == 0)
}
