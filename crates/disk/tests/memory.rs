//! The disks in memory against a plain buffer.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

use std::sync::Arc;

use proptest::prelude::*;
use vmkeep_disk::{BlockRead, BlockWrite, Memory, Overlay, SparseMemory, conformance};
use vmkeep_model::{ByteLen, ByteOffset, Extent};

const LEN: usize = 300_000; // not of whole chunks or pages

/// A base of data with a hole of several chunks in the middle and an odd end.
fn content() -> Vec<u8> {
    let mut content: Vec<u8> = (0..LEN).map(|at| u8::try_from(at % 251).unwrap()).collect();
    content[70_000..270_000].fill(0);
    content
}

#[test]
fn memory_conforms() {
    conformance::writes(&Memory::new(LEN), vec![0; LEN]);
    conformance::reads(&Memory::from(content()), &content());
    conformance::reads(&Memory::new(0), &[]);
}

#[test]
fn sparse_memory_conforms() {
    conformance::writes(&SparseMemory::new(ByteLen(LEN as u64)), vec![0; LEN]);
    conformance::reads(&SparseMemory::new(ByteLen(0)), &[]);
}

#[test]
fn overlay_conforms_and_leaves_its_base_alone() {
    let base = Arc::new(Memory::from(content()));
    let overlay = Overlay::new(Arc::clone(&base) as Arc<dyn BlockRead>);
    let end = conformance::writes(&overlay, content());
    assert_ne!(end, content());
    assert_eq!(base.to_vec(), content());
}

#[test]
fn overlays_stack() {
    let below = Overlay::new(Arc::new(Memory::from(content())));
    let middle = conformance::writes(&below, content());
    conformance::writes(&Overlay::new(Arc::new(below)), middle);
}

#[test]
fn an_empty_overlay_has_the_holes_of_its_base() {
    let base = Memory::from(content());
    let overlay = Overlay::new(Arc::new(Memory::from(content())));
    for from in [0, 1, 65_535, 65_536, 70_000, 100_000, 299_999, 300_000].map(ByteOffset) {
        assert_eq!(overlay.next_data(from).unwrap(), base.next_data(from).unwrap(), "from {from}");
    }
}

#[test]
fn the_largest_disk_there_is_works_at_its_end() {
    let disk = SparseMemory::new(ByteLen(u64::MAX));
    let end = u64::MAX - 3;
    disk.write_at(ByteOffset(end), b"end").unwrap();
    let mut buf = [1; 5];
    disk.read_at(ByteOffset(end - 2), &mut buf).unwrap();
    assert_eq!(&buf, b"\0\0end");
    let data = disk.next_data(ByteOffset(0)).unwrap().unwrap();
    assert_eq!(data.end(), ByteOffset(u64::MAX));
    disk.write_zeroes(Extent::between(ByteOffset(0), ByteOffset(end + 1))).unwrap();
    disk.read_at(ByteOffset(end - 2), &mut buf).unwrap();
    assert_eq!(&buf, b"\0\0\0nd");
    let huge = Overlay::new(Arc::new(disk));
    huge.write_zeroes(Extent::between(ByteOffset(0), ByteOffset(u64::MAX))).unwrap();
    assert_eq!(huge.next_data(ByteOffset(0)).unwrap(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize, u8),
    Zero(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..LEN).prop_flat_map(|start| (Just(start), 0..=(LEN - start).min(150_000)));
    let step = prop_oneof![
        (range(), any::<u8>()).prop_map(|((start, len), byte)| Step::Write(start, len, byte)),
        range().prop_map(|(start, len)| Step::Zero(start, len)),
    ];
    prop::collection::vec(step, 0..12)
}

fn apply(step: &Step, disk: &dyn BlockWrite, model: &mut [u8]) {
    match *step {
        Step::Write(start, len, byte) => {
            model[start..start + len].fill(byte);
            disk.write_at(ByteOffset(start as u64), &vec![byte; len]).unwrap();
        }
        Step::Zero(start, len) => {
            model[start..start + len].fill(0);
            disk.write_zeroes(Extent::new(ByteOffset(start as u64), ByteLen(len as u64))).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_writes_read_back(steps in steps()) {
        let sparse = SparseMemory::new(ByteLen(LEN as u64));
        let overlay = Overlay::new(Arc::new(Memory::from(content())));
        let (mut plain, mut over) = (vec![0; LEN], content());
        for step in &steps {
            apply(step, &sparse, &mut plain);
            apply(step, &overlay, &mut over);
        }
        conformance::reads(&sparse, &plain);
        conformance::reads(&overlay, &over);
    }
}
