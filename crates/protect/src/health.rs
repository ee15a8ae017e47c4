//! What is asked of a vault to judge how well its VMs are protected.

use vmkeep_model::{ByteLen, PointNumber, RecoveryPoint, Timestamp, VmName};
use vmkeep_retention::{Schedule, State};
use vmkeep_vault::{Glance, VaultError};

use crate::status::{Expected, Facts, LastPoint, Reason, SuspectPoints, Verdict, judge};
use crate::{ProtectError, Protection};

/// What VMs are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// For how many milliseconds a run of a schedule may be without its point.
    pub grace_ms: i64,
    /// The greatest age in milliseconds of a point of a VM that is under no schedule; `None` is not to judge it.
    pub max_age_ms: Option<i64>,
    /// How far back in milliseconds sizes are compared.
    pub window_ms: i64,
}

impl Default for HealthSettings {
    /// Four hours: a run may start two hours late, and take two. Growth over a week.
    fn default() -> Self {
        Self { grace_ms: 4 * 3_600_000, max_age_ms: None, window_ms: 7 * 86_400_000 }
    }
}

/// How much more the newest point holds than an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The older one.
    pub from: PointNumber,
    /// By how much the newest is younger than that one, in milliseconds.
    pub window_ms: i64,
    /// In bytes; negative where the data became less.
    pub bytes: i64,
}

/// How well a VM is protected.
#[derive(Clone, Debug)]
pub struct Health {
    /// The VM.
    pub vm: VmName,
    /// The policy it is under.
    pub policy: Option<String>,
    /// Where its protection stands.
    pub state: State,
    /// How its line of points stands; `None` before its first backup, and where that cannot be told.
    pub glance: Option<Glance>,
    /// How its data grew; `None` for a VM with fewer than two points.
    pub growth: Option<Growth>,
    /// The verdict.
    pub verdict: Verdict,
}

impl Health {
    /// Bytes in blocks of the newest good point that are not all zero.
    pub fn data(&self) -> Option<ByteLen> {
        self.glance.as_ref()?.newest.as_ref().map(data)
    }
}

impl Protection<'_> {
    /// The VMs whose health there is something to say of: those in the vault, and those that are under a policy, by name. One that was
    /// purged is not among the latter.
    pub fn watched(&self) -> Result<Vec<VmName>, ProtectError> {
        let instances = self.instances().filter(|(_, of)| !matches!(of.state, State::Purged { .. }));
        let mut vms = self.vault.vms()?;
        vms.extend(instances.map(|(vm, _)| vm.clone()));
        vms.sort();
        vms.dedup();
        Ok(vms)
    }

    /// How well `vm` is protected, by the clock of the vault. A few requests, whatever is stored of it; see [`Vault::glance`]. What
    /// [`Protection::open`] took comes before, once for all VMs.
    ///
    /// # Errors
    /// When the VM is neither in the vault nor under a policy, and when the store fails. Damage is told of in the verdict.
    ///
    /// [`Vault::glance`]: vmkeep_vault::Vault::glance
    pub fn health(&self, vm: &VmName, settings: &HealthSettings) -> Result<Health, ProtectError> {
        let instance = self.instance(vm).ok();
        let version = instance.map(|instance| self.policy(&instance.policy)).transpose()?;
        let mut unknown = None;
        let glance = match self.vault.glance(vm, settings.window_ms) {
            Ok(glance) => Some(glance),
            Err(VaultError::NoSuchVm(_)) if instance.is_some() => None,
            Err(error) if error.is_of_one_object() => {
                unknown = Some(Reason::Unknown { why: error.to_string() });
                None
            }
            Err(error) => return Err(error.into()),
        };
        let expected = match (instance, version) {
            (Some(instance), Some(version)) if version.policy.schedule != Schedule::OnDemandOnly => {
                let (schedule, zone) = (&version.policy.schedule, &version.policy.zone);
                Expected::Schedule { schedule, zone, grace_ms: settings.grace_ms, since: instance.since }
            }
            _ => settings.max_age_ms.map_or(Expected::Nothing, Expected::MaxAge),
        };
        let state = instance.map_or(State::Unprotected, |instance| instance.state);
        let verdict = match unknown {
            Some(reason) => Verdict::of(vec![reason], None),
            None => judge(&facts(state, expected, glance.as_ref()), self.vault.clock().now()),
        };
        Ok(Health {
            vm: vm.clone(),
            policy: instance.map(|instance| instance.policy.clone()),
            state,
            growth: glance.as_ref().and_then(growth),
            glance,
            verdict,
        })
    }
}

fn facts<'a>(state: State, expected: Expected<'a>, glance: Option<&Glance>) -> Facts<'a> {
    let last = glance.and_then(|glance| {
        let newest = glance.newest.as_ref()?;
        Some(LastPoint {
            number: newest.id.number,
            created: newest.created,
            consistency: newest.consistency,
            before: glance.before.as_ref().map(|before| before.consistency),
        })
    });
    let suspects = glance.into_iter().flat_map(|glance| &glance.suspects);
    Facts {
        state,
        closed: glance.is_some_and(|glance| glance.closed),
        expected,
        last,
        unreadable: glance.map(|glance| glance.unreadable.clone()).unwrap_or_default(),
        suspects: suspects
            .map(|found| SuspectPoints { disk: found.disk.clone(), from: found.from, to: found.to })
            .collect(),
    }
}

fn growth(glance: &Glance) -> Option<Growth> {
    let (newest, earlier) = (glance.newest.as_ref()?, glance.earlier.as_ref()?);
    let bytes = |point: &RecoveryPoint| i64::try_from(data(point).0).unwrap_or(i64::MAX);
    let Timestamp(created) = newest.created;
    Some(Growth {
        from: earlier.id.number,
        window_ms: created.saturating_sub(earlier.created.0),
        bytes: bytes(newest).saturating_sub(bytes(earlier)),
    })
}

fn data(point: &RecoveryPoint) -> ByteLen {
    let stored = point.disks.iter().filter_map(|disk| disk.stored.as_ref());
    ByteLen(stored.fold(0, |sum, disk| sum.saturating_add(disk.allocated.0)))
}
