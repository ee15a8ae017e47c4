//! Changing the KEK: every key is wrapped anew, read back, and only then are the old objects removed.
//!
//! The order is what makes it safe to stop anywhere. First every object that the old KEK opens gets one of the new KEK beside
//! it; then each new object is read back and opened, and its keys compared; then the old ones go, the vault's own last. So
//! until the first removal the old KEK alone opens everything, and from then on the new one alone; and as long as anything is
//! left to be done, both together find it.
//!
//! Two rotations of which one removes what the other rests on would leave nothing: before it wraps, each leaves a marker that
//! says from where to where, and does not begin when the KEK it goes to is one that is being left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_envelope::{
    DomainKeys, KeyObjectHead, KeyVault, OpenError, OpenedKeys, WrapNaming, open_key_object,
    seal_key_object_as, wrap_name, wrap_name_of_some,
};
use vmkeep_model::{CancelToken, DomainId, Permit, Principal, op};

use super::info::hex;
use crate::error::VaultError;
use crate::format::RotationBody;
use crate::journal::{self, JournalEntry};
use crate::keyring;
use crate::layout::ObjectName;
use crate::records;
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
    /// Epochs with a tombstone whose data keys were there all the same, and are still: their destruction was begun and not
    /// finished, which [`Vault::destroy_keys`] does.
    pub unfinished: u64,
}

/// A key object that the old KEK opens.
struct Old {
    path: String,
    name: ObjectName,
    kek: Vec<u8>,
    keys: DomainKeys,
    naming: WrapNaming,
    /// Where its keys are wrapped by the new KEK, once that is done.
    made: String,
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
    /// Whether the marker is there.
    marked: bool,
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
            marked: false,
            destroyed: BTreeSet::new(),
            full: BTreeSet::new(),
            added: 0,
            removed: 0,
            damaged: Vec::new(),
        };
        rotation.check_kinds()?;
        let left = rotation.run()?;
        // Whoever names a KEK that is no KEK of the vault as the old one has rotated nothing.
        match keyring::unlock(&vault.objects, &*to, DomainId::VAULT, "the vault") {
            Ok(_) => {}
            Err(VaultError::WrongKey { .. }) => {
                return Err(VaultError::NoRotation { why: "the old KEK given opens nothing in this vault" });
            }
            Err(e) => return Err(e),
        }
        let unfinished = rotation.destroyed.intersection(&rotation.full).count() as u64;
        let Rotation { added, removed, damaged, .. } = rotation;
        let vault = Self { inner: Arc::new(vault.with_key_vault(to)) };
        Ok(KekRotation { vault, added, removed, damaged, left, unfinished })
    }
}

