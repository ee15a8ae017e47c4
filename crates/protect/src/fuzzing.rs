//! Entry point for a fuzzer: what a note of the vault may hold, as a plain function that must never panic.
//!
//! The test `fuzz_corpora` replays what was found.

use vmkeep_model::Timestamp;

use crate::PolicySource;
use crate::note::Note;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 3] = [
    ("protection_notes", protection_notes),
    ("metering_notes", metering_notes),
    ("statement_notes", statement_notes),
];

/// Readings, one in each line, replayed: no order of them makes an event that goes back in time.
pub fn metering_notes(data: &[u8]) {
    let lines = data.split(|&byte| byte == b'\n');
    let notes =
        (1..).zip(lines).map(|(number, line)| (number, Timestamp(i64::try_from(number).unwrap_or(0)), line));
    let Ok(metered) = crate::metering::replay(notes) else { return };
    for metered in metered.values() {
        assert!(metered.events.is_sorted_by(|a, b| a.at <= b.at && a.number < b.number));
    }
}

/// Parts of statements that were closed, one in each line: each statement is of its month.
pub fn statement_notes(data: &[u8]) {
    let lines = data.split(|&byte| byte == b'\n');
    let Ok(closed) =
        crate::bills::replay((1..).zip(lines).map(|(number, line)| (number, Timestamp(0), line)))
    else {
        return;
    };
    for (month, (_, statement)) in closed {
        assert_eq!(statement.statement().month(), month);
    }
}

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
