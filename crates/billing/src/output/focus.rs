//! FOCUS 1.2, the `FinOps` Foundation's cost and usage format (<https://focus.finops.org/focus-specification/v1-2/>).

use vmkeep_model::Timestamp;

use super::{text_of, unwritable};
use crate::book::Meter;
use crate::decimal::shown;
use crate::error::Error;
use crate::statement::{Charge, Corrected, Line, Statement};

/// Who sells, who bills and who is billed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FocusParties {
    /// Who provides the service.
    pub provider: String,
    /// Who made it.
    pub publisher: String,
    /// Who writes the invoice.
    pub invoice_issuer: String,
    /// Number of the account that is billed.
    pub billing_account_id: String,
    /// Its name.
    pub billing_account_name: String,
    /// What kind of account that is.
    pub billing_account_type: String,
}

const COLUMNS: [&str; 39] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceId",
    "Tags",
];

/// Digits of quantities and unrounded costs.
const DIGITS: u16 = 12;

/// Statements as one FOCUS cost-and-usage file, each with the number of its invoice when there is one.
///
/// A line becomes a row. `BilledCost` and `EffectiveCost` are what the statement charges, rounded; `ListCost` and
/// `ContractedCost` are quantity times price with twelve digits. A discount is a row of its own (`Credit`), as is a
/// minimum charge (`Adjustment`); a correction has the class `Correction`.
/// `InvoiceId` is empty where there is no invoice yet, as FOCUS wants it. `focus-validator` 2.2.1 checks "null without an
/// invoice" (`InvoiceId-C-004-C`) and "not null with one" (`InvoiceId-C-005-C`) on every file and lists the one that does not
/// apply as failed; the rule that a file has to meet is the one above the two (`InvoiceId-C-003-C`), and passes.
pub fn focus_csv(statements: &[(&Statement, Option<&str>)], parties: &FocusParties) -> Result<String, Error> {
    const WHAT: &str = "a FOCUS file";
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(|e| unwritable(WHAT, &e))?;
    for (statement, invoice) in statements {
        for line in &statement.lines {
            let row = row(statement, invoice.unwrap_or_default(), line, parties)?;
            let cell = |column: &&str| {
                row.iter().find(|(name, _)| name == column).map_or("", |(_, text)| text.as_str())
            };
            writer.write_record(COLUMNS.iter().map(cell)).map_err(|e| unwritable(WHAT, &e))?;
        }
    }
    text_of(WHAT, writer)
}

type Cells = Vec<(&'static str, String)>;

fn row(statement: &Statement, invoice: &str, line: &Line, parties: &FocusParties) -> Result<Cells, Error> {
    let instance = &line.instance;
    let billed = with_point(statement.money(line.minor));
    let (category, class) = match line.charge {
        Charge::Usage(_) => ("Usage", ""),
        Charge::Discount(_) => ("Credit", ""),
        Charge::Minimum => ("Adjustment", ""),
        Charge::Correction { of: Corrected::Usage(_), .. } => ("Usage", "Correction"),
        Charge::Correction { of: Corrected::Discount(_), .. } => ("Credit", "Correction"),
        Charge::Correction { of: Corrected::Minimum, .. } => ("Adjustment", "Correction"),
    };
    let (from, until) = whole_seconds(line.from, line.until);
    let tags = serde_json::to_string(&instance.tags).map_err(|e| unwritable("a FOCUS file", &e))?;
    let mut cells: Cells = vec![
        ("BilledCost", billed.clone()),
        ("EffectiveCost", billed.clone()),
        ("BillingAccountId", parties.billing_account_id.clone()),
        ("BillingAccountName", parties.billing_account_name.clone()),
        ("BillingAccountType", parties.billing_account_type.clone()),
        ("BillingCurrency", statement.currency.clone()),
        ("BillingPeriodStart", statement.start.to_string()),
        ("BillingPeriodEnd", statement.end.to_string()),
        ("ChargeCategory", category.to_owned()),
        ("ChargeClass", class.to_owned()),
        ("ChargeDescription", format!("{} of {}", line.charge.describe(), instance.name)),
        ("ChargeFrequency", "Usage-Based".to_owned()),
        ("ChargePeriodStart", from.to_string()),
        ("ChargePeriodEnd", until.to_string()),
        ("InvoiceId", invoice.to_owned()),
        ("InvoiceIssuerName", parties.invoice_issuer.clone()),
        ("ProviderName", parties.provider.clone()),
        ("PublisherName", parties.publisher.clone()),
        ("RegionId", instance.region.clone()),
        ("RegionName", instance.region.clone()),
        // Never digits alone, which readers would take for a number.
        ("ResourceId", format!("instance/{}", instance.id)),
        ("ResourceName", instance.name.clone()),
        ("ResourceType", "Protected instance".to_owned()),
        ("ServiceCategory", "Storage".to_owned()),
        ("ServiceSubcategory", "Backup Storage".to_owned()),
        ("ServiceName", "VM protection".to_owned()),
        ("Tags", tags),
    ];
    match line.measured.zip(line.charge.meter()) {
        Some((measured, meter)) => {
            let quantity = shown(&measured.units(), DIGITS);
            let cost = shown(&line.exact, DIGITS);
            let rate = with_point(measured.rate.to_string());
            let unit = unit(statement, meter);
            let redundancy = if meter.has_redundancy() { instance.redundancy.name() } else { "any" };
            let sku = format!("{}/{}", meter.name(), redundancy);
            cells.extend([
                ("ConsumedQuantity", quantity.clone()),
                ("ConsumedUnit", unit.clone()),
                ("PricingQuantity", quantity),
                ("PricingUnit", unit),
                ("PricingCategory", "Standard".to_owned()),
                ("ListUnitPrice", rate.clone()),
                ("ContractedUnitPrice", rate),
                ("ListCost", cost.clone()),
                ("ContractedCost", cost),
                ("SkuPriceId", format!("{sku}/{}/{}", instance.region, measured.rate)),
                ("SkuId", sku),
                ("SkuMeter", meter.name().to_owned()),
            ]);
        }
        None => cells.extend([("ListCost", billed.clone()), ("ContractedCost", billed)]),
    }
    Ok(cells)
}

fn unit(statement: &Statement, meter: Meter) -> String {
    match meter {
        Meter::Instance => "Instance-Months".to_owned(),
        _ => format!("{}-Months", statement.gigabyte),
    }
}

/// Readers take a column of whole numbers for integers, and FOCUS wants decimals.
fn with_point(text: String) -> String {
    if text.contains('.') { text } else { format!("{text}.00") }
}

/// FOCUS counts in seconds: the whole seconds that hold the period, one at least.
fn whole_seconds(from: Timestamp, until: Timestamp) -> (Timestamp, Timestamp) {
    let from = from.0.div_euclid(1000) * 1000;
    let until = until.0.saturating_add(999).div_euclid(1000) * 1000;
    (Timestamp(from), Timestamp(until.max(from.saturating_add(1000))))
}
