//! What tells where a disk may have changed: a disk of 1 TiB, one page of 4 KiB in every 4 MiB of it changed.
//!
//! `bitmap mark` notes those pages in an empty dirty bitmap of 4 KiB granularity, `bitmap walk` lists them again, `bitmap
//! merge` adds the bitmap to a copy of itself. `list parse` reads them as the JSON that `--changed-extents` takes.
//! `segments` cuts them into segments beside a map without entries, and reads nothing. Rates are bytes of changed pages.
#![allow(missing_docs)] // criterion's macros make public functions

use std::convert::Infallible;
use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::blockdiff::{DirtyBitmap, ExtentList, SegmentSize, Segments};
use vmkeep::disk::{BlockRead, DiskError};
use vmkeep::model::{BlockIndex, BlockSize, ByteLen, ByteOffset, ContentHash, Extent, PAGE_SIZE};

const DISK: ByteLen = ByteLen(1 << 40);
const EVERY: u64 = 4 << 20;
const CHANGES: u64 = DISK.0 / EVERY;
const PAGE: ByteLen = ByteLen(PAGE_SIZE as u64);

/// A disk without holes that nobody reads.
#[derive(Debug)]
struct Whole;

impl BlockRead for Whole {
    fn len(&self) -> ByteLen {
        DISK
    }

    fn read_at(&self, _: ByteOffset, _: &mut [u8]) -> Result<(), DiskError> {
        unreachable!("segments are cut, not read")
    }
}

/// The changed pages, each at another place of its 4 MiB.
fn changed() -> impl Iterator<Item = Extent> {
    (0..CHANGES).map(|n| Extent::new(ByteOffset(n * EVERY + n * 7 % (EVERY / PAGE.0) * PAGE.0), PAGE))
}

fn marked() -> DirtyBitmap {
    let mut bitmap = DirtyBitmap::new(DISK, PAGE).expect("a power of two");
    changed().for_each(|extent| bitmap.mark(extent));
    bitmap
}

fn changes(c: &mut Criterion) {
    let bitmap = marked();
    let mut group = c.benchmark_group("changes");
    group.throughput(Throughput::Bytes(CHANGES * PAGE.0)).sample_size(20);
    group.bench_function("bitmap mark", |b| b.iter(marked));
    group.bench_function("bitmap walk", |b| {
        b.iter(|| assert_eq!(bitmap.extents().count() as u64, CHANGES));
    });
    group.bench_function("bitmap merge", |b| {
        let mut sum = bitmap.clone();
        b.iter(|| sum.merge(&bitmap).expect("of the same disk"));
    });
    let mut json = String::from("[");
    for extent in changed() {
        let (comma, at, len) = (if json.len() > 1 { "," } else { "" }, extent.start().0, extent.len().0);
        write!(json, "{comma}{{\"offset\":{at},\"length\":{len}}}").expect("memory does not fail");
    }
    json.push(']');
    group.bench_function("list parse", |b| {
        b.iter(|| black_box(ExtentList::from_json(json.as_bytes(), DISK).expect("it is a list")));
    });
    group.bench_function("segments", |b| {
        b.iter(|| {
            let before = std::iter::empty::<Result<(BlockIndex, ContentHash), Infallible>>();
            let segments = Segments::new(&Whole, BlockSize::default(), SegmentSize::default(), before);
            assert_eq!(segments.among(&bitmap).count() as u64, CHANGES);
        });
    });
    group.finish();
}

criterion_group!(benches, changes);
criterion_main!(benches);
