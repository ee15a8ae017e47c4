//! Property 3, no chains: every point restores by itself, any point may be forgotten, and the cost of a restore does
//! not grow with age.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use vmkeep_testkit::permit;

use common::{back_up, block, counted_store, created, disk_of, opened, restored};
use object_store::memory::InMemory;
use vmkeep_disk::Memory;
use vmkeep_model::ByteLen;
use vmkeep_testkit::{CountingStore, Counts, RequestKind, snapshot, store_of};
use vmkeep_vault::ObjectName;

/// Blocks of the disk; every point rewrites one of them, in turn.
const BLOCKS: u64 = 32;

/// The content at point `number`, counted from 1.
fn content(number: u64) -> Vec<u8> {
    // Block n was last written at the newest point p <= number with p % BLOCKS == n; all are there at point 1.
    let written = |n: u64| (1..=number).rev().find(|p| p % BLOCKS == n).unwrap_or(0);
    (0..BLOCKS).flat_map(|n| block(n * 100_000 + written(n))).collect()
}

fn history(points: u64) -> (Arc<InMemory>, CountingStore) {
    let (memory, store) = counted_store();
    let vault = created(&store, 1);
    for number in 1..=points {
        back_up(&vault, "vm", &Memory::from(content(number)));
    }
    store.reset();
    (memory, store)
}

#[test]
fn a_point_restores_without_the_records_of_all_others() {
    let (memory, _) = history(20);
    for kept in 1..=20_u64 {
        let mut objects = snapshot(&*memory);
        objects.retain(|path, _| match ObjectName::parse(path.as_ref()) {
            Some(ObjectName::Point(_, number)) => number.0 == kept,
            Some(ObjectName::Head(_)) => false,
            _ => true,
        });
        let vault = opened(Arc::new(store_of(&objects)), 2);
        assert!(restored(&vault, &format!("vm@{kept}")) == content(kept), "point {kept}");
    }
}

#[test]
fn forgetting_points_changes_nothing_in_the_others() {
    let (memory, _) = history(20);
    let vault = opened(memory, 2);
    // From both ends and the middle, so that every kind of neighbour goes first once.
    let order = [10, 1, 20, 11, 9, 2, 19, 5, 15];
    let mut forgotten = BTreeSet::new();
    for number in order {
        assert!(vault.forget(&permit(), &format!("vm@{number}").parse().unwrap()).unwrap().forgotten);
        forgotten.insert(number);
        for other in [1, 5, 8, 12, 18, number] {
            assert!(
                restored(&vault, &format!("vm@{other}")) == content(other),
                "point {other} after {number}"
            );
        }
        let newest = (1..=20).rev().find(|n| !forgotten.contains(n)).unwrap();
        assert!(restored(&vault, "vm@latest") == content(newest), "latest after {number}");
    }
    let points = vault.points(&"vm".parse().unwrap()).unwrap();
    let told: BTreeSet<u64> = points.iter().filter(|p| p.forgotten).map(|p| p.id.number.0).collect();
    assert_eq!(told, forgotten);
}

/// What restoring the newest point from a handle opened anew asks for, and how many packs it reads.
fn cost_of_newest(points: u64) -> (Counts, usize) {
    let (_, store) = history(points);
    let vault = opened(Arc::new(store.clone()), 2);
    assert!(restored(&vault, "vm@latest") == content(points));
    let log = store.take_log();
    assert!(
        log.iter().all(|(kind, _)| matches!(kind, RequestKind::Get | RequestKind::Head | RequestKind::List))
    );
    let packs: BTreeSet<_> = log.iter().filter(|(_, path)| path.as_ref().starts_with("packs/")).collect();
    let packs = packs.len();
    println!("{points} points: {packs} packs, {:?}", store.counts());
    (store.counts(), packs)
}

#[test]
fn a_restore_costs_the_packs_its_blocks_lie_in_whatever_its_age() {
    for points in [64, 150, 300] {
        let (counts, packs) = cost_of_newest(points);
        // One data pack for each block; the map is one leaf, which may be a delta over another.
        assert!((BLOCKS + 1..=BLOCKS + 2).contains(&(packs as u64)), "{packs} packs");
        // Small packs come whole with their footers; the rest is opening vault, VM and point, with its marks and what was
        // retired.
        assert!(counts.get <= packs as u64 + 12, "{counts:?} for {packs} packs");
        assert!(counts.list <= 3 && counts.head <= 3, "{counts:?}");
        // Nothing is fetched beside what is restored but records, footers and nodes.
        assert!(counts.bytes_read < BLOCKS * 1024, "{counts:?}");
    }
}

/// The first point of a long history is no worse off than it was when it was the only one.
#[test]
fn an_old_point_costs_what_it_did_when_it_was_new() {
    let cost = |points| {
        let (_, store) = history(points);
        let vault = opened(Arc::new(store.clone()), 2);
        assert!(restored(&vault, "vm@1") == content(1));
        assert_eq!(disk_of(&vault, "vm@1").size(), ByteLen(BLOCKS * common::BLOCK as u64));
        store.counts_under("packs")
    };
    assert_eq!(cost(1), cost(100));
}
