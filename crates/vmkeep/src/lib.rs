//! Protection of virtual machines: changed blocks only, encrypted, in a vault of your own.
//!
//! One crate per noun, each useful alone; this one holds them together and has no logic of its own.
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | ids, extents, block geometry, VMs, disks, recovery points |
//! | [`disk`] | [`BlockRead`](disk::BlockRead) and [`BlockWrite`](disk::BlockWrite); raw, qcow2, VHD, memory, overlay |
//! | [`blockdiff`] | which blocks of a disk changed |
//! | [`envelope`] | keys, key vaults, sealing |
//! | [`vault`] | recovery points on an object store |
//! | [`backup`] | from disks to a committed point |
//! | [`restore`] | from a point to disks; verification |
//!
//! # A backup and a restore
//!
//! ```
//! use std::sync::Arc;
//! use vmkeep::backup::{self, Plan, Silent, Source, SourceDisk};
//! use vmkeep::disk::{BlockWrite, Memory};
//! use vmkeep::envelope::{KeyFileVault, OsEntropy};
//! use vmkeep::model::*;
//! use vmkeep::restore::{self, copy_disk};
//! use vmkeep::vault::{Ports, Vault};
//!
//! # let folder = tempfile::tempdir()?;
//! # let vault_folder = folder.path().join("vault");
//! // A vault in a folder, opened by a key file.
//! let key = KeyFileVault::create(folder.path().join("vault.key"), &OsEntropy)?;
//! let vault = Vault::create_folder(&vault_folder, Arc::new(key), Ports::default())?;
//!
//! // Any BlockRead is a source; this one is in memory.
//! let disk = Memory::new(1 << 20);
//! disk.write_at(ByteOffset(70_000), b"a guest wrote this")?;
//! let description = DiskDescription { name: "os".parse()?, role: DiskRole::Os, lun: Some(0) };
//! let disks = vec![SourceDisk { description, source: Source::Read(&disk) }];
//! let plan = Plan::new("web-01".parse()?, disks);
//! // A permit says who may; the owner may do everything. See `model::Authorizer`.
//! let may_back_up = Owner.permit(Scope::Vault);
//! let settings = backup::Settings::default();
//! let report = backup::run(&may_back_up, &vault, &plan, &settings, &Silent, &CancelToken::new())?;
//! assert_eq!(report.bytes_changed, 65_536); // one block
//!
//! // The point restores by itself.
//! let point = vault.point(&"web-01@latest".parse()?)?;
//! let may_restore: Permit<op::Restore> = Owner.permit(Scope::Vault);
//! let (stored, target) = (point.disk(&may_restore, &"os".parse()?)?, Memory::new(1 << 20));
//! let settings = restore::Settings::default();
//! copy_disk(&stored, &target, &settings, &restore::Silent, &CancelToken::new())?;
//! assert_eq!(target.to_vec(), disk.to_vec());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Threads, async, errors
//!
//! Every call blocks and may come from any thread; from a tokio program use `spawn_blocking`. Every crate has one
//! error type per direction whose variants are what a caller does differently. A walk takes a
//! [`CancelToken`](model::CancelToken) and stops within the block it is at.

pub mod live;

pub use vmkeep_backup as backup;
pub use vmkeep_billing as billing;
pub use vmkeep_blockdiff as blockdiff;
pub use vmkeep_consistency as consistency;
pub use vmkeep_disk as disk;
pub use vmkeep_envelope as envelope;
pub use vmkeep_model as model;
pub use vmkeep_nbd as nbd;
#[cfg(feature = "pkcs11")]
pub use vmkeep_pkcs11 as pkcs11;
pub use vmkeep_protect as protect;
pub use vmkeep_qemu as qemu;
pub use vmkeep_restore as restore;
pub use vmkeep_retention as retention;
pub use vmkeep_vault as vault;

/// The object store port, as the `object_store` crate defines it: what a vault is made on.
pub use vmkeep_vault::object_store;

/// The code in README.md, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct ReadmeDoctests;
