//! The block map: which stored bytes every block of a disk is, at every recovery point.
//!
//! A map is a radix tree over block numbers, 64 ways, persistent: writing a point makes new nodes on the way to what
//! changed and shares all others with the maps before, which stay as they were.
//!
//! ```text
//!  point 7                        point 8: block 131 changed          A node at level L covers 64^(L+1) blocks:
//!
//!      [1|0]                          [1|0]' over [1|0]                 level | index
//!     /  |  \                        /  |  \                              1   |   0     blocks 0..4096
//!  [0|0][0|2][0|9]  <---- shared: [0|0] | [0|9]                           0   |   2     blocks 128..192
//!    leaves                           [0|2]' over [0|2]
//! ```
//!
//! **Shape.** A leaf exists when one of its 64 blocks is not all zero, an inner node when two of its 64 ranges are not;
//! levels with a single child are left out. So the shape follows from which blocks are zero, not from history, and two
//! maps of equal content have equal hashes. An all-zero disk has no root; growing a disk costs nothing until a block
//! far out is written.
//!
//! **Two identities.** A [`Child`] and an [`Entry`] carry a content hash, which covers what blocks hold, and a
//! [`Reference`](crate::place::Reference), which says where bytes lie and since which point. Comparing maps
//! ([`diff`]) looks at hashes only; deciding what may be deleted ([`MapReader::walk_new`]) looks at references only.
//! The hash of a node does not cover references: those are authenticated by the sealing of the pack they were read from.
//!
//! **Deltas.** A changed block changes one place in every node above it. Such a node is stored as what differs from a
//! full node of the same place: "`[0|2]'` over `[0|2]`". A delta is always over a full node, so reading a node costs
//! two reads at most; when a delta would grow too large the node is stored in full again. How a node is stored does
//! not change its hash.
//!
//! **Packs without names.** Nodes are stored in packs that get their names when they are sealed. A node refers to
//! nodes in its own pack as index 0, and [`NodeSink`] says when earlier packs have their names.
//!
//! The module is pure: [`NodeSource`] gives stored nodes, [`NodeSink`] takes them, [`NodeHasher`] hashes under a key.
//! Everything that is read is bounded before it is used and compared with what its parent says of it.

mod change_list;
mod codec;
mod cursor;
mod diff;
mod entry;
mod error;
mod freed;
mod node;
mod places;
mod read;
mod shape;
mod sink;
pub(crate) mod varint;
mod walk;
mod write;

#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod testing;

pub use change_list::{
    CHANGE_LIST_LEN_MAX, ChangeKind, ChangeListBuilder, ChangeListReader, ChangeOrderError, ChangedRun,
};
pub(crate) use codec::spot;
pub use codec::{Decoded, Delta, decode, encode};
pub use cursor::{Cursor, Lookup};
pub use diff::{Change, Diff, Difference, diff};
pub use entry::Entry;
pub use error::{BoxError, Malformed, MapError};
pub use freed::{Freed, Spot, freed};
pub use node::{Base, Child, Node, NodeHasher, Root, Slots};
pub use places::Places;
pub use read::{Entries, MapReader, NodeSource};
pub(crate) use shape::start_of as first_block;
pub use shape::{BLOCKS_MAX, LEVEL_MAX, PLACES};
pub use sink::{NodeSink, PackToken, PendingStorage};
pub use walk::Visit;
pub use write::{MapWriter, PendingRoot};
