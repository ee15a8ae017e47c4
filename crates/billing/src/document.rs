//! Price books as TOML or JSON.

use std::collections::BTreeMap;

use iso_currency::Currency;
use serde::{Deserialize, Serialize};
use vmkeep_model::Timestamp;

use crate::book::{
    Entry, FreePart, Gaps, Gigabyte, Integration, Meter, PriceBook, PriceKey, Redundancy, SoftDeleteTerms,
    Terms, problem, series,
};
use crate::decimal::{Decimal, Rounding};
use crate::error::{BookProblem, Error};
use crate::month::BillZone;
use crate::size::{Band, Bands, MicroUnits};

/// Longest text of a price book that is read, in bytes.
pub const BOOK_BYTES_MAX: usize = 16 << 20;
/// Most days of a free part or a shortest stay.
const DAYS_MAX: u32 = 3650;

/// A price book as it is written. Numbers that become money are texts, so that nothing rounds them on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BookDocument {
    /// Name of the book.
    pub name: String,
    /// ISO 4217 code.
    pub currency: String,
    /// IANA name of the time zone.
    pub zone: String,
    /// `GiB` or `GB`.
    pub gigabyte: String,
    /// `half-even`, `half-up`, `up` or `down`.
    pub rounding: String,
    /// Rules for instances.
    pub instance: InstanceDocument,
    /// Rules for storage.
    pub storage: StorageDocument,
    /// Rules for soft-deleted bytes.
    pub soft_delete: SoftDeleteDocument,
    /// The prices.
    #[serde(default, rename = "price")]
    pub prices: Vec<PriceDocument>,
    /// The discounts.
    #[serde(default, rename = "discount", skip_serializing_if = "Vec::is_empty")]
    pub discounts: Vec<DiscountDocument>,
    /// The least that an instance costs in a month.
    #[serde(default, rename = "minimum", skip_serializing_if = "Vec::is_empty")]
    pub minimums: Vec<MinimumDocument>,
}

/// Rules for instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceDocument {
    /// `exact`, `hour` or `day`.
    pub integration: String,
    /// What an agentless instance counts as.
    pub agentless_factor: String,
    /// The bands.
    pub bands: Vec<BandDocument>,
    /// Each begun so many gigabytes more ...
    pub step_gb: u64,
    /// ... add so many units.
    pub step_units: String,
}

/// One band.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BandDocument {
    /// The largest size in it, in gigabytes.
    pub up_to_gb: u64,
    /// What it counts as.
    pub units: String,
}

/// Rules for storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageDocument {
    /// `exact`, `hour` or `day`.
    pub integration: String,
    /// Shortest stay in the archive, in days.
    pub archive_days_min: u32,
}

/// Rules for soft-deleted bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftDeleteDocument {
    /// How many days are free.
    pub free_days: u32,
    /// `first` or `last`.
    pub free: String,
}

/// The price of one unit for a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceDocument {
    /// `instance`, `snapshot`, `vault` or `archive`.
    pub meter: String,
    /// Where; everywhere else when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `lrs`, `zrs`, `grs` or `ra-grs`, for `vault` and `archive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redundancy: Option<String>,
    /// A date in the book's zone, or an instant.
    pub from: String,
    /// The same; for ever when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Price of one unit for a whole month.
    pub price: String,
}

/// A part of the price that is taken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscountDocument {
    /// As in [`PriceDocument`].
    pub meter: String,
    /// As in [`PriceDocument`].
    pub from: String,
    /// As in [`PriceDocument`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// 0 to 100.
    pub percent: String,
}

/// The least that an instance with any charge costs in a month.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinimumDocument {
    /// As in [`PriceDocument`]; what holds at the start of a month holds for the month.
    pub from: String,
    /// As in [`PriceDocument`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The amount.
    pub amount: String,
}

impl BookDocument {
    /// Reads TOML.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        within(text)?;
        toml::from_str(text).map_err(|e| unreadable(e.message().to_owned()))
    }

    /// Reads JSON.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        within(text)?;
        serde_json::from_str(text).map_err(|e| unreadable(e.to_string()))
    }

    /// The checked book.
    pub fn check(&self) -> Result<PriceBook, Error> {
        PriceBook::from_documents(std::slice::from_ref(self))
    }
}

fn within(text: &str) -> Result<(), Error> {
    let fits = text.len() <= BOOK_BYTES_MAX;
    fits.then_some(()).ok_or_else(|| unreadable(format!("longer than {BOOK_BYTES_MAX} bytes")))
}

fn unreadable(message: String) -> Error {
    Error::Document { what: "price book", message: start_of(&message, 400) }
}

