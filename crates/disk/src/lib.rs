//! Disks as the seam between a VM and its protection.

mod error;
mod seam;

pub use error::{DiskError, DiskOperation};
pub use seam::{BlockRead, BlockWrite};
