//! The rules of the bill, one by one, and worked examples.

#![allow(clippy::unwrap_used)] // in helpers too

mod support;

use EventKind::{Protected, Stopped};
use support::{DAY, GIB, HOUR, JANUARY, backup, book, book_with, events, instance, rate, stored, window};
use vmkeep_billing::{
    Agent, Amount, BillZone, Error, Event, EventKind, EventProblem, Meter, Outlook, Statement, Tier, Usage,
    band_warning, forecast, rate_all,
};
use vmkeep_model::{LineageId, Timestamp};

const END: i64 = JANUARY + 31 * DAY;
const MONTH_MS: u128 = 31 * 86_400_000;

fn quantity(usages: &[Usage], meter: Meter) -> u128 {
    usages.iter().filter(|usage| usage.meter == meter).map(|usage| usage.quantity).sum()
}

/// A name, a life, and for how many days each meter ran.
type Row = (&'static str, Vec<(i64, EventKind)>, (u128, u128));

/// How many days of January each meter ran: instances (as one half unit) and the vault (as one GiB).
fn days(life: &[(i64, EventKind)]) -> (u128, u128) {
    let usages = rate(&book(), &events(1, life), window(JANUARY, END));
    let day = 86_400_000;
    let instance = quantity(&usages, Meter::Instance) / 500_000;
    let vault = quantity(&usages, Meter::Storage(Tier::Vault)) / u128::from(GIB);
    assert_eq!((instance % day, vault % day), (0, 0));
    (instance / day, vault / day)
}

fn on(day: i64) -> i64 {
    JANUARY + day * DAY
}

fn gone(day: i64, since: i64) -> (i64, EventKind) {
    (on(day), EventKind::Removed { tier: Tier::Vault, bytes: GIB, since: Timestamp(on(since)) })
}

/// A first success on the third day, 2 January being `on(1)`.
fn begun() -> Vec<(i64, EventKind)> {
    vec![(on(0), Protected), (on(2), backup(GIB)), (on(2), stored(GIB))]
}

fn and(mut life: Vec<(i64, EventKind)>, more: &[(i64, EventKind)]) -> Vec<(i64, EventKind)> {
    life.extend_from_slice(more);
    life
}

#[test]
fn when_the_meters_run() {
    let restored = (on(5), EventKind::Restored { bytes: 500 * GIB });
    let (tier, bytes) = (Tier::Vault, GIB);
    // Purged 30 days later: 16 days as before, then 14 free ones.
    let soft = |day: i64| EventKind::SoftDeleted { tier, bytes, purge_at: Timestamp(on(day + 30)) };
    let back = |from: i64| EventKind::Undeleted {
        tier,
        bytes,
        deleted_at: Timestamp(on(from)),
        purge_at: Timestamp(on(from + 30)),
    };
    let table: &[Row] = &[
        ("nothing before the first success", vec![(on(0), Protected)], (0, 0)),
        ("bytes of a backup that never succeeded", vec![(on(0), Protected), (on(1), stored(GIB))], (0, 0)),
        ("both from the first success on", begun(), (29, 29)),
        ("a restore costs nothing", and(begun(), &[restored]), (29, 29)),
        ("stopped, data kept: both go on", and(begun(), &[(on(10), Stopped)]), (29, 29)),
        ("all points gone, still protected: the instance goes on", and(begun(), &[gone(10, 2)]), (29, 8)),
        ("stopped and all data deleted: both end", and(begun(), &[(on(10), Stopped), gone(12, 2)]), (10, 10)),
        ("deleted first, stopped later", and(begun(), &[gone(10, 2), (on(12), Stopped)]), (10, 8)),
        ("stopped and resumed", and(begun(), &[(on(10), Stopped), (on(20), Protected)]), (29, 29)),
        (
            "ended and begun anew: free until the next success",
            and(
                begun(),
                &[
                    (on(10), Stopped),
                    gone(10, 2),
                    (on(15), Protected),
                    (on(20), backup(GIB)),
                    (on(20), stored(GIB)),
                ],
            ),
            (8 + 11, 8 + 11),
        ),
        (
            "soft-deleted: as before until the free days, then nothing",
            and(begun(), &[(on(4), Stopped), (on(4), soft(4))]),
            (18, 18),
        ),
        ("soft-deleted while protected: the instance goes on", and(begun(), &[(on(4), soft(4))]), (29, 18)),
        (
            "undeleted within the free days: charged again from then on",
            and(begun(), &[(on(4), Stopped), (on(4), soft(4)), (on(25), back(4))]),
            (18 + 6, 18 + 6),
        ),
    ];
    for (name, life, expected) in table {
        assert_eq!(days(life), *expected, "{name}");
    }
}

#[test]
fn the_first_days_of_a_soft_delete_are_free_when_the_book_says_so() {
    let book = book_with(&[("free = \"last\"", "free = \"first\"")], "");
    let soft = EventKind::SoftDeleted { tier: Tier::Vault, bytes: GIB, purge_at: Timestamp(on(30)) };
    let life = and(begun(), &[(on(4), Stopped), (on(4), soft)]);
    let usages = rate(&book, &events(1, &life), window(JANUARY, END));
    let vault = quantity(&usages, Meter::Storage(Tier::Vault));
    // Free from 4 to 18, purged (as far as is known here) never.
    assert_eq!(vault, u128::from(GIB) * 86_400_000 * (2 + 13));
}

#[test]
fn after_a_stop_the_size_of_the_last_success_bills() {
    let life = and(begun(), &[(on(5), backup(501 * GIB)), (on(6), Stopped)]);
    let usages = rate(&book(), &events(1, &life), window(on(10), on(11)));
    assert_eq!(quantity(&usages, Meter::Instance), 2_000_000 * 86_400_000);
}

#[test]
fn without_an_agent_an_instance_counts_half() {
    let EventKind::Backup { disks, .. } = backup(400 * GIB) else { unreachable!() };
    let agentless = EventKind::Backup { disks, agent: Agent::Agentless };
    let life = [(JANUARY, Protected), (JANUARY, agentless)];
    let usages = rate(&book(), &events(1, &life), window(JANUARY, END));
    assert_eq!(quantity(&usages, Meter::Instance), 500_000 * MONTH_MS);
}

#[test]
fn leaving_the_archive_early_costs_the_rest_of_the_stay() {
    let life = and(
        begun(),
        &[
            (on(3), EventKind::Stored { tier: Tier::Archive, bytes: GIB }),
            (on(13), EventKind::Removed { tier: Tier::Archive, bytes: GIB, since: Timestamp(on(3)) }),
        ],
    );
    let usages = rate(&book(), &events(1, &life), window(JANUARY, END));
    assert_eq!(quantity(&usages, Meter::Storage(Tier::Archive)), u128::from(GIB) * 10 * 86_400_000);
    assert_eq!(quantity(&usages, Meter::EarlyDeletion), u128::from(GIB) * 170 * 86_400_000);
}

fn month_cost(price: &str, bytes: u64) -> String {
    let book = book_with(&[("price = \"10\"", &format!("price = \"{price}\"")), ("\"EUR\"", "\"GBP\"")], "");
    let life = [(JANUARY, Protected), (JANUARY, backup(bytes))];
    let mut statement = Statement::new(&book, "2026-01".parse().unwrap()).unwrap();
    statement.add(&book, &instance(1), &rate(&book, &events(1, &life), window(JANUARY, END))).unwrap();
    statement.total()
}

#[test]
fn worked_examples_of_instances() {
    assert_eq!(month_cost("10", 47 * GIB), "5.00");
    assert_eq!(month_cost("10", 500 * GIB), "10.00");
    assert_eq!(month_cost("10", 501 * GIB), "20.00");
    assert_eq!(month_cost("6.109", 1300 * GIB), "18.33");
    assert_eq!(month_cost("10", 2000 * GIB), "40.00");
}

#[test]
fn thirty_daily_points_of_two_gigabytes_beside_a_hundred_are_158() {
    let outlook = Outlook {
        size_bytes: 100 * GIB,
        growth_bytes_per_day: 0,
        full_bytes: 100 * GIB,
        new_bytes_per_day: 2 * GIB,
        points_kept: 30,
        archive: None,
    };
    let ahead = forecast(&book(), &instance(1), &outlook, "2026-01".parse().unwrap(), 3).unwrap();
    assert_eq!(ahead.iter().map(|m| m.stored_bytes[1] / GIB).collect::<Vec<_>>(), [158, 158, 158]);
    // February is full from end to end: 158 gigabytes at 0.0224 and a unit of 10.
    assert_eq!(ahead[1].statement.total(), "13.54");

    let cheaper = Outlook { points_kept: 10, ..outlook };
    let cheaper = forecast(&book(), &instance(1), &cheaper, "2026-01".parse().unwrap(), 3).unwrap();
    assert_eq!(cheaper[2].stored_bytes[1], 118 * GIB);
    assert!(cheaper[2].statement.total_minor() < ahead[2].statement.total_minor());

    let moved = vmkeep_billing::ArchiveMove { after_days: 5, bytes_there: 3 * GIB };
    let moved = Outlook { archive: Some(moved), ..outlook };
    let moved = forecast(&book(), &instance(1), &moved, "2026-01".parse().unwrap(), 2).unwrap();
    assert_eq!(moved[1].stored_bytes, [0, 110 * GIB, 24 * 3 * GIB]);
}

#[test]
fn a_size_just_below_a_band_is_warned_of() {
    let bands = vmkeep_billing::Bands::azure(GIB);
    let warning = band_warning(&bands, 498 * GIB, 5 * GIB).unwrap();
    assert_eq!((warning.units.0, warning.next_units.0), (1_000_000, 2_000_000));
    assert_eq!(warning.bytes_more, 2 * GIB + 1);
    assert_eq!(band_warning(&bands, 490 * GIB, 5 * GIB), None);
}

/// A gigabyte and a small instance through a month of `zone`, with each way of adding up: always one whole month.
#[test]
fn a_whole_month_is_one_month_in_any_zone_and_of_any_length() {
    for zone in ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"] {
        for month in ["2026-02", "2028-02", "2026-03", "2026-04", "2026-10", "2026-11"] {
            for integration in ["exact", "hour", "day"] {
                let exact = "integration = \"exact\"";
                let own = format!("integration = \"{integration}\"");
                let book = book_with(&[("\"UTC\"", &format!("\"{zone}\"")), (exact, &own)], "");
                let span = BillZone::named(zone).unwrap().span(month.parse().unwrap()).unwrap();
                let start = span.start().0 - 40 * DAY;
                let life = [(start, Protected), (start, backup(GIB)), (start, stored(GIB))];
                let usages = rate(&book, &events(1, &life), window(span.start().0, span.end().0));
                let total: Amount = usages.iter().map(Usage::amount).sum();
                assert_eq!(total, Amount::new(50_224.into(), 10_000.into()), "{zone} {month} {integration}");
            }
        }
    }
}

