//! Snapshots, the vault, the archive, and the spread of backups over a window.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod common;

use std::collections::BTreeMap;

use common::{BEGIN, DAY, daily_at_two};
use proptest::prelude::*;
use vmkeep_model::{ByteLen, PointNumber, Timestamp};
use vmkeep_retention::{
    Archiving, CalendarRules, DayPick, Limits, MonthDays, MonthlyRule, NotEligible, Plan, Point, PointBytes,
    PointKind, Policy, Rehydration, RehydrationPriority, Retention, Span, SpreadVm, SpreadWarning,
    SpreadWindow, Tier, TierPrices, TimeOfDay, Vaulting, Zone, archive_eligibility, archive_moves,
    early_deletion_charge, expired_snapshots, plan_with, spread, vault_bound,
};

fn point(number: u64, hours: i64) -> Point {
    Point::scheduled(PointNumber(number), Timestamp(BEGIN + hours * 3_600_000))
}

fn numbers(points: Vec<PointNumber>) -> Vec<u64> {
    points.into_iter().map(|n| n.0).collect()
}

#[test]
fn the_newest_snapshot_outlives_its_days() {
    let mut points: Vec<Point> = (0..5).map(|n| point(n + 1, 24 * i64::try_from(n).unwrap())).collect();
    let at = |hours: i64| Timestamp(BEGIN + hours * 3_600_000);
    assert_eq!(numbers(expired_snapshots(&points, 2, &Zone::utc(), at(97))), [1, 2, 3]);
    assert_eq!(numbers(expired_snapshots(&points, 2, &Zone::utc(), at(1000))), [1, 2, 3, 4]);
    points[4].complete = false;
    assert_eq!(numbers(expired_snapshots(&points, 2, &Zone::utc(), at(1000))), [1, 2, 3, 5]);
}

#[test]
fn one_copy_a_day_is_the_last_or_else_the_next_first() {
    // Four runs on each of three days; the last of the first day fails, and the first of the second.
    let mut points: Vec<Point> = (0..12).map(|n| point(n + 1, 6 * i64::try_from(n).unwrap())).collect();
    (points[3].complete, points[4].complete) = (false, false);
    points[9].kind = PointKind::OnDemand;
    let bound = |vaulting, hours: i64| {
        numbers(vault_bound(&points, vaulting, &Zone::utc(), Timestamp(BEGIN + hours * 3_600_000)))
    };
    assert_eq!(bound(Vaulting::LastOfDay, 72), [6, 8, 10, 12]);
    // The third day is not over yet.
    assert_eq!(bound(Vaulting::LastOfDay, 71), [6, 8, 10]);
    assert_eq!(bound(Vaulting::EveryPoint, 0).len(), 10);
}

fn archived_plan(archive: Archiving, now_days: i64) -> Plan {
    let rules = CalendarRules {
        daily: Some(Span::days(30)),
        monthly: Some(MonthlyRule {
            on: DayPick::Days(MonthDays::new([1], false).unwrap()),
            keep: Span::months(24),
        }),
        ..CalendarRules::default()
    };
    let mut spec = common::policy("UTC", daily_at_two(), Retention::Calendar(rules)).into_spec();
    spec.archive = archive;
    let policy = Policy::new(spec, &Limits::default()).unwrap();
    let points: Vec<Point> = (0..400).map(|n| point(n + 1, 24 * i64::try_from(n).unwrap())).collect();
    plan_with(&points, &policy, Timestamp(BEGIN + now_days * DAY), &common::trusting()).unwrap()
}

#[test]
fn only_old_points_with_a_long_life_move() {
    let plan = archived_plan(Archiving::After(Span::months(4)), 400);
    let limits = Limits::default();
    let verdict = |index: usize| archive_eligibility(&plan, index, &limits);
    assert!(verdict(0).is_ok());
    assert_eq!(verdict(1), Err(NotEligible::Expires));
    assert_eq!(verdict(390), Err(NotEligible::NotLongTerm));
    // The first of January 2009, 34 days old.
    assert!(matches!(verdict(366), Err(NotEligible::TooYoung { .. })));
    let late = archived_plan(Archiving::After(Span::months(4)), 600);
    assert!(matches!(archive_eligibility(&late, 0, &limits), Err(NotEligible::TooShort { .. })));
    let prices = TierPrices { vault: 20, archive: 2, rehydration: 0, restores_per_thousand: 0 };
    let moves = archive_moves(&plan, &limits, &prices, |n| n == PointNumber(1), |_| None);
    assert!(moves.iter().all(|m| m.by_rule && m.number != PointNumber(1)));
    assert_eq!(moves.len(), 9); // February to October
}

