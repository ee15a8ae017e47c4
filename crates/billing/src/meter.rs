//! From events to quantities: the meter of one protected instance.
//!
//! The meter keeps levels (units, bytes of each tier) and walks over time from event to event, adding level times time
//! for each price that held. What it keeps does not grow with the number of events: one level per tier, one entry per
//! soft deletion that still waits ([`SOFT_MAX`] at most), one quantity per month, meter and price.

use std::collections::BTreeMap;

use vmkeep_model::{LineageId, Timestamp};

use crate::book::{FreePart, Integration, Meter, PriceBook, Redundancy, Series, Step};
use crate::error::{Error, EventProblem};
use crate::event::{Event, EventId, Tier};
use crate::instant::Instant;
use crate::month::{BillZone, MonthSpan};
use crate::size::{MicroUnits, SizeRule};
use crate::usage::{Scale, Usage};

/// Most soft deletions of one instance that may wait for their purge. Azure keeps 9999 points of an instance.
pub const SOFT_MAX: usize = 10_000;

pub(crate) const DAY_MS: i64 = 86_400_000;
/// Longest time between two events: 100 years.
pub(crate) const SILENCE_MAX_MS: i64 = 36_525 * DAY_MS;

/// A protected instance, as far as its bill is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its identity: what is protected again after its data went, or elsewhere, is another instance.
    pub id: LineageId,
    /// Name of the VM.
    pub name: String,
    /// Region, as prices name it.
    pub region: String,
    /// Of its vault; fixed at the first backup.
    pub redundancy: Redundancy,
    /// How its size is found.
    pub size_rule: SizeRule,
    /// Who pays.
    pub cost_center: Option<String>,
    /// Tags to group by.
    pub tags: BTreeMap<String, String>,
}

/// What is metered at any time; early deletion happens at instants.
const CHANNELS: [Meter; 4] = [
    Meter::Instance,
    Meter::Storage(Tier::Snapshot),
    Meter::Storage(Tier::Vault),
    Meter::Storage(Tier::Archive),
];

/// One metered level over time.
#[derive(Clone, Debug)]
struct Channel {
    integration: Integration,
    /// What is billable now: millionths of a unit, or bytes.
    level: u128,
    /// Highest level of the running hour or day that is in the quantity already.
    peak: u128,
    period_end: Timestamp,
    /// Numbers of the first and last event that made the level.
    cause: Option<(u64, u64)>,
    /// Where the quantity of the running stretch is added; found again when a stretch begins.
    slot: Option<usize>,
}

/// The meter of one instance.
#[derive(Clone, Debug)]
pub struct InstanceMeter<'a> {
    book: &'a PriceBook,
    instance: &'a Instance,
    now: Option<Timestamp>,
    last_number: Option<u64>,
    clock_went_back: u64,
    protected: bool,
    succeeded: bool,
    size_bytes: u64,
    units: MicroUnits,
    bytes: [u64; 3],
    /// Soft-deleted bytes by deletion and purge.
    soft: BTreeMap<(Timestamp, Timestamp), [u64; 3]>,
    instant: Instant,
    channels: [Channel; 4],
    early_slot: Option<usize>,
    /// The month that `now` was last seen in.
    month: MonthSpan,
    /// Up to here nothing but the hour and the day changes.
    stretch_end: Timestamp,
    usages: Vec<Usage>,
}

impl<'a> InstanceMeter<'a> {
    /// A meter that has seen nothing.
    ///
    /// # Panics
    /// Never: January 1970 exists in every zone.
    pub fn new(book: &'a PriceBook, instance: &'a Instance) -> Self {
        let terms = book.terms();
        let channel = |meter| Channel {
            integration: match meter {
                Meter::Instance => terms.instance_integration,
                _ => terms.storage_integration,
            },
            level: 0,
            peak: 0,
            period_end: Timestamp(i64::MIN),
            cause: None,
            slot: None,
        };
        let first = crate::Month::new(1970, 1).and_then(|month| BillZone::UTC.span(month));
        Self {
            book,
            instance,
            now: None,
            last_number: None,
            clock_went_back: 0,
            protected: false,
            succeeded: false,
            size_bytes: 0,
            units: MicroUnits(0),
            bytes: [0; 3],
            soft: BTreeMap::new(),
            instant: Instant::default(),
            channels: CHANNELS.map(channel),
            early_slot: None,
            month: first.expect("January 1970 exists"),
            stretch_end: Timestamp(i64::MIN),
            usages: Vec::new(),
        }
    }

