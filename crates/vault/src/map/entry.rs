//! What a map knows of one block that is not all zero.

use vmkeep_model::{BlockSize, ContentHash, PageMask, PointNumber};

use super::error::Malformed;
use crate::place::Reference;

/// Where the data of a block lies, and what it is. A block that is all zero has no entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// The whole block lies in one place.
    Full {
        /// Where.
        at: Reference,
        /// The data's identity.
        hash: ContentHash,
    },
    /// Some pages were written over another whole block. A base is never patched itself: two reads at most, for ever.
    Patched {
        /// The whole block below.
        base: Reference,
        /// The first page of the patch.
        patch: Reference,
        /// Which pages of the block the patch holds, one after another.
        pages: PageMask,
        /// The identity of the block as patched.
        hash: ContentHash,
    },
}

impl Entry {
    /// The identity of the block's data.
    pub fn hash(&self) -> ContentHash {
        match self {
            Self::Full { hash, .. } | Self::Patched { hash, .. } => *hash,
        }
    }

    /// The references it holds: the whole block, then the patch.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        let (whole, patch) = match self {
            Self::Full { at, .. } => (at, None),
            Self::Patched { base, patch, .. } => (base, Some(patch)),
        };
        [Some(whole), patch].into_iter().flatten()
    }

    /// The newest birth of the references it holds.
    pub fn newest_birth(&self) -> PointNumber {
        self.references().map(|reference| reference.birth).max().unwrap_or_default()
    }

    /// Whether it can be an entry of a map of blocks of `block_size`.
    pub(crate) fn check(&self, block_size: BlockSize) -> Result<(), Malformed> {
        if let Self::Patched { patch, pages, .. } = self {
            if !pages.fits(block_size) {
                return Err(Malformed { what: "page mask" });
            }
            if patch.at.index.checked_add(pages.count()).is_none() {
                return Err(Malformed { what: "first page of a patch" });
            }
        }
        Ok(())
    }
}
