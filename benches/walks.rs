//! Whole walks over a disk of 256 MiB in memory, pages of text and noise in turn, to and from a vault in memory, with the
//! default settings (a worker per processor, level default, 128 MiB).
//!
//! `full`: the first backup, all of it stored. `unchanged`: an increment of nothing. `1 % scattered`: an increment of 41
//! of the 4,096 blocks, spread evenly, one page changed in each. `restore` copies all of it to memory; `verify` checks every
//! byte. All are counted as 256 MiB.
#![allow(missing_docs)] // criterion's macros make public functions

use std::cell::Cell;
use std::time::Duration;
use vmkeep::model::op;
use vmkeep_testkit::permit;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::backup;
use vmkeep::disk::{BlockWrite, Memory};
use vmkeep::model::{BlockSize, ByteOffset, CancelToken, PAGE_SIZE};
use vmkeep::restore::{self, Depth, copy_disk, verify_point};
use vmkeep::vault::OpenPoint;
use vmkeep_benches::{Entropy, MIB, back_up, content, vault};

const LEN: usize = 256 * MIB;
/// Every so many blocks one is changed: 1 %.
const EVERY: usize = 100;

fn changed_blocks() -> usize {
    (LEN / BlockSize::default().bytes()).div_ceil(EVERY)
}

/// Gives one page of every hundredth block new noise.
fn change(disk: &Memory, version: u64) {
    let noise = content(Entropy::Noise, changed_blocks() * PAGE_SIZE, version);
    for (page, at) in
        noise.chunks(PAGE_SIZE).zip((0..LEN as u64).step_by(EVERY * BlockSize::default().bytes()))
    {
        disk.write_at(ByteOffset(at), page).expect("memory does not fail");
    }
}

fn walks(c: &mut Criterion) {
    let settings = backup::Settings::default();
    let disk = Memory::from(content(Entropy::Half, LEN, 1));
    let mut group = c.benchmark_group("walks");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(10).measurement_time(Duration::from_secs(8));

    group.bench_function("full", |b| {
        let full = |vault| (back_up(&vault, &disk, &settings), vault);
        b.iter_batched(vault, full, BatchSize::PerIteration);
    });

    let vault = vault();
    back_up(&vault, &disk, &settings);
    group.bench_function("unchanged", |b| {
        b.iter(|| assert_eq!(back_up(&vault, &disk, &settings).bytes_changed, 0));
    });
    let version = Cell::new(1);
    group.bench_function("1 % scattered", |b| {
        let next = || {
            version.set(version.get() + 1);
            change(&disk, version.get());
        };
        let expected = (changed_blocks() * BlockSize::default().bytes()) as u64;
        let increment = |()| assert_eq!(back_up(&vault, &disk, &settings).bytes_changed, expected);
        b.iter_batched(next, increment, BatchSize::PerIteration);
    });

    let (settings, silent, cancel) = (restore::Settings::default(), &restore::Silent, &CancelToken::new());
    let point =
        || -> OpenPoint { vault.point(&"vm@1".parse().expect("a point")).expect("memory does not fail") };
    group.bench_function("restore", |b| {
        let copy = |target: Memory| {
            let read = point()
                .disk(&permit::<op::Restore>(), &"os".parse().expect("a disk name"))
                .expect("the point has it");
            let copied = copy_disk(&read, &target, &settings, silent, cancel).expect("memory does not fail");
            assert_eq!(copied.written.0, LEN as u64);
            target
        };
        b.iter_batched(|| Memory::new(LEN), copy, BatchSize::PerIteration);
    });
    group.bench_function("verify", |b| {
        b.iter(|| {
            let report = verify_point(&permit(), &point(), Depth::Data, &settings, silent, cancel);
            assert!(report.expect("memory does not fail").is_clean());
        });
    });
    group.finish();
}

criterion_group!(benches, walks);
criterion_main!(benches);
