//! Azure's documents: read, written, refused.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

mod common;

use proptest::prelude::*;
use serde_json::{Value, json};
use vmkeep_retention::azure::{AzureError, AzurePolicy, DOCUMENT_BYTES_MAX};
use vmkeep_retention::{
    Archiving, CalendarRules, DayPick, Limits, Policy, PolicyKind, PolicySpec, Retention, Schedule, Span,
    TimeOfDay, WeekOfMonth, Weekday, Zone,
};

fn weekly_v1() -> Value {
    let times = json!(["2018-01-24T10:00:00Z"]);
    json!({
        "id": "/subscriptions/0/vaults/v/backupPolicies/p", "name": "p", "eTag": null,
        "properties": {
            "backupManagementType": "AzureIaasVM",
            "timeZone": "Pacific Standard Time",
            "protectedItemsCount": 0,
            "instantRPDetails": {"azureBackupRGNamePrefix": "snap"},
            "schedulePolicy": {
                "schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Weekly",
                "scheduleRunDays": ["Monday", "Wednesday", "Thursday"], "scheduleRunTimes": times, "scheduleWeeklyFrequency": 0,
            },
            "retentionPolicy": {
                "retentionPolicyType": "LongTermRetentionPolicy",
                "weeklySchedule": {"daysOfTheWeek": ["Monday", "Wednesday", "Thursday"], "retentionTimes": times,
                    "retentionDuration": {"count": 1, "durationType": "Weeks"}},
                "monthlySchedule": {"retentionScheduleFormatType": "Weekly",
                    "retentionScheduleWeekly": {"daysOfTheWeek": ["Wednesday", "Thursday"], "weeksOfTheMonth": ["First", "Third"]},
                    "retentionTimes": times, "retentionDuration": {"count": 2, "durationType": "Months"}},
                "yearlySchedule": {"retentionScheduleFormatType": "Weekly", "monthsOfYear": ["February", "November"],
                    "retentionScheduleWeekly": {"daysOfTheWeek": ["Monday", "Thursday"], "weeksOfTheMonth": ["Fourth"]},
                    "retentionTimes": times, "retentionDuration": {"count": 4, "durationType": "Years"}},
            },
            "addedIn2031": {"deep": [1, {"er": null}]},
        }
    })
}

fn hourly_v2() -> Value {
    json!({"properties": {
        "backupManagementType": "AzureIaasVM", "policyType": "V2", "timeZone": "India Standard Time",
        "instantRpRetentionRangeInDays": 30,
        "schedulePolicy": {"schedulePolicyType": "SimpleSchedulePolicyV2", "scheduleRunFrequency": "Hourly",
            "hourlySchedule": {"interval": 4, "scheduleWindowStartTime": "2021-12-17T08:00:00Z", "scheduleWindowDuration": 16}},
        "tieringPolicy": {"ArchivedRP": {"tieringMode": "TierAfter", "duration": 4, "durationType": "Months"}},
        "retentionPolicy": {"retentionPolicyType": "LongTermRetentionPolicy",
            "dailySchedule": {"retentionTimes": null, "retentionDuration": {"count": 180, "durationType": "Days"}},
            "monthlySchedule": {"retentionScheduleFormatType": "Daily",
                "retentionScheduleDaily": {"daysOfTheMonth": [{"date": 1, "isLast": false}, {"date": 0, "isLast": true}]},
                "retentionTimes": [], "retentionDuration": {"count": 60, "durationType": "Months"}}},
    }})
}

fn parse(document: &Value) -> AzurePolicy {
    AzurePolicy::parse(document.to_string().as_bytes()).unwrap()
}

fn limits() -> Limits {
    Limits { points: u32::MAX, ..Limits::azure() }
}

