//! A vault is made only where its promises can be kept, and a refusal leaves nothing behind.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use vmkeep_envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep_model::{ManualClock, Timestamp};
use vmkeep_testkit::{CountingStore, Fault, FaultyStore, Unfit, UnfitStore, snapshot};
use vmkeep_vault::{Ports, Vault, VaultError};

fn create(store: Arc<dyn ObjectStore>) -> Result<Vault, VaultError> {
    let kek = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
    Vault::create(store, kek, Ports { clock, entropy: Arc::new(SeededEntropy::new(1)) })
}

#[test]
fn no_vault_is_made_in_a_store_that_breaks_a_promise() {
    for (unfit, expected) in [
        (Unfit::Overwrites, "takes a second create"),
        (Unfit::OverwritesInSecret, "changes the object"),
        (Unfit::LooksFirst, "takes both"),
        (Unfit::NotSupported, "cannot create an object only if there is none"),
        (Unfit::NotImplemented, "cannot create an object only if there is none"),
        (Unfit::AlwaysExists, "never used"),
        (Unfit::Forgets, "not there to be read"),
        (Unfit::Hides, "does not list"),
        (Unfit::KeepsDeleted, "just deleted"),
    ] {
        let memory = Arc::new(InMemory::new());
        match create(Arc::new(UnfitStore::new(memory.clone(), unfit))) {
            Err(VaultError::UnfitStore { store, what }) => {
                assert!(what.contains(expected), "{unfit:?}: {what}");
                assert!(store.contains("UnfitStore"), "{store}");
            }
            other => panic!("{unfit:?}: {other:?}"),
        }
        let left: Vec<String> = snapshot(&*memory).keys().map(ToString::to_string).collect();
        if unfit == Unfit::KeepsDeleted {
            // Nobody can remove anything there; what is left has names that count for nothing.
            assert!(left.iter().all(|path| path.contains("/stage-")), "{left:?}");
        } else {
            assert!(left.is_empty(), "{unfit:?} left {left:?}");
        }
    }
    assert_eq!(Unfit::ALL.len(), 9, "each of them is above");
}

#[test]
fn trying_a_store_costs_eleven_requests_and_leaves_nothing() {
    let memory = Arc::new(InMemory::new());
    let store = CountingStore::new(memory.clone());
    create(Arc::new(store.clone())).unwrap();
    let counts = store.counts_under("sessions");
    assert_eq!(counts.total(), 11, "{counts:?}");
    assert!(snapshot(&*memory).keys().all(|path| !path.as_ref().starts_with("sessions/")));
}

#[test]
fn a_store_that_fails_meanwhile_is_not_called_unfit() {
    for n in 0..20 {
        for fault in [Fault::Fail(n), Fault::LostAck(n), Fault::StopBefore(n), Fault::StopAfter(n)] {
            let memory = Arc::new(InMemory::new());
            let store = FaultyStore::new(memory.clone(), [fault]);
            match create(Arc::new(store)) {
                Ok(_) | Err(VaultError::Store { .. }) => {}
                Err(e) => panic!("{fault:?}: {e:?}"),
            }
            match create(memory) {
                Ok(_) | Err(VaultError::VaultExists { .. }) => {}
                Err(e) => panic!("again after {fault:?}: {e:?}"),
            }
        }
    }
}
