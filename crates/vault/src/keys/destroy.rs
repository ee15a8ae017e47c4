//! Destroying keys: what is lost, said first, then a tombstone, then the keys.
//!
//! Only the data key of an epoch is destroyed. Its map and identity keys stay, in a key object that holds nothing else: they
//! say what there was and where it lies, and without them nothing could be swept or checked any more.
//!
//! The order is: the lineage is closed when data is lost, or the newest keys go, so that nothing is ever built on what cannot be
//! read; sessions that could still commit under the old keys are ended; the tombstone is created, and what would be lost is looked at
//! once more; the object without the data key is created and read back; every other key object of the epoch that may hold the data
//! key goes; the journals say so. From the tombstone on the
//! epoch counts as destroyed, whatever is left; whoever does it again finishes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vmkeep_envelope::{
    Branch, DomainKeys, KeyError, KeyObjectHead, KeyVault, OpenedKeys, WrapNaming, open_key_object,
    wrap_name_of_some,
};
use vmkeep_model::{
    CancelToken, DomainId, LineageId, Permit, PointRef, Principal, SessionId, Timestamp, VmName, op,
};

use super::info::hex;
use super::resting::{EpochBytes, Needing, Needs, by_epoch};
use crate::error::VaultError;
use crate::format::DestroyedBody;
use crate::journal::{self, JournalEntry};
use crate::keyring;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::records;
use crate::store::Created;
use crate::vault::{Inner, Vault};

/// How often something is looked at again because somebody else was at it too.
const ROUNDS: u32 = 16;

/// Sets of branches without a data key, as the names of key objects say them.
const REDUCED: [&[Branch]; 2] =
    [&[Branch::Map, Branch::Identity], &[Branch::Map, Branch::Identity, Branch::DataPublic]];

/// What destroying keys would destroy. Nothing is changed by making one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestroyPlan {
    /// Whose keys.
    pub vm: VmName,
    /// Which line of points of that VM.
    pub lineage: LineageId,
    /// Its key domain.
    pub domain: DomainId,
    /// The epochs to be destroyed, and what rests on each; those destroyed already that were not finished are among them.
    pub epochs: Vec<EpochBytes>,
    /// Points that cannot be restored any more then, oldest first, forgotten ones among them.
    pub points: Vec<PointRef>,
    /// By epoch, how many of the points need it.
    pub points_of: BTreeMap<u32, u64>,
    /// Points whose captured keys of guests cannot be put back any more. They stay under the epoch they were captured in, also
    /// when the data of their points was moved to a newer one.
    pub guest_keys: Vec<PointRef>,
    /// The protection of the VM is closed by it, and a backup made later begins anew: data is lost, or the newest keys go.
    pub closes: bool,
    /// Backups that have not committed and are ended.
    pub sessions: Vec<SessionId>,
    /// Other KEKs that wrap these keys, by their ids in hex. Their objects are removed: they hold the data key. Whoever has only
    /// such a KEK can read nothing of these epochs any more, not even what there was.
    pub other_keks: Vec<String>,
    /// It was begun before, and is finished.
    pub resumes: bool,
    /// Generations of other lines of points of the VM that have data keys, which this plan leaves as they are.
    pub earlier: Vec<u32>,
}

/// What was destroyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destroyed {
    /// Points that cannot be restored any more.
    pub points: Vec<PointRef>,
    /// Key objects that were removed.
    pub removed: u64,
    /// The protection of the VM was closed.
    pub closed: bool,
    /// Backups that were ended.
    pub ended: Vec<SessionId>,
}

/// An epoch that was destroyed, as an audit finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestroyedKeys {
    /// Whose keys.
    pub vm: VmName,
    /// Their domain.
    pub domain: DomainId,
    /// Their epoch.
    pub epoch: u32,
    /// When, by the clock of the host that did it.
    pub at: Timestamp,
    /// Who did it.
    pub by: String,
    /// Points that are there and cannot be restored.
    pub points: Vec<PointRef>,
    /// Whether no key object is left that may hold the data key; when not, destroying them again finishes it.
    pub finished: bool,
}

