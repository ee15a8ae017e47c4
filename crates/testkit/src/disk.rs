//! Disks made from a seed, and disks that misbehave.

pub(crate) mod content;
mod counting;
mod failing;
mod generated;
mod history;
mod shrinking;

pub use content::Content;
pub use counting::{CountingDisk, DiskCounts};
pub use failing::FailingDisk;
pub use generated::GeneratedDisk;
pub use history::{DiskHistory, disk_history};
pub use shrinking::ShrinkingDisk;
