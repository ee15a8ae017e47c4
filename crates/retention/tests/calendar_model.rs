//! The planner against a model that walks every day of the history, and of the nine years before, which hold every day of the
//! year, with another library's idea of dates and zones.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod common;

use std::collections::BTreeMap;

use common::{BEGIN, DAY, YEARS, ZONES, calendar, daily_at_two, history, policy, time_zone, trusting};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use proptest::prelude::*;
use vmkeep_model::{PointNumber, Timestamp};
use vmkeep_retention::{
    CalendarRules, DayPick, Decision, Month, Point, PointKind, Reason, Retention, RuleName, Span, SpanUnit,
    WeekOfMonth, Weekday, plan_with,
};

fn local(at: Timestamp, zone: &TimeZone) -> Zoned {
    jiff::Timestamp::from_millisecond(at.0).unwrap().to_zoned(zone.clone())
}

fn weekday(day: Weekday) -> jiff::civil::Weekday {
    jiff::civil::Weekday::from_monday_zero_offset(i8::try_from(day as u8).unwrap()).unwrap()
}

fn picks(on: DayPick, date: Date) -> bool {
    match on {
        DayPick::Days(days) => {
            days.days().any(|d| i8::try_from(d).unwrap() == date.day())
                || (days.last() && date.day() == date.days_in_month())
        }
        DayPick::Weekdays { weeks, days } => weeks.iter().any(|week| {
            let nth = match week {
                WeekOfMonth::Last => -1,
                other => i8::try_from(other as u8).unwrap() + 1,
            };
            days.iter().any(|day| date.nth_weekday_of_month(nth, weekday(day)).unwrap() == date)
        }),
    }
}

type TaggedDays = Box<dyn Fn(Date) -> bool>;

fn rules_of(rules: &CalendarRules) -> Vec<(RuleName, Span, TaggedDays)> {
    let mut all: Vec<(RuleName, Span, TaggedDays)> = Vec::new();
    if let Some(keep) = rules.daily {
        all.push((RuleName::Daily, keep, Box::new(|_| true)));
    }
    if let Some(rule) = rules.weekly {
        let is = move |date: Date| rule.days.iter().any(|d| weekday(d) == date.weekday());
        all.push((RuleName::Weekly, rule.keep, Box::new(is)));
    }
    if let Some(rule) = rules.monthly {
        all.push((RuleName::Monthly, rule.keep, Box::new(move |date| picks(rule.on, date))));
    }
    if let Some(rule) = rules.yearly {
        let named =
            move |date: Date| rule.months.contains(Month::ALL[usize::try_from(date.month() - 1).unwrap()]);
        all.push((RuleName::Yearly, rule.keep, Box::new(move |date| named(date) && picks(rule.on, date))));
    }
    all
}

fn later(at: &Zoned, span: Span) -> Timestamp {
    let count = i64::from(span.count);
    let span = match span.unit {
        SpanUnit::Days => count.days(),
        SpanUnit::Weeks => count.weeks(),
        SpanUnit::Months => count.months(),
        SpanUnit::Years => count.years(),
    };
    Timestamp(at.checked_add(span).unwrap().timestamp().as_millisecond())
}

/// Which tags each point has, until when.
fn model(
    points: &[Point],
    rules: &CalendarRules,
    zone: &TimeZone,
) -> BTreeMap<PointNumber, Vec<(RuleName, bool, Timestamp)>> {
    let mut by_day: BTreeMap<Date, Vec<(Zoned, PointNumber)>> = BTreeMap::new();
    let mut tags: BTreeMap<PointNumber, Vec<(RuleName, bool, Timestamp)>> = BTreeMap::new();
    for point in points.iter().filter(|p| p.complete && p.kind != PointKind::OnDemand) {
        let at = local(point.time, zone);
        by_day.entry(at.date()).or_default().push((at, point.number));
        tags.insert(point.number, Vec::new());
    }
    for (rule, keep, is_tagged) in rules_of(rules) {
        let mut missed = None;
        let mut date = local(Timestamp(BEGIN - 9 * 366 * DAY), zone).date();
        let end = local(Timestamp(BEGIN + (YEARS * 366 + 2) * DAY), zone).date();
        while date <= end {
            if is_tagged(date) {
                missed = Some(date);
            }
            if let Some((at, number)) = by_day.get(&date).and_then(|day| day.last())
                && let Some(slot) = missed.take().filter(|slot| *slot == date || rules.late)
            {
                tags.get_mut(number).unwrap().push((rule, slot != date, later(at, keep)));
            }
            date = date.tomorrow().unwrap();
        }
    }
    for (at, number) in by_day.values().flatten() {
        let tags = tags.get_mut(number).unwrap();
        if rules.every.is_some() || tags.is_empty() {
            tags.push((RuleName::Every, false, later(at, rules.every.unwrap_or(Span::days(1)))));
        }
    }
    tags
}