#[test]
fn a_day_of_23_hours_is_a_day() {
    let book = book_with(&[("\"UTC\"", "\"Europe/Berlin\""), ("\"exact\"", "\"day\"")], "");
    let zone = BillZone::named("Europe/Berlin").unwrap();
    let span = zone.span("2026-03".parse().unwrap()).unwrap();
    let short = span.day_starts()[28].0;
    // Begun an hour before the end of the 28th, ended an hour after the end of the 29th, which has 23 hours.
    let life = [(short - HOUR, Protected), (short - HOUR, backup(GIB)), (short + 24 * HOUR, Stopped)];
    let usages = rate(&book, &events(1, &life), window(span.start().0, span.end().0));
    assert_eq!(quantity(&usages, Meter::Instance), 3 * 500_000);
    assert_eq!(usages[0].scale.per_month, 31);
}

#[test]
fn a_clock_that_went_back_stands_still() {
    let back = [(on(1), Protected), (on(3), backup(GIB)), (on(2), stored(GIB)), (on(5), stored(GIB))];
    let still = [(on(1), Protected), (on(3), backup(GIB)), (on(3), stored(GIB)), (on(5), stored(GIB))];
    let rate = |life: &[(i64, EventKind)]| rate(&book(), &events(1, life), window(JANUARY, END));
    assert_eq!(rate(&back), rate(&still));
}

