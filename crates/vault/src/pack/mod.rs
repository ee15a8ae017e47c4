//! Packs: filled, sealed and stored; found again slot by slot.

mod adopted;
mod begun;
mod cache;
mod data;
mod index;
mod metadata;
mod reader;

pub use adopted::Adopted;
pub(crate) use begun::Orphans;
pub(crate) use cache::Cache;
pub use data::{DiskWriter, WrittenDisk};
pub(crate) use index::PackIndex;
pub(crate) use metadata::MetadataPacks;
pub use metadata::StoredBytes;
pub(crate) use reader::{NodeSlot, PackNodes, frame_error, slot_key, slot_of};
