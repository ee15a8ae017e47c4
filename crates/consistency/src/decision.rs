//! From evidence to a level: pure, total, and the same each time.

use std::fmt;

use thiserror::Error;
use vmkeep_model::ConsistencyLevel;

use crate::evidence::{
    DiskOutcome, Evidence, FreezeEvidence, GuestOs, Held, MountOutcome, OnGuestFailure, PowerState,
    ProvisioningState, ScriptOutcome, ScriptsEvidence, Simultaneity, ThawOutcome, VmState, Wanted,
};
use crate::{BackOff, ConsistencyPolicy, Millis};

/// What there is to say about an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is a snapshot, and it is worth this much.
    Point(Verdict),
    /// Nothing is wrong, but it cannot be now.
    NotNow {
        /// Why.
        why: NotNow,
        /// How long to wait before the next attempt.
        retry_after: Millis,
    },
    /// There must be no point of this attempt.
    Refused(Refusal),
}

/// What a snapshot is worth, and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The level.
    pub level: ConsistencyLevel,
    /// Whether all disks show one moment.
    pub simultaneity: Simultaneity,
    /// Why this level, in the order in which they were found. Never empty.
    pub reasons: Vec<Reason>,
}

/// Why a level is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The policy leaves the guest alone.
    CrashOnlyPolicy,
    /// The guest does not run, so there is nothing to quiesce.
    NotRunning(PowerState),
    /// The platform does not vouch for the VM.
    Provisioning(ProvisioningState),
    /// Every VSS writer took part.
    WritersSucceeded,
    /// These VSS writers failed.
    WritersFailed(Vec<String>),
    /// There is a shadow copy, but no word of its writers.
    WritersUnknown,
    /// There is no shadow copy.
    NoShadowCopy(String),
    /// Both scripts succeeded.
    ScriptsSucceeded,
    /// There are no scripts; with the error code of the settings that were not taken.
    NoScripts(Option<u16>),
    /// The pre-script failed, with Azure's error code.
    PreScript(u16),
    /// The post-script failed, with Azure's error code.
    PostScript(u16),
    /// One of the scripts was not run.
    ScriptNotRun,
    /// All file systems were frozen from before the snapshot until after it.
    Frozen,
    /// The scripts answer for the file systems.
    LeftToScripts,
    /// These file systems were left out.
    MountsSkipped(Vec<String>),
    /// These file systems could not be frozen.
    MountsFailed(Vec<String>),
    /// The freeze did not work.
    NotFrozen(String),
    /// No freeze was tried.
    FreezeNotTried,
    /// The freeze cannot be shown to have lasted until the snapshot was taken.
    FreezeNotHeld,
    /// The thaw reports an error.
    ThawFailed(String),
    /// The disks do not show one moment: what spans several of them may be torn.
    DisksApart,
    /// A single-disk VM falls back to crash-consistent although its policy refuses failures.
    SingleDiskFallback,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrashOnlyPolicy => f.write_str("the policy leaves the guest alone"),
            Self::NotRunning(power) => write!(f, "the guest is {}", power_text(*power)),
            Self::Provisioning(state) => write!(f, "the provisioning state is {}", provisioning_text(*state)),
            Self::WritersSucceeded => f.write_str("every VSS writer took part"),
            Self::WritersFailed(names) => write!(f, "VSS writers failed: {}", names.join(", ")),
            Self::WritersUnknown => f.write_str("the agent tells nothing of VSS writers"),
            Self::NoShadowCopy(why) => write!(f, "no shadow copy: {why}"),
            Self::ScriptsSucceeded => f.write_str("pre- and post-script succeeded"),
            Self::NoScripts(None) => f.write_str("no scripts are configured"),
            Self::NoScripts(Some(code)) => write!(f, "the script settings were not taken (error {code})"),
            Self::PreScript(code) => write!(f, "the pre-script failed (error {code})"),
            Self::PostScript(code) => write!(f, "the post-script failed (error {code})"),
            Self::ScriptNotRun => f.write_str("a script was not run"),
            Self::Frozen => f.write_str("file systems were frozen"),
            Self::LeftToScripts => f.write_str("file systems were left to the scripts"),
            Self::MountsSkipped(paths) => write!(f, "not frozen on purpose: {}", paths.join(", ")),
            Self::MountsFailed(paths) => write!(f, "could not be frozen: {}", paths.join(", ")),
            Self::NotFrozen(why) => write!(f, "no freeze: {why}"),
            Self::FreezeNotTried => f.write_str("no freeze was tried"),
            Self::FreezeNotHeld => f.write_str("the freeze is not known to have lasted until the snapshot"),
            Self::ThawFailed(why) => write!(f, "the thaw reports: {why}"),
            Self::DisksApart => f.write_str("the disks do not show one instant"),
            Self::SingleDiskFallback => f.write_str("a VM of one disk falls back to crash-consistent"),
        }
    }
}