#[test]
fn documents_of_both_kinds_mean_what_they_say() {
    let spec = parse(&weekly_v1()).spec().unwrap();
    assert_eq!((spec.kind, spec.zone.iana()), (PolicyKind::Standard, "America/Los_Angeles"));
    let days = [Weekday::Monday, Weekday::Wednesday, Weekday::Thursday].into_iter().collect();
    assert_eq!(spec.schedule, Schedule::Weekly { days, at: TimeOfDay::new(10, 0).unwrap() });
    let Retention::Calendar(rules) = &spec.retention else { panic!() };
    assert_eq!(rules.yearly.unwrap().keep, Span::years(4));
    let DayPick::Weekdays { weeks, .. } = rules.monthly.unwrap().on else { panic!() };
    assert!(weeks.contains(WeekOfMonth::First) && weeks.contains(WeekOfMonth::Third) && weeks.len() == 2);
    Policy::new(spec, &limits()).unwrap();

    let spec = parse(&hourly_v2()).spec().unwrap();
    assert_eq!(
        spec.schedule,
        Schedule::Hourly { start: TimeOfDay::new(8, 0).unwrap(), every: 4, window: 16 }
    );
    assert_eq!(spec.archive, Archiving::After(Span::months(4)));
    let Retention::Calendar(rules) = &spec.retention else { panic!() };
    assert_eq!((rules.every, rules.daily), (Some(Span::days(30)), Some(Span::days(180))));
    Policy::new(spec, &limits()).unwrap();
}

#[test]
fn reading_and_writing_loses_nothing() {
    for document in [weekly_v1(), hourly_v2(), hourly_v2()["properties"].clone()] {
        let policy = parse(&document);
        assert_eq!(serde_json::from_str::<Value>(&policy.to_json()).unwrap(), document);
        // Written with what it says already, nothing moves.
        assert_eq!(policy.with_spec(&policy.spec().unwrap()).unwrap().document(), &document);
    }
    // A changed retention changes that and the times of its rules, and nothing else.
    let mut spec = parse(&weekly_v1()).spec().unwrap();
    let Retention::Calendar(rules) = &mut spec.retention else { panic!() };
    rules.yearly = rules.yearly.map(|rule| vmkeep_retention::YearlyRule { keep: Span::years(9), ..rule });
    let changed = parse(&weekly_v1()).with_spec(&spec).unwrap();
    assert_eq!(changed.spec().unwrap(), spec);
    for field in ["addedIn2031", "instantRPDetails", "protectedItemsCount"] {
        assert_eq!(changed.document()["properties"][field], weekly_v1()["properties"][field]);
    }
    assert_eq!(changed.document()["id"], weekly_v1()["id"]);
    assert_eq!(changed.document()["properties"]["schedulePolicy"]["scheduleWeeklyFrequency"], 0);
}

#[test]
fn errors_name_field_value_and_rule() {
    for (pointer, value, message) in [
        (
            "/properties/timeZone",
            json!("Mars Standard Time"),
            "timeZone is \"Mars Standard Time\": a time zone",
        ),
        (
            "/properties/schedulePolicy/scheduleRunFrequency",
            json!("Monthly"),
            "\"Monthly\": Hourly, Daily or Weekly",
        ),
        (
            "/properties/schedulePolicy/scheduleRunDays/0",
            json!("Wednesday"),
            "scheduleRunDays[1] is \"Wednesday\": each once",
        ),
        ("/properties/schedulePolicy/scheduleRunTimes/0", json!("10 o'clock"), "scheduleRunTimes[0]"),
        ("/properties/schedulePolicy/scheduleRunTimes", json!([]), "is a list: a list that is not empty"),
        (
            "/properties/retentionPolicy/weeklySchedule/retentionDuration/count",
            json!(-1),
            "count is -1: a whole number",
        ),
        (
            "/properties/retentionPolicy/weeklySchedule/retentionDuration/durationType",
            json!("Fortnights"),
            "Days, Weeks",
        ),
        (
            "/properties/retentionPolicy/monthlySchedule/retentionScheduleWeekly",
            json!(null),
            "is absent: an object",
        ),
        ("/properties/backupManagementType", json!("AzureSql"), "AzureIaasVM"),
        ("/properties", json!([1]), "properties is a list: an object"),
    ] {
        let mut document = weekly_v1();
        *document.pointer_mut(pointer).unwrap() = value;
        let error = parse(&document).spec().unwrap_err().to_string();
        assert!(error.contains(message), "{error} lacks {message}");
    }
}

