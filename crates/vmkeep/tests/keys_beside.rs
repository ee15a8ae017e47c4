//! Changing, making and destroying keys beside one another, and beside a KEK that does not answer: nothing is ever lost that was
//! not agreed to.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/swept.rs"]
mod swept;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use common::*;
use keys::*;
use vmkeep::envelope::{
    DomainKeys, Entropy, KekDescription, KeyError, KeyFileVault, KeyVault, SealContext, SecretKey,
    SeededEntropy, Unwrapped, WrapContext, WrappedKey, seal_key_object,
};
use vmkeep::model::CancelToken;
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::{ObjectStore, ObjectStoreExt};
use vmkeep::vault::{KekRotation, ObjectName, Vault, VaultError};
use vmkeep_testkit::{Call, Tap, TappedStore, Verdict, permit, snapshot, store_of};

/// Does something right before call `at`.
struct At {
    call: u64,
    calls: AtomicU64,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl At {
    fn new(at: u64, act: impl FnOnce() + Send + 'static) -> Self {
        Self { call: at, calls: AtomicU64::new(0), act: Mutex::new(Some(Box::new(act))) }
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "At({})", self.call)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "At({})", self.call)
    }
}

impl Tap for At {
    fn before(&self, _: &Call<'_>) -> Verdict {
        if self.calls.fetch_add(1, Ordering::Relaxed) == self.call
            && let Some(act) = self.act.lock().unwrap().take()
        {
            std::thread::spawn(act).join().unwrap();
        }
        Verdict::Pass
    }
}

/// Runs `first` over what `base` holds, with `second` as a whole right before its n-th call, for every n there is; and `check`
/// after each.
fn at_every_call(
    base: &InMemory,
    first: impl Fn(Arc<dyn ObjectStore>),
    second: impl Fn(Arc<InMemory>) + Clone + Send + 'static,
    check: impl Fn(Arc<InMemory>, u64),
) -> u64 {
    let base = snapshot(base);
    for n in 0.. {
        let store = Arc::new(store_of(&base));
        let acted = Arc::new(AtomicU64::new(0));
        let tap = At::new(n, {
            let (store, second, acted) = (Arc::clone(&store), second.clone(), Arc::clone(&acted));
            move || {
                second(store);
                acted.store(1, Ordering::Relaxed);
            }
        });
        first(Arc::new(TappedStore::with_tap(store.clone(), tap)));
        if acted.load(Ordering::Relaxed) == 0 {
            return n;
        }
        check(store, n);
    }
    0
}

fn turn(vault: &Vault, to: Arc<KeyFileVault>, from: Arc<KeyFileVault>) -> Result<KekRotation, VaultError> {
    vault.rotate_kek(&permit(), to, Some(from), &CancelToken::new(), &mut |_| {})
}

fn either(store: &Arc<InMemory>, seed: u64) -> Vault {
    let by = |kek| Vault::open(store.clone(), kek, ports(seed));
    by(kek()).or_else(|_| by(kek_of(8))).unwrap()
}

#[test]
fn changes_of_the_kek_in_opposite_directions_lose_no_key_whenever_one_begins() {
    let base = InMemory::new();
    let vault = create(Arc::new(base.clone()), 1);
    back_up_version(&vault, 1);
    back_up(&vault, "db", &version(2)).unwrap();
    let there = |store: Arc<dyn ObjectStore>| {
        if let Ok(vault) = Vault::open(store, kek(), ports(2)) {
            drop(turn(&vault, kek_of(8), kek()));
        }
    };
    let back = |store: Arc<InMemory>| drop(turn(&either(&store, 3), kek(), kek_of(8)));
    let calls = at_every_call(&base, there, back, |store, n| {
        // One of the two is gone on with, and then all is under one KEK.
        let when = format!("call {n}");
        let vault = either(&store, 4);
        let (there, back) = (turn(&vault, kek_of(8), kek()), turn(&either(&store, 5), kek(), kek_of(8)));
        assert!(there.is_ok() || back.is_ok(), "{when}: {there:?} {back:?}");
        let vault = either(&store, 6);
        assert_restores(&vault, "web@1", &version(1), &when);
        assert_restores(&vault, "db@1", &version(2), &when);
        assert_vault_clean(&vault, &when);
    });
    assert!(calls > 20, "{calls} calls");
}

