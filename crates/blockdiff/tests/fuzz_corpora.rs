//! Replays the corpora of `fuzz/` through the functions that its targets call. What a fuzzer ever found is kept in a
//! corpus, so that it stays fixed.
#![allow(clippy::unwrap_used)] // in helpers too

use std::path::Path;

use vmkeep_blockdiff::fuzzing::TARGETS;

#[test]
fn every_function_has_a_target_and_passes_its_corpus() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, function) in TARGETS {
        let target = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            target.contains(&format!("vmkeep::blockdiff::fuzzing::{name}(data)")),
            "{name} runs something else"
        );
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not built");
        let mut seeds = 0;
        for file in std::fs::read_dir(fuzz.join("corpus").join(name)).unwrap() {
            let file = file.unwrap().path();
            // Said only when a test fails: then the last line names the file.
            println!("{}", file.display());
            function(&std::fs::read(file).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0, "{name} has no seeds");
    }
}
