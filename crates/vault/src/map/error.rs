//! Why a map could not be read or written.

use std::error::Error;

use thiserror::Error;
use vmkeep_model::{BlockIndex, BlockSize, ContentHash};

use super::sink::PackToken;
use crate::place::StorageId;

/// Any failure of a source or sink, kept as a value.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Bytes are not what the format says they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed {what}")]
pub struct Malformed {
    /// The field that does not hold, or what is wrong with it.
    pub what: &'static str,
}

/// Why a map could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MapError {
    /// A stored node is not what the format, or what its parent says of it.
    #[error("map node {at} is damaged: malformed {what}")]
    Malformed {
        /// Which node.
        at: StorageId,
        /// What does not hold.
        what: &'static str,
    },
    /// A stored node is well formed and holds other content than its parent names.
    #[error("map node {at} is damaged: its content is {found}, its parent names {expected}")]
    HashMismatch {
        /// Which node.
        at: StorageId,
        /// The hash that the parent, or the point, names.
        expected: ContentHash,
        /// The hash of what was read.
        found: ContentHash,
    },
    /// The source could not give a node.
    #[error("cannot read map node {at}")]
    Source {
        /// Which node.
        at: StorageId,
        /// What the source said.
        #[source]
        source: BoxError,
    },
    /// The sink could not take a node.
    #[error("cannot store a map node")]
    Sink(#[source] BoxError),
    /// The sink broke its promise about which pack a node lands in.
    #[error("map node went into pack {found:?} while {expected:?} was announced")]
    WrongPack {
        /// The pack that was the current one before.
        expected: PackToken,
        /// The pack that the sink says it used.
        found: PackToken,
    },
    /// A pack that should be sealed by now has no name yet.
    #[error("pack {0:?} holds map nodes and is not sealed")]
    NotSealed(PackToken),
    /// Changes must come in ascending order of blocks, each block once.
    #[error("block {block} comes after the map was written up to block {next}")]
    Order {
        /// The block that was given.
        block: BlockIndex,
        /// The first block that may still be given.
        next: BlockIndex,
    },
    /// No disk has a block of this number.
    #[error("block {0} lies past the last block a map can hold")]
    OutOfRange(BlockIndex),
    /// An entry does not belong in this map.
    #[error("entry of block {block} does not fit the map: malformed {what}")]
    Entry {
        /// The block it was given for.
        block: BlockIndex,
        /// What does not hold.
        what: &'static str,
    },
    /// Maps of different block sizes have no common blocks.
    #[error("maps of block sizes {0} and {1} cannot be compared")]
    BlockSizes(BlockSize, BlockSize),
}

impl MapError {
    /// Whether stored bytes are wrong, as opposed to out of reach or misused.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::HashMismatch { .. })
    }
}