impl Rotation<'_> {
    /// Refuses a new KEK that is a write-only client's: the vault would have no owner any more.
    fn check_kinds(&self) -> Result<(), VaultError> {
        let owns = |kek| match keyring::scan(&self.vault.objects, kek, None, DomainId::VAULT, "the vault") {
            Ok(scan) => Ok(Some(scan.owner)),
            Err(VaultError::WrongKey { .. }) => Ok(None),
            Err(e) => Err(e),
        };
        if owns(self.to)? == Some(false) && owns(self.from)? == Some(true) {
            return Err(VaultError::NoRotation { why: "the new KEK is that of a write-only client" });
        }
        Ok(())
    }

    /// Goes through the vault until nothing is wrapped by the old KEK; how many objects are left when that does not end.
    fn run(&mut self) -> Result<u64, VaultError> {
        let (mut own, mut left): (Vec<Old>, u64) = (Vec::new(), 0);
        for round in 0..=ROUNDS {
            let (mut old, theirs) = self.find()?;
            let (is_first, found) = (round == 0 && theirs.is_empty(), old.len());
            self.learn(&old)?;
            // A key of a store opens what any of its versions wrapped: of these, what the new one wrapped is no old one.
            old.retain(|one| !self.is_new(one));
            if is_first && old.is_empty() && found > 0 {
                return Err(VaultError::NoRotation { why: "the new KEK is the old one" });
            }
            let Some(first) = old.first() else { break };
            self.from_id.clone_from(&first.kek);
            let (mut vaults, mut vms): (Vec<Old>, Vec<Old>) =
                old.into_iter().partition(|old| old.keys.domain() == DomainId::VAULT);
            if round == ROUNDS {
                left = vms.len() as u64;
                break;
            }
            self.mark(!theirs.is_empty())?;
            let mut all: Vec<&mut Old> = vaults.iter_mut().chain(&mut vms).collect();
            self.wrap(&mut all, &theirs)?;
            self.check(&all)?;
            self.remove(&vms)?;
            // The vault's own goes last: as long as it is there, the old KEK finds what is left.
            self.settled.extend(vaults.iter().map(|old| old.path.clone()));
            own.extend(vaults);
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
        if left == 0 {
            self.unmark()?;
        }
        Ok(left)
    }

    /// Learns the ids of both KEKs. Nothing is stored for it.
    fn learn(&mut self, old: &[Old]) -> Result<(), VaultError> {
        let Some(first) = old.first().filter(|_| self.to_id.is_empty()) else { return Ok(()) };
        let (_, object) = self.vault.wrapped(&first.keys, self.to, first.naming)?;
        self.to_id = head_of(&first.name, object.bytes())?.kek_id;
        Ok(())
    }

    fn is_new(&self, old: &Old) -> bool {
        let wrap = match old.naming {
            WrapNaming::Kek => wrap_name(&self.to_id),
            WrapNaming::KekAndBranches => wrap_name_of_some(&self.to_id, &old.keys.branches()),
        };
        old.path.ends_with(&format!("/{wrap}"))
    }

    /// Leaves the marker, unless it is there; refuses when what the new KEK wrapped is being removed by another rotation.
    fn mark(&mut self, rests_on_theirs: bool) -> Result<(), VaultError> {
        if self.marked {
            return Ok(());
        }
        let name = rotation_name(&self.from_id, &self.to_id);
        let (from, to) = (self.from_id.clone(), self.to_id.clone());
        let body = RotationBody { from, to, at: self.vault.ports.clock.now().0 };
        let context = self.vault.sealer.context(&*self.vault.ports.entropy);
        let object = records::seal(&name, &body, &self.vault.record, &context)?;
        let created = self.vault.objects.create(&name, &object)?;
        // After the create: of two that begin at once, each sees the other's or the other sees this one.
        let is_left = |(_, other): &(ObjectName, RotationBody)| other.from == self.to_id;
        if rests_on_theirs && self.markers()?.iter().any(is_left) {
            if created == Created::Ours {
                self.vault.objects.delete(&name)?;
            }
            return Err(VaultError::RotationUnderWay { to: hex(&self.to_id) });
        }
        self.marked = true;
        Ok(())
    }

    /// Removes the markers of rotations from the old KEK, of which nothing is left.
    fn unmark(&self) -> Result<(), VaultError> {
        for (name, body) in self.markers()? {
            if body.from == self.from_id || (self.from_id.is_empty() && body.to == self.to_id) {
                self.vault.objects.delete(&name)?;
            }
        }
        Ok(())
    }

    fn markers(&self) -> Result<Vec<(ObjectName, RotationBody)>, VaultError> {
        let mut found = Vec::new();
        for (path, _) in self.vault.objects.list("keys/rotations")? {
            let Some(name @ ObjectName::Rotation(_)) = ObjectName::parse(&path) else { continue };
            let Some(bytes) = self.vault.objects.read(&name)? else { continue };
            found.push((name.clone(), records::open(&name, &bytes, &self.vault.record)?));
        }
        Ok(found)
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
                Ok(OpenedKeys::Keys(keys)) => old.push(Self::old((path, name), &bytes, keys)?),
                Ok(OpenedKeys::NotMine) => {
                    // One by passphrase has to see its salt before it wraps anything.
                    match open_key_object(&bytes, &path, self.to) {
                        Ok(OpenedKeys::Keys(keys)) => {
                            self.to_id = head_of(&name, &bytes)?.kek_id;
                            let at = (keys.domain(), keys.epoch());
                            theirs.entry(at).or_default().push((path.clone(), keys));
                        }
                        Err(source) if source.is_unanswered() => return Err(VaultError::open(&name, source)),
                        Ok(OpenedKeys::NotMine) | Err(_) => {}
                    }
                    self.settled.insert(path);
                }
                // Not a word of what is in it: whoever holds the KEK did not answer.
                Err(source) if source.is_unanswered() => return Err(VaultError::open(&name, source)),
                Err(source) => {
                    // Of a version that the key store does not have it says no more than that it is of another.
                    if !matches!(source, OpenError::KeyVault(_)) {
                        self.damaged.push(VaultError::open(&name, source));
                    }
                    self.settled.insert(path);
                }
            }
        }
        Ok((old, theirs))
    }

    fn old((path, name): (String, ObjectName), bytes: &[u8], keys: DomainKeys) -> Result<Old, VaultError> {
        let head = head_of(&name, bytes)?;
        let plain = path.ends_with(&format!("/{}", wrap_name(&head.kek_id)));
        let kek = head.kek_id;
        let naming = if plain { WrapNaming::Kek } else { WrapNaming::KekAndBranches };
        Ok(Old { path, name, kek, keys, naming, made: String::new() })
    }

    /// Wraps the keys of every object by the new KEK, where that was not done before.
    ///
    /// Those of an epoch with a tombstone too, as they are: a tombstone is the word of whoever holds the record key, and no
    /// reason to destroy anything here.
    fn wrap(&mut self, old: &mut [&mut Old], theirs: &Wrapped) -> Result<(), VaultError> {
        let of = old.len() as u64;
        for (done, one) in (0_u64..).zip(old) {
            self.cancel.check()?;
            (self.events)(KekEvent::Wrapping { done, of });
            if one.keys.data().is_ok() {
                self.full.insert((one.keys.domain(), one.keys.epoch()));
            }
            let (path, object) = self.vault.wrapped(&one.keys, self.to, one.naming)?;
            let there = theirs.get(&(one.keys.domain(), one.keys.epoch())).into_iter().flatten();
            if let Some((path, _)) =
                there.into_iter().find(|(there, keys)| *there == path && keys.same_keys(&one.keys))
            {
                one.made.clone_from(path);
                continue;
            }
            let name = keyring::key_name(&path)?;
            // What another has made meanwhile is compared when all are read back.
            if self.vault.objects.create(&name, &object)? == Created::Ours {
                self.added += 1;
            }
            one.made = path;
        }
        Ok(())
    }

    /// Reads every new object back and compares its keys.
    fn check(&mut self, old: &[&mut Old]) -> Result<(), VaultError> {
        for (done, one) in (0_u64..).zip(old) {
            self.cancel.check()?;
            (self.events)(KekEvent::Checking { done, of: old.len() as u64 });
            self.is_there(one)?;
            self.settled.insert(one.made.clone());
        }
        Ok(())
    }

    fn is_there(&self, old: &Old) -> Result<(), VaultError> {
        match self.vault.opened_by(self.to, &old.made)? {
            Some(keys) if keys.same_keys(&old.keys) => Ok(()),
            _ => Err(VaultError::KeysDiffer { object: old.made.clone() }),
        }
    }

    /// Removes old objects, each after a last look at the new one.
    fn remove(&mut self, old: &[Old]) -> Result<(), VaultError> {
        for (done, one) in (0_u64..).zip(old) {
            self.cancel.check()?;
            (self.events)(KekEvent::Removing { done, of: old.len() as u64 });
            if !self.vault.objects.exists(&keyring::key_name(&one.made)?)? {
                return Err(VaultError::Missing { object: one.made.clone() });
            }
            self.vault.objects.delete(&one.name)?;
            self.removed += 1;
        }
        Ok(())
    }
}

/// The marker of a change of one KEK to another.
fn rotation_name(from: &[u8], to: &[u8]) -> ObjectName {
    let mut hasher = blake3::Hasher::new();
    for id in [from, to] {
        hasher.update(&[u8::try_from(id.len()).unwrap_or(u8::MAX)]).update(id);
    }
    ObjectName::Rotation(hex(&hasher.finalize().as_bytes()[..16]))
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
