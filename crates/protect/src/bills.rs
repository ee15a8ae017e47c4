//! Bills of a vault: what its ledger comes to, and the months that are closed, kept as notes.
//!
//! A closed statement is written whole, with every quantity and rate, in as many notes as it takes. The first complete one of a
//! month is the one, whoever writes another; nothing changes it. What turns out later is a correction on the next statement.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmkeep_billing::{
    Charge, ClosedStatement, Instance, Line, Month, PriceBook, Statement, Window, rate_instance,
};
use vmkeep_model::{LineageId, Op, Permit, Timestamp, VmName};
use vmkeep_vault::Vault;

use crate::metering::Ledger;
use crate::{BillError, ProtectError};

/// The topic of the notes that are written here.
const TOPIC: &str = "statement";
const VERSION: u32 = 1;
/// Bytes of a statement in one note; quoted as JSON within JSON it is at most twice that.
const PART_BYTES: usize = 400_000;
/// Most notes of one statement: 1.6 GB of JSON.
const PARTS_MAX: u32 = 4_000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    version: u32,
    month: String,
    /// Which statement it is a part of; says nothing else.
    of: u64,
    /// Which of how many, from 0.
    index: u32,
    count: u32,
    text: String,
}

/// What is closed, and when it was.
type Closed = BTreeMap<Month, (Timestamp, ClosedStatement)>;

/// The closed months of a vault.
#[derive(Debug)]
pub struct Bills<'v> {
    vault: &'v Vault,
    closed: Closed,
}

impl<'v> Bills<'v> {
    /// Reads the closed statements in `vault`: one read for each note.
    ///
    /// # Errors
    /// [`ProtectError::Note`] for one that this version does not understand, or that does not agree with itself.
    pub fn open(vault: &'v Vault) -> Result<Self, ProtectError> {
        let notes = vault.notes()?;
        let parts = notes.iter().filter(|note| note.topic == TOPIC);
        let closed = replay(parts.map(|note| (note.number, note.at, &*note.body)))?;
        Ok(Self { vault, closed })
    }

    /// The closed statements, oldest first.
    pub fn closed(&self) -> impl Iterator<Item = &ClosedStatement> {
        self.closed.values().map(|(_, closed)| closed)
    }

    /// The closed statement of `month`.
    pub fn closed_of(&self, month: Month) -> Option<&ClosedStatement> {
        self.closed.get(&month).map(|(_, closed)| closed)
    }

    /// When `month` was closed.
    pub fn closed_at(&self, month: Month) -> Option<Timestamp> {
        self.closed.get(&month).map(|(at, _)| *at)
    }

    /// The statement of `month`: as it was closed, or else what the ledger comes to, up to now. `describe` says what a line of points is to
    /// the bill. The month after the last closed one carries what turned out since about those.
    ///
    /// # Errors
    /// [`ProtectError::Bill`] when an event cannot have happened or something has no price: nothing is left out.
    pub fn statement(
        &self,
        ledger: &Ledger<'_>,
        book: &PriceBook,
        describe: impl Fn(LineageId, &VmName) -> Arc<Instance>,
        month: Month,
    ) -> Result<Statement, ProtectError> {
        if let Some(closed) = self.closed_of(month) {
            return Ok(closed.statement().clone());
        }
        let now = self.vault.clock().now();
        let mut statement = rated(ledger, book, &describe, month, now)?;
        let last = self.closed.keys().next_back();
        if last.is_some_and(|last| last.next() == month) {
            let earlier = self.closed().flat_map(|closed| closed.statement().lines().iter());
            let earlier = earlier.filter(|line| matches!(line.charge, Charge::Correction { .. }));
            let earlier: Vec<Line> = earlier.cloned().collect();
            for (month, (_, closed)) in &self.closed {
                let newer = rated(ledger, book, &describe, *month, now)?;
                statement.add_corrections(closed.corrections(&newer, &earlier)?);
            }
        }
        Ok(statement)
    }

    /// Closes the month of `statement` for good. Months are closed in order, each after its end.
    ///
    /// # Errors
    /// [`BillError::Closed`] when it is closed already, by whomever; [`BillError::Order`] when a later one is;
    /// [`BillError::Running`] when the month is not over.
    pub fn close<O: Op>(&mut self, permit: &Permit<O>, statement: Statement) -> Result<(), ProtectError> {
        let (month, now) = (statement.month(), self.vault.clock().now());
        if self.closed.contains_key(&month) {
            return Err(BillError::Closed { month }.into());
        }
        if let Some((last, _)) = self.closed.last_key_value().filter(|(last, _)| last.next() != month) {
            return Err(BillError::Order { month, last: *last }.into());
        }
        let (_, until) = statement.period();
        if until > now {
            return Err(BillError::Running { month, until }.into());
        }
        let closed = statement.close();
        let text = closed.statement().to_json()?;
        for body in parts(month, &text, now)? {
            self.vault.note(permit, TOPIC, &body)?;
        }
        // Another may have been first.
        *self = Self::open(self.vault)?;
        if self.closed_of(month) == Some(&closed) { Ok(()) } else { Err(BillError::Closed { month }.into()) }
    }
}

