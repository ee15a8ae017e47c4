//! Every state with every event, a model, and what immutability and soft delete allow.

#![allow(clippy::unwrap_used)] // a test may panic, in its helpers too

use proptest::prelude::*;
use vmkeep_model::{Operation, Timestamp, VmName};
use vmkeep_retention::{
    Blocked, Change, Context, Effect, Event, Immutability, Irreversible, LifecycleError,
    ProtectionChangeError, SoftDelete, State, StateKind,
};

const DAY: i64 = 86_400_000;

fn vm() -> VmName {
    "web".parse().unwrap()
}

fn context(vm: &VmName, now: i64) -> Context<'_> {
    Context {
        vm,
        points: 3,
        soft_delete: SoftDelete::Enabled { days: 14 },
        immutability: Immutability::Disabled,
        confirmation: None,
        now: Timestamp(now),
    }
}

/// One state of each kind; the soft-deleted one until day 14.
fn states() -> [State; 7] {
    let since = Timestamp(0);
    [
        State::Unprotected,
        State::Protected,
        State::VmGone { since },
        State::StoppedRetain { since },
        State::StoppedByPolicy { since },
        State::SoftDeleted { since, until: Timestamp(14 * DAY) },
        State::Purged { since },
    ]
}

/// The state after each event on day one, in the order of `Event::ALL`; `.` for refused. Letters as in the first column.
const TABLE: [(char, &str); 7] = [
    // protect, gone, back, retain, by policy, delete, undelete, resume, purge, tick
    ('U', "PUU......U"),
    ('P', ".GPRBD...P"),
    ('G', ".GPRBD...G"),
    ('R', ".RR..D.P.R"),
    ('B', ".BBR.D.P.B"),
    ('D', ".DD...R..D"),
    ('X', "PXX......X"),
];

fn letter(kind: StateKind) -> char {
    match kind {
        StateKind::Unprotected => 'U',
        StateKind::Protected => 'P',
        StateKind::VmGone => 'G',
        StateKind::StoppedRetain => 'R',
        StateKind::StoppedByPolicy => 'B',
        StateKind::SoftDeleted => 'D',
        StateKind::Purged => 'X',
    }
}

#[test]
fn every_state_with_every_event() {
    let vm = vm();
    for (state, (from, row)) in states().into_iter().zip(TABLE) {
        assert_eq!(letter(state.kind()), from);
        for (event, expected) in Event::ALL.into_iter().zip(row.chars()) {
            let found = state.step(event, &context(&vm, DAY)).map_or('.', |step| letter(step.state.kind()));
            assert_eq!(found, expected, "{event} while {}", state.kind());
        }
    }
}

#[test]
fn effects_say_what_is_to_be_done() {
    let vm = vm();
    let effects = |state: State, event, now| state.step(event, &context(&vm, now)).unwrap().effects;
    let until = Timestamp(15 * DAY);
    let [_, protected, gone, retained, by_policy, deleted, _] = states();
    assert_eq!(effects(State::Unprotected, Event::Protect, 0), [Effect::BackupsStart]);
    assert_eq!(effects(protected, Event::StopRetain, 0), [Effect::BackupsStop, Effect::ExpiryStops]);
    assert_eq!(effects(protected, Event::StopByPolicy, 0), [Effect::BackupsStop]);
    assert_eq!(effects(protected, Event::VmGone, 0), [Effect::BackupsStop]);
    assert_eq!(effects(gone, Event::VmBack, 0), [Effect::BackupsStart]);
    assert_eq!(effects(retained, Event::Resume, 0), [Effect::BackupsStart, Effect::ExpiryResumes]);
    assert_eq!(
        effects(by_policy, Event::StopDelete, DAY),
        [Effect::ExpiryStops, Effect::PointsDeleted { until }]
    );
    assert_eq!(effects(deleted, Event::Undelete, DAY), [Effect::PointsRestored]);
    assert_eq!(effects(deleted, Event::Tick, 14 * DAY - 1), []);
    assert_eq!(effects(deleted, Event::Tick, 14 * DAY), [Effect::PointsRemoved]);
    assert!(matches!(
        deleted.step(Event::Undelete, &context(&vm, 14 * DAY)),
        Err(LifecycleError::TooLate { .. })
    ));
}

