//! From policy to document.

use serde_json::{Map, Value, json};

use super::AzureError;
use crate::calendar::{DayPick, Span, SpanUnit, TimeOfDay, WeekdaySet};
use crate::policy::{Archiving, CalendarRules, PolicyKind, PolicySpec, Retention, Schedule};

/// The day that times stand on; only their time of day means anything.
const DAY: &str = "2020-01-01";

fn date_time(at: TimeOfDay) -> Value {
    json!(format!("{DAY}T{at}:00Z"))
}

fn days(days: WeekdaySet) -> Value {
    days.iter().map(|day| json!(day.name())).collect()
}

fn unit(unit: SpanUnit) -> &'static str {
    match unit {
        SpanUnit::Days => "Days",
        SpanUnit::Weeks => "Weeks",
        SpanUnit::Months => "Months",
        SpanUnit::Years => "Years",
    }
}

/// The object at `key`, made if there is none.
fn object<'v>(parent: &'v mut Map<String, Value>, key: &str) -> &'v mut Map<String, Value> {
    if !parent.get(key).is_some_and(Value::is_object) {
        parent.insert(key.to_owned(), Value::Object(Map::new()));
    }
    parent.get_mut(key).and_then(Value::as_object_mut).expect("it was made an object")
}

fn set(parent: &mut Map<String, Value>, key: &str, value: Value) {
    parent.insert(key.to_owned(), value);
}

pub(super) fn spec(document: &mut Value, spec: &PolicySpec) -> Result<(), AzureError> {
    let Retention::Calendar(rules) = &spec.retention else {
        return Err(AzureError::Inexpressible("keep rules that count points"));
    };
    if !document.is_object() {
        *document = json!({ "properties": {} });
    }
    let Value::Object(root) = document else { return Ok(()) };
    let bare = root.contains_key("backupManagementType") && !root.contains_key("properties");
    let properties = if bare { root } else { object(root, "properties") };
    set(properties, "backupManagementType", json!("AzureIaasVM"));
    let zone = spec.zone.windows_name();
    let zone = zone.ok_or(AzureError::Inexpressible("a time zone that no name of Windows leads to"))?;
    set(properties, "timeZone", json!(zone));
    let is_v2 = spec.kind == PolicyKind::Enhanced;
    set(properties, "policyType", json!(if is_v2 { "V2" } else { "V1" }));
    match spec.snapshot_days {
        Some(days) => set(properties, "instantRpRetentionRangeInDays", json!(days)),
        None => drop(properties.remove("instantRpRetentionRangeInDays")),
    }
    let times = schedule(object(properties, "schedulePolicy"), &spec.schedule, is_v2)?;
    let derived = Span::days(spec.snapshot_days.unwrap_or(7));
    match (&spec.schedule, rules.every) {
        (Schedule::Hourly { .. }, Some(every)) if every != derived => {
            return Err(AzureError::Inexpressible(
                "points of an hourly schedule kept for other than its snapshot days",
            ));
        }
        (Schedule::Hourly { .. }, Some(_)) | (_, None) => {}
        (_, Some(_)) => {
            return Err(AzureError::Inexpressible("a rule for every point under a daily or weekly schedule"));
        }
    }
    retention(object(properties, "retentionPolicy"), rules, &times);
    archive(properties, spec.archive);
    Ok(())
}

