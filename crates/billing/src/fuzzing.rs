//! Entry points for a fuzzer: documents from outside, as plain functions that must never panic.
//!
//! The test `fuzz_corpora` replays what was found.

use crate::{BookDocument, ClosedStatement, Meter, PriceBook, Redundancy, RetailPrices, RetailRule, Tier};

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every function here by its name, which is also that of its fuzz target and of its corpus.
pub const TARGETS: [(&str, Target); 4] = [
    ("price_book_toml", price_book_toml),
    ("price_book_json", price_book_json),
    ("retail_prices", retail_prices),
    ("closed_statement", closed_statement),
];

/// A price book in TOML.
pub fn price_book_toml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(document) = BookDocument::from_toml(text) {
        checked(&document);
    }
}

/// A price book in JSON.
pub fn price_book_json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(document) = BookDocument::from_json(text) {
        checked(&document);
    }
}

/// What a book says holds for sizes and instants of every kind.
fn checked(document: &BookDocument) {
    let Ok(book) = document.check() else { return };
    let bands = &book.terms().bands;
    let mut before = bands.units(0);
    for size in [1, 50 << 30, u64::MAX / 2, u64::MAX] {
        let units = bands.units(size);
        assert!(units >= before, "more data counts as less");
        before = units;
        assert!(bands.next_band(size).up_to_bytes >= size);
    }
    let twice = PriceBook::from_documents(&[document.clone(), document.clone()]);
    assert!(twice.is_err() || document.prices.is_empty(), "the same price twice overlaps");
}

/// An answer of the Retail Prices API.
///
/// # Panics
/// When what it skipped is not sorted.
pub fn retail_prices(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let rule = |name: &str, meter, redundancy| RetailRule { meter_name: name.to_owned(), meter, redundancy };
    let rules = [
        rule("Azure VM Protected Instance", Meter::Instance, None),
        rule("LRS Data Stored", Meter::Storage(Tier::Vault), Some(Redundancy::Lrs)),
    ];
    if let Ok(found) = RetailPrices::parse(&[text, text], &rules) {
        assert!(found.skipped.is_sorted());
    }
}

/// A closed statement: what reads is written again as it was read.
///
/// # Panics
/// When it is not.
pub fn closed_statement(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(closed) = ClosedStatement::from_json(text) else { return };
    let written = closed.statement().to_json().expect("a statement is JSON");
    let again = ClosedStatement::from_json(&written).expect("what was written reads");
    assert_eq!(closed, again);
}
