//! The corpora of `fuzz/` through the functions for fuzzers.

use vmkeep_consistency::fuzzing::TARGETS;
use vmkeep_testkit::corpora;

#[test]
fn every_function_has_a_target_and_passes_its_corpus() {
    corpora::pass_their_corpora("consistency", &TARGETS);
}
