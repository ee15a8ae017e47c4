//! `vmkeep bill`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vmkeep::billing::{
    BOOK_BYTES_MAX, BookDocument, ChartPoint, ChartTitle, DiskRule, FocusParties, Grouping, Instance,
    InstanceMeter, Measure, Month, PriceBook, Redundancy, SizeRule, Statement, Tier, focus_csv, svg_chart,
};
use vmkeep::model::{LineageId, Timestamp, VmName, op};
use vmkeep::protect::{Bills, Ledger, Protection};
use vmkeep::vault::Vault;

use crate::args::{BillArgs, BillCommand, BillFormat, BillOf, Group};
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome};

/// Months that a chart shows.
const CHART_MONTHS: usize = 24;

#[derive(Serialize)]
#[serde(tag = "type", rename = "group")]
struct GroupLine<'a> {
    name: &'a str,
    amount: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary<'a> {
    month: String,
    currency: &'a str,
    total: String,
    /// When it was closed; `null` while it is open.
    closed: Option<String>,
    vms: usize,
}

/// What is to be known of VMs beside their names.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstancesDocument {
    #[serde(default)]
    default: InstanceDocument,
    #[serde(default)]
    vm: BTreeMap<String, InstanceDocument>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceDocument {
    region: Option<String>,
    redundancy: Option<String>,
    cost_center: Option<String>,
    /// Which size is billed.
    measure: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// Everything that a bill rests on.
pub(super) struct Rating<'v> {
    pub(super) book: PriceBook,
    pub(super) ledger: Ledger<'v>,
    bills: Bills<'v>,
    /// By line of points.
    instances: BTreeMap<LineageId, Arc<Instance>>,
    /// The VM that alone is asked for.
    only: Option<String>,
    pub(super) now: Timestamp,
}

pub(crate) fn run(context: &Context<'_>, args: &BillArgs) -> Result<Outcome, Error> {
    let folder = args.of.vault.as_deref().ok_or_else(|| Error::usage("--vault DIR is missing"))?;
    let vault = context.open_vault(folder)?;
    context.may_view(&vault, args.of.vm.as_ref())?;
    let mut rating = Rating::new(&vault, &args.of)?;
    if let Some(BillCommand::Forecast(forecast)) = &args.command {
        return super::forecast::run(context, &rating, forecast);
    }
    let this = rating.month(rating.now)?;
    let month = args.month.unwrap_or(this);
    if args.close && (month >= this || args.of.vm.is_some()) {
        return Err(Error::usage("a month is closed when it is over, and for all VMs"));
    }
    if let Some(path) = &args.chart {
        rating.chart(month, path)?;
    }
    if args.close && rating.bills.closed_of(month).is_none() {
        let permit = context.permit::<op::ChangePolicy>(&vault, None)?;
        let statement = rating.statement(month)?;
        rating.bills.close(&permit, statement)?;
    }
    let statement = rating.statement(month)?;
    let closed = rating.bills.closed_at(month).map(|at| at.to_string());
    match &args.by {
        Some(group) => by(context, &statement, group),
        None => print(context, args.format, &statement, closed.as_deref())?,
    }
    context.output.json(&Summary {
        month: month.to_string(),
        currency: statement.currency(),
        total: statement.total(),
        closed,
        vms: rating.instances.values().filter(|instance| rating.asked(instance)).count(),
    });
    Ok(Outcome::Good)
}

fn print(
    context: &Context<'_>,
    format: BillFormat,
    statement: &Statement,
    closed: Option<&str>,
) -> Result<(), Error> {
    let text = match format {
        BillFormat::Table => Ok(statement.to_table()),
        BillFormat::Json => statement.to_json(),
        BillFormat::Csv => statement.to_csv(),
        BillFormat::Focus => focus_csv(&[(statement, None)], &parties()),
    };
    text.map_err(Error::billing)?.lines().for_each(|line| context.output.text(line));
    if let (Some(at), BillFormat::Table) = (closed, format) {
        context.output.text(format!("closed at {at}"));
    }
    Ok(())
}

