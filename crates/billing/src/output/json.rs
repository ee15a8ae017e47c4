//! The JSON of a statement, which reads back as the statement it was.
//!
//! What follows from something else (amounts, totals, quantities in units) is written beside it, so that a reader need not
//! reckon; [`read`] reckons it again and refuses a document in which the two differ.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use num_bigint::BigInt;
use serde::{Deserialize, Serialize};
use vmkeep_model::{LineageId, Timestamp};

use super::{QUANTITY_DIGITS, unwritable};
use crate::book::{Gigabyte, Meter, Redundancy};
use crate::decimal::{Amount, Rounding, shown};
use crate::document::start_of;
use crate::error::Error;
use crate::event::Tier;
use crate::meter::Instance;
use crate::month::{BillZone, Month};
use crate::size::{DiskRule, Measure, SizeRule};
use crate::statement::{Charge, Corrected, Line, Measured, Statement};
use crate::usage::Scale;

const WHAT: &str = "the JSON of a statement";
const VERSION: u32 = 1;
/// Longest numerator or denominator that is read, in digits: far more than 128-bit quantities times prices make.
const FRACTION_DIGITS_MAX: usize = 200;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementDocument {
    version: u32,
    month: String,
    zone: String,
    from: String,
    until: String,
    book: String,
    currency: String,
    digits: u16,
    gigabyte: String,
    rounding: String,
    total: String,
    lines: Vec<LineDocument>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineDocument {
    vm: String,
    instance: String,
    region: String,
    redundancy: String,
    measure: String,
    disk_rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost_center: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
    charge: ChargeDocument,
    description: String,
    from: String,
    until: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    measured: Option<MeasuredDocument>,
    exact: String,
    amount: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events: Option<[u64; 2]>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargeDocument {
    /// `usage`, `discount` or `minimum`.
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meter: Option<String>,
    /// The closed month that it corrects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    corrects: Option<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasuredDocument {
    metered: String,
    metered_unit: String,
    /// How many of `metered` are one unit for an instant, and how many instants the month has.
    per_unit: u64,
    per_month: u64,
    quantity: String,
    unit: String,
    rate: String,
}

pub(super) fn json(statement: &Statement) -> Result<String, Error> {
    serde_json::to_string_pretty(&document(statement)).map_err(|e| unwritable(WHAT, &e))
}

fn document(statement: &Statement) -> StatementDocument {
    StatementDocument {
        version: VERSION,
        month: statement.month.to_string(),
        zone: statement.zone.clone(),
        from: precise(statement.start),
        until: precise(statement.end),
        book: statement.book.clone(),
        currency: statement.currency.clone(),
        digits: statement.digits,
        gigabyte: statement.gigabyte.to_owned(),
        rounding: statement.rounding.to_string(),
        total: statement.total(),
        lines: statement.lines.iter().map(|line| of_line(statement, line)).collect(),
    }
}

fn of_line(statement: &Statement, line: &Line) -> LineDocument {
    let measured = line.measured.map(|m| MeasuredDocument {
        metered: m.quantity.to_string(),
        metered_unit: metered_unit(line.charge, m.scale.days).to_owned(),
        per_unit: m.scale.per_unit,
        per_month: m.scale.per_month,
        quantity: shown(&m.units(), QUANTITY_DIGITS),
        unit: statement.unit(line),
        rate: m.rate.to_string(),
    });
    let instance = &line.instance;
    LineDocument {
        vm: instance.name.clone(),
        instance: instance.id.to_string(),
        region: instance.region.clone(),
        redundancy: instance.redundancy.name().to_owned(),
        measure: instance.size_rule.measure.name().to_owned(),
        disk_rule: instance.size_rule.disks.name().to_owned(),
        cost_center: instance.cost_center.clone(),
        tags: instance.tags.clone(),
        charge: ChargeDocument::of(line.charge),
        description: line.charge.describe(),
        from: precise(line.from),
        until: precise(line.until),
        measured,
        exact: line.exact.to_string(),
        amount: statement.money(line.minor),
        events: line.events.map(|(first, last)| [first, last]),
    }
}

/// To the millisecond, in UTC.
fn precise(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| at.to_string(), |at| at.to_string())
}

fn metered_unit(charge: Charge, days: bool) -> &'static str {
    match (charge.meter(), days) {
        (Some(Meter::Instance), true) => "millionths of an instance x days",
        (Some(Meter::Instance), false) => "millionths of an instance x milliseconds",
        (_, true) => "bytes x days",
        (_, false) => "bytes x milliseconds",
    }
}

impl ChargeDocument {
    fn of(charge: Charge) -> Self {
        let (corrects, of) = charge.corrected();
        let (kind, meter) = match of {
            Corrected::Usage(meter) => ("usage", Some(meter)),
            Corrected::Discount(meter) => ("discount", Some(meter)),
            Corrected::Minimum => ("minimum", None),
        };
        Self {
            kind: kind.to_owned(),
            meter: meter.map(|meter| meter.name().to_owned()),
            corrects: corrects.map(|month| month.to_string()),
        }
    }

    fn charge(&self) -> Option<Charge> {
        let mut meters =
            [Meter::Instance, Meter::EarlyDeletion].into_iter().chain(Tier::ALL.map(Meter::Storage));
        let meter = self.meter.as_deref().and_then(|name| meters.find(|meter| meter.name() == name));
        let of = match (self.kind.as_str(), meter) {
            ("usage", Some(meter)) => Corrected::Usage(meter),
            ("discount", Some(meter)) => Corrected::Discount(meter),
            ("minimum", None) => Corrected::Minimum,
            _ => return None,
        };
        Some(match &self.corrects {
            None => of.into(),
            Some(month) => Charge::Correction { month: month.parse().ok()?, of },
        })
    }
}