fn agree(zone: &str, rules: &CalendarRules, points: &[Point], now: Timestamp) -> Result<(), TestCaseError> {
    let policy = policy(zone, daily_at_two(), Retention::Calendar(rules.clone()));
    let plan = plan_with(points, &policy, now, &trusting()).unwrap();
    let expected = model(points, rules, &time_zone(&policy.zone));
    let by_number: BTreeMap<PointNumber, &Point> = points.iter().map(|p| (p.number, p)).collect();
    let newest = points.iter().filter(|p| p.complete).map(|p| p.number).max();
    prop_assert_eq!(plan.verdicts().len(), points.len());
    for verdict in plan.verdicts() {
        let mut found: Vec<(RuleName, bool, Timestamp)> = Vec::new();
        for reason in plan.reasons(verdict) {
            if let Reason::Tag { rule, late, until, .. } = reason {
                found.push((*rule, *late, *until));
            }
        }
        found.sort_unstable();
        let mut tags = expected.get(&verdict.number).cloned().unwrap_or_default();
        tags.sort_unstable();
        prop_assert_eq!(&found, &tags, "point {} of {}", verdict.number, verdict.time);
        let point = by_number[&verdict.number];
        let stays = tags.iter().any(|(.., until)| *until > now)
            || point.held
            || point.immutable_until.is_some_and(|until| until > now)
            || point.expires.is_some_and(|until| until > now)
            || (point.kind == PointKind::OnDemand && point.expires.is_none())
            || Some(point.number) == newest;
        prop_assert_eq!(verdict.decision == Decision::Keep, stays, "{:?}", plan.explain(verdict));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_planner_agrees_with_a_walk_over_every_day(
        zone in prop::sample::select(ZONES.as_slice()),
        rules in calendar(),
        points in prop_oneof![history(24), history(24), history(24 * 5), history(6)],
        after in 0..(YEARS + 4) * 365,
    ) {
        agree(zone, &rules, &points, Timestamp(BEGIN + after * DAY))?;
    }
}

#[test]
fn every_zone_agrees_over_ten_whole_years_with_a_failure_now_and_then() {
    let rules = CalendarRules {
        every: None,
        daily: Some(Span::days(30)),
        weekly: Some(vmkeep_retention::WeeklyRule {
            days: [Weekday::Sunday].into_iter().collect(),
            keep: Span::weeks(12),
        }),
        monthly: Some(vmkeep_retention::MonthlyRule {
            on: DayPick::Weekdays {
                weeks: [WeekOfMonth::Last].into_iter().collect(),
                days: [Weekday::Friday].into_iter().collect(),
            },
            keep: Span::months(24),
        }),
        yearly: Some(vmkeep_retention::YearlyRule {
            months: [Month::February].into_iter().collect(),
            on: DayPick::Days(vmkeep_retention::MonthDays::new([29], false).unwrap()),
            keep: Span::years(10),
        }),
        late: true,
    };
    for zone in ZONES {
        let mut random = common::Random(7);
        let at = |day: i64| Timestamp(BEGIN + day * DAY + 2 * 3_600_000 + 1_800_000);
        let days = (0..YEARS * 365 + 3).filter(|_| random.below(10) > 0);
        let points: Vec<Point> =
            days.enumerate().map(|(n, day)| Point::scheduled(PointNumber(n as u64 + 1), at(day))).collect();
        agree(zone, &rules, &points, at(YEARS * 365 + 3)).unwrap();
    }
}
