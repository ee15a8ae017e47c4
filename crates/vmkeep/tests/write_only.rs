//! Write-only clients: hosts that make recovery points of VMs and cannot read what is stored of them.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/swept.rs"]
mod swept;

use std::sync::Arc;

use common::*;
use keys::*;
use swept::sweep_all;
use vmkeep::backup::{self, Compare, Pages};
use vmkeep::envelope::{Branch, KeyError, KeyFileVault, OpenedKeys, open_key_object};
use vmkeep::model::{Owner, Permit, Scope, op};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::restore::{Depth, RestoreError};
use vmkeep::vault::{ClientGrant, CompressionLevel, JournalEntry, ObjectName, Vault, VaultError};
use vmkeep_testkit::{permit, snapshot};

fn client_kek() -> Arc<KeyFileVault> {
    kek_of(99)
}

fn grant(vault: &Vault, vms: &[&str]) -> Result<ClientGrant, VaultError> {
    let vms: Vec<_> = vms.iter().map(|name| vm(name)).collect();
    vault.grant_client(&permit(), &*client_kek(), &vms)
}

/// The vault as the client sees it.
fn client(store: Arc<dyn ObjectStore>, seed: u64) -> Vault {
    Vault::open(store, client_kek(), ports(seed)).unwrap()
}

fn is_without_data_key(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let missing = cause.downcast_ref::<KeyError>();
        matches!(missing, Some(KeyError::BranchMissing { branch: Branch::Data, .. }))
    })
}

#[track_caller]
fn assert_reads_nothing(client: &Vault, points: impl IntoIterator<Item = u64>) {
    for n in points {
        let error = restore(client, &format!("web@{n}")).unwrap_err();
        assert!(is_without_data_key(&error), "web@{n}: {error:?}");
    }
}

#[test]
fn a_client_makes_points_that_the_owner_restores_and_reads_none() {
    for_each_store(|store| {
        let owner = create(Arc::clone(&store), 1);
        back_up_version(&owner, 1);
        let given = grant(&owner, &["web"]).unwrap();
        assert_eq!((given.added, given.prepared.len()), (2, 0));
        let host = client(Arc::clone(&store), 2);
        assert!(host.is_client() && !owner.is_client());
        for n in 2..=4 {
            back_up_version(&host, n);
        }
        back_up_version(&owner, 5);
        back_up_version(&host, 6);
        assert_reads_nothing(&host, 1..=6);
        assert_points(&open(store, 3), 1..=6, "made by turns");
        // What needs no content, a client does.
        assert_eq!(host.points(&vm("web")).unwrap().len(), 6);
        assert!(verify(&host, Depth::Structure).unwrap().is_clean());
    });
}

/// All that is under the client's KEK, opened: there is no data key in any of it, whatever was done before and after.
#[test]
fn nothing_under_the_clients_kek_holds_a_data_key() {
    let store = Arc::new(InMemory::new());
    let owner = create(store.clone(), 1);
    back_up_version(&owner, 1);
    rotate(&owner).unwrap();
    back_up_version(&owner, 2);
    // The record key, two epochs of one VM, one of another that is new.
    let given = grant(&owner, &["web", "db"]).unwrap();
    assert_eq!((given.added, given.prepared), (4, vec![vm("db")]));
    rotate_with(&owner, &[client_kek()]).unwrap();
    let mut opened = 0;
    for (path, bytes) in snapshot(&*store) {
        let Some(ObjectName::Key { .. }) = ObjectName::parse(path.as_ref()) else { continue };
        let found = open_key_object(&bytes, path.as_ref(), &*client_kek()).unwrap();
        let OpenedKeys::Keys(keys) = found else { continue };
        assert!(keys.data().is_err(), "{path} holds a data key");
        opened += 1;
    }
    assert_eq!(opened, 5);
}

#[test]
fn a_client_stores_pages_where_it_has_fingerprints_and_whole_blocks_where_it_has_none() {
    let (store, folder) = (Arc::new(InMemory::new()), tempfile::tempdir().unwrap());
    let owner = create(store.clone(), 1);
    grant(&owner, &["web"]).unwrap();
    let host = client(store.clone(), 2);
    let back_up = |vault: &Vault, n: u64, folder: Option<&std::path::Path>| {
        let pages = Pages { compare: Compare::Always, folder: folder.map(Into::into), ..Pages::default() };
        let settings = backup::Settings { level: CompressionLevel::Fast, pages, ..inline() };
        back_up_with(vault, "web", &pages_of(n), &settings).unwrap().stored.data
    };
    let full = back_up(&host, 0, Some(folder.path()));
    assert!(full > 60 * BLOCK as u64);
    // A page of each of four blocks.
    let known = back_up(&host, 1, Some(folder.path()));
    assert!(known < 8 * 4096, "{known} bytes for four pages");
    // The fingerprints are gone, and there is nothing to compare with.
    let unknown = back_up(&host, 2, None);
    assert!((4..6).contains(&(unknown / BLOCK as u64)), "{unknown} bytes for four blocks");
    for n in 0..3 {
        assert_point_whole(&owner, &format!("web@{}", n + 1), &pages_of(n), "pages");
    }
}

