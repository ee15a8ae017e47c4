//! Policies and instances, replayed from the notes of a vault; plans and their application.

use std::collections::{BTreeMap, BTreeSet};

use vmkeep_model::{ByteLen, CancelToken, Op, Permit, PointNumber, Timestamp, VmName, op};
use vmkeep_retention::{
    Change, Confirmation, Event, Immutability, Irreversible, NotConfirmed, Plan, PlanSettings, Point, Policy,
    PolicyDiff, Removal, SoftDelete, Spared, State, diff_of_policies, kind_of_edit, plan_with, weakenings,
};
use vmkeep_vault::{Vault, VaultError};

use crate::guard::{longer_for_ever, longest};
use crate::life::reference;
use crate::note::{Note, PolicySource, TOPIC};
use crate::{ProtectError, labels};

/// A version of a policy.
#[derive(Clone, Debug)]
pub struct PolicyVersion {
    /// 1 for the first.
    pub version: u32,
    /// Since when it is.
    pub at: Timestamp,
    /// In the words of whoever wrote it.
    pub source: PolicySource,
    /// What it says.
    pub policy: Policy,
}

/// A VM that is, or was, under a policy.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The policy it is under, by name.
    pub policy: String,
    /// Since when it is protected.
    pub since: Timestamp,
    /// Where its protection stands.
    pub state: State,
    /// Points up to this number were looked at by somebody: their times are right.
    pub trusted_up_to: Option<PointNumber>,
}

/// What applying a plan did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Points that were forgotten.
    pub forgotten: Vec<PointNumber>,
    /// Points that were to go and stay after all, each with the reason.
    pub spared: Vec<Spared>,
    /// Points that were to go and were gone.
    pub gone: Vec<PointNumber>,
}

/// The policies of a vault and the VMs that are under them, as its notes say.
#[derive(Debug)]
pub struct Protection<'v> {
    pub(crate) vault: &'v Vault,
    policies: BTreeMap<String, Vec<PolicyVersion>>,
    instances: BTreeMap<VmName, Instance>,
    /// What weakening is held against.
    pub(crate) immutability: Immutability,
    /// For how long what is deleted can be had back.
    pub(crate) soft_delete: SoftDelete,
}

impl<'v> Protection<'v> {
    /// Replays the notes of `vault`: one read for each.
    ///
    /// # Errors
    /// [`ProtectError::Note`] for a note that this version does not understand: what a plan would leave out of account, it is not made
    /// without.
    pub fn open(vault: &'v Vault) -> Result<Self, ProtectError> {
        let (policies, instances) = (BTreeMap::new(), BTreeMap::new());
        let (immutability, soft_delete) = (Immutability::default(), SoftDelete::default());
        let mut found = Self { vault, policies, instances, immutability, soft_delete };
        for note in vault.notes() {
            let note = note?;
            if note.topic != TOPIC {
                continue;
            }
            let decided = Note::decode(note.number, &note.body)?;
            found.take(note.number, note.at, decided)?;
        }
        Ok(found)
    }

    fn take(&mut self, number: u64, at: Timestamp, note: Note) -> Result<(), ProtectError> {
        let unreadable = |why: String| ProtectError::Note { number, why };
        let vm = |name: &str| name.parse::<VmName>().map_err(|e| unreadable(e.to_string()));
        match note {
            Note::Policy { name, source, text } => {
                let source = PolicySource::noted(source, text);
                let policy = source.policy().map_err(|e| unreadable(e.to_string()))?;
                let versions = self.policies.entry(name).or_default();
                let version = versions.last().map_or(1, |last| last.version + 1);
                versions.push(PolicyVersion { version, at, source, policy });
            }
            Note::Protect { vm: name, policy } => {
                if !self.policies.contains_key(&policy) {
                    return Err(unreadable(format!("{name} is under policy {policy:?}, which is not there")));
                }
                let instance = self.instances.entry(vm(&name)?).or_insert_with(|| Instance {
                    policy: String::new(),
                    since: at,
                    state: State::Protected,
                    trusted_up_to: None,
                });
                if matches!(instance.state, State::Purged { .. }) {
                    instance.since = at;
                }
                (instance.policy, instance.state) = (policy, State::Protected);
            }
            Note::State { vm: name, state } => {
                let instance = self.instances.get_mut(&vm(&name)?);
                let instance =
                    instance.ok_or_else(|| unreadable(format!("{name} was not protected before")))?;
                instance.state = state.state();
            }
            Note::Trust { vm: name, number } => {
                let instance = self.instances.get_mut(&vm(&name)?);
                let instance =
                    instance.ok_or_else(|| unreadable(format!("{name} was not protected before")))?;
                instance.trusted_up_to = Some(PointNumber(number));
            }
            Note::Immutability { is } => self.immutability = is.immutability(),
            Note::SoftDelete { is } => {
                let wrong = || unreadable("its days are out of range".to_owned());
                self.soft_delete = is.soft_delete().ok_or_else(wrong)?;
            }
        }
        Ok(())
    }

