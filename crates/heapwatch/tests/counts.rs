//! The allocator counts what is there at once.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use vmkeep_heapwatch::{HeapWatch, peak_of};

#[global_allocator]
static HEAP: HeapWatch = HeapWatch;

#[test]
fn the_peak_is_what_was_there_at_once() {
    const MIB: usize = 1 << 20;
    let ((), one_by_one) = peak_of(|| {
        for _ in 0..8 {
            drop(black_box(vec![1_u8; MIB]));
        }
    });
    let (kept, together) = peak_of(|| black_box((0..8).map(|_| vec![1_u8; MIB]).collect::<Vec<_>>()));
    assert!((MIB..2 * MIB).contains(&one_by_one), "{one_by_one}");
    assert!((8 * MIB..9 * MIB).contains(&together), "{together}");
    drop(kept);
    let ((), again) = peak_of(|| drop(black_box(vec![1_u8; MIB])));
    assert!((MIB..2 * MIB).contains(&again), "{again}");
}
