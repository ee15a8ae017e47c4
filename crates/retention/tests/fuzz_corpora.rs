//! Replays the corpora of `fuzz/` through the functions for fuzzers. What a fuzzer ever found is kept in a corpus, so
//! that it stays fixed.
#![allow(clippy::unwrap_used)] // in helpers too

use std::path::Path;

use vmkeep_retention::fuzzing::TARGETS;

#[test]
fn every_function_passes_its_corpus() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, function) in TARGETS {
        let mut seeds = 0;
        for file in std::fs::read_dir(corpora.join(name)).unwrap() {
            let file = file.unwrap().path();
            // Said only when a test fails: then the last line names the file.
            println!("{}", file.display());
            function(&std::fs::read(file).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0, "{name} has no seeds");
    }
}

/// Bytes that differ from a seed in some places, the same for the same state.
fn changed(seed: &[u8], other: &[u8], state: &mut u64) -> Vec<u8> {
    let mut below = |n: usize| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state >> 33).unwrap() % n.max(1)
    };
    let mut bytes = seed.to_vec();
    for _ in 0..=below(4) {
        let at = below(bytes.len());
        match below(4) {
            0 if !bytes.is_empty() => bytes[at] = b"0123456789{}[]\",=-eE.\n"[below(22)],
            1 => drop(bytes.drain(at..(at + below(12)).min(bytes.len()))),
            2 => {
                let from = below(other.len());
                let piece = &other[from..(from + below(40)).min(other.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
            _ => bytes.insert(at, b"9\xff\0 x"[below(5)]),
        }
    }
    bytes
}

#[test]
fn what_is_like_a_seed_makes_no_panic_either() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, function) in TARGETS {
        let files = std::fs::read_dir(corpora.join(name)).unwrap();
        let mut seeds: Vec<Vec<u8>> =
            files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
        seeds.sort();
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for round in 0..40_000 {
            let other = &seeds[(round / seeds.len()) % seeds.len()];
            let bytes = changed(&seeds[round % seeds.len()], other, &mut state);
            println!("{}", String::from_utf8_lossy(&bytes));
            function(&bytes);
        }
    }
}
