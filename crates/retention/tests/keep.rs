//! `keep` rules against what the three programs document, and against models of them.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod common;

use std::collections::BTreeSet;

use common::{BEGIN, DAY, ZONES, history, keep_rules, policy, time_zone, trusting};
use jiff::Zoned;
use proptest::prelude::*;
use vmkeep_model::{PointNumber, Timestamp};
use vmkeep_retention::keep::{Bucket, Count, KeepMode, KeepRules, Within};
use vmkeep_retention::{Decision, Point, PointKind, Retention, Schedule, plan_with};

fn kept(zone: &str, rules: &KeepRules, points: &[Point], now: Timestamp) -> BTreeSet<u64> {
    let policy = policy(zone, Schedule::OnDemandOnly, Retention::Keep(rules.clone()));
    let plan = plan_with(points, &policy, now, &trusting()).unwrap();
    plan.verdicts().iter().filter(|v| v.decision == Decision::Keep).map(|v| v.number.0).collect()
}

/// Points at these local times of UTC, numbered from 1.
fn at(times: &[&str]) -> Vec<Point> {
    let point = |(n, time): (usize, &&str)| {
        let time = format!("{time}Z").parse::<jiff::Timestamp>().unwrap().as_millisecond();
        Point::scheduled(PointNumber(n as u64 + 1), Timestamp(time))
    };
    times.iter().enumerate().map(point).collect()
}

fn far() -> Timestamp {
    Timestamp(4_000_000_000_000)
}

fn label(bucket: Bucket, at: &Zoned, place: usize) -> String {
    match bucket {
        Bucket::Last => place.to_string(),
        Bucket::Hourly => at.strftime("%Y-%m-%d %H").to_string(),
        Bucket::Daily => at.strftime("%Y-%m-%d").to_string(),
        Bucket::Weekly => at.strftime("%G-%V").to_string(),
        Bucket::Monthly => at.strftime("%Y-%m").to_string(),
        Bucket::Yearly => at.strftime("%Y").to_string(),
    }
}

fn limit(count: Count) -> usize {
    match count {
        Count::Off => 0,
        Count::Most(n) => n as usize,
        Count::All => usize::MAX,
    }
}

/// restic in a few lines: per rule the newest of each of the newest periods, and the oldest of all while the rule has room.
fn restic(rules: &KeepRules, points: &[(u64, Zoned)]) -> BTreeSet<u64> {
    let mut keep = BTreeSet::new();
    for bucket in Bucket::ALL {
        let mut newest: Vec<(String, u64)> = Vec::new();
        for (place, (number, at)) in points.iter().enumerate() {
            let label = label(bucket, at, place);
            if newest.iter().all(|(l, _)| *l != label) {
                newest.push((label, *number));
            }
        }
        let limit = limit(rules.count(bucket));
        keep.extend(newest.iter().take(limit).map(|(_, number)| *number));
        keep.extend(points.last().filter(|_| newest.len() < limit).map(|(number, _)| *number));
    }
    keep
}

/// borg: the same, but what an earlier rule keeps does not count.
fn borg(rules: &KeepRules, points: &[(u64, Zoned)]) -> BTreeSet<u64> {
    let mut keep = BTreeSet::new();
    for bucket in Bucket::ALL {
        let mut labels = BTreeSet::new();
        let mut mine = BTreeSet::new();
        for (number, at) in points {
            let label = if bucket == Bucket::Last { at.to_string() } else { label(bucket, at, 0) };
            if mine.len() < limit(rules.count(bucket)) && labels.insert(label) && !keep.contains(number) {
                mine.insert(*number);
            }
        }
        let room = mine.len() < limit(rules.count(bucket));
        keep.extend(mine);
        keep.extend(points.last().filter(|_| room).map(|(number, _)| *number));
    }
    keep
}

/// Proxmox: periods in which a point is kept already do not count, and what was passed over is out.
fn proxmox(rules: &KeepRules, points: &[(u64, Zoned)]) -> BTreeSet<u64> {
    let (mut keep, mut out) = (BTreeSet::new(), BTreeSet::new());
    for bucket in Bucket::ALL {
        let label = |place: usize| label(bucket, &points[place].1, place);
        let done: BTreeSet<String> =
            (0..points.len()).filter(|p| keep.contains(&points[*p].0)).map(label).collect();
        let mut mine = BTreeSet::new();
        for (place, (number, _)) in points.iter().enumerate() {
            if keep.contains(number) || out.contains(number) || done.contains(&label(place)) {
                continue;
            }
            if mine.contains(&label(place)) {
                out.insert(*number);
            } else if mine.len() < limit(rules.count(bucket)) {
                mine.insert(label(place));
                keep.insert(*number);
            } else {
                break;
            }
        }
    }
    keep
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn each_mode_agrees_with_its_model(
        zone in prop::sample::select(ZONES.as_slice()),
        (mode, rules) in prop::sample::select([KeepMode::Restic, KeepMode::Borg, KeepMode::Proxmox].as_slice())
            .prop_flat_map(|mode| (Just(mode), keep_rules(mode))),
        points in prop_oneof![history(24), history(3)],
    ) {
        let points: Vec<Point> = points.into_iter().take(400)
            .filter(|p| p.complete && p.kind != PointKind::OnDemand)
            .map(|p| Point { held: false, immutable_until: None, expires: None, ..p })
            .collect();
        let policy = policy(zone, Schedule::OnDemandOnly, Retention::Keep(rules.clone()));
        let tz = time_zone(&policy.zone);
        let local = |p: &Point| jiff::Timestamp::from_millisecond(p.time.0).unwrap().to_zoned(tz.clone());
        let newest_first: Vec<(u64, Zoned)> = points.iter().rev().map(|p| (p.number.0, local(p))).collect();
        let mut expected = match mode {
            KeepMode::Restic => restic(&rules, &newest_first),
            KeepMode::Borg => borg(&rules, &newest_first),
            KeepMode::Proxmox => proxmox(&rules, &newest_first),
        };
        expected.extend(newest_first.first().map(|(number, _)| *number));
        prop_assert_eq!(kept(zone, &rules, &points, far()), expected);
    }
}

