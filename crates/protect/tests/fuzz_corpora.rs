//! The corpora of `fuzz/` through the functions for fuzzers.

use vmkeep_protect::fuzzing::TARGETS;
use vmkeep_testkit::corpora;

#[test]
fn every_function_has_a_target_and_passes_its_corpus() {
    corpora::pass_their_corpora("protect", &TARGETS);
}

#[test]
fn what_is_like_a_seed_makes_no_panic_either() {
    corpora::take_what_is_like_a_seed(&TARGETS);
}
