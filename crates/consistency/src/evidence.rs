//! What was seen while a snapshot was made: plain values, nothing decided yet.
//!
//! The values are what is stored with a recovery point ([`encode`](crate::encode)), so a verdict can be made again later.

use serde::{Deserialize, Serialize};

use crate::Millis;

/// State of the VM as a resource, as platforms with a control plane report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProvisioningState {
    /// Being created.
    Creating,
    /// Being deleted.
    Deleting,
    /// The platform does not know.
    Unavailable,
    /// The last change of it failed.
    Failed,
    /// As it should be. Also where the platform has no such state.
    Succeeded,
}

/// Whether the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    /// The guest runs.
    Running,
    /// Its processors are halted by the hypervisor; memory is kept.
    Paused,
    /// Shut down.
    Stopped,
    /// Shut down, and its host resources given back.
    Deallocated,
    /// On its way from one to the other.
    Changing,
}

/// The family of the guest's operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestOs {
    /// Quiesced by the Volume Shadow Copy Service.
    Windows,
    /// Quiesced by freezing file systems and by scripts.
    Linux,
    /// Anything else: what can be frozen is frozen.
    Other,
}

/// The circumstances of a VM: not a matter of success or failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmState {
    /// State as a resource.
    pub provisioning: ProvisioningState,
    /// Whether it runs.
    pub power: PowerState,
    /// Operating system.
    pub os: GuestOs,
}

/// State of a VSS writer, numbered as in `VSS_WRITER_STATE` of the Windows SDK (`vswriter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterState(pub u8);

impl WriterState {
    /// At rest, `[1] Stable`.
    pub const STABLE: Self = Self(1);
    /// The snapshot is made, the end of the backup has not been announced.
    pub const WAITING_FOR_BACKUP_COMPLETE: Self = Self(5);
    /// It failed while it was frozen.
    pub const FAILED_AT_FREEZE: Self = Self(9);

    /// Whether a writer in this state has done its part of the snapshot.
    pub fn has_taken_part(self) -> bool {
        self == Self::STABLE || self == Self::WAITING_FOR_BACKUP_COMPLETE
    }
}

/// A VSS writer after the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writer {
    /// Its name, as `vssadmin list writers` shows it.
    pub name: String,
    /// Its state.
    pub state: WriterState,
    /// Its last error as an HRESULT; 0 is none.
    pub last_error: u32,
}

impl Writer {
    /// Whether what it writes for is consistent in the snapshot.
    pub fn succeeded(&self) -> bool {
        self.state.has_taken_part() && self.last_error == 0
    }
}

/// How VSS was told to back up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VssMode {
    /// Applications may truncate their logs. The default in Azure.
    Full,
    /// Logs stay, so that other log backups keep their chain (`USEVSSCOPYBACKUP`).
    Copy,
}

/// What came of VSS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VssEvidence {
    /// Full or copy.
    pub mode: VssMode,
    /// Why there is no shadow copy set; `None` when there is one.
    pub failure: Option<String>,
    /// The writers. Empty when the agent does not tell.
    pub writers: Vec<Writer>,
}

/// What came of one script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScriptOutcome {
    /// It was not run.
    NotRun,
    /// It ended with exit code 0.
    Succeeded(ScriptTrace),
    /// It did not.
    Failed {
        /// Azure's error code, 300 to 318.
        code: u16,
        /// What happened.
        message: String,
        /// What is known of the run.
        trace: ScriptTrace,
    },
}

impl ScriptOutcome {
    /// Whether it ran and ended with exit code 0.
    pub fn succeeded(&self) -> bool {
        matches!(self, Self::Succeeded(_))
    }

    /// Whether it failed; a script that was not run did not.
    pub fn failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// A script's runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptTrace {
    /// How often it was started.
    pub runs: u32,
    /// All runs together.
    pub took: Millis,
    /// The last bytes that the last run printed to stdout and stderr, bytes that are not UTF-8 replaced.
    pub output: String,
    /// Bytes that were printed before them and not kept.
    pub output_dropped: u64,
}

/// What came of the scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ScriptsEvidence {
    /// There are none, or none that count: `code` is Azure's error code where a settings file was there and was not taken.
    NotConfigured {
        /// 304, 305, 313, 314 or 316.
        code: Option<u16>,
    },
    /// There are, and this came of them. A pre-check that failed counts as a failed pre-script.
    Configured {
        /// Before the freeze.
        pre: ScriptOutcome,
        /// After the thaw.
        post: ScriptOutcome,
    },
}

