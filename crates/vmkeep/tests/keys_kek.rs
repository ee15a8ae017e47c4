//! Changing the KEK: only key objects come and go, whatever the number of VMs, and it may be stopped at any store call.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vmkeep_testkit::permit;

use common::*;
use vmkeep::envelope::{Argon2Params, KeyVault, OsEntropy, Passphrase, PassphraseVault};
use vmkeep::model::{CancelToken, DomainId, Owner, Permit, Scope, op};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{JournalEntry, KekEvent, KekRotation, Vault, VaultError};
use vmkeep_testkit::{CountingStore, Counts, Fault, FaultyStore, RequestKind, snapshot, store_of};

fn rotate(
    vault: &Vault,
    to: Arc<dyn KeyVault>,
    from: Option<Arc<dyn KeyVault>>,
) -> Result<KekRotation, VaultError> {
    vault.rotate_kek(&permit(), to, from, &CancelToken::new(), &mut |_| {})
}

/// A vault of `vms` VMs, of which the first three have two points each; `web0` was closed and is protected again.
fn vault_of(store: Arc<dyn ObjectStore>, vms: usize) -> (Vault, BTreeMap<String, Disks>) {
    let vault = create(store, 1);
    let mut points = BTreeMap::new();
    for n in 0..vms {
        let name = format!("web{n}");
        if n >= 3 {
            // Keys and a name, without a point.
            vault.begin(&permit(), &vm(&name)).unwrap();
            continue;
        }
        for point in 1..=2 {
            let content = disks([("os", noise(n as u64 * 10 + point, 3 * BLOCK))]);
            back_up(&vault, &name, &content).unwrap();
            points.insert(format!("{name}@{point}"), content);
        }
    }
    (vault, points)
}

fn opens(store: &Arc<dyn ObjectStore>, kek: Arc<dyn KeyVault>, points: &BTreeMap<String, Disks>) -> bool {
    let Ok(vault) = Vault::open(Arc::clone(store), kek, ports(99)) else { return false };
    points.iter().all(|(point, expected)| restore(&vault, point).is_ok_and(|found| found == *expected))
}

fn names(store: &dyn ObjectStore) -> BTreeSet<String> {
    snapshot(store).into_keys().map(|path| path.to_string()).collect()
}

/// Requests of a rotation of a vault of `vms` VMs.
fn cost_of(vms: usize) -> Counts {
    let store = Arc::new(InMemory::new());
    let (_, points) = vault_of(store.clone(), vms);
    let before = names(&*store);
    let counting = CountingStore::new(store.clone());
    let vault = Vault::open(Arc::new(counting.clone()), kek(), ports(2)).unwrap();
    counting.reset();
    let mut events = Vec::new();
    let done = vault
        .rotate_kek(&permit(), kek_of(8), None, &CancelToken::new(), &mut |event| events.push(event))
        .unwrap();
    let objects = vms as u64 + 1;
    assert_eq!((done.added, done.removed, done.left, done.damaged.len()), (objects, objects, 0, 0));
    assert!(events.contains(&KekEvent::Wrapping { done: 0, of: objects }));
    assert!(events.contains(&KekEvent::Checking { done: objects - 1, of: objects }));
    assert!(events.contains(&KekEvent::Removing { done: 0, of: objects - 1 }));

    // What changed: key objects, and one entry of the vault's journal.
    let counts = counting.counts();
    for (kind, path) in counting.take_log() {
        let is_key = path.as_ref().starts_with("keys/");
        let is_journal = path.as_ref().starts_with("journal/");
        let allowed = match kind {
            RequestKind::Delete => is_key,
            RequestKind::Put | RequestKind::Get | RequestKind::Head => is_key || is_journal,
            RequestKind::List => path.as_ref().starts_with("keys"),
            RequestKind::Copy => false,
        };
        assert!(allowed, "{kind:?} {path}");
    }
    let after = names(&*store);
    let changed: Vec<&String> = before.symmetric_difference(&after).collect();
    let journal = changed.iter().filter(|name| name.starts_with("journal/")).count();
    assert_eq!((changed.len() as u64 - 1, journal), (2 * objects, 1));
    assert!(matches!(
        done.vault.journal().unwrap().last().unwrap().entry,
        JournalEntry::KekRotated { added, removed, .. } if (added, removed) == (objects, objects)
    ));

    let store: Arc<dyn ObjectStore> = store;
    assert!(opens(&store, kek_of(8), &points) && !opens(&store, kek(), &BTreeMap::new()));
    counts
}

