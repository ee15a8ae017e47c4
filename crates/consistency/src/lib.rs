//! How consistent the snapshot of a running VM is.

mod backoff;
mod decision;
mod encoding;
mod evidence;
mod millis;
mod promise;

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
pub use promise::{Promise, promise};