/// Writes the schedule and gives the times that retention rules repeat.
fn schedule(policy: &mut Map<String, Value>, schedule: &Schedule, is_v2: bool) -> Result<Value, AzureError> {
    let kind = if is_v2 { "SimpleSchedulePolicyV2" } else { "SimpleSchedulePolicy" };
    set(policy, "schedulePolicyType", json!(kind));
    for other in ["hourlySchedule", "dailySchedule", "weeklySchedule", "scheduleRunDays", "scheduleRunTimes"]
    {
        let stays = matches!(
            (other, schedule),
            ("hourlySchedule", Schedule::Hourly { .. })
                | ("dailySchedule", Schedule::Daily { .. })
                | ("weeklySchedule", Schedule::Weekly { .. })
        );
        if !stays {
            policy.remove(other);
        }
    }
    match schedule {
        Schedule::OnDemandOnly => Err(AzureError::Inexpressible("protection without a schedule")),
        Schedule::Daily { at } => {
            set(policy, "scheduleRunFrequency", json!("Daily"));
            let part = if is_v2 { object(policy, "dailySchedule") } else { policy };
            set(part, "scheduleRunTimes", json!([date_time(*at)]));
            Ok(json!([date_time(*at)]))
        }
        Schedule::Weekly { days: on, at } => {
            set(policy, "scheduleRunFrequency", json!("Weekly"));
            let part = if is_v2 { object(policy, "weeklySchedule") } else { policy };
            set(part, "scheduleRunDays", days(*on));
            set(part, "scheduleRunTimes", json!([date_time(*at)]));
            Ok(json!([date_time(*at)]))
        }
        Schedule::Hourly { start, every, window } => {
            set(policy, "scheduleRunFrequency", json!("Hourly"));
            let part = object(policy, "hourlySchedule");
            set(part, "interval", json!(every));
            set(part, "scheduleWindowStartTime", date_time(*start));
            set(part, "scheduleWindowDuration", json!(window));
            Ok(json!([date_time(*start)]))
        }
    }
}

fn duration(rule: &mut Map<String, Value>, keep: Span, times: &Value) {
    set(rule, "retentionTimes", times.clone());
    let duration = object(rule, "retentionDuration");
    set(duration, "count", json!(keep.count));
    set(duration, "durationType", json!(unit(keep.unit)));
}

fn retention(policy: &mut Map<String, Value>, rules: &CalendarRules, times: &Value) {
    set(policy, "retentionPolicyType", json!("LongTermRetentionPolicy"));
    policy.remove("retentionDuration");
    match rules.daily {
        Some(keep) => duration(object(policy, "dailySchedule"), keep, times),
        None => drop(policy.remove("dailySchedule")),
    }
    match rules.weekly {
        Some(rule) => {
            let weekly = object(policy, "weeklySchedule");
            set(weekly, "daysOfTheWeek", days(rule.days));
            duration(weekly, rule.keep, times);
        }
        None => drop(policy.remove("weeklySchedule")),
    }
    match rules.monthly {
        Some(rule) => {
            let monthly = object(policy, "monthlySchedule");
            pick(monthly, rule.on);
            duration(monthly, rule.keep, times);
        }
        None => drop(policy.remove("monthlySchedule")),
    }
    match rules.yearly {
        Some(rule) => {
            let yearly = object(policy, "yearlySchedule");
            set(yearly, "monthsOfYear", rule.months.iter().map(|month| json!(month.name())).collect());
            pick(yearly, rule.on);
            duration(yearly, rule.keep, times);
        }
        None => drop(policy.remove("yearlySchedule")),
    }
}

fn pick(rule: &mut Map<String, Value>, on: DayPick) {
    match on {
        DayPick::Days(month) => {
            set(rule, "retentionScheduleFormatType", json!("Daily"));
            rule.remove("retentionScheduleWeekly");
            let numbers = month.days().map(|day| json!({ "date": day, "isLast": false }));
            let last = month.last().then(|| json!({ "date": 0, "isLast": true }));
            let all: Value = numbers.chain(last).collect();
            set(object(rule, "retentionScheduleDaily"), "daysOfTheMonth", all);
        }
        DayPick::Weekdays { weeks, days: on } => {
            set(rule, "retentionScheduleFormatType", json!("Weekly"));
            rule.remove("retentionScheduleDaily");
            let weekly = object(rule, "retentionScheduleWeekly");
            set(weekly, "daysOfTheWeek", days(on));
            set(weekly, "weeksOfTheMonth", weeks.iter().map(|week| json!(week.name())).collect());
        }
    }
}

fn archive(properties: &mut Map<String, Value>, archive: Archiving) {
    if archive == Archiving::Never && !properties.contains_key("tieringPolicy") {
        return;
    }
    let tier = object(object(properties, "tieringPolicy"), "ArchivedRP");
    match archive {
        Archiving::Never | Archiving::Recommended => {
            let mode = if archive == Archiving::Never { "DoNotTier" } else { "TierRecommended" };
            set(tier, "tieringMode", json!(mode));
            tier.remove("duration");
            tier.remove("durationType");
        }
        Archiving::After(span) => {
            set(tier, "tieringMode", json!("TierAfter"));
            set(tier, "duration", json!(span.count));
            set(tier, "durationType", json!(unit(span.unit)));
        }
    }
}
