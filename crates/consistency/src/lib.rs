//! How consistent the snapshot of a running VM is, and how to make it more so.
//!
//! [`take`] leads a guest through a session: pre-script, freeze, snapshot, thaw, post-script. It talks to a
//! [`GuestAgent`], a [`Snapshotter`], [`Scripts`] and a [`Watchdog`], all the embedder's, and returns [`Evidence`] of what
//! happened with the [`Decision`] what that is worth.
//!
//! ```
//! use vmkeep_consistency::{Decision, GuestOs, NoScripts, Ports, PowerState, ProvisioningState, Request, VmState};
//! use vmkeep_consistency::{decide, decode, encode, fake, take};
//!
//! let guest = fake::Guest::new(["os"]).with_agent(fake::Agent::HangsAtFreeze);
//! let vm = VmState {
//!     provisioning: ProvisioningState::Succeeded,
//!     power: PowerState::Running,
//!     os: GuestOs::Linux,
//! };
//! let ports = Ports {
//!     agent: Some(&guest), snapshotter: &guest, scripts: &mut NoScripts, watchdog: &guest, clock: &guest,
//! };
//! let (decision, evidence) = take(&Request::new(vm), ports);
//! let evidence = evidence.expect("it came to a snapshot");
//!
//! let Decision::Point(verdict) = &decision else { panic!("{decision:?}") };
//! assert_eq!(verdict.level.to_string(), "crash"); // the backup goes on, and says what it is worth
//! assert!(verdict.reasons[0].to_string().contains("did not answer"));
//! assert!(!guest.is_frozen());
//! assert_eq!(decide(&decode(&encode(&evidence)?)?), decision);
//! # Ok::<(), vmkeep_consistency::EvidenceError>(())
//! ```
//!
//! [`script`] is Azure's pre- and post-script framework for Linux; [`promise`] says what a level is worth at restore.
//!
//! # What holds
//! - [`decide`] is pure and total: better evidence never gives a worse level, and every level comes with its reasons.
//! - A guest that was frozen is thawed, and a post-script whose pre-script was called is run, on every path: error,
//!   panic, drop. After a kill the [`ProcessWatchdog`] does both, and thaws when the deadline has passed. It is set before
//!   the pre-script: without it nothing is done to the guest.
//! - While a guest is frozen, nothing here writes anywhere.
//! - A freeze counts only when the guest says after the snapshot that it is still frozen.
//!
//! # What it does not do
//! It knows no hypervisor and no agent protocol. No level promises anything across several VMs.

mod backoff;
mod decision;
mod encoding;
mod evidence;
mod millis;
mod port;
mod promise;
mod session;
mod watchdog;

pub mod conformance;
pub mod fake;
#[doc(hidden)]
pub mod fuzzing;
pub mod script;

pub use backoff::BackOff;
pub use decision::{Decision, NotNow, Preflight, Reason, Refusal, Verdict, decide, preflight};
pub use encoding::{EVIDENCE_BYTES_MAX, EvidenceError, decode, encode};
pub use evidence::{
    COMMAND_AGE_MAX, ConsistencyPolicy, DiskOutcome, DiskSnapshot, Evidence, FreezeEvidence, GuestOs, Held,
    Mount, MountOutcome, OnGuestFailure, PowerState, ProvisioningState, ScriptOutcome, ScriptTrace,
    ScriptsEvidence, Simultaneity, SnapshotEvidence, ThawOutcome, VmState, VssEvidence, VssMode, Wanted,
    Writer, WriterState,
};
pub use millis::Millis;
pub use port::{
    AgentError, ArmedWatchdog, Before, FreezeReport, FreezeState, GuestAgent, MonotonicClock, NoScripts,
    Scripts, Snapshotter, SystemMonotonic, Watchdog, WatchdogEnd, WatchdogError,
};
pub use promise::{Promise, promise};
pub use session::{
    FREEZE_DEADLINE, Freezing, Frozen, Ports, Quiescing, Request, Running, Snapshotted, Thawed, take,
};
pub use watchdog::{ARM_TIMEOUT, ProcessWatchdog, Undo, serve};
