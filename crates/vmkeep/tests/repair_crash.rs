//! A repair that dies, or loses its store, at any single store call leaves the vault no worse than before; run again, it goes on.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::damaged::*;
use common::*;
use vmkeep::model::CancelToken;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Vault, VaultError};
use vmkeep_testkit::{Fault, FaultyStore, permit, snapshot};

const FAULTS: [fn(u64) -> Fault; 4] = [Fault::StopBefore, Fault::StopAfter, Fault::LostAck, Fault::Fail];

/// Points of a VM, with a copy of a map gone, another one rotten, a point's record and a hint damaged, and a pack of data lost.
fn damaged() -> (Objects, Objects, BTreeMap<String, Disks>) {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    let mut points = BTreeMap::new();
    let mut web = disks([("os", disk(&[Some(block(1, 300)), Some(block(2, 300)), Some(noise(3, BLOCK))]))]);
    for number in 1..=3_u64 {
        set_block(web.get_mut("os").unwrap(), 0, &block(number * 10, 200));
        back_up(&vault, "web", &web).unwrap();
        points.insert(format!("web@{number}"), web.clone());
    }
    let whole = snapshot(&*store);
    let mut objects = whole.clone();
    let packs = |point: &str| packs_of(&vault, &whole, point);
    let ((data, one), (_, two)) = (packs("web@1"), packs("web@2"));
    harm(&mut objects, &one[0], Harm::Missing);
    harm(&mut objects, &copy_of(&one[1]), Harm::Rotten(500));
    harm(&mut objects, &copy_of(&two[0]), Harm::Truncated(700));
    harm(&mut objects, &data[0], Harm::Rotten(400));
    let lineage = vault.point(&point_ref("web@1")).unwrap().point().id.lineage;
    harm(&mut objects, &under(&whole, &format!("points/{lineage}/2"))[0], Harm::Rotten(500));
    harm(&mut objects, &under(&whole, "heads/")[0], Harm::Truncated(500));
    (whole, objects, points)
}

#[test]
fn a_repair_interrupted_at_any_call_has_cost_nothing_and_the_next_goes_on() {
    let (whole, objects, points) = damaged();
    let repair_on = |store: Arc<FaultyStore>| {
        Vault::open(store, kek(), ports(2)).and_then(|vault| {
            vault.repair(&permit(), true, &Live("web", &points["web@1"]), &CancelToken::new())
        })
    };
    let clean = FaultyStore::new(store(&objects), []);
    let done = repair_on(Arc::new(clean.clone())).unwrap();
    assert!(done.mends.len() >= 6 && done.is_whole(), "{done:#?}");
    let lost_at_best: BTreeMap<&String, _> =
        points.keys().map(|point| (point, reported(&done, point))).collect();
    let before = open(store(&objects), 1);
    let lost_before: BTreeMap<&String, _> =
        points.iter().map(|(point, expected)| (point, refused(&before, point, expected))).collect();
    let calls = clean.calls();
    assert!(calls > 100, "{calls} calls");
    for n in 0..calls {
        let fault = FAULTS[usize::try_from(n).unwrap() % FAULTS.len()](n);
        let inner = store(&objects);
        let when = format!("{fault:?} of {calls}");
        let outcome = repair_on(Arc::new(FaultyStore::new(inner.clone(), [fault])));
        assert!(matches!(&outcome, Ok(_) | Err(VaultError::Store { .. })), "{when}: {outcome:?}");
        let now = snapshot(&*inner);
        for (path, bytes) in &objects {
            let same = now.get(path) == Some(bytes);
            let was_bad = whole.get(path) != Some(bytes);
            assert!(same || was_bad, "{when}: {path} was good and is not as it was");
        }
        let vault = open(inner.clone(), 5);
        for (point, expected) in &points {
            let (before, now) = (&lost_before[point], refused(&vault, point, expected));
            let is_no_worse = match (before, &now) {
                (None, _) => true,
                (Some(before), Some(now)) => now.is_subset(before),
                (Some(_), None) => false,
            };
            assert!(is_no_worse, "{when}: {point}: {before:?}, now {now:?}");
        }
        let again = repair_with(&open(inner.clone(), 3), &Live("web", &points["web@1"]), true);
        let vault = open(inner.clone(), 4);
        for (point, expected) in &points {
            let refused = refused(&vault, point, expected);
            assert_eq!(refused.as_ref(), Some(&lost_at_best[point]), "{when}: {point}: {again:#?}");
        }
        assert!(!repair(&vault, true).has_to_do(), "{when}");
    }
}