fn by(context: &Context<'_>, statement: &Statement, group: &Group) {
    let grouping = match group {
        Group::Vm => Grouping::Vm,
        Group::Meter => Grouping::Meter,
        Group::CostCenter => Grouping::CostCenter,
        Group::Tag(tag) => Grouping::Tag(tag),
    };
    for (name, minor) in statement.totals(grouping) {
        let amount = statement.money_of(minor);
        let shown = if name.is_empty() { "(none)" } else { &name };
        context.output.text(format!("{shown}: {amount} {}", statement.currency()));
        context.output.json(&GroupLine { name: &name, amount });
    }
    context.output.text(format!("in all {} {}", statement.total(), statement.currency()));
}

fn parties() -> FocusParties {
    FocusParties {
        provider: "vmkeep".to_owned(),
        publisher: "vmkeep".to_owned(),
        invoice_issuer: "vmkeep".to_owned(),
        billing_account_id: "1".to_owned(),
        billing_account_name: "vmkeep".to_owned(),
        billing_account_type: "vault".to_owned(),
    }
}

fn text_of(path: &Path, what: &'static str) -> Result<String, Error> {
    let failed = |source| Error::File { what, path: path.to_owned(), source };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > BOOK_BYTES_MAX as u64 {
        let what = format!("longer than {}", bytes::show(BOOK_BYTES_MAX as u64));
        return Err(Error::Content { path: path.to_owned(), what });
    }
    fs::read_to_string(path).map_err(failed)
}

impl<'v> Rating<'v> {
    fn new(vault: &'v Vault, of: &BillOf) -> Result<Self, Error> {
        let path =
            of.book.as_deref().ok_or_else(|| Error::usage("--book FILE is missing: prices are yours"))?;
        let text = text_of(path, "read the price book")?;
        let document = if text.trim_start().starts_with('{') {
            BookDocument::from_json(&text)
        } else {
            BookDocument::from_toml(&text)
        };
        let book = document
            .and_then(|document| document.check())
            .map_err(|error| Error::Content { path: path.to_owned(), what: error.to_string() })?;
        let known = match &of.instances {
            None => InstancesDocument::default(),
            Some(path) => {
                let text = text_of(path, "read what is known of the VMs")?;
                toml::from_str(&text)
                    .map_err(|e| Error::Content { path: path.clone(), what: e.message().to_owned() })?
            }
        };
        let mut ledger = Ledger::open(vault)?;
        // What came since the last reading counts too; it is noted by the next one.
        let protection = Protection::open(vault)?;
        ledger.look(protection.instances().map(|(vm, instance)| (vm, Some(instance.state))))?;
        let instances = ledger
            .metered()
            .map(|(id, metered)| Ok((*id, Arc::new(known.instance(*id, &metered.vm.to_string())?))))
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        let only = of.vm.as_ref().map(ToString::to_string);
        let rating =
            Self { book, ledger, bills: Bills::open(vault)?, instances, only, now: vault.clock().now() };
        if let Some(vm) = of.vm.as_ref().filter(|_| !rating.instances.values().any(|of| rating.asked(of))) {
            return Err(Error::usage(format!(
                "nothing was metered of {vm}: that begins with its first backup under a policy (vmkeep protect)"
            )));
        }
        Ok(rating)
    }

    /// Whether the bill is of this instance.
    fn asked(&self, instance: &Instance) -> bool {
        self.only.as_ref().is_none_or(|only| *only == instance.name)
    }

    pub(super) fn month(&self, at: Timestamp) -> Result<Month, Error> {
        self.book.terms().zone.month_of(at).map_err(Error::usage)
    }

    /// The statement of a month, as it was closed, or else up to now.
    fn statement(&self, month: Month) -> Result<Statement, Error> {
        let mut statements = self.statements(&[month])?;
        statements.pop().map_or_else(|| Statement::new(&self.book, month).map_err(Error::billing), Ok)
    }

    fn statements(&self, months: &[Month]) -> Result<Vec<Statement>, Error> {
        let describe = |id: LineageId, _: &VmName| Arc::clone(&self.instances[&id]);
        let mut statements = self.bills.statements(&self.ledger, &self.book, describe, months)?;
        if self.only.is_some() {
            statements = statements.iter().map(|all| all.of(|instance| self.asked(instance))).collect();
        }
        Ok(statements)
    }

