//! A new epoch of a VM's keys: new data is sealed with it, old data stays readable by the epochs before.
//!
//! The data and the map key are fresh; the identity key stays, because content hashes rest on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use vmkeep_envelope::{
    Branch, DomainKeys, KeyObjectHead, KeyVault, OpenedKeys, WrapNaming, open_key_object, wrap_name,
};
use vmkeep_model::{CancelToken, Permit, VmName, op};

use super::info::hex;
use super::resting::{EpochBytes, by_epoch};
use crate::error::VaultError;
use crate::journal::{self, JournalEntry};
use crate::keyring;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::vault::{Inner, Vault};

/// What became of giving a VM new keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BekRotation {
    /// The epoch that new data is sealed with from now on.
    pub epoch: u32,
    /// What rests on the epochs before, oldest first. [`Vault::rewrite`] moves it.
    pub old: Vec<EpochBytes>,
}

/// A key object of the newest epoch, opened.
struct Wrap {
    /// Last segment of its name: the same in every epoch.
    segment: String,
    /// Which of the KEKs at hand opens it.
    by: usize,
    naming: WrapNaming,
    keys: DomainKeys,
}

/// The key objects of one epoch.
#[derive(Default)]
struct Epoch {
    wraps: Vec<Wrap>,
    /// KEKs, by their ids, whose objects none of the KEKs at hand opens.
    foreign: Vec<String>,
}

impl Vault {
    /// Gives `vm` new keys: what is backed up from now on is sealed with them. Old points stay as they are and restore as
    /// ever; points made from now on still refer to what they share with them. Sessions that are open go on with the keys they
    /// have.
    ///
    /// Every KEK that wraps the keys now has to wrap the new ones, or its holders would be locked out: those other than the
    /// vault's own are given as `also`, and [`VaultError::ForeignWraps`] names those that are missing. Of two that rotate
    /// at once one decides, and both end with its keys.
    ///
    /// It tells what rests on the epochs before, for which it reads the header of each data pack.
    pub fn rotate_bek(
        &self,
        permit: &Permit<op::RotateBek>,
        vm: &VmName,
        also: &[Arc<dyn KeyVault>],
        cancel: &CancelToken,
    ) -> Result<BekRotation, VaultError> {
        permit.check(vm)?;
        let vault = &self.uncached().inner;
        let lineage = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        if lineage.head(vault)?.closed {
            return Err(VaultError::LineageClosed { vm: vm.clone() });
        }
        lineage.domain.data_key()?;
        let mut keks: Vec<&dyn KeyVault> = vec![&*vault.key_vault];
        keks.extend(also.iter().map(|kek| &**kek));
        let epoch = vault.next_epoch(&lineage, &keks)?;
        journal::append(vault, lineage.id.0, permit.who(), &JournalEntry::BekRotated { epoch })?;
        let mut old = by_epoch(&vault.data_packs(&lineage, cancel)?);
        old.retain(|&found, _| found < epoch);
        Ok(BekRotation { epoch, old: old.into_values().collect() })
    }

    /// What rests on which epoch of the keys of `vm`, oldest first: the newest too. Reads the header of each data pack.
    pub fn epoch_bytes(&self, vm: &VmName, cancel: &CancelToken) -> Result<Vec<EpochBytes>, VaultError> {
        let vault = &self.inner;
        let lineage = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        Ok(by_epoch(&vault.data_packs(&lineage, cancel)?).into_values().collect())
    }
}

impl Inner {
    /// Makes the next epoch, or completes one that was begun and not wrapped by every KEK; gives its number.
    fn next_epoch(&self, lineage: &Lineage, keks: &[&dyn KeyVault]) -> Result<u32, VaultError> {
        let what = || format!("VM {}", lineage.vm);
        let mut epochs = self.epochs_of(lineage, keks)?;
        let Some((newest, found)) = epochs.pop_last() else {
            return Err(VaultError::WrongKey { what: what() });
        };
        if !found.wraps.iter().any(|wrap| wrap.by == 0) {
            // Somebody else has rotated, and did not wrap it for this KEK.
            return Err(VaultError::WrongKey { what: format!("{}, epoch {newest}", what()) });
        }
        let before = epochs.pop_last().filter(|(epoch, _)| !lineage.domain.destroyed().contains_key(epoch));
        if let Some((_, before)) = before {
            let is_there = |wrap: &Wrap| {
                let mut wraps = found.wraps.iter();
                wraps.any(|other| (other.by, other.keys.branches()) == (wrap.by, wrap.keys.branches()))
            };
            // What seals nothing (of a client, for points that are there) has no place in the next epoch.
            let seals = |wrap: &&Wrap| wrap.keys.sealing().is_ok();
            let missing: Vec<&Wrap> =
                before.wraps.iter().filter(seals).filter(|wrap| !is_there(wrap)).collect();
            if !missing.is_empty() && found.foreign.is_empty() {
                let first = full(&found, &what())?;
                let path = format!("keys/{}/{newest}/{}", lineage.domain.id, first.segment);
                for wrap in missing {
                    self.wrap_as(wrap, keks, (&path, keks[first.by]))?;
                }
                return Ok(newest);
            }
        }
        if !found.foreign.is_empty() {
            return Err(VaultError::ForeignWraps { what: what(), keks: found.foreign });
        }
        self.make_epoch(lineage, &found, keks)
    }

