#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::nbd::fuzzing::nbd_session(data));
