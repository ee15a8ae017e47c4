//! The table and the CSV of a statement: one row a line.

use super::{QUANTITY_DIGITS, text_of, unwritable};
use crate::book::Meter;
use crate::decimal::shown;
use crate::error::Error;
use crate::statement::{Line, Statement};

impl Statement {
    /// What one unit of a line is.
    pub(super) fn unit(&self, line: &Line) -> String {
        match (line.measured, line.charge.meter()) {
            (None, _) | (_, None) => String::new(),
            (_, Some(Meter::Instance)) => "instance-months".to_owned(),
            (_, Some(_)) => format!("{}-months", self.gigabyte),
        }
    }
}

pub(super) fn table(statement: &Statement) -> String {
    let head =
        ["VM", "charge", "from", "until", "quantity", "unit", "rate", statement.currency.as_str(), "events"];
    let mut rows = vec![head.map(str::to_owned)];
    for line in &statement.lines {
        rows.push([
            line.instance.name.clone(),
            line.charge.describe(),
            line.from.to_string(),
            line.until.to_string(),
            line.measured.map(|m| shown(&m.units(), QUANTITY_DIGITS)).unwrap_or_default(),
            statement.unit(line),
            line.measured.map(|m| m.rate.to_string()).unwrap_or_default(),
            statement.money(line.minor),
            line.events.map(|(first, last)| format!("{first}-{last}")).unwrap_or_default(),
        ]);
    }
    let mut total: [String; 9] = Default::default();
    (total[0], total[7]) = ("total".to_owned(), statement.total());
    rows.push(total);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = format!(
        "{} of {}, days and months of {}, {} per line, prices of {:?}\n",
        statement.currency, statement.month, statement.zone, statement.rounding, statement.book
    );
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if matches!(column, 4 | 6 | 7) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

pub(super) fn csv(statement: &Statement) -> Result<String, Error> {
    const WHAT: &str = "the CSV of a statement";
    let mut writer = csv::Writer::from_writer(Vec::new());
    let head = [
        "month",
        "zone",
        "vm",
        "instance",
        "region",
        "redundancy",
        "cost_center",
        "charge",
        "from",
        "until",
        "metered",
        "quantity",
        "unit",
        "rate",
        "amount",
        "currency",
        "first_event",
        "last_event",
    ];
    writer.write_record(head).map_err(|e| unwritable(WHAT, &e))?;
    for line in &statement.lines {
        let instance = &line.instance;
        let row = [
            statement.month.to_string(),
            statement.zone.clone(),
            instance.name.clone(),
            instance.id.to_string(),
            instance.region.clone(),
            instance.redundancy.name().to_owned(),
            instance.cost_center.clone().unwrap_or_default(),
            line.charge.describe(),
            line.from.to_string(),
            line.until.to_string(),
            line.measured.map(|m| m.quantity.to_string()).unwrap_or_default(),
            line.measured.map(|m| shown(&m.units(), QUANTITY_DIGITS)).unwrap_or_default(),
            statement.unit(line),
            line.measured.map(|m| m.rate.to_string()).unwrap_or_default(),
            statement.money(line.minor),
            statement.currency.clone(),
            line.events.map(|(first, _)| first.to_string()).unwrap_or_default(),
            line.events.map(|(_, last)| last.to_string()).unwrap_or_default(),
        ];
        writer.write_record(row).map_err(|e| unwritable(WHAT, &e))?;
    }
    text_of(WHAT, writer)
}
