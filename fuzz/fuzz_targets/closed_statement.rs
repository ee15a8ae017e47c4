#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::billing::fuzzing::closed_statement(data));