fn power_text(power: PowerState) -> &'static str {
    match power {
        PowerState::Running => "running",
        PowerState::Paused => "paused",
        PowerState::Stopped => "stopped",
        PowerState::Deallocated => "deallocated",
        PowerState::Changing => "changing",
    }
}

fn provisioning_text(state: ProvisioningState) -> &'static str {
    match state {
        ProvisioningState::Creating => "creating",
        ProvisioningState::Deleting => "deleting",
        ProvisioningState::Unavailable => "unavailable",
        ProvisioningState::Failed => "failed",
        ProvisioningState::Succeeded => "succeeded",
    }
}

/// Why it cannot be now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotNow {
    /// The VM is being created or deleted.
    Provisioning(ProvisioningState),
    /// A script failed; a VM of one disk is tried again before it falls back.
    BeforeFallback,
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provisioning(state) => write!(f, "the VM is {}", provisioning_text(*state)),
            Self::BeforeFallback => f.write_str("a script failed, and the next attempt may do without it"),
        }
    }
}

/// Why there must be no point, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Still being created or deleted after the last attempt.
    #[error("the VM is still {} after {attempts} attempts; start the backup again when that is over", provisioning_text(*state))]
    StillChanging {
        /// The state.
        state: ProvisioningState,
        /// How many there were.
        attempts: u32,
    },
    /// Neither running nor stopped (Azure's `UserErrorVmNotInDesirableState`).
    #[error("the VM is neither running nor stopped; wait until it is, then start the backup again")]
    NotInDesirableState,
    /// The command is older than the policy allows (Azure's 402).
    #[error("the command is {age} old, more than {limit}; start the backup again")]
    CommandTooOld {
        /// How old.
        age: Millis,
        /// How old it may be.
        limit: Millis,
    },
    /// There is no snapshot of some disks: all or nothing.
    #[error("no snapshot of {}; free space or snapshots there and start the backup again", .0.join(", "))]
    DisksFailed(Vec<String>),
    /// No snapshot was attempted.
    #[error("no snapshot was attempted{}", script_hint(*.script))]
    NoSnapshot {
        /// Azure's error code of the script that was in the way.
        script: Option<u16>,
    },
    /// A script failed and the policy says that there is no point then.
    #[error("a script failed (error {code}); mend the script, or let backups go on when it fails")]
    ScriptFailed {
        /// Azure's error code.
        code: u16,
    },
    /// The snapshot is worth less than the policy asks for.
    #[error("the snapshot would be {got}-consistent only: {}; mend that, or ask for less", join(.reasons))]
    BelowWanted {
        /// The level that would have been.
        got: ConsistencyLevel,
        /// Why.
        reasons: Vec<Reason>,
    },
}

fn script_hint(code: Option<u16>) -> String {
    code.map_or_else(String::new, |code| format!(": a script failed (error {code}); mend the script"))
}

fn join(reasons: &[Reason]) -> String {
    reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join("; ")
}

/// What to do with a guest before anything is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preflight {
    /// Quiesce it.
    Quiesce,
    /// Leave it alone: the snapshot is crash-consistent.
    CrashOnly(Reason),
    /// Not now, or not at all.
    Stop(Decision),
}

/// Says what the state of a VM allows. `attempt` is how many failed before.
pub fn preflight(policy: &ConsistencyPolicy, vm: &VmState, attempt: u32, command_age: Millis) -> Preflight {
    let refuse = |refusal| Preflight::Stop(Decision::Refused(refusal));
    if command_age > policy.command_age_max {
        return refuse(Refusal::CommandTooOld { age: command_age, limit: policy.command_age_max });
    }
    match vm.provisioning {
        state @ (ProvisioningState::Creating | ProvisioningState::Deleting) => {
            let attempts = attempt.saturating_add(1);
            return match BackOff::DEFAULT.after(attempt) {
                Some(retry_after) => {
                    Preflight::Stop(Decision::NotNow { why: NotNow::Provisioning(state), retry_after })
                }
                None => refuse(Refusal::StillChanging { state, attempts }),
            };
        }
        ProvisioningState::Unavailable | ProvisioningState::Failed | ProvisioningState::Succeeded => {}
    }
    if vm.power == PowerState::Changing {
        return refuse(Refusal::NotInDesirableState);
    }
    if policy.wanted == Wanted::CrashOnly {
        Preflight::CrashOnly(Reason::CrashOnlyPolicy)
    } else if vm.provisioning != ProvisioningState::Succeeded {
        Preflight::CrashOnly(Reason::Provisioning(vm.provisioning))
    } else if vm.power != PowerState::Running {
        Preflight::CrashOnly(Reason::NotRunning(vm.power))
    } else {
        Preflight::Quiesce
    }
}