#[test]
fn nothing_is_gone_for_good_without_its_token() {
    let vm = vm();
    let base = Context { soft_delete: SoftDelete::Disabled, ..context(&vm, DAY) };
    for (state, event) in [(State::Protected, Event::StopDelete), (states()[5], Event::Purge)] {
        assert!(matches!(state.step(event, &base), Err(LifecycleError::NotConfirmed(_))));
        let what = state.irreversible(event, &base).unwrap();
        let confirmed = what.confirm(&what.token()).unwrap();
        let sure = Context { confirmation: Some(&confirmed), ..base };
        assert_eq!(state.step(event, &sure).unwrap().state.kind(), StateKind::Purged);
        // One more point, or another end, and it is not what was confirmed.
        let more = Context { points: 4, ..sure };
        let other = State::SoftDeleted { since: Timestamp(0), until: Timestamp(99 * DAY) };
        let changed = if event == Event::Purge { other.step(event, &sure) } else { state.step(event, &more) };
        assert!(matches!(changed, Err(LifecycleError::NotConfirmed(_))));
        for immutability in [Immutability::Unlocked, Immutability::Locked] {
            let immutable = Context { immutability, ..sure };
            assert!(matches!(state.step(event, &immutable), Err(LifecycleError::Blocked(_))));
        }
    }
    // While soft delete is on, nothing is purged.
    let on = context(&vm, DAY);
    assert!(matches!(states()[5].step(Event::Purge, &on), Err(LifecycleError::SoftDeleteIsOn { .. })));
}

/// A life in other words: whether backups are made, whether points are there, whether they age, and until when they are deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Life {
    backs_up: bool,
    points: bool,
    ages: bool,
    deleted_until: Option<i64>,
}

fn live(life: Life, event: Event, now: i64) -> Life {
    let stopped = Life { backs_up: false, ..life };
    let there = life.points && life.deleted_until.is_none();
    match event {
        Event::Protect if !life.points => {
            Life { backs_up: true, points: true, ages: true, deleted_until: None }
        }
        Event::VmGone => stopped,
        Event::VmBack if there && life.ages && !life.backs_up => life,
        Event::StopRetain if there && life.ages => Life { ages: false, ..stopped },
        Event::StopByPolicy if there && life.ages => stopped,
        Event::StopDelete if there => Life { ages: false, deleted_until: Some(now + 14 * DAY), ..stopped },
        Event::Undelete if life.deleted_until.is_some_and(|until| now < until) => {
            Life { deleted_until: None, ..life }
        }
        Event::Resume if there && !life.backs_up => Life { backs_up: true, ages: true, ..life },
        Event::Tick if life.deleted_until.is_some_and(|until| now >= until) => Life::default(),
        _ => life,
    }
}

proptest! {
    #[test]
    fn any_life_agrees_with_the_model(events in prop::collection::vec((prop::sample::select(Event::ALL.as_slice()), 0i64..20), 0..40)) {
        let vm = vm();
        let (mut state, mut life, mut now) = (State::Unprotected, Life::default(), 0);
        for (event, days) in events {
            now += days * DAY;
            // The model does not know a gone VM from one that is stopped as per policy.
            let gone = matches!(state, State::VmGone { .. });
            if (gone && event == Event::Resume) || (state.kind() == StateKind::StoppedByPolicy && event == Event::StopByPolicy) {
                continue;
            }
            if let Ok(step) = state.step(event, &context(&vm, now)) {
                state = step.state;
            }
            life = live(life, event, now);
            if gone && event == Event::VmBack {
                life.backs_up = true;
            }
            let kind = state.kind();
            prop_assert_eq!(kind.backs_up(), life.backs_up, "{:?} {:?}", kind, event);
            prop_assert_eq!(kind.points_expire(), life.points && life.ages, "{:?} {:?}", kind, event);
            prop_assert_eq!(kind.restores(), life.points && life.deleted_until.is_none());
        }
    }
}