/// Keys that data is moved to while somebody makes newer ones and destroys these: what was not in the plan that was agreed to
/// stays.
#[test]
fn data_that_is_moved_to_keys_that_are_destroyed_meanwhile_is_not_lost() {
    let base = InMemory::new();
    let vault = create(Arc::new(base.clone()), 1);
    for n in 1..=3 {
        back_up_version(&vault, n);
    }
    rotate(&vault).unwrap();
    let move_all = |store: Arc<dyn ObjectStore>| drop(rewrite(&open(store, 2), u64::MAX));
    let destroy_newer = |store: Arc<InMemory>| {
        let vault = open(store, 3);
        rotate(&vault).unwrap();
        let plan = plan_to_destroy(&vault, Some(1)).unwrap();
        if plan.points.is_empty() {
            match destroy(&vault, &plan) {
                Ok(_) | Err(VaultError::SweepUnderWay { .. } | VaultError::PlanOutdated { .. }) => {}
                Err(e) => panic!("{e:?}"),
            }
        }
    };
    let calls = at_every_call(&base, move_all, destroy_newer, |store, n| {
        let vault = open(store, 4);
        for point in 1..=3 {
            let when = format!("call {n}");
            assert_point_whole(&vault, &format!("web@{point}"), &version(point), &when);
        }
        swept::sweep_all(&vault);
        assert_points(&vault, 1..=3, &format!("call {n}, and swept"));
    });
    assert!(calls > 20, "{calls} calls");
}

/// A KEK that does not answer one question, and then does.
#[derive(Debug)]
struct Flaky {
    kek: Arc<KeyFileVault>,
    asked: AtomicU64,
    silent_at: u64,
}

impl KeyVault for Flaky {
    fn wrap(
        &self,
        key: &SecretKey,
        context: &WrapContext,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        self.kek.wrap(key, context, entropy)
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Unwrapped, KeyError> {
        if self.asked.fetch_add(1, Ordering::Relaxed) == self.silent_at {
            return Err(KeyError::Service("the line went dead".into()));
        }
        self.kek.unwrap(wrapped, context)
    }

    fn describe(&self) -> KekDescription {
        self.kek.describe()
    }
}

/// Runs `act` with a KEK that is silent at its n-th question, for every n that it asks.
fn with_silence(
    base: &InMemory,
    act: impl Fn(Arc<Flaky>, Arc<InMemory>),
    check: impl Fn(Arc<InMemory>, u64),
) {
    let base = snapshot(base);
    for n in 0.. {
        let store = Arc::new(store_of(&base));
        let flaky = Arc::new(Flaky { kek: kek(), asked: AtomicU64::new(0), silent_at: n });
        act(Arc::clone(&flaky), Arc::clone(&store));
        if flaky.asked.load(Ordering::Relaxed) <= n {
            assert!(n > 2, "{n} questions");
            return;
        }
        check(store, n);
    }
}

#[test]
fn a_kek_that_does_not_answer_is_no_damage_and_nothing_is_removed_for_it() {
    let base = InMemory::new();
    let vault = create(Arc::new(base.clone()), 1);
    back_up_version(&vault, 1);
    rotate(&vault).unwrap();
    back_up_version(&vault, 2);
    let change = |flaky: Arc<Flaky>, store: Arc<InMemory>| {
        let Ok(vault) = Vault::open(store, flaky, ports(2)) else { return };
        if let Ok(done) = vault.rotate_kek(&permit(), kek_of(8), None, &CancelToken::new(), &mut |_| {}) {
            assert_eq!((done.damaged.len(), done.left), (0, 0));
        }
    };
    with_silence(&base, change, |store, n| {
        drop(turn(&either(&store, 3), kek_of(8), kek()).unwrap());
        let vault = Vault::open(store, kek_of(8), ports(4)).unwrap();
        assert_points(&vault, 1..=2, &format!("question {n}"));
    });
    // Nor is new data sealed with older keys because the newest could not be asked for.
    let write = |flaky: Arc<Flaky>, store: Arc<InMemory>| {
        if let Ok(vault) = Vault::open(store, flaky, ports(2)) {
            drop(back_up(&vault, "web", &version(3)));
        }
    };
    with_silence(&base, write, |store, n| {
        let vault = open(store, 5);
        let resting: Vec<u64> = epochs(&vault).iter().map(|epoch| epoch.packs).collect();
        assert_eq!(resting[0], epochs(&open(Arc::new(base.clone()), 6))[0].packs, "question {n}");
    });
}

/// Damage of the newest keys takes no point that older ones sealed, and no new one is made with those.
#[test]
fn older_points_are_read_where_the_newest_keys_are_damaged() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    rotate(&vault).unwrap();
    back_up_version(&vault, 2);
    for (path, bytes) in snapshot(&*store) {
        if matches!(ObjectName::parse(path.as_ref()), Some(ObjectName::Key { epoch: 1, .. })) {
            let mut bytes = bytes.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            let put = ObjectStoreExt::put(&*store, &path, bytes.into());
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
        }
    }
    let vault = open(store, 2);
    assert_restores(&vault, "web@1", &version(1), "the older keys");
    assert!(restore(&vault, "web@2").is_err());
    let refused = back_up(&vault, "web", &version(3)).unwrap_err();
    assert!(matches!(vault_error(&refused), Some(VaultError::NewestKeys { epoch: 1, .. })), "{refused:?}");
}

