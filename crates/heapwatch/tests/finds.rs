//! What is left in freed memory is found, and what was wiped is not.
//!
//! Hits of this thread are counted: the tests of this file run beside one another.

use std::hint::black_box;

use vmkeep_heapwatch::{HeapWatch, hits, hits_here, watch};

#[global_allocator]
static HEAP: HeapWatch = HeapWatch;

/// `len` bytes that nothing else has.
fn secret(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

/// Hits that `act` causes.
fn caused(act: impl FnOnce()) -> usize {
    let before = hits_here();
    act();
    hits_here() - before
}

#[test]
fn a_secret_in_a_freed_vector_is_found() {
    let secret = secret(1, 32);
    watch(&secret);
    assert_eq!(caused(|| drop(black_box(secret.clone()))), 1);
    assert!(hits() > 0);
}

#[test]
fn a_piece_of_a_secret_is_found_wherever_it_stands() {
    let secret = secret(2, 36);
    watch(&secret);
    for (from, at, len) in [(0, 0, 8), (8, 1, 100), (24, 92, 100), (28, 91, 99), (16, 5, 4096)] {
        let mut block = vec![0x11; len];
        block[at..at + 8].copy_from_slice(&secret[from..from + 8]);
        assert_eq!(caused(|| drop(black_box(block))), 1, "8 bytes from {from} at {at} of {len}");
    }
}

#[test]
fn a_vector_that_grows_leaves_what_it_held_behind() {
    let secret = secret(3, 32);
    watch(&secret);
    let mut grows = Vec::with_capacity(32);
    grows.extend_from_slice(&secret);
    assert_eq!(caused(|| grows.reserve_exact(black_box(1 << 16))), 1);
    assert!(grows.starts_with(&secret), "and keeps it");
    assert_eq!(caused(|| grows.shrink_to_fit()), 1);
    grows.fill(0);
    assert_eq!(caused(|| drop(grows)), 0, "wiped");
}

#[test]
fn what_was_wiped_or_never_watched_for_is_not_found() {
    let (mut watched, other) = (secret(4, 32), secret(5, 32));
    watch(&watched);
    assert_eq!(caused(|| drop(black_box(other))), 0);
    watched.fill(0);
    assert_eq!(caused(|| drop(black_box(watched))), 0);
}

#[test]
fn blocks_of_other_threads_count_too() {
    let secret = secret(6, 64);
    watch(&secret);
    let (all, here) = (hits(), hits_here());
    let there = std::thread::spawn(move || drop(black_box(secret)));
    there.join().expect("it only frees");
    assert!(hits() > all);
    assert_eq!(hits_here(), here);
}

#[test]
#[should_panic(expected = "too plain")]
fn bytes_that_any_memory_may_have_are_refused() {
    watch(&[0; 32]);
}
