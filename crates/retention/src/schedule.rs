//! When backups run.
//!
//! A schedule is a set of local times. On the day the clock is set forward over one, the run is the same distance after the
//! gap (02:30 becomes 03:30); on the day it is set back over one, the run is at the first of the two. A day that a zone leaves
//! out has no run of its own: what would be its run coincides with the next day's and counts once.

use vmkeep_model::Timestamp;

use crate::calendar::Weekday;
use crate::civil::Day;
use crate::plan::TIME_MAX;
use crate::policy::Schedule;
use crate::zone::{Edge, LocalTime, Zone};

/// One run of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// When.
    pub at: Timestamp,
    /// The local day that the schedule means: that on which an hourly window opened, for its later runs too.
    pub day: Day,
    /// Whether the local time exists once.
    pub edge: Edge,
}

/// The runs of a schedule from an instant on, ascending, without two at the same instant. Ends with the year 8999.
#[derive(Debug)]
pub struct Runs<'z> {
    schedule: &'z Schedule,
    time: LocalTime<'z>,
    from: Timestamp,
    /// The next day to look at.
    day: Day,
    /// What is known already, the next one last.
    ready: Vec<Run>,
    last: Option<Timestamp>,
}

/// The runs at and after `from`.
///
/// ```
/// # use vmkeep_model::Timestamp;
/// # use vmkeep_retention::{Edge, Schedule, Zone, runs};
/// let daily = Schedule::Daily { at: "02:30".parse()? };
/// let zone = Zone::named("Pacific Standard Time")?;
/// let march_7_2026 = Timestamp(1_772_841_600_000);
/// let times: Vec<_> = runs(&daily, &zone, march_7_2026).take(3).map(|run| zone.show(run.at)).collect();
/// assert_eq!(times, ["2026-03-07 02:30 -08:00", "2026-03-08 03:30 -07:00", "2026-03-09 02:30 -07:00"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn runs<'z>(schedule: &'z Schedule, zone: &'z Zone, from: Timestamp) -> Runs<'z> {
    let mut time = LocalTime::new(zone);
    let from = Timestamp(from.0.max(0));
    // A window may have opened the day before, and a day left out may come in between.
    let day = Day(Day::of_local(time.local(from)).0 - 3);
    Runs { schedule, time, from, day, ready: Vec::new(), last: None }
}

impl Runs<'_> {
    /// The runs of the window that opens on `day`, latest first.
    fn of_day(&self, day: Day) -> Vec<Run> {
        let run = |minutes: i64| {
            let (at, edge) = self.time.instant_and_edge(day.start() + minutes * 60_000);
            Run { at, day, edge }
        };
        match self.schedule {
            Schedule::OnDemandOnly => Vec::new(),
            Schedule::Daily { at } => vec![run(i64::from(at.minutes()))],
            Schedule::Weekly { days, at } => {
                let weekday = Weekday::ALL.get(usize::from(day.weekday()));
                if weekday.is_some_and(|w| days.contains(*w)) {
                    vec![run(i64::from(at.minutes()))]
                } else {
                    Vec::new()
                }
            }
            Schedule::Hourly { start, every, .. } => {
                let count = self.schedule.runs_per_day_max();
                let minutes = |n: u32| i64::from(start.minutes()) + i64::from(n) * i64::from(*every) * 60;
                (0..count).rev().map(|n| run(minutes(n))).collect()
            }
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if *self.schedule == Schedule::OnDemandOnly {
            return None;
        }
        loop {
            while let Some(run) = self.ready.pop() {
                let is_new = self.last.is_none_or(|last| run.at > last);
                if run.at >= self.from && is_new {
                    self.last = Some(run.at);
                    return Some(run);
                }
            }
            if self.day.start() > TIME_MAX.0 {
                return None;
            }
            // Windows of two days never overlap by more than their ends: a window has 24 hours at the most.
            self.ready = self.of_day(self.day);
            self.ready.sort_unstable_by_key(|run| std::cmp::Reverse(run.at));
            self.day = Day(self.day.0 + 1);
        }
    }
}

/// What a scheduler does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Start a backup.
    Now {
        /// The run that it is for.
        run: Run,
        /// Earlier runs that were missed and are not made up for.
        missed: u32,
        /// Whether it is late by more than a scheduler may be, so a catch-up.
        catch_up: bool,
    },
    /// Wait for this run.
    At(Run),
    /// There is none to come.
    Never,
}

/// How a scheduler deals with runs that it missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// Whether it makes up for them.
    pub enabled: bool,
    /// A run that starts within so many milliseconds is on time. Two hours, as in Azure.
    pub on_time_ms: i64,
    /// When the next run is due within so many milliseconds, a missed one waits for it.
    pub soon_ms: i64,
    /// Most missed runs that are counted.
    pub count_max: u32,
}

impl Default for CatchUp {
    fn default() -> Self {
        Self { enabled: true, on_time_ms: 2 * 3_600_000, soon_ms: 3_600_000, count_max: 1000 }
    }
}

/// What is due at `now`, when the last attempt, whatever came of it, began at `last`; before the first, `last` is when the VM
/// was protected.
///
/// The rule: of the runs since `last` the newest one is made up for, once and at once; the ones before it are counted and let
/// go, for a backup taken now holds what theirs would have held. When the next run is near, the missed one is let go too. A
/// clock that was set back makes nothing due twice: nothing is due up to `last`.
pub fn due(schedule: &Schedule, zone: &Zone, last: Timestamp, now: Timestamp, catch_up: CatchUp) -> Due {
    let after = Timestamp(last.0.saturating_add(1));
    let (mut newest, mut missed) = (None, 0u32);
    // After a long pause only the end of it is looked at; the count says so by its limit.
    let window_ms = i64::from(catch_up.count_max.max(1)) * 3_600_000;
    let weeks_ms = 15 * crate::civil::DAY_MS;
    let from = Timestamp(after.0.max(now.0.saturating_sub(window_ms.max(weeks_ms))));
    let mut next = None;
    for run in runs(schedule, zone, from) {
        if run.at > now {
            next = Some(run);
            break;
        }
        missed = (missed + u32::from(newest.is_some())).min(catch_up.count_max);
        newest = Some(run);
    }
    let wait = next.map_or(Due::Never, Due::At);
    let Some(run) = newest else { return wait };
    let late = now.0.saturating_sub(run.at.0) > catch_up.on_time_ms;
    let soon = next.is_some_and(|next| next.at.0.saturating_sub(now.0) <= catch_up.soon_ms);
    if late && (!catch_up.enabled || soon) { wait } else { Due::Now { run, missed, catch_up: late } }
}
