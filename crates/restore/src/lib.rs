//! The return walk: from a recovery point to disks, every byte checked.
//!
//! ```text
//! point ─ map entries ─ ranged reads ─ open ─ unpack ─ check hash ─► blocks
//!                                                    ├─► copy_disk: a whole disk, zeros as holes
//!                                                    ├─► RecoveredDisk: any range, as a BlockRead
//!                                                    └─► verify: nothing kept, damage listed
//! ```
//!
//! There is one read path, [`vmkeep_vault::DiskReader::fetch`]; everything here is a consumer of it. A block that
//! does not have the content its point names is never given out.

mod copy;
mod error;
mod observer;
mod recovered;
mod verify;
mod windows;

pub use copy::{Copied, copy_disk};
pub use error::RestoreError;
pub use observer::{Event, Observer, Silent};
pub use recovered::RecoveredDisk;
pub use verify::{DamagedBlock, Depth, VerifyReport, verify_point, verify_vault};
pub use windows::Settings;
