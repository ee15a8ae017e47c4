//! Where new nodes go, before the packs they lie in have names.

use super::error::BoxError;
use crate::place::PackPlace;

/// Names a pack from before it is sealed, within one sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackToken(pub u64);

/// Where a node landed, in a pack whose name may not be known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PendingStorage {
    /// The pack.
    pub pack: PackToken,
    /// The slot within it.
    pub slot: u32,
    /// The node within the slot.
    pub index: u32,
}

/// Where encoded nodes go: slots of metadata packs.
///
/// A pack gets its name when it is sealed, and a parent usually lies in the same pack as its children. So a node is
/// encoded for the pack that is current, refers to nodes of that pack as "the pack this lies in", and to nodes of
/// earlier packs by name.
///
/// # Contract
/// - The node given to [`put`](Self::put) must land in the pack that [`current_pack`](Self::current_pack) named just
///   before. A sink that wants to seal a pack and begin another does so after `put` has placed its node.
/// - [`resolve`](Self::resolve) must know every pack that was ever current and is not any more.
/// - Tokens are never used again. Several writers may share a sink by taking turns.
pub trait NodeSink {
    /// The pack that the next node will land in.
    fn current_pack(&self) -> PackToken;

    /// Takes an encoded node.
    fn put(&mut self, node: &[u8]) -> Result<PendingStorage, BoxError>;

    /// Where a pack lies; `None` while it is not sealed.
    fn resolve(&self, pack: PackToken) -> Option<PackPlace>;
}
