//! Asking before something that cannot be taken back.

use std::io::{self, BufRead, IsTerminal, Write};

use vmkeep::protect::ProtectError;
use vmkeep::retention::{Confirmation, Irreversible};

use crate::error::Error;
use crate::output::Output;

/// Goes on when `yes` was given or the person at the terminal says so.
///
/// Where nobody can be asked, `--yes` is needed: a script says what it means.
pub(crate) fn confirm(output: &Output, yes: bool, question: &str) -> Result<(), Error> {
    if yes {
        return Ok(());
    }
    if output.is_json() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::usage(
            "this cannot be taken back, and nobody can be asked here; confirm it with --yes",
        ));
    }
    let failed = |source| Error::File { what: "ask at", path: "the terminal".into(), source };
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).map_err(failed)?;
    drop(stderr);
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(failed)?;
    if is_yes(&answer) { Ok(()) } else { Err(Error::NotConfirmed) }
}

/// The confirmation of what cannot be undone: the word that `--confirm` gave, which stands for exactly these facts.
///
/// Without one it is the library that refuses, and says what it means.
pub(crate) fn word(what: &Irreversible, typed: Option<&str>) -> Result<Option<Confirmation>, Error> {
    let confirmed = typed.map(|typed| what.confirm(typed)).transpose();
    confirmed.map_err(|refused| ProtectError::from(refused).into())
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "Y\n", "yes\n", " Yes \r\n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "no\n", "yy\n", "ja\n", "yes please\n"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
