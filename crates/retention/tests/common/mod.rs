//! Random policies and histories.
#![allow(dead_code)] // each test uses some of it

use jiff::tz::TimeZone;
use proptest::prelude::*;
use vmkeep_model::{PointNumber, Timestamp};
use vmkeep_retention::keep::{Bucket, Count, KeepMode, KeepRules};
use vmkeep_retention::{
    Archiving, CalendarRules, DayPick, Limits, Month, MonthDays, MonthlyRule, PlanSettings, Point, PointKind,
    Policy, PolicyKind, PolicySpec, Retention, Schedule, Span, SpanUnit, TimeOfDay, Vaulting, WeekOfMonth,
    Weekday, WeeklyRule, YearlyRule, Zone,
};

pub(crate) const ZONES: [&str; 10] = [
    "UTC",
    "Europe/Berlin",
    "America/Los_Angeles",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Europe/Dublin",
    "Africa/Casablanca",
    "Asia/Kathmandu",
];

/// 2008-01-01, so that ten years hold the day that Apia left out, and three leap days.
pub(crate) const BEGIN: i64 = 1_199_145_600_000;
pub(crate) const DAY: i64 = 86_400_000;
pub(crate) const YEARS: i64 = 10;

pub(crate) fn time_zone(zone: &Zone) -> TimeZone {
    TimeZone::get(zone.iana()).expect("jiff knows it")
}

pub(crate) fn policy(zone: &str, schedule: Schedule, retention: Retention) -> Policy {
    let spec = PolicySpec {
        zone: Zone::named(zone).expect("a zone"),
        schedule,
        retention,
        vaulting: Vaulting::EveryPoint,
        snapshot_days: None,
        archive: Archiving::Never,
        kind: PolicyKind::Enhanced,
    };
    let limits = Limits { points: u32::MAX, ..Limits::default() };
    Policy::new(spec, &limits).expect("a policy that holds")
}

/// Clocks are right here, and nobody makes times up.
pub(crate) fn trusting() -> PlanSettings {
    PlanSettings { trusted_up_to: Some(PointNumber(u64::MAX)), ..PlanSettings::default() }
}

fn some_of<T: Copy + std::fmt::Debug + 'static, S: FromIterator<T> + std::fmt::Debug>(
    all: &'static [T],
) -> impl Strategy<Value = S> {
    prop::sample::subsequence(all, 1..=all.len()).prop_map(|some| some.into_iter().collect())
}

pub(crate) fn pick() -> impl Strategy<Value = DayPick> {
    let days = (prop::collection::vec(1u8..=28, 1..4), any::<bool>())
        .prop_map(|(days, last)| DayPick::Days(MonthDays::new(days, last).expect("days of a month")));
    // The thirty-first and the like; yearly rules need a month that has them.
    let high = (29u8..=31).prop_map(|day| DayPick::Days(MonthDays::new([day], false).expect("a day")));
    let weeks = (some_of(WeekOfMonth::ALL), some_of(Weekday::ALL))
        .prop_map(|(weeks, days)| DayPick::Weekdays { weeks, days });
    prop_oneof![4 => days, 1 => high, 4 => weeks]
}

fn span(days: u32) -> impl Strategy<Value = Span> {
    prop_oneof![
        (1..=days).prop_map(Span::days),
        (1..=days.div_ceil(7)).prop_map(Span::weeks),
        (1..=days.div_ceil(30)).prop_map(Span::months),
        (1..=days.div_ceil(365)).prop_map(Span::years),
    ]
}

pub(crate) fn calendar() -> impl Strategy<Value = CalendarRules> {
    let weekly = (some_of(Weekday::ALL), span(400)).prop_map(|(days, keep)| WeeklyRule { days, keep });
    let monthly = (pick(), span(2000)).prop_map(|(on, keep)| MonthlyRule { on, keep });
    let months = some_of(Month::ALL);
    let yearly = (months, pick(), span(3000)).prop_map(|(months, on, keep)| YearlyRule { months, on, keep });
    let possible = |rule: &YearlyRule| match &rule.on {
        DayPick::Days(days) if days.days().all(|d| d > 28) && !days.last() => {
            rule.months.contains(Month::January)
        }
        _ => true,
    };
    let yearly = yearly.prop_filter("a day that is there", possible);
    (
        prop::option::weighted(0.3, (1u32..20).prop_map(Span::days)),
        prop::option::weighted(0.7, span(60)),
        prop::option::weighted(0.6, weekly),
        prop::option::weighted(0.6, monthly),
        prop::option::weighted(0.5, yearly),
        any::<bool>(),
    )
        .prop_filter("some rule", |(every, d, w, m, y, _)| {
            every.is_some() || d.is_some() || w.is_some() || m.is_some() || y.is_some()
        })
        .prop_map(|(every, daily, weekly, monthly, yearly, late)| CalendarRules {
            every,
            daily,
            weekly,
            monthly,
            yearly,
            late,
        })
}

