//! What a change costs in stored map, in bytes: bounded by the change, whatever the size or the age of the disk.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

use std::collections::BTreeSet;

use vmkeep_model::{BlockIndex, BlockSize, ContentHash, PointNumber, SessionId};
use vmkeep_vault::map::testing::{History, Written};
use vmkeep_vault::map::{Entry, Root};
use vmkeep_vault::{PackName, PackPlace, Reference, StorageId};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB_BLOCKS: u64 = 1 << 14;
const TIB_BLOCKS: u64 = 1 << 24;

/// Numbers that look random, from a seed (after `SplitMix64`).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self) -> [u8; 16] {
        let (a, b) = (self.next(), self.next());
        ((u128::from(a) << 64) | u128::from(b)).to_le_bytes()
    }

    /// `count` blocks below `end`, in order, no two of one.
    fn blocks(&mut self, count: usize, end: u64) -> Vec<u64> {
        let mut blocks = BTreeSet::new();
        while blocks.len() < count {
            blocks.insert(self.next() % end);
        }
        blocks.into_iter().collect()
    }
}

/// Stores `blocks` as a backup does: packs of 512 blocks, frames of 4.
fn store(history: &mut History, numbers: &mut Numbers, base: Root, point: u64, blocks: &[u64]) -> Written {
    let session = SessionId(u128::from(point).to_be_bytes());
    history
        .write(base, PointNumber(point), |writer, sink| {
            let mut pack = PackPlace { lineage: None, session, name: PackName(numbers.bytes()) };
            for (i, &block) in (0_u32..).zip(blocks) {
                if i % 512 == 511 {
                    pack.name = PackName(numbers.bytes());
                }
                let at = StorageId { pack, slot: i % 512 / 4, index: i % 4 };
                let at = Reference { at, birth: PointNumber(point) };
                let hash = ContentHash(numbers.bytes());
                writer.set(sink, BlockIndex(block), Some(Entry::Full { at, hash }))?;
            }
            Ok(())
        })
        .unwrap()
}

/// The nodes that `point` wrote, compressed as slots of 256 KiB.
fn compressed(history: &History, point: u64) -> usize {
    let session = SessionId(u128::from(point).to_be_bytes());
    let written = history.nodes.nodes.iter().filter(|(at, _)| at.pack.session == session);
    let all: Vec<u8> = written.flat_map(|(_, node)| node.iter().copied()).collect();
    all.chunks(256 * KIB).map(|slot| zstd::bulk::compress(slot, 1).unwrap().len()).sum()
}

/// A fully allocated disk takes a map of gigabytes, so only the nodes on the way to `changed` are made: each leaf with
/// all of its 64 blocks. What hangs beside them would be shared, and is stood for by single blocks where it matters to
/// the shape and the number of children of the nodes above.
fn full_disk_around(history: &mut History, numbers: &mut Numbers, end: u64, changed: &[u64]) -> Root {
    let mut blocks = BTreeSet::new();
    for &block in changed {
        for level in 0..5 {
            let span = 64_u64.pow(level);
            let first = block / (span * 64) * (span * 64);
            for place in 0..64 {
                blocks.insert(first + place * span);
            }
        }
    }
    let blocks: Vec<u64> = blocks.into_iter().filter(|&b| b < end).collect();
    store(history, numbers, None, 1, &blocks).root
}

#[test]
fn a_thousand_scattered_changes_of_a_full_disk_of_10_tib_cost_a_fraction_of_a_mib() {
    let end = 10 * TIB_BLOCKS;
    let mut numbers = Numbers(1);
    let mut history = History::new(BlockSize::default(), 4000);
    let changed = numbers.blocks(1000, end);
    let root = full_disk_around(&mut history, &mut numbers, end, &changed);
    let written = store(&mut history, &mut numbers, root, 2, &changed);
    let stored = compressed(&history, 2);
    println!("encoded {} bytes in {} nodes, compressed {stored}", written.byte_count, written.node_count);
    assert!(written.byte_count < 300 * KIB, "{}", written.byte_count);
    assert!((MIB / 20..MIB / 5).contains(&stored), "{stored}");
}

#[test]
fn a_thousand_changes_of_a_sparse_map_cost_the_same_on_a_disk_of_any_size() {
    let mut costs = Vec::new();
    for (even, end) in [64 * GIB_BLOCKS, 512 * GIB_BLOCKS, TIB_BLOCKS, 3 * TIB_BLOCKS, 10 * TIB_BLOCKS]
        .into_iter()
        .flat_map(|end| [(true, end), (false, end)])
    {
        let mut numbers = Numbers(end);
        let mut history = History::new(BlockSize::default(), 4000);
        let blocks: Vec<u64> =
            if even { (0..1024).map(|i| i * (end / 1024)).collect() } else { numbers.blocks(1024, end) };
        let root = store(&mut history, &mut numbers, None, 1, &blocks).root;
        let written = store(&mut history, &mut numbers, root, 2, &blocks[12..1012]);
        println!(
            "{end} blocks, even {even}: encoded {} bytes in {} nodes, compressed {}",
            written.byte_count,
            written.node_count,
            compressed(&history, 2)
        );
        assert!(written.byte_count < 130 * KIB, "{end}: {}", written.byte_count);
        costs.push(written.byte_count);
        let unchanged = history.write(written.root, PointNumber(3), |_, _| Ok(())).unwrap();
        assert_eq!((unchanged.node_count, unchanged.root), (0, written.root));
    }
    let (least, most) = (costs.iter().min().unwrap(), costs.iter().max().unwrap());
    assert!(most * 2 <= least * 3, "{least} to {most}");
}

#[test]
fn small_increments_cost_the_same_after_a_thousand_points() {
    let end = 64 * GIB_BLOCKS / 4;
    let mut numbers = Numbers(3);
    let mut history = History::new(BlockSize::default(), 4000);
    let mut root = store(&mut history, &mut numbers, None, 1, &(0..end).collect::<Vec<_>>()).root;
    let mut costs = Vec::new();
    for point in 2..1002 {
        let changed = numbers.blocks(4, end);
        let written = store(&mut history, &mut numbers, root, point, &changed);
        root = written.root;
        costs.push(written.byte_count);
    }
    let mean = |costs: &[usize]| costs.iter().sum::<usize>() / costs.len();
    let hundreds: Vec<usize> = costs.chunks(100).map(mean).collect();
    println!("mean of each hundred: {hundreds:?}, most {}", costs.iter().max().unwrap());
    assert!(hundreds[9] * 2 <= hundreds[1] * 3, "{hundreds:?}");
    assert!(costs.iter().all(|&cost| cost < 32 * KIB));
}

#[test]
fn the_same_blocks_changed_a_thousand_times_cost_the_same_each_time() {
    let mut numbers = Numbers(4);
    let mut history = History::new(BlockSize::default(), 4000);
    let mut root = store(&mut history, &mut numbers, None, 1, &(0..100_000).collect::<Vec<_>>()).root;
    let mut costs = Vec::new();
    for point in 2..1002 {
        let written = store(&mut history, &mut numbers, root, point, &[7, 4_000, 50_000, 99_999]);
        root = written.root;
        costs.push(written.byte_count);
    }
    println!("first {}, last {}", costs[0], costs[999]);
    assert!(costs[999] < costs[0] + 64, "{} then {}", costs[0], costs[999]); // varints grow
}
