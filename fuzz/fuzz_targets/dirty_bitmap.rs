#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::blockdiff::fuzzing::dirty_bitmap(data));
