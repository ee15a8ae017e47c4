//! Changing the KEK: every key is wrapped anew, read back, and only then are the old objects removed.
//!
//! The order is what makes it safe to stop anywhere. First every object that the old KEK opens gets one of the new KEK beside
//! it; then each new object is read back and opened, and its keys compared; then the old ones go, the vault's own last. So
//! until the first removal the old KEK alone opens everything, and from then on the new one alone; and as long as anything is
//! left to be done, both together find it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_envelope::{
    Branch, DomainKeys, KeyObjectHead, KeyVault, OpenedKeys, WrapNaming, open_key_object, seal_key_object_as,
    wrap_name,
};
use vmkeep_model::{CancelToken, DomainId, Permit, Principal, op};

use crate::error::VaultError;
use crate::journal::{self, JournalEntry};
use crate::keyring;
use crate::layout::ObjectName;
use crate::store::{Created, ResultExt};
use crate::vault::{Inner, Vault};

/// How often the vault is gone through again for VMs that were protected meanwhile under the old KEK.
const ROUNDS: u32 = 8;

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KekEvent {
    /// Keys are wrapped by the new KEK.
    Wrapping {
        /// Key objects done.
        done: u64,
        /// Key objects of the old KEK.
        of: u64,
    },
    /// What was wrapped is read back and compared.
    Checking {
        /// Key objects done.
        done: u64,
        /// Key objects to check.
        of: u64,
    },
    /// Key objects of the old KEK are removed.
    Removing {
        /// Key objects done.
        done: u64,
        /// Key objects to remove.
        of: u64,
    },
}

/// What a rotation did.
#[derive(Debug)]
pub struct KekRotation {
    /// The vault, opened with the new KEK.
    pub vault: Vault,
    /// Key objects that were made; fewer than there are when an interrupted rotation was gone on with.
    pub added: u64,
    /// Key objects of the old KEK that were removed.
    pub removed: u64,
    /// Key objects that are for the old KEK and do not open: they are left as they are.
    pub damaged: Vec<VaultError>,
    /// Key objects that were left under the old KEK alone, because VMs went on being protected under it. Run it again.
    pub left: u64,
}

/// A key object that the old KEK opens.
struct Old {
    path: String,
    name: ObjectName,
    keys: DomainKeys,
    naming: WrapNaming,
}

/// Keys that the new KEK opens, by domain and epoch, each with the name of its object.
type Wrapped = BTreeMap<(DomainId, u32), Vec<(String, DomainKeys)>>;

/// The two KEKs, and what is known of them.
struct Rotation<'a> {
    vault: &'a Inner,
    from: &'a dyn KeyVault,
    to: &'a dyn KeyVault,
    by: &'a Principal,
    cancel: &'a CancelToken,
    events: &'a mut dyn FnMut(KekEvent),
    from_id: Vec<u8>,
    to_id: Vec<u8>,
    /// Objects that need not be read again: the new KEK's, and those that neither opens.
    settled: BTreeSet<String>,
    /// Epochs that have a tombstone, and those whose data key was wrapped anew.
    destroyed: BTreeSet<(DomainId, u32)>,
    full: BTreeSet<(DomainId, u32)>,
    added: u64,
    removed: u64,
    damaged: Vec<VaultError>,
}

impl Vault {
    /// Changes the KEK: wraps every key by `to` and removes what `from` wrapped, which by default is the KEK that the vault
    /// was opened with. Only key objects are made and removed, and one journal entry is written. Requests grow with the number
    /// of VMs and with nothing else.
    ///
    /// Safe to stop at any store call. Running it again goes on: open the vault with whichever of the two KEKs opens it, and
    /// give both. Wraps by other KEKs stay. Backups, restores and sweeps may run meanwhile. A vault that is open elsewhere with
    /// the old KEK goes on until it has to unlock the keys of a VM, and is then told [`VaultError::WrongKey`]; a VM that
    /// it protects for the first time after the rotation has ended is wrapped by the old KEK alone, until the
    /// rotation is run again.
    ///
    /// It does nothing against whoever kept copies of the old key objects together with the old KEK.
    pub fn rotate_kek(
        &self,
        permit: &Permit<op::RotateKek>,
        to: Arc<dyn KeyVault>,
        from: Option<Arc<dyn KeyVault>>,
        cancel: &CancelToken,
        events: &mut dyn FnMut(KekEvent),
    ) -> Result<KekRotation, VaultError> {
        permit.check_vault()?;
        let vault = &self.inner;
        let from = from.unwrap_or_else(|| Arc::clone(&vault.key_vault));
        let mut rotation = Rotation {
            vault,
            from: &*from,
            to: &*to,
            by: permit.who(),
            cancel,
            events,
            from_id: Vec::new(),
            to_id: Vec::new(),
            settled: BTreeSet::new(),
            destroyed: BTreeSet::new(),
            full: BTreeSet::new(),
            added: 0,
            removed: 0,
            damaged: Vec::new(),
        };
        let left = rotation.run()?;
        // Whoever names a KEK that is no KEK of the vault as the old one has rotated nothing.
        match keyring::unlock(&vault.objects, &*to, DomainId::VAULT, "the vault") {
            Ok(_) => {}
            Err(VaultError::WrongKey { .. }) => {
                return Err(VaultError::NoRotation { why: "the old KEK given opens nothing in this vault" });
            }
            Err(e) => return Err(e),
        }
        let Rotation { added, removed, damaged, .. } = rotation;
        let vault = Self { inner: Arc::new(vault.with_key_vault(to)) };
        Ok(KekRotation { vault, added, removed, damaged, left })
    }
}

