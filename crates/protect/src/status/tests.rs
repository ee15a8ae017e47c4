use proptest::prelude::*;

use super::*;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// 2026-01-01, 00:00 UTC.
const NEW_YEAR: i64 = 1_767_225_600_000;

fn daily() -> (Schedule, Zone) {
    (Schedule::Daily { at: "02:30".parse().unwrap() }, Zone::named("UTC").unwrap())
}

fn last(created: i64) -> LastPoint {
    LastPoint {
        number: PointNumber(3),
        created: Timestamp(created),
        consistency: ConsistencyLevel::FileSystem,
        before: Some(ConsistencyLevel::FileSystem),
    }
}

fn facts(expected: Expected<'_>, last: Option<LastPoint>) -> Facts<'_> {
    let state = State::Protected;
    Facts { state, closed: false, expected, last, unreadable: Vec::new(), suspects: Vec::new() }
}

fn expected((schedule, zone): &(Schedule, Zone), grace: i64) -> Expected<'_> {
    Expected::Schedule { schedule, zone, grace_ms: grace * HOUR, since: Timestamp(NEW_YEAR) }
}

#[test]
fn a_run_that_passed_by_more_than_the_grace_without_a_point_is_overdue() {
    let daily = daily();
    let run = |day: i64| NEW_YEAR + day * DAY + 2 * HOUR + HOUR / 2;
    for (made, now, missed) in [
        // Made by the run of the second day: the one of the third has its four hours.
        (run(1), run(2) - 1, None),
        (run(1), run(2) + 4 * HOUR, None),
        (run(1), run(2) + 4 * HOUR + 1, Some(1)),
        (run(1), run(3), Some(2)),
        (run(1), run(9), Some(8)),
        // A host whose clock is some minutes behind.
        (run(1) - SKEW_MS, run(2) + HOUR, None),
        (run(1) - SKEW_MS - 1, run(1) + 5 * HOUR, Some(1)),
        // On demand, later than the run that made none: the data is there.
        (run(1) + 3 * HOUR, run(2) + HOUR, None),
        // Before the VM was under the schedule.
        (NEW_YEAR - 90 * DAY, run(0) + 4 * HOUR, None),
        (NEW_YEAR - 90 * DAY, run(0) + 5 * HOUR, Some(1)),
    ] {
        let verdict = judge(&facts(expected(&daily, 4), Some(last(made))), Timestamp(now));
        let found = verdict.reasons.iter().find_map(|reason| match reason {
            Reason::Overdue { missed, .. } => Some(*missed),
            _ => None,
        });
        assert_eq!(found, missed, "{made} {now}: {verdict:?}");
        assert_eq!(verdict.level, missed.map_or(Level::Ok, |_| Level::Warning));
    }
}

#[test]
fn what_is_told_of_a_vm_in_each_state() {
    let daily = daily();
    let now = NEW_YEAR + 10 * DAY;
    let old = Some(last(NEW_YEAR + DAY));
    let since = Timestamp(NEW_YEAR);
    let until = Timestamp(NEW_YEAR + 14 * DAY);
    for (state, last, level, told) in [
        (State::Protected, old, Level::Warning, "overdue by 8d since the run of 2026-01-02"),
        (State::Protected, None, Level::Critical, "no point to restore"),
        (State::StoppedRetain { since }, old, Level::Ok, "no backups are made: stopped"),
        (State::StoppedByPolicy { since }, old, Level::Ok, "no backups are made: stopped"),
        (State::StoppedRetain { since }, None, Level::Warning, "no backups are made, and no point is kept"),
        (State::VmGone { since }, old, Level::Ok, "no backups are made: protected, its VM gone"),
        (State::SoftDeleted { since, until }, old, Level::Ok, "had back until 2026-01-15"),
        (State::SoftDeleted { since, until }, None, Level::Ok, "had back until 2026-01-15"),
        (State::Purged { since }, None, Level::Ok, "no backups are made"),
    ] {
        let verdict = judge(&Facts { state, ..facts(expected(&daily, 4), last) }, Timestamp(now));
        assert_eq!(verdict.level, level, "{state:?} {verdict:?}");
        assert!(verdict.reasons[0].to_string().contains(told), "{} / {told}", verdict.reasons[0]);
    }
    let closed = Facts { closed: true, ..facts(Expected::MaxAge(1), None) };
    assert_eq!(judge(&closed, Timestamp(now)).reasons, [Reason::Closed]);
}

#[test]
fn each_reason_has_its_level_and_the_worst_counts() {
    let now = Timestamp(NEW_YEAR + DAY);
    let good = facts(Expected::MaxAge(DAY), Some(last(NEW_YEAR)));
    assert_eq!(judge(&good, now), Verdict { age_ms: Some(DAY), ..Verdict::default() });
    let verdict = judge(&good, Timestamp(now.0 + 1));
    assert_eq!(verdict.reasons, [Reason::TooOld { age_ms: DAY + 1, max_ms: DAY }]);

    let before = Some(ConsistencyLevel::Application);
    let weaker = Facts { last: Some(LastPoint { before, ..last(NEW_YEAR) }), ..good.clone() };
    let said = "its newest point is file-system-consistent, the one before was application-consistent";
    assert_eq!(judge(&weaker, now).reasons[0].to_string(), said);
    let suspect = SuspectPoints { disk: "os".to_owned(), from: PointNumber(1), to: PointNumber(3) };
    let both = Facts { suspects: vec![suspect], unreadable: vec![PointNumber(4)], ..weaker };
    let verdict = judge(&both, now);
    let levels: Vec<Level> = verdict.reasons.iter().map(Reason::level).collect();
    assert_eq!(levels, [Level::Critical, Level::Warning, Level::Warning]);
    assert_eq!(verdict.level, Level::Critical);

    let unjudged = judge(&facts(Expected::Nothing, Some(last(0))), now);
    assert_eq!((unjudged.level, &unjudged.reasons[..]), (Level::Ok, &[Reason::NotJudged][..]));
    // A point that does not open is no point that is still to come.
    let daily = daily();
    let broken = Facts { unreadable: vec![PointNumber(1)], ..facts(expected(&daily, 4), None) };
    assert_eq!(judge(&broken, Timestamp(NEW_YEAR)).level, Level::Critical);
}

