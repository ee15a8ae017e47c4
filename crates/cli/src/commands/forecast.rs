//! `vmkeep bill forecast`: the next months, what a change would cost, and which VMs are about to count more.

use std::collections::BTreeMap;

use serde::Serialize;
use vmkeep::billing::{
    ArchiveMove, BandWarning, Event, EventKind, ForecastMonth, Instance, MicroUnits, Outlook, band_warning,
    forecast,
};
use vmkeep::model::{LineageId, Timestamp};

use super::bill::Rating;
use crate::args::ForecastArgs;
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome};

const DAY_MS: i64 = 86_400_000;

#[derive(Serialize)]
#[serde(tag = "type", rename = "month")]
struct MonthLine {
    vm: String,
    month: String,
    amount: String,
    /// What it would cost without the change that was asked about; `null` when none was.
    unchanged: Option<String>,
    /// What the change costs, less than zero when it saves; `null` when none was asked about.
    difference: Option<String>,
    size_bytes: u64,
    stored_bytes: u64,
}

/// A VM that is about to count more.
#[derive(Serialize)]
#[serde(tag = "type", rename = "near_next_band")]
struct NearLine {
    vm: String,
    size_bytes: u64,
    /// In millionths of a unit.
    micro_units: u64,
    next_micro_units: u64,
    bytes_more: u64,
}

pub(super) fn run(context: &Context<'_>, rating: &Rating<'_>, args: &ForecastArgs) -> Result<Outcome, Error> {
    let first = rating.month(rating.now)?.next();
    let mut pasts: BTreeMap<LineageId, Past> = BTreeMap::new();
    rating.ledger.replay(&mut |_, event| {
        pasts.entry(event.instance).or_default().take(event);
        Ok(())
    })?;
    for (id, instance) in rating.wanted() {
        let Some(unchanged) = pasts.get(id).and_then(Past::outlook) else { continue };
        let months =
            |outlook| forecast(&rating.book, instance, &outlook, first, args.months).map_err(Error::billing);
        let changed = changed(unchanged, args);
        let before = (changed != unchanged).then(|| months(unchanged)).transpose()?;
        for (nth, month) in months(changed)?.iter().enumerate() {
            print(context, instance, month, before.as_ref().and_then(|before| before.get(nth)));
        }
        let near = band_warning(&rating.book.terms().bands, unchanged.size_bytes, args.warn_within);
        if let Some(near) = near {
            print_near(context, &instance.name, unchanged.size_bytes, near);
        }
    }
    Ok(Outcome::Good)
}

/// What is asked about in place of what was.
fn changed(unchanged: Outlook, args: &ForecastArgs) -> Outlook {
    let new_bytes_per_day = args.stored.unwrap_or(unchanged.new_bytes_per_day);
    Outlook {
        growth_bytes_per_day: args.growth.unwrap_or(unchanged.growth_bytes_per_day),
        new_bytes_per_day,
        points_kept: args.points.unwrap_or(unchanged.points_kept),
        archive: args
            .archive_after
            .map(|after_days| ArchiveMove { after_days, bytes_there: new_bytes_per_day }),
        ..unchanged
    }
}

fn print(context: &Context<'_>, instance: &Instance, month: &ForecastMonth, before: Option<&ForecastMonth>) {
    let statement = &month.statement;
    let difference = before.map(|before| statement.total_minor() - before.statement.total_minor());
    let line = MonthLine {
        vm: instance.name.clone(),
        month: statement.month().to_string(),
        amount: statement.total(),
        unchanged: before.map(|before| before.statement.total()),
        difference: difference.map(|minor| statement.money_of(minor)),
        size_bytes: month.size_bytes,
        stored_bytes: month.stored_bytes.iter().sum(),
    };
    let than = match &line.difference {
        Some(less) if less.starts_with('-') => format!(", {} less than without the change", &less[1..]),
        Some(more) => format!(", {more} more than without the change"),
        None => String::new(),
    };
    context.output.text(format!(
        "{} in {}: {} {}{than} ({} protected, {} stored)",
        line.vm,
        line.month,
        line.amount,
        statement.currency(),
        bytes::show(line.size_bytes),
        bytes::show(line.stored_bytes)
    ));
    context.output.json(&line);
}

fn print_near(context: &Context<'_>, vm: &str, size: u64, near: BandWarning) {
    let BandWarning { units, next_units, bytes_more } = near;
    context.output.text(format!(
        "{vm} has {}, and {} more make it count as {} in place of {}",
        bytes::show(size),
        bytes::show(bytes_more),
        count(next_units),
        count(units)
    ));
    context.output.json(&NearLine {
        vm: vm.to_owned(),
        size_bytes: size,
        micro_units: units.0,
        next_micro_units: next_units.0,
        bytes_more,
    });
}

/// Units as a person writes them: 0.5, 1, 2.
fn count(units: MicroUnits) -> String {
    let (whole, rest) = (units.0 / 1_000_000, units.0 % 1_000_000);
    let text = format!("{whole}.{rest:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What a VM did so far.
#[derive(Debug, Default)]
struct Past {
    /// When and how large it was at its first and at its last backup.
    sizes: Option<((Timestamp, u64), (Timestamp, u64))>,
    backups: u32,
    /// Bytes that its first backup stored.
    full: Option<u64>,
    /// Bytes that came since.
    later: u64,
}

impl Past {
    fn take(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Backup { disks, .. } => {
                let size = (event.at, disks.iter().filter_map(|disk| disk.nonzero_bytes).sum());
                self.sizes = Some((self.sizes.map_or(size, |(first, _)| first), size));
                self.backups = self.backups.saturating_add(1);
            }
            EventKind::Stored { bytes, .. } if self.full.is_none() => self.full = Some(*bytes),
            EventKind::Stored { bytes, .. } => self.later = self.later.saturating_add(*bytes),
            _ => {}
        }
    }

    /// That it goes on so: its newest size, and its growth and stored bytes a day since the first backup.
    fn outlook(&self) -> Option<Outlook> {
        let ((first_at, first), (last_at, last)) = self.sizes?;
        let days = u64::try_from((last_at.0 - first_at.0) / DAY_MS).unwrap_or(0).max(1);
        Some(Outlook {
            size_bytes: last,
            growth_bytes_per_day: last.saturating_sub(first) / days,
            full_bytes: self.full?,
            new_bytes_per_day: self.later / days,
            points_kept: self.backups.min(9_999),
            archive: None,
        })
    }
}
