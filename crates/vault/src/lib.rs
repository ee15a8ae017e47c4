//! Recovery points on an object store.
//!
//! [`Vault`] is made once, opened with a KEK ([`vmkeep_envelope::KeyVault`]), and asked for sessions and points. A
//! [`Session`] writes the next point of a VM: [`DiskWriter`]s store what changed, [`Session::commit`] makes it
//! visible by one create-if-absent. An [`OpenPoint`] gives a [`DiskReader`] per disk: map entries in order, and the
//! blocks they name, each authenticated, unpacked and checked by its hash.
//!
//! Everything stored is sealed first: the store below takes [`vmkeep_envelope::SealedObject`] and nothing else, so
//! plain bytes do not compile. What lies where, byte for byte, is in FORMAT.md.
//!
//! What the store below must do is in [`conformance`], as tests for any store; [`Vault::create`] tries the heart of
//! it.
//!
//! It does not read disks, start threads of its own (but for the runtime that talks to the store) or know what a
//! schedule is.
//!
//! ```
//! use std::sync::Arc;
//! use vmkeep_envelope::{KeyFileVault, OsEntropy, SecretKey};
//! use vmkeep_vault::{Ports, Vault};
//!
//! let store = Arc::new(object_store::memory::InMemory::new());
//! let kek = Arc::new(KeyFileVault::from_key(SecretKey::generate(&OsEntropy)?));
//! let vault = Vault::create(store.clone(), kek.clone(), Ports::default())?;
//! assert!(vault.vms()?.is_empty());
//!
//! // Another key opens nothing, and says so.
//! let stranger = Arc::new(KeyFileVault::from_key(SecretKey::generate(&OsEntropy)?));
//! assert!(Vault::open(store, stranger, Ports::default()).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adoption;
mod asked;
mod authority;
mod base;
mod begin;
mod drive;
mod error;
mod format;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod glance;
#[cfg(test)]
mod golden;
mod journal;
mod keyring;
mod keys;
mod layout;
mod lineage;
mod log;
pub mod map;
mod mark;
mod noise;
mod note;
mod pack;
mod permits;
mod place;
mod point;
mod protocol;
mod read;
mod records;
mod repair;
mod session;
mod store;
mod sweep;
mod usage;
mod vault;
mod verify;

pub use authority::{APPROVAL_MAX_MS, RoleChange};
pub use base::JobFacts;
pub use begin::OpenSession;
pub use error::{StoreOperation, VaultError};
pub use format::FormatError;
pub use frame::{CompressionLevel, Frame, FrameEncoder, FrameError, PatchFrame};
pub use glance::Glance;
pub use journal::{DamagedPack, JournalEntry, JournalRecord, Suspect};
pub use keys::{
    BekRotation, ClientGrant, DestroyPlan, Destroyed, DestroyedInfo, DestroyedKeys, DomainKeysInfo,
    EpochBytes, EpochInfo, KekEvent, KekRotation, WrapInfo,
};
pub use layout::ObjectName;
pub use log::{Checkpoint, Log, LogEntry, LogFault, LogStream};
pub use map::Change as BlockChange;
pub use mark::{Pin, PinInfo};
pub use note::{NOTE_MAX, Note};
pub use object_store;
pub use pack::{Adopted, DiskWriter, Patched, StoredBytes, WrittenDisk};
pub use permits::Reading;
pub use place::{PackPlace, Reference, StorageId};
pub use point::OpenPoint;
pub use read::{BlockSink, DiskEntries, DiskReader};
pub use repair::{LiveDisks, Lost, Mend, NoLiveDisks, RepairReport, advice};
pub use session::{BaseDisk, CONFIG_MAX, Committed, Draft, DraftDisk, SNAPSHOT_EVIDENCE_MAX, Session};
pub use store::{FolderStore, conformance};
pub use sweep::{ABANDONED_AFTER_MS, Kept, Rewritten, SweepEvent, SweepReport, SweepSettings};
pub use usage::{LineageUsage, VaultUsage};
#[doc(hidden)]
pub use vault::Rule;
pub use vault::{History, Ports, Vault};
pub use verify::{
    Accounting, Audit, AuditDepth, Budget, Checked, Coverage, Damage, DamagedBlocks, Found, NAMED_MAX,
    PackDamage, PackDepth, PackToCheck, ROUND_RUNS_MAX, Rolling, Tally,
};
pub use vmkeep_envelope::PackName;
