//! Made-up times remove nothing, and a plan is checked again when it is applied.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod common;

use common::{BEGIN, DAY, daily_at_two, policy};
use vmkeep_model::{ByteLen, PointNumber, Timestamp};
use vmkeep_retention::{
    Anomaly, ApplyError, CalendarRules, Decision, MonthDays, MonthlyRule, Plan, PlanSettings, Point, Policy,
    Retention, Span, StateKind, diff_of_policies, plan, plan_with,
};

fn thirty_days() -> Policy {
    policy(
        "Europe/Berlin",
        daily_at_two(),
        Retention::Calendar(CalendarRules { daily: Some(Span::days(30)), ..CalendarRules::default() }),
    )
}

/// A point a day at 01:30 UTC, numbered from 1.
fn days(count: u64) -> Vec<Point> {
    let day = |n: u64| Timestamp(BEGIN + i64::try_from(n).unwrap() * DAY + 5_400_000);
    (0..count)
        .map(|n| Point { unique: Some(ByteLen(10)), ..Point::scheduled(PointNumber(n + 1), day(n)) })
        .collect()
}

fn at(day: i64) -> Timestamp {
    Timestamp(BEGIN + day * DAY + 2 * 5_400_000)
}

fn expired(plan: &Plan) -> Vec<u64> {
    plan.expired().map(|v| v.number.0).collect()
}

#[test]
fn a_plan_says_what_goes_and_why() {
    let plan = plan(&days(40), &thirty_days(), at(39)).unwrap();
    assert_eq!(expired(&plan), (1..=10).collect::<Vec<_>>());
    assert_eq!(plan.freed_at_least(), Some(ByteLen(100)));
    let [first, .., last] = plan.verdicts() else { panic!() };
    assert_eq!(plan.explain(first), ["daily rule: kept for 30 days, that ended 2008-01-31 02:30 +01:00"]);
    assert_eq!(plan.explain(last), ["daily rule: kept for 30 days, until 2008-03-10 02:30 +01:00"]);
    let run = plan.runs()[0];
    assert_eq!(
        (run.after, run.first.0, run.last.0, run.points, run.before),
        (None, 1, 10, 10, Some(PointNumber(11)))
    );
}

#[test]
fn more_points_than_the_schedule_makes_remove_nothing() {
    let mut points = days(40);
    // Somebody adds three points to a day on which there is one.
    let day = points[20].time.0;
    points.extend((0..3).map(|n| {
        Point::scheduled(PointNumber(41 + n), Timestamp(day + 60_000 * (i64::try_from(n).unwrap() + 1)))
    }));
    let plan = plan(&points, &thirty_days(), at(39)).unwrap();
    assert!(expired(&plan).is_empty());
    assert!(
        plan.anomalies().iter().any(|a| matches!(a, Anomaly::TooMany { found: 4, allowed: 2, days: 1, .. }))
    );
    // Their numbers come after points that are later, which is strange as well.
    assert!(
        plan.anomalies()
            .iter()
            .any(|a| matches!(a, Anomaly::Backwards { number: PointNumber(41), points: 3, .. }))
    );
    assert!(plan.explain(&plan.verdicts()[0])[0].contains("see the warnings"));
    assert!(
        plan.anomalies()[0]
            .to_string()
            .contains("4 scheduled points on 2008-01-21 where the schedule makes at most 2")
    );
    // Somebody has looked at them.
    let looked = PlanSettings { trusted_up_to: Some(PointNumber(43)), ..PlanSettings::default() };
    let plan = plan_with(&points, &thirty_days(), at(39), &looked).unwrap();
    // The first ten days, and of that day all but the last.
    assert_eq!(plan.expired().count(), 13);
    // Looked at all but the last.
    let some = PlanSettings { trusted_up_to: Some(PointNumber(42)), ..PlanSettings::default() };
    assert!(expired(&plan_with(&points, &thirty_days(), at(39), &some).unwrap()).is_empty());
}

#[test]
fn points_of_another_schedule_are_held_against_no_schedule_but_a_bound() {
    let hour = |n: u64| Timestamp(BEGIN + i64::try_from(n).unwrap() * 3_600_000 * 4);
    let of = |version| {
        move |n| Point { policy_version: Some(version), ..Point::scheduled(PointNumber(n + 1), hour(n)) }
    };
    let points: Vec<Point> = (0..240).map(of(1)).collect();
    let settings = |version| PlanSettings {
        policy_version: Some(version),
        backups_per_day_max: 9,
        ..PlanSettings::default()
    };
    assert!(!plan_with(&points, &thirty_days(), at(40), &settings(1)).unwrap().anomalies().is_empty());
    let later = plan_with(&points, &thirty_days(), at(40), &settings(2)).unwrap();
    assert!(later.anomalies().is_empty() && later.expired().count() > 0);
    let bound = PlanSettings { backups_per_day_max: 5, ..settings(2) };
    assert!(!plan_with(&points, &thirty_days(), at(40), &bound).unwrap().anomalies().is_empty());
}

