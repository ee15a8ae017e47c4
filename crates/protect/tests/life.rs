//! The life of a protected VM over a real vault, in simulated time: which step is possible from where, what immutability blocks, what a
//! second person approves, and what becomes of the points.
#![allow(clippy::unwrap_used)] // in helpers too

use std::sync::Arc;

use object_store::memory::InMemory;
use vmkeep_backup::{Plan, Settings, Silent, Source, SourceDisk, run};
use vmkeep_disk::Memory;
use vmkeep_envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep_model::{
    BlockSize, CancelToken, DiskDescription, DiskRole, ManualClock, Op, Operation, Permit, PointNumber,
    Principal, Scope, Timestamp, VmName, op,
};
use vmkeep_protect::retention::{
    Confirmation, Effect, Event, Immutability, Irreversible, SoftDelete, State, StateKind,
};
use vmkeep_protect::{Next, PolicySource, ProtectError, Protection, Stop, labels};
use vmkeep_testkit::permit;
use vmkeep_vault::{CompressionLevel, Ports, SweepSettings, Vault};

const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;
/// Wednesday, 2025-01-01, 00:00 UTC.
const BEGIN: i64 = 1_735_689_600_000;

fn vm() -> VmName {
    "web".parse().unwrap()
}

fn daily(days: u32) -> PolicySource {
    PolicySource::Toml(format!(
        "schedule.daily = {{ at = \"02:00\" }}\nretention = {{ daily = \"{days} days\" }}"
    ))
}

struct Scene {
    vault: Vault,
    clock: Arc<ManualClock>,
}

impl Scene {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(BEGIN)));
        let key = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
        let ports = Ports { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(1)) };
        Self { vault: Vault::create(Arc::new(InMemory::new()), key, ports).unwrap(), clock }
    }

    /// A VM under a policy of ten days, with points of so many days.
    fn protected(days: i64) -> Self {
        let scene = Self::new();
        let mut protection = scene.open();
        protection.set_policy(&permit(), None, "p", daily(10)).unwrap();
        protection.protect(&permit(), None, &vm(), "p").unwrap();
        for day in 0..days {
            scene.clock.set(Timestamp(BEGIN + day * DAY + 2 * HOUR));
            scene.back_up(day);
        }
        scene
    }

    fn open(&self) -> Protection<'_> {
        Protection::open(&self.vault).unwrap()
    }

    fn pass(&self, ms: i64) {
        self.clock.set(Timestamp(self.vault.clock().now().0 + ms));
    }

    fn back_up(&self, seed: i64) {
        let source = Memory::from(vec![u8::try_from(seed % 251).unwrap() + 1; 1 << 16]);
        let description = DiskDescription { name: "os".parse().unwrap(), role: DiskRole::Os, lun: None };
        let disks = vec![SourceDisk { description, source: Source::Read(&source) }];
        let plan = Plan { labels: labels::scheduled("p", 1).unwrap(), ..Plan::new(vm(), disks) };
        let settings = Settings {
            level: CompressionLevel::Fast,
            block_size: BlockSize::MIN,
            workers: 1,
            memory_bytes: Settings::MEMORY_MIN,
            ..Settings::default()
        };
        run(&permit(), &self.vault, &plan, &settings, &Silent, &CancelToken::new()).unwrap();
    }

    fn sweep(&self) {
        self.vault.sweep(&permit(), &SweepSettings::default(), &CancelToken::new(), &mut |_| {}).unwrap();
    }

    /// The points that are there and not forgotten.
    fn points(&self) -> usize {
        self.open().points(&vm()).unwrap().len()
    }

    fn state(&self) -> StateKind {
        self.open().instance(&vm()).unwrap().state.kind()
    }

    /// Takes a step with every leave and confirmation; whether it was possible.
    fn step(&self, event: Event) -> Result<(), ProtectError> {
        let mut protection = self.open();
        let confirmed = protection.irreversible(&vm(), event)?.map(|what| confirm(&what));
        let confirmed = confirmed.as_ref();
        match event {
            Event::Protect => return protection.protect(&permit(), None, &vm(), "p"),
            Event::VmGone => protection.vm_gone(&permit(), &vm()),
            Event::VmBack => protection.vm_back(&permit(), &vm()),
            Event::StopRetain => protection.stop(&permit(), &vm(), Stop::Retain),
            Event::StopByPolicy => protection.stop(&permit(), &vm(), Stop::ByPolicy),
            Event::StopDelete => protection.delete(&permit(), &vm(), confirmed),
            Event::Undelete => protection.undelete(&permit(), &vm()),
            Event::Resume => protection.resume(&permit(), &vm()),
            Event::Purge => protection.purge(&permit(), &vm(), confirmed),
            Event::Tick => return protection.settle(&permit(), &permit(), &vm()).map(drop),
        }
        .map(drop)
    }

    /// Brings a fresh scene into a state.
    fn in_state(state: StateKind) -> Self {
        let scene = Self::protected(3);
        let way: &[Event] = match state {
            StateKind::VmGone => &[Event::VmGone],
            StateKind::StoppedRetain => &[Event::StopRetain],
            StateKind::StoppedByPolicy => &[Event::StopByPolicy],
            StateKind::SoftDeleted | StateKind::Purged => &[Event::StopDelete],
            StateKind::Protected | StateKind::Unprotected => &[],
        };
        for event in way {
            scene.step(*event).unwrap();
        }
        if state == StateKind::Purged {
            scene.pass(14 * DAY);
            scene.step(Event::Tick).unwrap();
        }
        assert_eq!(scene.state(), state);
        scene
    }
}

