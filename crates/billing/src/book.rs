//! Price books: what a unit costs, where and when, and by which rules.

use std::collections::BTreeMap;
use std::fmt;

use iso_currency::Currency;
use vmkeep_model::Timestamp;

use crate::decimal::{Decimal, Rounding};
use crate::error::{BookProblem, Error};
use crate::event::Tier;
use crate::month::BillZone;
use crate::size::{Bands, MicroUnits};

/// What is metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meter {
    /// Protected instances.
    Instance,
    /// Bytes kept in a tier over time.
    Storage(Tier),
    /// The rest of the shortest stay of bytes that leave the archive early, at the price of the archive.
    EarlyDeletion,
}

impl Meter {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Storage(tier) => tier.name(),
            Self::EarlyDeletion => "early-deletion",
        }
    }

    /// The meter of that name that has prices of its own.
    pub(crate) fn priced(name: &str) -> Option<Self> {
        let storage = Tier::ALL.into_iter().map(Self::Storage);
        std::iter::once(Self::Instance).chain(storage).find(|meter| meter.name() == name)
    }

    /// Whether its price depends on the redundancy of the vault.
    pub(crate) fn has_redundancy(self) -> bool {
        matches!(self, Self::Storage(Tier::Vault | Tier::Archive) | Self::EarlyDeletion)
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many copies a vault keeps, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Redundancy {
    /// Locally redundant.
    Lrs,
    /// Across zones.
    Zrs,
    /// Across regions.
    Grs,
    /// Across regions, readable there.
    RaGrs,
}

impl Redundancy {
    /// All of them, with their names.
    pub const NAMES: [(Self, &'static str); 4] =
        [(Self::Lrs, "lrs"), (Self::Zrs, "zrs"), (Self::Grs, "grs"), (Self::RaGrs, "ra-grs")];

    /// Its name in documents.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(r, _)| *r == self).map_or("", |(_, name)| name)
    }

    /// The redundancy of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, n)| *n == name).map(|(r, _)| r)
    }
}

/// How a level that changes over time becomes a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integration {
    /// To the millisecond: the level times the time it stood.
    Exact,
    /// Each hour of the month counts with its highest level.
    Hour,
    /// Each day of the month counts with its highest level, as one of the days of the month however long it is.
    Day,
}

/// What a gigabyte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gigabyte {
    /// 2^30 bytes.
    Binary,
    /// 10^9 bytes.
    Decimal,
}

impl Gigabyte {
    /// Its bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Binary => 1 << 30,
            Self::Decimal => 1_000_000_000,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binary => "GiB",
            Self::Decimal => "GB",
        }
    }
}

/// Which part of a soft delete is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreePart {
    /// The first days after the deletion.
    First,
    /// The last days before the purge.
    Last,
}

/// What soft-deleted bytes cost: nothing for some days, as before for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftDeleteTerms {
    /// How many days of 24 hours are free.
    pub free_days: u32,
    /// Which.
    pub free: FreePart,
}

/// The rules of a price book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Name of the book, for statements.
    pub name: String,
    /// Currency of all its prices.
    pub currency: Currency,
    /// Zone of its days and months.
    pub zone: BillZone,
    /// What a gigabyte is.
    pub gigabyte: Gigabyte,
    /// How a line is rounded.
    pub rounding: Rounding,
    /// What sizes count as.
    pub bands: Bands,
    /// How instances over time become a quantity.
    pub instance_integration: Integration,
    /// What an instance protected without an agent counts as, in millionths of one with it.
    pub agentless: MicroUnits,
    /// How bytes over time become a quantity.
    pub storage_integration: Integration,
    /// What soft-deleted bytes cost.
    pub soft_delete: SoftDeleteTerms,
    /// Shortest stay in the archive, in days of 24 hours.
    pub archive_days_min: u32,
}

impl Terms {
    /// Digits after the point of an amount.
    pub fn digits(&self) -> u16 {
        self.currency.exponent().unwrap_or(0)
    }
}

/// A value that holds from an instant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) from: Timestamp,
    pub(crate) value: Decimal,
}