    /// Size of the last successful backup, in bytes; `None` before the first.
    pub fn size_bytes(&self) -> Option<u64> {
        self.succeeded.then_some(self.size_bytes)
    }

    /// Bytes in `tier` that were not deleted.
    pub fn stored_bytes(&self, tier: Tier) -> u64 {
        self.bytes[tier.index()]
    }

    /// Soft-deleted bytes in `tier`.
    pub fn soft_deleted_bytes(&self, tier: Tier) -> u128 {
        self.soft.values().map(|bytes| u128::from(bytes[tier.index()])).sum()
    }

    /// How many events were written down with a clock that had gone back; they count as at the time of the one before.
    pub fn clock_went_back(&self) -> u64 {
        self.clock_went_back
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// [`Error::Event`] when it cannot have happened, [`Error::NoPrice`] when something up to it has no price.
    /// Afterwards the meter is of no more use.
    pub fn apply(&mut self, event: &Event) -> Result<(), Error> {
        let fail = |problem| Error::Event { event: event.id(), kind: event.kind.name(), problem };
        if event.instance != self.instance.id {
            return Err(fail(EventProblem::Instance));
        }
        if let Some(last) = self.last_number.filter(|last| *last >= event.number) {
            return Err(fail(EventProblem::Number(last)));
        }
        self.check_time(event)?;
        let now = self.now.unwrap_or(event.at);
        if self.now.is_none() {
            self.now = Some(event.at);
        } else if event.at < now {
            self.clock_went_back += 1;
        } else if event.at > now {
            self.advance(event.at)?;
        }
        self.last_number = Some(event.number);
        self.instant.collect(event, self.book.terms(), self.instance.size_rule).map_err(fail)
    }

    /// Refuses a time that no event can have.
    pub(crate) fn check_time(&self, event: &Event) -> Result<(), Error> {
        let now = self.now.unwrap_or(event.at);
        let near = event.at.0.checked_sub(now.0).is_some_and(|ms| ms <= SILENCE_MAX_MS);
        // The same instant as before was looked at before.
        if near && (self.now == Some(event.at) || self.book.terms().zone.month_of(event.at).is_ok()) {
            return Ok(());
        }
        Err(Error::Event { event: event.id(), kind: event.kind.name(), problem: EventProblem::Time })
    }

    /// What was used since the last call and before `until`. A month cut into pieces gives the same quantities in all.
    ///
    /// # Errors
    /// [`Error::CutInPast`] when events at or after `until` were applied, and as [`Self::apply`].
    pub fn usage_until(&mut self, until: Timestamp) -> Result<Vec<Usage>, Error> {
        match self.now {
            Some(now) if until < now => {
                return Err(Error::CutInPast { instance: self.instance.id, until, now });
            }
            Some(_) => self.advance(until)?,
            None => {}
        }
        for channel in &mut self.channels {
            channel.slot = None;
        }
        self.early_slot = None;
        Ok(std::mem::take(&mut self.usages))
    }

    /// Makes the events of the instant at `now` count.
    fn settle(&mut self, now: Timestamp) -> Result<(), Error> {
        let instant = std::mem::take(&mut self.instant);
        let Some(numbers) = instant.events else { return Ok(()) };
        let event = EventId { instance: self.instance.id, number: numbers.1 };
        self.settle_state(&instant).map_err(|problem| Error::Event {
            event,
            kind: instant.last_kind,
            problem,
        })?;
        if instant.early_byte_ms > 0 && self.succeeded {
            self.accrue_early(now, instant.early_byte_ms, numbers)?;
        }
        let holds_data = self.bytes != [0; 3] || !self.soft.is_empty();
        if !self.protected && !holds_data {
            (self.succeeded, self.size_bytes, self.units) = (false, 0, MicroUnits(0));
        }
        self.set_levels(now, Some(numbers));
        Ok(())
    }

    fn settle_state(&mut self, instant: &Instant) -> Result<(), EventProblem> {
        let held_data = self.bytes != [0; 3] || !self.soft.is_empty();
        let was_protected = self.protected;
        self.protected = match i32::from(self.protected).saturating_add(instant.protection) {
            0 => false,
            1 => true,
            more if more > 1 => return Err(EventProblem::Already("configured")),
            _ => return Err(EventProblem::Already("stopped")),
        };
        settle_bytes(&mut self.bytes, &instant.bytes)?;
        for (key, change) in &instant.soft {
            let bytes = self.soft.entry(*key).or_default();
            settle_bytes(bytes, change)?;
            if *bytes == [0; 3] {
                self.soft.remove(key);
            }
        }
        let holds_data = self.bytes != [0; 3] || !self.soft.is_empty();
        if let Some((size, units)) = instant.backup {
            if !(was_protected || instant.configured || held_data || holds_data) {
                return Err(EventProblem::NotProtected);
            }
            (self.succeeded, self.size_bytes, self.units) = (true, size, units);
        }
        if self.soft.len() > SOFT_MAX { Err(EventProblem::TooManySoft) } else { Ok(()) }
    }

    /// The levels that are billable from `now` on.
    fn set_levels(&mut self, now: Timestamp, numbers: Option<(u64, u64)>) {
        let mut levels: [u128; 4] = [0; 4];
        if self.succeeded {
            for (index, live) in self.bytes.iter().enumerate() {
                levels[index + 1] = u128::from(*live);
            }
            for (key, bytes) in &self.soft {
                let free = free_part(self.book, *key);
                if now < free.0 || now >= free.1 {
                    for (level, bytes) in levels[1..].iter_mut().zip(bytes) {
                        *level += u128::from(*bytes);
                    }
                }
            }
            if self.protected || levels != [0; 4] {
                levels[0] = self.units.0.into();
            }
        }
        for (channel, level) in self.channels.iter_mut().zip(levels) {
            let numbers = numbers.or(channel.cause);
            if channel.level != level {
                (channel.level, channel.cause) = (level, numbers);
            }
        }
        self.stretch_end = self.stretch_end.min(self.soft_change_after(now));
    }

    fn soft_change_after(&self, now: Timestamp) -> Timestamp {
        let edges = self.soft.keys().flat_map(|key| <[_; 2]>::from(free_part(self.book, *key)));
        edges.filter(|edge| *edge > now).min().unwrap_or(Timestamp(i64::MAX))
    }

    /// Walks from `now` to `to` (exclusive), adding up what is used on the way.
    fn advance(&mut self, to: Timestamp) -> Result<(), Error> {
        let Some(mut now) = self.now.filter(|now| *now < to) else { return Ok(()) };
        self.settle(now)?;
        while now < to {
            if now >= self.stretch_end {
                self.begin_stretch(now)?;
            }
            let mut step = to.min(self.stretch_end);
            for index in 0..CHANNELS.len() {
                step = step.min(self.begin_period(index, now));
            }
            for index in 0..CHANNELS.len() {
                self.accrue(index, now, step)?;
            }
            now = step;
        }
        self.now = Some(now);
        Ok(())
    }

    /// Finds the month, and up to when prices, discounts and free parts stay as they are.
    fn begin_stretch(&mut self, now: Timestamp) -> Result<(), Error> {
        if now < self.month.start() || now >= self.month.end() {
            let zone = &self.book.terms().zone;
            self.month = zone.span(zone.month_of(now)?)?;
        }
        let changes = CHANNELS.iter().flat_map(|meter| {
            let prices = self.prices(*meter).and_then(|series| series.change_after(now));
            let discounts = self.book.discounts.get(meter).and_then(|series| series.change_after(now));
            [prices, discounts].into_iter().flatten()
        });
        self.stretch_end = changes.fold(self.month.end(), Timestamp::min);
        for channel in &mut self.channels {
            channel.slot = None;
        }
        self.early_slot = None;
        self.set_levels(now, None);
        Ok(())
    }

    /// Begins a new hour or day of a channel when one has begun; says when the running one ends.
    fn begin_period(&mut self, index: usize, now: Timestamp) -> Timestamp {
        let channel = &mut self.channels[index];
        if channel.integration == Integration::Exact || (channel.level == 0 && now >= channel.period_end) {
            return self.stretch_end;
        }
        if now >= channel.period_end {
            channel.peak = 0;
            channel.period_end = match channel.integration {
                Integration::Hour => self.month.hour_end(now),
                _ => self.month.day_end(now),
            };
        }
        channel.period_end
    }

    fn accrue(&mut self, index: usize, now: Timestamp, step: Timestamp) -> Result<(), Error> {
        let channel = &self.channels[index];
        let (level, peak) = (channel.level, channel.peak);
        let quantity = match channel.integration {
            Integration::Exact => level * u128::from(step.0.abs_diff(now.0)),
            _ if level <= peak => 0,
            Integration::Day => level - peak,
            Integration::Hour => {
                let start = self.month.start().0;
                let hour = (now.0 - start).div_euclid(3_600_000) * 3_600_000 + start;
                (level - peak) * u128::from(channel.period_end.0.abs_diff(hour))
            }
        };
        let until = if channel.integration == Integration::Exact { step } else { channel.period_end };
        if quantity > 0 {
            let cause = channel.cause;
            let slot = match channel.slot {
                Some(slot) => slot,
                None => self.slot(CHANNELS[index], now)?,
            };
            self.channels[index].slot = Some(slot);
            self.channels[index].peak = level;
            self.usages[slot].add(quantity, now, until, cause)?;
        } else if level > 0
            && let Some(slot) = self.channels[index].slot
        {
            self.usages[slot].reach(step);
        }
        Ok(())
    }

    fn accrue_early(&mut self, now: Timestamp, byte_ms: u128, numbers: (u64, u64)) -> Result<(), Error> {
        if now >= self.stretch_end {
            self.begin_stretch(now)?;
        }
        let slot = match self.early_slot {
            Some(slot) => slot,
            None => self.slot(Meter::EarlyDeletion, now)?,
        };
        self.early_slot = Some(slot);
        self.usages[slot].add(byte_ms, now, now, Some(numbers))
    }

    fn prices(&self, meter: Meter) -> Option<&'a Series> {
        self.book.prices(meter, &self.instance.region, self.instance.redundancy)
    }