#[test]
fn impossible_events_are_named() {
    let check = |life: &[(i64, EventKind)], number: u64, expected: &dyn Fn(&EventProblem) -> bool| {
        let rated =
            vmkeep_billing::rate_instance(&book(), &instance(1), &events(1, life), window(JANUARY, END));
        match rated {
            Err(Error::Event { event, problem, .. }) => {
                assert_eq!(event.number, number);
                assert!(expected(&problem), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    };
    check(&[(on(0), backup(1))], 0, &|p| matches!(p, EventProblem::NotProtected));
    check(&[(on(0), Stopped)], 0, &|p| matches!(p, EventProblem::Already("stopped")));
    check(&and(begun(), &[(on(3), Protected)]), 3, &|p| matches!(p, EventProblem::Already("configured")));
    let more = and(begun(), &[gone(3, 2), gone(4, 2)]);
    check(&more, 4, &|p| matches!(p, EventProblem::NotThere { missing: m, .. } if *m == u128::from(GIB)));
    let huge = and(begun(), &[(on(3), stored(u64::MAX))]);
    check(&huge, 3, &|p| matches!(p, EventProblem::TooLarge));
    check(&and(begun(), &[(i64::MAX, stored(1))]), 3, &|p| matches!(p, EventProblem::Time));
    check(&[(i64::MIN, Protected)], 0, &|p| matches!(p, EventProblem::Time));
    let purge = EventKind::SoftDeleted { tier: Tier::Vault, bytes: 1, purge_at: Timestamp(i64::MAX) };
    check(&and(begun(), &[(on(3), purge)]), 3, &|p| matches!(p, EventProblem::Purge));
}

#[test]
fn what_has_no_price_is_an_error_and_not_free() {
    let book = book_with(&[("price = \"0.05\"", "price = \"0.05\"\nuntil = \"2026-01-10\"")], "");
    let life = and(begun(), &[(on(3), EventKind::Stored { tier: Tier::Snapshot, bytes: 1 })]);
    let events = events(1, &life);
    let rated = vmkeep_billing::rate_instance(&book, &instance(1), &events, window(JANUARY, END));
    match rated {
        Err(Error::NoPrice { meter: Meter::Storage(Tier::Snapshot), at, .. }) => assert_eq!(at.0, on(9)),
        other => panic!("{other:?}"),
    }
}

/// Two million events through one meter: an iterator makes each when it is asked, and the meter keeps no more than
/// levels. What it keeps is seen in its size when printed.
#[test]
fn state_does_not_grow_with_events() {
    let (book, instance) = (book(), instance(1));
    let mut meter = vmkeep_billing::InstanceMeter::new(&book, &instance);
    let mut sizes = Vec::new();
    let step = 200_000;
    for number in 0..10 * step {
        let at = Timestamp(JANUARY + i64::try_from(number).unwrap() * 1000);
        let kind = match number {
            0 => Protected,
            n if n % 3 == 0 => backup(n * 1000),
            n if n % 3 == 1 => stored(n),
            n => EventKind::Removed { tier: Tier::Vault, bytes: n - 1, since: at },
        };
        meter.apply(&Event { instance: LineageId([1; 16]), number, at, kind }).unwrap();
        if number % step == step - 1 {
            sizes.push(format!("{meter:?}").len());
        }
    }
    assert!(sizes[9] < sizes[0] + 500, "{sizes:?}");
}

#[test]
fn instances_come_in_order_and_are_known() {
    let (book, known) = (book(), [instance(1), instance(2)]);
    let run = |ids: &[u8]| {
        let all: Vec<Event> = ids.iter().flat_map(|id| events(*id, &begun())).collect();
        let mut done = Vec::new();
        rate_all(
            &book,
            all,
            window(JANUARY, END),
            |event| known.iter().find(|i| i.id == event.instance).map(AsRef::as_ref),
            |instance, usages| {
                done.push((instance.name.clone(), usages.len()));
                Ok(())
            },
        )
        .map(|()| done)
    };
    assert_eq!(run(&[1, 2]).unwrap(), [("vm-1".to_owned(), 2), ("vm-2".to_owned(), 2)]);
    assert!(matches!(run(&[2, 1]), Err(Error::InstanceOrder(event)) if event.number == 0));
    assert!(matches!(run(&[3]), Err(Error::UnknownInstance(_))));
}
