//! What a sweep leaves is what a walk over the points that count finds, whatever happened before: no pack too many, and
//! none too few.
//!
//! The histories here are made through the facade, so their maps hold full and delta nodes and full blocks. Page patches,
//! which no backup writes yet, are in the same comparison one floor below, where maps are made by hand:
//! `vault/src/sweep/liveness/tests.rs`.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/swept.rs"]
mod swept;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vmkeep_testkit::permit;

use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use swept::{interrupted, packs, sweep_all, without_data_key};
use vmkeep::model::PointNumber;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::Vault;
use vmkeep_testkit::snapshot;

const WEB: &str = "web";
/// Most blocks of a disk.
const BLOCKS_MAX: usize = 96;

/// A change of a disk. Places and lengths are cut to fit it.
#[derive(Clone, Debug)]
enum Edit {
    /// Blocks of so many incompressible bytes each.
    Write {
        at: Index,
        blocks: usize,
        noisy: usize,
        seed: u64,
    },
    Trim {
        at: Index,
        blocks: usize,
    },
    Grow(usize),
    Shrink(usize),
}

/// What is done to the VM or to one of its points.
#[derive(Clone, Debug)]
enum Act {
    /// `data: None`: the VM does not have its second disk at that time.
    BackUp {
        os: Vec<Edit>,
        data: Option<Vec<Edit>>,
    },
    /// A backup of the same that ends when its data is stored.
    Interrupt {
        os: Vec<Edit>,
    },
    /// A session that is ended before it has stored anything.
    Void,
    Forget(Index),
    Undelete(Index),
    Hold(Index),
    Release(Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        6 => (any::<Index>(), 1_usize..24, prop::sample::select(vec![100_usize, 3000, BLOCK]), any::<u64>())
            .prop_map(|(at, blocks, noisy, seed)| Edit::Write { at, blocks, noisy, seed }),
        2 => (any::<Index>(), 1_usize..40).prop_map(|(at, blocks)| Edit::Trim { at, blocks }),
        1 => (1_usize..30 * BLOCK).prop_map(Edit::Grow),
        1 => (1_usize..30 * BLOCK).prop_map(Edit::Shrink),
    ];
    vec(edit, 0..5)
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (edits(), prop::option::weighted(0.8, edits())).prop_map(|(os, data)| Act::BackUp { os, data }),
        1 => edits().prop_map(|os| Act::Interrupt { os }),
        1 => Just(Act::Void),
        6 => any::<Index>().prop_map(Act::Forget),
        2 => any::<Index>().prop_map(Act::Undelete),
        1 => any::<Index>().prop_map(Act::Hold),
        1 => any::<Index>().prop_map(Act::Release),
    ]
}

impl Edit {
    fn apply(&self, disk: &mut Vec<u8>) {
        let blocks = |disk: &[u8], at: &Index, count: usize| {
            let first = at.index(disk.len()) / BLOCK;
            (first..first + count)
                .map(|n| n * BLOCK)
                .take_while(|start| *start < disk.len())
                .collect::<Vec<_>>()
        };
        match self {
            Self::Write { at, blocks: count, noisy, seed } => {
                for (nth, start) in (0_u64..).zip(blocks(disk, at, *count)) {
                    let end = (start + BLOCK).min(disk.len());
                    disk[start..end].copy_from_slice(&block(seed.wrapping_add(nth), *noisy)[..end - start]);
                }
            }
            Self::Trim { at, blocks: count } => {
                for start in blocks(disk, at, *count) {
                    let end = (start + BLOCK).min(disk.len());
                    disk[start..end].fill(0);
                }
            }
            Self::Grow(by) => disk.resize((disk.len() + by).min(BLOCKS_MAX * BLOCK), 0),
            Self::Shrink(by) => disk.truncate(disk.len().saturating_sub(*by).max(1)),
        }
    }
}

fn apply(edits: &[Edit], disk: &mut Vec<u8>) {
    for edit in edits {
        edit.apply(disk);
    }
}

/// A point as it has to be.
struct Made {
    disks: Disks,
    forgotten: bool,
    held: bool,
}

/// A vault and what its points have to be. Two hosts take turns: what one remembers, the other has changed.
struct World {
    store: InMemory,
    hosts: [Vault; 2],
    turn: usize,
    os: Vec<u8>,
    data: Vec<u8>,
    points: BTreeMap<u64, Made>,
    newest: u64,
}