#[test]
fn rotating_the_kek_of_a_thousand_vms_touches_key_objects_alone_and_costs_a_constant_for_each() {
    let (some, many) = (cost_of(100), cost_of(1000));
    println!("100: {some:?}\n1000: {many:?}");
    let of = |counts: &Counts| (counts.put, counts.get, counts.delete);
    let (some, more) = (of(&some), of(&many));
    // One create and one delete each; one read to find it and one to check the new one.
    assert_eq!(more.0 - some.0, 900);
    assert_eq!(more.1 - some.1, 1800);
    assert_eq!(more.2 - some.2, 900);
    assert_eq!(
        many.list, 5,
        "whether the new KEK is a client's, to begin with, for whatever came meanwhile, markers, and that the new KEK opens it"
    );
}

#[test]
fn a_rotation_stopped_at_any_call_leaves_every_point_restorable_by_one_of_the_keys_and_goes_on() {
    let base = InMemory::new();
    let (vault, points) = vault_of(Arc::new(base.clone()), 5);
    vault.close(&permit(), &vm("web0")).unwrap();
    back_up(&vault, "web0", &disks([("os", noise(77, BLOCK))])).unwrap();
    let points: BTreeMap<_, _> = points.into_iter().filter(|(point, _)| !point.starts_with("web0")).collect();
    let base = snapshot(&base);
    let run = |store: Arc<dyn ObjectStore>| {
        let vault = Vault::open(store, kek(), ports(2))?;
        rotate(&vault, kek_of(8), None)
    };
    let clean = FaultyStore::new(Arc::new(store_of(&base)), []);
    run(Arc::new(clean.clone())).unwrap();
    assert!(clean.calls() >= 40, "{} calls", clean.calls());
    for n in 0..clean.calls() {
        for fault in [Fault::StopBefore(n), Fault::StopAfter(n), Fault::LostAck(n), Fault::Fail(n)] {
            let when = format!("{fault:?} of {}", clean.calls());
            let store: Arc<dyn ObjectStore> = Arc::new(store_of(&base));
            let outcome = run(Arc::new(FaultyStore::new(Arc::clone(&store), [fault])));
            if let Err(e) = &outcome {
                assert!(matches!(e, VaultError::Store { .. }), "{when}: {e:?}");
            }
            let (by_old, by_new) = (opens(&store, kek(), &points), opens(&store, kek_of(8), &points));
            assert!(by_old || by_new, "{when}");
            assert!(outcome.is_err() || by_new, "{when}");

            let with = if by_old { kek() } else { kek_of(8) };
            let vault = Vault::open(Arc::clone(&store), with, ports(3)).unwrap();
            let done = rotate(&vault, kek_of(8), Some(kek())).unwrap();
            assert_eq!((done.left, done.damaged.len()), (0, 0), "{when}");
            assert!(opens(&store, kek_of(8), &points), "{when}");
            assert!(Vault::open(Arc::clone(&store), kek(), ports(4)).is_err(), "{when}");
            assert!(done.vault.keys().unwrap().iter().all(|domain| {
                domain.epochs.iter().all(|epoch| epoch.wraps.len() == 1 && epoch.wraps[0].opens())
            }));
            assert_vault_clean(&done.vault, &when);
            // Once more there is nothing to do.
            let again = rotate(&done.vault, kek_of(8), Some(kek())).unwrap();
            assert_eq!((again.added, again.removed), (0, 0), "{when}");
        }
    }
}

