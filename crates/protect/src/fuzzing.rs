//! Entry point for a fuzzer: what a note of the vault may hold, as a plain function that must never panic.
//!
//! The test `fuzz_corpora` replays what was found.

use std::collections::BTreeMap;

use vmkeep_model::Timestamp;

use crate::PolicySource;
use crate::bills::Parts;
use crate::metering::Standings;
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
    let (mut standings, mut last) = (Standings::default(), BTreeMap::new());
    for (number, line) in (1_u32..).zip(data.split(|&byte| byte == b'\n')) {
        let Ok(events) = standings.take_note(u64::from(number), Timestamp(i64::from(number)), line) else {
            return;
        };
        for event in events {
            let before = last.insert(event.instance, (event.at, event.number));
            assert!(before.is_none_or(|(at, number)| at <= event.at && number < event.number));
        }
    }
}

/// Parts of statements that were closed, one in each line: each statement is of its month.
pub fn statement_notes(data: &[u8]) {
    let lines = data.split(|&byte| byte == b'\n');
    let mut parts = Parts::default();
    for (number, line) in (1..).zip(lines) {
        if parts.take(number, Timestamp(0), line).is_err() {
            return;
        }
    }
    for (month, (_, statement)) in parts.closed {
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
