//! What protecting VMs costs, for whom, and why.
//!
//! [`Event`]s say what happened to a protected instance: a backup succeeded, bytes were stored, moved or deleted,
//! protection stopped. An [`InstanceMeter`] turns them into [`Usage`]: whole numbers of what was there times how long. A
//! [`PriceBook`] says what that costs, and a [`Statement`] has a rounded line for each, whose sum is its total. A closed
//! statement does not change; what turns out later is a correction on a later one.
//!
//! ```
//! use std::{collections::BTreeMap, sync::Arc};
//! use vmkeep_billing::{
//!     Agent, BookDocument, DiskRule, DiskSize, Event, EventKind, Instance, Measure, Redundancy, Selection, SizeRule,
//!     Statement, Tier, Window, rate_instance,
//! };
//! use vmkeep_model::{DiskRole, LineageId, Timestamp};
//!
//! let book = BookDocument::from_toml(r#"
//!     name = "house prices"
//!     currency = "EUR"
//!     zone = "Europe/Berlin"
//!     gigabyte = "GiB"
//!     rounding = "half-even"
//!     instance = { integration = "day", agentless_factor = "0.5", step_gb = 500, step_units = "1", bands = [
//!         { up_to_gb = 50, units = "0.5" }, { up_to_gb = 500, units = "1" } ] }
//!     storage = { integration = "exact", archive_days_min = 180 }
//!     soft_delete = { free_days = 14, free = "last" }
//!     price = [
//!         { meter = "instance", from = "2026-01-01", price = "10" },
//!         { meter = "vault", redundancy = "lrs", from = "2026-01-01", price = "0.0224" } ]
//! "#)?.check()?;
//!
//! let vm = Arc::new(Instance {
//!     id: LineageId([7; 16]),
//!     name: "web".into(),
//!     region: "here".into(),
//!     redundancy: Redundancy::Lrs,
//!     size_rule: SizeRule { measure: Measure::NonzeroBlocks, disks: DiskRule::Enhanced },
//!     cost_center: None,
//!     tags: BTreeMap::new(),
//! });
//! let mut statement = Statement::new(&book, "2026-02".parse()?)?;
//! let (from, until) = statement.period();
//! let disk = DiskSize {
//!     role: DiskRole::Os,
//!     selection: Selection::Included,
//!     nonzero_bytes: Some(47 << 30),
//!     filesystem_bytes: None,
//! };
//! let kinds = [
//!     EventKind::Protected,
//!     EventKind::Backup { disks: vec![disk], agent: Agent::Used },
//!     EventKind::Stored { tier: Tier::Vault, bytes: 20 << 30 },
//! ];
//! let events: Vec<Event> =
//!     (0..).zip(kinds).map(|(number, kind)| Event { instance: vm.id, number, at: from, kind }).collect();
//!
//! let usages = rate_instance(&book, &vm, &events, Window { from, until })?;
//! statement.add(&book, &vm, &usages)?;
//! assert_eq!(statement.total(), "5.45"); // half an instance at 10, and 20 GiB at 0.0224: 5.00 + 0.45
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What holds:
//!
//! - Nothing is billed before the first success, and both meters run as long as protection or data is there.
//! - Quantities are whole numbers and amounts exact fractions; rounding happens once, when a line is made. A month rated
//!   in pieces gives what it gives as a whole, and events of one instant count in any order.
//! - What has no price is an error. A price of 0 says that something is free.
//! - A meter keeps levels, not events: its memory does not grow with their number.
//!
//! Beside the bill: [`forecast`] rates the events of months to come, [`band_warning`] tells of a size about to count
//! more, [`fair_shares`] divides the bytes of a folder among its VMs, [`RetailPrices`] reads prices in the shape of the
//! Azure Retail Prices API, [`focus_csv`] writes FOCUS 1.2, and [`svg_chart`] draws cost and size.
//!
//! The crate does no I/O and reads no clock; it stores nothing, and it takes the order of events as it is given.

mod book;
mod chart;
mod decimal;
mod document;
mod error;
mod event;
mod forecast;
#[doc(hidden)]
pub mod fuzzing;
mod instant;
mod meter;
mod month;
mod output;
mod rate;
mod retail;
mod shares;
mod size;
mod statement;
mod usage;

pub use book::{FreePart, Gigabyte, Integration, Meter, PriceBook, Redundancy, SoftDeleteTerms, Terms};
pub use chart::{CHART_POINTS_MAX, ChartPoint, ChartTitle, svg_chart};
pub use decimal::{Amount, Decimal, DecimalError, Rounding};
pub use document::{
    BOOK_BYTES_MAX, BandDocument, BookDocument, DiscountDocument, InstanceDocument, MinimumDocument,
    PriceDocument, SoftDeleteDocument, StorageDocument,
};
pub use error::{BookProblem, Error, EventProblem};
pub use event::{Agent, DiskSize, Event, EventId, EventKind, Selection, Tier};
pub use forecast::{
    ArchiveMove, BandWarning, FORECAST_MONTHS_MAX, ForecastMonth, Outlook, band_warning, forecast,
};
pub use meter::{Instance, InstanceMeter, SOFT_MAX};
pub use month::{BillZone, CalendarError, Month, MonthSpan};
pub use output::{FocusParties, focus_csv};
pub use rate::{Rating, Window, rate_all, rate_instance};
pub use retail::{RetailPrices, RetailRule};
pub use shares::{Share, Shares, VaultBytes, VmBytes, fair_shares};
pub use size::{
    Band, BandError, Bands, DiskRule, Measure, MicroUnits, NextBand, SizeError, SizeRule, instance_size,
};
pub use statement::{Charge, ClosedStatement, Corrected, Grouping, Line, Measured, Statement};
pub use usage::{Scale, Usage};
