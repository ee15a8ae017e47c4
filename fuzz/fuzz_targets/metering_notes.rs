#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::protect::fuzzing::metering_notes(data));
