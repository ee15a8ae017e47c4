//! A policy in a file: TOML, or Azure's JSON.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use vmkeep::protect::PolicySource;
use vmkeep::retention::{Retention, Schedule};

use crate::error::Error;

/// Most bytes of it; what a policy may have is less, and the library says so.
const BYTES_MAX: u64 = 1 << 20;

/// Reads a policy and sees which of both it is: JSON begins with a brace, and no TOML does.
pub(crate) fn read(path: &Path) -> Result<PolicySource, Error> {
    let failed = |source| Error::File { what: "read policy", path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    let _ = file.take(BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    Ok(if text.trim_start().starts_with('{') { PolicySource::Azure(text) } else { PolicySource::Toml(text) })
}

/// How a source is called.
pub(crate) fn kind(source: &PolicySource) -> &'static str {
    match source {
        PolicySource::Toml(_) => "toml",
        PolicySource::Azure(_) => "azure",
    }
}

/// When backups are made, in a few words.
pub(crate) fn schedule(schedule: &Schedule) -> String {
    match schedule {
        Schedule::OnDemandOnly => "on demand only".to_owned(),
        Schedule::Hourly { start, every, window } => {
            format!("every {every} hours for {window} hours from {start} on")
        }
        Schedule::Daily { at } => format!("daily at {at}"),
        Schedule::Weekly { days, at } => format!("{days} at {at}"),
    }
}

/// How long points are kept, in a few words.
pub(crate) fn retention(retention: &Retention) -> String {
    let words: Vec<String> = match retention {
        Retention::Calendar(rules) => {
            let spans = [
                ("every", rules.every),
                ("daily", rules.daily),
                ("weekly", rules.weekly.map(|rule| rule.keep)),
                ("monthly", rules.monthly.map(|rule| rule.keep)),
                ("yearly", rules.yearly.map(|rule| rule.keep)),
            ];
            spans.into_iter().filter_map(|(name, span)| Some(format!("{name} {}", span?))).collect()
        }
        Retention::Keep(rules) => vec![format!("counted as {} does", rules.mode)],
    };
    words.join(", ")
}
