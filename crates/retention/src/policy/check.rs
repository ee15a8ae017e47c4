//! What is wrong with a policy: each finding names the field, the value and the rule.

use std::fmt;
use std::ops::RangeInclusive;

use thiserror::Error;

use super::keep::{Bucket, KeepMode, KeepRules};
use super::{Archiving, CalendarRules, Limits, PolicyKind, PolicySpec, Retention, Schedule};
use crate::calendar::{DayPick, Span, SpanUnit, TimeOfDay, WeekdaySet};

/// One thing that is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field, with dots between the parts of its path.
    pub field: String,
    /// What it says.
    pub value: String,
    /// What it should say.
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}: {}", self.field, self.value, self.rule)
    }
}

/// A policy that does not hold; everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct PolicyError {
    /// At least one.
    pub violations: Vec<Violation>,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.violations.iter().enumerate() {
            write!(f, "{}{violation}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

pub(super) fn violations(spec: &PolicySpec, limits: &Limits) -> Vec<Violation> {
    let mut check = Check { limits, found: Vec::new() };
    if limits.strict && !spec.zone.has_windows_name() {
        check.say("zone", &spec.zone, "a name of Windows, such as Pacific Standard Time");
    }
    check.schedule(&spec.schedule, spec.kind);
    match &spec.retention {
        Retention::Calendar(rules) => {
            check.calendar(rules, &spec.schedule);
            check.number_of_points(rules, &spec.schedule);
        }
        Retention::Keep(rules) => check.keep(rules),
    }
    check.snapshots(spec);
    check.archive(spec);
    check.found
}

struct Check<'l> {
    limits: &'l Limits,
    found: Vec<Violation>,
}

impl Check<'_> {
    fn say(&mut self, field: &str, value: impl fmt::Display, rule: impl fmt::Display) {
        let (field, value, rule) = (field.to_owned(), value.to_string(), rule.to_string());
        self.found.push(Violation { field, value, rule });
    }

    fn range(&mut self, field: &str, value: u32, range: &RangeInclusive<u32>, what: &str) {
        if !range.contains(&value) {
            self.say(field, value, format!("from {} to {} {what}", range.start(), range.end()));
        }
    }

    fn time(&mut self, field: &str, at: TimeOfDay) {
        let step = self.limits.minute_step;
        if !at.minutes().is_multiple_of(step) {
            self.say(field, at, format!("a multiple of {step} minutes"));
        }
    }

    fn schedule(&mut self, schedule: &Schedule, kind: PolicyKind) {
        match schedule {
            Schedule::OnDemandOnly => {
                if self.limits.strict {
                    self.say("schedule", "on demand only", "Azure protects no VM without a schedule");
                }
            }
            Schedule::Daily { at } => self.time("schedule.at", *at),
            Schedule::Weekly { days, at } => {
                self.time("schedule.at", *at);
                if days.is_empty() {
                    self.say("schedule.days", "empty", "at least one day of the week");
                }
            }
            Schedule::Hourly { start, every, window } => {
                if kind == PolicyKind::Standard {
                    self.say(
                        "schedule",
                        "hourly",
                        "a standard policy is daily or weekly; make it an enhanced one",
                    );
                }
                self.time("schedule.start", *start);
                let latest = self.limits.hourly_start_latest;
                if start.minutes() > latest {
                    let (hour, minute) = (latest / 60, latest % 60);
                    self.say("schedule.start", start, format!("no later than {hour:02}:{minute:02}"));
                }
                if !self.limits.hourly_every.contains(every) {
                    let all: Vec<String> = self.limits.hourly_every.iter().map(ToString::to_string).collect();
                    self.say("schedule.every", every, format!("one of {} hours", all.join(", ")));
                }
                self.range("schedule.window", *window, &self.limits.hourly_window.clone(), "hours");
                if window < every {
                    self.say(
                        "schedule.window",
                        window,
                        format!("not less than the {every} hours between two runs"),
                    );
                } else if *every > 0 && !window.is_multiple_of(*every) && self.limits.strict {
                    self.say(
                        "schedule.window",
                        window,
                        format!("a multiple of the {every} hours between two runs"),
                    );
                }
            }
        }
    }

    fn span(&mut self, field: &str, span: Span, range: &RangeInclusive<u32>, unit: SpanUnit) {
        if self.limits.strict && span.unit != unit {
            self.say(field, span, format!("counted in {}", unit.name()));
        } else if span.unit == unit {
            self.range(field, span.count, range, unit.name());
        } else if span.count == 0 {
            self.say(field, span, "not nothing");
        }
        let years = self.limits.lifetime_years;
        let longest = Span::years(years);
        if span.day_bounds().0 > longest.day_bounds().1 {
            self.say(field, span, format!("no longer than {years} years"));
        }
    }

    fn pick(&mut self, field: &str, on: DayPick, schedule: &Schedule) {
        if on.is_empty() {
            self.say(field, "empty", "at least one day");
        }
        match (on, schedule) {
            (DayPick::Days(days), _) => {
                let most = self.limits.day_of_month;
                if let Some(over) = days.days().find(|d| *d > most) {
                    self.say(field, over, format!("from 1 to {most}, or the last day"));
                }
                if self.limits.strict && matches!(schedule, Schedule::Weekly { .. }) {
                    self.say(field, on, "by week and day of the week, for the schedule is weekly");
                }
            }
            (DayPick::Weekdays { days, .. }, Schedule::Weekly { days: run, .. }) if !days.is_subset(*run) => {
                self.say(field, days, format!("days on which the schedule runs: {run}"));
            }
            _ => {}
        }
    }

    fn calendar(&mut self, rules: &CalendarRules, schedule: &Schedule) {
        let limits = self.limits;
        if let Some(every) = rules.every {
            self.span("retention.every", every, &(1..=9999), SpanUnit::Days);
        }
        if let Some(daily) = rules.daily {
            self.span("retention.daily", daily, &limits.daily, SpanUnit::Days);
        }
        if let Some(weekly) = &rules.weekly {
            self.span("retention.weekly.keep", weekly.keep, &limits.weekly, SpanUnit::Weeks);
            self.weekly_days(weekly.days, schedule);
        }
        if let Some(monthly) = &rules.monthly {
            self.span("retention.monthly.keep", monthly.keep, &limits.monthly, SpanUnit::Months);
            self.pick("retention.monthly.on", monthly.on, schedule);
        }
        if let Some(yearly) = &rules.yearly {
            self.span("retention.yearly.keep", yearly.keep, &limits.yearly, SpanUnit::Years);
            self.pick("retention.yearly.on", yearly.on, schedule);
            if yearly.months.is_empty() {
                self.say("retention.yearly.months", "empty", "at least one month");
            } else if !yearly.on.is_empty()
                && (0..8).all(|y| yearly.months.iter().all(|m| yearly.on.mask(2000 + y, m as u8 + 1) == 0))
            {
                self.say("retention.yearly.on", yearly.on, format!("a day that {} has", yearly.months));
            }
        }
        self.goes_with_schedule(rules, schedule);
    }

    fn weekly_days(&mut self, days: WeekdaySet, schedule: &Schedule) {
        if days.is_empty() {
            self.say("retention.weekly.days", "empty", "at least one day of the week");
        }
        if let Schedule::Weekly { days: run, .. } = schedule {
            if !days.is_subset(*run) {
                self.say("retention.weekly.days", days, format!("days on which the schedule runs: {run}"));
            } else if self.limits.strict && days != *run {
                self.say(
                    "retention.weekly.days",
                    days,
                    format!("every day on which the schedule runs: {run}"),
                );
            }
        }
    }

    fn goes_with_schedule(&mut self, rules: &CalendarRules, schedule: &Schedule) {
        let none = rules.daily.is_none()
            && rules.weekly.is_none()
            && rules.monthly.is_none()
            && rules.yearly.is_none();
        match schedule {
            Schedule::OnDemandOnly => {}
            _ if none && rules.every.is_none() => self.say("retention", "empty", "at least one rule"),
            Schedule::Daily { .. } | Schedule::Hourly { .. }
                if self.limits.strict && rules.daily.is_none() =>
            {
                self.say("retention.daily", "absent", "needed under a daily or hourly schedule");
            }
            Schedule::Weekly { .. } if self.limits.strict => {
                if let Some(daily) = rules.daily {
                    self.say("retention.daily", daily, "absent under a weekly schedule");
                }
                if rules.weekly.is_none() {
                    self.say("retention.weekly", "absent", "needed under a weekly schedule");
                }
            }
            _ => {}
        }
    }

    fn number_of_points(&mut self, rules: &CalendarRules, schedule: &Schedule) {
        let most = expected_points(rules, schedule);
        if most > u64::from(self.limits.points) {
            self.say(
                "retention",
                format!("up to {most} points"),
                format!("no more than {} of one VM", self.limits.points),
            );
        }
    }

    fn keep(&mut self, rules: &KeepRules) {
        let counts = Bucket::ALL.iter().any(|b| rules.count(*b).limit() > 0 || rules.within(*b).is_some());
        if !counts && rules.tags.iter().all(Vec::is_empty) {
            self.say(
                "keep",
                "empty",
                "at least one rule; one that keeps nothing would remove all but the newest point",
            );
        }
        let within = Bucket::ALL.iter().copied().find(|b| rules.within(*b).is_some());
        match (rules.mode, within) {
            (KeepMode::Proxmox, Some(bucket)) => {
                self.say(
                    &format!("keep.{}", bucket.within_name()),
                    "there",
                    "absent: Proxmox knows no such rule",
                );
            }
            (KeepMode::Borg, Some(bucket)) if bucket != Bucket::Last => {
                self.say(
                    &format!("keep.{}", bucket.within_name()),
                    "there",
                    "absent: borg knows only within",
                );
            }
            _ => {}
        }
        if rules.mode != KeepMode::Restic && !rules.tags.is_empty() {
            self.say("keep.tags", rules.tags.len(), format!("absent: {} has no rule for tags", rules.mode));
        }
        for bucket in Bucket::ALL {
            if rules.within(bucket).is_some_and(|w| w.day_bound() > 36_525) {
                self.say(&format!("keep.{}", bucket.within_name()), "longer", "no longer than 100 years");
            }
        }
    }

    fn snapshots(&mut self, spec: &PolicySpec) {
        let Some(days) = spec.snapshot_days else { return };
        let range = match (spec.kind, &spec.schedule) {
            (PolicyKind::Standard, Schedule::Weekly { .. }) => &self.limits.snapshot_days_standard_weekly,
            (PolicyKind::Standard, _) => &self.limits.snapshot_days_standard,
            (PolicyKind::Enhanced, _) => &self.limits.snapshot_days_enhanced,
        };
        self.range("snapshot_days", days, &range.clone(), "days");
    }

    fn archive(&mut self, spec: &PolicySpec) {
        let Archiving::After(after) = spec.archive else { return };
        let least = self.limits.archive_after_months;
        if !after.is_at_least(Span::months(least)) {
            self.say("archive.after", after, format!("at least {least} months"));
        }
        let Retention::Calendar(rules) = &spec.retention else {
            self.say("archive.after", after, "only with monthly or yearly rules of the calendar");
            return;
        };
        let remaining = u64::from(self.limits.archive_remaining_months);
        let months = |days: u64| days * 1_000_000 / 30_436_875;
        let enough = |keep: Span| months(keep.day_bounds().1) >= months(after.day_bounds().0) + remaining;
        let monthly = rules.monthly.as_ref().is_some_and(|r| enough(r.keep));
        let yearly = rules.yearly.as_ref().is_some_and(|r| enough(r.keep));
        if !monthly && !yearly {
            let rule = format!("a monthly or yearly rule that keeps {remaining} months longer than that");
            self.say("archive.after", after, rule);
        }
    }
}

/// The most scheduled points that the rules keep at once.
fn expected_points(rules: &CalendarRules, schedule: &Schedule) -> u64 {
    let days = |span: Span| span.day_bounds().1;
    let per_day = match schedule {
        Schedule::OnDemandOnly => return 0,
        Schedule::Hourly { .. } | Schedule::Daily { .. } => 1,
        Schedule::Weekly { .. } => 0,
    };
    let runs = u64::from(schedule.runs_per_day_max());
    let every = rules.every.map_or(0, |span| days(span) * runs);
    let daily = rules.daily.map_or(0, |span| days(span) * per_day);
    let weekly = rules.weekly.map_or(0, |r| days(r.keep).div_ceil(7) * u64::from(r.days.len()));
    let monthly = rules.monthly.map_or(0, |r| days(r.keep).div_ceil(31) * u64::from(r.on.count()));
    let yearly = rules
        .yearly
        .map_or(0, |r| days(r.keep).div_ceil(366) * u64::from(r.months.len()) * u64::from(r.on.count()));
    every.max(daily) + weekly + monthly + yearly
}