#[test]
fn a_vm_that_is_protected_under_the_old_kek_meanwhile_is_taken_along_and_a_later_one_by_the_next_run() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (vault, points) = vault_of(Arc::clone(&store), 2);
    let other = open(Arc::clone(&store), 3);
    let mut began = false;
    let done = vault
        .rotate_kek(&permit(), kek_of(8), None, &CancelToken::new(), &mut |event| {
            if matches!(event, KekEvent::Removing { .. }) && !std::mem::replace(&mut began, true) {
                other.begin(&permit(), &vm("meanwhile")).unwrap();
            }
        })
        .unwrap();
    assert_eq!((done.added, done.removed, done.left), (4, 4, 0));
    // A handle of the old KEK goes on until it has to unlock something that is there no more.
    assert!(matches!(other.begin(&permit(), &vm("web0")), Err(VaultError::WrongKey { .. })));
    other.begin(&permit(), &vm("after")).unwrap();
    assert!(matches!(done.vault.begin(&permit(), &vm("after")), Err(VaultError::WrongKey { .. })));
    let again = rotate(&done.vault, kek_of(8), Some(kek())).unwrap();
    assert_eq!((again.added, again.removed), (1, 1));
    done.vault.begin(&permit(), &vm("after")).unwrap();
    assert!(opens(&store, kek_of(8), &points));
}

#[test]
fn keys_are_shown_with_what_wraps_them() {
    let store = Arc::new(InMemory::new());
    let (vault, _) = vault_of(store.clone(), 1);
    vault.close(&permit(), &vm("web0")).unwrap();
    back_up(&vault, "web0", &disks([("os", noise(77, BLOCK))])).unwrap();
    let keys = vault.keys().unwrap();
    assert_eq!(keys.len(), 3);
    assert_eq!((keys[0].domain, keys[0].vms.len()), (DomainId::VAULT, 0));
    assert_eq!(keys[1].vms, [(vm("web0"), 0)]);
    assert_eq!(keys[2].vms, [(vm("web0"), 1)]);
    for domain in &keys {
        let [epoch] = domain.epochs.as_slice() else { panic!("{domain:?}") };
        let [wrap] = epoch.wraps.as_slice() else { panic!("{domain:?}") };
        assert!(wrap.opens() && wrap.damaged.is_none() && epoch.destroyed.is_none());
        assert_eq!((wrap.algorithm.as_str(), wrap.kek.len()), ("HKDF-SHA256+A256GCM", 32));
        assert!(wrap.object.starts_with(&format!("keys/{}/0/", domain.domain)));
    }
}

#[test]
fn a_rotation_to_the_same_kek_or_from_a_foreign_one_is_refused_and_changes_nothing() {
    let store = Arc::new(InMemory::new());
    let (vault, _) = vault_of(store.clone(), 2);
    let before = snapshot(&*store);
    for (to, from) in [(kek(), None), (kek_of(8), Some(kek_of(9) as Arc<dyn KeyVault>))] {
        let refused = rotate(&vault, to, from);
        assert!(matches!(refused, Err(VaultError::NoRotation { .. })), "{refused:?}");
    }
    assert_eq!(snapshot(&*store), before);
    let one = Permit::<op::RotateKek>::ask(&Owner, Scope::Vm(vm("web0"))).unwrap();
    let denied = vault.rotate_kek(&one, kek_of(8), None, &CancelToken::new(), &mut |_| {});
    assert!(matches!(denied, Err(VaultError::Denied(_))));
}

#[test]
fn a_rotation_to_a_passphrase_and_on_goes_on_after_a_stop_without_wrapping_twice() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (_, points) = vault_of(Arc::clone(&store), 3);
    let words = || -> Arc<dyn KeyVault> {
        let passphrase = Passphrase::new("correct horse battery staple".to_owned()).unwrap();
        let params = Argon2Params::new(19_456, 2, 1).unwrap();
        Arc::new(PassphraseVault::new(passphrase, params, &OsEntropy).unwrap())
    };
    let faulty = FaultyStore::new(Arc::clone(&store), [Fault::StopAfter(14)]);
    let vault = Vault::open(Arc::new(faulty), kek(), ports(2));
    vault.and_then(|vault| rotate(&vault, words(), None)).unwrap_err();
    let vault = open(Arc::clone(&store), 3);
    let done = rotate(&vault, words(), None).unwrap();
    assert!(done.added < 4, "some were there");
    assert!(done.vault.keys().unwrap().iter().all(|domain| domain.epochs[0].wraps.len() == 1));
    assert!(opens(&store, words(), &points));
}
