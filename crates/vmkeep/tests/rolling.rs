//! Rolling verification of real vaults: that what is stated is kept, and what is remembered.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/swept.rs"]
mod swept;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::*;
use keys::{destroy, plan_to_destroy, rotate, version};
use proptest::prelude::*;
use swept::{packs, sweep_all, without_data_key};
use vmkeep::envelope::SeededEntropy;
use vmkeep::model::{CancelToken, Clock, ManualClock, Timestamp};
use vmkeep::object_store::ObjectStoreExt;
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::restore::{
    self, Depth, Event, RestoreError, RollingReport, RollingSettings, note_verified, verify_rolling,
};
use vmkeep::vault::{Budget, Coverage, JournalEntry, LogStream, PackDepth, Ports, Vault};
use vmkeep_testkit::{CountingStore, RequestKind, permit, snapshot};

const START: i64 = 1_700_000_000_000;

fn roll(vault: &Vault, budget: Budget, depth: PackDepth) -> Result<RollingReport, RestoreError> {
    roll_with(vault, budget, depth, &restore::Silent, &CancelToken::new())
}

fn roll_with(
    vault: &Vault,
    budget: Budget,
    depth: PackDepth,
    observer: &dyn restore::Observer,
    cancel: &CancelToken,
) -> Result<RollingReport, RestoreError> {
    let settings = RollingSettings { budget, depth, walk: reading() };
    verify_rolling(&permit(), vault, &settings, observer, cancel)
}

/// Everything, in one run unless more were promised.
fn all() -> Budget {
    Budget::Millipercent(100_000)
}

/// A pack, as an onlooker knows it.
#[derive(Clone, Copy, Debug)]
struct Pack {
    /// The run by which it must have been checked, by all that was stated while it was there.
    due: u64,
    written: i64,
    checked: Option<i64>,
}

/// A vault that is watched.
struct World {
    store: Arc<InMemory>,
    counting: CountingStore,
    clock: Arc<ManualClock>,
    vault: Vault,
    packs: BTreeMap<String, Pack>,
    points: Vec<u64>,
    made: u64,
    runs: u64,
}

#[derive(Clone, Debug)]
enum Step {
    BackUp,
    Forget(usize),
    Sweep,
    Roll(Budget, PackDepth),
    /// A run that somebody stops.
    Stopped(Budget),
    /// Everything at once.
    Full,
}

