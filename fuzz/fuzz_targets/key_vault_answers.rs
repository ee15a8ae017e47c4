#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::envelope::fuzzing::key_vault_answers(data));
