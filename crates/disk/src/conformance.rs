//! The contract of the seam as tests: every implementation calls these in one line.
//!
//! They panic where an implementation breaks its promise. What they try is the same in every run.

use vmkeep_model::{ByteLen, ByteOffset, Extent};

use crate::range::{in_memory, on_disk};
use crate::{BlockRead, BlockWrite, DiskError};

const ROUNDS: usize = 200;
/// Longest single read or write. Longer than a qcow2 cluster, so that pieces meet in one call.
const SPAN_MAX: u64 = 200_000;
const THREADS: u64 = 4;

/// Checks that `disk` reads as `model`, by the whole contract of [`BlockRead`].
///
/// # Panics
/// When it does not.
pub fn reads(disk: &dyn BlockRead, model: &[u8]) {
    assert_eq!(disk.len(), ByteLen(on_disk(model.len())), "size of {disk:?}");
    assert_eq!(disk.is_empty(), model.is_empty());
    check_whole(disk, model);
    check_holes(disk, model);
    check_edges(disk);
    std::thread::scope(|threads| {
        for thread in 0..THREADS {
            threads.spawn(move || check_random_reads(disk, model, &mut Random(thread)));
        }
    });
    check_whole(disk, model);
}

/// Checks that `disk`, which holds `model` at first, takes writes by the whole contract of [`BlockWrite`], and reads
/// back what was written. Returns what it holds in the end.
///
/// # Panics
/// When it does not.
pub fn writes<D: BlockRead + BlockWrite>(disk: &D, mut model: Vec<u8>) -> Vec<u8> {
    let len = on_disk(model.len());
    assert_eq!(BlockRead::len(disk), ByteLen(len), "size for reading");
    assert_eq!(BlockWrite::len(disk), ByteLen(len), "size for writing");
    reads(disk, &model);
    check_writes_out_of_range(disk);
    let mut random = Random(7);
    for _ in 0..ROUNDS {
        write_somewhere(disk, &mut model, &mut random);
    }
    reads(disk, &model);
    write_in_parallel(disk, &mut model);
    disk.sync().expect("sync");
    reads(disk, &model);
    disk.write_zeroes(Extent::new(ByteOffset(0), ByteLen(len))).expect("zeros everywhere");
    model.fill(0);
    reads(disk, &model);
    write_somewhere(disk, &mut model, &mut random);
    disk.sync().expect("sync after zeros");
    reads(disk, &model);
    model
}

fn check_whole(disk: &dyn BlockRead, model: &[u8]) {
    let mut buf = vec![0xa5; model.len()];
    disk.read_at(ByteOffset(0), &mut buf).expect("read of the whole disk");
    assert_same(&buf, model, 0);
}

fn check_random_reads(disk: &dyn BlockRead, model: &[u8], random: &mut Random) {
    for _ in 0..ROUNDS {
        let range = random.range(on_disk(model.len()));
        let mut buf = vec![0x5a; in_memory(range.len().0)];
        disk.read_at(range.start(), &mut buf).unwrap_or_else(|e| panic!("read of {range}: {e}"));
        assert_same(&buf, &model[in_memory(range.start().0)..in_memory(range.end().0)], range.start().0);
    }
}

fn assert_same(read: &[u8], model: &[u8], offset: u64) {
    if let Some(at) = read.iter().zip(model).position(|(a, b)| a != b) {
        let place = offset + on_disk(at);
        panic!("byte {place} reads {:#04x} and should be {:#04x}", read[at], model[at]);
    }
}

/// Extents come in order, are not empty, lie within the disk, and leave out nothing but zeros. Asked from any
/// position, the answer is never behind data.
fn check_holes(disk: &dyn BlockRead, model: &[u8]) {
    let len = on_disk(model.len());
    let mut at = ByteOffset(0);
    while let Some(data) = next_data(disk, at, len) {
        assert_zero(model, Extent::between(at, data.start()));
        at = data.end();
    }
    assert_zero(model, Extent::between(at, ByteOffset(len)));
    assert_eq!(disk.next_data(ByteOffset(len)).expect("data at the end"), None);
    assert_eq!(disk.next_data(ByteOffset(u64::MAX)).expect("data far behind the end"), None);

    let mut random = Random(3);
    for _ in 0..ROUNDS {
        let from = ByteOffset(random.below(len + 1));
        let hole_end = next_data(disk, from, len).map_or(ByteOffset(len), Extent::start);
        assert_zero(model, Extent::between(from, hole_end));
    }
}