impl Rotation<'_> {
    /// Goes through the vault until nothing is wrapped by the old KEK; how many objects are left when that does not end.
    fn run(&mut self) -> Result<u64, VaultError> {
        let (mut own, mut left): (Vec<Old>, u64) = (Vec::new(), 0);
        for round in 0..=ROUNDS {
            let (old, theirs) = self.find()?;
            let (vaults, vms): (Vec<Old>, Vec<Old>) =
                old.into_iter().partition(|old| old.keys.domain() == DomainId::VAULT);
            if vms.is_empty() && vaults.is_empty() {
                break;
            }
            if round == ROUNDS {
                left = vms.len() as u64;
                break;
            }
            let all: Vec<&Old> = vaults.iter().chain(&vms).collect();
            let made = self.wrap(&all, &theirs)?;
            self.check(&all, &made)?;
            self.remove(&vms)?;
            // The vault's own goes last: as long as it is there, the old KEK finds what is left.
            self.settled.extend(vaults.iter().map(|old| old.path.clone()));
            own.extend(vaults);
        }
        // Keys that were destroyed while they were wrapped anew are not to come back by it.
        for (domain, epoch) in self.destroyed.intersection(&self.full) {
            self.vault.finish_destroying(self.to, *domain, *epoch)?;
        }
        if left > 0 {
            // The old KEK is needed to find them.
            own.clear();
        }
        if self.added > 0 || self.removed > 0 || !own.is_empty() {
            let (added, removed) = (self.added, self.removed + own.len() as u64);
            let (from, to) = (self.from_id.clone(), self.to_id.clone());
            let entry = JournalEntry::KekRotated { added, removed, from, to };
            journal::append(self.vault, self.vault.id.0, self.by, &entry)?;
        }
        self.remove(&own)?;
        Ok(left)
    }

    /// The objects that the old KEK opens, and those that the new one opens already. What was looked at before is not read
    /// again.
    fn find(&mut self) -> Result<(Vec<Old>, Wrapped), VaultError> {
        let (mut old, mut theirs) = (Vec::new(), Wrapped::new());
        let mut names = Vec::new();
        for (path, _) in self.vault.objects.list("keys")? {
            match ObjectName::parse(&path) {
                Some(ObjectName::KeyDestroyed { domain, epoch }) => {
                    self.destroyed.insert((domain, epoch));
                }
                Some(name @ ObjectName::Key { .. }) if !self.settled.contains(&path) => {
                    names.push((path, name));
                }
                _ => {}
            }
        }
        for (path, name) in names {
            self.cancel.check()?;
            let Some(bytes) = self.vault.objects.read(&name)? else { continue };
            match open_key_object(&bytes, &path, self.from) {
                Ok(OpenedKeys::Keys(keys)) => old.push(self.old((path, name), &bytes, keys)?),
                Ok(OpenedKeys::NotMine) => {
                    // One by passphrase has to see its salt before it wraps anything.
                    if let Ok(OpenedKeys::Keys(keys)) = open_key_object(&bytes, &path, self.to) {
                        self.to_id = head_of(&name, &bytes)?.kek_id;
                        let at = (keys.domain(), keys.epoch());
                        theirs.entry(at).or_default().push((path.clone(), keys));
                    }
                    self.settled.insert(path);
                }
                Err(source) => {
                    self.damaged.push(VaultError::open(&name, source));
                    self.settled.insert(path);
                }
            }
        }
        Ok((old, theirs))
    }

    fn old(
        &mut self,
        (path, name): (String, ObjectName),
        bytes: &[u8],
        keys: DomainKeys,
    ) -> Result<Old, VaultError> {
        let head = head_of(&name, bytes)?;
        let plain = path.ends_with(&format!("/{}", wrap_name(&head.kek_id)));
        self.from_id = head.kek_id;
        let at = (keys.domain(), keys.epoch());
        // A key that was destroyed is not given another wrap.
        let is_destroyed = self.destroyed.contains(&at)
            && keyring::tombstone(&self.vault.objects, &self.vault.record, at.0, at.1)?.is_some();
        Ok(match (is_destroyed, plain) {
            (true, _) => {
                let naming = WrapNaming::KekAndBranches;
                Old { path, name, keys: keys.without(Branch::Data), naming }
            }
            (false, true) => Old { path, name, keys, naming: WrapNaming::Kek },
            (false, false) => Old { path, name, keys, naming: WrapNaming::KekAndBranches },
        })
    }

    /// Wraps the keys of every object by the new KEK, where that was not done before; gives where each is now.
    fn wrap(&mut self, old: &[&Old], theirs: &Wrapped) -> Result<Vec<String>, VaultError> {
        let mut made = Vec::with_capacity(old.len());
        for (done, one) in (0_u64..).zip(old) {
            self.cancel.check()?;
            (self.events)(KekEvent::Wrapping { done, of: old.len() as u64 });
            let there = theirs.get(&(one.keys.domain(), one.keys.epoch())).into_iter().flatten();
            if let Some((path, _)) = there.into_iter().find(|(_, keys)| keys.same_keys(&one.keys)) {
                made.push(path.clone());
                continue;
            }
            let (path, object) = self.vault.wrapped(&one.keys, self.to, one.naming)?;
            let name = keyring::key_name(&path)?;
            if path == one.path {
                return Err(VaultError::NoRotation { why: "the new KEK is the old one" });
            }
            self.to_id = head_of(&name, object.bytes())?.kek_id;
            // What another has made meanwhile is compared when all are read back.
            if self.vault.objects.create(&name, &object)? == Created::Ours {
                self.added += 1;
            }
            if one.keys.data().is_ok() {
                self.full.insert((one.keys.domain(), one.keys.epoch()));
            }
            made.push(path);
        }
        Ok(made)
    }

    /// Reads every new object back and compares its keys.
    fn check(&mut self, old: &[&Old], made: &[String]) -> Result<(), VaultError> {
        for (done, (old, path)) in (0_u64..).zip(old.iter().zip(made)) {
            self.cancel.check()?;
            (self.events)(KekEvent::Checking { done, of: made.len() as u64 });
            let keys = self.vault.opened_by(self.to, path)?;
            if !keys.as_ref().is_some_and(|keys| keys.same_keys(&old.keys)) {
                return Err(VaultError::KeysDiffer { object: path.clone() });
            }
            self.settled.insert(path.clone());
        }
        Ok(())
    }

    fn remove(&mut self, old: &[Old]) -> Result<(), VaultError> {
        for (done, one) in (0_u64..).zip(old) {
            self.cancel.check()?;
            (self.events)(KekEvent::Removing { done, of: old.len() as u64 });
            self.vault.objects.delete(&one.name)?;
            self.removed += 1;
        }
        Ok(())
    }
}

