//! From document to policy.

use std::str::FromStr;

use serde_json::Value;

use super::AzureError;
use crate::calendar::{
    DayPick, Month, MonthDays, MonthSet, Span, SpanUnit, TimeOfDay, WeekOfMonth, WeekSet, Weekday, WeekdaySet,
};
use crate::policy::{
    Archiving, CalendarRules, MonthlyRule, PolicyKind, PolicySpec, Retention, Schedule, Vaulting, Violation,
    WeeklyRule, YearlyRule,
};
use crate::zone::Zone;

/// Days of snapshots that a V2 policy has when it does not say.
const SNAPSHOT_DAYS: u32 = 7;
/// Most characters of a value in an error.
const SHOWN: usize = 60;

/// A value and where it stands.
#[derive(Clone)]
struct At<'v> {
    path: String,
    value: &'v Value,
}

type Result<T> = std::result::Result<T, AzureError>;

impl<'v> At<'v> {
    fn error<T>(&self, rule: impl Into<String>) -> Result<T> {
        let value = match self.value {
            Value::Null => "absent".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
            other => other.to_string().chars().take(SHOWN).collect(),
        };
        Err(AzureError::Field(Box::new(Violation { field: self.path.clone(), value, rule: rule.into() })))
    }

    /// A field; `null` where there is none.
    fn at(&self, key: &str) -> Self {
        static NULL: Value = Value::Null;
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { path, value: self.value.get(key).unwrap_or(&NULL) }
    }

    fn is_there(&self) -> bool {
        !self.value.is_null()
    }

    fn optional(&self, key: &str) -> Option<Self> {
        Some(self.at(key)).filter(Self::is_there)
    }

    fn object(self) -> Result<Self> {
        if self.value.is_object() { Ok(self) } else { self.error("an object") }
    }

    fn text(&self) -> Result<&'v str> {
        self.value.as_str().map_or_else(|| self.error("text"), Ok)
    }

    fn number(&self) -> Result<u32> {
        let number = self.value.as_u64().and_then(|n| u32::try_from(n).ok());
        number.map_or_else(|| self.error("a whole number from 0 to 4294967295"), Ok)
    }

    fn items(&self) -> Result<Vec<Self>> {
        let Some(items) = self.value.as_array() else { return self.error("a list") };
        if items.is_empty() {
            return self.error("a list that is not empty");
        }
        let item = |(index, value)| At { path: format!("{}[{index}]", self.path), value };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A list of names, each once.
    fn names<T: FromStr + Copy + PartialEq, S: FromIterator<T>>(&self, rule: &str) -> Result<S> {
        let mut found: Vec<T> = Vec::new();
        for item in self.items()? {
            let text = item.text()?;
            match text.parse() {
                // In full: the short forms are ours.
                Ok(one) if text.len() > 3 || text == "May" => {
                    if found.contains(&one) {
                        return item.error("each once");
                    }
                    found.push(one);
                }
                _ => return item.error(rule),
            }
        }
        Ok(found.into_iter().collect())
    }

    fn weekdays(&self) -> Result<WeekdaySet> {
        self.names::<Weekday, _>("a day of the week, such as Monday")
    }

    /// The time of day of a date-time.
    fn time(&self) -> Result<TimeOfDay> {
        let text = self.text()?;
        let civil = text.trim_end_matches('Z').parse::<jiff::civil::DateTime>();
        let Ok(time) = civil.map(jiff::civil::DateTime::time) else {
            return self.error("a date and time in UTC, such as 2026-01-24T10:00:00Z");
        };
        if time.second() != 0 || time.subsec_nanosecond() != 0 {
            return self.error("whole minutes");
        }
        let parts = u8::try_from(time.hour()).ok().zip(u8::try_from(time.minute()).ok());
        parts.and_then(|(h, m)| TimeOfDay::new(h, m)).map_or_else(|| self.error("a time of day"), Ok)
    }

    /// The time of a list with exactly one.
    fn one_time(&self) -> Result<TimeOfDay> {
        match self.items()?.as_slice() {
            [one] => one.time(),
            _ => self.error("exactly one time"),
        }
    }

    fn duration(&self) -> Result<Span> {
        let duration = self.at("retentionDuration").object()?;
        let count = duration.at("count").number()?;
        Ok(Span { count, unit: duration.at("durationType").unit()? })
    }

    fn unit(&self) -> Result<SpanUnit> {
        match self.text()? {
            "Days" => Ok(SpanUnit::Days),
            "Weeks" => Ok(SpanUnit::Weeks),
            "Months" => Ok(SpanUnit::Months),
            "Years" => Ok(SpanUnit::Years),
            _ => self.error("Days, Weeks, Months or Years"),
        }
    }
}

