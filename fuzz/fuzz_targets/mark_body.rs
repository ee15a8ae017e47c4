#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::vault::fuzzing::mark_body(data));