#[test]
fn immutability_blocks_what_weakens() {
    use Change as C;
    for change in C::ALL {
        let harmless = matches!(change, C::ChangeSchedule | C::IncreaseRetention { suspended: false });
        assert_eq!(Immutability::Disabled.allows(change), Ok(()));
        for state in [Immutability::Unlocked, Immutability::Locked] {
            let expected = match change {
                _ if harmless => Ok(()),
                C::IncreaseRetention { .. } => Err(Blocked::Suspended { change }),
                _ => Err(Blocked::Immutable { change, state }),
            };
            assert_eq!(state.allows(change), expected);
        }
        // Whatever takes points away is an operation that a second person approves.
        assert_eq!(change.needs_approval(), !matches!(change.operation(), Operation::ChangePolicy));
    }
}

#[test]
fn a_lock_is_for_ever_and_takes_two_steps_and_a_token() {
    use Immutability::{Disabled, Locked, Unlocked};
    let lock = Irreversible::LockImmutability { last_expiry: None, longest_days: 36_159, vms: 2 };
    assert!(lock.meaning().contains("36159 days") && lock.meaning().contains("never expires"));
    let sure = lock.confirm(&lock.token()).unwrap();
    let to = |from: Immutability, to, confirmed: bool| from.change_to(to, &lock, confirmed.then_some(&sure));
    assert_eq!(to(Disabled, Unlocked, false), Ok(Unlocked));
    assert_eq!(to(Unlocked, Disabled, false), Ok(Disabled));
    assert_eq!(to(Disabled, Locked, true), Err(ProtectionChangeError::NotAtOnce));
    assert!(matches!(to(Unlocked, Locked, false), Err(ProtectionChangeError::NotConfirmed(_))));
    assert_eq!(to(Unlocked, Locked, true), Ok(Locked));
    for back in [Disabled, Unlocked] {
        assert_eq!(to(Locked, back, true), Err(ProtectionChangeError::Locked { to: back }));
    }
    let other = Irreversible::LockImmutability { last_expiry: None, longest_days: 30, vms: 2 };
    assert_ne!(other.token(), lock.token());
    assert!(Unlocked.change_to(Locked, &other, Some(&sure)).is_err());
}

#[test]
fn soft_delete_that_is_always_on_only_grows() {
    let (on, always) = (SoftDelete::Enabled { days: 30 }, SoftDelete::AlwaysOn { days: 30 });
    let change = |from: SoftDelete, to, immutability| from.change_to(to, immutability, None);
    let free = Immutability::Disabled;
    assert_eq!(change(on, SoftDelete::Disabled, free), Ok(SoftDelete::Disabled));
    assert!(matches!(
        change(on, SoftDelete::Disabled, Immutability::Locked),
        Err(ProtectionChangeError::Blocked(_))
    ));
    for days in [0, 13, 181] {
        assert_eq!(change(on, SoftDelete::Enabled { days }, free), Err(ProtectionChangeError::Days { days }));
    }
    assert!(matches!(change(on, always, free), Err(ProtectionChangeError::NotConfirmed(_))));
    let what = Irreversible::AlwaysOnSoftDelete { days: 30 };
    assert_eq!(on.change_to(always, free, Some(&what.confirm(&what.token()).unwrap())), Ok(always));
    for to in [SoftDelete::Disabled, on, SoftDelete::Enabled { days: 90 }, SoftDelete::AlwaysOn { days: 29 }]
    {
        assert!(matches!(change(always, to, free), Err(ProtectionChangeError::AlwaysOn { .. })), "{to}");
    }
    let longer = SoftDelete::AlwaysOn { days: 60 };
    assert_eq!(change(always, longer, Immutability::Locked), Ok(longer));
}