    fn make_epoch(
        &self,
        lineage: &Lineage,
        newest: &Epoch,
        keks: &[&dyn KeyVault],
    ) -> Result<u32, VaultError> {
        let what = format!("VM {}", lineage.vm);
        let first = full(newest, &what)?;
        let key_error = |source| VaultError::Key { what: what.clone(), source };
        let next = first.keys.successor(&*self.ports.entropy).map_err(key_error)?;
        // The one with all keys and the least name is created first: it decides whose keys they are.
        let (path, object) = self.wrapped(&next, keks[first.by], first.naming)?;
        self.objects.create(&keyring::key_name(&path)?, &object)?;
        let decided = self.opened_by(keks[first.by], &path)?;
        if decided.is_none_or(|decided| !decided.is_full()) {
            return Err(VaultError::KeysDiffer { object: path });
        }
        for wrap in newest.wraps.iter().filter(|wrap| !std::ptr::eq(*wrap, first)) {
            self.wrap_as(wrap, keks, (&path, keks[first.by]))?;
        }
        Ok(next.epoch())
    }

    /// Wraps the keys that the object at `from` holds as `like` is wrapped, and reads them back.
    fn wrap_as(
        &self,
        like: &Wrap,
        keks: &[&dyn KeyVault],
        (from, by): (&str, &dyn KeyVault),
    ) -> Result<(), VaultError> {
        let differ = |object: &str| VaultError::KeysDiffer { object: object.to_owned() };
        let all = self.opened_by(by, from)?.ok_or_else(|| differ(from))?;
        let branches = like.keys.branches();
        let all = if branches.contains(&Branch::DataPublic) {
            let what = || format!("the keys in {from}");
            all.write_only().map_err(|source| VaultError::Key { what: what(), source })?
        } else {
            all
        };
        let without = all.branches().into_iter().filter(|branch| !branches.contains(branch));
        let some = without.fold(all, DomainKeys::without);
        let (path, object) = self.wrapped(&some, keks[like.by], like.naming)?;
        // Another that rotates may have been first: with the same keys, or something is wrong.
        self.objects.create(&keyring::key_name(&path)?, &object)?;
        match self.opened_by(keks[like.by], &path)? {
            Some(found) if found.same_keys(&some) => Ok(()),
            _ => Err(differ(&path)),
        }
    }

    /// The key objects of a domain by epoch, each opened by the first of `keks` that opens it.
    fn epochs_of(
        &self,
        lineage: &Lineage,
        keks: &[&dyn KeyVault],
    ) -> Result<BTreeMap<u32, Epoch>, VaultError> {
        let mut epochs = BTreeMap::<u32, Epoch>::new();
        for (path, _) in self.objects.list(&format!("keys/{}", lineage.domain.id))? {
            let Some(name @ ObjectName::Key { epoch, .. }) = ObjectName::parse(&path) else { continue };
            let Some(bytes) = self.objects.read(&name)? else { continue };
            let damaged = |source| VaultError::open(&name, source);
            let ObjectName::Key { wrap, .. } = &name else { continue };
            let head = KeyObjectHead::parse(&bytes).map_err(damaged)?;
            let plain = *wrap == wrap_name(&head.kek_id);
            let naming = if plain { WrapNaming::Kek } else { WrapNaming::KekAndBranches };
            let mut opened = None;
            for (by, kek) in keks.iter().enumerate() {
                if let OpenedKeys::Keys(keys) = open_key_object(&bytes, &path, *kek).map_err(damaged)? {
                    opened = Some(Wrap { segment: wrap.clone(), by, naming, keys });
                    break;
                }
            }
            let found = epochs.entry(epoch).or_default();
            match opened {
                Some(wrap) => found.wraps.push(wrap),
                None => found.foreign.push(hex(&head.kek_id)),
            }
        }
        Ok(epochs)
    }
}

/// The object that holds all keys and has the least name.
fn full<'e>(epoch: &'e Epoch, what: &str) -> Result<&'e Wrap, VaultError> {
    let full = epoch.wraps.iter().filter(|wrap| wrap.keys.is_full());
    full.min_by(|a, b| a.segment.cmp(&b.segment))
        .ok_or_else(|| VaultError::WrongKey { what: what.to_owned() })
}