/// The statement that [`json`] made this of.
pub(super) fn read(text: &str) -> Result<Statement, Error> {
    let unreadable = |message: String| Error::Document { what: WHAT, message: start_of(&message, 400) };
    let found: StatementDocument = serde_json::from_str(text).map_err(|e| unreadable(e.to_string()))?;
    if found.version != VERSION {
        return Err(unreadable(format!("it is of version {}", found.version)));
    }
    let month: Month = found.month.parse()?;
    let wrong = |what: String| Error::Closed { month, what };
    let statement = statement(&found, month).map_err(wrong)?;
    // What is said and what follows agree, or somebody changed it.
    let again = document(&statement);
    if let Some((index, _)) = again.lines.iter().zip(&found.lines).enumerate().find(|(_, (a, b))| a != b) {
        return Err(wrong(format!("line {} says what does not follow from its quantities", index + 1)));
    }
    if again.total != found.total {
        let total = start_of(&found.total, 50);
        return Err(wrong(format!("its total is said to be {total}, and its lines make {}", again.total)));
    }
    if again != found {
        return Err(wrong("its head does not agree with itself".to_owned()));
    }
    Ok(statement)
}

fn statement(found: &StatementDocument, month: Month) -> Result<Statement, String> {
    let one_of = |what: &str, text: &str| format!("{what} {:?} is unknown", start_of(text, 50));
    let rounding = Rounding::named(&found.rounding).ok_or_else(|| one_of("rounding", &found.rounding))?;
    let gigabyte = [Gigabyte::Binary, Gigabyte::Decimal].into_iter().find(|g| g.name() == found.gigabyte);
    if found.digits > 9 {
        return Err(format!("a currency with {} digits", found.digits));
    }
    let mut statement = Statement {
        book: found.book.clone(),
        month,
        start: instant(&found.from)?,
        end: instant(&found.until)?,
        zone: found.zone.clone(),
        currency: found.currency.clone(),
        digits: found.digits,
        rounding,
        gigabyte: gigabyte.ok_or_else(|| one_of("gigabyte", &found.gigabyte))?.name(),
        lines: Vec::with_capacity(found.lines.len()),
        instances: BTreeSet::new(),
    };
    let mut known: Option<Arc<Instance>> = None;
    for (index, line) in found.lines.iter().enumerate() {
        let line =
            of_document(&statement, line, &mut known).map_err(|e| format!("line {}: {e}", index + 1))?;
        if line.charge.corrected().0.is_none() {
            let _ = statement.instances.insert(line.instance.id);
        }
        statement.lines.push(line);
    }
    Ok(statement)
}

fn of_document(
    statement: &Statement,
    found: &LineDocument,
    known: &mut Option<Arc<Instance>>,
) -> Result<Line, String> {
    let instance = Instance {
        id: found.instance.parse::<LineageId>().map_err(|_| "its instance is no number of one".to_owned())?,
        name: found.vm.clone(),
        region: found.region.clone(),
        redundancy: Redundancy::named(&found.redundancy).ok_or("its redundancy is unknown")?,
        size_rule: SizeRule {
            measure: Measure::named(&found.measure).ok_or("its measure is unknown")?,
            disks: DiskRule::named(&found.disk_rule).ok_or("its rule for disks is unknown")?,
        },
        cost_center: found.cost_center.clone(),
        tags: found.tags.clone(),
    };
    // Lines of one instance lie together, and share it.
    let instance = match known {
        Some(known) if **known == instance => Arc::clone(known),
        _ => Arc::clone(known.insert(Arc::new(instance))),
    };
    let charge = found.charge.charge().ok_or("what it is for is unknown")?;
    let measured = found.measured.as_ref().map(|m| measured(charge, m)).transpose()?;
    if measured.is_some() != matches!(charge, Charge::Usage(_)) {
        return Err("only usage is measured".to_owned());
    }
    let exact = match &measured {
        Some(measured) => measured.units() * measured.rate.to_amount(),
        None => fraction(&found.exact).ok_or("its exact amount is no fraction")?,
    };
    Ok(Line {
        instance,
        charge,
        from: instant(&found.from)?,
        until: instant(&found.until)?,
        measured,
        minor: statement.minor(&exact).map_err(|e| e.to_string())?,
        exact,
        events: found.events.map(|[first, last]| (first, last)),
    })
}

fn measured(charge: Charge, found: &MeasuredDocument) -> Result<Measured, String> {
    if found.per_unit == 0 || found.per_month == 0 {
        return Err("a unit or a month of nothing".to_owned());
    }
    let days = found.metered_unit == metered_unit(charge, true);
    Ok(Measured {
        quantity: found.metered.parse().map_err(|_| "what was metered is no whole number")?,
        scale: Scale { per_unit: found.per_unit, per_month: found.per_month, days },
        rate: found.rate.parse().map_err(|e| format!("its rate is {e}"))?,
    })
}

fn fraction(text: &str) -> Option<Amount> {
    let (above, below) = text.split_once('/').unwrap_or((text, "1"));
    let fits = |digits: &str| digits.len() <= FRACTION_DIGITS_MAX;
    let number = |digits: &str| fits(digits).then(|| digits.parse::<BigInt>().ok()).flatten();
    let (above, below) = (number(above)?, number(below)?);
    (below > BigInt::ZERO).then(|| Amount::new(above, below))
}

fn instant(text: &str) -> Result<Timestamp, String> {
    BillZone::UTC.instant(&start_of(text, 50)).map_err(|e| e.to_string())
}
