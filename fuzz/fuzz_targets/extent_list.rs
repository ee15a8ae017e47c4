#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::blockdiff::fuzzing::extent_list(data));
