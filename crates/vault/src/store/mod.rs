//! The store below the vault: sync calls over the async port, and the durable folder.

mod bridge;
pub mod conformance;
mod folder;
mod objects;
mod pack_cache;
mod probe;

pub use folder::FolderStore;
pub(crate) use objects::{Created, Objects, PendingCreate, Put, ResultExt};
pub(crate) use probe::probe;