fn budget() -> impl Strategy<Value = Budget> {
    prop_oneof![
        3 => (100_000..1_500_000_u64).prop_map(Budget::Bytes),
        1 => (10_000..=100_000_u32).prop_map(Budget::Millipercent),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let depth = || prop_oneof![Just(PackDepth::Sealed), Just(PackDepth::Blocks)];
    prop_oneof![
        3 => Just(Step::BackUp),
        2 => any::<usize>().prop_map(Step::Forget),
        1 => Just(Step::Sweep),
        6 => (budget(), depth()).prop_map(|(budget, depth)| Step::Roll(budget, depth)),
        1 => budget().prop_map(Step::Stopped),
        1 => Just(Step::Full),
    ]
}

impl World {
    fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let counting = CountingStore::new(store.clone());
        let clock = Arc::new(ManualClock::new(Timestamp(START)));
        let ports = Ports { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(1)) };
        let vault = Vault::create(Arc::new(counting.clone()), kek(), ports).unwrap();
        let (packs, points) = (BTreeMap::new(), Vec::new());
        Self { store, counting, clock, vault, packs, points, made: 0, runs: 0 }
    }

    fn coverage(&self) -> Option<Coverage> {
        self.vault.verified().unwrap()
    }

    /// By when a pack that is there now has to be checked.
    fn due(&self) -> u64 {
        let period = self.coverage().and_then(|told| told.period());
        period.map_or(u64::MAX, |period| self.runs + u64::from(period))
    }

    /// Looks which packs came and which went.
    fn look(&mut self) {
        let (due, written, there) = (self.due(), self.clock.now().0, packs(&*self.store));
        self.packs.retain(|name, _| there.contains(name));
        for name in there {
            self.packs.entry(name).or_insert(Pack { due, written, checked: None });
        }
    }

    fn step(&mut self, step: &Step) {
        self.clock.set(Timestamp(self.clock.now().0 + 1000));
        match step {
            Step::BackUp => {
                self.made += 1;
                back_up(&self.vault, "web", &version(self.made)).unwrap();
                self.points.push(self.made);
            }
            Step::Forget(which) => {
                // The newest stays anyhow.
                if self.points.len() > 1 {
                    let gone = self.points.remove(which % (self.points.len() - 1));
                    self.vault.forget(&permit(), &point_ref(&format!("web@{gone}"))).unwrap();
                }
            }
            Step::Sweep => drop(sweep_all(&self.vault)),
            Step::Roll(budget, depth) => self.roll(*budget, *depth),
            Step::Stopped(budget) => self.stopped(*budget),
            Step::Full => self.full(),
        }
        self.look();
        self.assert_verified_until();
    }

    fn roll(&mut self, budget: Budget, depth: PackDepth) {
        self.counting.take_log();
        let report = roll(&self.vault, budget, depth).unwrap();
        assert!(report.is_clean(), "{report:?}");
        self.runs += 1;
        let read = |(kind, path): (RequestKind, Path)| {
            (kind == RequestKind::Get && path.as_ref().starts_with("packs/")).then(|| path.to_string())
        };
        let checked: BTreeSet<String> = self.counting.take_log().into_iter().filter_map(read).collect();
        let objects = snapshot(&*self.store);
        let bytes: u64 = checked.iter().map(|name| objects[&Path::from(name.as_str())].len() as u64).sum();
        assert_eq!((report.checked.objects, report.checked.bytes), (checked.len() as u64, bytes));
        assert_eq!(report.total.objects, self.packs.len() as u64);
        assert_eq!(self.coverage().as_ref(), Some(&report.coverage));
        let (due, now, run) = (self.due(), self.clock.now().0, self.runs);
        for (name, pack) in &mut self.packs {
            if checked.contains(name) {
                (pack.due, pack.checked) = (due, Some(now));
            } else {
                assert!(pack.due > run, "{name} was not checked by run {run}: {pack:?}");
                pack.due = pack.due.min(due);
            }
        }
    }

    fn stopped(&mut self, budget: Budget) {
        let (before, cancel) = (self.coverage(), CancelToken::new());
        let stop = |event: Event<'_>| {
            if matches!(event, Event::PackChecked { .. } | Event::RollingBegan { .. }) {
                cancel.cancel();
            }
        };
        let stopped = roll_with(&self.vault, budget, PackDepth::Sealed, &stop, &cancel);
        assert!(matches!(stopped, Err(RestoreError::Cancelled(_))), "{stopped:?}");
        assert_eq!(self.coverage(), before);
    }

    fn full(&mut self) {
        let began = self.vault.clock().now();
        let report = verify(&self.vault, Depth::Sealed).unwrap();
        let told = note_verified(&permit(), &self.vault, Depth::Sealed, began, &report).unwrap().unwrap();
        assert_eq!((told.until(), told.is_clean()), (Some(began), true));
        let due = self.due();
        for pack in self.packs.values_mut() {
            (pack.due, pack.checked) = (due, Some(began.0));
        }
    }

    /// What was written before the time that is told was checked since.
    fn assert_verified_until(&self) {
        let Some(until) = self.coverage().and_then(|told| told.until()) else { return };
        for (name, pack) in self.packs.iter().filter(|(_, pack)| pack.written < until.0) {
            assert!(pack.checked.is_some_and(|at| at >= until.0), "{name} until {until}: {pack:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_pack_is_checked_within_the_stated_period_while_the_vault_changes(
        steps in prop::collection::vec(step(), 20..60),
    ) {
        let mut world = World::new();
        world.step(&Step::BackUp);
        for step in &steps {
            world.step(step);
        }
        assert_vault_clean(&world.vault, "after all");
    }
}

#[test]
fn equal_runs_cover_the_vault_in_the_time_they_state() {
    let mut world = World::new();
    (0..6).for_each(|_| world.step(&Step::BackUp));
    let share = Budget::Millipercent(12_500);
    let mut bytes = 0;
    for n in 1..=8 {
        world.step(&Step::Roll(share, PackDepth::Sealed));
        let told = world.coverage().unwrap();
        assert_eq!((told.period(), told.progress()), (Some(8), Some((8, n % 8))));
        assert_eq!(told.until().is_some(), n == 8);
        bytes += told.last.bytes;
    }
    let sizes = snapshot(&*world.store).into_iter().filter(|(path, _)| path.as_ref().starts_with("packs/"));
    assert_eq!(bytes, sizes.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    let whole = world.coverage().unwrap().whole.unwrap();
    assert_eq!((whole.bytes, whole.depth, whole.ended), (bytes, PackDepth::Sealed, world.clock.now()));
    // It is in the log, and accounted for.
    let log = world.vault.log(None).unwrap();
    let of_it = log.entries.iter().filter(|entry| entry.stream == LogStream::Verification);
    assert!(of_it.clone().all(|entry| matches!(entry.record.entry, JournalEntry::Verified(_))));
    assert_eq!((of_it.count(), log.faults.len()), (8, 0));
    assert_vault_clean(&world.vault, "after a round");
}

/// A vault of some points, and the names of its data packs.
fn some_points() -> (Arc<InMemory>, Vault, Vec<Path>) {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    (1..=3).for_each(|n| drop(back_up(&vault, "web", &version(n)).unwrap()));
    let all = packs(&*store);
    let is_data =
        |name: &&String| name.strip_suffix(".copy").is_none() && !all.contains(&format!("{name}.copy"));
    let data = all.iter().filter(is_data).map(|name| Path::from(name.as_str())).collect();
    (store, vault, data)
}

async fn flip(store: &InMemory, path: &Path, at: usize) {
    let mut bytes = store.get(path).await.unwrap().bytes().await.unwrap().to_vec();
    bytes[at] ^= 1;
    store.put(path, Bytes::from(bytes).into()).await.unwrap();
}

#[tokio::test]
async fn damage_is_told_with_its_blocks_and_stays_told_until_it_is_mended_and_looked_at() {
    let (store, vault, data) = some_points();
    flip(&store, &data[0], 500).await;
    for depth in [PackDepth::Sealed, PackDepth::Blocks] {
        let told = Mutex::new(Vec::new());
        let listen = |event: Event<'_>| {
            if let Event::Damaged(damage) = event {
                let blocks = damage.blocks.clone().unwrap();
                told.lock().unwrap().push((damage.damage.object.clone(), damage.vm.clone(), blocks));
            }
        };
        let report = roll_with(&vault, all(), depth, &listen, &CancelToken::new()).unwrap();
        assert_eq!((report.checked.damaged, report.is_clean()), (1, false));
        let told = told.into_inner().unwrap();
        let [(object, whose, blocks)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((object.as_str(), whose), (data[0].as_ref(), &Some(vm("web"))));
        // All that a point has lost by it is among what is told, and a point needs some of it.
        let size = blocks.block_size.bytes_u64();
        let lost = verify(&vault, Depth::Data).unwrap().damaged;
        let is_told =
            |at: u64| blocks.runs.iter().any(|run| (run.start.0..run.start.0 + run.len).contains(&at));
        assert!(!lost.is_empty());
        assert!(lost.iter().all(|block| is_told(block.extent.start().0 / size)), "{lost:?} of {blocks:?}");
        let told = vault.verified().unwrap().unwrap();
        assert_eq!((told.is_clean(), told.named()), (false, BTreeSet::from([data[0].as_ref()])));
    }
    flip(&store, &data[0], 500).await;
    let report = roll(&vault, all(), PackDepth::Sealed).unwrap();
    assert!(report.is_clean() && report.coverage.is_clean());

    // As a full verification finds it.
    flip(&store, &data[1], 500).await;
    for (depth, noted) in [(Depth::Structure, false), (Depth::Sealed, true), (Depth::Data, true)] {
        let report = verify(&vault, depth).unwrap();
        let told = note_verified(&permit(), &vault, depth, vault.clock().now(), &report).unwrap();
        assert_eq!(told.is_some(), noted);
        let told = vault.verified().unwrap().unwrap();
        assert_eq!(told.is_clean(), !noted);
        assert_eq!(told.whole.unwrap().damaged, u64::from(noted));
    }
}

#[tokio::test]
async fn footers_and_both_copies_of_metadata_are_looked_at() {
    let (store, vault, _) = some_points();
    for path in packs(&*store) {
        let path = Path::from(path);
        let len = snapshot(&*store)[&path].len();
        for at in [3, len - 60, len - 3] {
            flip(&store, &path, at).await;
            let told = roll(&vault, all(), PackDepth::Sealed).unwrap();
            assert_eq!(told.checked.named, [path.to_string()], "byte {at}");
            flip(&store, &path, at).await;
        }
    }
    assert!(roll(&vault, all(), PackDepth::Blocks).unwrap().is_clean());
}

#[test]
fn a_run_that_fails_is_not_remembered() {
    let (store, _, _) = some_points();
    without_data_key(&store, |vault| {
        let failed = roll(vault, all(), PackDepth::Sealed);
        assert!(matches!(failed, Err(RestoreError::Open(_))), "{failed:?}");
        assert_eq!(vault.verified().unwrap(), None);
    });
}

#[test]
fn destroyed_keys_are_no_damage() {
    let (store, vault, _) = some_points();
    rotate(&vault).unwrap();
    back_up(&vault, "web", &version(4)).unwrap();
    destroy(&vault, &plan_to_destroy(&vault, Some(0)).unwrap()).unwrap();
    for depth in [PackDepth::Sealed, PackDepth::Blocks] {
        let report = roll(&open(store.clone(), 3), all(), depth).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.checked.objects, packs(&*store).len() as u64);
    }
}

#[test]
fn of_two_runs_at_a_time_one_counts_and_the_other_takes_nothing_back() {
    let (store, vault, _) = some_points();
    let other = open(store, 5);
    let cancel = CancelToken::new();
    let slow = vault.rolling(&permit(), Budget::Millipercent(10_000), PackDepth::Sealed, &cancel).unwrap();
    for _ in 0..3 {
        roll(&other, Budget::Millipercent(10_000), PackDepth::Sealed).unwrap();
    }
    let nothing = slow.nothing_yet();
    let told = slow.finish(nothing).unwrap();
    assert_eq!(told.progress(), Some((10, 3)));
    assert_eq!(vault.verified().unwrap(), Some(told));
}

#[tokio::test]
async fn what_was_remembered_and_cannot_be_read_is_damage_and_begins_anew() {
    let (store, vault, _) = some_points();
    roll(&vault, Budget::Millipercent(10_000), PackDepth::Sealed).unwrap();
    let entry = |path: &&Path| path.as_ref().starts_with("journal/");
    let before: BTreeSet<Path> = snapshot(&*store).keys().filter(entry).cloned().collect();
    roll(&vault, Budget::Millipercent(10_000), PackDepth::Sealed).unwrap();
    let newest = snapshot(&*store).keys().filter(entry).find(|path| !before.contains(path)).cloned().unwrap();
    flip(&store, &newest, 200).await;
    let error = vault.verified().unwrap_err();
    assert_eq!(error.object(), Some(newest.as_ref()));
    let told = roll(&vault, Budget::Millipercent(20_000), PackDepth::Sealed).unwrap().coverage;
    assert_eq!((told.progress(), told.until()), (Some((5, 1)), None));
    assert_eq!(vault.verified().unwrap(), Some(told));
}