#[test]
fn a_destruction_that_is_gone_on_with_by_a_kek_that_does_not_answer_keeps_what_it_must() {
    let base = Arc::new(InMemory::new());
    let vault = create(base.clone(), 1);
    back_up_version(&vault, 1);
    let full = snapshot(&*base);
    destroy(&vault, &plan_to_destroy(&vault, None).unwrap()).unwrap();
    // Stopped before the full key object was removed.
    for (path, bytes) in full.iter().filter(|(path, _)| path.as_ref().starts_with("keys/")) {
        let object = ObjectStoreExt::put(&*base, path, bytes.clone().into());
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(object).unwrap();
    }
    let go_on = |flaky: Arc<Flaky>, store: Arc<InMemory>| {
        let Ok(vault) = Vault::open(store, flaky, ports(2)) else { return };
        if let Ok(plan) = plan_to_destroy(&vault, None) {
            drop(destroy(&vault, &plan));
        }
    };
    with_silence(&base, go_on, |store, n| {
        let vault = open(store, 3);
        destroy(&vault, &plan_to_destroy(&vault, None).unwrap()).unwrap();
        let report = assert_vault_clean(&vault, &format!("question {n}"));
        assert!(report.destroyed[0].finished, "question {n}");
        assert_eq!(vault.points(&vm("web")).unwrap().len(), 1, "question {n}");
    });
}

#[test]
fn a_client_destroys_nothing_and_is_no_owner_to_change_to() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    vault.grant_client(&permit(), &*kek_of(99), &[vm("web")]).unwrap();
    let before = snapshot(&*store);
    let client = Vault::open(store.clone(), kek_of(99), ports(2)).unwrap();
    let plan = plan_to_destroy(&vault, None).unwrap();
    assert!(matches!(destroy(&client, &plan), Err(VaultError::Key { .. })));
    let refused = vault.rotate_kek(&permit(), kek_of(99), None, &CancelToken::new(), &mut |_| {});
    assert!(matches!(refused, Err(VaultError::NoRotation { .. })), "{refused:?}");
    assert!(snapshot(&*store) == before);
    // A client changes its own.
    client.rotate_kek(&permit(), kek_of(98), None, &CancelToken::new(), &mut |_| {}).unwrap();
    let client = Vault::open(store.clone(), kek_of(98), ports(3)).unwrap();
    assert!(client.is_client());
    back_up_version(&client, 2);
    assert_points(&open(store, 4), 1..=2, "by a client with another KEK");
}