fn head_of(name: &ObjectName, bytes: &[u8]) -> Result<KeyObjectHead, VaultError> {
    KeyObjectHead::parse(bytes).map_err(|source| VaultError::open(name, source))
}

impl Inner {
    /// The object that holds `keys` wrapped by `key_vault`, and its name.
    pub(super) fn wrapped(
        &self,
        keys: &DomainKeys,
        key_vault: &dyn KeyVault,
        naming: WrapNaming,
    ) -> Result<(String, vmkeep_envelope::SealedObject), VaultError> {
        let prefix = format!("keys/{}/{}/", keys.domain(), keys.epoch());
        let context = self.sealer.context(&*self.ports.entropy);
        seal_key_object_as(keys, key_vault, &prefix, naming, &context)
            .map_err(|source| VaultError::Key { what: format!("key domain {}", keys.domain()), source })
    }

    /// The keys in the object at `path`, which must be there; `None` when `key_vault` did not wrap it.
    pub(super) fn opened_by(
        &self,
        key_vault: &dyn KeyVault,
        path: &str,
    ) -> Result<Option<DomainKeys>, VaultError> {
        let name = keyring::key_name(path)?;
        let bytes = self.objects.read(&name).or_missing(&name)?;
        match open_key_object(&bytes, path, key_vault) {
            Ok(OpenedKeys::Keys(keys)) => Ok(Some(keys)),
            Ok(OpenedKeys::NotMine) => Ok(None),
            Err(source) => Err(VaultError::open(&name, source)),
        }
    }
}