#[test]
fn rules_of_the_service_are_checked() {
    let spec = parse(&weekly_v1()).spec().unwrap();
    let wrong = |change: fn(&mut PolicySpec, &mut CalendarRules)| {
        let mut spec = spec.clone();
        let Retention::Calendar(mut rules) = spec.retention.clone() else { panic!() };
        change(&mut spec, &mut rules);
        spec.retention = Retention::Calendar(rules);
        Policy::new(spec, &limits()).unwrap_err().to_string()
    };
    let daily =
        |spec: &mut PolicySpec| spec.schedule = Schedule::Daily { at: TimeOfDay::new(10, 0).unwrap() };
    assert!(
        wrong(|_, r| r.daily = Some(Span::days(7)))
            .contains("retention.daily is 7 days: absent under a weekly schedule")
    );
    assert!(wrong(|_, r| r.weekly = None).contains("retention.weekly is absent"));
    assert!(
        wrong(|_, r| r.weekly.as_mut().unwrap().days = [Weekday::Sunday].into_iter().collect())
            .contains("weekly.days is Sunday")
    );
    assert!(
        wrong(|_, r| r.weekly.as_mut().unwrap().keep = Span::weeks(5164)).contains("from 1 to 5163 weeks")
    );
    assert!(wrong(|_, r| r.yearly.as_mut().unwrap().keep = Span::years(100)).contains("from 1 to 99 years"));
    assert!(wrong(|_, r| r.monthly.as_mut().unwrap().keep = Span::days(60)).contains("counted in months"));
    assert!(wrong(|s, _| s.snapshot_days = Some(3)).contains("snapshot_days is 3: from 5 to 5 days"));
    assert!(
        wrong(|s, _| s.archive = Archiving::After(Span::months(2)))
            .contains("archive.after is 2 months: at least 3 months")
    );
    assert!(wrong(|s, _| s.schedule = Schedule::OnDemandOnly).contains("without a schedule"));
    assert!(
        wrong(|s, _| s.schedule = Schedule::Daily { at: TimeOfDay::new(10, 15).unwrap() })
            .contains("multiple of 30")
    );
    let both = wrong(|s, r| {
        s.schedule = Schedule::Daily { at: TimeOfDay::new(10, 0).unwrap() };
        r.daily = Some(Span::days(6));
        r.yearly.as_mut().unwrap().months = vmkeep_retention::MonthSet::default();
    });
    assert!(
        both.contains("retention.daily is 6 days")
            || both.contains("retention.daily is 6: from 7 to 9999 days")
    );
    assert!(both.contains("yearly.months is empty"), "{both}");
    assert!(wrong(|s, _| s.zone = Zone::named("Europe/Berlin").unwrap()).contains("zone is Europe/Berlin"));
    let mut spec = spec.clone();
    daily(&mut spec);
    assert!(Policy::new(spec, &limits()).unwrap_err().to_string().contains("retention.daily is absent"));
}

#[test]
fn what_azure_cannot_say_is_an_error() {
    let mut spec = parse(&hourly_v2()).spec().unwrap();
    let Retention::Calendar(rules) = &mut spec.retention else { panic!() };
    rules.every = Some(Span::days(3));
    assert!(matches!(AzurePolicy::of(&spec), Err(AzureError::Inexpressible(_))));
    let mut document = weekly_v1();
    document["properties"]["retentionPolicy"]["weeklySchedule"]["retentionTimes"] =
        json!(["2018-01-24T11:00:00Z"]);
    let remarks = parse(&document).remarks();
    assert_eq!(remarks.len(), 1);
    assert_eq!(remarks[0].value, "11:00");
}

