#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::billing::fuzzing::retail_prices(data));