/// A disk of which version `n` differs from the one before in a page of each of four blocks.
fn pages_of(n: u64) -> Disks {
    let mut os = noise(1 << 60, 64 * BLOCK);
    for changed in 1..=n {
        for k in 0..4 {
            let at = usize::try_from(changed * 5 + k * 16).unwrap() * BLOCK + 4096;
            os[at..at + 4096].copy_from_slice(&noise(changed << 40 | k << 20, 4096));
        }
    }
    disks([("os", os)])
}

#[test]
fn what_a_client_sealed_is_swept_thinned_and_moved_to_new_keys_like_any_other() {
    let store = Arc::new(InMemory::new());
    let owner = create(store.clone(), 1);
    grant(&owner, &["web"]).unwrap();
    let host = client(store.clone(), 2);
    for n in 1..=8 {
        back_up_version(&host, n);
    }
    for gone in [1, 2, 4, 5, 7] {
        owner.forget(&permit(), &point_ref(&format!("web@{gone}"))).unwrap();
    }
    // A sweep needs no data key: the client's own does it too.
    let swept = sweep_all(&host);
    assert!(swept.freed > 0, "{swept:?}");
    assert_points(&open(store.clone(), 3), [3, 6, 8], "swept by the client");
    sweep_all(&owner);
    assert_points(&open(store.clone(), 4), [3, 6, 8], "swept by the owner");

    rotate_with(&owner, &[client_kek()]).unwrap();
    let moved = rewrite(&owner, u64::MAX).unwrap();
    assert!(moved.moved > 0 && moved.left == 0, "{moved:?}");
    sweep_all(&owner);
    assert_points(&open(store, 5), [3, 6, 8], "moved to new keys");
}

#[test]
fn new_keys_need_the_clients_kek_and_reach_the_client() {
    let store = Arc::new(InMemory::new());
    let owner = create(store.clone(), 1);
    back_up_version(&owner, 1);
    grant(&owner, &["web"]).unwrap();
    let host = client(store.clone(), 2);
    back_up_version(&host, 2);
    assert!(matches!(rotate(&owner), Err(VaultError::ForeignWraps { keks, .. }) if keks.len() == 1));
    let rotated = rotate_with(&owner, &[client_kek()]).unwrap();
    assert_eq!(rotated.epoch, 1);
    back_up_version(&host, 3);
    assert_reads_nothing(&host, 1..=3);
    assert!(epochs(&owner).iter().any(|epoch| epoch.epoch == 1 && epoch.bytes > 0), "{:?}", epochs(&owner));
    assert_points(&open(store, 3), 1..=3, "rotated");
    // And nobody but the owner makes them.
    assert!(is_without_data_key(&rotate(&host).unwrap_err()));
}

#[test]
fn a_client_makes_no_keys_and_gives_none_away() {
    let store = Arc::new(InMemory::new());
    let owner = create(store.clone(), 1);
    back_up_version(&owner, 1);
    grant(&owner, &["web"]).unwrap();
    let host = client(store.clone(), 2);

    let refused = back_up(&host, "db", &version(1)).unwrap_err();
    assert!(matches!(vault_error(&refused), Some(VaultError::NotGranted { vm: name }) if *name == vm("db")));
    assert!(matches!(grant(&host, &["web"]), Err(VaultError::NoClient { .. })));
    // Nor is the owner's own KEK made that of a client.
    let own = owner.grant_client(&permit(), &*kek(), &[vm("web")]);
    assert!(matches!(own, Err(VaultError::NoClient { .. })));

    // A VM of which it was given nothing.
    back_up(&owner, "mail", &version(1)).unwrap();
    let refused = back_up(&host, "mail", &version(2)).unwrap_err();
    assert!(matches!(vault_error(&refused), Some(VaultError::WrongKey { .. })));
    // A closed one: its next lineage would need new keys.
    owner.close(&permit(), &vm("web")).unwrap();
    let refused = back_up(&host, "web", &version(2)).unwrap_err();
    assert!(matches!(vault_error(&refused), Some(VaultError::NotGranted { .. })));
    let again = grant(&owner, &["web"]).unwrap();
    assert_eq!(again.prepared, [vm("web")]);
    back_up(&host, "web", &version(2)).unwrap();
    assert_restores(&open(store, 3), "web@1", &version(2), "protected again by the client");
}

