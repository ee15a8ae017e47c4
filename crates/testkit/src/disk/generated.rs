//! A disk of any size whose bytes are computed when they are read.

use std::collections::BTreeMap;

use vmkeep_disk::{BlockRead, DiskError};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteLen, ByteOffset, Extent};

use super::content::{self, Content, mix_all};

/// The largest generated disk: 32 TiB, the largest disk of an Azure VM (rounded up).
const SIZE_MAX: ByteLen = ByteLen(32 << 40);

/// A disk of up to 32 TiB with a known set of allocated blocks, every other byte a hole.
///
/// Its content is a function of seed, block and version, so it needs no memory but 16 bytes per changed block. Two
/// disks made alike are equal; a clone that is changed leaves the original as it was. No allocated block is all
/// zeros, and none equals another or an earlier version of itself.
///
/// ```
/// use vmkeep_disk::BlockRead;
/// use vmkeep_model::{BlockSize, ByteLen, ByteOffset};
/// use vmkeep_testkit::GeneratedDisk;
///
/// let mut disk = GeneratedDisk::new(ByteLen(10 << 40), BlockSize::default(), 1).with_allocated_spread(ByteLen(64 << 20));
/// assert_eq!(disk.allocated_blocks().count(), 1024);
/// let before = disk.clone();
/// disk.change([0, 1023]); // the first and the last allocated block
/// let last = BlockSize::default().start_of(disk.allocated_block(1023));
/// let (mut old, mut new) = ([0; 16], [0; 16]);
/// before.read_at(last, &mut old)?;
/// disk.read_at(last, &mut new)?;
/// assert_ne!(old, new);
/// # Ok::<(), vmkeep_disk::DiskError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GeneratedDisk {
    len: ByteLen,
    block_size: BlockSize,
    seed: u64,
    content: Content,
    /// Number of allocated blocks.
    allocated: u64,
    /// Versions of the allocated blocks that were changed, by their place among the allocated ones.
    versions: BTreeMap<u64, u64>,
}

impl GeneratedDisk {
    /// An empty disk of `len` bytes: one hole.
    ///
    /// # Panics
    /// When `len` is more than 32 TiB.
    pub fn new(len: ByteLen, block_size: BlockSize, seed: u64) -> Self {
        assert!(len <= SIZE_MAX, "a generated disk has at most {SIZE_MAX} bytes");
        Self { len, block_size, seed, content: Content::default(), allocated: 0, versions: BTreeMap::new() }
    }

    /// Allocates `bytes` (rounded up to whole blocks, at most all) in blocks spread over the whole disk: one at a
    /// random place of every equal share of it.
    #[must_use]
    pub fn with_allocated_spread(mut self, bytes: ByteLen) -> Self {
        self.allocated = self.block_size.count_for(bytes).min(self.block_count());
        self
    }

    /// What the allocated blocks hold; incompressible noise unless told.
    #[must_use]
    pub fn with_content(mut self, content: Content) -> Self {
        self.content = content;
        self
    }

    /// Its block size.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// The allocated blocks in order. The last may be a tail that the end of the disk cuts.
    pub fn allocated_blocks(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        (0..self.allocated).map(|place| self.allocated_block(place))
    }

