//! Signs that times were made up or a clock was wrong: while there are any, nothing is removed by itself.
//!
//! Whoever can write points with times of their choice could otherwise push good points out of the rules. A clock set
//! forward lets points look old, one set back lets them look young.

use std::fmt;

use vmkeep_model::{PointNumber, Timestamp};

use crate::civil::{DAY_MS, Day};
use crate::lifecycle::StateKind;
use crate::plan::PlanSettings;
use crate::point::{Point, PointKind};
use crate::policy::{Policy, Schedule};

/// Something about the points' times that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// On some days there are more scheduled points than the schedule makes.
    TooMany {
        /// The worst of these days.
        day: Day,
        /// Points on it.
        found: u32,
        /// What the schedule makes in a day, catching up included.
        allowed: u32,
        /// How many days are like this.
        days: u32,
    },
    /// Points whose number is higher than that of a point with a later time.
    Backwards {
        /// The first of them.
        number: PointNumber,
        /// By how many milliseconds at the most it lies before one with a lower number.
        by_ms: i64,
        /// How many there are.
        points: u32,
    },
    /// Points from after now.
    Future {
        /// The one furthest ahead.
        number: PointNumber,
        /// Its time.
        time: Timestamp,
        /// How many there are.
        points: u32,
    },
    /// A leap in time beside one of the newest points, or between the newest and now.
    Leap {
        /// The last time before.
        from: Timestamp,
        /// The first time after.
        to: Timestamp,
    },
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { day, found, allowed, days } => {
                write!(f, "{found} scheduled points on {day} where the schedule makes at most {allowed}")?;
                if *days > 1 { write!(f, ", and more than that on {} other days", days - 1) } else { Ok(()) }
            }
            Self::Backwards { number, by_ms, points } => {
                let minutes = by_ms / 60_000;
                write!(
                    f,
                    "{points} points are older than points made before them, number {number} by {minutes} minutes"
                )
            }
            Self::Future { number, time, points } => {
                write!(f, "{points} points are from the future, number {number} from {time}")
            }
            Self::Leap { from, to } => {
                let days = (to.0 - from.0) / DAY_MS;
                write!(f, "the clock leaps over {days} days, from {from} to {to}")
            }
        }
    }
}

/// What a clock may be off before anybody is told, in milliseconds.
const TOLERANCE_MS: i64 = 3_600_000;
/// Runs a day beyond the schedule's: one that was caught up.
const CAUGHT_UP: u32 = 1;
/// A leap is looked for beside so many of the newest points.
const NEWEST: usize = 3;

/// Every anomaly of points in ascending order of time; `days` are their local days.
pub(crate) fn find(
    points: &[&Point],
    days: impl Fn(usize) -> Day,
    policy: &Policy,
    now: Timestamp,
    settings: &PlanSettings,
) -> Vec<Anomaly> {
    let mut found = Vec::new();
    let trusted = |point: &Point| settings.trusted_up_to.is_some_and(|number| point.number <= number);
    found.extend(too_many(points, &days, &trusted, policy, settings));
    found.extend(backwards(points, &trusted));
    found.extend(future(points, &trusted, now));
    found.extend(leap(points, &trusted, policy, now, settings));
    found
}

/// The most points of one local day.
fn allowed(policy: &Policy) -> u32 {
    match &policy.schedule {
        // A window may reach into the next day, and that day has its own.
        Schedule::Hourly { every, .. } => 24_u32.div_ceil((*every).max(1)) + CAUGHT_UP,
        other => other.runs_per_day_max() + CAUGHT_UP,
    }
}

