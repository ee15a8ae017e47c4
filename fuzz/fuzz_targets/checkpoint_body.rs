#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::vault::fuzzing::checkpoint_body(data));
