//! Entry point for a fuzzer: what a note of the vault may hold, as a plain function that must never panic.
//!
//! The test `fuzz_corpora` replays what was found.

use crate::PolicySource;
use crate::note::Note;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 1] = [("protection_notes", protection_notes)];

/// A note: read, written, read again; the policy in it is looked at as a replay does.
pub fn protection_notes(data: &[u8]) {
    let Ok(note) = Note::decode(1, data) else { return };
    let again = Note::decode(1, &note.encode());
    assert!(again.is_ok_and(|again| again == note), "what was written reads the same");
    match note {
        // Whether it holds is another matter.
        Note::Policy { source, text, .. } => drop(PolicySource::noted(source, text).policy()),
        Note::State { state, .. } => drop(state.state()),
        Note::SoftDelete { is } => drop(is.soft_delete()),
        Note::Immutability { is } => drop(is.immutability()),
        Note::Protect { .. } | Note::Trust { .. } => {}
    }
}
