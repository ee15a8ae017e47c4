//! The vocabulary of VM protection, shared by every vmkeep crate.
//!
//! Values only: no I/O, no cryptography, no serialization. A unit is a type here ([`ByteOffset`] and
//! [`BlockIndex`] do not mix), a range is half open and stored as start and length ([`Extent`], [`BlockRun`]),
//! and a name that reached a [`VmName`] or [`DiskName`] is safe to show and to use as a file name.
//!
//! ```
//! use vmkeep_model::{BlockSize, ByteLen, ByteOffset, Extent};
//!
//! let block = BlockSize::default(); // 64 KiB
//! let extent = Extent::new(ByteOffset(100_000), ByteLen(10));
//! assert_eq!(block.blocks_touching(extent).len, 1);
//! assert_eq!(block.count_for(ByteLen(65_537)), 2); // a tail counts as a block
//! ```

mod authority;
mod cancel;
mod clock;
mod extent_set;
mod geometry;
mod hash;
mod id;
mod label;
mod name;
mod page;
mod point;
mod vm;

pub use authority::{
    AccessRequest, Approval, Authorizer, Decision, Denied, Op, Operation, Owner, Permit, Role, RoleSet,
    RoleSetAuthorizer, Scope, UnknownOperation, op,
};
pub use cancel::{CancelToken, Cancelled};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use extent_set::ExtentSet;
pub use geometry::{BlockIndex, BlockRun, BlockSize, BlockSizeError, ByteLen, ByteOffset, Extent, PAGE_SIZE};
pub use hash::ContentHash;
pub use id::{
    DomainId, IdParseError, LineageId, PointNumber, PointRef, PointRefError, PointSelector, SessionId,
    VaultId,
};
pub use label::{LabelError, Labels};
pub use name::{DiskName, NameError, Principal, VmName};
pub use page::{PageMask, PageMaskError};
pub use point::{
    ChangeMethod, ChangeProvenance, ConsistencyLevel, DiskRecord, GuestEncryption, PointId, RecoveryPoint,
    StorageEncryption, StoredDisk, Tracking, UsedBytes,
};
pub use vm::{DISKS_MAX, DiskDescription, DiskRole, DiskRoleError, VmDescription, VmDescriptionError};