#[test]
fn the_recommended_set_costs_less_there() {
    let plan = archived_plan(Archiving::Recommended, 400);
    let (limits, prices) = (
        Limits::default(),
        TierPrices { vault: 20_000, archive: 2000, rehydration: 0, restores_per_thousand: 0 },
    );
    let gib = |n: u64| ByteLen(n << 30);
    // A whole copy is paid for in the archive: it is worth it where a tenth of the point or more is its own.
    let bytes = |number: PointNumber| {
        Some(PointBytes { unique: if number.0 == 1 { gib(9) } else { gib(11) }, whole: gib(100) })
    };
    let moves = archive_moves(&plan, &limits, &prices, |_| false, bytes);
    assert!(
        !moves.is_empty() && moves.iter().all(|m| m.number != PointNumber(1) && m.go < m.stay && !m.by_rule)
    );
    let often = TierPrices { rehydration: 1_000_000, restores_per_thousand: 1000, ..prices };
    assert!(archive_moves(&plan, &limits, &often, |_| false, bytes).is_empty());
    assert!(
        archive_moves(&archived_plan(Archiving::Never, 400), &limits, &prices, |_| false, bytes).is_empty()
    );
    // Ninety of a hundred and eighty days are missing: three months of a hundred GiB.
    let charge =
        |days: i64| early_deletion_charge(Timestamp(0), Timestamp(days * DAY), gib(100), &limits, &prices);
    assert_eq!((charge(90), charge(180), charge(1000)), (3 * 100 * 2000, 0, 0));
    let copy = Rehydration::new(RehydrationPriority::High, Timestamp(0), 10).unwrap();
    assert_eq!(copy.tiers(Timestamp(10 * DAY - 1)), [Tier::Vault, Tier::Archive]);
    assert_eq!(copy.tiers(Timestamp(10 * DAY)), [Tier::Archive]);
    assert_eq!(Rehydration::new(RehydrationPriority::High, Timestamp(0), 31), None);
}

fn vms() -> impl Strategy<Value = Vec<SpreadVm>> {
    let vm = |(n, (minutes, target)): (usize, (u32, u8))| SpreadVm {
        id: format!("vm{n}"),
        minutes,
        target: format!("host{target}"),
    };
    prop::collection::vec((1u32..90, 0u8..4), 0..60)
        .prop_map(move |all| all.into_iter().enumerate().map(vm).collect())
}

proptest! {
    #[test]
    fn no_more_run_at_once_than_may(all in vms(), at_once in 1u32..8, per_target in 1u32..4, minutes in 30u32..900) {
        let window = SpreadWindow { start: TimeOfDay::new(22, 0).unwrap(), minutes, at_once, per_target };
        let found = spread(&all, &BTreeMap::new(), &window, &Limits::azure());
        prop_assert_eq!(found.starts.len() + found.without.len(), all.len());
        for minute in 0..minutes {
            let runs = |vm: &&SpreadVm| found.starts.get(&vm.id).is_some_and(|s| (*s..s + vm.minutes).contains(&minute));
            let running: Vec<&SpreadVm> = all.iter().filter(runs).collect();
            prop_assert!(running.len() <= at_once as usize);
            for host in 0..4 {
                let of_host = running.iter().filter(|vm| vm.target == format!("host{host}")).count();
                prop_assert!(of_host <= per_target as usize);
            }
        }
        prop_assert!(all.iter().all(|vm| found.starts.get(&vm.id).is_none_or(|s| s + vm.minutes <= minutes)));
    }

    #[test]
    fn a_new_vm_moves_no_other(all in vms(), at_once in 1u32..8) {
        prop_assume!(!all.is_empty());
        let window = SpreadWindow { start: TimeOfDay::new(22, 0).unwrap(), minutes: 480, at_once, per_target: 3 };
        let (before, limits) = (spread(&all[1..], &BTreeMap::new(), &window, &Limits::azure()), Limits::azure());
        let after = spread(&all, &before.starts, &window, &limits);
        for (vm, start) in &before.starts {
            prop_assert_eq!(after.starts.get(vm), Some(start));
        }
        prop_assert_eq!(spread(&all, &after.starts, &window, &limits).starts, after.starts);
    }
}

#[test]
fn guidance_is_given() {
    let all: Vec<SpreadVm> =
        (0..120).map(|n| SpreadVm { id: format!("vm{n}"), minutes: 60, target: "h".into() }).collect();
    let window =
        SpreadWindow { start: TimeOfDay::new(0, 0).unwrap(), minutes: 60, at_once: 30, per_target: 30 };
    let found = spread(&all, &BTreeMap::new(), &window, &Limits::azure());
    assert_eq!(
        found.warnings,
        [
            SpreadWarning::ManyVms { vms: 120, advised: 100 },
            SpreadWarning::MidnightPile { vms: 30 },
            SpreadWarning::NoRoom { vms: 90 },
        ]
    );
    assert_eq!(
        (found.peak, found.start_of(found.starts.keys().next().unwrap(), &window)),
        (30, TimeOfDay::new(0, 0))
    );
    let fewer = SpreadWindow { at_once: 20, ..window };
    assert!(
        spread(&all, &found.starts, &fewer, &Limits::azure())
            .warnings
            .contains(&SpreadWarning::Moved { vms: 10 })
    );
}