#[test]
fn daily_counts_days_that_have_points_and_the_oldest_fills_up() {
    // A backup each Sunday: four daily points are the last four Sundays.
    let sundays: Vec<Point> = (0..12)
        .map(|week| {
            Point::scheduled(
                PointNumber(week + 1),
                Timestamp(BEGIN + (5 + 7 * i64::try_from(week).unwrap()) * DAY),
            )
        })
        .collect();
    let four = KeepRules::default().with(Bucket::Daily, Count::Most(4));
    assert_eq!(kept("UTC", &four, &sundays, far()), [9, 10, 11, 12].into());
    // Fewer months than may be kept: the oldest stays too.
    let months = KeepRules::default().with(Bucket::Monthly, Count::Most(12));
    assert_eq!(kept("UTC", &months, &sundays, far()), [1, 4, 8, 12].into());
}

#[test]
fn within_counts_back_from_the_newest_point_that_is_not_in_the_future() {
    let points = at(&[
        "2026-05-01T08:00",
        "2026-05-02T08:00",
        "2026-05-02T11:00",
        "2026-05-04T09:00",
        "2026-05-05T10:00",
    ]);
    let days = |days| Within { days, ..Within::default() };
    let all = KeepRules::default().with_within(Bucket::Last, days(3));
    assert_eq!(kept("UTC", &all, &points, far()), [3, 4, 5].into());
    let daily = KeepRules::default().with_within(Bucket::Daily, days(4));
    assert_eq!(kept("UTC", &daily, &points, far()), [3, 4, 5].into());
    // At noon of the second, the points after that do not count as newest.
    let noon = Timestamp(points[2].time.0 + 3_600_000);
    assert_eq!(
        kept("UTC", &KeepRules::default().with_within(Bucket::Last, days(1)), &points, noon),
        [2, 3, 4, 5].into()
    );
    // borg counts back from now.
    let borg = KeepRules::of(KeepMode::Borg).with_within(Bucket::Last, days(1));
    assert_eq!(kept("UTC", &borg, &points, far()), [5].into());
}

#[test]
fn the_modes_differ_as_documented() {
    let points = at(&[
        "2026-01-01T10:00",
        "2026-01-02T10:00",
        "2026-01-03T10:00",
        "2026-01-04T10:00",
        "2026-01-05T10:00",
    ]);
    let rules =
        |mode| KeepRules::of(mode).with(Bucket::Last, Count::Most(2)).with(Bucket::Daily, Count::Most(2));
    // restic's rules keep the same two; the others count on.
    assert_eq!(kept("UTC", &rules(KeepMode::Restic), &points, far()), [4, 5].into());
    assert_eq!(kept("UTC", &rules(KeepMode::Borg), &points, far()), [2, 3, 4, 5].into());
    assert_eq!(kept("UTC", &rules(KeepMode::Proxmox), &points, far()), [2, 3, 4, 5].into());
}

#[test]
fn tags_keep_and_on_demand_points_do_not_count() {
    let mut points = at(&["2026-01-01T10:00", "2026-01-02T10:00", "2026-01-03T10:00", "2026-01-04T10:00"]);
    points[0].tags = vec!["a".into(), "b".into()];
    points[1].tags = vec!["a".into()];
    points[3].kind = PointKind::OnDemand;
    points[3].expires = Some(Timestamp(far().0 - 1));
    let mut rules = KeepRules::default().with(Bucket::Last, Count::Most(1));
    rules.tags = vec![vec!["a".into(), "b".into()]];
    // The one on demand is over, and newest.
    assert_eq!(kept("UTC", &rules, &points, far()), [1, 3, 4].into());
    assert!(
        "1y1y".parse::<Within>().is_err() && "5".parse::<Within>().is_err() && "".parse::<Within>().is_err()
    );
    assert_eq!("2y5m7d3h".parse::<Within>().unwrap().to_string(), "2y5m7d3h");
}
