//! Statements: rounded lines, their sum, the close of a month, and corrections after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use num_bigint::BigInt;
use vmkeep_model::{LineageId, Timestamp};

use crate::book::{Meter, PriceBook};
use crate::decimal::{Amount, Decimal, Rounding, minor_text};
use crate::error::Error;
use crate::meter::Instance;
use crate::month::Month;
use crate::usage::{Scale, Usage};

/// What a line is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Charge {
    /// Usage of a meter.
    Usage(Meter),
    /// What is taken off the usage of a meter.
    Discount(Meter),
    /// What is missing to the least that an instance costs in a month.
    Minimum,
    /// The difference to a line of a closed month.
    Correction {
        /// That month.
        month: Month,
        /// What it was for.
        of: Corrected,
    },
}

/// What a corrected line was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Corrected {
    /// Usage of a meter.
    Usage(Meter),
    /// A discount.
    Discount(Meter),
    /// The minimum charge.
    Minimum,
}

impl Charge {
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Usage(Meter::Instance) => "protected instances".to_owned(),
            Self::Usage(Meter::Storage(tier)) => format!("{} storage", tier.name()),
            Self::Usage(Meter::EarlyDeletion) => "early deletion from archive".to_owned(),
            Self::Discount(meter) => format!("discount on {}", Self::Usage(meter).describe()),
            Self::Minimum => "minimum charge".to_owned(),
            Self::Correction { month, of } => {
                format!("correction of {month}: {}", Self::from(of).describe())
            }
        }
    }

    /// The meter behind it; the minimum has none.
    pub fn meter(self) -> Option<Meter> {
        match self {
            Self::Usage(meter)
            | Self::Discount(meter)
            | Self::Correction { of: Corrected::Usage(meter) | Corrected::Discount(meter), .. } => {
                Some(meter)
            }
            Self::Minimum | Self::Correction { of: Corrected::Minimum, .. } => None,
        }
    }

    pub(crate) fn corrected(self) -> (Option<Month>, Corrected) {
        match self {
            Self::Usage(meter) => (None, Corrected::Usage(meter)),
            Self::Discount(meter) => (None, Corrected::Discount(meter)),
            Self::Minimum => (None, Corrected::Minimum),
            Self::Correction { month, of } => (Some(month), of),
        }
    }
}

impl From<Corrected> for Charge {
    fn from(of: Corrected) -> Self {
        match of {
            Corrected::Usage(meter) => Self::Usage(meter),
            Corrected::Discount(meter) => Self::Discount(meter),
            Corrected::Minimum => Self::Minimum,
        }
    }
}

/// How much of what a line charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The whole number that was metered.
    pub quantity: u128,
    /// What it counts.
    pub scale: Scale,
    /// Price of one unit for the whole month.
    pub rate: Decimal,
}

impl Measured {
    /// The quantity in instances or gigabytes for the whole month.
    pub fn units(&self) -> Amount {
        self.scale.units(self.quantity)
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// For which instance.
    pub instance: Arc<Instance>,
    /// For what.
    pub charge: Charge,
    /// From when.
    pub from: Timestamp,
    /// Until when (exclusive).
    pub until: Timestamp,
    /// What was metered; minimums and corrections have nothing.
    pub measured: Option<Measured>,
    /// What it comes to, exactly.
    pub exact: Amount,
    /// What is charged, in minor units of the currency.
    pub minor: i128,
    /// Numbers of the first and the last event that made it.
    pub events: Option<(u64, u64)>,
}

/// What lines are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping<'a> {
    /// By VM.
    Vm,
    /// By who pays.
    CostCenter,
    /// By the value of a tag.
    Tag(&'a str),
    /// By what was metered.
    Meter,
}

/// A statement of one month. Its total is the sum of its rounded lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub(crate) book: String,
    pub(crate) month: Month,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) zone: String,
    pub(crate) currency: String,
    pub(crate) digits: u16,
    pub(crate) rounding: Rounding,
    pub(crate) gigabyte: &'static str,
    pub(crate) lines: Vec<Line>,
    /// Whose usage is on it.
    pub(crate) instances: BTreeSet<LineageId>,
}

