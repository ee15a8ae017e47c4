//! What a map knows of one block that is not all zero.

use vmkeep_model::{BlockSize, ContentHash, PointNumber};

use super::error::Malformed;
use crate::place::Reference;

/// Which pages of a block a patch holds: at least one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageMask {
    /// Bit per page, lowest first; the bits past the last page are zero.
    bits: Box<[u8]>,
}

impl PageMask {
    /// Bytes of the mask of a block of this size: 1 to 128.
    pub fn len_for(block_size: BlockSize) -> usize {
        block_size.pages().div_ceil(8)
    }

    /// The mask that `bits` are, for blocks of `block_size`.
    pub fn new(block_size: BlockSize, bits: &[u8]) -> Result<Self, Malformed> {
        if bits.len() != Self::len_for(block_size) {
            return Err(Malformed { what: "length of a page mask" });
        }
        // Only blocks of 16 KiB, four pages, leave bits of their last byte unused.
        let past_the_end =
            bits[0].checked_shr(u32::try_from(block_size.pages()).unwrap_or(u32::MAX)).unwrap_or(0);
        if past_the_end != 0 || bits.iter().all(|&byte| byte == 0) {
            return Err(Malformed { what: "page mask" });
        }
        Ok(Self { bits: bits.into() })
    }

    /// The mask of these pages, in any order.
    pub fn from_pages(
        block_size: BlockSize,
        pages: impl IntoIterator<Item = usize>,
    ) -> Result<Self, Malformed> {
        let mut bits = vec![0; Self::len_for(block_size)];
        for page in pages {
            if page >= block_size.pages() {
                return Err(Malformed { what: "page past the end of a block" });
            }
            bits[page / 8] |= 1 << (page % 8);
        }
        Self::new(block_size, &bits)
    }

    /// The bits, lowest page first.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// Number of pages in it: at least one.
    pub fn count(&self) -> u32 {
        self.bits.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Its pages in order: the patch holds them one after another.
    pub fn pages(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.bits.len() * 8).filter(|page| self.bits[page / 8] >> (page % 8) & 1 == 1)
    }
}

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
        /// Which pages of the block the patch holds.
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
            if pages.bits.len() != PageMask::len_for(block_size) {
                return Err(Malformed { what: "length of a page mask" });
            }
            if patch.at.index.checked_add(pages.count()).is_none() {
                return Err(Malformed { what: "first page of a patch" });
            }
        }
        Ok(())
    }
}
