//! Statements: sums, groups, corrections, and what is written.

#![allow(clippy::unwrap_used)] // in helpers too

mod support;

use proptest::prelude::*;
use support::{DAY, GIB, JANUARY, backup, book, book_with, events, instance, rate, stored, window};
use vmkeep_billing::{
    BillZone, Charge, Error, EventKind, Grouping, Month, PriceBook, Statement, Usage, svg_chart,
};

const END: i64 = JANUARY + 31 * DAY;

fn january() -> Month {
    Month::new(2026, 1).expect("a month")
}

fn usages(book: &PriceBook, id: u8, size: u64, from: i64, until: i64) -> Vec<Usage> {
    let life = [
        (JANUARY + 1, EventKind::Protected),
        (JANUARY + i64::from(id), backup(size)),
        (JANUARY + 7 * i64::from(id), stored(size / 3)),
    ];
    rate(book, &events(id, &life), window(from, until))
}

fn statement(book: &PriceBook, sizes: &[u64]) -> Statement {
    let mut statement = Statement::new(book, january()).expect("a statement");
    for (id, size) in (1..).zip(sizes) {
        let usages = usages(book, id, *size, JANUARY, END);
        statement.add(book, &instance(id), &usages).expect("amounts that fit");
    }
    statement
}

fn discounted() -> PriceBook {
    book_with(
        &[],
        "[[discount]]\nmeter = \"vault\"\nfrom = \"2026-01-01\"\npercent = \"33.3\"\n\
        [[minimum]]\nfrom = \"2026-01-01\"\namount = \"7.77\"\n",
    )
}

proptest! {
    #[test]
    fn every_grouping_adds_up_to_the_total(sizes in prop::collection::vec(0_u64..3000 * GIB, 0..12)) {
        let statement = statement(&discounted(), &sizes);
        let total = statement.total_minor();
        prop_assert_eq!(total, statement.lines().iter().map(|line| line.minor).sum::<i128>());
        for grouping in [Grouping::Vm, Grouping::CostCenter, Grouping::Tag("team"), Grouping::Tag("x"), Grouping::Meter] {
            prop_assert_eq!(statement.totals(grouping).values().sum::<i128>(), total);
        }
        let csv = statement.to_csv().unwrap();
        let mut cents = 0;
        for row in csv::Reader::from_reader(csv.as_bytes()).records() {
            cents += row.unwrap()[14].replace('.', "").parse::<i128>().unwrap();
        }
        prop_assert_eq!(cents, total);
    }

    #[test]
    fn parts_of_a_month_make_the_same_statement(size in 0_u64..3000 * GIB, cut in 0..31 * DAY) {
        let book = discounted();
        let mut parts = usages(&book, 1, size, JANUARY, JANUARY + cut);
        parts.extend(usages(&book, 1, size, JANUARY + cut, END));
        let mut cut = Statement::new(&book, january()).unwrap();
        cut.add(&book, &instance(1), &parts).unwrap();
        prop_assert_eq!(cut.total(), statement(&book, &[size]).total());
    }

    #[test]
    fn a_closed_month_and_its_corrections_make_the_newer_reading(
        old in prop::collection::vec(0_u64..3000 * GIB, 0..6), new in prop::collection::vec(0_u64..3000 * GIB, 0..6),
        newest in prop::collection::vec(0_u64..3000 * GIB, 0..6),
    ) {
        let book = discounted();
        let closed = statement(&book, &old).close();
        let before = closed.statement().clone();
        let first = closed.corrections(&statement(&book, &new), &[]).unwrap();
        let sum = |lines: &[vmkeep_billing::Line]| lines.iter().map(|line| line.minor).sum::<i128>();
        prop_assert_eq!(closed.statement().total_minor() + sum(&first), statement(&book, &new).total_minor());
        // A later correction knows of the first.
        let second = closed.corrections(&statement(&book, &newest), &first).unwrap();
        let all = closed.statement().total_minor() + sum(&first) + sum(&second);
        prop_assert_eq!(all, statement(&book, &newest).total_minor());
        prop_assert!(closed.corrections(&statement(&book, &old), &[]).unwrap().is_empty());
        prop_assert_eq!(closed.statement(), &before);
        let correction = |line: &vmkeep_billing::Line| matches!(line.charge, Charge::Correction { .. });
        prop_assert!(first.iter().chain(&second).all(correction));
    }
}