impl World {
    fn new() -> Self {
        let store = InMemory::new();
        let first = create(Arc::new(store.clone()), 1);
        let second = open(Arc::new(store.clone()), 2);
        let os = disk(&(0..20).map(|n| (n % 7 > 1).then(|| block(n, 900))).collect::<Vec<_>>());
        let data = noise(5, 3 * BLOCK + 77);
        Self { store, hosts: [first, second], turn: 0, os, data, points: BTreeMap::new(), newest: 0 }
    }

    fn host(&mut self) -> &Vault {
        self.turn += 1;
        &self.hosts[self.turn % 2]
    }

    /// A point that is there, by `index`.
    fn chosen(&mut self, index: Index) -> Option<(u64, &mut Made)> {
        let count = self.points.len();
        (count > 0)
            .then(|| self.points.iter_mut().nth(index.index(count)).unwrap())
            .map(|(n, made)| (*n, made))
    }

    fn act(&mut self, act: &Act) {
        let point = |number: u64| point_ref(&format!("{WEB}@{number}"));
        match act {
            Act::BackUp { os, data } => {
                apply(os, &mut self.os);
                let mut disks = disks([("os", self.os.clone())]);
                if let Some(edits) = data {
                    apply(edits, &mut self.data);
                    disks.insert("data".to_owned(), self.data.clone());
                }
                let report = back_up(self.host(), WEB, &disks).unwrap();
                self.newest = report.point.id.number.0;
                self.points.insert(self.newest, Made { disks, forgotten: false, held: false });
            }
            Act::Interrupt { os } => {
                let mut disk = self.os.clone();
                apply(os, &mut disk);
                interrupted(self.host(), WEB, &disk);
            }
            Act::Void => {
                let host = self.host();
                assert!(host.void_session(&permit(), host.begin(&permit(), &vm(WEB)).unwrap().id()).unwrap());
            }
            Act::Forget(index) => {
                let Some((number, made)) = self.chosen(*index) else { return };
                made.forgotten = true;
                self.host().forget(&permit(), &point(number)).unwrap();
            }
            Act::Undelete(index) => {
                let Some((number, made)) = self.chosen(*index) else { return };
                made.forgotten = false;
                self.host().undelete(&permit(), &point(number)).unwrap();
            }
            Act::Hold(index) => {
                let Some((number, made)) = self.chosen(*index) else { return };
                made.held = true;
                self.host().hold(&permit(), &point(number)).unwrap();
            }
            Act::Release(index) => {
                let Some((number, made)) = self.chosen(*index) else { return };
                made.held = false;
                self.host().release(&permit(), &point(number)).unwrap();
            }
        }
    }

    /// Sweeps, with the data key or without, and compares what is there with what has to be.
    fn sweep(&mut self, keyed: bool) {
        let report = if keyed { sweep_all(self.host()) } else { without_data_key(&self.store, sweep_all) };
        assert_eq!((report.damaged, report.open_sessions), (0, 0), "{report:?}");
        let newest = self.newest;
        self.points.retain(|&number, made| !made.forgotten || made.held || number >= newest);
        let Some(&any) = self.points.keys().nth(self.turn % self.points.len().max(1)) else { return };
        for host in &self.hosts {
            let numbers = host.history(&vm(WEB)).unwrap().into_iter().map(|(number, _)| number);
            assert!(numbers.eq(self.points.keys().map(|&n| PointNumber(n))));
        }
        let reached = self.hosts[0].uncached().reachable(&vm(WEB)).unwrap();
        assert_same(&packs(&self.store), &reached);
        for host in &self.hosts {
            assert_restores(host, &format!("{WEB}@{any}"), &self.points[&any].disks, "after a sweep");
        }
        let again = sweep_all(self.host());
        assert_eq!((again.objects, again.points.len(), again.repacked), (0, 0, 0), "{again:?}");
    }
}