/// What came of one mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MountOutcome {
    /// Nothing was written to it from then on.
    Frozen,
    /// It was left out on purpose: cannot be frozen (vfat), holds nothing that is backed up, or the owner said so.
    Skipped(String),
    /// It could not be frozen.
    Failed(String),
}

/// A mounted file system during a freeze.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Where it is mounted.
    pub path: String,
    /// What came of it.
    pub outcome: MountOutcome,
}

/// Whether the freeze lasted until the snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// The guest said that it was still frozen after the snapshot.
    Yes,
    /// It had thawed.
    No,
    /// It did not say.
    Unknown,
}

/// How the freeze ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ThawOutcome {
    /// By the session.
    Thawed,
    /// By the watchdog, or the guest's own deadline, before the session came to it.
    AlreadyThawed,
    /// The agent reports an error; the watchdog has the last word.
    Failed(String),
}

/// What came of freezing file systems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FreezeEvidence {
    /// There is no agent in the guest, or the policy leaves it alone.
    NotTried,
    /// The script settings leave it to the scripts (`fsFreezeEnabled: false`).
    LeftToScripts,
    /// It was asked for and refused, or there was no answer in time.
    Failed(String),
    /// The agent answered.
    Done {
        /// Each file system.
        mounts: Vec<Mount>,
        /// Whether it lasted.
        held: Held,
        /// How it ended.
        thaw: ThawOutcome,
        /// From the request to freeze to the end of the thaw, by a monotonic clock: no less than the guest was frozen.
        frozen: Millis,
    },
}

/// What came of the snapshot of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSnapshot {
    /// The disk.
    pub disk: String,
    /// What came of it.
    pub outcome: DiskOutcome,
}

/// What came of one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DiskOutcome {
    /// There is a snapshot of it.
    Taken,
    /// None was attempted.
    NotTried,
    /// There is none, for this reason.
    Failed(String),
}

/// Whether the snapshots of several disks show one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Simultaneity {
    /// No write to one disk can be in its snapshot while an earlier one to another is missing.
    OneInstant,
    /// Each disk has its own moment.
    EachItsOwn,
}

/// What came of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotEvidence {
    /// One moment, or several.
    pub simultaneity: Simultaneity,
    /// Every disk that was to be in it.
    pub disks: Vec<DiskSnapshot>,
}

/// What the backup is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// The best there is.
    Best,
    /// Application-consistent or no point.
    Application,
    /// File-system consistent or better, or no point.
    FileSystem,
    /// Crash-consistent: the guest is not touched (Azure's `OnlyCrashConsistent`).
    CrashOnly,
}

/// What a failure in the guest means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnGuestFailure {
    /// The point is of a lower level.
    Degrade,
    /// There is no point, unless the VM has a single disk (`continueBackupOnFailure: false`).
    Refuse,
}

/// The owner's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyPolicy {
    /// What is to be reached.
    pub wanted: Wanted,
    /// What a script's failure means.
    pub on_failure: OnGuestFailure,
    /// A command older than this is refused when it comes to the guest: the moment it was meant for has gone.
    pub command_age_max: Millis,
    /// How many attempts a single-disk VM must have failed before it falls back to crash-consistent against
    /// [`OnGuestFailure::Refuse`].
    pub attempts_before_fallback: u32,
}

/// 140 minutes, as Azure's Linux extension has it.
pub const COMMAND_AGE_MAX: Millis = Millis(140 * 60 * 1000);

impl Default for ConsistencyPolicy {
    fn default() -> Self {
        Self {
            wanted: Wanted::Best,
            on_failure: OnGuestFailure::Degrade,
            command_age_max: COMMAND_AGE_MAX,
            attempts_before_fallback: 1,
        }
    }
}

/// Everything that a verdict rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The rules that held.
    pub policy: ConsistencyPolicy,
    /// The VM before anything was done.
    pub vm: VmState,
    /// Attempts at this point that failed before this one.
    pub attempt: u32,
    /// Time from the command to its being carried out.
    pub command_age: Millis,
    /// VSS, where it took part.
    pub vss: Option<VssEvidence>,
    /// Scripts.
    pub scripts: ScriptsEvidence,
    /// File systems.
    pub freeze: FreezeEvidence,
    /// Disks.
    pub snapshot: SnapshotEvidence,
}

impl Evidence {
    /// For how long the guest was frozen, at most; `None` when it was not.
    pub fn frozen(&self) -> Option<Millis> {
        match &self.freeze {
            FreezeEvidence::Done { frozen, .. } => Some(*frozen),
            _ => None,
        }
    }
}
