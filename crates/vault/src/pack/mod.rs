//! Packs: filled, sealed and stored; found again slot by slot, also when the slots were moved.

mod adopted;
mod begun;
mod cache;
mod data;
mod index;
mod metadata;
mod moved;
mod reader;
mod repack;

pub use adopted::Adopted;
pub(crate) use begun::Orphans;
pub(crate) use cache::Cache;
pub use data::{DiskWriter, Patched, WrittenDisk};
pub(crate) use index::{PackIndex, SlotPlace, neighbours};
pub use metadata::StoredBytes;
pub(crate) use metadata::{METADATA_PACK_BYTES, MetadataPacks};
pub(crate) use moved::{SlotAt, Whereabouts, birth_in, check_held, moved_to, next_moved};
pub(crate) use reader::{
    NodeSlot, PackFooter, PackNodes, checked_footer, frame_error, sealed_as, second_copy, slot_key,
};
pub(crate) use repack::{Keep, Repacking, Source, can_thin};
