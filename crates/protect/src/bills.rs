//! Bills of a vault: what its ledger comes to, and the months that are closed, kept as notes.
//!
//! A closed statement is written whole, with every quantity and rate, in as many notes as it takes. The first complete one of a
//! month is the one, whoever writes another; nothing changes it. What turns out later is a correction on the next statement.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmkeep_billing::{Charge, ClosedStatement, Instance, Line, Month, PriceBook, Rating, Statement, Window};
use vmkeep_model::{LineageId, Op, Permit, Timestamp, VmName};
use vmkeep_vault::Vault;

use crate::metering::Ledger;
use crate::{BillError, ProtectError};

/// The topic of the notes that are written here.
pub(crate) const TOPIC: &str = "statement";
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
        let mut parts = Parts::default();
        for note in vault.notes() {
            let note = note?;
            if note.topic == TOPIC {
                parts.take(note.number, note.at, &note.body)?;
            }
        }
        Ok(Self { vault, closed: parts.closed })
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
        let mut statements = self.statements(ledger, book, describe, &[month])?;
        statements.pop().map_or_else(|| Ok(Statement::new(book, month)?), Ok)
    }

    /// The statements of some months, each as [`statement`](Self::statement) makes it, with one replay of the ledger at most.
    ///
    /// # Errors
    /// As [`Self::statement`].
    pub fn statements(
        &self,
        ledger: &Ledger<'_>,
        book: &PriceBook,
        describe: impl Fn(LineageId, &VmName) -> Arc<Instance>,
        months: &[Month],
    ) -> Result<Vec<Statement>, ProtectError> {
        let after_closed = self.closed.keys().next_back().map(|last| last.next());
        let is_open = |month: &Month| !self.closed.contains_key(month);
        // What is closed is rated again for what turned out since.
        let corrected = after_closed.is_some_and(|month| months.contains(&month));
        let again = self.closed.keys().filter(|_| corrected).copied();
        let rated: BTreeSet<Month> = again.chain(months.iter().copied().filter(is_open)).collect();
        let mut rated = rated_months(ledger, book, &describe, &rated, self.vault.clock().now())?;
        let mut corrections = Vec::new();
        if corrected {
            let lines = self.closed().flat_map(|closed| closed.statement().lines().iter());
            let earlier = lines.filter(|line| matches!(line.charge, Charge::Correction { .. }));
            let earlier: Vec<Line> = earlier.cloned().collect();
            for (month, (_, closed)) in &self.closed {
                if let Some(newer) = rated.remove(month) {
                    corrections.extend(closed.corrections(&newer, &earlier)?);
                }
            }
        }
        let statement = |month: &Month| match self.closed_of(*month) {
            Some(closed) => Ok(closed.statement().clone()),
            None => {
                let mut statement =
                    rated.get(month).cloned().map_or_else(|| Statement::new(book, *month), Ok)?;
                if after_closed == Some(*month) {
                    statement.add_corrections(corrections.clone());
                }
                Ok(statement)
            }
        };
        months.iter().map(statement).collect()
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

/// The closed months that notes make.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) closed: Closed,
    /// What there is so far of statements that are not complete.
    open: BTreeMap<(Month, u64), BTreeMap<u32, String>>,
}

impl Parts {
    /// Takes a note: its number, its time and its body.
    pub(crate) fn take(&mut self, number: u64, at: Timestamp, body: &[u8]) -> Result<(), ProtectError> {
        let unreadable = |why: String| ProtectError::Note { number, why };
        let part: Part = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
        if part.version != VERSION || part.count > PARTS_MAX || part.index >= part.count {
            let Part { version, index, count, .. } = part;
            return Err(unreadable(format!("part {index} of {count} of a statement, version {version}")));
        }
        let month: Month = part.month.parse().map_err(|e| unreadable(format!("{e}")))?;
        if self.closed.contains_key(&month) {
            return Ok(());
        }
        let parts = self.open.entry((month, part.of)).or_default();
        let _ = parts.entry(part.index).or_insert(part.text);
        if parts.len() == part.count as usize {
            let text: String = std::mem::take(parts).into_values().collect();
            let statement = ClosedStatement::from_json(&text).map_err(|e| unreadable(e.to_string()))?;
            if statement.statement().month() != month {
                return Err(unreadable(format!("the statement of {month} is of another month")));
            }
            self.open.retain(|(of, _), _| *of != month);
            let _ = self.closed.insert(month, (at, statement));
        }
        Ok(())
    }
}

/// What a part of a statement says to a person.
pub(crate) fn words(body: &[u8]) -> Option<String> {
    let Part { month, index, count, .. } = serde_json::from_slice(body).ok()?;
    Some(match count {
        1 => format!("closed the bill of {month}"),
        _ => format!("closed the bill of {month}, part {} of {count}", u64::from(index) + 1),
    })
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

/// What the ledger comes to in each of some months, by one replay of it.
fn rated_months(
    ledger: &Ledger<'_>,
    book: &PriceBook,
    describe: &impl Fn(LineageId, &VmName) -> Arc<Instance>,
    months: &BTreeSet<Month>,
    now: Timestamp,
) -> Result<BTreeMap<Month, Statement>, ProtectError> {
    let mut statements = BTreeMap::new();
    for month in months {
        statements.insert(*month, Statement::new(book, *month)?);
    }
    if statements.is_empty() {
        return Ok(statements);
    }
    let window = |statement: &Statement| {
        let (from, until) = statement.period();
        Window { from, until: until.min(now.max(from)) }
    };
    let windows: Vec<Window> = statements.values().map(window).collect();
    let instances: BTreeMap<LineageId, Arc<Instance>> =
        ledger.metered().map(|(id, metered)| (*id, describe(*id, &metered.vm))).collect();
    let rating = |instance| windows.iter().map(|window| Rating::new(book, instance, *window)).collect();
    let mut ratings: BTreeMap<LineageId, Vec<Rating<'_>>> =
        instances.iter().map(|(id, instance)| (*id, rating(&**instance))).collect();
    ledger.replay(&mut |_, event| {
        let mut ratings = ratings.get_mut(&event.instance).into_iter().flatten();
        ratings.try_for_each(|rating| Ok(rating.apply(event)?))
    })?;
    for ((_, instance), ratings) in instances.iter().zip(ratings.into_values()) {
        for (statement, rating) in statements.values_mut().zip(ratings) {
            statement.add(book, instance, &rating.finish()?)?;
        }
    }
    Ok(statements)
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
        let replayed = |body: &str| {
            let mut parts = Parts::default();
            parts.take(9, Timestamp(5), body.as_bytes()).map(|()| parts.closed)
        };
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
