//! A policy as a person writes it: a short TOML.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::keep::{Bucket, Count, KeepRules};
use super::{
    Archiving, CalendarRules, MonthlyRule, PolicyKind, PolicySpec, Retention, Schedule, Vaulting, Violation,
    WeeklyRule, YearlyRule,
};
use crate::calendar::{DayPick, Month, MonthDays, Span, TimeOfDay, WeekOfMonth, Weekday};
use crate::zone::Zone;

/// Most bytes of a policy.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// A text that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TextError {
    /// Too long to be one.
    #[error("the text has {len} bytes; a policy has at most {TEXT_BYTES_MAX}")]
    TooLong {
        /// Its bytes.
        len: usize,
    },
    /// No TOML, or a field that no policy has.
    #[error("{0}")]
    Toml(String),
    /// A field says what it cannot mean.
    #[error("{}", .0)]
    Field(Box<Violation>),
}

type Result<T> = std::result::Result<T, TextError>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot_days: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vault: Option<VaultText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<KindText>,
    schedule: ScheduleText,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retention: Option<RetentionText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keep: Option<KeepText>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum VaultText {
    EveryPoint,
    LastOfDay,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindText {
    Standard,
    Enhanced,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum ScheduleText {
    OnDemandOnly(bool),
    Daily(DailyText),
    Weekly(WeeklyText),
    Hourly(HourlyText),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DailyText {
    at: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeeklyText {
    days: Vec<String>,
    at: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HourlyText {
    start: String,
    every: u32,
    window: u32,
}

fn yes() -> bool {
    true
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetentionText {
    #[serde(default = "yes")]
    late: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    daily: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weekly: Option<RuleText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monthly: Option<RuleText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    yearly: Option<RuleText>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleText {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    months: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    weeks: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    days: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    days_of_month: Vec<u8>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    last_day: bool,
    keep: String,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum KeepValue {
    Count(u32),
    Word(String),
    Lists(Vec<Vec<String>>),
}

type KeepText = BTreeMap<String, KeepValue>;

fn wrong<T>(field: &str, value: impl ToString, rule: impl Into<String>) -> Result<T> {
    let value = value.to_string().chars().take(60).collect();
    Err(TextError::Field(Box::new(Violation { field: field.to_owned(), value, rule: rule.into() })))
}

fn read<T: std::str::FromStr>(field: &str, text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().or_else(|e: T::Err| wrong(field, text, e.to_string()))
}

fn set<T: std::str::FromStr, S: FromIterator<T>>(field: &str, texts: &[String]) -> Result<S>
where
    T::Err: std::fmt::Display,
{
    texts.iter().map(|text| read(field, text)).collect()
}

impl PolicySpec {
    /// Reads a policy in TOML. Left out are the zone (UTC then), snapshots, the archive (never) and rules that there are none of.
    ///
    /// ```
    /// # use vmkeep_retention::{Limits, Policy, PolicySpec};
    /// let spec = PolicySpec::from_toml(r#"
    ///     zone = "Europe/Berlin"
    ///     archive = "6 months"
    ///
    ///     [schedule]
    ///     daily = { at = "22:30" }
    ///
    ///     [retention]
    ///     daily = "30 days"
    ///     weekly = { days = ["Sunday"], keep = "12 weeks" }
    ///     monthly = { weeks = ["Last"], days = ["Friday"], keep = "24 months" }
    ///     yearly = { months = ["January"], days-of-month = [1], keep = "10 years" }
    /// "#)?;
    /// assert_eq!(PolicySpec::from_toml(&spec.to_toml())?, spec);
    /// let policy = Policy::new(spec, &Limits::default())?;
    ///
    /// let counted = PolicySpec::from_toml(r#"
    ///     schedule.hourly = { start = "08:00", every = 4, window = 12 }
    ///     keep = { last = 5, daily = 14, within-hourly = "2d", monthly = "all", tags = [["release"]] }
    /// "#)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLong { len: text.len() });
        }
        let document: Document = toml::from_str(text).map_err(|e| TextError::Toml(e.to_string()))?;
        let retention = match (document.retention, document.keep) {
            (Some(_), Some(_)) => return wrong("keep", "there", "either retention or keep, not both"),
            (Some(rules), None) => Retention::Calendar(calendar(&rules)?),
            (None, Some(rules)) => Retention::Keep(keep(rules)?),
            (None, None) => return wrong("retention", "absent", "either retention or keep"),
        };
        let zone = document.zone.as_deref().unwrap_or("UTC");
        Ok(Self {
            zone: Zone::named(zone).or_else(|e| wrong("zone", zone, e.to_string()))?,
            schedule: schedule(document.schedule)?,
            retention,
            vaulting: match document.vault {
                Some(VaultText::LastOfDay) => Vaulting::LastOfDay,
                _ => Vaulting::EveryPoint,
            },
            snapshot_days: document.snapshot_days,
            archive: match document.archive.as_deref() {
                None | Some("never") => Archiving::Never,
                Some("recommended") => Archiving::Recommended,
                Some(after) => Archiving::After(read("archive", after)?),
            },
            kind: match document.kind {
                Some(KindText::Standard) => PolicyKind::Standard,
                _ => PolicyKind::Enhanced,
            },
        })
    }

    /// The same as TOML.
    ///
    /// # Panics
    ///
    /// Never: tables of text and numbers are TOML.
    pub fn to_toml(&self) -> String {
        let (retention, keep) = match &self.retention {
            Retention::Calendar(rules) => (Some(calendar_text(rules)), None),
            Retention::Keep(rules) => (None, Some(keep_text(rules))),
        };
        let document = Document {
            zone: Some(self.zone.given().to_owned()),
            snapshot_days: self.snapshot_days,
            archive: match self.archive {
                Archiving::Never => None,
                Archiving::Recommended => Some("recommended".to_owned()),
                Archiving::After(span) => Some(span.to_string()),
            },
            vault: (self.vaulting == Vaulting::LastOfDay).then_some(VaultText::LastOfDay),
            kind: (self.kind == PolicyKind::Standard).then_some(KindText::Standard),
            schedule: schedule_text(&self.schedule),
            retention,
            keep,
        };
        toml::to_string(&document).expect("tables of text and numbers are TOML")
    }
}

fn schedule(text: ScheduleText) -> Result<Schedule> {
    Ok(match text {
        ScheduleText::OnDemandOnly(true) => Schedule::OnDemandOnly,
        ScheduleText::OnDemandOnly(false) => {
            return wrong("schedule.on-demand-only", false, "true, or another schedule");
        }
        ScheduleText::Daily(daily) => Schedule::Daily { at: read("schedule.daily.at", &daily.at)? },
        ScheduleText::Weekly(weekly) => Schedule::Weekly {
            days: set::<Weekday, _>("schedule.weekly.days", &weekly.days)?,
            at: read("schedule.weekly.at", &weekly.at)?,
        },
        ScheduleText::Hourly(hourly) => Schedule::Hourly {
            start: read("schedule.hourly.start", &hourly.start)?,
            every: hourly.every,
            window: hourly.window,
        },
    })
}

fn schedule_text(schedule: &Schedule) -> ScheduleText {
    let text = |at: &TimeOfDay| at.to_string();
    match schedule {
        Schedule::OnDemandOnly => ScheduleText::OnDemandOnly(true),
        Schedule::Daily { at } => ScheduleText::Daily(DailyText { at: text(at) }),
        Schedule::Weekly { days, at } => ScheduleText::Weekly(WeeklyText {
            days: days.iter().map(|d| d.name().to_owned()).collect(),
            at: text(at),
        }),
        Schedule::Hourly { start, every, window } => {
            ScheduleText::Hourly(HourlyText { start: text(start), every: *every, window: *window })
        }
    }
}

/// A rule has only the fields that its kind has.
fn only(field: &str, rule: &RuleText, months: bool, of_month: bool) -> Result<()> {
    if !months && !rule.months.is_empty() {
        return wrong(
            &format!("{field}.months"),
            rule.months.join(", "),
            "absent: only yearly rules name months",
        );
    }
    if !of_month && (!rule.weeks.is_empty() || !rule.days_of_month.is_empty() || rule.last_day) {
        return wrong(field, "by days of the month", "days of the week only");
    }
    Ok(())
}

fn calendar(text: &RetentionText) -> Result<CalendarRules> {
    let span =
        |field: &str, text: &Option<String>| text.as_deref().map(|t| read::<Span>(field, t)).transpose();
    let weekly = text.weekly.as_ref().map(|rule| {
        only("retention.weekly", rule, false, false)?;
        let days = set::<Weekday, _>("retention.weekly.days", &rule.days)?;
        Ok(WeeklyRule { days, keep: read("retention.weekly.keep", &rule.keep)? })
    });
    let monthly = text.monthly.as_ref().map(|rule| {
        only("retention.monthly", rule, false, true)?;
        let keep = read("retention.monthly.keep", &rule.keep)?;
        Ok(MonthlyRule { on: pick("retention.monthly", rule)?, keep })
    });
    let yearly = text.yearly.as_ref().map(|rule| {
        let months = set::<Month, _>("retention.yearly.months", &rule.months)?;
        let keep = read("retention.yearly.keep", &rule.keep)?;
        Ok(YearlyRule { months, on: pick("retention.yearly", rule)?, keep })
    });
    Ok(CalendarRules {
        every: span("retention.every", &text.every)?,
        daily: span("retention.daily", &text.daily)?,
        weekly: weekly.transpose()?,
        monthly: monthly.transpose()?,
        yearly: yearly.transpose()?,
        late: text.late,
    })
}

fn pick(field: &str, rule: &RuleText) -> Result<DayPick> {
    let by_week = !rule.weeks.is_empty() || !rule.days.is_empty();
    let by_number = !rule.days_of_month.is_empty() || rule.last_day;
    match (by_week, by_number) {
        (true, false) => Ok(DayPick::Weekdays {
            weeks: set::<WeekOfMonth, _>(&format!("{field}.weeks"), &rule.weeks)?,
            days: set::<Weekday, _>(&format!("{field}.days"), &rule.days)?,
        }),
        (false, true) => match MonthDays::new(rule.days_of_month.iter().copied(), rule.last_day) {
            Some(days) => Ok(DayPick::Days(days)),
            None => {
                wrong(&format!("{field}.days-of-month"), format!("{:?}", rule.days_of_month), "from 1 to 31")
            }
        },
        _ => wrong(
            field,
            if by_week { "both" } else { "neither" },
            "either weeks and days, or days-of-month and last-day",
        ),
    }
}

fn calendar_text(rules: &CalendarRules) -> RetentionText {
    let rule = |on: &DayPick, keep: Span| match on {
        DayPick::Days(month) => RuleText {
            days_of_month: month.days().collect(),
            last_day: month.last(),
            keep: keep.to_string(),
            ..RuleText::default()
        },
        DayPick::Weekdays { weeks, days } => RuleText {
            weeks: weeks.iter().map(|w| w.name().to_owned()).collect(),
            days: days.iter().map(|d| d.name().to_owned()).collect(),
            keep: keep.to_string(),
            ..RuleText::default()
        },
    };
    RetentionText {
        late: rules.late,
        every: rules.every.map(|span| span.to_string()),
        daily: rules.daily.map(|span| span.to_string()),
        weekly: rules.weekly.map(|r| RuleText {
            days: r.days.iter().map(|d| d.name().to_owned()).collect(),
            keep: r.keep.to_string(),
            ..RuleText::default()
        }),
        monthly: rules.monthly.map(|r| rule(&r.on, r.keep)),
        yearly: rules.yearly.map(|r| RuleText {
            months: r.months.iter().map(|m| m.name().to_owned()).collect(),
            ..rule(&r.on, r.keep)
        }),
    }
}

fn keep(text: KeepText) -> Result<KeepRules> {
    let mut rules = KeepRules::default();
    for (name, value) in text {
        let field = format!("keep.{name}");
        let counted = Bucket::ALL.into_iter().find(|bucket| bucket.name() == name);
        let timed = Bucket::ALL.into_iter().find(|bucket| bucket.within_name() == name);
        match (counted, timed, value) {
            (Some(bucket), _, KeepValue::Count(n)) => rules = rules.with(bucket, Count::Most(n)),
            (Some(bucket), _, KeepValue::Word(word)) if word == "all" => {
                rules = rules.with(bucket, Count::All);
            }
            (Some(_), ..) => return wrong(&field, "something else", "a number, or \"all\""),
            (_, Some(bucket), KeepValue::Word(word)) => {
                rules = rules.with_within(bucket, read(&field, &word)?);
            }
            (_, Some(_), _) => return wrong(&field, "something else", "a time such as \"2y5m7d3h\""),
            (.., KeepValue::Word(word)) if name == "mode" => rules.mode = read(&field, &word)?,
            (.., KeepValue::Lists(tags)) if name == "tags" => rules.tags = tags,
            _ => {
                return wrong(
                    &field,
                    "there",
                    "last, hourly .. yearly, within, within-hourly .. within-yearly, tags or mode",
                );
            }
        }
    }
    Ok(rules)
}

fn keep_text(rules: &KeepRules) -> KeepText {
    let mut text = KeepText::new();
    text.insert("mode".to_owned(), KeepValue::Word(rules.mode.to_string()));
    for bucket in Bucket::ALL {
        let count = match rules.count(bucket) {
            Count::Off => None,
            Count::Most(n) => Some(KeepValue::Count(n)),
            Count::All => Some(KeepValue::Word("all".to_owned())),
        };
        text.extend(count.map(|count| (bucket.name().to_owned(), count)));
        let within = rules.within(bucket).map(|within| KeepValue::Word(within.to_string()));
        text.extend(within.map(|within| (bucket.within_name().to_owned(), within)));
    }
    if !rules.tags.is_empty() {
        text.insert("tags".to_owned(), KeepValue::Lists(rules.tags.clone()));
    }
    text
}