    /// Replays the notes again: others may have written some.
    pub(crate) fn reload(&mut self) -> Result<(), ProtectError> {
        *self = Self::open(self.vault)?;
        Ok(())
    }

    /// The policies by name, each with its newest version.
    pub fn policies(&self) -> impl Iterator<Item = (&str, &PolicyVersion)> {
        self.policies.iter().filter_map(|(name, versions)| Some((name.as_str(), versions.last()?)))
    }

    /// The newest version of a policy.
    pub fn policy(&self, name: &str) -> Result<&PolicyVersion, ProtectError> {
        let there = || self.policies.keys().cloned().collect();
        let found = self.policies.get(name).and_then(|versions| versions.last());
        found.ok_or_else(|| ProtectError::NoSuchPolicy { name: name.to_owned(), there: there() })
    }

    /// The VMs that are, or were, under a policy.
    pub fn instances(&self) -> impl Iterator<Item = (&VmName, &Instance)> {
        self.instances.iter()
    }

    /// The VM's protection.
    pub fn instance(&self, vm: &VmName) -> Result<&Instance, ProtectError> {
        self.instances.get(vm).ok_or_else(|| ProtectError::NotProtected { vm: vm.clone() })
    }

    /// Makes a policy, or the next version of one. The VMs that are under it follow with their next plan.
    ///
    /// One that keeps less than before takes leave to shorten retention too. Nothing is noted when it says the same.
    pub fn set_policy(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        shorten: Option<&Permit<op::ShortenRetention>>,
        name: &str,
        source: PolicySource,
    ) -> Result<u32, ProtectError> {
        self.set_policy_confirmed(permit, shorten, name, source, None)
    }

    /// The same, with the confirmation of [`Irreversible::LongRetentionUnderLock`](vmkeep_retention::Irreversible), which an edit that
    /// keeps points longer takes while immutability is locked: it can never be taken back.
    pub fn set_policy_confirmed(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        shorten: Option<&Permit<op::ShortenRetention>>,
        name: &str,
        source: PolicySource,
        confirmation: Option<&Confirmation>,
    ) -> Result<u32, ProtectError> {
        permit.check_vault()?;
        self.reload()?;
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(is_allowed) {
            return Err(ProtectError::PolicyName { name: name.to_owned() });
        }
        let policy = source.policy()?;
        if let Ok(before) = self.policy(name) {
            if before.source == source {
                return Ok(before.version);
            }
            let is_used = self.instances.values().any(|instance| instance.policy == name);
            if is_used {
                let suspended = self
                    .instances
                    .values()
                    .any(|instance| instance.policy == name && !instance.state.kind().backs_up());
                self.immutability.allows(kind_of_edit(&before.policy, &policy, suspended))?;
                let days = (longest(&before.policy.retention), longest(&policy.retention));
                longer_for_ever(self.immutability, days, confirmation)?;
                let what = weakenings(&before.policy, &policy);
                match shorten {
                    Some(shorten) => shorten.check_vault()?,
                    None if what.is_empty() => {}
                    None => return Err(ProtectError::Shortens { what }),
                }
            }
        }
        let text = source.text().to_owned();
        self.note(permit, Note::Policy { name: name.to_owned(), source: source.source(), text })?;
        Ok(self.policy(name)?.version)
    }

