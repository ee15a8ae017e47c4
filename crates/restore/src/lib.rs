//! The return walk: from a recovery point to disks, every byte checked.
//!
//! ```text
//! point ─ map entries ─ ranged reads ─ open ─ unpack ─ check hash ─► blocks
//!                                                    ├─► copy_disk: a whole disk, zeros as holes
//!                                                    ├─► RecoveredDisk: any range, as a BlockRead
//!                                                    └─► verify: nothing kept, damage listed
//! packs, some at a time ─ ranged reads ─ open ─────────► verify_rolling: what was checked is remembered in the vault
//! ```
//!
//! There is one read path, [`vmkeep_vault::DiskReader::fetch`]; everything here is a consumer of it. A block that
//! does not have the content its point names is never given out.

mod copy;
mod error;
mod observer;
mod recovered;
mod rolling;
mod verify;
mod windows;

pub use copy::{Copied, copy_disk};
pub use error::RestoreError;
pub use observer::{Event, Observer, Silent};
pub use recovered::RecoveredDisk;
pub use rolling::{RollingReport, RollingSettings, verify_rolling};
pub use verify::{DamagedBlock, Depth, VerifyReport, note_verified, verify_point, verify_vault};
pub use windows::Settings;
