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
