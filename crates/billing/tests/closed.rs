//! A closed statement is written, kept and read again as it was; one that somebody changed is refused.
#![allow(clippy::unwrap_used)] // in helpers too

mod support;

use proptest::prelude::*;
use support::{DAY, GIB, JANUARY, backup, book, book_with, events, instance, rate, stored, window};
use vmkeep_billing::{ClosedStatement, Error, EventKind, PriceBook, Statement};

fn january(book: &PriceBook, sizes: &[u64]) -> Statement {
    let mut statement = Statement::new(book, "2026-01".parse().unwrap()).unwrap();
    for (id, size) in (1_u8..).zip(sizes) {
        let at = JANUARY + i64::from(id) * 1_234_567;
        let life = [(at, EventKind::Protected), (at, backup(*size)), (at, stored(size / 3))];
        let (from, until) = statement.period();
        let usages = rate(book, &events(id, &life), window(from.0, until.0));
        statement.add(book, &instance(id), &usages).unwrap();
    }
    statement
}

fn with_everything() -> PriceBook {
    let more = r#"
        [[discount]]
        meter = "vault"
        from = "2026-01-10"
        percent = "7.5"
        [[minimum]]
        from = "2026-01-01"
        amount = "6.25"
    "#;
    book_with(&[("zone = \"UTC\"", "zone = \"Asia/Kathmandu\""), ("half-even", "up")], more)
}

proptest! {
    #[test]
    fn a_closed_statement_reads_back_to_the_last_fraction(
        sizes in prop::collection::vec(0_u64..3000 * GIB, 0..6), newer in prop::collection::vec(0_u64..3000 * GIB, 0..6),
    ) {
        let book = with_everything();
        let closed = january(&book, &sizes).close();
        let text = closed.statement().to_json().unwrap();
        let again = ClosedStatement::from_json(&text).unwrap();
        prop_assert_eq!(&again, &closed);
        prop_assert_eq!(again.statement().to_json().unwrap(), text);
        // Corrections rest on what was read as on what was closed, and are themselves written and read.
        let newer = january(&book, &newer);
        let corrections = again.corrections(&newer, &[]).unwrap();
        prop_assert_eq!(&corrections, &closed.corrections(&newer, &[]).unwrap());
        let mut february = Statement::new(&book, "2026-02".parse().unwrap()).unwrap();
        february.add_corrections(corrections);
        prop_assert_eq!(february.total_minor(), newer.total_minor() - closed.statement().total_minor());
        let february = february.close();
        prop_assert_eq!(ClosedStatement::from_json(&february.statement().to_json().unwrap()).unwrap(), february);
    }
}

#[test]
fn whatever_is_changed_in_it_is_noticed() {
    let text = january(&with_everything(), &[47 * GIB, 600 * GIB]).to_json().unwrap();
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} is not in {text}");
        ClosedStatement::from_json(&text.replacen(from, to, 1)).expect_err(from)
    };
    let amounts = ["\"total\": \"", "\"amount\": \"", "\"metered\": \"", "\"rate\": \"", "\"quantity\": \""];
    for field in amounts {
        let changed = refused(field, &format!("{field}1"));
        assert!(matches!(changed, Error::Closed { .. }), "{field}: {changed}");
    }
    let words = [
        ("rounding", "", "\"rounding\": \"up\"", "\"rounding\": \"down\""),
        ("digits", "", "\"digits\": 2", "\"digits\": 3"),
        ("unit", "", "GiB-months", "GB-months"),
        ("gigabyte", "", "\"gigabyte\": \"GiB\"", "\"gigabyte\": \"GB\""),
        ("kind", "", "\"kind\": \"usage\"", "\"kind\": \"minimum\""),
        ("month", "", "\"per_month\": ", "\"per_month\": 9"),
        ("nothing", "", "\"per_unit\": 1000000", "\"per_unit\": 0"),
    ];
    for (what, _, from, to) in words {
        let changed = refused(from, to);
        assert!(matches!(changed, Error::Closed { .. }), "{what}: {changed}");
    }
    for (from, to) in [("\"version\": 1", "\"version\": 2"), ("\"book\"", "\"cook\""), ("{", "[")] {
        let changed = refused(from, to);
        assert!(matches!(changed, Error::Document { .. }), "{from}: {changed}");
    }
    let total = refused("\"total\": \"", "\"total\": \"9").to_string();
    assert!(total.contains("its total is said to be 9"), "{total}");
}

#[test]
fn an_instance_is_on_a_statement_once() {
    let book = book();
    let mut statement = january(&book, &[GIB]);
    let life = [(JANUARY, EventKind::Protected), (JANUARY, backup(GIB))];
    let usages = rate(&book, &events(1, &life), window(JANUARY, JANUARY + DAY));
    let twice = statement.add(&book, &instance(1), &usages).unwrap_err();
    assert!(matches!(twice, Error::Twice { .. }), "{twice}");
    statement.add(&book, &instance(1), &[]).unwrap();
    statement
        .add(&book, &instance(2), &rate(&book, &events(2, &life), window(JANUARY, JANUARY + DAY)))
        .unwrap();
}