fn too_many(
    points: &[&Point],
    days: &impl Fn(usize) -> Day,
    trusted: &impl Fn(&Point) -> bool,
    policy: &Policy,
    settings: &PlanSettings,
) -> Option<Anomaly> {
    // Points of another policy may be as many as any policy makes.
    let (ours, others) = (allowed(policy), settings.backups_per_day_max.max(allowed(policy)));
    let mut worst: Option<(u32, Day, u32)> = None;
    let (mut bad_days, mut today, mut here, mut all) = (0, None, 0, 0);
    let mut counted_bad = false;
    let mut suspect = false;
    for (index, point) in points.iter().enumerate() {
        if point.kind != PointKind::Scheduled || !point.complete {
            continue;
        }
        let day = days(index);
        if today != Some(day) {
            (today, here, all) = (Some(day), 0, 0);
            (counted_bad, suspect) = (false, false);
        }
        let is_ours = settings.policy_version.is_none() || point.policy_version == settings.policy_version;
        here += u32::from(is_ours);
        all += 1;
        // A day is as it should be when somebody looked at all of its points.
        suspect |= !trusted(point);
        if !suspect {
            continue;
        }
        let bad = if here > ours {
            Some((here, ours))
        } else if all > others {
            Some((all, others))
        } else {
            None
        };
        if let Some((found, allowed)) = bad {
            bad_days += u32::from(!counted_bad);
            counted_bad = true;
            if worst.is_none_or(|(most, ..)| found > most) {
                worst = Some((found, day, allowed));
            }
        }
    }
    worst.map(|(found, day, allowed)| Anomaly::TooMany { day, found, allowed, days: bad_days })
}

fn backwards(points: &[&Point], trusted: &impl Fn(&Point) -> bool) -> Option<Anomaly> {
    let of_here = |point: &&&Point| point.kind != PointKind::Imported;
    if points.iter().filter(of_here).is_sorted_by_key(|point| point.number) {
        return None;
    }
    let mut by_number: Vec<&Point> = points.iter().filter(of_here).copied().collect();
    by_number.sort_unstable_by_key(|point| point.number);
    let (mut latest, mut first, mut worst, mut count) = (i64::MIN, None, 0, 0);
    for point in by_number {
        let by_ms = latest.saturating_sub(point.time.0);
        if by_ms > TOLERANCE_MS && !trusted(point) {
            first = first.or(Some(point.number));
            worst = worst.max(by_ms);
            count += 1;
        }
        // Whoever looked at it has seen where time went on from there.
        latest = if trusted(point) { point.time.0 } else { latest.max(point.time.0) };
    }
    first.map(|number| Anomaly::Backwards { number, by_ms: worst, points: count })
}

fn future(points: &[&Point], trusted: &impl Fn(&Point) -> bool, now: Timestamp) -> Option<Anomaly> {
    let limit = now.0.saturating_add(TOLERANCE_MS);
    let ahead = points.iter().rev().take_while(|point| point.time.0 > limit).filter(|point| !trusted(point));
    let count = ahead.clone().count();
    let furthest = ahead.clone().next()?;
    let points = u32::try_from(count).unwrap_or(u32::MAX);
    Some(Anomaly::Future { number: furthest.number, time: furthest.time, points })
}

fn leap(
    points: &[&Point],
    trusted: &impl Fn(&Point) -> bool,
    policy: &Policy,
    now: Timestamp,
    settings: &PlanSettings,
) -> Option<Anomaly> {
    // Without a schedule, or with the VM gone, a long silence is nothing strange.
    if settings.state != StateKind::Protected || policy.schedule == Schedule::OnDemandOnly {
        return None;
    }
    let limit = i64::from(settings.leap_days) * DAY_MS;
    let tail = points.get(points.len().saturating_sub(NEWEST)..)?;
    let newest = tail.last()?;
    let pairs = tail.windows(2).map(|pair| (pair[0], pair[1].time, pair[1]));
    let all = pairs.chain([(*newest, now, *newest)]);
    let mut far = all.filter(|(from, to, upto)| to.0.saturating_sub(from.time.0) > limit && !trusted(upto));
    far.next().map(|(from, to, _)| Anomaly::Leap { from: from.time, to })
}