fn confirm(what: &Irreversible) -> Confirmation {
    what.confirm(&what.token()).unwrap()
}

#[test]
fn every_step_from_every_state_goes_where_the_table_says_or_is_refused() {
    use StateKind::{Protected, Purged, SoftDeleted, StoppedByPolicy, StoppedRetain, VmGone};
    let table: [(StateKind, [Option<StateKind>; 9]); 6] = [
        // protect, gone, back, retain, by policy, delete, undelete, resume, purge (soft delete being on)
        (
            Protected,
            [
                Some(Protected),
                Some(VmGone),
                Some(Protected),
                Some(StoppedRetain),
                Some(StoppedByPolicy),
                Some(SoftDeleted),
                None,
                None,
                None,
            ],
        ),
        (
            VmGone,
            [
                Some(Protected),
                Some(VmGone),
                Some(Protected),
                Some(StoppedRetain),
                Some(StoppedByPolicy),
                Some(SoftDeleted),
                None,
                None,
                None,
            ],
        ),
        (
            StoppedRetain,
            [
                None,
                Some(StoppedRetain),
                Some(StoppedRetain),
                None,
                None,
                Some(SoftDeleted),
                None,
                Some(Protected),
                None,
            ],
        ),
        (
            StoppedByPolicy,
            [
                None,
                Some(StoppedByPolicy),
                Some(StoppedByPolicy),
                Some(StoppedRetain),
                None,
                Some(SoftDeleted),
                None,
                Some(Protected),
                None,
            ],
        ),
        (
            SoftDeleted,
            [None, Some(SoftDeleted), Some(SoftDeleted), None, None, None, Some(StoppedRetain), None, None],
        ),
        (Purged, [Some(Protected), Some(Purged), Some(Purged), None, None, None, None, None, None]),
    ];
    let events = [
        Event::Protect,
        Event::VmGone,
        Event::VmBack,
        Event::StopRetain,
        Event::StopByPolicy,
        Event::StopDelete,
        Event::Undelete,
        Event::Resume,
        Event::Purge,
    ];
    for (from, row) in table {
        for (event, to) in events.into_iter().zip(row) {
            let scene = Scene::in_state(from);
            let before = scene.points();
            let done = scene.step(event);
            assert_eq!(done.is_ok(), to.is_some(), "{event} from {from}: {done:?}");
            assert_eq!(scene.state(), to.unwrap_or(from), "{event} from {from}");
            assert_eq!(scene.points(), before, "{event} from {from} takes no point");
        }
    }
}

