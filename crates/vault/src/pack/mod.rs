//! Packs: filled, sealed and stored; found again slot by slot.

mod cache;
mod data;
mod index;
mod metadata;
mod reader;

pub(crate) use cache::Cache;
pub use data::{DiskWriter, WrittenDisk};
pub(crate) use index::{PackIndex, SlotPlace};
pub(crate) use metadata::MetadataPacks;
pub use metadata::StoredBytes;
pub(crate) use reader::{NodeSlot, PackNodes, frame_error, second_copy, slot_key, slot_of};
