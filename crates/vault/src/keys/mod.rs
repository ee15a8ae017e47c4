//! The keys of a vault: what there is, and changing it.
//!
//! ```text
//! KEK --wraps--> key objects keys/<domain>/<epoch>/<wrap> --hold--> record key, or map, data and identity keys
//! ```
//!
//! Key objects are outside the commit protocol: they are created once each and removed, and nothing else decides by them.
//! Whatever is done here may be stopped at any store call and done again.
//!
//! - A KEK is changed by wrapping every key anew ([`Vault::rotate_kek`](crate::Vault::rotate_kek)). No data is touched. It
//!   does nothing against whoever kept the old KEK together with copies of the key objects: those open what they opened.
//! - A VM is given new keys for new data by an epoch more ([`Vault::rotate_bek`](crate::Vault::rotate_bek)). What rests on the
//!   old ones stays there until it is moved ([`Vault::rewrite`](crate::Vault::rewrite)).
//! - A host that is to make points and not to read them is given the public side of the data key
//!   ([`Vault::grant_client`](crate::Vault::grant_client)).
//! - Data keys are destroyed ([`Vault::destroy_keys`](crate::Vault::destroy_keys)): what they sealed is gone for ever, and a
//!   tombstone says so. It does nothing against whoever kept a copy of a key object and a KEK that opens it.

mod bek;
mod client;
mod destroy;
mod info;
mod kek;
mod resting;

pub use bek::BekRotation;
pub use client::ClientGrant;
pub use destroy::{DestroyPlan, Destroyed, DestroyedKeys};
pub use info::{DestroyedInfo, DomainKeysInfo, EpochInfo, WrapInfo};
pub use kek::{KekEvent, KekRotation};
pub use resting::EpochBytes;
pub(crate) use resting::{DataPack, Needs};
