//! Compressing frames: 8 MiB of text, of pages of text and noise in turn, and of noise, at each level, in frames of the
//! level's own length, on one thread.
#![allow(missing_docs)] // criterion's macros make public functions

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::model::BlockSize;
use vmkeep::vault::{CompressionLevel, FrameEncoder};
use vmkeep_benches::{Entropy, MIB, content};

const LEN: usize = 8 * MIB;

fn frame(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(20);
    for (name, entropy) in Entropy::ALL {
        let bytes = content(entropy, LEN, 1);
        for level in [CompressionLevel::Fast, CompressionLevel::Default, CompressionLevel::Best] {
            let frame = level.frame_blocks(BlockSize::default()) * BlockSize::default().bytes();
            let mut encoder = FrameEncoder::new(level).expect("zstd has memory");
            group.bench_function(BenchmarkId::new(format!("{level:?}").to_lowercase(), name), |b| {
                b.iter(|| {
                    for plain in bytes.chunks(frame) {
                        black_box(encoder.encode(Vec::new(), plain.into()).expect("zstd has memory"));
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, frame);
criterion_main!(benches);