/// The closed months that notes make: number, time and body of each.
pub(crate) fn replay<'n>(
    notes: impl Iterator<Item = (u64, Timestamp, &'n [u8])>,
) -> Result<Closed, ProtectError> {
    let mut closed = BTreeMap::new();
    let mut open: BTreeMap<(Month, u64), BTreeMap<u32, String>> = BTreeMap::new();
    for (number, at, body) in notes {
        let unreadable = |why: String| ProtectError::Note { number, why };
        let part: Part = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
        if part.version != VERSION || part.count > PARTS_MAX || part.index >= part.count {
            let Part { version, index, count, .. } = part;
            return Err(unreadable(format!("part {index} of {count} of a statement, version {version}")));
        }
        let month: Month = part.month.parse().map_err(|e| unreadable(format!("{e}")))?;
        if closed.contains_key(&month) {
            continue;
        }
        let parts = open.entry((month, part.of)).or_default();
        let _ = parts.entry(part.index).or_insert(part.text);
        if parts.len() == part.count as usize {
            let text: String = std::mem::take(parts).into_values().collect();
            let statement = ClosedStatement::from_json(&text).map_err(|e| unreadable(e.to_string()))?;
            if statement.statement().month() != month {
                return Err(unreadable(format!("the statement of {month} is of another month")));
            }
            let _ = closed.insert(month, (at, statement));
        }
    }
    Ok(closed)
}

/// Bodies of the notes of a statement.
fn parts(month: Month, text: &str, now: Timestamp) -> Result<Vec<Vec<u8>>, ProtectError> {
    let mut hasher = DefaultHasher::new();
    (text, now.0).hash(&mut hasher);
    let of = hasher.finish();
    let mut texts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.floor_char_boundary(PART_BYTES));
        texts.push(part);
        rest = after;
    }
    let count = u32::try_from(texts.len()).ok().filter(|count| *count <= PARTS_MAX);
    let count = count.ok_or(BillError::TooLong { month })?;
    let body = |(index, text): (u32, &str)| {
        let part =
            Part { version: VERSION, month: month.to_string(), of, index, count, text: text.to_owned() };
        serde_json::to_vec(&part).map_err(|e| ProtectError::Note { number: 0, why: e.to_string() })
    };
    (0..).zip(texts).map(body).collect()
}

fn rated(
    ledger: &Ledger<'_>,
    book: &PriceBook,
    describe: &impl Fn(LineageId, &VmName) -> Arc<Instance>,
    month: Month,
    now: Timestamp,
) -> Result<Statement, ProtectError> {
    let mut statement = Statement::new(book, month)?;
    let (from, until) = statement.period();
    let until = until.min(now.max(from));
    for (id, metered) in ledger.metered() {
        let instance = describe(*id, &metered.vm);
        let usages = rate_instance(book, &instance, &metered.events, Window { from, until })?;
        statement.add(book, &instance, &usages)?;
    }
    Ok(statement)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts are stored as ever; what a part cannot say is refused.
    #[test]
    fn parts_are_stored_as_ever() {
        let month: Month = "2026-01".parse().unwrap();
        let text = "x".repeat(PART_BYTES + 1);
        let bodies = parts(month, &text, Timestamp(5)).unwrap();
        let found: Vec<Part> = bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect();
        assert_eq!(found.iter().map(|part| (part.index, part.count)).collect::<Vec<_>>(), [(0, 2), (1, 2)]);
        let of = found[0].of;
        let stored = format!(r#"{{"version":1,"month":"2026-01","of":{of},"index":1,"count":2,"text":"x"}}"#);
        assert_eq!(std::str::from_utf8(&bodies[1]).unwrap(), stored);
        let replayed = |body: &str| replay(std::iter::once((9, Timestamp(5), body.as_bytes())));
        assert!(replayed(&stored).unwrap().is_empty(), "half a statement is none");
        for (was, becomes) in [
            ("\"version\":1", "\"version\":2"),
            ("2026-01", "2026-13"),
            ("\"text\"", "\"test\""),
            ("\"index\":1", "\"index\":2"),
            ("\"count\":2", "\"count\":4001"),
        ] {
            let told = replayed(&stored.replacen(was, becomes, 1));
            assert!(matches!(told, Err(ProtectError::Note { number: 9, .. })), "{becomes}: {told:?}");
        }
    }
}