#[test]
fn hostile_documents_are_short_errors() {
    let deep = "[".repeat(100_000);
    let nested = format!("{}1{}", r#"{"properties":"#.repeat(5000), "}".repeat(5000));
    for text in
        [deep.as_str(), &nested, "", "nul", "{\"a\":1e999}", "\u{0}", "{\"properties\":{\"properties\":"]
    {
        assert!(AzurePolicy::parse(text.as_bytes()).is_err());
    }
    assert!(matches!(
        AzurePolicy::parse(&vec![b' '; DOCUMENT_BYTES_MAX + 1]),
        Err(AzureError::TooLong { .. })
    ));
    let wide = format!("{{\"properties\":{{\"timeZone\":\"{}\"}}}}", "x".repeat(200_000));
    let error = AzurePolicy::parse(wide.as_bytes()).unwrap().spec().unwrap_err();
    assert!(error.to_string().len() < 1000);
    for text in [
        "a = ".to_owned() + &"[".repeat(60_000),
        "[a.".to_owned() + &"a.".repeat(30_000) + "a]",
        "x".repeat(70_000),
    ] {
        assert!(PolicySpec::from_toml(&text).is_err());
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z0-9:TZ-]{0,24}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z]{1,12}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// Every place in a document.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| pointers(value, &format!("{at}/{key}"), all));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, value)| pointers(value, &format!("{at}/{n}"), all));
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_value_anywhere_is_read_or_refused(which in any::<prop::sample::Index>(), value in any_json(), v2 in any::<bool>()) {
        let mut document = if v2 { hourly_v2() } else { weekly_v1() };
        let mut all = Vec::new();
        pointers(&document, "", &mut all);
        *document.pointer_mut(which.get::<String>(&all)).unwrap() = value;
        let policy = parse(&document);
        prop_assert_eq!(policy.document(), &document);
        if let Ok(spec) = policy.spec() {
            let _ = Policy::new(spec.clone(), &limits());
            let _ = policy.remarks();
            let written = policy.with_spec(&spec).unwrap();
            prop_assert_eq!(written.document(), &document);
        }
    }

    #[test]
    fn what_is_written_is_read_back(
        rules in common::calendar(),
        zone in prop::sample::select(["UTC", "Europe/Berlin", "Pacific Standard Time"].as_slice()),
        (hour, v2) in (0u8..24, any::<bool>()),
        snapshot_days in prop::option::of(1u32..6),
        archive in prop_oneof![Just(Archiving::Never), Just(Archiving::Recommended), Just(Archiving::After(Span::months(5)))],
        over in any::<bool>(),
    ) {
        let spec = PolicySpec {
            zone: Zone::named(zone).unwrap(),
            schedule: Schedule::Daily { at: TimeOfDay::new(hour, 30).unwrap() },
            retention: Retention::Calendar(CalendarRules { every: None, late: true, ..rules }),
            vaulting: vmkeep_retention::Vaulting::EveryPoint,
            snapshot_days,
            archive,
            kind: if v2 { PolicyKind::Enhanced } else { PolicyKind::Standard },
        };
        let written = if over { parse(&weekly_v1()).with_spec(&spec) } else { AzurePolicy::of(&spec) }.unwrap();
        prop_assert_eq!(parse(written.document()).spec().unwrap(), spec.clone());
        prop_assert!(written.remarks().is_empty());
        // The short text says the same.
        prop_assert_eq!(PolicySpec::from_toml(&spec.to_toml()).unwrap(), spec);
    }

    #[test]
    fn any_text_is_a_policy_or_an_error(text in "\\PC{0,200}") {
        let _ = PolicySpec::from_toml(&text);
        let _ = AzurePolicy::parse(text.as_bytes());
    }
}

#[test]
fn a_zone_is_written_by_its_name_of_windows() {
    let mut spec = parse(&hourly_v2()).spec().unwrap();
    for (iana, windows) in [
        ("Europe/Berlin", "W. Europe Standard Time"),
        ("America/New_York", "Eastern Standard Time"),
        ("Asia/Kolkata", "India Standard Time"),
        ("UTC", "UTC"),
        ("gmt standard time", "gmt standard time"),
    ] {
        spec.zone = Zone::named(iana).unwrap();
        let written = AzurePolicy::of(&spec).unwrap();
        assert_eq!(written.document()["properties"]["timeZone"], windows);
        assert_eq!(written.spec().unwrap(), spec, "{iana} is read back as it was");
    }
    spec.zone = Zone::named("Europe/Vaduz").unwrap();
    let error = AzurePolicy::of(&spec).unwrap_err();
    assert!(error.to_string().contains("no name of Windows"), "{error}");
}
