//! Every key derivation label of the format, in one place so that no two uses share one by accident.

pub(crate) const RECORD: &str = "vmkeep v1 record";
pub(crate) const SLOT: &str = "vmkeep v1 slot";
pub(crate) const FOOTER: &str = "vmkeep v1 footer";
pub(crate) const PUBLIC_RECORD: &str = "vmkeep v1 record to public";
pub(crate) const PUBLIC_SLOT: &str = "vmkeep v1 slot to public";
pub(crate) const KEY_OBJECT: &str = "vmkeep v1 key object";
pub(crate) const WRAP: &str = "vmkeep v1 wrap";
#[cfg(feature = "file-vault")]
pub(crate) const FILE_VAULT: &str = "vmkeep v1 file vault";

pub(crate) const DATA_PRIVATE: &str = "vmkeep v1 data x25519";
pub(crate) const SALT: &str = "vmkeep v1 salt";
pub(crate) const KEK_ID: &str = "vmkeep v1 kek id";
pub(crate) const BLOCK: &str = "vmkeep v1 block";
pub(crate) const PAGE: &str = "vmkeep v1 page";
pub(crate) const NODE: &str = "vmkeep v1 node";

/// Stands before the URL of a key in the hash that is its id as a KEK.
pub(crate) const STORE_KEK: &[u8] = b"vmkeep v1 store kek";

/// Stands before the salt in the hash that is a pack's name.
pub(crate) const PACK_NAME: &[u8] = b"vmkeep v1 pack name";

/// Stands before branches and KEK id in the hash that names a key object by both.
pub(crate) const REDUCED_WRAP: &[u8] = b"vmkeep v1 wrap of branches";
