//! Prices from a file in the JSON shape of the Azure Retail Prices API
//! (<https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices>).

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::book::{Meter, Redundancy};
use crate::decimal::Decimal;
use crate::document::{BOOK_BYTES_MAX, PriceDocument, start_of};
use crate::error::{BookProblem, Error};

/// Which meter of the file is which of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetailRule {
    /// `meterName` in the file.
    pub meter_name: String,
    /// The meter it prices; not early deletion, which has the archive's price.
    pub meter: Meter,
    /// The redundancy it prices.
    pub redundancy: Option<Redundancy>,
}

/// What a file gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetailPrices {
    /// Currency of all of them.
    pub currency: String,
    /// The prices, for a [`BookDocument`](crate::BookDocument).
    pub prices: Vec<PriceDocument>,
    /// `meterName` of the items that no rule is for, each once, sorted: nothing is left out unsaid.
    pub skipped: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    currency_code: String,
    tier_minimum_units: f64,
    /// As written: a float would not keep it.
    #[serde(borrow)]
    retail_price: &'a RawValue,
    arm_region_name: String,
    effective_start_date: String,
    #[serde(default)]
    effective_end_date: Option<String>,
    meter_name: String,
    unit_of_measure: String,
    #[serde(rename = "type")]
    kind: String,
}

type Key = (Meter, Option<Redundancy>, String);

impl RetailPrices {
    /// Reads all pages of an answer.
    ///
    /// A price holds until its end date, or else until the next one of the same meter and region begins.
    ///
    /// # Errors
    /// [`Error::Document`] when a page is not of the shape, [`Error::Book`] naming the item that cannot be a price.
    pub fn parse(pages: &[&str], rules: &[RetailRule]) -> Result<Self, Error> {
        let mut currency: Option<String> = None;
        let mut found: BTreeMap<Key, BTreeMap<String, PriceDocument>> = BTreeMap::new();
        let mut skipped = Vec::new();
        for (number, page) in pages.iter().enumerate() {
            let unreadable = |message: String| Error::Document { what: "retail prices", message };
            if page.len() > BOOK_BYTES_MAX {
                return Err(unreadable(format!("page {} is longer than {BOOK_BYTES_MAX} bytes", number + 1)));
            }
            let page: Page<'_> = serde_json::from_str(page).map_err(|e| unreadable(e.to_string()))?;
            for (index, item) in page.items.iter().enumerate().filter(|(_, item)| item.kind == "Consumption")
            {
                let name = start_of(&item.meter_name, 60);
                let entry = format!("item {} of page {} ({name})", index + 1, number + 1);
                let fail = |problem| Err(Error::Book { entry: entry.clone(), problem: Box::new(problem) });
                let Some(rule) = rules.iter().find(|rule| rule.meter_name == item.meter_name) else {
                    skipped.push(name);
                    continue;
                };
                if currency.get_or_insert_with(|| item.currency_code.clone()) != &item.currency_code {
                    return fail(BookProblem::Differs("its currency"));
                }
                let unit = if rule.meter == Meter::Instance { "1/Month" } else { "1 GB/Month" };
                if item.unit_of_measure != unit {
                    let (field, text) = ("unitOfMeasure", start_of(&item.unit_of_measure, 40));
                    return fail(BookProblem::Word { field, text, allowed: unit });
                }
                if item.tier_minimum_units != 0.0 {
                    return fail(BookProblem::Meaningless("tierMinimumUnits above 0"));
                }
                let text = item.retail_price.get();
                let price: Decimal = match text.parse() {
                    Ok(price) => price,
                    Err(problem) => {
                        let (field, text) = ("retailPrice", start_of(text, 50));
                        return fail(BookProblem::Number { field, text, problem });
                    }
                };
                let document = PriceDocument {
                    meter: rule.meter.name().to_owned(),
                    region: Some(item.arm_region_name.clone()),
                    redundancy: rule.redundancy.map(|r| r.name().to_owned()),
                    from: item.effective_start_date.clone(),
                    until: item.effective_end_date.clone(),
                    price: price.to_string(),
                };
                let key = (rule.meter, rule.redundancy, item.arm_region_name.clone());
                let before =
                    found.entry(key).or_default().insert(item.effective_start_date.clone(), document);
                if before.is_some() {
                    return fail(BookProblem::Differs("a price of the same meter, region and start"));
                }
            }
        }
        skipped.sort();
        skipped.dedup();
        let mut prices = Vec::new();
        for series in found.into_values() {
            let mut series: Vec<_> = series.into_values().collect();
            for index in 1..series.len() {
                if series[index - 1].until.is_none() {
                    series[index - 1].until = Some(series[index].from.clone());
                }
            }
            prices.append(&mut series);
        }
        let missing = || Error::Document {
            what: "retail prices",
            message: "no item is for a meter that a rule names".to_owned(),
        };
        Ok(Self { currency: currency.ok_or_else(missing)?, prices, skipped })
    }
}