/// The beginning of a text from outside.
pub(crate) fn start_of(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

fn decimal(entry: &str, field: &'static str, text: &str) -> Result<Decimal, Error> {
    let number = |problem| BookProblem::Number { field, text: start_of(text, 50), problem };
    text.parse().map_err(|e| problem(entry, number(e)))
}

fn word<T>(
    entry: &str,
    field: &'static str,
    text: &str,
    allowed: &'static str,
    found: Option<T>,
) -> Result<T, Error> {
    let unknown = || problem(entry, BookProblem::Word { field, text: start_of(text, 50), allowed });
    found.ok_or_else(unknown)
}

fn integration(entry: &str, text: &str) -> Result<Integration, Error> {
    let found = match text {
        "exact" => Some(Integration::Exact),
        "hour" => Some(Integration::Hour),
        "day" => Some(Integration::Day),
        _ => None,
    };
    word(entry, "integration", text, "exact, hour, day", found)
}

fn at_most(entry: &str, field: &'static str, value: u32, max: u32) -> Result<u32, Error> {
    let large = BookProblem::TooLarge { field, value: value.into(), max: max.into() };
    if value <= max { Ok(value) } else { Err(problem(entry, large)) }
}

fn micros(entry: &str, field: &'static str, text: &str) -> Result<MicroUnits, Error> {
    let too_fine = BookProblem::Number {
        field,
        text: start_of(text, 50),
        problem: crate::decimal::DecimalError::Digits,
    };
    decimal(entry, field, text)?.micros().map(MicroUnits).ok_or_else(|| problem(entry, too_fine))
}

fn terms(document: &BookDocument) -> Result<Terms, Error> {
    let head = "its head";
    let code = &document.currency;
    let currency = Currency::from_code(code).filter(|c| c.exponent().is_some());
    let zone = BillZone::named(&document.zone).map_err(|e| problem(head, e))?;
    let gigabyte = match document.gigabyte.as_str() {
        "GiB" => Some(Gigabyte::Binary),
        "GB" => Some(Gigabyte::Decimal),
        _ => None,
    };
    let gigabyte = word(head, "gigabyte", &document.gigabyte, "GiB, GB", gigabyte)?;
    let rounding = Rounding::named(&document.rounding);
    let rounding = word(head, "rounding", &document.rounding, "half-even, half-up, up, down", rounding)?;
    let free = match document.soft_delete.free.as_str() {
        "first" => Some(FreePart::First),
        "last" => Some(FreePart::Last),
        _ => None,
    };
    let free = word("soft_delete", "free", &document.soft_delete.free, "first, last", free)?;
    let agentless = micros("instance", "agentless_factor", &document.instance.agentless_factor)?;
    if agentless.0 > 1_000_000 {
        let large =
            BookProblem::TooLarge { field: "agentless_factor", value: agentless.0 / 1_000_000, max: 1 };
        return Err(problem("instance", large));
    }
    let bands = bands(document, gigabyte)?;
    if !bands.divides(agentless) {
        return Err(problem("instance", BookProblem::Fine("agentless_factor")));
    }
    Ok(Terms {
        name: document.name.clone(),
        currency: currency.ok_or_else(|| problem(head, BookProblem::Currency(start_of(code, 50))))?,
        zone,
        gigabyte,
        rounding,
        bands,
        instance_integration: integration("instance", &document.instance.integration)?,
        agentless,
        storage_integration: integration("storage", &document.storage.integration)?,
        soft_delete: SoftDeleteTerms {
            free_days: at_most("soft_delete", "free_days", document.soft_delete.free_days, DAYS_MAX)?,
            free,
        },
        archive_days_min: at_most(
            "storage",
            "archive_days_min",
            document.storage.archive_days_min,
            DAYS_MAX,
        )?,
    })
}

fn bands(document: &BookDocument, gigabyte: Gigabyte) -> Result<Bands, Error> {
    let bytes = |entry: &str, field: &'static str, gb: u64| {
        let max = u64::MAX / Gigabyte::Binary.bytes();
        let large = BookProblem::TooLarge { field, value: gb, max };
        if gb <= max { Ok(gb * gigabyte.bytes()) } else { Err(problem(entry, large)) }
    };
    let mut bands = Vec::new();
    for (index, band) in document.instance.bands.iter().enumerate() {
        let name = format!("band {}", index + 1);
        let up_to_bytes = bytes(&name, "up_to_gb", band.up_to_gb)?;
        bands.push(Band { up_to_bytes, units: micros(&name, "units", &band.units)? });
    }
    let step = bytes("instance", "step_gb", document.instance.step_gb)?;
    let step_units = micros("instance", "step_units", &document.instance.step_units)?;
    Bands::new(bands, step, step_units).map_err(|e| problem("instance", e))
}

