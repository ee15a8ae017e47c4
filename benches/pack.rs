//! Storing a disk whose frames are made already: 64 MiB of noise in frames of 512 KiB, into packs of 32 MiB, map and change
//! list included, to a store in memory. Begins with an open session and ends with the disk durable, before the commit.
#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::model::{BlockIndex, BlockSize, ByteLen};
use vmkeep::vault::{CompressionLevel, Frame, FrameEncoder, Session};
use vmkeep_benches::{Entropy, MIB, content, keys, vault};
use vmkeep_testkit::permit;

const LEN: usize = 64 * MIB;
const PACK: usize = 32 * MIB;

/// The frames of the whole disk. The hashes are made with another key than the vault's, which nothing here looks at.
fn frames() -> Vec<Frame> {
    let (bytes, keys) = (content(Entropy::Noise, LEN, 1), keys());
    let identity = keys.identity().expect("a VM has an identity key");
    let (size, level) = (BlockSize::default(), CompressionLevel::Default);
    let mut encoder = FrameEncoder::new(level).expect("zstd has memory");
    let blocks: Vec<_> = (0..).map(BlockIndex).zip(bytes.chunks(size.bytes())).collect();
    let frame = |blocks: &[(BlockIndex, &[u8])]| {
        let named = blocks.iter().map(|(block, bytes)| (*block, identity.block_hash(bytes))).collect();
        let plain: Vec<u8> = blocks.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        encoder.encode(named, plain.into()).expect("zstd has memory")
    };
    blocks.chunks(level.frame_blocks(size)).map(frame).collect()
}

fn pack(c: &mut Criterion) {
    let frames = frames();
    let disk = "os".parse().expect("a disk name");
    // A new vault each time: what one run stored must not fill memory or serve the next.
    let begun = || vault().begin(&permit(), &"vm".parse().expect("a VM name")).expect("memory does not fail");
    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(10);
    group.bench_function("64 MiB in frames", |b| {
        let store = |session: Session| {
            let writer = session.disk_writer(&disk, BlockSize::default(), PACK);
            let mut writer = writer.expect("memory does not fail");
            for frame in &frames {
                writer.frame(frame).expect("memory does not fail");
            }
            let written = writer.finish(ByteLen(LEN as u64)).expect("memory does not fail");
            assert!(written.stored.data > LEN as u64);
            session
        };
        b.iter_batched(begun, store, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, pack);
criterion_main!(benches);
