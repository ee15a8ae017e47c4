//! Price books: what is refused, and by which name; several books; prices of the Azure Retail Prices API's shape.

#![allow(clippy::unwrap_used)] // in helpers too

mod support;

use proptest::prelude::*;
use support::{HEAD, JANUARY, PRICES, book, document};
use vmkeep_billing::DecimalError::{Digits, Negative, Syntax};
use vmkeep_billing::{
    BookDocument, BookProblem, Error, Meter, PriceBook, Redundancy, RetailPrices, RetailRule, Tier,
};
use vmkeep_model::Timestamp;

const ENTRY: &str =
    "[[price]]\nmeter = \"instance\"\nfrom = \"2026-01-01\"\nuntil = \"2026-02-01\"\nprice = \"10\"\n";

fn problem(text: &str) -> (String, BookProblem) {
    match document(text).check() {
        Err(Error::Book { entry, problem }) => (entry, *problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bad_entry_is_named() {
    let check = |change: (&str, &str), entry: &str, expected: &dyn Fn(&BookProblem) -> bool| {
        let text = format!("{HEAD}{ENTRY}");
        assert!(text.contains(change.0), "{}", change.0);
        let (name, problem) = problem(&text.replace(change.0, change.1));
        assert_eq!(name, entry);
        assert!(expected(&problem), "{problem}");
    };
    let price = "price 1 of \"invented\" (instance)";
    let is = |expected| move |p: &BookProblem| matches!(p, BookProblem::Number { problem, .. } if *problem == expected);
    check(("\"10\"", "\"-10\""), price, &is(Negative));
    check(("\"10\"", "\"1234567890123456789012345678901234567890\""), price, &is(Digits));
    check(("\"10\"", "\"ten\""), price, &is(Syntax));
    let empty = |p: &BookProblem| matches!(p, BookProblem::Empty { .. });
    check(("2026-02-01", "2025-02-01"), price, &empty);
    check(("2026-02-01", "2026-02-30"), price, &|p| matches!(p, BookProblem::Calendar(_)));
    check(("\"instance\"\nfrom", "\"vault\"\nfrom"), "price 1 of \"invented\" (vault)", &|p| {
        *p == BookProblem::Missing("redundancy")
    });
    let lrs = "\"instance\"\nredundancy = \"lrs\"\nfrom";
    check(("\"instance\"\nfrom", lrs), "price 1 of \"invented\" (instance, lrs)", &|p| {
        *p == BookProblem::Meaningless("redundancy")
    });
    let word = |p: &BookProblem| matches!(p, BookProblem::Word { .. });
    check(
        ("\"instance\"\nfrom", "\"early-deletion\"\nfrom"),
        "price 1 of \"invented\" (early-deletion)",
        &word,
    );
    check(("\"EUR\"", "\"EURO\""), "its head", &|p| matches!(p, BookProblem::Currency(_)));
    check(("\"EUR\"", "\"XAU\""), "its head", &|p| matches!(p, BookProblem::Currency(_)));
    check(("\"UTC\"", "\"Mars\""), "its head", &|p| matches!(p, BookProblem::Calendar(_)));
    check(("\"half-even\"", "\"bankers\""), "its head", &word);
    check(("free_days = 14", "free_days = 99999"), "soft_delete", &|p| {
        matches!(p, BookProblem::TooLarge { .. })
    });
    check(("up_to_gb = 500", "up_to_gb = 50"), "instance", &|p| matches!(p, BookProblem::Bands(_)));
    check(("up_to_gb = 500", "up_to_gb = 9999999999999"), "band 2", &|p| {
        matches!(p, BookProblem::TooLarge { .. })
    });
    check(("factor = \"0.5\"", "factor = \"1.5\""), "instance", &|p| {
        matches!(p, BookProblem::TooLarge { .. })
    });
}

#[test]
fn gaps_and_overlaps_are_named() {
    let second = |from: &str| ENTRY.replace("until = \"2026-02-01\"\n", "").replace("2026-01-01", from);
    let with = |from: &str| format!("{HEAD}{ENTRY}{}", second(from));
    let (name, gap) = problem(&with("2026-02-02"));
    assert_eq!(name, "price 2 of \"invented\" (instance)");
    assert!(matches!(gap, BookProblem::Gap { .. }), "{gap}");
    let (name, overlap) = problem(&with("2026-01-31"));
    assert_eq!(name, "price 2 of \"invented\" (instance)");
    assert!(matches!(overlap, BookProblem::Overlap { .. }), "{overlap}");
    assert!(document(&with("2026-02-01")).check().is_ok());
}

#[test]
fn numbers_that_would_pass_through_a_float_are_refused() {
    assert!(BookDocument::from_toml(&format!("{HEAD}{ENTRY}").replace("\"10\"", "10.1")).is_err());
    assert!(
        BookDocument::from_toml(&format!("{HEAD}{ENTRY}").replace("\"10\"", "\"10\"\nprize = \"1\""))
            .is_err()
    );
}

#[test]
fn a_book_is_the_same_in_toml_and_json() {
    let document = document(&format!("{HEAD}{PRICES}"));
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(BookDocument::from_json(&json).unwrap(), document);
}

#[test]
fn several_books_by_date_and_region_are_one() {
    let first = document(&format!("{HEAD}{ENTRY}"));
    let later =
        ENTRY.replace("until = \"2026-02-01\"\n", "").replace("2026-01-01", "2026-02-01").replace("10", "11");
    let region = later.replace("from", "region = \"uksouth\"\nfrom").replace("11", "12");
    let second = document(&format!("{HEAD}{later}{region}"));
    let book = PriceBook::from_documents(&[second, first.clone()]).unwrap();
    let at = |day: i64, region| {
        let at = Timestamp(JANUARY + day * 86_400_000);
        book.price_at(Meter::Instance, region, Redundancy::Lrs, at).map(|p| p.to_string())
    };
    assert_eq!(at(30, "westeurope").as_deref(), Some("10"));
    assert_eq!(at(31, "westeurope").as_deref(), Some("11"));
    assert_eq!(at(31, "uksouth").as_deref(), Some("12"));
    assert_eq!(at(-1, "westeurope"), None);
    let other = document(&format!("{HEAD}{ENTRY}").replace("EUR", "USD"));
    let differs = PriceBook::from_documents(&[first, other]);
    assert!(
        matches!(differs, Err(Error::Book { problem, .. }) if matches!(*problem, BookProblem::Differs(_)))
    );
}

/// Invented prices in the documented shape.
const RETAIL: &str = r#"{"BillingCurrency":"USD","CustomerEntityId":"Default","CustomerEntityType":"Retail","Items":[
{"currencyCode":"USD","tierMinimumUnits":0.0,"retailPrice":7.5,"unitPrice":7.5,"armRegionName":"westeurope",
 "location":"EU West","effectiveStartDate":"2025-01-01T00:00:00Z","meterId":"a","meterName":"Invented Instances",
 "productName":"Backup","skuName":"Standard","serviceName":"Backup","unitOfMeasure":"1/Month","type":"Consumption"},
{"currencyCode":"USD","tierMinimumUnits":0.0,"retailPrice":8.1,"unitPrice":8.1,"armRegionName":"westeurope",
 "location":"EU West","effectiveStartDate":"2026-01-10T00:00:00Z","meterId":"a","meterName":"Invented Instances",
 "productName":"Backup","skuName":"Standard","serviceName":"Backup","unitOfMeasure":"1/Month","type":"Consumption"},
{"currencyCode":"USD","tierMinimumUnits":0.0,"retailPrice":1.9e-2,"unitPrice":0.019,"armRegionName":"westeurope",
 "location":"EU West","effectiveStartDate":"2025-01-01T00:00:00Z","meterId":"b","meterName":"Invented LRS Data",
 "productName":"Backup","skuName":"Standard","serviceName":"Backup","unitOfMeasure":"1 GB/Month","type":"Consumption"},
{"currencyCode":"USD","tierMinimumUnits":0.0,"retailPrice":1,"unitPrice":1,"armRegionName":"westeurope",
 "location":"EU West","effectiveStartDate":"2025-01-01T00:00:00Z","meterId":"c","meterName":"Something Else",
 "productName":"Backup","skuName":"Standard","serviceName":"Backup","unitOfMeasure":"1 Hour","type":"Consumption"}
],"NextPageLink":null,"Count":4}"#;

fn rules() -> Vec<RetailRule> {
    let rule = |name: &str, meter, redundancy| RetailRule { meter_name: name.to_owned(), meter, redundancy };
    vec![
        rule("Invented Instances", Meter::Instance, None),
        rule("Invented LRS Data", Meter::Storage(Tier::Vault), Some(Redundancy::Lrs)),
    ]
}

#[test]
fn retail_prices_become_a_book() {
    let retail = RetailPrices::parse(&[RETAIL], &rules()).unwrap();
    assert_eq!(retail.skipped, ["Something Else"]);
    let mut document = document(HEAD);
    document.currency.clone_from(&retail.currency);
    document.prices = retail.prices;
    let book = document.check().unwrap();
    let at = |meter, day: i64| {
        let at = Timestamp(JANUARY + day * 86_400_000);
        book.price_at(meter, "westeurope", Redundancy::Lrs, at).unwrap().to_string()
    };
    assert_eq!(at(Meter::Instance, 8), "7.5");
    assert_eq!(at(Meter::Instance, 9), "8.1");
    assert_eq!(at(Meter::Storage(Tier::Vault), 0), "0.019");
}

#[test]
fn retail_items_that_cannot_be_prices_are_named() {
    let check = |from: &str, to: &str| {
        assert!(RETAIL.contains(from), "{from}");
        match RetailPrices::parse(&[&RETAIL.replacen(from, to, 1)], &rules()) {
            Err(Error::Book { entry, .. }) => assert!(entry.starts_with("item "), "{entry}"),
            other => panic!("{other:?}"),
        }
    };
    check("7.5,", "-7.5,");
    check("7.5,", "1234567890123456789012345678901234567890,");
    check("7.5,", "\"7.5\",");
    check("1/Month", "1 Hour");
    check("\"tierMinimumUnits\":0.0", "\"tierMinimumUnits\":50");
    check("2026-01-10", "2025-01-01");
    check("\"currencyCode\":\"USD\"", "\"currencyCode\":\"EUR\"");
    assert!(RetailPrices::parse(&["{}"], &rules()).is_err());
    assert!(RetailPrices::parse(&[r#"{"Items":[]}"#], &rules()).is_err());
}

proptest! {
    #[test]
    fn any_text_gives_a_book_or_an_error(cut in 0_usize..2000, junk in ".{0,20}") {
        let text = format!("{HEAD}{PRICES}");
        let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let text = format!("{}{junk}{}", &text[..cut], &text[cut..]);
        let _ = BookDocument::from_toml(&text).and_then(|d| d.check());
        let _ = BookDocument::from_json(&text).and_then(|d| d.check());
        let _ = RetailPrices::parse(&[&RETAIL.replacen("USD", &junk, 1)], &rules());
    }
}

#[test]
fn the_book_of_the_tests_is_sound() {
    assert_eq!(book().terms().currency.code(), "EUR");
}

#[test]
fn a_part_of_a_unit_that_cannot_be_billed_exactly_is_refused() {
    let text =
        format!("{HEAD}{PRICES}").replace("agentless_factor = \"0.5\"", "agentless_factor = \"0.333333\"");
    let (entry, problem) = problem(&text);
    assert_eq!(
        problem,
        BookProblem::Fine("agentless_factor"),
        "a sixth of 500,000 millionths is no whole number"
    );
    assert_eq!(entry, "instance");
}
