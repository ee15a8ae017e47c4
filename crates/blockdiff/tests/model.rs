//! Segments and scans against a plain model: two arrays of bytes, compared block by block.
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;
use vmkeep_blockdiff::{Chunk, ScanBuffer, SegmentSize, Segments, is_zero, scan};
use vmkeep_disk::{BlockRead, DiskError, Memory, SparseMemory};
use vmkeep_model::{BlockIndex, BlockRun, BlockSize, ByteLen, ByteOffset, ContentHash, Extent};
use vmkeep_testkit::CountingDisk;

/// 128-bit FNV-1a over words: enough where nobody attacks.
fn hash(block: &[u8]) -> ContentHash {
    let words = block.chunks(8).map(|word| word.iter().fold(0_u128, |all, &b| all << 8 | u128::from(b)));
    let hash = words.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, word| {
        (hash ^ word).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    ContentHash(hash.to_le_bytes())
}

/// A disk that calls the bytes of `data` data: everything that is not zero, and more.
#[derive(Debug)]
struct Mapped {
    memory: Memory,
    data: Vec<Extent>,
}

impl BlockRead for Mapped {
    fn len(&self) -> ByteLen {
        BlockRead::len(&self.memory)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.memory.read_at(offset, buf)
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        let rest = Extent::between(from, ByteOffset(self.len().0));
        Ok(self.data.iter().map(|extent| extent.intersection(rest)).find(|part| !part.is_empty()))
    }
}

/// Content of a block: nothing, all of one byte, or one byte in it.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Zero,
    Whole(u8),
    One(u8, u16),
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        3 => Just(Fill::Zero),
        2 => (1..4_u8).prop_map(Fill::Whole),
        2 => (1..4_u8, any::<u16>()).prop_map(|(byte, at)| Fill::One(byte, at)),
    ]
}

/// The bytes of a disk, `cut` bytes short of whole blocks.
fn bytes(size: BlockSize, fills: &[Fill], cut: u16) -> Vec<u8> {
    let mut bytes = vec![0; fills.len() * size.bytes()];
    for (block, fill) in bytes.chunks_mut(size.bytes()).zip(fills) {
        match *fill {
            Fill::Zero => {}
            Fill::Whole(byte) => block.fill(byte),
            Fill::One(byte, at) => block[usize::from(at) % size.bytes()] = byte,
        }
    }
    bytes.truncate(bytes.len().saturating_sub(usize::from(cut) % size.bytes()));
    bytes
}

/// Extents that hold every byte that is not zero, and `extra`; apart, ascending, few of them at block edges.
fn extents(bytes: &[u8], extra: &[(u32, u16)]) -> Vec<Extent> {
    let mut data: Vec<bool> = bytes.iter().map(|&b| b != 0).collect();
    for &(start, len) in extra {
        let start = usize::try_from(start).unwrap() % bytes.len().max(1);
        data.iter_mut().skip(start).take(usize::from(len)).for_each(|d| *d = true);
    }
    let mut extents: Vec<Extent> = Vec::new();
    for (at, _) in (0_u64..).zip(&data).filter(|(_, d)| **d) {
        match extents.last_mut().filter(|last| last.end().0 == at) {
            Some(last) => *last = Extent::between(last.start(), ByteOffset(at + 1)),
            None => extents.push(Extent::new(ByteOffset(at), ByteLen(1))),
        }
    }
    extents
}

