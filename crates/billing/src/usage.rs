//! Quantities: whole numbers, and the exact amount they come to.

use num_bigint::BigInt;
use vmkeep_model::Timestamp;

use crate::book::{Integration, Meter};
use crate::decimal::{Amount, Decimal};
use crate::error::Error;
use crate::month::{Month, MonthSpan};

/// What the whole number of a usage counts, and how many of it are one unit for the whole month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scale {
    /// Millionths of an instance, or bytes, in one priced unit.
    pub per_unit: u64,
    /// Milliseconds, or days, of the month.
    pub per_month: u64,
    /// Whether `per_month` counts days.
    pub days: bool,
}

impl Scale {
    pub(crate) fn new(month: &MonthSpan, integration: Integration, per_unit: u64) -> Self {
        match integration {
            Integration::Exact | Integration::Hour => {
                Self { per_unit, per_month: month.millis(), days: false }
            }
            Integration::Day => Self {
                per_unit,
                per_month: u64::try_from(month.days()).expect("a month has few days"),
                days: true,
            },
        }
    }
}

impl Scale {
    /// A metered whole number in units for the whole month.
    pub fn units(self, quantity: u128) -> Amount {
        let whole = BigInt::from(self.per_unit) * BigInt::from(self.per_month);
        Amount::new(BigInt::from(quantity), whole)
    }
}

/// What one instance used of one meter at one price in one month, or in a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The month.
    pub month: Month,
    /// What was used.
    pub meter: Meter,
    /// What `quantity` counts.
    pub scale: Scale,
    /// Level times time, as a whole number.
    pub quantity: u128,
    /// Price of one unit for the whole month.
    pub price: Decimal,
    /// Since when that price holds.
    pub price_from: Timestamp,
    /// What is taken off, in percent.
    pub discount_percent: Option<Decimal>,
    /// When the usage began.
    pub from: Timestamp,
    /// When it ended (exclusive).
    pub until: Timestamp,
    /// Numbers of the first and the last event that made it.
    pub events: Option<(u64, u64)>,
}

impl Usage {
    pub(crate) fn new(
        month: Month,
        meter: Meter,
        scale: Scale,
        price: (Decimal, Timestamp),
        discount: Option<Decimal>,
        from: Timestamp,
    ) -> Self {
        Self {
            month,
            meter,
            scale,
            quantity: 0,
            price: price.0,
            price_from: price.1,
            discount_percent: discount,
            from,
            until: from,
            events: None,
        }
    }

    pub(crate) fn add(
        &mut self,
        quantity: u128,
        from: Timestamp,
        until: Timestamp,
        events: Option<(u64, u64)>,
    ) -> Result<(), Error> {
        let too_much = Error::Quantity { meter: self.meter, month: self.month };
        self.quantity = self.quantity.checked_add(quantity).ok_or(too_much)?;
        self.from = self.from.min(from);
        self.reach(until);
        self.events = match (self.events, events) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        Ok(())
    }

    pub(crate) fn reach(&mut self, until: Timestamp) {
        self.until = self.until.max(until);
    }

    /// Whether `other` is more of the same, of another part of the month.
    pub(crate) fn continues(&self, other: &Self) -> bool {
        let key = |u: &Self| (u.month, u.meter, u.scale, u.price, u.price_from, u.discount_percent);
        key(self) == key(other)
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), Error> {
        self.add(other.quantity, other.from, other.until, other.events)
    }

    /// The quantity in instances or gigabytes for the whole month.
    pub fn units(&self) -> Amount {
        self.scale.units(self.quantity)
    }

    /// What it comes to before any discount, exactly.
    pub fn amount(&self) -> Amount {
        self.units() * self.price.to_amount()
    }

    /// What the discount takes off, exactly.
    pub fn discount(&self) -> Option<Amount> {
        let percent = self.discount_percent.filter(|percent| *percent > Decimal::ZERO)?;
        Some(self.amount() * percent.to_amount() / BigInt::from(100))
    }
}
