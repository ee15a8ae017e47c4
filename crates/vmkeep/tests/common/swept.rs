//! Sweeping in tests, and what is in the store by its names.

#![allow(dead_code, clippy::unwrap_used)] // every test file uses a part of this

use std::collections::BTreeSet;

use vmkeep::backup::{self, Event};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::model::CancelToken;
use vmkeep::object_store::ObjectStore;
use vmkeep::vault::{SweepReport, SweepSettings, Vault};
use vmkeep_testkit::snapshot;

use super::common::{inline, plan};

/// Ends every session that has not committed. The clocks of tests stand, so that what began just now has to count as
/// long ago.
pub(crate) fn at_once() -> SweepSettings {
    SweepSettings { abandoned_after_ms: Some(-1), ..SweepSettings::default() }
}

/// Sweeps everything that can be swept.
pub(crate) fn sweep_all(vault: &Vault) -> SweepReport {
    vault.sweep(&at_once(), &CancelToken::new(), &mut |_| {}).unwrap()
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
    backup::run(vault, &plan, &inline(), &stop, &cancel).unwrap_err();
}