/// The blocks that are not all zero, padded, by number.
fn blocks(size: BlockSize, bytes: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    let padded = |block: &[u8]| [block, &vec![0; size.bytes() - block.len()]].concat();
    let numbered = (0..).zip(bytes.chunks(size.bytes()));
    numbered.filter(|(_, block)| block.iter().any(|&b| b != 0)).map(|(n, block)| (n, padded(block))).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Became {
    Data(Vec<u8>),
    Zero,
}

/// What became of every block that is not what it was, and how many are.
fn expected(size: BlockSize, before: &[u8], after: &[u8]) -> (BTreeMap<u64, Became>, u64) {
    let (old, new) = (blocks(size, before), blocks(size, after));
    let kept = size.count_for(ByteLen(after.len() as u64));
    let zeroed = old.keys().filter(|n| !new.contains_key(n) && **n < kept).map(|&n| (n, Became::Zero));
    let same = |n: &u64| old.get(n) == new.get(n);
    let data = new.iter().filter(|(n, _)| !same(n)).map(|(&n, block)| (n, Became::Data(block.clone())));
    (zeroed.chain(data).collect(), new.keys().filter(|n| same(n)).count() as u64)
}

fn known(
    size: BlockSize,
    before: &[u8],
) -> impl Iterator<Item = Result<(BlockIndex, ContentHash), Infallible>> {
    blocks(size, before).into_iter().map(|(n, block)| Ok((BlockIndex(n), hash(&block))))
}

fn singles(runs: &[BlockRun]) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|run| run.start.0..run.end().0)
}

proptest! {
    #[test]
    fn every_block_becomes_what_the_model_says_and_is_read_once(
        log2 in 14_u32..=16, segment in 1_usize..300_000, old in prop::collection::vec(fill(), 0..14),
        new in prop::collection::vec((any::<bool>(), fill()), 0..14), old_cut: u16, new_cut: u16,
        extra in prop::collection::vec((any::<u32>(), any::<u16>()), 0..4),
    ) {
        let size = BlockSize::try_from(1 << log2).unwrap();
        // About half of the blocks stay what they were.
        let kept = |n: usize, stays: bool, fill: Fill| if stays { old.get(n).copied().unwrap_or(fill) } else { fill };
        let new: Vec<Fill> = (0..).zip(new).map(|(n, (stays, fill))| kept(n, stays, fill)).collect();
        let (before, after) = (bytes(size, &old, old_cut), bytes(size, &new, new_cut));
        let data = extents(&after, &extra);
        let disk = CountingDisk::new(Mapped { memory: Memory::from(after.clone()), data: data.clone() });

        let (mut found, mut same, mut next, mut bytes_read) = (BTreeMap::new(), 0, 0, 0);
        let mut buffer = ScanBuffer::default();
        for segment in Segments::new(&disk, size, SegmentSize(segment), known(size, &before)) {
            let segment = segment.unwrap();
            let scanned = scan(&disk, &segment, &hash, &mut buffer).unwrap();
            // In order: the holes before the run, then the blocks of the run.
            let holes: Vec<u64> = singles(&segment.zeroed).collect();
            prop_assert!(holes.iter().all(|&n| n < segment.run.start.0 || segment.run.is_empty()));
            prop_assert!(scanned.data.is_sorted_by_key(|chunk| chunk.block));
            prop_assert!(singles(&scanned.zeroed).is_sorted_by(|a, b| a < b));
            let zeroed = singles(&scanned.zeroed).map(|n| (n, Became::Zero));
            let data = scanned.data.iter().map(|chunk| (chunk.block.0, Became::Data(chunk.bytes().to_vec())));
            let of_segment: BTreeMap<u64, Became> = zeroed.chain(data).collect();
            prop_assert!(of_segment.first_key_value().is_none_or(|(&first, _)| first >= next), "ascending");
            next = of_segment.last_key_value().map_or(next, |(&last, _)| last + 1).max(segment.run.end().0);
            prop_assert!(scanned.data.iter().all(|chunk| chunk.hash == hash(chunk.bytes())));
            found.extend(of_segment);
            same += scanned.same;
            bytes_read += scanned.bytes_read;
        }
        prop_assert_eq!((found, same), expected(size, &before, &after));

        // Every block with a byte that may be data is read, once, and no other.
        let log = disk.take_log();
        prop_assert!(log.windows(2).all(|pair| pair[0].end() <= pair[1].start()), "{log:?}");
        prop_assert!(log.iter().all(|read| read.len().0 <= segment.max(size.bytes()) as u64));
        let read: Vec<u64> = log.iter().flat_map(|&read| size.blocks_touching(read).iter()).map(|b| b.0).collect();
        let mut candidates: Vec<u64> = data.iter().flat_map(|&d| size.blocks_touching(d).iter()).map(|b| b.0).collect();
        candidates.dedup();
        prop_assert_eq!(read, candidates);
        prop_assert_eq!(bytes_read, disk.counts().bytes);
    }

    #[test]
    fn is_zero_is_what_a_plain_loop_says(len in 0_usize..3000, at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = vec![0; len];
        prop_assert!(is_zero(&bytes));
        if len > 0 {
            bytes[at.index(len)] = byte;
            prop_assert_eq!(is_zero(&bytes), byte == 0);
        }
    }

    #[test]
    fn chunks_together_are_their_bytes_one_after_another(
        fills in prop::collection::vec(fill(), 1..20), segment in 1_usize..120_000, from: prop::sample::Index, len in 0_usize..20
    ) {
        let size = BlockSize::MIN;
        let disk = Memory::from(bytes(size, &fills, 0));
        let mut chunks: Vec<Chunk> = Vec::new();
        for segment in Segments::new(&disk, size, SegmentSize(segment), known(size, &[])) {
            chunks.extend(scan(&disk, &segment.unwrap(), &hash, &mut ScanBuffer::default()).unwrap().data);
        }
        let some = &chunks[from.index(chunks.len() + 1).min(chunks.len())..];
        let some = &some[..len.min(some.len())];
        let plain: Vec<u8> = some.iter().flat_map(|chunk| chunk.bytes().to_vec()).collect();
        prop_assert_eq!(&*Chunk::together(some), &plain[..]);
    }
}

