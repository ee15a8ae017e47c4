//! Runs against every minute of the calendar, and what is due.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod common;

use common::{BEGIN, DAY, YEARS, ZONES, time_zone};
use jiff::ToSpan;
use proptest::prelude::*;
use vmkeep_model::Timestamp;
use vmkeep_retention::{CatchUp, Due, Edge, Schedule, TimeOfDay, Weekday, Zone, due, runs};

fn time() -> impl Strategy<Value = TimeOfDay> {
    (0u8..24, 0u8..60).prop_map(|(hour, minute)| TimeOfDay::new(hour, minute).unwrap())
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let weekly = (prop::sample::subsequence(Weekday::ALL, 1..=7), time())
        .prop_map(|(days, at)| Schedule::Weekly { days: days.into_iter().collect(), at });
    let hourly = (time(), 1u32..=12, 1u32..=24).prop_map(|(start, every, window)| Schedule::Hourly {
        start,
        every,
        window: window.max(every),
    });
    prop_oneof![time().prop_map(|at| Schedule::Daily { at }), weekly, hourly]
}

/// Every run between two instants: each local day's times, put into the zone by another library.
fn model(schedule: &Schedule, zone: &Zone, from: i64, until: i64) -> Vec<i64> {
    let tz = time_zone(zone);
    let date_of = |at| jiff::Timestamp::from_millisecond(at).unwrap().to_zoned(tz.clone()).date();
    let (mut date, end) = (date_of(from - 4 * DAY), date_of(until + 2 * DAY));
    let mut all = std::collections::BTreeSet::new();
    while date <= end {
        let minutes: Vec<i64> = match schedule {
            Schedule::OnDemandOnly => Vec::new(),
            Schedule::Daily { at } => vec![i64::from(at.minutes())],
            Schedule::Weekly { days, at } => {
                let weekday = Weekday::ALL[usize::try_from(date.weekday().to_monday_zero_offset()).unwrap()];
                if days.contains(weekday) { vec![i64::from(at.minutes())] } else { Vec::new() }
            }
            Schedule::Hourly { start, every, window } => (0..*window)
                .step_by(usize::try_from(*every).unwrap())
                .map(|hour| i64::from(start.minutes()) + i64::from(hour) * 60)
                .collect(),
        };
        for minute in minutes {
            let civil =
                date.to_datetime(jiff::civil::time(0, 0, 0, 0)).checked_add(minute.minutes()).unwrap();
            all.insert(tz.to_ambiguous_timestamp(civil).compatible().unwrap().as_millisecond());
        }
        date = date.tomorrow().unwrap();
    }
    all.range(from..until).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn runs_agree_with_the_calendar(
        zone in prop::sample::select(ZONES.as_slice()),
        schedule in schedule(),
        from in 0..YEARS * 365 * 24 * 60,
        days in 1i64..400,
    ) {
        let zone = Zone::named(zone).unwrap();
        let from = BEGIN + from * 60_000;
        let until = from + days * DAY;
        let found = runs(&schedule, &zone, Timestamp(from)).map(|run| run.at.0).take_while(|at| *at < until);
        prop_assert_eq!(found.collect::<Vec<_>>(), model(&schedule, &zone, from, until));
    }

    #[test]
    fn a_scheduler_that_wakes_often_makes_each_run_once(
        zone in prop::sample::select(ZONES.as_slice()),
        schedule in schedule(),
        from in 0..YEARS * 365 * 24 * 60,
        step in 1i64..60,
    ) {
        let zone = Zone::named(zone).unwrap();
        let from = BEGIN + from * 60_000;
        let (mut last, mut now, mut made) = (Timestamp(from), from, Vec::new());
        while now < from + 20 * DAY {
            if let Due::Now { run, missed, catch_up } = due(&schedule, &zone, last, Timestamp(now), CatchUp::default()) {
                prop_assert!(missed == 0 && !catch_up);
                made.push(run.at.0);
                last = Timestamp(now);
            }
            now += step * 60_000;
        }
        let expected = model(&schedule, &zone, from + 1, now - step * 60_000 + 1);
        prop_assert_eq!(made, expected);
    }
}

#[test]
fn both_edges_of_daylight_saving_are_told() {
    let zone = Zone::named("Europe/Berlin").unwrap();
    let schedule = Schedule::Daily { at: TimeOfDay::new(2, 30).unwrap() };
    // 2026-03-28T00:00Z and 2026-10-24T00:00Z.
    for (from, edge, shown) in [
        (1_774_656_000_000, Edge::Gap, "2026-03-29 03:30 +02:00"),
        (1_792_800_000_000, Edge::Fold, "2026-10-25 02:30 +02:00"),
    ] {
        let run = runs(&schedule, &zone, Timestamp(from)).find(|run| run.edge != Edge::None).unwrap();
        assert_eq!((run.edge, zone.show(run.at).as_str()), (edge, shown));
    }
}

#[test]
fn a_pause_is_made_up_for_once() {
    let zone = Zone::utc();
    let schedule = Schedule::Daily { at: TimeOfDay::new(2, 0).unwrap() };
    let hour = |n: i64| Timestamp(BEGIN + n * 3_600_000);
    let at = |now| due(&schedule, &zone, hour(2), now, CatchUp::default());
    // On the second day at two, in time; four days on, the newest of four is made up for.
    assert!(matches!(at(hour(26)), Due::Now { missed: 0, catch_up: false, .. }));
    let Due::Now { run, missed: 3, catch_up: true } = at(hour(4 * 24 + 12)) else { panic!() };
    assert_eq!(run.at, hour(4 * 24 + 2));
    // Shortly before the next run it is left to that.
    assert!(matches!(at(hour(5 * 24 + 1)), Due::At(run) if run.at == hour(5 * 24 + 2)));
    let never = CatchUp { enabled: false, ..CatchUp::default() };
    assert!(matches!(due(&schedule, &zone, hour(2), hour(4 * 24 + 12), never), Due::At(_)));
    // The clock was set back: what was done is not due again.
    assert!(
        matches!(due(&schedule, &zone, hour(26), hour(20), CatchUp::default()), Due::At(run) if run.at == hour(50))
    );
    assert_eq!(due(&Schedule::OnDemandOnly, &zone, hour(0), hour(9), CatchUp::default()), Due::Never);
}
