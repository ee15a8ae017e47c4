#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::consistency::fuzzing::evidence(data));