    /// The allocated block at `place` among the allocated ones, from 0.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn allocated_block(&self, place: u64) -> BlockIndex {
        assert!(place < self.allocated, "block {place} of {} allocated ones", self.allocated);
        let (start, end) = (self.share_start(place), self.share_start(place + 1));
        BlockIndex(start + mix_all(&[self.seed, 1, place]) % (end - start))
    }

    /// Gives the blocks at these places among the allocated ones new content: `disk.change(0..1000)`.
    ///
    /// # Panics
    /// When a place is not below the number of allocated blocks.
    pub fn change(&mut self, places: impl IntoIterator<Item = u64>) {
        for place in places {
            assert!(place < self.allocated, "block {place} of {} allocated ones", self.allocated);
            *self.versions.entry(place).or_insert(0) += 1;
        }
    }

    fn block_count(&self) -> u64 {
        self.block_size.count_for(self.len)
    }

    /// First block of the share of the disk in which the allocated block at `place` lies.
    fn share_start(&self, place: u64) -> u64 {
        // Both factors are at most 2^31 (32 TiB in blocks of 16 KiB).
        place * self.block_count() / self.allocated
    }

    /// The place of the last share that begins at or before `block`.
    fn share_of(&self, block: BlockIndex) -> u64 {
        ((block.0 + 1) * self.allocated).div_ceil(self.block_count()) - 1
    }

    /// The place of `block` among the allocated ones, when it is one.
    fn place_of(&self, block: BlockIndex) -> Option<u64> {
        if self.allocated == 0 {
            return None;
        }
        let place = self.share_of(block);
        (self.allocated_block(place) == block).then_some(place)
    }

    /// The first place whose block is `block`, which is within the disk, or lies after it.
    fn place_at_or_after(&self, block: BlockIndex) -> Option<u64> {
        if self.allocated == 0 {
            return None;
        }
        let place = self.share_of(block);
        let place = if self.allocated_block(place) < block { place + 1 } else { place };
        (place < self.allocated).then_some(place)
    }
}

impl BlockRead for GeneratedDisk {
    fn len(&self) -> ByteLen {
        self.len
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        let range = checked_range(offset, buf, self.len)?;
        let mut rest = buf;
        for block in self.block_size.blocks_touching(range).iter() {
            let block_extent = self.block_size.extent_of(BlockRun { start: block, len: 1 }, self.len);
            let wanted = block_extent.intersection(range);
            // What is wanted of one block is at most the length of the buffer.
            let here;
            (here, rest) = rest.split_at_mut(usize::try_from(wanted.len().0).unwrap_or(usize::MAX));
            match self.place_of(block) {
                None => here.fill(0),
                Some(place) => {
                    let version = self.versions.get(&place).copied().unwrap_or(0);
                    let key = mix_all(&[self.seed, 2, block.0, version]);
                    content::fill(self.content, key, wanted.start().0 - block_extent.start().0, here);
                }
            }
        }
        Ok(())
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        if from.0 >= self.len.0 {
            return Ok(None);
        }
        let Some(first) = self.place_at_or_after(self.block_size.block_of(from)) else { return Ok(None) };
        let start = self.allocated_block(first);
        let neighbours = (1..)
            .take_while(|&n| first + n < self.allocated && self.allocated_block(first + n).0 == start.0 + n);
        let run = BlockRun { start, len: 1 + neighbours.count() as u64 };
        let extent = self.block_size.extent_of(run, self.len);
        Ok(Some(Extent::between(extent.start().max(from), extent.end())))
    }
}

