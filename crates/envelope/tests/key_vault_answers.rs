//! Whatever a store of keys answers: no panic, no memory that it does not have, and what was captured reads back.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use vmkeep_envelope::fuzzing::key_vault_answers;

#[test]
fn every_seed_of_the_fuzz_target_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/key_vault_answers");
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        key_vault_answers(&std::fs::read(path).unwrap());
        seeds += 1;
    }
    assert!(seeds > 0);
}

/// An answer: its length, then its bytes.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let url = prop_oneof![Just("x/keys/kek/1"), Just("x/secrets/bek/1"), Just("x/keys/kek"), Just("")];
    let bytes = prop_oneof![
        url.prop_map(|url| url.as_bytes().to_vec()),
        proptest::collection::vec(0_u8..4, 0..3),
        proptest::collection::vec(any::<u8>(), 0..80),
    ];
    bytes.prop_map(|bytes| [&[u8::try_from(bytes.len()).unwrap()], bytes.as_slice()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_answers_make_it_panic(answers in proptest::collection::vec(answer(), 0..20)) {
        key_vault_answers(&answers.concat());
    }
}
