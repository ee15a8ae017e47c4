//! Next months, and what another policy would cost: the events of the future, rated like those of the past.

use std::sync::Arc;

use vmkeep_model::{DiskRole, Timestamp};

use crate::book::PriceBook;
use crate::error::Error;
use crate::event::{Agent, DiskSize, Event, EventKind, Selection, Tier};
use crate::meter::{Instance, InstanceMeter};
use crate::month::Month;
use crate::size::{Bands, MicroUnits};
use crate::statement::Statement;

/// Points that go to the archive after some days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveMove {
    /// After how many days: 1 at least, and 2 fewer than points are kept at most.
    pub after_days: u32,
    /// What the bytes of one day become there.
    pub bytes_there: u64,
}

/// How an instance is expected to grow, with a backup each day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Protected-instance size at the start, in bytes.
    pub size_bytes: u64,
    /// How much that grows each day.
    pub growth_bytes_per_day: u64,
    /// Stored bytes of the first, full backup.
    pub full_bytes: u64,
    /// Stored bytes of each further backup.
    pub new_bytes_per_day: u64,
    /// How many daily points are kept.
    pub points_kept: u32,
    /// Whether points go to the archive.
    pub archive: Option<ArchiveMove>,
}

/// A month to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForecastMonth {
    /// What it will cost.
    pub statement: Statement,
    /// Protected-instance size at its end.
    pub size_bytes: u64,
    /// Bytes in each tier at its end, in the order of [`Tier::ALL`].
    pub stored_bytes: [u64; 3],
}

/// Most months looked ahead.
pub const FORECAST_MONTHS_MAX: u32 = 120;

/// The `months` months from `first` on, for an instance protected at the start of the first.
///
/// Two outlooks that differ in one thing say what that thing costs.
///
/// # Errors
/// [`Error::Forecast`] for impossible terms, and as [`InstanceMeter::apply`].
pub fn forecast(
    book: &PriceBook,
    instance: &Arc<Instance>,
    outlook: &Outlook,
    first: Month,
    months: u32,
) -> Result<Vec<ForecastMonth>, Error> {
    check(outlook, months)?;
    let mut meter = InstanceMeter::new(book, instance);
    let (mut day, mut number, mut month) = (0_u64, 0_u64, first);
    let mut days: Vec<Timestamp> = Vec::new();
    let mut forecast = Vec::new();
    for _ in 0..months {
        let span = book.terms().zone.span(month)?;
        for &at in span.day_starts() {
            days.push(at);
            for kind in events_of_day(outlook, &days, day)? {
                meter.apply(&Event { instance: instance.id, number, at, kind })?;
                number += 1;
            }
            day += 1;
        }
        let mut statement = Statement::new(book, month)?;
        statement.add(book, instance, &meter.usage_until(span.end())?)?;
        forecast.push(ForecastMonth {
            statement,
            size_bytes: meter.size_bytes().unwrap_or(0),
            stored_bytes: Tier::ALL.map(|tier| meter.stored_bytes(tier)),
        });
        month = month.next();
    }
    Ok(forecast)
}

fn check(outlook: &Outlook, months: u32) -> Result<(), Error> {
    if months > FORECAST_MONTHS_MAX {
        return Err(Error::Forecast("more than 120 months ahead"));
    }
    if outlook.points_kept == 0 {
        return Err(Error::Forecast("no point is kept"));
    }
    match outlook.archive {
        Some(archive) if archive.after_days == 0 || archive.after_days >= outlook.points_kept - 1 => {
            Err(Error::Forecast("points must go to the archive after a day at least and before they expire"))
        }
        _ => Ok(()),
    }
}

/// What happens at the start of day `day`, counted from 0; `days` are the starts of the days up to it.
fn events_of_day(outlook: &Outlook, days: &[Timestamp], day: u64) -> Result<Vec<EventKind>, Error> {
    let too_large = || Error::Forecast("the size passes 2^64 bytes");
    let growth = outlook.growth_bytes_per_day.checked_mul(day).ok_or_else(too_large)?;
    let size = outlook.size_bytes.checked_add(growth).ok_or_else(too_large)?;
    // Both measures, so that any rule finds its own.
    let disk = DiskSize {
        role: DiskRole::Os,
        selection: Selection::Included,
        nonzero_bytes: Some(size),
        filesystem_bytes: Some(size),
    };
    let mut kinds = Vec::new();
    let tier = Tier::Vault;
    if day == 0 {
        kinds.push(EventKind::Protected);
    }
    kinds.push(EventKind::Backup { disks: vec![disk], agent: Agent::Used });
    let bytes = outlook.new_bytes_per_day;
    kinds.push(EventKind::Stored { tier, bytes: if day == 0 { outlook.full_bytes } else { bytes } });
    // The increment of day e is e = 1, 2, ..; the full one lives on in its successors.
    let day_before = |distance: u32| {
        let index = usize::try_from(day).ok()?.checked_sub(usize::try_from(distance).ok()?)?;
        (index > 0).then(|| days[index])
    };
    // With k points kept there are k - 1 increments beside the full.
    let kept = outlook.points_kept - 1;
    if let Some(archive) = outlook.archive
        && let Some(since) = day_before(archive.after_days)
    {
        let (to, bytes_there) = (Tier::Archive, archive.bytes_there);
        kinds.push(EventKind::Moved { from: tier, bytes, since, to, bytes_there });
    }
    if kept == 0 {
        if day > 0 {
            kinds.push(EventKind::Removed { tier, bytes, since: days[days.len() - 1] });
        }
    } else if let Some(since) = day_before(kept) {
        match outlook.archive {
            Some(archive) => {
                let moved = day_before(kept - archive.after_days).unwrap_or(since);
                kinds.push(EventKind::Removed {
                    tier: Tier::Archive,
                    bytes: archive.bytes_there,
                    since: moved,
                });
            }
            None => kinds.push(EventKind::Removed { tier, bytes, since }),
        }
    }
    Ok(kinds)
}

/// An instance is about to count more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BandWarning {
    /// What it counts as now.
    pub units: MicroUnits,
    /// What it will count as.
    pub next_units: MicroUnits,
    /// How many bytes more make it so.
    pub bytes_more: u64,
}

/// Whether `size` is within `margin` bytes of counting more.
pub fn band_warning(bands: &Bands, size: u64, margin: u64) -> Option<BandWarning> {
    let next = bands.next_band(size);
    let bytes_more = (next.up_to_bytes - size).checked_add(1)?;
    let near = bytes_more <= margin && next.next_units > next.units;
    near.then_some(BandWarning { units: next.units, next_units: next.next_units, bytes_more })
}