#[test]
fn granting_again_changes_nothing_and_withdrawing_takes_all_of_it() {
    let store = Arc::new(InMemory::new());
    let owner = create(store.clone(), 1);
    back_up_version(&owner, 1);
    let given = grant(&owner, &["web", "db"]).unwrap();
    let before = snapshot(&*store);
    let again = grant(&owner, &["web", "db"]).unwrap();
    assert_eq!((again.added, again.kek.as_str()), (0, given.kek.as_str()));
    assert!(snapshot(&*store) == before, "granting twice changed something");
    back_up_version(&client(store.clone(), 2), 2);

    assert!(matches!(owner.withdraw_client(&permit(), "00"), Err(VaultError::NoClient { .. })));
    let keys = owner.keys().unwrap();
    let own = keys[0].epochs[0].wraps.iter().find(|wrap| wrap.opens()).unwrap();
    let refused = owner.withdraw_client(&permit(), &own.kek);
    assert!(matches!(refused, Err(VaultError::NoClient { .. })), "the owner's own");
    assert_eq!(owner.withdraw_client(&permit(), &given.kek).unwrap(), given.added);
    let shut = Vault::open(store.clone(), client_kek(), ports(3));
    assert!(matches!(shut, Err(VaultError::WrongKey { .. })));
    let journal = owner.journal().unwrap();
    let (kek, added) = (given.kek.clone(), given.added);
    assert!(journal.iter().any(|r| r.entry == JournalEntry::ClientGranted { kek: kek.clone(), added }));
    assert!(
        journal.iter().any(|r| r.entry == JournalEntry::ClientWithdrawn { kek: kek.clone(), removed: added })
    );
    // Keys can be rotated without it now.
    rotate(&owner).unwrap();
    back_up_version(&owner, 3);
    assert_points(&open(store, 4), 1..=3, "withdrawn");
}

#[test]
fn a_permit_for_a_vm_is_none_for_keys() {
    let owner = create(Arc::new(InMemory::new()), 1);
    let of_vm: Permit<op::GrantKeys> = Permit::ask(&Owner, Scope::Vm(vm("web"))).unwrap();
    let denied = owner.grant_client(&of_vm, &*client_kek(), &[vm("web")]);
    assert!(matches!(denied, Err(VaultError::Denied(_))));
    assert!(matches!(owner.withdraw_client(&of_vm, "00"), Err(VaultError::Denied(_))));
}

#[test]
fn destroyed_keys_take_what_a_client_sealed_and_seal_no_more() {
    let store = Arc::new(InMemory::new());
    let owner = create(store.clone(), 1);
    grant(&owner, &["web"]).unwrap();
    let host = client(store.clone(), 2);
    back_up_version(&host, 1);
    let plan = plan_to_destroy(&owner, None).unwrap();
    assert_eq!((plan.points.len(), plan.other_keks.len()), (1, 1));
    destroy(&owner, &plan).unwrap();
    let gone = restore(&open(store.clone(), 3), "web@1").unwrap_err();
    assert!(
        matches!(gone, RestoreError::Vault { ref source, .. } if matches!(**source, VaultError::KeyDestroyed { .. })),
        "{gone:?}"
    );
    let refused = back_up(&client(store, 4), "web", &version(2)).unwrap_err();
    let refused = vault_error(&refused).unwrap();
    assert!(matches!(refused, VaultError::NotGranted { .. } | VaultError::WrongKey { .. }), "{refused:?}");
}

#[test]
fn an_interrupted_backup_of_a_client_is_gone_on_with() {
    let store = Arc::new(InMemory::new());
    let owner = create(store.clone(), 1);
    grant(&owner, &["web"]).unwrap();
    let host = client(store.clone(), 2);
    let content = version(1);
    swept::interrupted(&host, "web", &content["os"]);
    let settings = backup::Settings { resume: backup::Resume::Newest, ..inline() };
    let resumed = back_up_with(&client(store.clone(), 5), "web", &content, &settings).unwrap();
    assert!(resumed.stored.data < 4 * BLOCK as u64, "{:?}", resumed.stored);
    assert_point_whole(&open(store, 6), "web@2", &content, "gone on with");
}