fn next_data(disk: &dyn BlockRead, from: ByteOffset, len: u64) -> Option<Extent> {
    let data = disk.next_data(from).unwrap_or_else(|e| panic!("data from {from}: {e}"))?;
    assert!(!data.is_empty(), "an empty extent from {from}");
    assert!(data.start() >= from && data.end().0 <= len, "extent {data} from {from} on a disk of {len}");
    Some(data)
}

fn assert_zero(model: &[u8], hole: Extent) {
    let bytes = &model[in_memory(hole.start().0)..in_memory(hole.end().0)];
    assert!(bytes.iter().all(|&b| b == 0), "{hole} is called a hole and is not zeros");
}

fn check_edges(disk: &dyn BlockRead) {
    let len = disk.len().0;
    disk.read_at(ByteOffset(0), &mut []).expect("an empty read at the start");
    disk.read_at(ByteOffset(len), &mut []).expect("an empty read at the end");
    for (offset, count) in out_of_range(len) {
        let result = disk.read_at(ByteOffset(offset), &mut vec![0; count]);
        assert_out_of_range(&result, offset, count);
    }
}

fn check_writes_out_of_range<D: BlockRead + BlockWrite>(disk: &D) {
    let len = BlockRead::len(disk).0;
    disk.write_at(ByteOffset(len), &[]).expect("an empty write at the end");
    disk.write_zeroes(Extent::new(ByteOffset(len), ByteLen(0))).expect("no zeros at the end");
    for (offset, count) in out_of_range(len) {
        assert_out_of_range(&disk.write_at(ByteOffset(offset), &vec![0xee; count]), offset, count);
        let extent = Extent::new(ByteOffset(offset), ByteLen(on_disk(count)));
        if extent.end().0 > len {
            assert_out_of_range(&disk.write_zeroes(extent), offset, count);
        }
    }
}

/// Ranges that a disk of `len` bytes does not have.
fn out_of_range(len: u64) -> Vec<(u64, usize)> {
    let mut ranges = vec![(len, 1), (len + 1, 0), (len + 1, 1), (u64::MAX, 1), (u64::MAX - 1, 16)];
    if len > 0 {
        ranges.push((len - 1, 2));
        ranges.push((0, in_memory(len) + 1));
    }
    ranges
}

fn assert_out_of_range(result: &Result<(), DiskError>, offset: u64, count: usize) {
    assert!(
        matches!(result, Err(DiskError::OutOfRange { .. })),
        "{count} bytes at {offset} should be out of range, not {result:?}"
    );
}

fn write_somewhere<D: BlockRead + BlockWrite>(disk: &D, model: &mut [u8], random: &mut Random) {
    let range = random.range(on_disk(model.len()));
    let bytes = &mut model[in_memory(range.start().0)..in_memory(range.end().0)];
    if random.below(3) == 0 {
        bytes.fill(0);
        disk.write_zeroes(range).unwrap_or_else(|e| panic!("zeros at {range}: {e}"));
    } else {
        random.fill(bytes);
        disk.write_at(range.start(), bytes).unwrap_or_else(|e| panic!("write at {range}: {e}"));
    }
}

/// Every thread writes its own quarter; the quarters do not end at the end of a cluster or page.
fn write_in_parallel<D: BlockRead + BlockWrite>(disk: &D, model: &mut [u8]) {
    let quarter = model.len().div_ceil(in_memory(THREADS)).max(1);
    std::thread::scope(|threads| {
        for (index, part) in model.chunks_mut(quarter).enumerate() {
            threads.spawn(move || {
                let start = on_disk(index * quarter);
                let mut random = Random(100 + on_disk(index));
                for _ in 0..ROUNDS / 4 {
                    let range = random.range(on_disk(part.len()));
                    let bytes = &mut part[in_memory(range.start().0)..in_memory(range.end().0)];
                    random.fill(bytes);
                    disk.write_at(ByteOffset(start + range.start().0), bytes).expect("a write beside others");
                }
            });
        }
    });
}

/// Splitmix64: numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A range within a disk of `len` bytes; half of them begin and end on a sector.
    fn range(&mut self, len: u64) -> Extent {
        let mut start = self.below(len + 1);
        let mut count = self.below((len - start).min(SPAN_MAX) + 1);
        if self.below(2) == 0 {
            start -= start % 512;
            count -= count % 512;
        }
        Extent::new(ByteOffset(start), ByteLen(count))
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            word.copy_from_slice(&random[..word.len()]);
        }
    }
}
