//! Naming content: 64 MiB of noise in blocks of 64 KiB, on one thread.
//!
//! `bare loop` is the bar of an unchanged scan: each block read into a reused buffer and hashed by keyed BLAKE3, nothing
//! else. `block hash` is the hash alone; `unchanged scan` is what a backup does with a disk that did not change.
#![allow(missing_docs)] // criterion's macros make public functions

use std::convert::Infallible;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::blockdiff::{ScanBuffer, SegmentSize, Segments, scan};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::model::{BlockIndex, BlockSize, ByteOffset};
use vmkeep_benches::{Entropy, MIB, content, keys};

const LEN: usize = 64 * MIB;

fn hash(c: &mut Criterion) {
    let bytes = content(Entropy::Noise, LEN, 1);
    let disk = Memory::from(bytes.clone());
    let (keys, size) = (keys(), BlockSize::default());
    let identity = keys.identity().expect("a VM has an identity key");
    let mut group = c.benchmark_group("hash");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(20);

    group.bench_function("block hash", |b| {
        b.iter(|| {
            for block in bytes.chunks(size.bytes()) {
                black_box(identity.block_hash(block));
            }
        });
    });
    group.bench_function("bare loop", |b| {
        let mut buffer = vec![0; size.bytes()];
        b.iter(|| {
            for at in (0..LEN as u64).step_by(size.bytes()) {
                disk.read_at(ByteOffset(at), &mut buffer).expect("memory does not fail");
                black_box(blake3::keyed_hash(&[3; 32], &buffer));
            }
        });
    });
    let known: Vec<_> =
        (0..).map(BlockIndex).zip(bytes.chunks(size.bytes()).map(|b| identity.block_hash(b))).collect();
    group.bench_function("unchanged scan", |b| {
        let hasher = |block: &[u8]| identity.block_hash(block);
        let mut buffer = ScanBuffer::default();
        b.iter(|| {
            let before = known.iter().copied().map(Ok::<_, Infallible>);
            for segment in Segments::new(&disk, size, SegmentSize::default(), before) {
                let segment = segment.expect("memory does not fail");
                let scanned = scan(&disk, &segment, &hasher, &mut buffer).expect("memory does not fail");
                assert!(scanned.data.is_empty());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, hash);
criterion_main!(benches);