/// Fails with what differs.
#[track_caller]
fn assert_same(there: &BTreeSet<String>, reached: &BTreeSet<String>) {
    let (left, lost): (Vec<_>, Vec<_>) =
        (there.difference(reached).collect(), reached.difference(there).collect());
    assert!(left.is_empty() && lost.is_empty(), "left: {left:#?}\nlost: {lost:#?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn after_every_sweep_the_packs_are_those_that_a_walk_finds(
        rounds in vec((vec(act(), 1..7), prop::bool::weighted(0.7)), 1..8),
    ) {
        let mut world = World::new();
        for (round, keyed) in &rounds {
            for act in round {
                world.act(act);
            }
            world.sweep(*keyed);
        }
        let anew = open(Arc::new(world.store.clone()), 3);
        for (number, made) in &world.points {
            assert_restores(&anew, &format!("{WEB}@{number}"), &made.disks, "at the end");
        }
        assert_vault_clean(&anew, "at the end");

        // Once all is forgotten and the VM is closed, nothing of it is left but records.
        if world.newest > 0 {
            for (&number, made) in &world.points {
                let point = point_ref(&format!("{WEB}@{number}"));
                anew.forget(&permit(), &point).unwrap();
                if made.held {
                    anew.release(&permit(), &point).unwrap();
                }
            }
            anew.close(&permit(), &vm(WEB)).unwrap();
            sweep_all(&anew);
            assert_same(&packs(&world.store), &BTreeSet::new());
        }
    }
}

#[test]
fn a_vm_with_the_same_disks_does_not_notice_that_the_other_was_swept() {
    let store = InMemory::new();
    let vault = create(Arc::new(store.clone()), 1);
    let version = |n: u64| {
        disks([
            ("os", disk(&[Some(block(n, 900)), None, Some(noise(3, BLOCK))])),
            ("data", noise(n, 3 * BLOCK)),
        ])
    };
    for n in 1..=4 {
        for name in ["web", "twin"] {
            back_up(&vault, name, &version(n)).unwrap();
        }
    }
    let of_twin = vault.reachable(&vm("twin")).unwrap();
    for n in 1..=4 {
        vault.forget(&permit(), &point_ref(&format!("web@{n}"))).unwrap();
    }
    vault.close(&permit(), &vm("web")).unwrap();
    let report = sweep_all(&vault);
    assert_eq!(report.points.len(), 4);
    assert_same(&packs(&store), &of_twin);
    let anew = open(Arc::new(store.clone()), 2);
    for n in 1..=4 {
        assert_point_whole(&anew, &format!("twin@{n}"), &version(n), "after the other was swept");
    }
    // The same VM protected again is another lineage, and the twin goes on.
    back_up(&anew, "web", &version(5)).unwrap();
    back_up(&anew, "twin", &version(5)).unwrap();
    for name in ["web@1", "twin@5"] {
        assert_point_whole(&anew, name, &version(5), "a later backup");
    }
    let packs_of = |name: &str| anew.reachable(&vm(name)).unwrap();
    assert_same(&packs(&store), &packs_of("web").union(&packs_of("twin")).cloned().collect());
}

/// The handle has read the pack where it was before its own sweep repacked it.
#[test]
fn what_was_repacked_and_then_dies_goes_although_the_handle_remembers_where_it_was() {
    let store = InMemory::new();
    let vault = create(Arc::new(store.clone()), 1);
    let forget = |n: u64| vault.forget(&permit(), &point_ref(&format!("{WEB}@{n}"))).unwrap();
    let mut os = disk(&(0..20).map(|n| (n % 7 > 1).then(|| block(n, 900))).collect::<Vec<_>>());
    back_up(&vault, WEB, &disks([("os", os.clone())])).unwrap();
    forget(1);
    os.resize(os.len() + 84_250, 0);
    for _ in 2..=3 {
        back_up(&vault, WEB, &disks([("os", os.clone())])).unwrap();
    }
    forget(2);
    assert_eq!(sweep_all(&vault).repacked, 1, "the map of the first point is worn by then");
    os[..6 * BLOCK].fill(0);
    forget(3);
    back_up(&vault, WEB, &disks([("os", os.clone())])).unwrap();
    sweep_all(&vault);
    assert_same(&packs(&store), &vault.uncached().reachable(&vm(WEB)).unwrap());
    let left = snapshot(&store).into_keys().filter(|path| path.as_ref().starts_with("moved/"));
    assert!(left.count() <= 1, "nor is there a record of where it was moved: the data was thinned");
    let report = assert_vault_clean(&vault, "after the sweeps");
    assert_eq!(report.accounting.unwrap().garbage.objects, 0);
}
