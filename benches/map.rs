//! Writing the next version of a block map, nodes kept in memory: no packing, no sealing.
//!
//! `1,000 scattered`: a 10 TiB disk with 65,536 blocks (4 GiB) spread over all of it, 1,000 of them changed in the order
//! of their numbers, as whole blocks or as patches of one page. `sequential full`: a new map of 65,536 neighbouring blocks. `read all`: every entry of the spread map
//! in order. Rates count the blocks that are written or read, 64 KiB each.
#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::envelope::{IdentityKey, PackName};
use vmkeep::model::{BlockIndex, BlockSize, ContentHash, PageMask, PointNumber, SessionId};
use vmkeep::vault::map::testing::{MemoryNodes, MemorySink};
use vmkeep::vault::map::{Entry, MapReader, MapWriter, Root};
use vmkeep::vault::{PackPlace, Reference, StorageId};
use vmkeep_benches::keys;

const BLOCKS: u64 = 65_536;
const CHANGED: u64 = 1000;
/// 10 TiB in blocks of 64 KiB, shared out evenly.
const SHARE: u64 = (10 << 40) / (64 << 10) / BLOCKS;
const NODES_PER_PACK: usize = 4096;

fn entry(block: u64, birth: u64) -> Entry {
    let session = SessionId(u128::from(birth).to_be_bytes());
    let pack = PackPlace { lineage: None, session, name: PackName(u128::from(block / 512).to_be_bytes()) };
    let small = |n: u64| u32::try_from(n).expect("below 512");
    let at = StorageId { pack, slot: small(block % 512 / 8), index: small(block % 8) };
    let hash =
        ContentHash(u128::from(block << 8 | birth).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c).to_le_bytes());
    Entry::Full { at: Reference { at, birth: PointNumber(birth) }, hash }
}

/// Writes `blocks` over the map below `base`; new nodes go to the sink that is returned.
fn write(
    nodes: &MemoryNodes,
    identity: &IdentityKey,
    base: Root,
    birth: u64,
    blocks: impl Iterator<Item = u64>,
) -> (Root, MemorySink) {
    let mut sink = MemorySink::new(SessionId(u128::from(birth << 32).to_be_bytes()), NODES_PER_PACK);
    let reader = MapReader::new(nodes, identity, BlockSize::default(), base);
    let mut writer = MapWriter::new(reader, PointNumber(birth));
    for block in blocks {
        writer.set(&mut sink, BlockIndex(block), Some(entry(block, birth))).expect("nodes are in memory");
    }
    let pending = writer.finish(&mut sink).expect("nodes are in memory");
    sink.seal();
    (pending.resolve(&sink).expect("every pack is sealed"), sink)
}

fn map(c: &mut Criterion) {
    let keys = keys();
    let identity = keys.identity().expect("a VM has an identity key");
    let mut nodes = MemoryNodes::default();
    let (root, mut sink) = write(&nodes, identity, None, 1, (0..BLOCKS).map(|n| n * SHARE + n % SHARE));
    sink.drain_into(&mut nodes);
    let mut group = c.benchmark_group("map");
    group.sample_size(20);

    group.throughput(Throughput::Bytes(CHANGED * BlockSize::default().bytes_u64()));
    let step = BLOCKS / CHANGED;
    group.bench_function("1,000 scattered of 10 TiB", |b| {
        let changed = || (0..CHANGED).map(|n| n * step).map(|n| n * SHARE + n % SHARE);
        b.iter(|| write(&nodes, identity, root, 2, changed()).0);
    });
    let page = PageMask::from_pages(BlockSize::default(), [3]).expect("a block has 16 pages");
    group.bench_function("1,000 scattered patches", |b| {
        let changed = || (0..CHANGED).map(|n| n * step).map(|n| n * SHARE + n % SHARE);
        b.iter(|| {
            let mut sink = MemorySink::new(SessionId([9; 16]), NODES_PER_PACK);
            let reader = MapReader::new(&nodes, identity, BlockSize::default(), root);
            let mut writer = MapWriter::new(reader, PointNumber(2));
            for block in changed() {
                let Entry::Full { at, hash } = entry(block, 2) else {
                    unreachable!("entry makes whole blocks")
                };
                let patched = writer.patch(&mut sink, BlockIndex(block), at, page.clone(), hash);
                patched.expect("nodes are in memory");
            }
            let pending = writer.finish(&mut sink).expect("nodes are in memory");
            sink.seal();
            pending.resolve(&sink).expect("every pack is sealed")
        });
    });
    group.throughput(Throughput::Bytes(BLOCKS * BlockSize::default().bytes_u64()));
    group.bench_function("sequential full", |b| {
        b.iter(|| write(&nodes, identity, None, 2, 0..BLOCKS).0);
    });
    group.bench_function("read all", |b| {
        let reader = MapReader::new(&nodes, identity, BlockSize::default(), root);
        b.iter(|| {
            let entries = reader.entries(BlockIndex(0)).map(|entry| entry.expect("nodes are in memory"));
            assert_eq!(entries.count() as u64, BLOCKS);
        });
    });
    group.finish();
}

criterion_group!(benches, map);
criterion_main!(benches);