impl DestroyedKeys {
    /// Those of one lineage. `unfinished` are the epochs whose data key may still be there, `points` by epoch those that are lost.
    pub(crate) fn of(
        lineage: &Lineage,
        unfinished: &BTreeSet<u32>,
        mut points: BTreeMap<u32, Vec<PointRef>>,
    ) -> Vec<Self> {
        let of_epoch = |(&epoch, body): (&u32, &DestroyedBody)| Self {
            vm: lineage.vm.clone(),
            domain: lineage.domain.id,
            epoch,
            at: Timestamp(body.at),
            by: body.by.clone(),
            points: points.remove(&epoch).unwrap_or_default(),
            finished: !unfinished.contains(&epoch),
        };
        lineage.domain.destroyed().iter().map(of_epoch).collect()
    }
}

impl Vault {
    /// The keys of `vm` that were destroyed on purpose, and the points that cannot be restored for it. Costs next to nothing where
    /// there are none; else it reads the header of each data pack, and the maps of points until it is known what they need.
    pub fn destroyed_keys(
        &self,
        vm: &VmName,
        cancel: &CancelToken,
    ) -> Result<Vec<DestroyedKeys>, VaultError> {
        let vault = &self.inner;
        let lineage = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        let epochs: BTreeSet<u32> = lineage.domain.destroyed().keys().copied().collect();
        if epochs.is_empty() {
            return Ok(Vec::new());
        }
        let packs = vault.data_packs(&lineage, cancel)?;
        let unfinished = vault.unfinished(&lineage)?;
        let needing = Needs::of(vault, &lineage, &epochs, &packs).points(cancel)?;
        let references = |numbers: BTreeSet<u64>| numbers.into_iter().map(|n| lineage.reference(n)).collect();
        let points =
            needing.points.into_iter().map(|(epoch, numbers)| (epoch, references(numbers))).collect();
        Ok(DestroyedKeys::of(&lineage, &unfinished, points))
    }

    /// What would be lost if the data keys of `vm` were destroyed: those of one epoch, or all.
    ///
    /// When an earlier lineage of the VM has keys whose destruction was begun and not finished, the plan is to finish that. Else it
    /// is of the newest; [`DestroyPlan::earlier`] names others that have data keys, for
    /// [`destroy_plan_of`](Self::destroy_plan_of).
    /// Reads the header of each data pack, and the maps of points until it is known what they need.
    pub fn destroy_plan(
        &self,
        vm: &VmName,
        epoch: Option<u32>,
        cancel: &CancelToken,
    ) -> Result<DestroyPlan, VaultError> {
        let vault = &self.uncached().inner;
        let newest = vault.lineage(vm)?.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        for lineage in vault.lineages_of(vm)? {
            let unfinished = vault.unfinished(&lineage)?;
            if lineage.id != newest.id && !unfinished.is_empty() {
                return vault.plan(&lineage, unfinished, cancel);
            }
        }
        vault.plan_epochs(&newest, epoch, cancel)
    }

    /// The same for a line of points of `vm` by its generation: 0 for its first, more after it was closed and protected again.
    pub fn destroy_plan_of(
        &self,
        vm: &VmName,
        generation: u32,
        epoch: Option<u32>,
        cancel: &CancelToken,
    ) -> Result<DestroyPlan, VaultError> {
        let vault = &self.uncached().inner;
        let at = usize::try_from(generation).unwrap_or(usize::MAX);
        let lineage = vault.lineages_of(vm)?.into_iter().nth(at);
        let lineage = lineage.ok_or_else(|| VaultError::NoSuchVm(vm.clone()))?;
        vault.plan_epochs(&lineage, epoch, cancel)
    }

