//! What protecting VMs costs: events in, exact quantities and rounded statements out. Pure: no I/O, no clock.
mod book;
mod decimal;
mod document;
mod error;
mod event;
mod meter;
mod month;
mod output;
mod rate;
mod size;
mod statement;
mod usage;

pub use book::{FreePart, Gigabyte, Integration, Meter, PriceBook, Redundancy, SoftDeleteTerms, Terms};
pub use decimal::{Amount, Decimal, DecimalError, Rounding};
pub use document::{
    BOOK_BYTES_MAX, BandDocument, BookDocument, DiscountDocument, InstanceDocument, MinimumDocument,
    PriceDocument, SoftDeleteDocument, StorageDocument,
};
pub use error::{BookProblem, Error, EventProblem};
pub use event::{Agent, DiskSize, Event, EventId, EventKind, Selection, Tier};
pub use meter::{Instance, InstanceMeter, SOFT_MAX};
pub use month::{BillZone, CalendarError, Month, MonthSpan};
pub use output::{FocusParties, focus_csv};
pub use rate::{Window, rate_all, rate_instance};
pub use size::{
    Band, BandError, Bands, DiskRule, Measure, MicroUnits, NextBand, SizeError, SizeRule, instance_size,
};
pub use statement::{Charge, ClosedStatement, Corrected, Grouping, Line, Measured, Statement};
pub use usage::{Scale, Usage};