#[test]
fn what_is_deleted_stays_for_the_days_of_soft_delete_and_can_be_had_back() {
    for days in [14, 60, 180] {
        let scene = Scene::protected(5);
        let wanted = SoftDelete::Enabled { days };
        scene.open().set_soft_delete(&permit(), None, wanted, None).unwrap();
        let effects = scene.open().delete(&permit(), &vm(), None).unwrap();
        let until = Timestamp(scene.vault.clock().now().0 + i64::from(days) * DAY);
        assert!(effects.contains(&Effect::PointsDeleted { until }), "{effects:?}");
        // What is changed later does not shorten it.
        let weaken = permit::<op::DisableSoftDelete>();
        let _ =
            scene.open().set_soft_delete(&permit(), Some(&weaken), SoftDelete::Enabled { days: 14 }, None);
        scene.pass(i64::from(days) * DAY - 1);
        let mut protection = scene.open();
        let settled = protection.settle(&permit(), &permit(), &vm()).unwrap();
        assert_eq!((settled.state.kind(), settled.forgotten.len()), (StateKind::SoftDeleted, 0));
        assert_eq!(protection.plan(&vm()).unwrap().expired().count(), 0, "nothing expires meanwhile");
        scene.sweep();
        assert_eq!(scene.points(), 5);
        protection.undelete(&permit(), &vm()).unwrap();
        scene.pass(1);
        assert_eq!(scene.state(), StateKind::StoppedRetain);
        // Back, and protected again: then the policy acts on what is overdue, all but the newest.
        let effects = scene.open().resume(&permit(), &vm()).unwrap();
        assert!(effects.contains(&Effect::ExpiryResumes), "{effects:?}");
        assert_eq!(scene.open().plan(&vm()).unwrap().expired().count(), 4);
    }
}

#[test]
fn when_its_time_is_over_it_is_purged_and_a_sweep_takes_all_but_what_is_held() {
    let scene = Scene::protected(5);
    scene.vault.hold(&permit(), &"web@2".parse().unwrap()).unwrap();
    scene.step(Event::StopDelete).unwrap();
    scene.pass(14 * DAY);
    let late = scene.open().undelete(&permit(), &vm());
    assert!(late.unwrap_err().to_string().contains("could be had back until"));
    let settled = scene.open().settle(&permit(), &permit(), &vm()).unwrap();
    let numbers: Vec<u64> = settled.forgotten.iter().map(|number| number.0).collect();
    assert_eq!(
        (numbers, settled.held.clone(), settled.closed),
        (vec![1, 3, 4, 5], vec![PointNumber(2)], false)
    );
    scene.sweep();
    scene.vault.point(&"web@2".parse().unwrap()).unwrap();
    // Again and again, until there is nothing left to do.
    assert_eq!(scene.open().settle(&permit(), &permit(), &vm()).unwrap().forgotten, []);
    scene.vault.release(&permit(), &"web@2".parse().unwrap()).unwrap();
    let settled = scene.open().settle(&permit(), &permit(), &vm()).unwrap();
    assert_eq!((settled.forgotten, settled.closed), (vec![PointNumber(2)], true));
    scene.sweep();
    assert_eq!(scene.vault.points(&vm()).unwrap().len(), 0, "nothing is left, the newest neither");
    // Protected again, it begins a new line of points.
    scene.step(Event::Protect).unwrap();
    assert_eq!(scene.open().instance(&vm()).unwrap().since, scene.vault.clock().now());
    scene.back_up(1);
    assert_eq!(scene.vault.point(&"web@latest".parse().unwrap()).unwrap().point().id.number, PointNumber(1));
}

#[test]
fn always_on_soft_delete_is_for_ever_and_takes_a_confirmation() {
    let scene = Scene::protected(1);
    let always = SoftDelete::AlwaysOn { days: 30 };
    let refused = scene.open().set_soft_delete(&permit(), None, always, None).unwrap_err();
    assert!(refused.is_unconfirmed() && refused.to_string().contains("30 days"), "{refused}");
    let other = confirm(&Irreversible::AlwaysOnSoftDelete { days: 31 });
    assert!(scene.open().set_soft_delete(&permit(), None, always, Some(&other)).is_err());
    let confirmed = confirm(&Irreversible::AlwaysOnSoftDelete { days: 30 });
    scene.open().set_soft_delete(&permit(), None, always, Some(&confirmed)).unwrap();
    let weaken = permit::<op::DisableSoftDelete>();
    for to in [SoftDelete::Disabled, SoftDelete::Enabled { days: 180 }, SoftDelete::AlwaysOn { days: 29 }] {
        let refused = scene.open().set_soft_delete(&permit(), Some(&weaken), to, None).unwrap_err();
        assert!(refused.to_string().contains("always on"), "{refused}");
    }
    scene.open().set_soft_delete(&permit(), None, SoftDelete::AlwaysOn { days: 90 }, None).unwrap();
    for days in [0, 13, 181, u32::MAX] {
        assert!(scene.open().set_soft_delete(&permit(), None, SoftDelete::AlwaysOn { days }, None).is_err());
    }
    assert_eq!(scene.open().soft_delete(), SoftDelete::AlwaysOn { days: 90 });
    // Purging before the time is not possible while it is on.
    scene.step(Event::StopDelete).unwrap();
    assert!(scene.step(Event::Purge).is_err());
}

