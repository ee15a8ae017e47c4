//! Lines on stdout: text for people, or JSON for programs.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::error::Error;

/// Where a command prints to.
///
/// A reader that went away (a broken pipe) silences it and is no failure: a backup goes on whoever listens.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    stdout: Mutex<Stdout>,
}

#[derive(Debug)]
enum Stdout {
    Open,
    Closed,
    Failed(io::Error),
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "error")]
struct ErrorLine<'a> {
    message: &'a str,
    causes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, stdout: Mutex::new(Stdout::Open) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A line for people.
    pub(crate) fn text(&self, line: impl AsRef<str>) {
        if !self.json {
            self.write(line.as_ref());
        }
    }

    /// A line for programs.
    pub(crate) fn json(&self, line: &impl Serialize) {
        if self.json {
            match serde_json::to_string(line) {
                Ok(line) => self.write(&line),
                Err(e) => self.fail(e.into()),
            }
        }
    }

    /// An error: for people on stderr, for programs on stdout as well.
    pub(crate) fn error(&self, error: &Error) {
        let (message, causes) = error.chain();
        let hint = error.hint();
        to_stderr(&lines("error", &message, &causes, hint));
        self.error_line(&message, &causes, hint);
    }

    /// The line for programs of an error.
    pub(crate) fn error_line(&self, message: &str, causes: &[String], hint: Option<&str>) {
        self.json(&ErrorLine { message, causes, hint });
    }

    /// Why something could not be printed, if so.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stdout, Stdout::Closed) {
            Stdout::Failed(source) => Err(Error::Output(source)),
            Stdout::Open | Stdout::Closed => Ok(()),
        }
    }

    /// Bytes that are neither a line nor JSON.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        let mut stdout = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*stdout, Stdout::Open) {
            return;
        }
        let mut to = io::stdout().lock();
        if let Err(error) = to.write_all(bytes).and_then(|()| to.flush()) {
            *stdout = match error.kind() {
                io::ErrorKind::BrokenPipe => Stdout::Closed,
                _ => Stdout::Failed(error),
            };
        }
    }

    fn write(&self, line: &str) {
        self.raw(format!("{line}\n").as_bytes());
    }

    fn fail(&self, error: io::Error) {
        *self.stdout.lock().unwrap_or_else(PoisonError::into_inner) = Stdout::Failed(error);
    }
}

/// A remark for people that is no part of the result.
pub(crate) fn note(text: &str) {
    to_stderr(&format!("note: {text}\n"));
}

/// Something that a person should know although the command goes on.
pub(crate) fn warn(message: &str, causes: &[String]) {
    to_stderr(&lines("warning", message, causes, None));
}

/// A message with what lies below it and what to do about it.
fn lines(kind: &str, message: &str, causes: &[String], hint: Option<&str>) -> String {
    let mut lines = vec![format!("{kind}: {message}\n")];
    lines.extend(causes.iter().map(|cause| format!("  because: {cause}\n")));
    lines.extend(hint.map(|hint| format!("  hint: {hint}\n")));
    lines.concat()
}

fn to_stderr(text: &str) {
    // Nobody is left to tell when stderr is gone.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
