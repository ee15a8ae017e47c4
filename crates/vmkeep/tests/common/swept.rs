//! Sweeping in tests, and what is in the store by its names.

#![allow(dead_code, clippy::unwrap_used)] // every test file uses a part of this

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vmkeep_testkit::permit;

use vmkeep::backup::{self, Event};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::envelope::{Branch, OpenedKeys, SealContext, SeededEntropy, open_key_object, seal_key_object};
use vmkeep::model::{CancelToken, SessionId};
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::{ObjectStore, ObjectStoreExt};
use vmkeep::vault::{ObjectName, SweepReport, SweepSettings, Vault};
use vmkeep_testkit::snapshot;

use super::common::{inline, kek, open, plan};

/// Ends every session that has not committed. The clocks of tests stand, so that what began just now has to count as
/// long ago.
pub(crate) fn at_once() -> SweepSettings {
    SweepSettings { abandoned_after_ms: Some(-1), ..SweepSettings::default() }
}

/// Sweeps everything that can be swept.
pub(crate) fn sweep_all(vault: &Vault) -> SweepReport {
    vault.sweep(&permit(), &at_once(), &CancelToken::new(), &mut |_| {}).unwrap()
}

/// Names of the objects under `packs/`.
pub(crate) fn packs(store: &dyn ObjectStore) -> BTreeSet<String> {
    let names = snapshot(store).into_keys().map(|path| path.to_string());
    names.filter(|name| name.starts_with("packs/")).collect()
}

/// Bytes of every object.
pub(crate) fn size_of(store: &dyn ObjectStore) -> u64 {
    snapshot(store).values().map(|bytes| bytes.len() as u64).sum()
}

/// A backup of the disk `os` that ends when its data is stored: a session that may commit for all anybody knows.
pub(crate) fn interrupted(vault: &Vault, vm_name: &str, os: &[u8]) {
    let (cancel, memory) = (CancelToken::new(), Memory::from(os.to_vec()));
    let stop = |event: Event<'_>| {
        if matches!(event, Event::DiskDone { .. }) {
            cancel.cancel();
        }
    };
    let plan = plan(vm_name, &[("os", &memory as &dyn BlockRead)]);
    backup::run(&permit(), vault, &plan, &inline(), &stop, &cancel).unwrap_err();
}

/// Runs `work` with a vault over `store` whose key objects hold no data keys, and puts the others back.
pub(crate) fn without_data_key<T>(store: &InMemory, work: impl FnOnce(&Vault) -> T) -> T {
    let (counter, session) = (AtomicU64::new(0), SessionId([0x77; 16]));
    let context = SealContext { session, counter: &counter, entropy: &SeededEntropy::new(77) };
    let mut before = Vec::new();
    for (path, bytes) in snapshot(store) {
        let Some(ObjectName::Key { .. }) = ObjectName::parse(path.as_ref()) else { continue };
        let OpenedKeys::Keys(keys) = open_key_object(&bytes, path.as_ref(), &*kek()).unwrap() else {
            panic!()
        };
        let (prefix, _) = path.as_ref().rsplit_once('/').unwrap();
        let keys = keys.without(Branch::Data);
        let (name, object) = seal_key_object(&keys, &*kek(), &format!("{prefix}/"), &context).unwrap();
        assert_eq!(name, path.as_ref());
        block_on(store.put(&path, object.bytes().clone().into())).unwrap();
        before.push((path, bytes));
    }
    let done = work(&open(Arc::new(store.clone()), 5));
    for (path, bytes) in before {
        block_on(store.put(&path, bytes.into())).unwrap();
    }
    done
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