#[test]
fn the_minimum_fills_up_and_a_free_month_has_none() {
    let book = discounted();
    // Half a unit of ten, and next to no storage.
    assert_eq!(statement(&book, &[3]).total(), "7.77");
    let mut free = Statement::new(&book, january()).unwrap();
    free.add(&book, &instance(1), &[]).unwrap();
    assert_eq!(free.total(), "0.00");
}

#[test]
fn no_one_and_many_price_changes_within_a_month() {
    // A price for each day from the k-th on, each a cent dearer: the month costs the mean of its days.
    for changes in [0_u32, 1, 2, 10, 30] {
        let mut text = "price = \"10\"\nuntil = \"2027-01-01\"".to_owned();
        let mut expected = 31 * 1000;
        for change in 1..=changes {
            let from = format!("2026-01-{:02}", 31 - changes + change);
            text = text.replacen("2027-01-01", &from, 1);
            let price = format!("price = \"10.{change:02}\"\nuntil = \"2027-01-01\"");
            text = format!("{text}\n[[price]]\nmeter = \"instance\"\nfrom = \"{from}\"\n{price}");
            expected += change;
        }
        let book = book_with(&[("price = \"10\"", &text)], "");
        let life = [(JANUARY - DAY, EventKind::Protected), (JANUARY - DAY, backup(100 * GIB))];
        let usages = rate(&book, &events(1, &life), window(JANUARY, END));
        assert_eq!(usages.len(), usize::try_from(changes).unwrap() + 1);
        let total: vmkeep_billing::Amount = usages.iter().map(Usage::amount).sum();
        assert_eq!(total, vmkeep_billing::Amount::new(expected.into(), 3100.into()));
    }
}

#[test]
fn usage_of_another_month_is_refused() {
    let book = book();
    let mut february = Statement::new(&book, january().next()).unwrap();
    let added = february.add(&book, &instance(1), &usages(&book, 1, 5, JANUARY, END));
    assert!(matches!(added, Err(Error::OtherMonth { .. })));
    let other = statement(&book, &[]).close().corrections(&february, &[]);
    assert!(matches!(other, Err(Error::NotARerun(..))));
}

#[test]
fn the_zone_of_the_bill_decides_the_month_and_is_said() {
    let book = book_with(&[("\"UTC\"", "\"Asia/Tokyo\"")], "");
    let statement = Statement::new(&book, january()).unwrap();
    assert_eq!(statement.period().0.0, JANUARY - 9 * 3_600_000);
    assert!(statement.to_table().contains("Asia/Tokyo"));
    assert!(statement.to_json().unwrap().contains("\"zone\": \"Asia/Tokyo\""));
    assert_eq!(BillZone::named("Asia/Tokyo").unwrap().name(), "Asia/Tokyo");
}

#[test]
fn a_currency_without_minor_units_has_whole_amounts() {
    let book = book_with(&[("\"EUR\"", "\"JPY\""), ("price = \"10\"", "price = \"1001\"")], "");
    let statement = statement(&book, &[0]);
    assert!(!statement.total().contains('.'), "{}", statement.total());
}

#[test]
fn a_table_says_what_how_much_and_from_which_events() {
    let table = statement(&discounted(), &[600 * GIB]).to_table();
    for word in [
        "protected instances",
        "vault storage",
        "discount on vault storage",
        "instance-months",
        "0-1",
        "total",
    ] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }
}

#[test]
fn statements_make_a_chart() {
    let statement = statement(&book(), &[600 * GIB]);
    let point = vmkeep_billing::ChartPoint {
        label: statement.month().to_string(),
        minor: statement.total_minor(),
        bytes: 600 * GIB,
    };
    let title =
        vmkeep_billing::ChartTitle { title: "vm-1".into(), currency: statement.currency().into(), digits: 2 };
    assert!(svg_chart(&title, &[point]).contains("2026-01"));
}
