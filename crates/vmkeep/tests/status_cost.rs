//! What a look at the health of VMs asks of the store: a few requests for each VM, whatever it holds, and nothing of any pack.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::fmt;
use std::sync::{Arc, Mutex};

use common::*;
use vmkeep::model::{ManualClock, Timestamp};
use vmkeep::object_store::memory::InMemory;
use vmkeep::protect::status::Level;
use vmkeep::protect::{Health, HealthSettings, PolicySource, Protection};
use vmkeep::vault::{Ports, Vault};
use vmkeep_testkit::{Call, RequestKind, Tap, TappedStore, Verdict, permit};

const DAY: i64 = 86_400_000;
const BEGIN: i64 = 1_767_225_600_000;

/// Notes every call.
#[derive(Debug, Default)]
struct Watch(Mutex<Vec<(RequestKind, String)>>);

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Tap for Watch {
    fn before(&self, call: &Call<'_>) -> Verdict {
        self.0.lock().unwrap().push((call.kind(), call.path.to_string()));
        Verdict::Pass
    }
}

struct Scene {
    store: InMemory,
    clock: Arc<ManualClock>,
    vault: Vault,
    day: i64,
}

impl Scene {
    fn new() -> Self {
        let store = InMemory::new();
        let clock = Arc::new(ManualClock::new(Timestamp(BEGIN)));
        let ports = Ports { clock: clock.clone(), ..ports(1) };
        let vault = Vault::create(Arc::new(store.clone()), kek(), ports).unwrap();
        let mut protection = Protection::open(&vault).unwrap();
        let policy = "schedule.daily = { at = \"02:30\" }\nretention = { daily = \"30 days\" }";
        protection.set_policy(&permit(), None, "daily", PolicySource::Toml(policy.to_owned())).unwrap();
        protection.protect(&permit(), None, &vm("web"), "daily").unwrap();
        Self { store, clock, vault, day: 0 }
    }

    /// A backup of every day; the disk grows by a block a day.
    fn back_up(&mut self, days: i64) {
        for _ in 0..days {
            self.day += 1;
            self.clock.set(Timestamp(BEGIN + self.day * DAY));
            let grown: Vec<_> = (0..self.day.unsigned_abs()).map(|n| Some(block(n, 50))).collect();
            back_up(&self.vault, "web", &disks([("os", disk(&grown))])).unwrap();
        }
    }

    /// The health of the VM, and what it took to find it out.
    fn health(&self) -> (Health, Vec<(RequestKind, String)>) {
        let tapped = TappedStore::with_tap(Arc::new(self.store.clone()), Watch::default());
        let ports = Ports { clock: self.clock.clone(), ..ports(2) };
        let vault = Vault::open(Arc::new(tapped.clone()), kek(), ports).unwrap();
        let protection = Protection::open(&vault).unwrap();
        let before = std::mem::take(&mut *tapped.tap().0.lock().unwrap());
        assert!(before.iter().all(|(_, path)| !path.starts_with("packs")), "{before:?}");
        let health = protection.health(&vm("web"), &HealthSettings::default()).unwrap();
        let calls = tapped.tap().0.lock().unwrap().clone();
        (health, calls)
    }
}

#[test]
fn it_takes_a_few_requests_however_many_points_there_are_and_none_of_a_pack() {
    let mut scene = Scene::new();
    scene.back_up(3);
    let (_, few) = scene.health();
    scene.back_up(61);
    let (health, many) = scene.health();
    for (kind, path) in few.iter().chain(&many) {
        let first = path.split('/').next().unwrap();
        let allowed = ["names", "keys", "heads", "retired", "points", "forgets", "journal"];
        assert!(allowed.contains(&first), "{kind:?} {path}");
        assert!(matches!(kind, RequestKind::Get | RequestKind::Head | RequestKind::List), "{kind:?} {path}");
        // Lists are of one VM's keys or marks.
        assert!(*kind != RequestKind::List || first == "keys" || first == "forgets", "{path}");
    }
    println!("{} requests for 3 points, {} for 64", few.len(), many.len());
    // Half as many points again and again: six looks, and no more.
    assert!(many.len() <= few.len() + 8, "{} and {}\n{many:#?}", few.len(), many.len());
    assert!(many.len() <= 40, "{many:#?}");

    assert_eq!((health.verdict.level, health.glance.as_ref().unwrap().points), (Level::Ok, 64));
    let growth = health.growth.unwrap();
    assert_eq!(
        (growth.from.0, growth.window_ms, growth.bytes),
        (57, 7 * DAY, 7 * i64::try_from(BLOCK).unwrap())
    );
}

#[test]
fn points_that_were_removed_are_stepped_over() {
    let mut scene = Scene::new();
    scene.back_up(38);
    for number in (2..=38).filter(|number| *number != 20) {
        scene.vault.forget(&permit(), &point_ref(&format!("web@{number}"))).unwrap();
    }
    scene.back_up(2);
    // A session that was ended leaves a number without a point.
    let session = scene.vault.begin(&permit(), &vm("web")).unwrap().id();
    assert!(scene.vault.void_session(&permit(), session).unwrap());
    sweep(&scene.vault);
    let (health, calls) = scene.health();
    let glance = health.glance.as_ref().unwrap();
    assert_eq!(glance.newest.as_ref().unwrap().id.number.0, 40);
    assert_eq!(glance.before.as_ref().unwrap().id.number.0, 39);
    assert_eq!(glance.earlier.as_ref().unwrap().id.number.0, 20);
    assert_eq!((glance.unreadable.len(), glance.cut_short), (0, false));
    assert_eq!(health.growth.unwrap().window_ms, 20 * DAY);
    assert!(calls.len() <= 40, "{calls:#?}");
}