#[test]
fn neighbours_of_one_segment_are_together_without_a_copy() {
    let disk = Memory::from(vec![1; 4 * BlockSize::MIN.bytes()]);
    let mut segments =
        Segments::new(&disk, BlockSize::MIN, SegmentSize::default(), known(BlockSize::MIN, &[]));
    let segment = segments.next().unwrap().unwrap();
    let chunks = scan(&disk, &segment, &hash, &mut ScanBuffer::default()).unwrap().data;
    assert!(matches!(Chunk::together(&chunks[1..]), std::borrow::Cow::Borrowed(_)));
    let apart = [chunks[0].clone(), chunks[2].clone()];
    assert!(matches!(Chunk::together(&apart), std::borrow::Cow::Owned(_)));
}

#[test]
fn an_unchanged_disk_of_many_segments_is_the_same_throughout() {
    let bytes = vec![7; 3 << 20];
    let disk = Memory::from(bytes.clone());
    let mut buffer = ScanBuffer::default();
    let mut same = 0;
    let known = known(BlockSize::default(), &bytes);
    for segment in Segments::new(&disk, BlockSize::default(), SegmentSize::default(), known) {
        let scanned = scan(&disk, &segment.unwrap(), &hash, &mut buffer).unwrap();
        assert!(scanned.data.is_empty() && scanned.zeroed.is_empty());
        same += scanned.same;
    }
    assert_eq!(same, 48);
}

#[test]
fn many_scattered_holes_come_in_segments_of_bounded_size() {
    const BLOCKS: u64 = 20_000;
    let disk = SparseMemory::new(ByteLen(BLOCKS * BlockSize::MIN.bytes_u64()));
    let every_other =
        (0..BLOCKS).step_by(2).map(|n| Ok::<_, Infallible>((BlockIndex(n), ContentHash([1; 16]))));
    let mut found = Vec::new();
    for segment in Segments::new(&disk, BlockSize::MIN, SegmentSize::default(), every_other) {
        let segment = segment.unwrap();
        assert!(segment.zeroed.len() <= 4096 && segment.run.is_empty());
        found.extend(singles(&segment.zeroed));
    }
    assert_eq!(found, (0..BLOCKS).step_by(2).collect::<Vec<_>>());
}