#[test]
fn without_soft_delete_deletion_and_purge_take_a_confirmation_of_the_facts() {
    let scene = Scene::protected(3);
    let off = |scene: &Scene| {
        let weaken = permit::<op::DisableSoftDelete>();
        scene.open().set_soft_delete(&permit(), Some(&weaken), SoftDelete::Disabled, None).unwrap();
    };
    let without = scene.open().set_soft_delete(&permit(), None, SoftDelete::Disabled, None).unwrap_err();
    assert!(matches!(without, ProtectError::NeedsLeave { operation: Operation::DisableSoftDelete, .. }));
    scene.step(Event::StopDelete).unwrap();
    off(&scene);
    let mut protection = scene.open();
    assert!(protection.purge(&permit(), &vm(), None).unwrap_err().is_unconfirmed());
    let what = protection.irreversible(&vm(), Event::Purge).unwrap().unwrap();
    protection.purge(&permit(), &vm(), Some(&confirm(&what))).unwrap();
    assert_eq!(scene.open().settle(&permit(), &permit(), &vm()).unwrap().forgotten.len(), 3);

    let scene = Scene::protected(3);
    off(&scene);
    let what = scene.open().irreversible(&vm(), Event::StopDelete).unwrap().unwrap();
    let confirmed = confirm(&what);
    scene.back_up(9);
    let changed = scene.open().delete(&permit(), &vm(), Some(&confirmed)).unwrap_err();
    assert!(changed.is_unconfirmed(), "there is a point more than was confirmed: {changed}");
    scene.step(Event::StopDelete).unwrap();
    assert!(matches!(scene.open().instance(&vm()).unwrap().state, State::Purged { .. }));
}

#[test]
fn immutability_blocks_all_that_takes_points_away_sooner_and_nothing_else() {
    for locked in [false, true] {
        let scene = Scene::protected(3);
        let mut protection = scene.open();
        let (shorten, weaken) = (permit::<op::ShortenRetention>(), permit::<op::DisableSoftDelete>());
        protection.set_policy(&permit(), None, "short", daily(7)).unwrap();
        let at_once = protection.set_immutability(&permit(), None, Immutability::Locked, None).unwrap_err();
        assert!(at_once.to_string().contains("unlocked first"), "{at_once}");
        protection.set_immutability(&permit(), None, Immutability::Unlocked, None).unwrap();
        if locked {
            let refused =
                protection.set_immutability(&permit(), None, Immutability::Locked, None).unwrap_err();
            assert!(refused.is_unconfirmed(), "{refused}");
            let what = protection.locking().unwrap();
            let Irreversible::LockImmutability { last_expiry, longest_days, vms } = &what else { panic!() };
            assert_eq!((*longest_days, *vms), (10, 1));
            assert_eq!(last_expiry.unwrap().0, BEGIN + 12 * DAY + 2 * HOUR);
            let confirmed = confirm(&what);
            protection.set_immutability(&permit(), None, Immutability::Locked, Some(&confirmed)).unwrap();
        }
        let blocked = [
            protection.set_policy(&permit(), Some(&shorten), "p", daily(9)).map(drop),
            protection.protect(&permit(), Some(&shorten), &vm(), "short"),
            protection.delete(&permit(), &vm(), None).map(drop),
            protection.set_soft_delete(&permit(), Some(&weaken), SoftDelete::Disabled, None),
            protection.may_forget(&vm(), PointNumber(1)),
        ];
        for refused in blocked {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, ProtectError::Blocked(_)), "{refused:?}");
        }
        // Longer, another schedule, stopping with the points kept: these it allows. For ever is confirmed.
        let longer = protection.set_policy(&permit(), None, "p", daily(20));
        assert_eq!(longer.is_err(), locked, "{longer:?}");
        if locked {
            assert!(longer.unwrap_err().is_unconfirmed());
            let confirmed = confirm(&Irreversible::LongRetentionUnderLock { days: 20 });
            protection.set_policy_confirmed(&permit(), None, "p", daily(20), Some(&confirmed)).unwrap();
        }
        let later = PolicySource::Toml(
            "schedule.daily = { at = \"03:00\" }\nretention = { daily = \"20 days\" }".into(),
        );
        protection.set_policy(&permit(), None, "p", later).unwrap();
        protection.stop(&permit(), &vm(), Stop::ByPolicy).unwrap();
        let suspended = protection.set_policy(&permit(), None, "p", daily(30)).unwrap_err();
        assert!(suspended.to_string().contains("resume it first"), "{suspended}");
        protection.resume(&permit(), &vm()).unwrap();
        // What the policy lets go, goes.
        scene.pass(60 * DAY);
        assert!(protection.may_forget(&vm(), PointNumber(1)).is_ok());
        let plan = protection.plan(&vm()).unwrap();
        assert_eq!(protection.prune(&permit(), &vm(), &plan).unwrap().forgotten.len(), 2);
        // Off again takes leave of its own, and never when it is locked.
        let alone = protection.set_immutability(&permit(), None, Immutability::Disabled, None).unwrap_err();
        assert_eq!(matches!(alone, ProtectError::Shortens { .. }), !locked, "{alone:?}");
        let off = protection.set_immutability(&permit(), Some(&shorten), Immutability::Disabled, None);
        assert_eq!(off.is_ok(), !locked, "{off:?}");
        assert_eq!(scene.open().immutability() == Immutability::Locked, locked);
    }
}

