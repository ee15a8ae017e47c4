//! The corpora of `fuzz/`, replayed through the functions that fuzzers call. What a fuzzer ever found is kept in a corpus, so that
//! it stays fixed.

use std::fs;
use std::path::{Path, PathBuf};

/// A function for fuzzers, by the name of its target and its corpus. It panics on what it should not take.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// How many changed seeds [`take_what_is_like_a_seed`] tries of each target.
const CHANGED_SEEDS: usize = 40_000;

/// The folder `fuzz/` of the workspace.
pub fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// The files in a folder of `fuzz/`, sorted.
///
/// # Panics
/// When it cannot be read.
pub fn fuzz_files(folder: &str) -> Vec<PathBuf> {
    let path = fuzz_folder().join(folder);
    let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = |entry: std::io::Result<fs::DirEntry>| match entry {
        Ok(entry) => entry.path(),
        Err(e) => panic!("{}: {e}", path.display()),
    };
    let mut files: Vec<PathBuf> = entries.map(file).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn text(path: &str) -> String {
    let path = fuzz_folder().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The seeds of a target, with their files, in an order that does not change; there is one at least.
fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fuzz_files(&format!("corpus/{name}"));
    assert!(!files.is_empty(), "{name} has no seeds");
    files.into_iter().map(|file| (file.clone(), read(&file))).collect()
}

/// Each function of `vmkeep::<module>::fuzzing` is run by the fuzzer's target of its name, which is built, and passes its corpus.
///
/// # Panics
/// When it is not so.
pub fn pass_their_corpora(module: &str, targets: &[FuzzTarget]) {
    assert!(!targets.is_empty(), "{module} has no targets");
    let manifest = text("Cargo.toml");
    for (name, function) in targets {
        let target = text(&format!("fuzz_targets/{name}.rs"));
        let call = format!("vmkeep::{module}::fuzzing::{name}(data)");
        assert!(target.contains(&call), "{name} runs something else");
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not built");
        for (file, seed) in seeds(name) {
            // Said only when a test fails: then the last line names the file.
            println!("{}", file.display());
            function(&seed);
        }
    }
}

/// Each function takes without a panic what differs from a seed in some places: the same bytes every time.
///
/// # Panics
/// When one does not, or has no seeds.
pub fn take_what_is_like_a_seed(targets: &[FuzzTarget]) {
    for (name, function) in targets {
        let mut seeds: Vec<Vec<u8>> = seeds(name).into_iter().map(|(_, seed)| seed).collect();
        seeds.sort();
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for round in 0..CHANGED_SEEDS {
            let other = &seeds[(round / seeds.len()) % seeds.len()];
            let bytes = changed(&seeds[round % seeds.len()], other, &mut state);
            println!("{}", String::from_utf8_lossy(&bytes));
            function(&bytes);
        }
    }
}

/// Bytes that differ from a seed in some places, the same for the same state.
fn changed(seed: &[u8], other: &[u8], state: &mut u64) -> Vec<u8> {
    let mut below = |n: usize| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        usize::try_from(*state >> 33).map_or(0, |random| random % n.max(1))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refuses(_: &[u8]) {
        panic!("a panic of the function");
    }

    fn takes(_: &[u8]) {}

    #[test]
    #[should_panic(expected = "a panic of the function")]
    fn a_function_that_panics_on_a_seed_fails() {
        pass_their_corpora("disk", &[("qcow2_bitmaps", refuses)]);
    }

    #[test]
    #[should_panic(expected = "runs something else")]
    fn a_target_that_runs_another_function_fails() {
        pass_their_corpora("vault", &[("qcow2_bitmaps", takes)]);
    }

    #[test]
    #[should_panic(expected = "no_such_target")]
    fn a_function_without_a_target_fails() {
        pass_their_corpora("disk", &[("no_such_target", takes)]);
    }

    #[test]
    #[should_panic(expected = "no_such_corpus")]
    fn a_function_without_a_corpus_fails() {
        take_what_is_like_a_seed(&[("no_such_corpus", takes)]);
    }

    #[test]
    fn seeds_are_changed_in_the_same_way_each_time() {
        let all =
            |mut state| (0..100).map(|_| changed(b"0123456789", b"abc", &mut state)).collect::<Vec<_>>();
        assert_eq!(all(7), all(7));
        assert!(all(7).iter().filter(|bytes| bytes.as_slice() != b"0123456789").count() > 90);
    }
}
