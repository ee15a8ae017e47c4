//! Rotating, moving and destroying keys in tests: of the VM `web`, whose content has a number.

#![allow(dead_code, clippy::unwrap_used)] // every test file uses a part of this

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use vmkeep::backup::{self, Compare, Pages};
use vmkeep::envelope::{KeyVault, OpenedKeys, SealContext, SeededEntropy, open_key_object, seal_key_object};
use vmkeep::model::{CancelToken, Op, Owner, Permit, Scope, SessionId};
use vmkeep::object_store::ObjectStoreExt;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{
    BekRotation, CompressionLevel, DestroyPlan, Destroyed, EpochBytes, ObjectName, Rewritten, Vault,
    VaultError,
};
use vmkeep_testkit::snapshot;

use super::common::*;

pub(crate) fn web<O: Op>() -> Permit<O> {
    Permit::ask(&Owner, Scope::Vm(vm("web"))).unwrap()
}

pub(crate) fn rotate(vault: &Vault) -> Result<BekRotation, VaultError> {
    rotate_with(vault, &[])
}

pub(crate) fn rotate_with(vault: &Vault, also: &[Arc<dyn KeyVault>]) -> Result<BekRotation, VaultError> {
    vault.rotate_bek(&web(), &vm("web"), also, &CancelToken::new())
}

pub(crate) fn rewrite(vault: &Vault, budget: u64) -> Result<Rewritten, VaultError> {
    vault.rewrite(&web(), &vm("web"), budget, &CancelToken::new(), &mut |_| {})
}

pub(crate) fn plan_to_destroy(vault: &Vault, epoch: Option<u32>) -> Result<DestroyPlan, VaultError> {
    vault.destroy_plan(&vm("web"), epoch, &CancelToken::new())
}

pub(crate) fn destroy(vault: &Vault, plan: &DestroyPlan) -> Result<Destroyed, VaultError> {
    vault.destroy_keys(&web(), plan, &CancelToken::new())
}

pub(crate) fn epochs(vault: &Vault) -> Vec<EpochBytes> {
    vault.epoch_bytes(&vm("web"), &CancelToken::new()).unwrap()
}

pub(crate) const BLOCKS: u64 = 60;

/// Content number `n`: most blocks are those of the one before, and of some only a page differs.
pub(crate) fn version(n: u64) -> Disks {
    let mut os = noise(1 << 60, usize::try_from(BLOCKS).unwrap() * BLOCK);
    for changed in 1..=n {
        for k in 0..4 {
            let at = (changed * 7 + k * 11) % BLOCKS;
            set_block(&mut os, usize::try_from(at).unwrap(), &noise(changed << 40 | at << 24, BLOCK));
        }
        let at = usize::try_from((changed * 13 + 5) % BLOCKS).unwrap() * BLOCK + 4096;
        os[at..at + 100].copy_from_slice(&noise(changed << 40 | 1 << 39, 100));
    }
    disks([("os", os)])
}

/// Content none of whose blocks is in any version.
pub(crate) fn other_content() -> Disks {
    disks([("os", noise(1 << 61, usize::try_from(BLOCKS).unwrap() * BLOCK))])
}

pub(crate) fn back_up_now(vault: &Vault, content: &Disks) -> u64 {
    let pages = Pages { compare: Compare::Always, ..Pages::default() };
    let settings = backup::Settings { level: CompressionLevel::Fast, pages, ..inline() };
    back_up_with(vault, "web", content, &settings).unwrap().point.id.number.0
}

pub(crate) fn back_up_version(vault: &Vault, n: u64) {
    assert_eq!(back_up_now(vault, &version(n)), n);
}

#[track_caller]
pub(crate) fn assert_points(vault: &Vault, points: impl IntoIterator<Item = u64>, when: &str) {
    for n in points {
        assert_point_whole(vault, &format!("web@{n}"), &version(n), when);
    }
    assert_vault_clean(vault, when);
}

/// Wraps every key by another KEK as well.
pub(crate) fn wrap_also(store: &InMemory, kek_of_other: &dyn KeyVault) {
    let (counter, session) = (AtomicU64::new(0), SessionId([0x78; 16]));
    let context = SealContext { session, counter: &counter, entropy: &SeededEntropy::new(78) };
    for (path, bytes) in snapshot(store) {
        let Some(ObjectName::Key { .. }) = ObjectName::parse(path.as_ref()) else { continue };
        let OpenedKeys::Keys(keys) = open_key_object(&bytes, path.as_ref(), &*kek()).unwrap() else {
            panic!()
        };
        let (prefix, _) = path.as_ref().rsplit_once('/').unwrap();
        let (name, object) = seal_key_object(&keys, kek_of_other, &format!("{prefix}/"), &context).unwrap();
        block_on(store.put(&name.into(), object.bytes().clone().into())).unwrap();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
