//! Entry points for a fuzzer: what a vault may hold as evidence, and settings of scripts, as plain functions that must never
//! panic.
//!
//! The test `fuzz_corpora` replays what was found.

use crate::script::ScriptSettings;
use crate::{decide, decode, encode};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 2] = [("evidence", evidence), ("script_settings", script_settings)];

/// Evidence that is read is decided on, and written it is the same again.
pub fn evidence(data: &[u8]) {
    let Ok(evidence) = decode(data) else { return };
    let decision = decide(&evidence);
    let again = encode(&evidence).map(|bytes| decode(&bytes));
    // Escapes may make it longer than it may be.
    if let Ok(again) = again {
        let again = again.expect("what was written is read");
        assert_eq!((decide(&again), &again), (decision, &evidence));
    }
}

/// Settings that are taken are within the bounds.
pub fn script_settings(data: &[u8]) {
    if let Ok(settings) = ScriptSettings::parse(data) {
        assert!(settings.timeout <= crate::script::TIMEOUT_MAX && !settings.timeout.is_zero());
        assert!((1..=5).contains(&settings.poll_seconds));
    }
}
