//! The audit log: who did what, and what shows when a store takes something back or changes it.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::*;
use proptest::prelude::*;
use vmkeep::model::{Operation, Permit, Role, RoleSet, Scope, Timestamp, op};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Checkpoint, JournalEntry, Log, LogFault, LogStream, ObjectName, Vault};
use vmkeep_testkit::{permit, snapshot, store_of};

fn content(n: u64) -> Disks {
    disks([("os", disk(&[Some(block(n, 300)), Some(block(5, 300))]))])
}

/// A vault with journals of every kind of stream.
fn scene() -> (Arc<InMemory>, Vault) {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    for n in 1..=3 {
        back_up(&vault, "web", &content(n)).unwrap();
        back_up(&vault, "db", &content(n)).unwrap();
    }
    act(&vault, "web@1");
    act(&vault, "db@2");
    vault.grant_role(&permit(), &"ann".parse().unwrap(), "backup-reader").unwrap();
    (store, vault)
}

/// Three entries in the journal of a VM.
fn act(vault: &Vault, point: &str) {
    vault.hold(&permit(), &point_ref(point)).unwrap();
    vault.release(&permit(), &point_ref(point)).unwrap();
    vault.forget(&permit(), &point_ref(point)).unwrap();
}

fn log(vault: &Vault, seen: Option<&Checkpoint>) -> Log {
    vault.log(seen).unwrap()
}

fn of(log: &Log, stream: &LogStream) -> Vec<JournalEntry> {
    let entries = log.entries.iter().filter(|entry| entry.stream == *stream);
    entries.map(|entry| entry.record.entry.clone()).collect()
}

fn stream(name: &str) -> LogStream {
    LogStream::Vm { vm: vm(name), generation: 0 }
}

#[test]
fn the_log_has_every_journal_and_says_who() {
    let (_, vault) = scene();
    let mut roles = RoleSet::default();
    roles.define(Role { name: "one".to_owned(), allows: [Operation::Undelete].into() });
    roles.grant("ann".parse().unwrap(), "one".to_owned());
    let ann = roles.authorizer("ann".parse().unwrap(), Timestamp(0));
    let undelete: Permit<op::Undelete> = Permit::ask(&ann, Scope::Vault).unwrap();
    vault.undelete(&undelete, &point_ref("web@1")).unwrap();
    let found = log(&vault, None);
    assert!(found.faults.is_empty(), "{:?}", found.faults);
    assert_eq!(of(&found, &LogStream::Vault), [JournalEntry::VaultCreated]);
    let number = 1;
    let acts = [
        JournalEntry::Held { number },
        JournalEntry::Released { number },
        JournalEntry::Forgotten { number },
        JournalEntry::Undeleted { number },
    ];
    assert_eq!(of(&found, &stream("web")), acts);
    assert_eq!(of(&found, &LogStream::Authority).len(), 1);
    let who = |entry: &JournalEntry| {
        let found = found.entries.iter().find(|found| found.record.entry == *entry).unwrap();
        found.record.by.as_ref().unwrap().to_string()
    };
    assert_eq!((who(&acts[3]), who(&acts[0])), ("ann".to_owned(), "owner".to_owned()));
}

#[test]
fn a_checkpoint_goes_through_a_file_and_holds_while_the_vault_goes_on() {
    let (store, vault) = scene();
    let first = log(&vault, None).checkpoint;
    assert_eq!(first.entries(), 1 + 1 + 3 + 3);
    let sealed = vault.seal_checkpoint(&first).unwrap();
    assert_eq!(vault.open_checkpoint(&sealed).unwrap(), first);
    for at in 0..sealed.len() {
        let mut changed = sealed.to_vec();
        changed[at] ^= 1;
        assert!(vault.open_checkpoint(&changed).is_err(), "byte {at}");
    }
    back_up(&vault, "web", &content(9)).unwrap();
    back_up(&vault, "mail", &content(9)).unwrap();
    act(&vault, "web@2");
    sweep(&vault);
    vault.close(&permit(), &vm("db")).unwrap();
    back_up(&vault, "db", &content(4)).unwrap();
    let later = log(&open(store, 2), Some(&first));
    assert!(later.faults.is_empty(), "{:?}", later.faults);
    assert!(later.checkpoint.entries() > first.entries() + 3);

    let other = create(Arc::new(InMemory::new()), 3);
    assert!(other.log(Some(&first)).is_err() && other.open_checkpoint(&sealed).is_err());
}