/// Says what came of an attempt.
pub fn decide(evidence: &Evidence) -> Decision {
    let policy = &evidence.policy;
    let crash_reason = match preflight(policy, &evidence.vm, evidence.attempt, evidence.command_age) {
        Preflight::Stop(decision) => return decision,
        Preflight::CrashOnly(reason) => Some(reason),
        Preflight::Quiesce => None,
    };
    let failed_disks = disks_that(evidence, |outcome| matches!(outcome, DiskOutcome::Failed(_)));
    if !failed_disks.is_empty() {
        return Decision::Refused(Refusal::DisksFailed(failed_disks));
    }
    let failed_script = failed_script(&evidence.scripts).filter(|_| crash_reason.is_none());
    let fallback = match (policy.on_failure, failed_script) {
        (OnGuestFailure::Refuse, Some(code)) if evidence.snapshot.disks.len() != 1 => {
            return Decision::Refused(Refusal::ScriptFailed { code });
        }
        (OnGuestFailure::Refuse, Some(code)) => {
            if evidence.attempt < policy.attempts_before_fallback {
                let retry_after = BackOff::DEFAULT.after(evidence.attempt);
                return retry_after
                    .map_or(Decision::Refused(Refusal::ScriptFailed { code }), |retry_after| {
                        Decision::NotNow { why: NotNow::BeforeFallback, retry_after }
                    });
            }
            true
        }
        _ => false,
    };
    let disks = &evidence.snapshot.disks;
    if disks.is_empty() || disks.iter().any(|disk| disk.outcome == DiskOutcome::NotTried) {
        return Decision::Refused(Refusal::NoSnapshot { script: failed_script });
    }
    let (level, mut reasons) = match crash_reason {
        Some(reason) => (ConsistencyLevel::Crash, vec![reason]),
        None if fallback => {
            let (_, mut reasons) = guest_level(evidence);
            reasons.push(Reason::SingleDiskFallback);
            (ConsistencyLevel::Crash, reasons)
        }
        None => guest_level(evidence),
    };
    let simultaneity = if evidence.snapshot.disks.len() > 1 {
        evidence.snapshot.simultaneity
    } else {
        Simultaneity::OneInstant
    };
    if simultaneity == Simultaneity::EachItsOwn {
        reasons.push(Reason::DisksApart);
    }
    if level < least(policy.wanted) {
        return Decision::Refused(Refusal::BelowWanted { got: level, reasons });
    }
    Decision::Point(Verdict { level, simultaneity, reasons })
}

fn least(wanted: Wanted) -> ConsistencyLevel {
    match wanted {
        Wanted::Best | Wanted::CrashOnly => ConsistencyLevel::Crash,
        Wanted::FileSystem => ConsistencyLevel::FileSystem,
        Wanted::Application => ConsistencyLevel::Application,
    }
}

fn disks_that(evidence: &Evidence, wanted: fn(&DiskOutcome) -> bool) -> Vec<String> {
    let disks = evidence.snapshot.disks.iter();
    disks.filter(|disk| wanted(&disk.outcome)).map(|disk| disk.disk.clone()).collect()
}

/// Azure's error code of the first script that failed.
fn failed_script(scripts: &ScriptsEvidence) -> Option<u16> {
    let code = |outcome: &ScriptOutcome| match outcome {
        ScriptOutcome::Failed { code, .. } => Some(*code),
        ScriptOutcome::NotRun | ScriptOutcome::Succeeded(_) => None,
    };
    match scripts {
        ScriptsEvidence::NotConfigured { .. } => None,
        ScriptsEvidence::Configured { pre, post } => code(pre).or_else(|| code(post)),
    }
}

