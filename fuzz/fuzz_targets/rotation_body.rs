#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::vault::fuzzing::rotation_body(data));