fn stretch(
    zone: &BillZone,
    name: &str,
    from: &str,
    until: Option<&str>,
) -> Result<(Timestamp, Option<Timestamp>), Error> {
    let at = |text: &str| zone.instant(&start_of(text, 50)).map_err(|e| problem(name, e));
    Ok((at(from)?, until.map(at).transpose()?))
}

fn priced_meter(entry: &str, text: &str) -> Result<Meter, Error> {
    word(entry, "meter", text, "instance, snapshot, vault, archive", Meter::priced(text))
}

fn price(
    zone: &BillZone,
    book: &str,
    index: usize,
    document: &PriceDocument,
) -> Result<(PriceKey, Entry), Error> {
    let words = [Some(document.meter.as_str()), document.region.as_deref(), document.redundancy.as_deref()];
    let words: Vec<String> = words.into_iter().flatten().map(|w| start_of(w, 30)).collect();
    let name = format!("price {} of {book:?} ({})", index + 1, words.join(", "));
    let meter = priced_meter(&name, &document.meter)?;
    let redundancy = match &document.redundancy {
        None => None,
        Some(text) => {
            let found = Redundancy::named(text);
            Some(word(&name, "redundancy", text, "lrs, zrs, grs, ra-grs", found)?)
        }
    };
    match (meter.has_redundancy(), redundancy) {
        (true, None) => return Err(problem(&name, BookProblem::Missing("redundancy"))),
        (false, Some(_)) => return Err(problem(&name, BookProblem::Meaningless("redundancy"))),
        _ => {}
    }
    let (from, until) = stretch(zone, &name, &document.from, document.until.as_deref())?;
    let value = decimal(&name, "price", &document.price)?;
    let key = PriceKey { meter, region: document.region.clone(), redundancy };
    Ok((key, Entry { name, from, until, value }))
}

impl PriceBook {
    /// One book from several documents: their prices, discounts and minimums together. All else must agree.
    ///
    /// # Errors
    /// [`Error::Book`] names the entry that is wrong, or that leaves a gap to, or overlaps, another.
    pub fn from_documents(documents: &[BookDocument]) -> Result<Self, Error> {
        let missing = || problem("its head", BookProblem::Missing("a document"));
        let terms = terms(documents.first().ok_or_else(missing)?)?;
        let mut prices: BTreeMap<PriceKey, Vec<Entry>> = BTreeMap::new();
        let mut discounts: BTreeMap<Meter, Vec<Entry>> = BTreeMap::new();
        let mut minimums = Vec::new();
        for document in documents {
            let book = start_of(&document.name, 40);
            let other = Terms { name: terms.name.clone(), ..self::terms(document)? };
            if other != terms {
                return Err(problem(&format!("book {book:?}"), BookProblem::Differs("its rules")));
            }
            for (index, entry) in document.prices.iter().enumerate() {
                let (key, entry) = price(&terms.zone, &book, index, entry)?;
                prices.entry(key).or_default().push(entry);
            }
            for (index, entry) in document.discounts.iter().enumerate() {
                let name = format!("discount {} of {book:?} ({})", index + 1, start_of(&entry.meter, 30));
                let meter = priced_meter(&name, &entry.meter)?;
                let (from, until) = stretch(&terms.zone, &name, &entry.from, entry.until.as_deref())?;
                let value = decimal(&name, "percent", &entry.percent)?;
                if value.scaled() > 100 * Decimal::ONE.scaled() {
                    return Err(problem(
                        &name,
                        BookProblem::TooLarge { field: "percent", value: 101, max: 100 },
                    ));
                }
                discounts.entry(meter).or_default().push(Entry { name, from, until, value });
            }
            for (index, entry) in document.minimums.iter().enumerate() {
                let name = format!("minimum {} of {book:?}", index + 1);
                let (from, until) = stretch(&terms.zone, &name, &entry.from, entry.until.as_deref())?;
                let value = decimal(&name, "amount", &entry.amount)?;
                minimums.push(Entry { name, from, until, value });
            }
        }
        let prices = prices.into_iter().map(|(key, entries)| Ok((key, series(entries, Gaps::Refused)?)));
        let discounts =
            discounts.into_iter().map(|(meter, entries)| Ok((meter, series(entries, Gaps::Zero)?)));
        Ok(Self {
            terms,
            prices: prices.collect::<Result<_, Error>>()?,
            discounts: discounts.collect::<Result<_, Error>>()?,
            minimum: series(minimums, Gaps::Zero)?,
        })
    }
}
