//! The diff as a function: applied to the first image it gives the second, whatever the hint says too much.
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Mutex;

use proptest::prelude::*;
use vmkeep_blockdiff::{
    ChangeSource, DirtyBitmap, ExtentList, Fingerprints, PageDiff, PageHasher, PreviousContent, ScanBuffer,
    SegmentSize, Segments, Was, scan_pages,
};
use vmkeep_disk::Memory;
use vmkeep_model::{
    BlockIndex, BlockSize, ByteLen, ByteOffset, ContentHash, Extent, ExtentSet, PAGE_SIZE, PageMask,
};
use zeroize::Zeroizing;

const SIZE: BlockSize = BlockSize::MIN;
const BLOCK: usize = 16 << 10;

/// 128-bit FNV-1a: enough where nobody attacks.
fn hash(block: &[u8]) -> ContentHash {
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let mix = |hash: u128, byte: &u8| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    };
    ContentHash(block.iter().fold(start, mix).to_le_bytes())
}

/// Fingerprints of everything that was ever put.
#[derive(Debug, Default)]
struct Remembered(Mutex<BTreeMap<[u8; 16], Vec<u64>>>);

impl Fingerprints for Remembered {
    fn get(&self, _: BlockIndex, was: ContentHash, pages: &mut Vec<u64>) -> bool {
        let found = self.0.lock().unwrap().get(&was.0).cloned();
        found.is_some_and(|found| {
            *pages = found;
            true
        })
    }

    fn put(&self, _: BlockIndex, now: ContentHash, pages: &[u64]) {
        self.0.lock().unwrap().insert(now.0, pages.to_vec());
    }
}

struct Image<'a>(&'a [u8]);

impl Image<'_> {
    fn block(&self, block: BlockIndex) -> Vec<u8> {
        let start = usize::try_from(block.0).unwrap() * BLOCK;
        let mut bytes = self.0[start.min(self.0.len())..(start + BLOCK).min(self.0.len())].to_vec();
        bytes.resize(BLOCK, 0);
        bytes
    }
}