impl Statement {
    /// A statement of `month` without lines.
    pub fn new(book: &PriceBook, month: Month) -> Result<Self, Error> {
        let terms = book.terms();
        let span = terms.zone.span(month)?;
        Ok(Self {
            book: terms.name.clone(),
            month,
            start: span.start(),
            end: span.end(),
            zone: terms.zone.name().to_owned(),
            currency: terms.currency.code().to_owned(),
            digits: terms.digits(),
            rounding: terms.rounding,
            gigabyte: terms.gigabyte.name(),
            lines: Vec::new(),
            instances: BTreeSet::new(),
        })
    }

    /// Adds everything that one instance used in the month; parts of the month are put together before rounding.
    ///
    /// # Errors
    /// [`Error::OtherMonth`] for usage of another month, [`Error::Amount`] for an amount beyond 128 bits.
    pub fn add(&mut self, book: &PriceBook, instance: &Arc<Instance>, usages: &[Usage]) -> Result<(), Error> {
        let mut merged: Vec<Usage> = Vec::new();
        for usage in usages {
            if usage.month != self.month {
                return Err(Error::OtherMonth { month: self.month, found: usage.month });
            }
            match merged.iter_mut().find(|other| other.continues(usage)) {
                Some(other) => other.merge(usage)?,
                None => merged.push(usage.clone()),
            }
        }
        if !merged.is_empty() && !self.instances.insert(instance.id) {
            return Err(Error::Twice { instance: instance.id, month: self.month });
        }
        merged.sort_by_key(|usage| (usage.meter, usage.price_from, usage.discount_percent));
        let mut sum = Amount::from(BigInt::ZERO);
        for usage in &merged {
            let measured = Measured { quantity: usage.quantity, scale: usage.scale, rate: usage.price };
            let mut line = |charge, measured, exact: Amount| -> Result<(), Error> {
                sum += &exact;
                let minor = self.minor(&exact)?;
                let (from, until, events) = (usage.from, usage.until, usage.events);
                let instance = Arc::clone(instance);
                self.lines.push(Line { instance, charge, from, until, measured, exact, minor, events });
                Ok(())
            };
            line(Charge::Usage(usage.meter), Some(measured), usage.amount())?;
            if let Some(discount) = usage.discount() {
                line(Charge::Discount(usage.meter), None, -discount)?;
            }
        }
        let minimum = book.minimum_at(self.start).to_amount();
        if !merged.is_empty() && sum < minimum {
            let exact = minimum - sum;
            self.lines.push(Line {
                instance: Arc::clone(instance),
                charge: Charge::Minimum,
                from: self.start,
                until: self.end,
                measured: None,
                minor: self.minor(&exact)?,
                exact,
                events: None,
            });
        }
        Ok(())
    }

    pub(crate) fn minor(&self, exact: &Amount) -> Result<i128, Error> {
        let minor = self.rounding.apply(exact, self.digits);
        // Far below the limit, so that sums of lines cannot overflow.
        minor.filter(|minor| minor.unsigned_abs() < 1 << 90).ok_or_else(|| Error::Amount(exact.to_string()))
    }

    /// Adds lines that correct closed months.
    pub fn add_corrections(&mut self, corrections: Vec<Line>) {
        self.lines.extend(corrections);
    }

    /// Its month.
    pub fn month(&self) -> Month {
        self.month
    }

    /// First instant of the month in the zone of the bill, and the first after it.
    pub fn period(&self) -> (Timestamp, Timestamp) {
        (self.start, self.end)
    }

    /// IANA name of the zone of the bill.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// ISO 4217 code of the currency.
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// Its lines, in the order they were added.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The sum of its lines, in minor units.
    pub fn total_minor(&self) -> i128 {
        self.lines.iter().map(|line| line.minor).sum()
    }