    /// Puts a VM under a policy, also one that was under another. One whose protection is stopped is resumed first, and one that was
    /// purged begins a new line of points.
    pub fn protect(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        shorten: Option<&Permit<op::ShortenRetention>>,
        vm: &VmName,
        policy: &str,
    ) -> Result<(), ProtectError> {
        self.protect_confirmed(permit, shorten, vm, policy, None)
    }

    /// The same, with the confirmation of [`Irreversible::LongRetentionUnderLock`](vmkeep_retention::Irreversible), which it takes while
    /// immutability is locked, when the VM was under no policy or under one that keeps points for a shorter time.
    pub fn protect_confirmed(
        &mut self,
        permit: &Permit<op::ChangePolicy>,
        shorten: Option<&Permit<op::ShortenRetention>>,
        vm: &VmName,
        policy: &str,
        confirmation: Option<&Confirmation>,
    ) -> Result<(), ProtectError> {
        permit.check(vm)?;
        self.reload()?;
        let to = self.policy(policy)?;
        if let Some(instance) = self.instances.get(vm) {
            let from = self.policy(&instance.policy)?;
            if instance.policy == policy && instance.state == State::Protected {
                return Ok(());
            }
            let event = match instance.state {
                // It only changes the policy.
                State::Protected | State::VmGone { .. } => Event::VmBack,
                _ => Event::Protect,
            };
            instance.state.step(event, &self.context(vm, None)?)?;
            let what = weakenings(&from.policy, &to.policy);
            // Of one that is purged there is nothing to keep.
            if !what.is_empty() && !matches!(instance.state, State::Purged { .. }) {
                self.immutability.allows(Change::SwitchToLower)?;
                match shorten {
                    Some(shorten) => shorten.check(vm)?,
                    None => return Err(ProtectError::Shortens { what }),
                }
            }
        }
        let before = match self.instances.get(vm) {
            Some(instance) => longest(&self.policy(&instance.policy)?.policy.retention),
            None => 0,
        };
        longer_for_ever(self.immutability, (before, longest(&to.policy.retention)), confirmation)?;
        self.note(permit, Note::Protect { vm: vm.to_string(), policy: policy.to_owned() })
    }

    /// Notes that somebody looked at the times of the points of `vm` up to `number`, and that they are right: for when a plan removes
    /// nothing because they do not fit.
    pub fn trust(
        &mut self,
        permit: &Permit<op::ShortenRetention>,
        vm: &VmName,
        number: PointNumber,
    ) -> Result<(), ProtectError> {
        permit.check(vm)?;
        self.instance(vm)?;
        self.note(permit, Note::Trust { vm: vm.to_string(), number: number.0 })
    }

    pub(crate) fn note<O: Op>(&mut self, permit: &Permit<O>, note: Note) -> Result<(), ProtectError> {
        self.vault.note(permit, TOPIC, &note.encode())?;
        self.take(0, self.vault.clock().now(), note)
    }

    /// The points of `vm` that are not forgotten, as retention looks at them.
    ///
    /// # Errors
    /// When one cannot be read: a plan is not made without it.
    pub fn points(&self, vm: &VmName) -> Result<Vec<Point>, ProtectError> {
        let policy = self.instances.get(vm).map_or("", |instance| instance.policy.as_str());
        // A VM may be put under a policy before its first backup.
        let held = match self.vault.held(vm) {
            Err(VaultError::NoSuchVm(_)) => return Ok(Vec::new()),
            held => held?,
        };
        let points = self.vault.points(vm)?.into_iter().filter(|point| !point.forgotten);
        Ok(points.map(|point| labels::point(&point, held.contains(&point.id.number), policy)).collect())
    }

    /// What the policy of `vm` lets go by now, and why all else stays. Changes nothing.
    pub fn plan(&self, vm: &VmName) -> Result<Plan, ProtectError> {
        self.plan_as(vm, false)
    }

    /// The same with the newest point let go too when its time has come. [`Protection::prune_to_zero`] applies it.
    pub fn plan_to_zero(&self, vm: &VmName) -> Result<Plan, ProtectError> {
        self.plan_as(vm, true)
    }

