//! The stores and adapters of this workspace, held against what a vault needs of a store.

use std::sync::Arc;

use object_store::memory::InMemory;
use vmkeep_model::SessionId;
use vmkeep_testkit::{CountingStore, Fault, FaultyStore, QuotaStore, RecordingStore, Unfit, UnfitStore};
use vmkeep_vault::{FolderStore, conformance};

/// More calls than the suite makes.
const CALLS: u64 = 100_000;

#[test]
fn memory() {
    conformance::holds_a_vault(Arc::new(InMemory::new()));
}

#[test]
fn a_folder() {
    let folder = tempfile::tempdir().unwrap();
    conformance::holds_a_vault(Arc::new(FolderStore::open(folder.path(), SessionId([1; 16])).unwrap()));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "empty folders are removed as well");
}

#[test]
fn the_adapters_of_the_testkit() {
    let memory = || Arc::new(InMemory::new());
    conformance::holds_a_vault(Arc::new(FaultyStore::new(memory(), [])));
    conformance::holds_a_vault(Arc::new(CountingStore::new(memory())));
    conformance::holds_a_vault(Arc::new(RecordingStore::new(memory())));
    conformance::holds_a_vault(Arc::new(QuotaStore::new(memory(), 10 << 20)));
}

#[test]
fn a_store_that_fails_or_loses_answers_when_asked_again() {
    for kind in [Fault::Fail, Fault::LostAck] {
        for every in [2, 3, 7] {
            let script = (0..CALLS / every).map(|n| kind(n * every));
            let store = FaultyStore::new(Arc::new(InMemory::new()), script);
            conformance::holds_a_vault_when_asked_again(Arc::new(store.clone()));
            assert!(store.calls() < CALLS, "the script has ended before the suite");
        }
    }
}

#[test]
fn a_folder_that_loses_answers() {
    let folder = tempfile::tempdir().unwrap();
    let inner = Arc::new(FolderStore::open(folder.path(), SessionId([1; 16])).unwrap());
    let store = FaultyStore::new(inner, (0..CALLS / 3).map(|n| Fault::LostAck(n * 3)));
    conformance::holds_a_vault_when_asked_again(Arc::new(store));
}

#[test]
fn no_unfit_store_passes() {
    for unfit in Unfit::ALL {
        let store = Arc::new(UnfitStore::new(Arc::new(InMemory::new()), unfit));
        let passed = std::thread::spawn(|| conformance::holds_a_vault(store)).join();
        assert!(passed.is_err(), "{unfit:?}");
    }
}
