//! Planning a fleet: 10,000 VMs with 3,650 daily points each, VM by VM, and 10,000 VMs over three years of days.
//!
//! The points are those of ten years at 02:30 in Berlin, a backup in twenty failed; every VM has the same ones, so that the bench
//! measures planning and not the making of 36.5 million points. Rules: 30 days, 12 weeks, 24 months and 10 years by the calendar,
//! and the same as restic's `keep` rules. `cargo bench -p vmkeep-benches --bench retention` prints points per second and bytes of
//! a plan per point, then what criterion measures of one VM; with `-- --test` there are 10 VMs.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group};
use vmkeep::model::{PointNumber, Timestamp};
use vmkeep_retention::{Limits, Plan, PlanSettings, Point, Policy, PolicySpec, plan_with, runs};

const POINTS: usize = 3650;
/// 2016-01-01T00:00Z.
const BEGIN: i64 = 1_451_606_400_000;

const CALENDAR: &str = r#"
    zone = "Europe/Berlin"
    schedule.daily = { at = "02:30" }
    [retention]
    daily = "30 days"
    weekly = { days = ["Sunday"], keep = "12 weeks" }
    monthly = { weeks = ["Last"], days = ["Friday"], keep = "24 months" }
    yearly = { months = ["January"], days-of-month = [1], keep = "10 years" }
"#;

const KEEP: &str = r#"
    zone = "Europe/Berlin"
    schedule.daily = { at = "02:30" }
    keep = { last = 5, daily = 30, weekly = 12, monthly = 24, yearly = 10 }
"#;

fn policy(text: &str) -> Policy {
    let spec = PolicySpec::from_toml(text).expect("a policy");
    Policy::new(spec, &Limits::default()).expect("a policy that holds")
}

/// One in twenty is left out.
fn fails(seed: u64) -> bool {
    (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).is_multiple_of(20)
}

fn points(policy: &Policy) -> Vec<Point> {
    let made = runs(&policy.schedule, &policy.zone, Timestamp(BEGIN)).zip(0u64..).filter(|(_, n)| !fails(*n));
    let numbered = made.zip(1u64..).map(|((run, _), number)| Point::scheduled(PointNumber(number), run.at));
    numbered.take(POINTS).collect()
}

fn planned(points: &[Point], policy: &Policy) -> Plan {
    let now = points.last().map_or(Timestamp(BEGIN), |point| point.time);
    plan_with(points, policy, now, &PlanSettings::default()).expect("points that can be planned")
}

fn fleet(vms: usize) {
    for (name, text) in [("calendar", CALENDAR), ("keep", KEEP)] {
        let policy = policy(text);
        let points = points(&policy);
        let (begin, mut expired, mut bytes) = (Instant::now(), 0, 0);
        for _ in 0..vms {
            let plan = planned(black_box(&points), &policy);
            expired += plan.expired().count();
            bytes = plan.memory();
        }
        let seconds = begin.elapsed().as_secs_f64();
        let all = vms * points.len();
        println!(
            "{name:<9} {vms} VMs x {} points in {seconds:.2} s: {:.2} million points/s, {} bytes of plan per point, {expired} expire",
            points.len(),
            per_second(all, seconds) / 1e6,
            bytes / points.len(),
        );
    }
}

#[allow(clippy::cast_precision_loss)] // a rate to be read
fn per_second(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// Three years, a plan a day that is applied, of each VM.
fn three_years(vms: usize) {
    let policy = policy(CALENDAR);
    let days: Vec<Point> = points(&policy).into_iter().take(3 * 365).collect();
    let (begin, mut planned_points, mut kept) = (Instant::now(), 0, 0);
    for _ in 0..vms {
        let mut there: Vec<Point> = Vec::new();
        for point in &days {
            there.push(point.clone());
            let plan = planned(&there, &policy);
            planned_points += there.len();
            let mut verdicts = plan.verdicts().iter();
            there.retain(|_| verdicts.next().is_some_and(|v| v.decision == vmkeep_retention::Decision::Keep));
        }
        kept += there.len();
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "fleet     {vms} VMs over {} days in {seconds:.2} s: {} plans, {:.2} million points/s, {kept} points kept",
        days.len(),
        vms * days.len(),
        per_second(planned_points, seconds) / 1e6,
    );
}

fn one_vm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan");
    group.throughput(Throughput::Elements(POINTS as u64));
    for (name, text) in [("calendar", CALENDAR), ("keep", KEEP)] {
        let policy = policy(text);
        let points = points(&policy);
        group.bench_function(name, |bencher| bencher.iter(|| planned(black_box(&points), &policy)));
    }
    group.finish();
}

criterion_group!(benches, one_vm);

fn main() {
    let test = std::env::args().any(|argument| argument == "--test");
    let vms = if test { 10 } else { 10_000 };
    fleet(vms);
    three_years(vms);
    benches();
    Criterion::default().configure_from_args().final_summary();
}
