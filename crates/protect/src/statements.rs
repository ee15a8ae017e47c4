//! Months that were closed: what was billed, kept in the vault as it was written.

use serde::{Deserialize, Serialize};
use vmkeep_billing::Month;
use vmkeep_model::{Op, Permit, Timestamp};
use vmkeep_vault::Vault;

use crate::ProtectError;

/// The topic of the notes that are written here.
pub(crate) const TOPIC: &str = "statement";

const VERSION: u32 = 1;

/// A statement as it was billed, in every form that it can be had in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatementTexts {
    /// A table for people.
    pub table: String,
    /// Everything that the statement knows.
    pub json: String,
    /// Comma-separated values.
    pub csv: String,
    /// FOCUS 1.2.
    pub focus: String,
    /// The sum of its lines.
    pub total: String,
    /// ISO 4217 code.
    pub currency: String,
}

/// A month that was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedMonth {
    /// Which.
    pub month: Month,
    /// When it was closed.
    pub at: Timestamp,
    /// What was billed.
    pub texts: StatementTexts,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    month: String,
    texts: StatementTexts,
}

/// The months that were closed, oldest decision first. Of two that closed one month, the first counts.
pub fn closed_months(vault: &Vault) -> Result<Vec<ClosedMonth>, ProtectError> {
    let mut closed: Vec<ClosedMonth> = Vec::new();
    for note in vault.notes()?.into_iter().filter(|note| note.topic == TOPIC) {
        let (month, texts) = decode(note.number, &note.body)?;
        if closed.iter().all(|other| other.month != month) {
            closed.push(ClosedMonth { month, at: note.at, texts });
        }
    }
    Ok(closed)
}

pub(crate) fn encode(month: Month, texts: StatementTexts) -> Result<Vec<u8>, ProtectError> {
    let document = Document { version: VERSION, month: month.to_string(), texts };
    serde_json::to_vec(&document).map_err(|e| ProtectError::Note { number: 0, why: e.to_string() })
}

pub(crate) fn decode(number: u64, bytes: &[u8]) -> Result<(Month, StatementTexts), ProtectError> {
    let unreadable = |why: String| ProtectError::Note { number, why };
    let document: Document = serde_json::from_slice(bytes).map_err(|e| unreadable(e.to_string()))?;
    if document.version != VERSION {
        return Err(unreadable(format!("version {} of a statement", document.version)));
    }
    let month =
        document.month.parse().map_err(|_| unreadable(format!("{:?} is no month", document.month)))?;
    Ok((month, document.texts))
}

/// Closes a month: from now on it is what `texts` say. Gives what it is from now on, which is what was there before when it
/// had been closed already.
pub fn close_month<O: Op>(
    vault: &Vault,
    permit: &Permit<O>,
    month: Month,
    texts: StatementTexts,
) -> Result<ClosedMonth, ProtectError> {
    let find = || -> Result<Option<ClosedMonth>, ProtectError> {
        Ok(closed_months(vault)?.into_iter().find(|closed| closed.month == month))
    };
    if let Some(closed) = find()? {
        return Ok(closed);
    }
    let missing = |why: String| ProtectError::Note { number: 0, why };
    vault.note(permit, TOPIC, &encode(month, texts)?)?;
    // Somebody else may have closed it at the same time, and then the first of the two counts.
    find()?.ok_or_else(|| missing("the statement that was noted is not there".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_stored_as_ever() {
        let text = |text: &str| text.to_owned();
        let texts = StatementTexts {
            table: text("t\n"),
            json: text("{}"),
            csv: text("c"),
            focus: text("f"),
            total: text("1.50"),
            currency: text("EUR"),
        };
        let stored = concat!(
            r#"{"version":1,"month":"2026-01","texts":{"table":"t\n","json":"{}","csv":"c","focus":"f","#,
            r#""total":"1.50","currency":"EUR"}}"#
        );
        let month: Month = "2026-01".parse().unwrap();
        assert_eq!(String::from_utf8(encode(month, texts.clone()).unwrap()).unwrap(), stored);
        assert_eq!(decode(1, stored.as_bytes()).unwrap(), (month, texts));
        for (was, becomes) in
            [("\"version\":1", "\"version\":2"), ("2026-01", "2026-13"), ("\"csv\"", "\"cvs\"")]
        {
            assert!(decode(1, stored.replacen(was, becomes, 1).as_bytes()).is_err(), "{becomes}");
        }
    }
}