    /// Where the usage of `meter` at `now` is added up.
    fn slot(&mut self, meter: Meter, now: Timestamp) -> Result<usize, Error> {
        let price: Step =
            self.prices(meter).and_then(|series| series.at(now)).ok_or_else(|| Error::NoPrice {
                instance: self.instance.id,
                meter,
                region: self.instance.region.as_str().into(),
                redundancy: self.instance.redundancy.name(),
                at: now,
            })?;
        let discount = self.book.discounts.get(&meter).and_then(|series| series.at(now));
        let (terms, month) = (self.book.terms(), self.month.month());
        let found = self.usages.iter().position(|usage| {
            usage.month == month
                && usage.meter == meter
                && usage.price_from == price.from
                && usage.discount_percent == discount.map(|d| d.value)
        });
        Ok(found.unwrap_or_else(|| {
            let integration = match meter {
                Meter::Instance => terms.instance_integration,
                Meter::Storage(_) => terms.storage_integration,
                Meter::EarlyDeletion => Integration::Exact,
            };
            let per = if meter == Meter::Instance { 1_000_000 } else { terms.gigabyte.bytes() };
            let scale = Scale::new(&self.month, integration, per);
            let price = (price.value, price.from);
            self.usages.push(Usage::new(month, meter, scale, price, discount.map(|d| d.value), now));
            self.usages.len() - 1
        }))
    }
}

fn settle_bytes(bytes: &mut [u64; 3], change: &[i128; 3]) -> Result<(), EventProblem> {
    for tier in Tier::ALL {
        let after = i128::from(bytes[tier.index()]).saturating_add(change[tier.index()]);
        if after < 0 {
            return Err(EventProblem::NotThere { tier: tier.name(), missing: after.unsigned_abs() });
        }
        bytes[tier.index()] = u64::try_from(after).map_err(|_| EventProblem::TooLarge)?;
    }
    Ok(())
}

/// From when until when soft-deleted bytes are free.
fn free_part(book: &PriceBook, (deleted_at, purge_at): (Timestamp, Timestamp)) -> (Timestamp, Timestamp) {
    let terms = book.terms().soft_delete;
    let free = i64::from(terms.free_days) * DAY_MS;
    match terms.free {
        FreePart::First => (deleted_at, Timestamp(deleted_at.0.saturating_add(free))),
        FreePart::Last => (Timestamp(purge_at.0.saturating_sub(free).max(deleted_at.0)), purge_at),
    }
}