#[test]
fn clocks_that_leap_remove_nothing() {
    let points = days(40);
    // The host believes it is two years later.
    let plan_ahead = plan(&points, &thirty_days(), at(39 + 730)).unwrap();
    assert!(expired(&plan_ahead).is_empty());
    assert!(matches!(plan_ahead.anomalies(), [Anomaly::Leap { .. }]));
    // Even when it has made a point since.
    let mut ahead = points.clone();
    ahead.push(Point::scheduled(PointNumber(41), at(39 + 729)));
    assert!(expired(&plan(&ahead, &thirty_days(), at(39 + 730)).unwrap()).is_empty());
    // And back again: that point is from the future.
    let back = plan(&ahead, &thirty_days(), at(40)).unwrap();
    assert!(expired(&back).is_empty());
    assert!(back.anomalies().iter().any(|a| matches!(a, Anomaly::Future { number: PointNumber(41), .. })));
    // A VM that is gone may have been for long; its newest point stays.
    let gone = PlanSettings { state: StateKind::VmGone, ..PlanSettings::default() };
    assert_eq!(plan_with(&points, &thirty_days(), at(39 + 730), &gone).unwrap().expired().count(), 39);
}

#[test]
fn applying_checks_again() {
    let (points, policy) = (days(40), thirty_days());
    let settings = PlanSettings::default();
    let planned = plan(&points, &policy, at(39)).unwrap();
    let mut now = points.clone();
    now[3].held = true;
    now.remove(0);
    now.push(Point::scheduled(PointNumber(41), at(39)));
    let removal = planned.confirm_against(&now, &policy, at(40), &settings).unwrap();
    // Point 11's time has come too by now, but the plan did not say so.
    assert_eq!(removal.remove.iter().map(|n| n.0).collect::<Vec<_>>(), [2, 3, 5, 6, 7, 8, 9, 10]);
    assert_eq!(
        (removal.spared[0].number, removal.gone.as_slice()),
        (PointNumber(4), [PointNumber(1)].as_slice())
    );
    assert!(removal.spared[0].why.contains("held"));
    assert!(matches!(
        planned.confirm_against(&points, &policy, at(38), &settings),
        Err(ApplyError::ClockWentBack { .. })
    ));
    let other = common::policy("UTC", daily_at_two(), policy.retention.clone());
    assert_eq!(planned.confirm_against(&points, &other, at(40), &settings), Err(ApplyError::PolicyChanged));
    let stopped = PlanSettings { state: StateKind::StoppedRetain, ..settings };
    assert!(planned.confirm_against(&points, &policy, at(40), &stopped).unwrap().remove.is_empty());
}

#[test]
fn an_edit_shows_what_it_would_do() {
    let points = days(40);
    let old = thirty_days();
    let new = policy(
        "Europe/Berlin",
        daily_at_two(),
        Retention::Calendar(CalendarRules {
            daily: Some(Span::days(10)),
            monthly: Some(MonthlyRule {
                on: vmkeep_retention::DayPick::Days(MonthDays::new([1], false).unwrap()),
                keep: Span::months(6),
            }),
            ..CalendarRules::default()
        }),
    );
    let diff = diff_of_policies(&points, &old, &new, at(39), &PlanSettings::default()).unwrap();
    // Days 1 to 10 are gone either way but for the first of January, which is saved; of 11 to 30, February's first stays.
    assert_eq!(diff.saved.iter().map(|c| c.number.0).collect::<Vec<_>>(), [1]);
    assert_eq!(diff.lost.iter().map(|c| c.number.0).collect::<Vec<_>>(), (11..=30).collect::<Vec<_>>());
    assert_eq!(diff.later.iter().map(|c| c.number.0).collect::<Vec<_>>(), [32]);
    assert_eq!(diff.sooner.len(), 9);
    assert_eq!(diff.lost_bytes_at_least, Some(ByteLen(200)));
    assert_eq!(diff.weakenings, ["the daily rule keeps 10 days in place of 30 days"]);
    assert!(diff.lost[0].before.contains("until") && diff.lost[0].after.contains("that ended"));
    let same = diff_of_policies(&points, &old, &old, at(39), &PlanSettings::default()).unwrap();
    assert!(same.lost.is_empty() && same.weakenings.is_empty() && same.unchanged == 40);
}

#[test]
fn a_tagged_day_before_protection_was_not_missed() {
    let rules = CalendarRules {
        monthly: Some(MonthlyRule {
            on: vmkeep_retention::DayPick::Days(MonthDays::new([1], false).unwrap()),
            keep: Span::months(6),
        }),
        late: true,
        ..CalendarRules::default()
    };
    let policy = policy("UTC", daily_at_two(), Retention::Calendar(rules));
    let points: Vec<Point> = days(20).split_off(9);
    let tagged = |since| {
        let settings = PlanSettings { since, ..PlanSettings::default() };
        let plan = plan_with(&points, &policy, at(19), &settings).unwrap();
        plan.verdicts()[0].decision == Decision::Keep
    };
    assert!(tagged(None) && tagged(Some(at(-30))));
    assert!(!tagged(Some(at(8))));
}
