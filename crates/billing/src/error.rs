//! What can go wrong, and where.

use thiserror::Error;
use vmkeep_model::{LineageId, Timestamp};

use crate::book::Meter;
use crate::decimal::DecimalError;
use crate::event::EventId;
use crate::month::{CalendarError, Month};
use crate::size::{BandError, SizeError};

/// Everything that can go wrong in this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A document is not of its form.
    #[error("{what} cannot be read: {message}")]
    Document {
        /// Which kind of document.
        what: &'static str,
        /// What the reader said.
        message: String,
    },
    /// A price book contradicts itself or says nothing sensible.
    #[error("price book, {entry}: {problem}")]
    Book {
        /// Which entry, counted from 1, and what it is for.
        entry: String,
        /// What is wrong with it.
        #[source]
        problem: Box<BookProblem>,
    },
    /// An event cannot have happened.
    #[error("event {event} ({kind}): {problem}")]
    Event {
        /// Which.
        event: EventId,
        /// Its kind.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        problem: EventProblem,
    },
    /// Something is to be charged and the book has no price for it then. A price of 0 says that it is free.
    #[error("no price for {meter} of {instance} in region {region:?}, redundancy {redundancy}, at {at}")]
    NoPrice {
        /// Of which instance.
        instance: LineageId,
        /// For what.
        meter: Meter,
        /// Where.
        region: Box<str>,
        /// How it is stored.
        redundancy: &'static str,
        /// From when on.
        at: Timestamp,
    },
    /// Usage was asked for up to an instant that lies behind events already applied.
    #[error("usage up to {until} was asked for after an event of {instance} at {now}")]
    CutInPast {
        /// Of which instance.
        instance: LineageId,
        /// The instant asked for.
        until: Timestamp,
        /// How far the events are.
        now: Timestamp,
    },
    /// Events of an instance came after those of a later one.
    #[error("event {0} comes after those of a later instance; events are ordered by instance, then number")]
    InstanceOrder(EventId),
    /// There are events of an instance that nobody described.
    #[error("event {0} is of an instance that is not described")]
    UnknownInstance(EventId),
    /// Not a month, day or zone.
    #[error(transparent)]
    Calendar(#[from] CalendarError),
    /// An amount does not fit 128 bits of minor units.
    #[error("an amount of {0} does not fit a statement")]
    Amount(String),
    /// A quantity does not fit 128 bits.
    #[error("what was used of {meter} in {month} does not fit 128 bits")]
    Quantity {
        /// Of what.
        meter: Meter,
        /// When.
        month: Month,
    },
    /// An instance is on a statement already: a second time it would be rounded, and charged the minimum, twice.
    #[error("{instance} is on the statement of {month} already")]
    Twice {
        /// The instance.
        instance: LineageId,
        /// The statement's month.
        month: Month,
    },
    /// A closed statement that contradicts itself.
    #[error("closed statement of {month}: {what}")]
    Closed {
        /// Its month.
        month: Month,
        /// What does not agree.
        what: String,
    },
    /// Usage of another month, or priced by another book, cannot be on this statement.
    #[error("usage of {found} on the statement of {month}")]
    OtherMonth {
        /// The statement's month.
        month: Month,
        /// The usage's.
        found: Month,
    },
    /// A correction compares a statement with one that is not its newer reading.
    #[error("the statement of {0} cannot correct that of {1}: month, currency and zone must agree")]
    NotARerun(Month, Month),
    /// Shares that do not add up to what lies in the folder.
    #[error("{accounted} bytes are accounted for and {found} lie in the folder")]
    Unexplained {
        /// What the shares add up to.
        accounted: u128,
        /// What was found.
        found: u128,
    },
    /// A forecast was asked for in impossible terms.
    #[error("forecast: {0}")]
    Forecast(&'static str),
}

/// What is wrong with an entry of a price book.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BookProblem {
    /// Not a number that a price can be.
    #[error("{field} {text:?} is {problem}")]
    Number {
        /// Which field.
        field: &'static str,
        /// What it says (its beginning).
        text: String,
        /// What is wrong with it.
        problem: DecimalError,
    },
    /// A word that the field does not know.
    #[error("{field} {text:?} is none of: {allowed}")]
    Word {
        /// Which field.
        field: &'static str,
        /// What it says (its beginning).
        text: String,
        /// What it may say.
        allowed: &'static str,
    },
    /// Not an ISO 4217 currency with minor units.
    #[error("{0:?} is not a currency of ISO 4217")]
    Currency(String),
    /// A bad zone or date.
    #[error(transparent)]
    Calendar(#[from] CalendarError),
    /// Bad bands.
    #[error(transparent)]
    Bands(#[from] BandError),
    /// Ends before it begins.
    #[error("ends at {until}, which is not after its start at {from}")]
    Empty {
        /// Start.
        from: Timestamp,
        /// End.
        until: Timestamp,
    },
    /// Time that no entry covers.
    #[error("nothing holds from {from} until {until}")]
    Gap {
        /// Start of the gap.
        from: Timestamp,
        /// Its end.
        until: Timestamp,
    },
    /// Time that two entries cover.
    #[error("overlaps {other}, which holds until {until}")]
    Overlap {
        /// The other entry.
        other: String,
        /// When that ends; the end of time when it has none.
        until: Timestamp,
    },
    /// A field that this meter must have.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field that this meter cannot have.
    #[error("{0} has no meaning here")]
    Meaningless(&'static str),
    /// A number out of its range.
    #[error("{field} is {value}; the most is {max}")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// The largest allowed.
        max: u64,
    },
    /// A part of a unit that is no whole number of millionths: it could not be billed exactly.
    #[error("{0} times the units of a band is not a whole number of millionths")]
    Fine(&'static str),
    /// Two books that are to be one differ in more than their prices.
    #[error("differs from the first book in {0}")]
    Differs(&'static str),
}

/// What is wrong with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EventProblem {
    /// Its number does not grow.
    #[error("its number is not above that of the event before, {0}")]
    Number(u64),
    /// It belongs to another instance.
    #[error("it belongs to another instance")]
    Instance,
    /// Its time is outside what a bill can have.
    #[error("its time lies outside the years 1970 to 9000, or more than 100 years after the event before")]
    Time,
    /// More bytes leave than are there.
    #[error("{missing} more bytes leave the {tier} tier than are there")]
    NotThere {
        /// Which tier.
        tier: &'static str,
        /// How many are missing.
        missing: u128,
    },
    /// More bytes than can be counted.
    #[error("more than 2^64 bytes in one tier")]
    TooLarge,
    /// Protected twice, or stopped twice.
    #[error("protection is {0} already")]
    Already(&'static str),
    /// A backup of something that is not protected.
    #[error("a backup of what is neither protected nor stored")]
    NotProtected,
    /// Soft-deleted for a negative time, or for more than 100 years.
    #[error("it would be purged before it was deleted, or 100 years later")]
    Purge,
    /// Too many soft deletions wait at a time.
    #[error("more than {max} soft deletions wait at a time", max = crate::meter::SOFT_MAX)]
    TooManySoft,
    /// Its disks have no size.
    #[error(transparent)]
    Size(#[from] SizeError),
}
