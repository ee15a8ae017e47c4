//! The JSON of a statement.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{QUANTITY_DIGITS, unwritable};
use crate::decimal::shown;
use crate::error::Error;
use crate::statement::{Line, Statement};

#[derive(Serialize)]
struct StatementDocument<'a> {
    month: String,
    zone: &'a str,
    from: String,
    until: String,
    book: &'a str,
    currency: &'a str,
    rounding: String,
    total: String,
    lines: Vec<LineDocument<'a>>,
}

#[derive(Serialize)]
struct LineDocument<'a> {
    vm: &'a str,
    instance: String,
    region: &'a str,
    redundancy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_center: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: &'a BTreeMap<String, String>,
    charge: String,
    from: String,
    until: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<MeasuredDocument>,
    exact: String,
    amount: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<[u64; 2]>,
}

#[derive(Serialize)]
struct MeasuredDocument {
    metered: String,
    metered_unit: &'static str,
    quantity: String,
    unit: String,
    rate: String,
}

pub(super) fn json(statement: &Statement) -> Result<String, Error> {
    let document = StatementDocument {
        month: statement.month.to_string(),
        zone: &statement.zone,
        from: statement.start.to_string(),
        until: statement.end.to_string(),
        book: &statement.book,
        currency: &statement.currency,
        rounding: statement.rounding.to_string(),
        total: statement.total(),
        lines: statement.lines.iter().map(|line| of_line(statement, line)).collect(),
    };
    serde_json::to_string_pretty(&document).map_err(|e| unwritable("the JSON of a statement", &e))
}

fn of_line<'a>(statement: &Statement, line: &'a Line) -> LineDocument<'a> {
    let measured = line.measured.map(|m| MeasuredDocument {
        metered: m.quantity.to_string(),
        metered_unit: match (line.charge.meter(), m.scale.days) {
            (Some(crate::Meter::Instance), true) => "millionths of an instance x days",
            (Some(crate::Meter::Instance), false) => "millionths of an instance x milliseconds",
            (_, true) => "bytes x days",
            (_, false) => "bytes x milliseconds",
        },
        quantity: shown(&m.units(), QUANTITY_DIGITS),
        unit: statement.unit(line),
        rate: m.rate.to_string(),
    });
    LineDocument {
        vm: &line.instance.name,
        instance: line.instance.id.to_string(),
        region: &line.instance.region,
        redundancy: line.instance.redundancy.name(),
        cost_center: line.instance.cost_center.as_deref(),
        tags: &line.instance.tags,
        charge: line.charge.describe(),
        from: line.from.to_string(),
        until: line.until.to_string(),
        measured,
        exact: line.exact.to_string(),
        amount: statement.money(line.minor),
        events: line.events.map(|(first, last)| [first, last]),
    }
}
