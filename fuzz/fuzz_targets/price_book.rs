#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::billing::fuzzing::price_book(data));
