//! What holds of every plan.

mod common;

use std::collections::BTreeSet;

use common::{BEGIN, YEARS, ZONES, calendar, daily_at_two, history, keep_rules, longer, policy, trusting};
use proptest::prelude::*;
use vmkeep_model::{PointNumber, Timestamp};
use vmkeep_retention::keep::{Bucket, Count, KeepMode};
use vmkeep_retention::{
    Decision, Immutability, Plan, PlanSettings, Point, PointKind, Policy, Retention, StateKind,
    diff_of_policies, kind_of_edit, plan, plan_with, weakenings,
};

fn any_policy() -> impl Strategy<Value = Policy> {
    let modes = prop::sample::select([KeepMode::Restic, KeepMode::Borg, KeepMode::Proxmox].as_slice());
    let retention = prop_oneof![
        calendar().prop_map(Retention::Calendar),
        modes.prop_flat_map(keep_rules).prop_map(Retention::Keep),
    ];
    (prop::sample::select(ZONES.as_slice()), retention)
        .prop_map(|(zone, retention)| policy(zone, daily_at_two(), retention))
}

fn instants() -> impl Strategy<Value = Timestamp> {
    (0..(YEARS + 12) * 365 * 24).prop_map(|hours| Timestamp(BEGIN + hours * 3_600_000))
}

