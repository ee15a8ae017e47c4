//! The depths of verification, over a vault in memory that holds one point of a disk of 256 MiB, pages of text and noise in turn.
//!
//! `structure`, `sealed` and `blocks` look at everything and are counted as the 256 MiB of the disk; `rolling sealed` and
//! `rolling blocks` check every pack by itself, in one run, and are counted as the bytes of the packs.
#![allow(missing_docs)] // criterion's macros make public functions

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::backup;
use vmkeep::disk::Memory;
use vmkeep::model::CancelToken;
use vmkeep::restore::{self, Depth, RollingSettings, verify_rolling, verify_vault};
use vmkeep::vault::{Budget, PackDepth};
use vmkeep_benches::{Entropy, MIB, back_up, content, vault};
use vmkeep_testkit::permit;

const LEN: usize = 256 * MIB;

fn depths(c: &mut Criterion) {
    let vault = vault();
    back_up(&vault, &Memory::from(content(Entropy::Half, LEN, 1)), &backup::Settings::default());
    let (walk, silent, cancel) = (restore::Settings::default(), &restore::Silent, &CancelToken::new());
    let mut group = c.benchmark_group("verify");
    group.sample_size(10).measurement_time(Duration::from_secs(8));

    group.throughput(Throughput::Bytes(LEN as u64));
    for (name, depth) in [("structure", Depth::Structure), ("sealed", Depth::Sealed), ("blocks", Depth::Data)]
    {
        group.bench_function(name, |b| {
            b.iter(|| {
                let report = verify_vault(&permit(), &vault, depth, &walk, silent, cancel);
                assert!(report.expect("memory does not fail").is_clean());
            });
        });
    }
    let roll = |depth| {
        let settings = RollingSettings { budget: Budget::Millipercent(100_000), depth, walk };
        let report =
            verify_rolling(&permit(), &vault, &settings, silent, cancel).expect("memory does not fail");
        assert!(report.is_clean());
        report.checked.bytes
    };
    group.throughput(Throughput::Bytes(roll(PackDepth::Sealed)));
    for (name, depth) in [("rolling sealed", PackDepth::Sealed), ("rolling blocks", PackDepth::Blocks)] {
        group.bench_function(name, |b| b.iter(|| roll(depth)));
    }
    group.finish();
}

criterion_group!(benches, depths);
criterion_main!(benches);
