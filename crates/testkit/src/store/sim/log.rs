//! What happened in a simulation.

use std::fmt;

use object_store::Error;

use super::ProcessId;
use crate::store::{Action, Call};

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reached the store, and the answer the caller.
    Passed,
    /// It did not reach the store.
    Failed,
    /// It reached the store, and no answer came back.
    AnswerLost,
    /// It did not reach the store, but will.
    Late,
    /// It is what was to be done later.
    Again,
    /// No call: the process was stopped.
    Stopped,
    /// No call: the process goes on.
    Resumed,
    /// The process was killed at it; it did not reach the store.
    Killed,
    /// The process was killed at it; it reached the store.
    KilledAfter,
}

/// One thing that happened in a simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimEvent {
    /// To whom.
    pub process: ProcessId,
    /// Its name.
    pub name: String,
    /// Its call; a payload is told by its size and a checksum.
    pub call: String,
    /// What became of it.
    pub fate: Fate,
    /// What the store answered, when it was asked.
    pub answer: Option<String>,
}

impl fmt::Display for SimEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { process, name, call, fate, answer } = self;
        write!(f, "{}:{name} {call}: {fate:?}", process.0)?;
        answer.iter().try_for_each(|answer| write!(f, ", {answer}"))
    }
}

pub(super) fn describe(call: &Call<'_>) -> String {
    let path = call.path;
    match call.action {
        Action::Put(payload) => {
            // FNV-1a: enough to see that two runs did not write the same.
            let bytes = payload.iter().flatten();
            let sum = bytes.fold(0xcbf2_9ce4_8422_2325, |sum: u64, &byte| {
                (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let verb = if call.if_absent { "create" } else { "put" };
            format!("{verb} {path} ({} bytes, {sum:016x})", payload.content_length())
        }
        Action::PutPart(payload) => format!("part of {path} ({} bytes)", payload.content_length()),
        other => format!("{other:?} {path}"),
    }
}

pub(super) fn answer(outcome: Result<u64, &Error>) -> String {
    match outcome {
        Ok(bytes) => format!("ok ({bytes} bytes read)"),
        Err(Error::AlreadyExists { .. }) => "exists".to_owned(),
        Err(Error::NotFound { .. }) => "not found".to_owned(),
        Err(e) => e.to_string(),
    }
}