/// What a store that takes its newest objects back shows: nothing is wrong with anything in it.
#[test]
fn a_vault_as_it_was_before_is_found_out_by_the_checkpoint_alone() {
    let (store, vault) = scene();
    let before = snapshot(&*store);
    act(&vault, "web@2");
    back_up(&vault, "db", &content(9)).unwrap();
    let seen = log(&vault, None).checkpoint;

    let old = open(Arc::new(store_of(&before)), 2);
    assert_vault_clean(&old, "as it was");
    assert!(log(&old, None).faults.is_empty());
    let faults = log(&old, Some(&seen)).faults;
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.contains(&"the points of db end at number 3; number 4 was seen before".to_owned()),
        "{told:?}"
    );
    assert!(
        told.contains(&"the journal of web ends at entry 3; entry 6 was seen before".to_owned()),
        "{told:?}"
    );
    let gone: BTreeMap<_, _> =
        before.clone().into_iter().filter(|(path, _)| !path.as_ref().starts_with("names/")).collect();
    let faults = log(&open(Arc::new(store_of(&gone)), 2), Some(&seen)).faults;
    assert_eq!(faults.iter().filter(|fault| matches!(fault, LogFault::VmGone { .. })).count(), 2);
}

/// What was done to a journal.
#[derive(Clone, Debug)]
enum Harm {
    Remove(usize),
    Swap(usize, usize),
    Flip(usize, usize),
    /// The object of one entry in place of that of another.
    Replay(usize, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    let at = || 0_usize..100;
    prop_oneof![
        at().prop_map(Harm::Remove),
        (at(), at()).prop_map(|(a, b)| Harm::Swap(a, b)),
        (at(), any::<usize>()).prop_map(|(a, byte)| Harm::Flip(a, byte)),
        (at(), at()).prop_map(|(a, b)| Harm::Replay(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Entries removed, reordered or changed anywhere are found, by whoever has seen the journals once.
    #[test]
    fn whatever_is_done_to_entries_that_were_seen_is_found(harms in prop::collection::vec(harm(), 1..4)) {
        let (store, vault) = scene();
        let seen = log(&vault, None).checkpoint;
        let before = snapshot(&*store);
        let mut objects = before.clone();
        for harm in &harms {
            let names: Vec<_> = objects
                .keys()
                .filter(|path| matches!(ObjectName::parse(path.as_ref()), Some(ObjectName::Journal(..))))
                .cloned()
                .collect();
            let name = |at: usize| names[at % names.len()].clone();
            match *harm {
                Harm::Remove(at) => drop(objects.remove(&name(at))),
                Harm::Swap(a, b) => {
                    let (of_a, of_b) = (objects[&name(a)].clone(), objects[&name(b)].clone());
                    objects.insert(name(a), of_b);
                    objects.insert(name(b), of_a);
                }
                Harm::Flip(at, byte) => {
                    let mut bytes = objects[&name(at)].to_vec();
                    let byte = byte % bytes.len();
                    bytes[byte] ^= 1;
                    objects.insert(name(at), Bytes::from(bytes));
                }
                Harm::Replay(a, b) => drop(objects.insert(name(a), objects[&name(b)].clone())),
            }
            if names.len() < 2 {
                break;
            }
        }
        prop_assume!(objects != before);
        let faults = log(&open(Arc::new(store_of(&objects)), 2), Some(&seen)).faults;
        prop_assert!(!faults.is_empty(), "{harms:?}");
    }
}
