//! What cannot be read ends the walk, and what was told before it stands.
#![allow(clippy::unwrap_used)] // in helpers too

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use vmkeep_blockdiff::{ScanBuffer, SegmentError, SegmentSize, Segments, scan};
use vmkeep_disk::{BlockRead, DiskError, DiskOperation, Memory};
use vmkeep_model::{BlockIndex, BlockSize, ByteLen, ByteOffset, ContentHash, Extent};
use vmkeep_testkit::FailingDisk;

const BLOCK: usize = 16 << 10;
type Known = Result<(BlockIndex, ContentHash), io::Error>;

/// Every other block holds data.
fn striped(blocks: usize) -> Memory {
    Memory::from((0..blocks).flat_map(|n| [u8::from(n % 2 == 0); BLOCK]).collect::<Vec<u8>>())
}

fn known(blocks: std::ops::Range<u64>) -> impl Iterator<Item = Known> {
    blocks.map(|n| Ok((BlockIndex(n), ContentHash([1; 16]))))
}

/// A disk that cannot say where its data lies, at the question of this number.
#[derive(Debug)]
struct Unmapped(Memory, u64, AtomicU64);

impl BlockRead for Unmapped {
    fn len(&self) -> ByteLen {
        BlockRead::len(&self.0)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<(), DiskError> {
        self.0.read_at(offset, buf)
    }

    fn next_data(&self, from: ByteOffset) -> Result<Option<Extent>, DiskError> {
        if self.2.fetch_add(1, Ordering::SeqCst) == self.1 {
            return Err(DiskError::io(DiskOperation::Map, "test disk", None, io::Error::other("no map")));
        }
        self.0.next_data(from)
    }
}

/// How many segments come before the error, and the error. Nothing comes after it.
fn until_error(disk: &dyn BlockRead, before: Vec<Known>) -> (usize, SegmentError<io::Error>) {
    let mut segments = Segments::new(disk, BlockSize::MIN, SegmentSize::default(), before.into_iter());
    for good in 0.. {
        if let Err(error) = segments.next().expect("the error comes before the end") {
            assert!(segments.next().is_none(), "the walk goes on after an error");
            return (good, error);
        }
    }
    unreachable!("a disk has an end")
}

#[test]
fn an_error_of_what_was_before_ends_the_walk() {
    let disk = striped(10);
    for at in 0..8_u64 {
        let broken = || -> Known { Err(io::Error::other("gone")) };
        let before: Vec<Known> = known(0..at).chain([broken()]).chain(known(at..10)).collect();
        let (good, error) = until_error(&disk, before);
        assert!(matches!(error, SegmentError::Before(_)), "{error}");
        assert!(good as u64 <= at / 2 + 1, "{good} segments, and entry {at} cannot be read");
    }
}

#[test]
fn an_error_of_the_disk_ends_the_walk() {
    for at in 0..5 {
        let disk = Unmapped(striped(10), at, AtomicU64::new(0));
        let (good, error) = until_error(&disk, known(0..2).collect());
        assert!(matches!(error, SegmentError::Disk(_)), "{error}");
        assert_eq!(good as u64, at);
    }
}

#[test]
fn a_block_that_cannot_be_read_fails_its_scan_and_no_other() {
    let disk = FailingDisk::touching(striped(10), ByteOffset(4 * BLOCK as u64 + 7));
    let before = Vec::<Known>::new().into_iter();
    let hash = |block: &[u8]| ContentHash([block[0]; 16]);
    let mut buffer = ScanBuffer::default();
    let outcomes: Vec<(u64, bool)> = Segments::new(&disk, BlockSize::MIN, SegmentSize::default(), before)
        .map(|segment| {
            let segment = segment.unwrap();
            let scanned = scan(&disk, &segment, &hash, &mut buffer);
            // A buffer that a failed read has touched must not show in the next scan.
            if let Ok(scanned) = &scanned {
                assert!(scanned.data.iter().all(|chunk| chunk.bytes() == [1; BLOCK]));
            }
            (segment.run.start.0, scanned.is_ok())
        })
        .collect();
    assert_eq!(outcomes, [(0, true), (2, true), (4, false), (6, true), (8, true)]);
}

#[test]
fn blocks_past_the_end_of_the_disk_are_nobodys() {
    let disk = striped(2);
    let before: Vec<Known> = known(0..100).collect();
    let segments: Vec<_> = Segments::new(&disk, BlockSize::MIN, SegmentSize::default(), before.into_iter())
        .collect::<Result<_, _>>()
        .unwrap();
    let zeroed: Vec<u64> =
        segments.iter().flat_map(|s| &s.zeroed).flat_map(|run| run.iter()).map(|b| b.0).collect();
    let compared: Vec<u64> = segments.iter().flat_map(|s| &s.before).map(|(b, _)| b.0).collect();
    assert_eq!((zeroed, compared), (vec![1], vec![0]));
}
