//! What protecting VMs costs: events in, exact quantities and rounded statements out. Pure: no I/O, no clock.
mod book;
mod chart;
mod decimal;
mod document;
mod error;
mod event;
mod forecast;
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
pub use rate::{Window, rate_all, rate_instance};
pub use retail::{RetailPrices, RetailRule};
pub use shares::{Share, Shares, VaultBytes, VmBytes, fair_shares};
pub use size::{
    Band, BandError, Bands, DiskRule, Measure, MicroUnits, NextBand, SizeError, SizeRule, instance_size,
};
pub use statement::{Charge, ClosedStatement, Corrected, Grouping, Line, Measured, Statement};
pub use usage::{Scale, Usage};
