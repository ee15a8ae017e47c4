//! Stores that count, remember, fill up, fail, are unfit, and simulate several hosts.

mod call;
mod content;
mod counting;
mod faulty;
mod quota;
mod recording;
mod sim;
mod tapped;
mod unfit;
mod upload;

pub use call::{Action, Call, RequestKind, Tap, Verdict};
pub use content::{snapshot, store_of};
pub use counting::{Counting, CountingStore, Counts};
pub use faulty::{Fault, Faults, FaultyStore};
pub use quota::{Quota, QuotaStore};
pub use recording::{Recording, RecordingStore};
pub use sim::{Fate, Odds, Process, ProcessId, SimEvent, SimStore, Spawned, Step};
pub use tapped::TappedStore;
pub use unfit::{Unfit, UnfitStore};
