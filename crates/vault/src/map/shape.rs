//! The arithmetic of the tree: which blocks a node covers, and where in its parent it hangs.

use vmkeep_model::BlockIndex;

/// Places of a node, and the width of one digit of a block number.
pub const PLACES: u8 = 64;
const DIGIT_BITS: u32 = 6;

/// The highest level of a node.
///
/// A disk has at most 2^64 bytes, in blocks of at least 2^14: block numbers stay below 2^50, and level 8 covers 2^54.
pub const LEVEL_MAX: u8 = 8;

/// Block numbers are below this.
pub const BLOCKS_MAX: u64 = 1 << 54;

/// Number of blocks that one place of a node at `level` covers: 64^level.
pub(crate) fn place_span(level: u8) -> u64 {
    1 << (DIGIT_BITS * u32::from(level))
}

/// Number of blocks that a node at `level` covers: 64^(level + 1).
pub(crate) fn node_span(level: u8) -> u64 {
    place_span(level + 1)
}

/// First block that a node covers.
pub(crate) fn start_of(level: u8, index: u64) -> u64 {
    index << (DIGIT_BITS * (u32::from(level) + 1))
}

/// First block after those that a node covers.
pub(crate) fn end_of(level: u8, index: u64) -> u64 {
    start_of(level, index) + node_span(level)
}

/// Index of the node at `level` that covers `block`.
pub(crate) fn index_of(level: u8, block: u64) -> u64 {
    block >> (DIGIT_BITS * (u32::from(level) + 1))
}

/// The place, in the node at `level` that covers it, of `block`.
pub(crate) fn place_of(level: u8, block: u64) -> u8 {
    (block >> (DIGIT_BITS * u32::from(level))).to_le_bytes()[0] & (PLACES - 1)
}

/// First block of a place of a node.
pub(crate) fn place_start(level: u8, index: u64, place: u8) -> u64 {
    start_of(level, index) + u64::from(place) * place_span(level)
}

/// Whether a level and an index name a node at all.
pub(crate) fn is_node(level: u8, index: u64) -> bool {
    level <= LEVEL_MAX && index < BLOCKS_MAX / node_span(level)
}

/// The block at a place of the leaf `index`.
pub(crate) fn block_at(index: u64, place: u8) -> BlockIndex {
    BlockIndex(place_start(0, index, place))
}