    /// Destroys the data keys that `plan` names, for ever. What they sealed can be read by nobody any more.
    ///
    /// What it cannot do: it does nothing against whoever kept a copy of one of the key objects together with a KEK that opens
    /// it, nor does it take anything from what was restored before. In a domain that VMs share it takes from all of them.
    ///
    /// Safe to stop at any store call: from the tombstone on the keys count as destroyed, and doing it again with a new plan
    /// finishes it. [`VaultError::PlanOutdated`] when more would be lost by now than the plan says.
    pub fn destroy_keys(
        &self,
        permit: &Permit<op::DestroyKeys>,
        plan: &DestroyPlan,
        cancel: &CancelToken,
    ) -> Result<Destroyed, VaultError> {
        permit.check(&plan.vm)?;
        let inner = self.uncached().inner;
        let vault = &inner;
        if vault.is_client {
            let source = KeyError::BranchMissing {
                domain: plan.domain,
                epoch: plan.epochs.first().map_or(0, |epoch| epoch.epoch),
                branch: Branch::Data,
            };
            return Err(VaultError::Key { what: format!("VM {}", plan.vm), source });
        }
        let outdated = || VaultError::PlanOutdated { vm: plan.vm.clone() };
        let lineage = vault.lineages_of(&plan.vm)?.into_iter().find(|lineage| lineage.id == plan.lineage);
        let lineage = lineage.ok_or_else(outdated)?;
        let epochs: BTreeSet<u32> = plan.epochs.iter().map(|epoch| epoch.epoch).collect();
        let agreed: BTreeSet<&PointRef> = plan.points.iter().collect();
        let keys: BTreeSet<&PointRef> = plan.guest_keys.iter().collect();
        let loses_more = |now: &DestroyPlan| {
            !now.points.iter().all(|point| agreed.contains(point))
                || !now.guest_keys.iter().all(|point| keys.contains(point))
        };
        let now = vault.plan(&lineage, epochs.clone(), cancel)?;
        if loses_more(&now) || (now.closes && !plan.closes) {
            return Err(outdated());
        }
        // Nothing is to be built on what cannot be read, nor sealed with a key that is gone.
        let closed = now.closes && vault.close_lineage(&lineage, permit.who())?;
        let ended = self.end_sessions(&lineage, permit.who())?;
        let now = vault.plan(&lineage, epochs.clone(), cancel)?;
        if loses_more(&now) || now.closes {
            return Err(outdated());
        }
        let mut buried = Vec::new();
        for epoch in &now.epochs {
            let points = now.points_of.get(&epoch.epoch).copied().unwrap_or(0);
            buried.push((epoch.epoch, vault.bury(&lineage, epoch.epoch, permit.who().as_str(), points)?));
        }
        // A sweep that repacks may seal what it moves with these keys. One that is not seen here sees the tombstone, and leaves all
        // as it is; what one moved before shows in the plan.
        let checked = vault.repacking(&lineage).and_then(|is_repacking| {
            if is_repacking {
                return Err(VaultError::SweepUnderWay { vm: plan.vm.clone() });
            }
            let now = self.uncached().inner.plan(&lineage, epochs, cancel)?;
            if loses_more(&now) { Err(outdated()) } else { Ok(()) }
        });
        if let Err(error) = checked {
            for (epoch, (_, created)) in buried {
                if created == Created::Ours {
                    vault.objects.delete(&ObjectName::KeyDestroyed { domain: lineage.domain.id, epoch })?;
                }
            }
            return Err(error);
        }
        // The keys before the journal: a journal that cannot be read keeps nothing from being destroyed.
        let mut removed = 0;
        for epoch in &now.epochs {
            removed += vault.finish_destroying(&*vault.key_vault, lineage.domain.id, epoch.epoch)?;
        }
        for (epoch, (points, _)) in buried {
            let entry = JournalEntry::KeysDestroyed { domain: lineage.domain.id, epoch, points };
            for stream in [lineage.id.0, vault.id.0] {
                let is_there = match journal::read(vault, stream) {
                    Ok(records) => records.iter().any(|record| record.entry == entry),
                    Err(e) if e.is_of_one_object() => false,
                    Err(e) => return Err(e),
                };
                if !is_there {
                    journal::append(vault, stream, permit.who(), &entry)?;
                }
            }
        }
        Ok(Destroyed { points: now.points, removed, closed, ended })
    }