fn properties(document: &Value) -> Result<At<'_>> {
    let root = At { path: String::new(), value: document };
    match root.optional("properties") {
        Some(properties) => properties.object(),
        None if document.is_object() => Ok(root),
        None => At { path: "document".to_owned(), value: document }.error("an object"),
    }
}

pub(super) fn spec(document: &Value) -> Result<PolicySpec> {
    let properties = properties(document)?;
    let management = properties.at("backupManagementType");
    if management.text()? != "AzureIaasVM" {
        return management.error("AzureIaasVM; other products' policies are not read");
    }
    let zone = match properties.optional("timeZone") {
        None => Zone::utc(),
        Some(name) => {
            Zone::named(name.text()?).or_else(|_| name.error("a time zone, such as Pacific Standard Time"))?
        }
    };
    let schedule_at = properties.at("schedulePolicy").object()?;
    let (schedule, is_v2) = schedule(&schedule_at)?;
    let kind = match properties.optional("policyType") {
        None if is_v2 => PolicyKind::Enhanced,
        None => PolicyKind::Standard,
        Some(kind) => match kind.text()? {
            "V1" => PolicyKind::Standard,
            "V2" => PolicyKind::Enhanced,
            _ => return kind.error("V1 or V2"),
        },
    };
    let snapshot_days =
        properties.optional("instantRpRetentionRangeInDays").map(|d| d.number()).transpose()?;
    let mut rules = retention(&properties.at("retentionPolicy").object()?, &schedule)?;
    if matches!(schedule, Schedule::Hourly { .. }) {
        rules.every = Some(Span::days(snapshot_days.unwrap_or(SNAPSHOT_DAYS)));
    }
    Ok(PolicySpec {
        zone,
        schedule,
        retention: Retention::Calendar(rules),
        vaulting: Vaulting::EveryPoint,
        snapshot_days,
        archive: archive(&properties)?,
        kind,
    })
}

fn schedule(policy: &At<'_>) -> Result<(Schedule, bool)> {
    let kind = policy.at("schedulePolicyType");
    let is_v2 = match kind.text()? {
        "SimpleSchedulePolicy" => false,
        "SimpleSchedulePolicyV2" => true,
        _ => return kind.error("SimpleSchedulePolicy or SimpleSchedulePolicyV2; others are not for VMs"),
    };
    let frequency = policy.at("scheduleRunFrequency");
    let part = |name: &str| if is_v2 { policy.at(name).object() } else { Ok(policy.clone()) };
    let schedule = match frequency.text()? {
        "Daily" => Schedule::Daily { at: part("dailySchedule")?.at("scheduleRunTimes").one_time()? },
        "Weekly" => {
            let weekly = part("weeklySchedule")?;
            let days = weekly.at("scheduleRunDays").weekdays()?;
            Schedule::Weekly { days, at: weekly.at("scheduleRunTimes").one_time()? }
        }
        "Hourly" => {
            let hourly = policy.at("hourlySchedule").object()?;
            Schedule::Hourly {
                start: hourly.at("scheduleWindowStartTime").time()?,
                every: hourly.at("interval").number()?,
                window: hourly.at("scheduleWindowDuration").number()?,
            }
        }
        _ => return frequency.error("Hourly, Daily or Weekly; months and years are for retention only"),
    };
    Ok((schedule, is_v2))
}

