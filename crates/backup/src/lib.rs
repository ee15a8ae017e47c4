//! The outward walk: from the disks of a VM to a committed recovery point.
//!
//! ```text
//! disk ─ blockdiff::Segments ─► Segment ─ blockdiff::scan ─► Chunks that changed, runs that became zero
//!   Chunks (blocks, or pages of them) ─ FrameEncoder ─► Frame ─ DiskWriter ─► sealed packs, map, change list      (nothing visible)
//!   every disk written ─► Draft ─ Session::commit ─► RecoveryPoint                     (one create)
//! ```
//!
//! [`run`] is the whole walk. Each candidate block is read once; the buffer it was read into is the one that is
//! compressed. Scanning and compressing run on threads joined by bounded queues that keep the order; with one
//! worker everything runs inline, so that the same input gives the same calls in the same order. Memory stays
//! within [`Settings::memory_bytes`] whatever the size of the disks. An error or a [`CancelToken`] stops the walk
//! where it is; nothing becomes visible and all earlier points stay as they were. What it had stored by then is not
//! lost: a later backup goes on from it ([`Resume`]), and a sweep removes it when none does.
//!
//! [`estimate`] is the same walk with nothing stored: what a backup would find, and about what it would take.
//!
//! [`CancelToken`]: vmkeep_model::CancelToken

mod base;
mod disk;
mod error;
mod estimate;
mod groups;
mod limited;
mod observer;
mod ordered;
mod plan;
mod resume;
mod storing;
mod tracking;
mod walk;

pub use error::BackupError;
pub use estimate::{ChangeTotals, DiskEstimate, Estimate, EstimateSettings, Ratio, RatioFrom, estimate};
pub use limited::Limits;
pub use observer::{DiskChange, Event, Observer, Silent};
pub use plan::{
    Audit, Changes, Compare, DiskKeys, Pages, Plan, Rounds, Settings, Source, SourceDisk, SourceGuard,
};
pub use resume::Resume;
pub use walk::{DiskReport, Report, run};