/// The level of a running guest that was to be quiesced.
fn guest_level(evidence: &Evidence) -> (ConsistencyLevel, Vec<Reason>) {
    if evidence.vm.os == GuestOs::Windows && evidence.vss.is_some() {
        return vss_level(evidence);
    }
    let (files, mut reasons) = freeze_level(&evidence.freeze);
    if evidence.vm.os == GuestOs::Windows {
        reasons.push(Reason::WritersUnknown);
        return (
            if files == Files::AtRest { ConsistencyLevel::FileSystem } else { ConsistencyLevel::Crash },
            reasons,
        );
    }
    let applications = scripts_level(&evidence.scripts, &mut reasons);
    let level = match (files, applications) {
        (Files::AtRest | Files::LeftToScripts, Applications::AtRest) => ConsistencyLevel::Application,
        (Files::AtRest, Applications::Running) => ConsistencyLevel::FileSystem,
        (Files::LeftToScripts, Applications::Running) | (Files::InUse, _) => ConsistencyLevel::Crash,
    };
    (level, reasons)
}

fn vss_level(evidence: &Evidence) -> (ConsistencyLevel, Vec<Reason>) {
    let Some(vss) = &evidence.vss else {
        return (ConsistencyLevel::Crash, vec![Reason::FreezeNotTried]);
    };
    if let Some(why) = &vss.failure {
        return (ConsistencyLevel::Crash, vec![Reason::NoShadowCopy(why.clone())]);
    }
    let failed: Vec<String> =
        vss.writers.iter().filter(|writer| !writer.succeeded()).map(|writer| writer.name.clone()).collect();
    if vss.writers.is_empty() {
        (ConsistencyLevel::FileSystem, vec![Reason::WritersUnknown])
    } else if failed.is_empty() {
        (ConsistencyLevel::Application, vec![Reason::WritersSucceeded])
    } else {
        (ConsistencyLevel::FileSystem, vec![Reason::WritersFailed(failed)])
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    AtRest,
    LeftToScripts,
    InUse,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Applications {
    AtRest,
    Running,
}

fn freeze_level(freeze: &FreezeEvidence) -> (Files, Vec<Reason>) {
    let (mounts, held, thaw) = match freeze {
        FreezeEvidence::NotTried => return (Files::InUse, vec![Reason::FreezeNotTried]),
        FreezeEvidence::LeftToScripts => return (Files::LeftToScripts, vec![Reason::LeftToScripts]),
        FreezeEvidence::Failed(why) => return (Files::InUse, vec![Reason::NotFrozen(why.clone())]),
        FreezeEvidence::Done { mounts, held, thaw, .. } => (mounts, held, thaw),
    };
    let paths = |wanted: fn(&MountOutcome) -> bool| -> Vec<String> {
        mounts.iter().filter(|mount| wanted(&mount.outcome)).map(|mount| mount.path.clone()).collect()
    };
    let failed = paths(|outcome| matches!(outcome, MountOutcome::Failed(_)));
    let skipped = paths(|outcome| matches!(outcome, MountOutcome::Skipped(_)));
    let frozen = mounts.iter().any(|mount| mount.outcome == MountOutcome::Frozen);
    let mut reasons = Vec::new();
    let files = if !failed.is_empty() {
        reasons.push(Reason::MountsFailed(failed));
        Files::InUse
    } else if !frozen {
        reasons.push(Reason::NotFrozen("no file system was frozen".to_owned()));
        Files::InUse
    } else if *held == Held::Yes {
        reasons.push(Reason::Frozen);
        Files::AtRest
    } else {
        reasons.push(Reason::FreezeNotHeld);
        Files::InUse
    };
    if !skipped.is_empty() {
        reasons.push(Reason::MountsSkipped(skipped));
    }
    if let ThawOutcome::Failed(why) = thaw {
        reasons.push(Reason::ThawFailed(why.clone()));
    }
    (files, reasons)
}

fn scripts_level(scripts: &ScriptsEvidence, reasons: &mut Vec<Reason>) -> Applications {
    let (pre, post) = match scripts {
        ScriptsEvidence::NotConfigured { code } => {
            reasons.push(Reason::NoScripts(*code));
            return Applications::Running;
        }
        ScriptsEvidence::Configured { pre, post } => (pre, post),
    };
    if pre.succeeded() && post.succeeded() {
        reasons.push(Reason::ScriptsSucceeded);
        return Applications::AtRest;
    }
    if let ScriptOutcome::Failed { code, .. } = pre {
        reasons.push(Reason::PreScript(*code));
    }
    if let ScriptOutcome::Failed { code, .. } = post {
        reasons.push(Reason::PostScript(*code));
    }
    if !pre.failed() && !post.failed() {
        reasons.push(Reason::ScriptNotRun);
    }
    Applications::Running
}