#[test]
fn a_clock_that_was_set_back_is_told_of() {
    let daily = daily();
    for expected in [Expected::MaxAge(DAY), Expected::Nothing, expected(&daily, 4)] {
        let verdict = judge(&facts(expected, Some(last(NEW_YEAR + DAY))), Timestamp(NEW_YEAR));
        assert_eq!((verdict.level, verdict.age_ms), (Level::Warning, None));
        assert_eq!(verdict.reasons[0], Reason::FromTheFuture { ahead_ms: DAY });
    }
    let near = judge(&facts(Expected::MaxAge(DAY), Some(last(NEW_YEAR + SKEW_MS))), Timestamp(NEW_YEAR));
    assert_eq!((near.level, near.age_ms), (Level::Ok, Some(0)));
}

#[test]
fn damage_that_verification_found_is_critical_and_nothing_else_about_it_is() {
    let until = Some(Timestamp(NEW_YEAR));
    assert_eq!(judge_vault(None), Verdict::default());
    assert_eq!(judge_vault(Some(Verified { until, damaged: 0 })).level, Level::Ok);
    assert_eq!(judge_vault(Some(Verified { until, damaged: 2 })).level, Level::Critical);
    assert_eq!(judge_vault(Some(Verified { until: None, damaged: 1 })).level, Level::Critical);
}

fn level() -> impl Strategy<Value = ConsistencyLevel> {
    prop_oneof![
        Just(ConsistencyLevel::Crash),
        Just(ConsistencyLevel::FileSystem),
        Just(ConsistencyLevel::Application)
    ]
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let at =
        || (0_u32..24, 0_u32..2).prop_map(|(h, half)| format!("{h:02}:{:02}", half * 30).parse().unwrap());
    prop_oneof![
        at().prop_map(|at| Schedule::Daily { at }),
        Just(Schedule::Hourly { start: "00:00".parse().unwrap(), every: 4, window: 24 }),
        Just(Schedule::OnDemandOnly),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Time alone makes nothing better; what it is held against may be anything.
    #[test]
    fn a_verdict_is_monotone_in_age(
        schedule in schedules(),
        kind in 0..3,
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "Pacific/Apia", "Asia/Kolkata"]),
        grace in 0..48_i64,
        made in prop::option::of((0..40 * DAY, level(), prop::option::of(level()))),
        mut at in prop::collection::vec(0..60 * DAY, 2..8),
    ) {
        let zone = Zone::named(zone).unwrap();
        let expected = match kind {
            0 => Expected::Nothing,
            1 => Expected::MaxAge(grace * HOUR),
            _ => Expected::Schedule {
                schedule: &schedule, zone: &zone, grace_ms: grace * HOUR, since: Timestamp(NEW_YEAR),
            },
        };
        let last = made.map(|(at, consistency, before)| LastPoint {
            number: PointNumber(1), created: Timestamp(NEW_YEAR + at), consistency, before,
        });
        let facts = facts(expected, last);
        at.sort_unstable();
        let begin = made.map_or(NEW_YEAR, |(at, ..)| NEW_YEAR + at);
        let levels: Vec<Level> = at.iter().map(|at| judge(&facts, Timestamp(begin + at)).level).collect();
        prop_assert!(levels.is_sorted(), "{:?}", levels);
    }

    /// Overdue is as the definition in words says: some run after the point has passed by more than the grace.
    #[test]
    fn overdue_is_what_a_look_at_every_run_says(
        schedule in schedules(), grace in 0..30_i64, made in 0..20 * DAY, now in 0..30 * DAY,
    ) {
        let zone = Zone::named("Europe/Berlin").unwrap();
        let (created, now) = (Timestamp(NEW_YEAR + made), Timestamp(NEW_YEAR + now));
        let since = Timestamp(NEW_YEAR);
        let expected = Expected::Schedule { schedule: &schedule, zone: &zone, grace_ms: grace * HOUR, since };
        let all = runs(&schedule, &zone, since).take_while(|run| run.at.0 < NEW_YEAR + 40 * DAY);
        let missed = all.filter(|run| {
            run.at > since && run.at.0 > created.0 + SKEW_MS && now.0 - run.at.0 > grace * HOUR
        });
        let is_overdue = missed.count() > 0;
        let verdict = judge(&facts(expected, Some(last(created.0))), now);
        let told = verdict.reasons.iter().any(|reason| matches!(reason, Reason::Overdue { .. }));
        prop_assert_eq!(told, is_overdue);
    }

    /// Whatever the times and numbers are, there is an answer.
    #[test]
    fn no_time_is_too_odd(created: i64, now: i64, since: i64, grace_ms: i64, max: bool) {
        let daily = daily();
        let (schedule, zone) = (&daily.0, &daily.1);
        let expected = if max { Expected::MaxAge(grace_ms) } else {
            Expected::Schedule { schedule, zone, grace_ms, since: Timestamp(since) }
        };
        for last in [None, Some(last(created))] {
            let verdict = judge(&facts(expected.clone(), last), Timestamp(now));
            prop_assert!(verdict.reasons.iter().all(|reason| !reason.to_string().is_empty()));
            prop_assert!(verdict.age_ms.is_none_or(|age| age >= 0));
        }
    }
}
