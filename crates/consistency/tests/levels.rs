//! What each level promises, checked on a simulated guest by restoring snapshots of every instant.

use proptest::prelude::*;
use vmkeep_consistency::fake::Guest;
use vmkeep_consistency::{
    Decision, GuestOs, NoScripts, Ports, PowerState, ProvisioningState, Request, Scripts, VmState,
    conformance, take,
};
use vmkeep_model::ConsistencyLevel::{self, Application, Crash, FileSystem};
use vmkeep_testkit::{RestScripts, SimGuest};

#[derive(Clone, Copy, Debug)]
enum Act {
    Write(usize),
    Sync(usize),
    Transact(usize, usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (1..3_usize).prop_map(Act::Write),
        1 => (1..3_usize).prop_map(Act::Sync),
        3 => (0..4_usize, 1..4_usize).prop_map(|(from, by)| Act::Transact(from, from + by)),
    ]
}

fn run(guest: &SimGuest, acts: &[Act]) {
    for act in acts {
        assert!(match *act {
            Act::Write(file) => guest.write_file(file),
            Act::Sync(file) => guest.sync_file(file),
            Act::Transact(from, to) => guest.transact(from, to),
        });
    }
}

fn nth(transaction: u64) -> usize {
    usize::try_from(transaction).expect("a few")
}

/// A seeded coin (splitmix64).
fn coin(mut seed: u64) -> impl FnMut() -> bool {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) & 1 == 1
    }
}

fn level_of(guest: &SimGuest, scripts: &mut dyn Scripts, with_agent: bool) -> ConsistencyLevel {
    let fake = Guest::new([]);
    let ports = Ports {
        agent: with_agent.then_some(guest as &dyn vmkeep_consistency::GuestAgent),
        snapshotter: guest,
        scripts,
        watchdog: &fake,
        clock: &fake,
    };
    let request = Request::new(VmState {
        provisioning: ProvisioningState::Succeeded,
        power: PowerState::Running,
        os: GuestOs::Linux,
    });
    match take(&request, ports).0 {
        Decision::Point(verdict) => verdict.level,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_application_consistent_point_needs_no_recovery(acts in prop::collection::vec(act(), 0..30), seed in any::<u64>()) {
        let guest = SimGuest::default();
        run(&guest, &acts);
        let (files, rows) = (guest.cached(), *guest.history().last().unwrap());
        prop_assert_eq!(level_of(&guest, &mut RestScripts(&guest), true), Application);
        let at = guest.snapshot_at().unwrap();
        let found = guest.boot([at, at], coin(seed));
        prop_assert!(!found.replayed && !found.torn && !found.db_recovered, "{:?}", found);
        prop_assert_eq!((found.files, found.rows), (files, rows));
        prop_assert_eq!(guest.blocked(), 1, "the program that wrote during the snapshot waited");
        prop_assert!(guest.transact(0, 1), "and the guest is free again");
    }

    #[test]
    fn a_file_system_consistent_point_loses_no_file(acts in prop::collection::vec(act(), 0..30), seed in any::<u64>()) {
        let guest = SimGuest::default();
        run(&guest, &acts);
        let (files, history) = (guest.cached(), guest.history());
        prop_assert_eq!(level_of(&guest, &mut NoScripts, true), FileSystem);
        let at = guest.snapshot_at().unwrap();
        let found = guest.boot([at, at], coin(seed));
        prop_assert!(!found.replayed && !found.torn);
        prop_assert_eq!(found.files, files);
        prop_assert_eq!((nth(found.transaction), found.rows), (history.len() - 1, *history.last().unwrap()));
    }

    #[test]
    fn a_crash_consistent_point_of_any_instant_loses_only_what_was_not_flushed(
        acts in prop::collection::vec(act(), 0..30),
        seed in any::<u64>(),
    ) {
        let guest = SimGuest::default();
        run(&guest, &acts);
        prop_assert_eq!(level_of(&guest, &mut NoScripts, false), Crash);
        let history = guest.history();
        for at in 0..guest.instants() {
            let found = guest.boot([at, at], coin(seed ^ at as u64));
            let promised = guest.acknowledged(at);
            prop_assert!(!found.torn, "at {}: {:?}", at, found);
            for (found, promised) in found.files.iter().zip(promised.files) {
                prop_assert!(*found >= promised, "a synced file is there at {}", at);
            }
            prop_assert!(found.transaction >= promised.transaction, "a commit is there at {}", at);
            prop_assert_eq!(found.rows, history[nth(found.transaction)], "rolled to a commit at {}", at);
            prop_assert!(found.files[0] <= found.transaction, "one instant: what file 0 tells of is there");
        }
    }
}

#[test]
fn disks_of_different_instants_contradict_each_other() {
    let guest = SimGuest::default();
    run(&guest, &[Act::Transact(0, 1), Act::Transact(1, 2), Act::Transact(2, 3)]);
    let last = guest.instants() - 1;
    let torn = (0..last).any(|early| {
        let found = guest.boot([last, early], || true);
        found.files[0] > found.transaction
    });
    assert!(torn, "which is why such a point says so");
}

#[test]
fn the_simulated_guest_keeps_the_contracts() {
    let guest = SimGuest::default();
    conformance::guest_agent(&guest);
    conformance::snapshotter(&guest);
}
