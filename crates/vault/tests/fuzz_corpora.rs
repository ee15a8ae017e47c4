//! Replays the corpora of `fuzz/` through the functions that its targets call, and holds targets, functions and corpora
//! to one list. What a fuzzer ever found is kept in a corpus, so that it stays fixed.
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use vmkeep_testkit::corpora::{self, fuzz_files, fuzz_folder};
use vmkeep_vault::fuzzing::TARGETS;

/// The targets and corpora of this crate; other crates have some too, whose targets name them.
fn stems(folder: &str) -> BTreeSet<String> {
    let stem = |f: &PathBuf| f.file_stem().unwrap().to_str().unwrap().to_owned();
    let of_another_crate = |name: &String| {
        let target = fuzz_folder().join(format!("fuzz_targets/{name}.rs"));
        std::fs::read_to_string(target).is_ok_and(|body| !body.contains("vmkeep::vault::"))
    };
    fuzz_files(folder).iter().map(stem).filter(|name| !of_another_crate(name)).collect()
}

#[test]
fn every_function_has_a_target_and_passes_its_corpus_and_there_are_no_others() {
    let functions: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(stems("corpus"), functions);
    assert_eq!(stems("fuzz_targets"), functions);
    corpora::pass_their_corpora("vault", &TARGETS);
}

/// A corpus whose seeds are all refused at their first byte would pass too: of each decoder at least one is read whole.
#[test]
fn golden_bodies_are_among_the_seeds() {
    let golden = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        std::fs::read(path).unwrap()
    };
    for (target, name) in [
        ("vault_body", "record-01-vault.bin"),
        ("name_body", "record-02-name.bin"),
        ("point_body", "record-03-point.bin"),
        ("point_body", "record-03-point-tracked.bin"),
        ("point_body", "record-03-point-encrypted.bin"),
        ("void_body", "record-04-void.bin"),
        ("closed_body", "record-05-closed.bin"),
        ("head_body", "record-06-head.bin"),
        ("retired_body", "record-07-retired.bin"),
        ("session_body", "record-08-session.bin"),
        ("forget_body", "record-09-forget.bin"),
        ("rotation_body", "record-22-rotation.bin"),
        ("checkpoint_body", "record-21-checkpoint.bin"),
        ("entry_body", "record-20-entry-15-authority.bin"),
        ("entry_body", "record-20-entry-19-verified.bin"),
        ("journal_body", "record-10-journal-3-voided.bin"),
        ("journal_body", "record-10-journal-10-suspect.bin"),
        ("journal_body", "record-10-journal-13-keys-destroyed.bin"),
        ("destroyed_body", "record-18-destroyed.bin"),
        ("footer", "footer-data.bin"),
        ("footer", "footer-repacked.bin"),
        ("footer", "footer-thinned.bin"),
        ("change_list", "change-list.bin"),
    ] {
        let golden = golden(name);
        let seeds = fuzz_files(&format!("corpus/{target}"));
        assert!(seeds.iter().any(|seed| std::fs::read(seed).unwrap() == golden), "{target} has no {name}");
    }
}