/// Asks the vault's roles for leave, as `who`.
fn ask<O: Op>(vault: &Vault, who: &str) -> Result<Permit<O>, vmkeep_model::Denied> {
    let roles = vault.roles().unwrap().authorizer(who.parse().unwrap(), vault.clock().now());
    Permit::ask(&roles, Scope::Vm(vm()))
}

#[test]
fn a_protected_step_takes_the_approval_of_a_second_person_for_a_time() {
    let scene = Scene::protected(3);
    let vault = &scene.vault;
    let cora: Principal = "cora".parse().unwrap();
    vault.grant_role(&permit(), &cora, "backup-contributor").unwrap();
    vault.grant_role(&permit(), &"mia".parse().unwrap(), "backup-mua-admin").unwrap();
    let denied = ask::<op::StopWithDelete>(vault, "cora").unwrap_err();
    assert!(denied.why.contains("second person (mia, owner)"), "{denied}");
    // Stopping with the points kept needs nobody.
    let close = ask::<op::Close>(vault, "cora").unwrap();
    scene.open().stop(&close, &vm(), Stop::Retain).unwrap();
    let approve = ask::<op::Approve>(vault, "mia").unwrap();
    let until = Timestamp(vault.clock().now().0 + 8 * HOUR);
    vault.approve(&approve, &cora, Operation::StopWithDelete, until).unwrap();
    let permit_of_cora = ask::<op::StopWithDelete>(vault, "cora").unwrap();
    assert!(ask::<op::ShortenRetention>(vault, "cora").is_err(), "it is for that alone");
    assert!(ask::<op::StopWithDelete>(vault, "mia").is_err(), "who approves does not act");
    let db: VmName = "db".parse().unwrap();
    let other = scene.open().delete(&permit_of_cora, &db, None);
    assert!(matches!(other, Err(ProtectError::Denied(_))), "it is for one VM alone: {other:?}");
    scene.open().delete(&permit_of_cora, &vm(), None).unwrap();
    let notes = vault.notes().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(notes.last().unwrap().by.as_ref(), Some(&cora), "the note says who did it");
    scene.open().undelete(&ask(vault, "cora").unwrap(), &vm()).unwrap();
    scene.pass(8 * HOUR);
    assert!(ask::<op::StopWithDelete>(vault, "cora").is_err(), "it has expired");
}

#[test]
fn what_two_people_decide_at_once_is_held_against_the_newest_notes() {
    let scene = Scene::protected(2);
    let (mut one, mut other) = (scene.open(), scene.open());
    one.delete(&permit(), &vm(), None).unwrap();
    let late = other.resume(&permit(), &vm()).unwrap_err();
    assert!(late.to_string().contains("undelete it first"), "{late}");
    one.undelete(&permit(), &vm()).unwrap();
    one.set_immutability(&permit(), None, Immutability::Unlocked, None).unwrap();
    assert!(matches!(other.delete(&permit(), &vm(), None), Err(ProtectError::Blocked(_))));
}