    /// The instances that the bill is of.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (&LineageId, &Arc<Instance>)> {
        self.instances.iter().filter(|(_, instance)| self.asked(instance))
    }

    fn chart(&self, last: Month, path: &Path) -> Result<(), Error> {
        let mut first: Option<Timestamp> = None;
        self.ledger.replay(&mut |_, event| {
            if self.instances.get(&event.instance).is_some_and(|instance| self.asked(instance)) {
                first = Some(first.map_or(event.at, |first| first.min(event.at)));
            }
            Ok(())
        })?;
        let first = first.ok_or_else(|| Error::usage("there is nothing to draw yet"))?;
        let (mut month, mut months) = (self.month(first)?, Vec::new());
        while month <= last {
            months.push(month);
            month = month.next();
        }
        let months = &months[months.len().saturating_sub(CHART_MONTHS)..];
        let statements = self.statements(months)?;
        let ends = statements.iter().map(|statement| statement.period().1.min(self.now)).collect();
        let stored = self.stored(ends)?;
        let currency = statements.last().map_or("", Statement::currency).to_owned();
        let points: Vec<ChartPoint> = statements
            .iter()
            .zip(stored)
            .map(|(statement, bytes)| ChartPoint {
                label: statement.month().to_string(),
                minor: statement.total_minor(),
                bytes,
            })
            .collect();
        let title = "Cost and bytes in the vault by month".to_owned();
        let title = ChartTitle { title, currency, digits: self.book.terms().digits() };
        fs::write(path, svg_chart(&title, &points)).map_err(|source| Error::File {
            what: "write the chart",
            path: path.to_owned(),
            source,
        })
    }

    /// Bytes in the vault just before each of some instants, which ascend.
    fn stored(&self, instants: Vec<Timestamp>) -> Result<Vec<u64>, Error> {
        let mut meters: BTreeMap<LineageId, (InstanceMeter<'_>, usize)> = self
            .wanted()
            .map(|(id, instance)| (*id, (InstanceMeter::new(&self.book, instance), 0)))
            .collect();
        let mut sums = vec![0; instants.len()];
        let mut cut = |meter: &mut InstanceMeter<'_>, passed: &mut usize, at: Option<Timestamp>| {
            while let Some(until) = instants.get(*passed).filter(|until| at.is_none_or(|at| at >= **until)) {
                meter.usage_until(*until)?;
                sums[*passed] += meter.stored_bytes(Tier::Vault);
                *passed += 1;
            }
            Ok::<_, vmkeep::billing::Error>(())
        };
        self.ledger.replay(&mut |_, event| {
            if let Some((meter, passed)) = meters.get_mut(&event.instance) {
                cut(meter, passed, Some(event.at))?;
                meter.apply(event)?;
            }
            Ok(())
        })?;
        for (meter, passed) in meters.values_mut() {
            cut(meter, passed, None).map_err(Error::billing)?;
        }
        Ok(sums)
    }
}

impl InstancesDocument {
    fn instance(&self, id: LineageId, name: &str) -> Result<Instance, Error> {
        let own = self.vm.get(name).cloned().unwrap_or_default();
        let redundancy = own.redundancy.or_else(|| self.default.redundancy.clone());
        let redundancy = redundancy.unwrap_or_else(|| "lrs".to_owned());
        let measure = own.measure.or_else(|| self.default.measure.clone());
        let measure = measure.map_or(Ok(Measure::NonzeroBlocks), |name| {
            Measure::named(&name)
                .ok_or_else(|| Error::usage(format!("{name:?} is no measure of a VM's size")))
        })?;
        let tags = self.default.tags.iter().chain(&own.tags).map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Instance {
            id,
            name: name.to_owned(),
            region: own.region.or_else(|| self.default.region.clone()).unwrap_or_else(|| "here".to_owned()),
            redundancy: Redundancy::named(&redundancy)
                .ok_or_else(|| Error::usage(format!("{redundancy:?} is no redundancy")))?,
            size_rule: SizeRule { measure, disks: DiskRule::Enhanced },
            cost_center: own.cost_center.or_else(|| self.default.cost_center.clone()),
            tags,
        })
    }
}