/// The range that a read asks for, when it is within a disk of `len` bytes.
fn checked_range(offset: ByteOffset, buf: &[u8], len: ByteLen) -> Result<Extent, DiskError> {
    let wanted = ByteLen(buf.len() as u64);
    let range = Extent::new(offset, wanted);
    match offset.checked_add(wanted) {
        Some(end) if end.0 <= len.0 => Ok(range),
        _ => Err(DiskError::OutOfRange { range, len }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const BLOCK: u64 = 16 << 10;

    fn small_disk() -> impl Strategy<Value = GeneratedDisk> {
        (1..=20 * BLOCK, 0..=20 * BLOCK, any::<u64>(), any::<bool>()).prop_map(
            |(len, allocated, seed, text)| {
                GeneratedDisk::new(ByteLen(len), BlockSize::MIN, seed)
                    .with_allocated_spread(ByteLen(allocated))
                    .with_content(if text { Content::Text } else { Content::Incompressible })
            },
        )
    }

    fn whole(disk: &GeneratedDisk) -> Vec<u8> {
        let mut bytes = vec![0xaa; usize::try_from(disk.len().0).unwrap()];
        disk.read_at(ByteOffset(0), &mut bytes).unwrap();
        bytes
    }

    fn data_extents(disk: &GeneratedDisk) -> Vec<Extent> {
        let mut from = ByteOffset(0);
        std::iter::from_fn(|| {
            let extent = disk.next_data(from).unwrap()?;
            assert!(extent.start() >= from && !extent.is_empty());
            from = extent.end();
            Some(extent)
        })
        .collect()
    }

    proptest! {
        #[test]
        fn reads_agree_whatever_their_alignment(disk in small_disk(), at: prop::sample::Index, len in 0_usize..40_000) {
            let bytes = whole(&disk);
            let at = at.index(bytes.len());
            let mut part = vec![0xaa; len.min(bytes.len() - at)];
            disk.read_at(ByteOffset(at as u64), &mut part).unwrap();
            prop_assert!(part == bytes[at..at + part.len()]);
        }

        #[test]
        fn data_extents_are_exactly_the_allocated_blocks(disk in small_disk()) {
            let allocated: Vec<u64> = disk.allocated_blocks().map(|b| b.0).collect();
            prop_assert!(allocated.is_sorted_by(|a, b| a < b));
            let by_map: Vec<u64> =
                data_extents(&disk).into_iter().flat_map(|e| disk.block_size().blocks_touching(e).iter()).map(|b| b.0).collect();
            prop_assert_eq!(&by_map, &allocated);
            for (block, bytes) in (0..).zip(whole(&disk).chunks(16 << 10)) {
                prop_assert_eq!(bytes.iter().any(|&b| b != 0) || bytes.len() < 8, allocated.contains(&block) || bytes.len() < 8);
            }
        }

        #[test]
        fn the_next_data_is_the_same_from_anywhere(disk in small_disk(), from: prop::sample::Index) {
            let from = ByteOffset(from.index(usize::try_from(disk.len().0).unwrap()) as u64);
            let expected = data_extents(&disk).into_iter().find(|e| e.end() > from)
                .map(|e| Extent::between(e.start().max(from), e.end()));
            prop_assert_eq!(disk.next_data(from).unwrap(), expected);
        }

        #[test]
        fn a_change_reaches_exactly_its_blocks(disk in small_disk(), places in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let allocated: Vec<BlockIndex> = disk.allocated_blocks().collect();
            prop_assume!(!allocated.is_empty() && disk.len().0 % BLOCK == 0 || allocated.len() > 1);
            // A tail of a few bytes may hold by chance what it held before: leave it alone.
            let changed: BTreeSet<usize> = places.iter().map(|p| p.index(allocated.len().max(2) - 1)).collect();
            let mut later = disk.clone();
            later.change(changed.iter().map(|&p| p as u64));
            let (old, new) = (whole(&disk), whole(&later));
            for (block, (old, new)) in (0..).map(BlockIndex).zip(old.chunks(16 << 10).zip(new.chunks(16 << 10))) {
                let place = allocated.iter().position(|&b| b == block);
                prop_assert_eq!(old != new, place.is_some_and(|p| changed.contains(&p)));
            }
        }
    }

    #[test]
    fn a_disk_of_32_tib_is_read_at_both_ends() {
        let len = ByteLen(32 << 40);
        let disk = GeneratedDisk::new(len, BlockSize::MIN, 5).with_allocated_spread(ByteLen(64 << 20));
        let extents = data_extents(&disk);
        assert_eq!(extents.iter().map(|e| e.len().0).sum::<u64>(), 64 << 20);
        assert_eq!(disk.allocated_blocks().count(), 4096);
        let share = len.0 / 4096;
        for (place, extent) in (0..).zip(&extents) {
            assert_eq!(extent.start().0 / share, place);
        }
        let full = GeneratedDisk::new(len, BlockSize::MAX, 5).with_allocated_spread(len);
        assert_eq!(full.allocated_block(8_388_607), BlockIndex(8_388_607));
        let mut last = [0; 8];
        full.read_at(ByteOffset(len.0 - 8), &mut last).unwrap();
        assert_ne!(last, [0; 8]);
    }

    #[test]
    fn a_read_past_the_end_is_out_of_range() {
        let disk = GeneratedDisk::new(ByteLen(100), BlockSize::MIN, 0);
        for (at, len) in [(100, 1), (0, 101), (u64::MAX, 2)] {
            let error = disk.read_at(ByteOffset(at), &mut vec![0; len]).unwrap_err();
            assert!(matches!(error, DiskError::OutOfRange { len: ByteLen(100), .. }), "{error:?}");
        }
        disk.read_at(ByteOffset(100), &mut []).unwrap();
        assert_eq!(disk.next_data(ByteOffset(0)).unwrap(), None);
    }
}