fn retention(policy: &At<'_>, schedule: &Schedule) -> Result<CalendarRules> {
    let mut rules = CalendarRules { late: true, ..CalendarRules::default() };
    let kind = policy.at("retentionPolicyType");
    match kind.text()? {
        "SimpleRetentionPolicy" => {
            let keep = policy.duration()?;
            match schedule {
                Schedule::Weekly { days, .. } => rules.weekly = Some(WeeklyRule { days: *days, keep }),
                _ => rules.daily = Some(keep),
            }
        }
        "LongTermRetentionPolicy" => {
            rules.daily =
                policy.optional("dailySchedule").map(|daily| daily.object()?.duration()).transpose()?;
            if let Some(weekly) = policy.optional("weeklySchedule") {
                let weekly = weekly.object()?;
                rules.weekly = Some(WeeklyRule {
                    days: weekly.at("daysOfTheWeek").weekdays()?,
                    keep: weekly.duration()?,
                });
            }
            if let Some(monthly) = policy.optional("monthlySchedule") {
                let monthly = monthly.object()?;
                rules.monthly = Some(MonthlyRule { on: pick(&monthly)?, keep: monthly.duration()? });
            }
            if let Some(yearly) = policy.optional("yearlySchedule") {
                let yearly = yearly.object()?;
                let months: MonthSet =
                    yearly.at("monthsOfYear").names::<Month, _>("a month, such as January")?;
                rules.yearly = Some(YearlyRule { months, on: pick(&yearly)?, keep: yearly.duration()? });
            }
        }
        _ => return kind.error("LongTermRetentionPolicy or SimpleRetentionPolicy"),
    }
    Ok(rules)
}

fn pick(rule: &At<'_>) -> Result<DayPick> {
    let format = rule.at("retentionScheduleFormatType");
    match format.text()? {
        "Weekly" => {
            let weekly = rule.at("retentionScheduleWeekly").object()?;
            let weeks: WeekSet = weekly
                .at("weeksOfTheMonth")
                .names::<WeekOfMonth, _>("First, Second, Third, Fourth or Last")?;
            Ok(DayPick::Weekdays { weeks, days: weekly.at("daysOfTheWeek").weekdays()? })
        }
        "Daily" => {
            let (mut days, mut last) = (Vec::new(), false);
            for day in rule.at("retentionScheduleDaily").object()?.at("daysOfTheMonth").items()? {
                if day.at("isLast").value.as_bool() == Some(true) {
                    if last {
                        return day.error("the last day once");
                    }
                    last = true;
                    continue;
                }
                let date = day.at("date");
                match u8::try_from(date.number()?) {
                    Ok(number) if (1..=31).contains(&number) && !days.contains(&number) => days.push(number),
                    Ok(number) if days.contains(&number) => return date.error("each once"),
                    _ => return date.error("a day of the month"),
                }
            }
            let days = MonthDays::new(days, last);
            days.map_or_else(|| format.error("days of the month"), |days| Ok(DayPick::Days(days)))
        }
        _ => format.error("Daily or Weekly"),
    }
}

fn archive(properties: &At<'_>) -> Result<Archiving> {
    let Some(tiering) = properties.optional("tieringPolicy") else { return Ok(Archiving::Never) };
    let Some(archived) = tiering.object()?.optional("ArchivedRP") else { return Ok(Archiving::Never) };
    let mode = archived.at("tieringMode");
    match mode.text()? {
        "DoNotTier" => Ok(Archiving::Never),
        "TierRecommended" => Ok(Archiving::Recommended),
        "TierAfter" => {
            let count = archived.at("duration").number()?;
            Ok(Archiving::After(Span { count, unit: archived.at("durationType").unit()? }))
        }
        _ => mode.error("TierRecommended, TierAfter or DoNotTier"),
    }
}

pub(super) fn remarks(document: &Value) -> Vec<Violation> {
    let Ok(properties) = properties(document) else { return Vec::new() };
    let Ok((schedule, _)) = schedule(&properties.at("schedulePolicy")) else { return Vec::new() };
    let (Schedule::Daily { at } | Schedule::Weekly { at, .. }) = schedule else { return Vec::new() };
    let retention = properties.at("retentionPolicy");
    let mut found = Vec::new();
    for rule in ["dailySchedule", "weeklySchedule", "monthlySchedule", "yearlySchedule"] {
        let Some(rule) = retention.optional(rule) else { continue };
        let times = rule.at("retentionTimes");
        if times.one_time() != Ok(at) {
            let shown = times.one_time().map_or_else(|_| "not one time".to_owned(), |time| time.to_string());
            found.push(Violation {
                field: times.path,
                value: shown,
                rule: format!("the time of the schedule, {at}"),
            });
        }
    }
    found
}
