#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::disk::fuzzing::qcow2_bitmaps(data));