#[test]
fn keys_are_new_also_when_a_client_came_after_the_first_rotation() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    rotate(&vault).unwrap();
    vault.grant_client(&permit(), &*kek_of(99), &[vm("web")]).unwrap();
    assert_eq!(rotate_with(&vault, &[kek_of(99)]).unwrap().epoch, 2);
    back_up_version(&vault, 2);
    assert_points(&open(store, 3), 1..=2, "rotated twice");
}

#[test]
fn a_grant_that_was_stopped_anywhere_can_be_withdrawn() {
    let base = InMemory::new();
    let vault = create(Arc::new(base.clone()), 1);
    back_up_version(&vault, 1);
    let given = vault.grant_client(&permit(), &*kek_of(99), &[vm("web")]).unwrap();
    // The vault's own comes last.
    for (path, _) in snapshot(&base) {
        let name = ObjectName::parse(path.as_ref());
        let is_own =
            matches!(name, Some(ObjectName::Key { domain, .. }) if domain == vmkeep::model::DomainId::VAULT);
        let wraps = vault.keys().unwrap();
        let wrap = wraps[0].epochs[0].wraps.iter().find(|wrap| wrap.object == path.as_ref());
        if is_own && wrap.is_some_and(|wrap| wrap.kek == given.kek) {
            let gone = ObjectStoreExt::delete(&base, &path);
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(gone).unwrap();
        }
    }
    assert_eq!(vault.withdraw_client(&permit(), &given.kek).unwrap(), given.added - 1);
    rotate(&vault).unwrap();
}

/// A journal that cannot be read is told of by verify, and keeps nothing from being destroyed.
#[test]
fn damage_of_a_journal_does_not_keep_keys_from_being_destroyed() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    vault.hold(&permit(), &point_ref("web@1")).unwrap();
    for (path, bytes) in snapshot(&*store) {
        if matches!(ObjectName::parse(path.as_ref()), Some(ObjectName::Journal(..))) {
            let mut bytes = bytes.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            let put = ObjectStoreExt::put(&*store, &path, bytes.into());
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
        }
    }
    let vault = open(store.clone(), 2);
    destroy(&vault, &plan_to_destroy(&vault, None).unwrap()).unwrap();
    let destroyed = vault.destroyed_keys(&vm("web"), &CancelToken::new()).unwrap();
    assert!(destroyed[0].finished);
}

#[test]
fn the_keys_of_an_earlier_line_of_points_can_be_named() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    vault.close(&permit(), &vm("web")).unwrap();
    back_up_now(&vault, &version(2));
    let plan = plan_to_destroy(&vault, None).unwrap();
    assert_eq!(plan.earlier, [0]);
    let earlier = vault.destroy_plan_of(&vm("web"), 0, None, &CancelToken::new()).unwrap();
    assert_eq!((earlier.points.len(), earlier.earlier.as_slice()), (1, &[1][..]));
    destroy(&vault, &earlier).unwrap();
    assert_restores(&open(store, 2), "web@1", &version(2), "the newer line");
    assert!(plan_to_destroy(&vault, None).unwrap().earlier.is_empty());
}

/// What somebody could do with write access to the store and the public half of an RSA KEK: a newer epoch of their own making.
#[test]
fn an_epoch_with_another_identity_key_is_refused_and_nothing_is_sealed_with_it() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up_version(&vault, 1);
    let keys = vault.keys().unwrap();
    let domain = keys.iter().find(|domain| !domain.vms.is_empty()).unwrap().domain;
    let made = DomainKeys::generate(domain, 1, &SeededEntropy::new(66)).unwrap();
    let counter = AtomicU64::new(0);
    let session = vmkeep::model::SessionId([0x66; 16]);
    let context = SealContext { session, counter: &counter, entropy: &SeededEntropy::new(67) };
    let (name, object) = seal_key_object(&made, &*kek(), &format!("keys/{domain}/1/"), &context).unwrap();
    let name = name.into();
    let put = ObjectStoreExt::put(&*store, &name, object.into_bytes().into());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
    let before = snapshot(&*store);
    let refused = back_up(&open(store.clone(), 2), "web", &version(2)).unwrap_err();
    assert!(matches!(vault_error(&refused), Some(VaultError::KeysDiffer { .. })), "{refused:?}");
    assert!(snapshot(&*store) == before, "something was stored");
}
