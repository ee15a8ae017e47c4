//! Which pages of a block changed: 64 MiB of noise in blocks of 64 KiB, one page of each changed, on one thread.
//!
//! `fingerprints` makes the fingerprints of all pages, `in cache` those of one block again and again; `compare content` finds the changed page of each block by comparing.
//! `file put` and `file get` write and read the fingerprint file, which has a place for every block or, where it is
//! `shared`, for half of them. The scans are of the whole disk with every block changed: against a file that knows the
//! version before, or, without one, against the content of the version before.
#![allow(missing_docs)] // criterion's macros make public functions

use std::convert::Infallible;
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vmkeep::blockdiff::{
    FingerprintFile, Fingerprints, NoFingerprints, PageDiff, PageHasher, PreviousContent, ScanBuffer,
    SegmentSize, Segments, changed_pages, default_limit, scan_pages,
};
use vmkeep::disk::Memory;
use vmkeep::envelope::IdentityKey;
use vmkeep::model::{BlockIndex, BlockSize, ByteLen, ContentHash, PAGE_SIZE};
use vmkeep_benches::{Entropy, MIB, content, keys};

const LEN: usize = 64 * MIB;

/// A version of the disk and what names its blocks.
struct Version {
    bytes: Vec<u8>,
    disk: Memory,
    hashes: Vec<ContentHash>,
}

impl Version {
    fn new(bytes: Vec<u8>, identity: &IdentityKey) -> Self {
        let hashes = blocks(&bytes).map(|(_, block)| identity.block_hash(block)).collect();
        Self { disk: Memory::from(bytes.clone()), bytes, hashes }
    }
}

impl PreviousContent for Version {
    fn previous(&self, blocks: &[BlockIndex], sink: &mut dyn FnMut(BlockIndex, Option<&[u8]>)) {
        for &block in blocks {
            let start = usize::try_from(block.0).expect("in memory") * BlockSize::default().bytes();
            sink(block, self.bytes.get(start..start + BlockSize::default().bytes()));
        }
    }
}

fn blocks(bytes: &[u8]) -> impl Iterator<Item = (BlockIndex, &[u8])> {
    (0..).map(BlockIndex).zip(bytes.chunks(BlockSize::default().bytes()))
}

/// Two versions of the disk.
fn versions(identity: &IdentityKey) -> [Version; 2] {
    let before = content(Entropy::Noise, LEN, 1);
    let mut now = before.clone();
    for (n, block) in now.chunks_mut(BlockSize::default().bytes()).enumerate() {
        block[n % BlockSize::default().pages() * PAGE_SIZE] ^= 1;
    }
    [before, now].map(|bytes| Version::new(bytes, identity))
}

fn file(folder: &Path, name: &str, limit: ByteLen, hasher: &PageHasher) -> FingerprintFile {
    let (size, len) = (BlockSize::default(), ByteLen(LEN as u64));
    FingerprintFile::open(&folder.join(name), size, len, limit, hasher.clone(), 1).expect("a scratch folder")
}

/// Scans `now`, of which every block has one other page than `before`.
fn scan_all(
    now: &Version,
    before: &Version,
    pages: &PageDiff<'_>,
    identity: &IdentityKey,
    buffer: &mut ScanBuffer,
) {
    let hasher = |block: &[u8]| identity.block_hash(block);
    let known = (0..).map(BlockIndex).zip(before.hashes.iter().copied()).map(Ok::<_, Infallible>);
    let mut changed = 0;
    for segment in Segments::new(&now.disk, BlockSize::default(), SegmentSize::default(), known) {
        let segment = segment.expect("memory does not fail");
        let scanned = scan_pages(&now.disk, &segment, &hasher, Some(pages), buffer);
        let chunks = scanned.expect("memory does not fail").data;
        changed += chunks.iter().filter(|chunk| chunk.bytes().len() == PAGE_SIZE).count();
    }
    assert_eq!(changed, before.hashes.len());
}

fn pages(c: &mut Criterion) {
    let keys = keys();
    let identity = keys.identity().expect("a VM has an identity key");
    let hasher = PageHasher::new(identity.page_secret());
    let [one, two] = versions(identity);
    let size = BlockSize::default();
    let mut group = c.benchmark_group("pages");
    group.throughput(Throughput::Bytes(LEN as u64)).sample_size(20);

    group.bench_function("fingerprints", |b| {
        let mut prints = Vec::new();
        b.iter(|| {
            for (_, block) in blocks(&one.bytes) {
                hasher.pages(block, &mut prints);
                black_box(&prints);
            }
        });
    });
    group.bench_function("fingerprints in cache", |b| {
        let (mut prints, block) = (Vec::new(), &one.bytes[..size.bytes()]);
        b.iter(|| {
            for _ in &one.hashes {
                hasher.pages(black_box(block), &mut prints);
                black_box(&prints);
            }
        });
    });
    group.bench_function("compare content", |b| {
        b.iter(|| {
            for ((_, before), (_, now)) in blocks(&one.bytes).zip(blocks(&two.bytes)) {
                assert!(changed_pages(size, before, now).is_some());
            }
        });
    });

    let folder = tempfile::tempdir().expect("a scratch folder");
    let prints: Vec<Vec<u64>> = blocks(&one.bytes)
        .map(|(_, block)| {
            let mut prints = Vec::new();
            hasher.pages(block, &mut prints);
            prints
        })
        .collect();
    let limit = default_limit(ByteLen(LEN as u64));
    for (kind, limit) in [("file", limit), ("shared file", ByteLen(limit.0 / 2))] {
        let file = file(folder.path(), kind, limit, &hasher);
        group.bench_function(format!("{kind} put"), |b| {
            b.iter(|| {
                for ((block, hash), prints) in (0..).map(BlockIndex).zip(&one.hashes).zip(&prints) {
                    file.put(block, *hash, prints);
                }
            });
        });
        group.bench_function(format!("{kind} get"), |b| {
            let mut found = Vec::new();
            b.iter(|| {
                let known = (0..).map(BlockIndex).zip(&one.hashes);
                black_box(known.filter(|(block, hash)| file.get(*block, **hash, &mut found)).count())
            });
        });
    }

    let unchecked = |_| false;
    let mut buffer = ScanBuffer::default();
    group.bench_function("scan told by a file", |b| {
        drop(file(folder.path(), "kept", limit, &hasher));
        let kept = file(folder.path(), "kept", limit, &hasher);
        for ((block, hash), prints) in (0..).map(BlockIndex).zip(&one.hashes).zip(&prints) {
            kept.put(block, *hash, prints);
        }
        let told = PageDiff {
            hasher: &hasher,
            known: &kept,
            previous: &one,
            fetch_unknown: false,
            tracked: None,
            is_checked: &unchecked,
        };
        let (mut before, mut now) = (&one, &two);
        b.iter(|| {
            scan_all(now, before, &told, identity, &mut buffer);
            std::mem::swap(&mut before, &mut now);
        });
    });
    group.bench_function("scan comparing content", |b| {
        let compared = PageDiff {
            hasher: &hasher,
            known: &NoFingerprints,
            previous: &one,
            fetch_unknown: true,
            tracked: None,
            is_checked: &unchecked,
        };
        b.iter(|| scan_all(&two, &one, &compared, identity, &mut buffer));
    });
    group.finish();
}

criterion_group!(benches, pages);
criterion_main!(benches);