/// The same rules, none of them weaker.
pub(crate) fn longer(rules: CalendarRules) -> impl Strategy<Value = CalendarRules> {
    let more = |span: Span, by: u32| match span.unit {
        SpanUnit::Years => Span::months(span.count * 12 + by),
        _ => Span { count: span.count + by, ..span },
    };
    (prop::array::uniform5(0u32..3), some_of(Weekday::ALL), some_of(Month::ALL), calendar()).prop_map(
        move |(by, days, months, others): (
            _,
            vmkeep_retention::WeekdaySet,
            vmkeep_retention::MonthSet,
            _,
        )| {
            CalendarRules {
                every: rules.every.map(|s| more(s, by[0])).or(others.every),
                daily: rules.daily.map(|s| more(s, by[1])).or(others.daily),
                weekly: rules.weekly.map_or(others.weekly, |r| {
                    let days = r.days.iter().chain(days.iter()).collect();
                    Some(WeeklyRule { days, keep: more(r.keep, by[2]) })
                }),
                monthly: rules
                    .monthly
                    .map_or(others.monthly, |r| Some(MonthlyRule { keep: more(r.keep, by[3]), ..r })),
                yearly: rules.yearly.map_or(others.yearly, |r| {
                    let months = r.months.iter().chain(months.iter()).collect();
                    Some(YearlyRule { months, keep: more(r.keep, by[4]), ..r })
                }),
                late: rules.late || others.late,
            }
        },
    )
}

pub(crate) fn keep_rules(mode: KeepMode) -> impl Strategy<Value = KeepRules> {
    let count =
        prop_oneof![3 => Just(Count::Off), 5 => (1u32..12).prop_map(Count::Most), 1 => Just(Count::All)];
    prop::array::uniform6(count).prop_filter("some rule", |c| c.iter().any(|c| *c != Count::Off)).prop_map(
        move |counts| {
            let rules = KeepRules::of(mode);
            Bucket::ALL.iter().zip(counts).fold(rules, |rules, (bucket, count)| rules.with(*bucket, count))
        },
    )
}

pub(crate) fn daily_at_two() -> Schedule {
    Schedule::Daily { at: TimeOfDay::new(2, 30).expect("a time") }
}

/// Points of some of the years from [`BEGIN`] on: about one every `every` hours, some missing, some of other kinds.
pub(crate) fn history(every: i64) -> impl Strategy<Value = Vec<Point>> {
    let length = usize::try_from(YEARS * 365 * 24 / every).expect("small");
    let stretch = (0..length, 1..length / 2, 0u8..=100, 0..24 * 60i64);
    (prop::collection::vec(stretch, 1..4), any::<u64>()).prop_map(move |(stretches, seed)| {
        let mut random = Random(seed);
        let mut times = std::collections::BTreeSet::new();
        for (from, count, share, minute) in stretches {
            for slot in from..(from + count).min(length) {
                if random.below(100) < u64::from(share) {
                    let jitter = i64::try_from(random.below(120)).expect("small");
                    let at = BEGIN
                        + i64::try_from(slot).expect("small") * every * 3_600_000
                        + (minute + jitter) * 60_000;
                    times.insert(at);
                }
            }
        }
        let mut points = Vec::new();
        for (number, at) in times.into_iter().enumerate() {
            let mut point = Point::scheduled(PointNumber(number as u64 + 1), Timestamp(at));
            match random.below(40) {
                0 => point.kind = PointKind::Imported,
                1 => (point.kind, point.expires) = (PointKind::OnDemand, Some(Timestamp(at + 30 * DAY))),
                2 => point.kind = PointKind::OnDemand,
                3 => point.held = true,
                4 => point.immutable_until = Some(Timestamp(at + 100 * DAY)),
                5 => point.complete = false,
                6 => point.expires = Some(Timestamp(at + 50 * DAY)),
                _ => {}
            }
            points.push(point);
        }
        points
    })
}

/// `SplitMix64`.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
