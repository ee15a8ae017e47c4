#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmkeep::retention::fuzzing::policy_toml(data));