    /// The sum of its lines, as text with the digits of the currency.
    pub fn total(&self) -> String {
        minor_text(self.total_minor(), self.digits)
    }

    /// An amount in minor units as text with the digits of the currency, for what [`totals`](Self::totals) gives.
    pub fn money_of(&self, minor: i128) -> String {
        minor_text(minor, self.digits)
    }

    /// The lines of some instances alone, with their sum.
    #[must_use]
    pub fn of(&self, wanted: impl Fn(&Instance) -> bool) -> Self {
        let lines: Vec<Line> = self.lines.iter().filter(|line| wanted(&line.instance)).cloned().collect();
        let instances = lines.iter().map(|line| line.instance.id).collect();
        Self { lines, instances, ..self.clone() }
    }

    /// Lines added up, in minor units. What has no such tag or cost centre, or no meter, is under the empty name.
    pub fn totals(&self, grouping: Grouping<'_>) -> BTreeMap<String, i128> {
        let mut totals = BTreeMap::new();
        for line in &self.lines {
            let name = match grouping {
                Grouping::Vm => line.instance.name.clone(),
                Grouping::CostCenter => line.instance.cost_center.clone().unwrap_or_default(),
                Grouping::Tag(key) => line.instance.tags.get(key).cloned().unwrap_or_default(),
                Grouping::Meter => line.charge.meter().map(|m| m.name().to_owned()).unwrap_or_default(),
            };
            *totals.entry(name).or_insert(0) += line.minor;
        }
        totals
    }

    /// Freezes it.
    pub fn close(self) -> ClosedStatement {
        ClosedStatement { statement: self }
    }
}

type Key = (LineageId, Corrected);

/// A statement that does not change any more: there is no way to a line of it but reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedStatement {
    statement: Statement,
}

impl ClosedStatement {
    /// The statement.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// Reads what [`Statement::to_json`] wrote of it: the same statement, to the last fraction.
    ///
    /// # Errors
    /// [`Error::Document`] when it is not of that form; [`Error::Closed`] when what it says does not follow from its own
    /// quantities and rates: somebody changed it.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Statement::from_json(text).map(|statement| Self { statement })
    }

    /// The lines that make good the difference to a newer reading of the same month, for the statement of a later one.
    /// `earlier` are corrections of this month that other statements carried already.
    ///
    /// # Errors
    /// [`Error::NotARerun`] when `newer` is not of the same month, currency and zone.
    pub fn corrections(&self, newer: &Statement, earlier: &[Line]) -> Result<Vec<Line>, Error> {
        let billed = &self.statement;
        let same =
            (billed.month, &billed.currency, &billed.zone) == (newer.month, &newer.currency, &newer.zone);
        if !same {
            return Err(Error::NotARerun(newer.month, billed.month));
        }
        let mut sums: BTreeMap<Key, (i128, &Line)> = BTreeMap::new();
        let closed = billed.lines.iter().filter(|line| line.charge.corrected().0.is_none());
        let earlier = earlier.iter().filter(|line| line.charge.corrected().0 == Some(billed.month));
        let newly = newer.lines.iter().filter(|line| line.charge.corrected().0.is_none());
        for (sign, line) in closed.chain(earlier).map(|l| (-1, l)).chain(newly.map(|l| (1, l))) {
            let key = (line.instance.id, line.charge.corrected().1);
            let sum = sums.entry(key).or_insert((0, line));
            *sum = (sum.0 + sign * line.minor, line);
        }
        let changed = sums.into_iter().filter(|(_, (minor, _))| *minor != 0);
        let scale = BigInt::from(10).pow(u32::from(billed.digits));
        let lines = changed.map(|((_, of), (minor, line))| Line {
            charge: Charge::Correction { month: billed.month, of },
            measured: None,
            exact: Amount::new(BigInt::from(minor), scale.clone()),
            minor,
            ..line.clone()
        });
        Ok(lines.collect())
    }
}