/// Values that follow one another without gap or overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Series {
    steps: Vec<Step>,
    until: Option<Timestamp>,
}

impl Series {
    /// The step that holds at `at`.
    pub(crate) fn at(&self, at: Timestamp) -> Option<Step> {
        if self.until.is_some_and(|until| at >= until) {
            return None;
        }
        let after = self.steps.partition_point(|step| step.from <= at);
        after.checked_sub(1).map(|index| self.steps[index])
    }

    /// The first instant after `at` from which something else holds.
    pub(crate) fn change_after(&self, at: Timestamp) -> Option<Timestamp> {
        let after = self.steps.partition_point(|step| step.from <= at);
        let next = self.steps.get(after).map(|step| step.from);
        next.or(self.until.filter(|until| *until > at))
    }
}

/// An entry of a document: what holds in a stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) from: Timestamp,
    pub(crate) until: Option<Timestamp>,
    pub(crate) value: Decimal,
}

/// Whether time between two entries may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gaps {
    Refused,
    /// Where nothing is written, nothing is taken off or added.
    Zero,
}

pub(crate) fn problem(entry: &str, problem: impl Into<BookProblem>) -> Error {
    Error::Book { entry: entry.to_owned(), problem: Box::new(problem.into()) }
}

/// Lays entries behind one another.
pub(crate) fn series(mut entries: Vec<Entry>, gaps: Gaps) -> Result<Series, Error> {
    entries.sort_by_key(|entry| entry.from);
    let mut series = Series::default();
    let mut last: Option<Entry> = None;
    for entry in entries {
        if let Some(until) = entry.until.filter(|until| *until <= entry.from) {
            return Err(problem(&entry.name, BookProblem::Empty { from: entry.from, until }));
        }
        if let Some(before) = &last {
            let until = before.until.unwrap_or(Timestamp(i64::MAX));
            if until > entry.from {
                let other = before.name.clone();
                return Err(problem(&entry.name, BookProblem::Overlap { other, until }));
            }
            if until < entry.from {
                match gaps {
                    Gaps::Refused => {
                        let gap = BookProblem::Gap { from: until, until: entry.from };
                        return Err(problem(&entry.name, gap));
                    }
                    Gaps::Zero => series.steps.push(Step { from: until, value: Decimal::ZERO }),
                }
            }
        }
        series.steps.push(Step { from: entry.from, value: entry.value });
        series.until = entry.until;
        last = Some(entry);
    }
    Ok(series)
}

/// For what a price is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PriceKey {
    pub(crate) meter: Meter,
    pub(crate) region: Option<String>,
    pub(crate) redundancy: Option<Redundancy>,
}

/// A checked price book: rules and prices by meter, region, redundancy and date.
///
/// A price without a region holds where no price with that region is given. Prices of one key follow one another
/// without gap and without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceBook {
    pub(crate) terms: Terms,
    pub(crate) prices: BTreeMap<PriceKey, Series>,
    pub(crate) discounts: BTreeMap<Meter, Series>,
    pub(crate) minimum: Series,
}

impl PriceBook {
    /// Its rules.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(crate) fn prices(&self, meter: Meter, region: &str, redundancy: Redundancy) -> Option<&Series> {
        let meter = if meter == Meter::EarlyDeletion { Meter::Storage(Tier::Archive) } else { meter };
        let redundancy = meter.has_redundancy().then_some(redundancy);
        let key = PriceKey { meter, region: Some(region.to_owned()), redundancy };
        self.prices.get(&key).or_else(|| self.prices.get(&PriceKey { region: None, ..key }))
    }

    /// The price of one unit (an instance, or a gigabyte) for a month, as it is at `at`.
    pub fn price_at(
        &self,
        meter: Meter,
        region: &str,
        redundancy: Redundancy,
        at: Timestamp,
    ) -> Option<Decimal> {
        self.prices(meter, region, redundancy)?.at(at).map(|step| step.value)
    }

    /// The least that an instance with any charge costs in the month that begins at `start`.
    pub(crate) fn minimum_at(&self, start: Timestamp) -> Decimal {
        self.minimum.at(start).map_or(Decimal::ZERO, |step| step.value)
    }
}