fn kept(plan: &Plan) -> BTreeSet<PointNumber> {
    plan.verdicts().iter().filter(|v| v.decision == Decision::Keep).map(|v| v.number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn the_newest_point_stays(policy in any_policy(), points in history(24 * 3), now in instants()) {
        let plan = plan_with(&points, &policy, now, &trusting()).unwrap();
        if let Some(newest) = points.iter().filter(|p| p.complete).map(|p| p.number).max() {
            prop_assert!(kept(&plan).contains(&newest));
        }
        let zero = PlanSettings { to_zero: true, ..trusting() };
        let all = kept(&plan);
        let fewer = kept(&plan_with(&points, &policy, now, &zero).unwrap());
        prop_assert!(fewer.is_subset(&all) && all.len() - fewer.len() <= 1);
    }

    #[test]
    fn on_demand_held_and_immutable_points_are_never_early(
        policy in any_policy(), points in history(24 * 3), now in instants()
    ) {
        let plan = plan_with(&points, &policy, now, &PlanSettings { to_zero: true, ..trusting() }).unwrap();
        let kept = kept(&plan);
        for point in points.iter().filter(|p| !kept.contains(&p.number)) {
            prop_assert!(!point.held);
            prop_assert!(point.immutable_until.is_none_or(|until| until <= now));
            prop_assert!(point.expires.is_none_or(|until| until <= now));
            prop_assert!(point.kind != PointKind::OnDemand || point.expires.is_some());
        }
    }

    #[test]
    fn a_plan_does_not_depend_on_the_order_of_points(
        policy in any_policy(), (points, shuffled) in history(24 * 3).prop_flat_map(|p| (Just(p.clone()), Just(p).prop_shuffle())),
        now in instants(),
    ) {
        let once = plan(&points, &policy, now).unwrap();
        prop_assert_eq!(&once, &plan(&shuffled, &policy, now).unwrap());
        prop_assert_eq!(&once, &plan(&points, &policy, now).unwrap());
    }

    #[test]
    fn after_a_plan_was_applied_nothing_more_goes(policy in any_policy(), points in history(24 * 2), now in instants()) {
        let first = plan_with(&points, &policy, now, &trusting()).unwrap();
        let removal = first.confirm_against(&points, &policy, now, &trusting()).unwrap();
        prop_assert!(removal.spared.is_empty() && removal.gone.is_empty());
        let gone: BTreeSet<_> = removal.remove.into_iter().collect();
        let left: Vec<Point> = points.iter().filter(|p| !gone.contains(&p.number)).cloned().collect();
        let second = plan_with(&left, &policy, now, &trusting()).unwrap();
        prop_assert_eq!(second.expired().count(), 0, "{:?}", second.expired().next().map(|v| second.explain(v)));
    }

    #[test]
    fn what_a_calendar_keeps_a_longer_one_keeps(
        zone in prop::sample::select(ZONES.as_slice()),
        (short, long) in calendar().prop_flat_map(|rules| (Just(rules.clone()), longer(rules))),
        points in history(24 * 2),
        now in instants(),
    ) {
        let short = policy(zone, daily_at_two(), Retention::Calendar(short));
        let long = policy(zone, daily_at_two(), Retention::Calendar(long));
        prop_assert_eq!(weakenings(&short, &long), Vec::<String>::new());
        let less = kept(&plan_with(&points, &short, now, &trusting()).unwrap());
        let more = kept(&plan_with(&points, &long, now, &trusting()).unwrap());
        prop_assert!(less.is_subset(&more), "{:?}", less.difference(&more).collect::<Vec<_>>());
        // Nor does what is called no weakening take anything.
        prop_assert!(!weakenings(&long, &short).is_empty() || less == more);
    }

    #[test]
    fn an_edit_that_locked_immutability_allows_loses_no_point(
        zone in prop::sample::select(ZONES.as_slice()),
        (a, b, c) in calendar().prop_flat_map(|rules| (longer(rules.clone()), Just(rules), calendar())),
        points in history(24 * 2),
        now in instants(),
    ) {
        let policies = [a, b, c].map(|rules| policy(zone, daily_at_two(), Retention::Calendar(rules)));
        for old in &policies {
            for new in &policies {
                if Immutability::Locked.allows(kind_of_edit(old, new, false)).is_ok() {
                    let lost = diff_of_policies(&points, old, new, now, &trusting()).unwrap().lost;
                    prop_assert!(lost.is_empty(), "{:?}", lost);
                }
            }
        }
    }

    #[test]
    fn what_keep_rules_keep_longer_ones_keep(
        rules in keep_rules(KeepMode::Restic), by in prop::array::uniform6(0u32..3), points in history(24), now in instants(),
    ) {
        let mut long = rules.clone();
        for (bucket, by) in Bucket::ALL.into_iter().zip(by) {
            let count = match long.count(bucket) {
                Count::Off if by == 0 => Count::Off,
                Count::Off => Count::Most(by),
                Count::Most(n) => Count::Most(n + by),
                Count::All => Count::All,
            };
            long = long.with(bucket, count);
        }
        let short = policy("Europe/Berlin", daily_at_two(), Retention::Keep(rules));
        let long = policy("Europe/Berlin", daily_at_two(), Retention::Keep(long));
        prop_assert_eq!(weakenings(&short, &long), Vec::<String>::new());
        let less = kept(&plan_with(&points, &short, now, &trusting()).unwrap());
        let more = kept(&plan_with(&points, &long, now, &trusting()).unwrap());
        prop_assert!(less.is_subset(&more));
    }

    #[test]
    fn nothing_expires_where_protection_is_stopped(policy in any_policy(), points in history(24 * 4), now in instants()) {
        for state in [StateKind::StoppedRetain, StateKind::SoftDeleted] {
            let plan = plan_with(&points, &policy, now, &PlanSettings { state, ..trusting() }).unwrap();
            prop_assert_eq!(plan.expired().count(), 0);
        }
    }

    #[test]
    fn runs_cover_exactly_what_expires(policy in any_policy(), points in history(24 * 4), now in instants()) {
        let plan = plan_with(&points, &policy, now, &trusting()).unwrap();
        let (kept, mut covered) = (kept(&plan), 0);
        for run in plan.runs() {
            let inside = points.iter().filter(|p| (run.first..=run.last).contains(&p.number));
            prop_assert!(inside.clone().all(|p| !kept.contains(&p.number)));
            prop_assert_eq!(inside.count(), run.points);
            prop_assert_eq!(run.after, kept.range(..run.first).next_back().copied());
            prop_assert_eq!(run.before, kept.range(run.last..).next().copied());
            covered += run.points;
        }
        prop_assert_eq!(covered, plan.expired().count());
    }
}

#[test]
fn hostile_points_are_errors() {
    let policy = policy(
        "UTC",
        daily_at_two(),
        Retention::Keep(vmkeep_retention::keep::KeepRules::default().with(Bucket::Last, Count::Most(1))),
    );
    let at = |time| Point::scheduled(PointNumber(1), Timestamp(time));
    for time in [i64::MIN, -1, i64::MAX, vmkeep_retention::TIME_MAX.0 + 1] {
        assert!(plan(&[at(time)], &policy, Timestamp(0)).is_err(), "{time}");
        assert!(plan(&[], &policy, Timestamp(time)).is_err(), "{time}");
    }
    assert!(plan(&[at(5), at(9)], &policy, Timestamp(10)).is_err());
    assert!(plan(&[at(vmkeep_retention::TIME_MAX.0)], &policy, vmkeep_retention::TIME_MAX).is_ok());
}