    fn plan_as(&self, vm: &VmName, to_zero: bool) -> Result<Plan, ProtectError> {
        let instance = self.instance(vm)?;
        let version = self.policy(&instance.policy)?;
        let settings = PlanSettings { to_zero, ..settings(instance, version) };
        Ok(plan_with(&self.points(vm)?, &version.policy, self.vault.clock().now(), &settings)?)
    }

    /// About how many stored bytes of disk data go with each point that a plan of `vm` lets go; together, what goes with all.
    pub fn bytes_freed(
        &self,
        vm: &VmName,
        plan: &Plan,
        cancel: &CancelToken,
    ) -> Result<BTreeMap<PointNumber, ByteLen>, ProtectError> {
        let going: BTreeSet<PointNumber> = plan.expired().map(|verdict| verdict.number).collect();
        if going.is_empty() {
            return Ok(BTreeMap::new());
        }
        Ok(self.vault.bytes_going(vm, &going, cancel)?)
    }

    /// What would become of the points of `vm` under another policy.
    pub fn diff(&self, vm: &VmName, to: &Policy) -> Result<PolicyDiff, ProtectError> {
        let instance = self.instance(vm)?;
        let version = self.policy(&instance.policy)?;
        let now = self.vault.clock().now();
        Ok(diff_of_policies(&self.points(vm)?, &version.policy, to, now, &settings(instance, version))?)
    }

    /// Applies a plan of `vm`: looks at everything again, and forgets the points that the plan and a plan made now both let go.
    ///
    /// Stopped anywhere, what was forgotten is forgotten, and the next plan goes on. A sweep frees the space; until it has, a
    /// forgotten point can be had back.
    pub fn prune(
        &self,
        permit: &Permit<op::Forget>,
        vm: &VmName,
        plan: &Plan,
    ) -> Result<Pruned, ProtectError> {
        permit.check(vm)?;
        self.apply(permit, vm, plan, false)
    }

    /// Applies a plan of [`Protection::plan_to_zero`]. The newest point stays in the vault, forgotten, until the VM's line is closed.
    ///
    /// # Errors
    /// Under immutability, and without the confirmation of [`Irreversible::PruneToZero`] over the points that go.
    pub fn prune_to_zero(
        &self,
        permit: &Permit<op::Forget>,
        shorten: &Permit<op::ShortenRetention>,
        vm: &VmName,
        plan: &Plan,
        confirmation: Option<&Confirmation>,
    ) -> Result<Pruned, ProtectError> {
        permit.check(vm)?;
        shorten.check(vm)?;
        Self::open(self.vault)?.immutability.allows(Change::PruneToZero)?;
        let what = Self::pruning_to_zero(vm, plan);
        if !confirmation.is_some_and(|confirmed| confirmed.is_of(&what)) {
            return Err(NotConfirmed { meaning: what.meaning(), token: what.token() }.into());
        }
        self.apply(permit, vm, plan, true)
    }

    /// What applying a plan to zero means.
    pub fn pruning_to_zero(vm: &VmName, plan: &Plan) -> Irreversible {
        let points = u64::try_from(plan.expired().count()).unwrap_or(u64::MAX);
        Irreversible::PruneToZero { vm: vm.clone(), points }
    }

    fn apply(
        &self,
        permit: &Permit<op::Forget>,
        vm: &VmName,
        plan: &Plan,
        to_zero: bool,
    ) -> Result<Pruned, ProtectError> {
        // The notes too: a policy may have changed since.
        let now = Self::open(self.vault)?;
        let instance = now.instance(vm)?;
        let version = now.policy(&instance.policy)?;
        let settings = PlanSettings { to_zero, ..settings(instance, version) };
        let at = self.vault.clock().now();
        let Removal { remove, spared, gone } =
            plan.confirm_against(&now.points(vm)?, &version.policy, at, &settings)?;
        for number in &remove {
            self.vault.forget(permit, &reference(vm, *number))?;
        }
        Ok(Pruned { forgotten: remove, spared, gone })
    }
}

fn settings(instance: &Instance, version: &PolicyVersion) -> PlanSettings {
    PlanSettings {
        state: instance.state.kind(),
        since: Some(instance.since),
        policy_version: Some(version.version),
        trusted_up_to: instance.trusted_up_to,
        ..PlanSettings::default()
    }
}
