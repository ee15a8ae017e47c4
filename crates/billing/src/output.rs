//! Statements as text: a table, JSON, CSV, and FOCUS.

mod focus;
mod json;
mod lines;

pub use focus::{FocusParties, focus_csv};

use crate::decimal::minor_text;
use crate::error::Error;
use crate::statement::Statement;

/// Digits after the point of a quantity that is shown.
const QUANTITY_DIGITS: u16 = 6;

impl Statement {
    /// A table for people: a line each, and the total.
    pub fn to_table(&self) -> String {
        lines::table(self)
    }

    /// Comma-separated values with a header; quantities with six digits, the metered whole number beside them.
    pub fn to_csv(&self) -> Result<String, Error> {
        lines::csv(self)
    }

    /// JSON with everything the statement knows, which [`ClosedStatement::from_json`](crate::ClosedStatement::from_json)
    /// reads again. Amounts are texts; `exact` is a fraction.
    pub fn to_json(&self) -> Result<String, Error> {
        json::json(self)
    }

    pub(crate) fn from_json(text: &str) -> Result<Self, Error> {
        json::read(text)
    }

    pub(crate) fn money(&self, minor: i128) -> String {
        minor_text(minor, self.digits)
    }
}

fn unwritable(what: &'static str, error: &dyn std::fmt::Display) -> Error {
    Error::Document { what, message: error.to_string() }
}

/// The bytes of a writer as text.
fn text_of(what: &'static str, writer: csv::Writer<Vec<u8>>) -> Result<String, Error> {
    let bytes = writer.into_inner().map_err(|e| unwritable(what, &e))?;
    String::from_utf8(bytes).map_err(|e| unwritable(what, &e))
}
