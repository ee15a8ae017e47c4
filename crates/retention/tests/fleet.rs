//! A fleet over three years: each day backups that now and then fail, each day a plan that is applied, a policy edit in between.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod common;

use std::collections::BTreeSet;

use common::{BEGIN, DAY, Random, ZONES, policy};
use vmkeep_model::{PointNumber, Timestamp};
use vmkeep_retention::{
    CalendarRules, DayPick, Decision, Month, MonthDays, MonthlyRule, PlanSettings, Point, Policy, Reason,
    Retention, RuleName, Schedule, Span, TimeOfDay, WeekOfMonth, Weekday, WeeklyRule, YearlyRule, plan_with,
    runs,
};

const VMS: u64 = 200;
const DAYS: i64 = 3 * 365;
/// On which the daily rule grows.
const EDIT: i64 = 400;

fn rules(days: u32) -> CalendarRules {
    let last = [WeekOfMonth::Last].into_iter().collect();
    CalendarRules {
        every: None,
        daily: Some(Span::days(days)),
        weekly: Some(WeeklyRule { days: [Weekday::Sunday].into_iter().collect(), keep: Span::weeks(8) }),
        monthly: Some(MonthlyRule {
            on: DayPick::Weekdays { weeks: last, days: [Weekday::Friday].into_iter().collect() },
            keep: Span::months(12),
        }),
        yearly: Some(YearlyRule {
            months: [Month::January].into_iter().collect(),
            on: DayPick::Days(MonthDays::new([1], false).unwrap()),
            keep: Span::years(10),
        }),
        late: true,
    }
}

fn policy_of(vm: u64, days: u32) -> Policy {
    let zone = ZONES[usize::try_from(vm).unwrap() % ZONES.len()];
    let hour = u8::try_from(vm % 24).unwrap();
    policy(zone, Schedule::Daily { at: TimeOfDay::new(hour, 30).unwrap() }, Retention::Calendar(rules(days)))
}

fn live(vm: u64) -> usize {
    let mut random = Random(vm);
    let policies = [policy_of(vm, 14), policy_of(vm, 30)];
    let mut points: Vec<Point> = Vec::new();
    let mut number = 0;
    let settings = PlanSettings { since: Some(Timestamp(BEGIN)), ..PlanSettings::default() };
    for run in runs(&policies[0].schedule, &policies[0].zone, Timestamp(BEGIN)) {
        let day = (run.at.0 - BEGIN) / DAY;
        if day >= DAYS {
            break;
        }
        let policy = &policies[usize::from(day >= EDIT)];
        if random.below(20) > 0 {
            number += 1;
            points.push(Point::scheduled(PointNumber(number), run.at));
        }
        // Plans are applied every third day, which must make no difference in the end.
        if day % 3 != 0 && day != DAYS - 1 {
            continue;
        }
        let plan = plan_with(&points, policy, run.at, &settings).unwrap();
        assert_eq!(plan.anomalies(), [], "vm {vm} on day {day}");
        let removal = plan.confirm_against(&points, policy, run.at, &settings).unwrap();
        let gone: BTreeSet<PointNumber> = removal.remove.into_iter().collect();
        points.retain(|point| !gone.contains(&point.number));
    }
    check(vm, &points, &policies[1], &settings);
    points.len()
}

fn check(vm: u64, points: &[Point], policy: &Policy, settings: &PlanSettings) {
    let now = points.last().unwrap().time;
    let plan = plan_with(points, policy, now, settings).unwrap();
    assert!(plan.verdicts().iter().all(|v| v.decision == Decision::Keep));
    let count = |rule| {
        let of_rule = |reason: &&Reason| {
            matches!(reason, Reason::Tag { rule: r, .. } if *r == rule) && reason.keeps(now)
        };
        plan.verdicts().iter().filter(|v| plan.reasons(v).iter().any(|r| of_rule(&r))).count()
    };
    // A failed day costs a daily point; its weekly, monthly and yearly tags went to the next one.
    assert!((20..=31).contains(&count(RuleName::Daily)), "vm {vm}: {} daily", count(RuleName::Daily));
    assert!((8..=9).contains(&count(RuleName::Weekly)), "vm {vm}: {} weekly", count(RuleName::Weekly));
    assert!((12..=13).contains(&count(RuleName::Monthly)), "vm {vm}: {} monthly", count(RuleName::Monthly));
    assert!((2..=3).contains(&count(RuleName::Yearly)), "vm {vm}: {} yearly", count(RuleName::Yearly));
}

#[test]
fn two_hundred_vms_over_three_years_keep_what_their_policies_say() {
    let kept: usize = (0..VMS).map(live).sum();
    assert!((VMS * 40..VMS * 56).contains(&(kept as u64)), "{kept}");
}