    /// Ends every session of a lineage that may still commit. One that goes on from another has its record before that one
    /// ends: so the sessions are listed until none is left.
    fn end_sessions(&self, lineage: &Lineage, by: &Principal) -> Result<Vec<SessionId>, VaultError> {
        let mut ended = Vec::new();
        for _ in 0..ROUNDS {
            let open = self.inner.sessions_left(lineage)?;
            if open.is_empty() {
                return Ok(ended);
            }
            for session in open {
                match self.inner.end_session(session, by) {
                    Ok(true) => ended.push(session),
                    Ok(false) | Err(VaultError::NoSuchSession { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Err(VaultError::Taken { object: format!("points/{}", lineage.id) })
    }
}

impl Inner {
    fn plan_epochs(
        self: &Arc<Self>,
        lineage: &Lineage,
        epoch: Option<u32>,
        cancel: &CancelToken,
    ) -> Result<DestroyPlan, VaultError> {
        let epochs = match epoch {
            Some(epoch) => BTreeSet::from([epoch]),
            None => self.key_names(lineage)?.into_keys().collect(),
        };
        self.plan(lineage, epochs, cancel)
    }

    /// Generations of other lines of points of the same VM that have data keys.
    fn others_with_keys(&self, lineage: &Lineage) -> Result<Vec<u32>, VaultError> {
        let mut found = Vec::new();
        for (generation, other) in (0_u32..).zip(self.lineages_of(&lineage.vm)?) {
            let mut epochs = other.domain.epochs();
            if other.id != lineage.id && epochs.any(|epoch| other.domain.data_key_of(epoch).is_ok()) {
                found.push(generation);
            }
        }
        Ok(found)
    }

    /// Whether a sweep is repacking packs of a lineage, or died doing so.
    fn repacking(&self, lineage: &Lineage) -> Result<bool, VaultError> {
        let records = self.objects.list(&format!("sweep/{}/repack", lineage.id))?;
        Ok(records.iter().any(|(path, _)| matches!(ObjectName::parse(path), Some(ObjectName::Repack(..)))))
    }

    /// Every lineage that ever had this name, the oldest first.
    fn lineages_of(&self, vm: &VmName) -> Result<Vec<Lineage>, VaultError> {
        let mut found = Vec::new();
        for generation in 0.. {
            let Some(body) = self.name_record(&self.name_of(vm, generation))? else { break };
            found.push(self.unlock_lineage(&body, vm)?);
        }
        Ok(found)
    }

    /// Names of the key objects of a lineage by epoch.
    fn key_names(&self, lineage: &Lineage) -> Result<BTreeMap<u32, Vec<String>>, VaultError> {
        let mut names = BTreeMap::<u32, Vec<String>>::new();
        for (path, _) in self.objects.list(&format!("keys/{}", lineage.domain.id))? {
            if let Some(ObjectName::Key { epoch, .. }) = ObjectName::parse(&path) {
                names.entry(epoch).or_default().push(path);
            }
        }
        Ok(names)
    }

    /// Epochs with a tombstone and a key object that may hold the data key.
    pub(crate) fn unfinished(&self, lineage: &Lineage) -> Result<BTreeSet<u32>, VaultError> {
        let mut unfinished = BTreeSet::new();
        if lineage.domain.destroyed().is_empty() {
            return Ok(unfinished);
        }
        for (epoch, names) in self.key_names(lineage)? {
            for path in names.iter().filter(|_| lineage.domain.destroyed().contains_key(&epoch)) {
                let info = self.wrap_info(path)?;
                let is_safe = |branches: &Vec<Branch>| !branches.contains(&Branch::Data);
                if info.is_some_and(|info| {
                    !info.branches.as_ref().is_some_and(is_safe) && !Self::is_reduced(path, &info.kek)
                }) {
                    unfinished.insert(epoch);
                }
            }
        }
        Ok(unfinished)
    }

    fn plan(
        self: &Arc<Self>,
        lineage: &Lineage,
        epochs: BTreeSet<u32>,
        cancel: &CancelToken,
    ) -> Result<DestroyPlan, VaultError> {
        let names = self.key_names(lineage)?;
        let what = || format!("VM {}", lineage.vm);
        if let Some(&epoch) = epochs.iter().find(|epoch| !names.contains_key(epoch)) {
            return Err(VaultError::NoSuchEpoch { what: what(), epoch });
        }
        let ours: BTreeSet<u32> = lineage.domain.epochs().collect();
        if let Some(epoch) = epochs.difference(&ours).next() {
            return Err(VaultError::WrongKey { what: format!("{}, epoch {epoch}", what()) });
        }
        let mut other_keks = BTreeSet::new();
        for path in epochs.iter().filter_map(|epoch| names.get(epoch)).flatten() {
            let info = self.wrap_info(path)?;
            other_keks.extend(info.filter(|info| !info.opens()).map(|info| info.kek));
        }
        let packs = self.data_packs(lineage, cancel)?;
        let needing = Needs::of(self, lineage, &epochs, &packs).points(cancel)?;
        let resting = by_epoch(&packs);
        let newest = ours.last().copied();
        let loses = !needing.all().is_empty() || newest.is_some_and(|newest| epochs.contains(&newest));
        let resumes = epochs.iter().any(|epoch| lineage.domain.destroyed().contains_key(epoch));
        let rests =
            |epoch: u32| resting.get(&epoch).copied().unwrap_or(EpochBytes { epoch, bytes: 0, packs: 0 });
        let Needing { points, guest_keys } = &needing;
        Ok(DestroyPlan {
            vm: lineage.vm.clone(),
            lineage: lineage.id,
            domain: lineage.domain.id,
            points: needing.all().into_iter().map(|number| lineage.reference(number)).collect(),
            points_of: points.iter().map(|(epoch, points)| (*epoch, points.len() as u64)).collect(),
            guest_keys: guest_keys.iter().map(|number| lineage.reference(*number)).collect(),
            closes: loses && !lineage.head(self)?.closed,
            sessions: self.sessions_left(lineage)?,
            other_keks: other_keks.into_iter().collect(),
            resumes,
            earlier: self.others_with_keys(lineage)?,
            epochs: epochs.into_iter().map(rests).collect(),
        })
    }

    /// The sessions of a lineage whose number is still free.
    fn sessions_left(&self, lineage: &Lineage) -> Result<Vec<SessionId>, VaultError> {
        let sessions = self.open_sessions()?.remove(&lineage.id).unwrap_or_default();
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let head = lineage.head(self)?;
        let mut left: Vec<_> =
            sessions.iter().filter(|body| body.target > head.top && !head.closed).collect();
        left.sort_by_key(|body| body.target);
        Ok(left.into_iter().map(|body| SessionId(body.session)).collect())
    }

    /// Creates the tombstone of an epoch, unless there is one; gives how many points it says were lost, and whether it is new.
    fn bury(
        &self,
        lineage: &Lineage,
        epoch: u32,
        by: &str,
        points: u64,
    ) -> Result<(u64, Created), VaultError> {
        let domain = lineage.domain.id;
        let name = ObjectName::KeyDestroyed { domain, epoch };
        let body = DestroyedBody {
            domain: domain.0,
            epoch,
            at: self.ports.clock.now().0,
            by: by.to_owned(),
            branches: vec![Branch::Data.number()],
            points,
        };
        let context = self.sealer.context(&*self.ports.entropy);
        let object = records::seal(&name, &body, &self.record, &context)?;
        for _ in 0..ROUNDS {
            if self.objects.create(&name, &object)? == Created::Ours {
                return Ok((points, Created::Ours));
            }
            if let Some(there) = keyring::tombstone(&self.objects, &self.record, domain, epoch)? {
                return Ok((there.points, Created::Other));
            }
            // One that does not open, or is that of other keys, says nothing to anybody.
            self.objects.delete(&name)?;
        }
        Err(VaultError::Taken { object: name.to_string() })
    }

    /// Whether the key object `path` of the KEK `kek`, by its id in hex, is named as one without a data key: it opens under that
    /// name only when it holds none.
    fn is_reduced(path: &str, kek: &str) -> bool {
        let digits = kek.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            u8::from_str_radix(pair, 16)
        });
        let Ok(kek) = digits.collect::<Result<Vec<u8>, _>>() else { return false };
        REDUCED.iter().any(|branches| path.ends_with(&format!("/{}", wrap_name_of_some(&kek, branches))))
    }

    fn is_reduced_object(path: &str, bytes: &[u8]) -> bool {
        KeyObjectHead::parse(bytes).is_ok_and(|head| Self::is_reduced(path, &hex(&head.kek_id)))
    }

    /// Removes every key object of a destroyed epoch that may hold its data key, once one without it is there; gives how many
    /// were removed.
    pub(super) fn finish_destroying(
        &self,
        key_vault: &dyn KeyVault,
        domain: DomainId,
        epoch: u32,
    ) -> Result<u64, VaultError> {
        let mut removed = 0;
        for _ in 0..ROUNDS {
            let (mut source, mut kept, mut surplus) = (None::<DomainKeys>, false, Vec::new());
            for (path, _) in self.objects.list(&format!("keys/{domain}/{epoch}"))? {
                let Some(name @ ObjectName::Key { .. }) = ObjectName::parse(&path) else { continue };
                let Some(bytes) = self.objects.read(&name)? else { continue };
                match open_key_object(&bytes, &path, key_vault) {
                    Ok(OpenedKeys::Keys(keys)) => {
                        if keys.data().is_ok() {
                            surplus.push(name);
                        }
                        kept |= keys.branches() == [Branch::Map, Branch::Identity];
                        let more = source.as_ref().is_none_or(|s| s.branches().len() < keys.branches().len());
                        source = if more { Some(keys) } else { source };
                    }
                    // Another KEK's that holds no data key by its name: nothing is to be taken from it, and a change of the
                    // KEK may rest on it.
                    Ok(OpenedKeys::NotMine) if Self::is_reduced_object(&path, &bytes) => {}
                    // Whoever holds the KEK did not answer: nothing is known of what is in it.
                    Err(source) if source.is_unanswered() => return Err(VaultError::open(&name, source)),
                    Ok(OpenedKeys::NotMine) | Err(_) => surplus.push(name),
                }
            }
            if surplus.is_empty() && kept {
                return Ok(removed);
            }
            if !kept {
                let what = || format!("key domain {domain}, epoch {epoch}");
                let keys = source.ok_or_else(|| VaultError::WrongKey { what: what() })?.without(Branch::Data);
                let keys = keys.without(Branch::DataPublic);
                let (path, object) = self.wrapped(&keys, key_vault, WrapNaming::KekAndBranches)?;
                let name = keyring::key_name(&path)?;
                self.objects.create(&name, &object)?;
                surplus.retain(|other| *other != name);
                if !self.opened_by(key_vault, &path)?.is_some_and(|found| found.same_keys(&keys)) {
                    return Err(VaultError::KeysDiffer { object: path });
                }
            }
            for name in surplus {
                self.objects.delete(&name)?;
                removed += 1;
            }
        }
        Err(VaultError::Taken { object: format!("keys/{domain}/{epoch}") })
    }
}