impl PreviousContent for Image<'_> {
    fn previous(&self, blocks: &[BlockIndex], sink: &mut dyn FnMut(BlockIndex, Option<&[u8]>)) {
        for block in blocks {
            sink(*block, Some(&self.block(*block)));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Knows {
    Fingerprints,
    Content,
    Tracker,
    Nothing,
}

/// Two images of one length, and what the hint names beside their differences.
fn images() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Vec<(usize, usize)>)> {
    let page = prop_oneof![2 => Just(0_u8), 3 => 1..4_u8];
    let pages = prop::collection::vec((page.clone(), prop::option::weighted(0.3, page)), 1..60);
    (pages, 0..PAGE_SIZE, prop::collection::vec((0_usize..60 * PAGE_SIZE, 1_usize..20_000), 0..3)).prop_map(
        |(pages, cut, extra)| {
            let image = |second: bool| {
                let mut bytes: Vec<u8> = pages
                    .iter()
                    .flat_map(|page| vec![page.1.filter(|_| second).unwrap_or(page.0); PAGE_SIZE])
                    .collect();
                bytes.truncate(bytes.len() - cut);
                bytes
            };
            (image(false), image(true), extra)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn applied_to_the_first_image_the_diff_gives_the_second(
        (before, after, extra) in images(),
        knows in prop_oneof![Just(Knows::Fingerprints), Just(Knows::Content), Just(Knows::Tracker), Just(Knows::Nothing)],
        granularity in 9_u32..16,
        patched_before in prop::option::of(0_usize..4),
        segment in 1_usize..6,
    ) {
        let len = ByteLen(after.len() as u64);
        let differ = (0..after.len()).step_by(512).filter(|at| {
            let end = (at + 512).min(after.len());
            before[*at..end] != after[*at..end]
        });
        let extent = |start: usize, len: usize| {
            let end = (start + len).min(after.len());
            Extent::between(ByteOffset(start.min(end) as u64), ByteOffset(end as u64))
        };
        let told: Vec<Extent> = differ.map(|at| extent(at, 512)).chain(extra.iter().map(|&(at, len)| extent(at, len))).collect();
        let mut bitmap = DirtyBitmap::new(len, ByteLen(1 << granularity)).unwrap();
        for extent in &told {
            bitmap.mark(*extent);
        }
        let list = ExtentList::new(told.iter().copied().collect::<ExtentSet>(), len).unwrap();
        let changes: &dyn ChangeSource = if granularity % 2 == 0 { &bitmap } else { &list };

        let hasher = PageHasher::new(Zeroizing::new([9; 192]));
        let (known, image) = (Remembered::default(), Image(&before));
        let blocks = before.len().div_ceil(BLOCK);
        let old_patch = |block: u64| {
            patched_before.filter(|_| block.is_multiple_of(3)).map(|page| PageMask::from_pages(SIZE, [page]).unwrap())
        };
        let mut was = Vec::new();
        for block in (0..blocks as u64).map(BlockIndex) {
            let bytes = image.block(block);
            if bytes.iter().any(|byte| *byte != 0) {
                let mut pages = Vec::new();
                hasher.pages(&bytes, &mut pages);
                if matches!(knows, Knows::Fingerprints) {
                    known.put(block, hash(&bytes), &pages);
                }
                was.push(Ok::<_, Infallible>((block, Was { hash: hash(&bytes), patched: old_patch(block.0) })));
            }
        }
        let pages = PageDiff {
            hasher: &hasher,
            known: &known,
            previous: &image,
            fetch_unknown: matches!(knows, Knows::Content),
            tracked: matches!(knows, Knows::Tracker).then_some(changes),
            is_checked: &|_| true,
        };
        let disk = Memory::from(after.clone());
        let (mut applied, mut buffer) = (before.clone(), ScanBuffer::default());
        applied.resize(blocks * BLOCK, 0);
        for cut in Segments::new(&disk, SIZE, SegmentSize(segment * BLOCK), was.into_iter()).among(changes) {
            let scanned = scan_pages(&disk, &cut.unwrap(), &hash, Some(&pages), &mut buffer).unwrap();
            prop_assert_eq!((scanned.distrusted, scanned.missed), (None, None));
            for run in &scanned.zeroed {
                for block in run.iter() {
                    prop_assert!(image.block(block).iter().any(|byte| *byte != 0), "it was zero before");
                    applied[usize::try_from(block.0).unwrap() * BLOCK..][..BLOCK].fill(0);
                }
            }
            for chunk in &scanned.data {
                let start = usize::try_from(chunk.block.0).unwrap() * BLOCK;
                let old = image.block(chunk.block);
                match &chunk.pages {
                    None => applied[start..start + BLOCK].copy_from_slice(chunk.bytes()),
                    Some(mask) => {
                        prop_assert!(mask.count() <= 2, "past half, the block is stored");
                        mask.copy_to(chunk.bytes(), &mut applied[start..start + BLOCK]);
                        // What lies below is a whole block: pages that were patched are among those stored.
                        prop_assert!(old_patch(chunk.block.0).is_none_or(|patched| mask.holds(&patched)));
                        for page in mask.pages() {
                            let range = page * PAGE_SIZE..(page + 1) * PAGE_SIZE;
                            let is_new = old[range.clone()] != applied[start..][range];
                            let was_patched = old_patch(chunk.block.0).is_some_and(|patched| patched.pages().any(|p| p == page));
                            // A tracker may name pages that are what they were.
                            prop_assert!(is_new || was_patched || matches!(knows, Knows::Tracker), "page {page} is what it was");
                        }
                    }
                }
                prop_assert!(old != applied[start..start + BLOCK], "block {} is what it was", chunk.block);
            }
        }
        applied.truncate(after.len());
        prop_assert!(applied == after);
    }
}