#[test]
fn a_scheduler_makes_the_first_backup_at_once_and_then_what_is_due_once() {
    let scene = Scene::protected(0);
    let next = |attempted| scene.open().next_backup(&vm(), attempted).unwrap();
    assert_eq!(next(None), Next::First);
    let Next::At(run) = next(Some(Timestamp(BEGIN))) else { panic!("a failed one waits for the next time") };
    assert_eq!(run.at.0, BEGIN + 2 * HOUR);
    scene.pass(HOUR);
    scene.back_up(0);
    let Next::At(run) = next(None) else { panic!("made") };
    assert_eq!(run.at.0, BEGIN + 2 * HOUR);
    scene.pass(HOUR);
    assert!(
        matches!(next(None), Next::Now { run, missed: 0, catch_up: false } if run.at.0 == BEGIN + 2 * HOUR)
    );
    scene.back_up(1);
    // Whoever comes second sees the point.
    assert!(matches!(next(None), Next::At(run) if run.at.0 == BEGIN + DAY + 2 * HOUR));
    scene.pass(3 * DAY + 10 * HOUR);
    assert!(matches!(next(None), Next::Now { missed: 2, catch_up: true, .. }));
    scene.step(Event::StopRetain).unwrap();
    assert_eq!(next(None), Next::Never);
}

#[test]
fn hostile_notes_are_errors_that_name_the_note() {
    for note in [
        r#"{"version":1,"note":{"what":"immutability","is":"forever"}}"#,
        r#"{"version":1,"note":{"what":"soft-delete","is":{"enabled":{"days":13}}}}"#,
        r#"{"version":1,"note":{"what":"soft-delete","is":{"enabled":{"days":14,"free":1}}}}"#,
        r#"{"version":1,"note":{"what":"state","vm":"web","state":{"is":"protected"}}}"#,
        r#"{"version":1,"note":{"what":"trust","vm":"web","number":1}}"#,
        r#"{"version":1,"note":{"what":"protect","vm":"web","policy":"none"}}"#,
        r#"{"version":1,"note":{"what":"approve"}}"#,
        r#"{"version":1,"note":{"what":"policy","name":"p","source":"toml","text":"schedule = 1"}}"#,
        "not even JSON",
    ] {
        let scene = Scene::new();
        scene.vault.note(&permit::<op::ChangePolicy>(), "protection", note.as_bytes()).unwrap();
        let refused = Protection::open(&scene.vault).unwrap_err();
        assert!(matches!(refused, ProtectError::Note { number: 1, .. }), "{note}: {refused:?}");
    }
}

#[test]
fn pruning_to_zero_is_an_explicit_choice_of_the_points_that_go() {
    let scene = Scene::protected(3);
    scene.pass(60 * DAY);
    let protection = scene.open();
    let plan = protection.plan_to_zero(&vm()).unwrap();
    assert_eq!(plan.expired().count(), 3);
    // Applied as any other plan it spares the newest.
    assert_eq!(protection.prune(&permit(), &vm(), &plan).unwrap().spared.len(), 1);
    let plan = protection.plan_to_zero(&vm()).unwrap();
    let refused = protection.prune_to_zero(&permit(), &permit(), &vm(), &plan, None).unwrap_err();
    assert!(refused.is_unconfirmed() && refused.to_string().contains("none is left"), "{refused}");
    let confirmed = confirm(&Protection::pruning_to_zero(&vm(), &plan));
    scene.open().set_immutability(&permit(), None, Immutability::Unlocked, None).unwrap();
    let blocked = protection.prune_to_zero(&permit(), &permit(), &vm(), &plan, Some(&confirmed));
    assert!(matches!(blocked, Err(ProtectError::Blocked(_))), "{blocked:?}");
    let shorten = permit::<op::ShortenRetention>();
    scene.open().set_immutability(&permit(), Some(&shorten), Immutability::Disabled, None).unwrap();
    let pruned = protection.prune_to_zero(&permit(), &shorten, &vm(), &plan, Some(&confirmed)).unwrap();
    assert_eq!((pruned.forgotten.len(), scene.points()), (1, 0));
}
