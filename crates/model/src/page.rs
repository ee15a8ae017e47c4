//! Which pages of a block are meant.

use thiserror::Error;

use crate::{BlockSize, PAGE_SIZE};

/// Bytes or pages that make no mask for blocks of the size at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PageMaskError {
    /// The mask has another length than blocks of this size need.
    #[error("a page mask of {found} bytes; blocks of this size need {expected}")]
    Length {
        /// What blocks of this size need.
        expected: usize,
        /// What there was.
        found: usize,
    },
    /// A page that the block does not have.
    #[error("page {page} of blocks of {pages} pages")]
    PastTheEnd {
        /// The page, from 0.
        page: usize,
        /// Pages of a block.
        pages: usize,
    },
    /// No page at all.
    #[error("a page mask without a page")]
    Empty,
}

/// Which pages of a block are meant: at least one.
///
/// A page is [`PAGE_SIZE`] bytes, so a block has 4 (16 KiB) to 1,024 (4 MiB).
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
    pub fn new(block_size: BlockSize, bits: &[u8]) -> Result<Self, PageMaskError> {
        let (expected, found) = (Self::len_for(block_size), bits.len());
        if found != expected {
            return Err(PageMaskError::Length { expected, found });
        }
        let mask = Self { bits: bits.into() };
        let (last, pages) = (mask.pages().last(), block_size.pages());
        match last {
            None => Err(PageMaskError::Empty),
            Some(page) if page >= pages => Err(PageMaskError::PastTheEnd { page, pages }),
            Some(_) => Ok(mask),
        }
    }

    /// The mask of these pages, in any order.
    pub fn from_pages(
        block_size: BlockSize,
        pages: impl IntoIterator<Item = usize>,
    ) -> Result<Self, PageMaskError> {
        let mut bits = vec![0; Self::len_for(block_size)];
        for page in pages {
            if page >= block_size.pages() {
                return Err(PageMaskError::PastTheEnd { page, pages: block_size.pages() });
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

    /// Its pages in order.
    pub fn pages(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.bits.len() * 8).filter(|page| self.bits[page / 8] >> (page % 8) & 1 == 1)
    }

    /// Whether it can be a mask of blocks of this size.
    pub fn fits(&self, block_size: BlockSize) -> bool {
        Self::new(block_size, &self.bits).is_ok()
    }

    /// Adds the pages of `other`, which is of blocks of the same size.
    pub fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.bits.iter_mut().zip(&other.bits) {
            *ours |= theirs;
        }
    }

    /// Whether every page of `other` is in it too.
    pub fn holds(&self, other: &Self) -> bool {
        self.bits.len() == other.bits.len()
            && self.bits.iter().zip(&other.bits).all(|(ours, theirs)| theirs & !ours == 0)
    }

    /// Appends the pages of `block` that are in the mask, one after another.
    pub fn copy_from(&self, block: &[u8], pages: &mut Vec<u8>) {
        for page in self.pages() {
            let start = page * PAGE_SIZE;
            pages.extend_from_slice(block.get(start..start + PAGE_SIZE).unwrap_or_default());
        }
    }

    /// Puts `pages`, one after another, where they belong in `block`. What `block` or `pages` is too short for stays.
    pub fn copy_to(&self, pages: &[u8], block: &mut [u8]) {
        for (page, bytes) in self.pages().zip(pages.chunks_exact(PAGE_SIZE)) {
            if let Some(place) = block.get_mut(page * PAGE_SIZE..(page + 1) * PAGE_SIZE) {
                place.copy_from_slice(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pages(size: BlockSize) -> impl Strategy<Value = BTreeSet<usize>> {
        prop::collection::btree_set(0..size.pages(), 1..=size.pages().min(40))
    }

    proptest! {
        #[test]
        fn a_mask_is_a_set_of_pages(
            (size, a, b) in (14_u32..=22).prop_flat_map(|log2| {
                let size = BlockSize::try_from(1_u64 << log2).unwrap();
                (Just(size), pages(size), pages(size))
            })
        ) {
            let mask = |set: &BTreeSet<usize>| PageMask::from_pages(size, set.iter().copied()).unwrap();
            let (mut one, two) = (mask(&a), mask(&b));
            prop_assert_eq!(one.pages().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(one.count() as usize, a.len());
            prop_assert_eq!(one.holds(&two), b.is_subset(&a));
            prop_assert_eq!(PageMask::new(size, one.as_bytes()).unwrap(), one.clone());
            one.add(&two);
            prop_assert_eq!(one, mask(&(&a | &b)));
        }

        #[test]
        fn pages_taken_out_and_put_back_are_where_they_were(set in pages(BlockSize::default()), from in any::<u8>()) {
            let size = BlockSize::default();
            let mask = PageMask::from_pages(size, set.iter().copied()).unwrap();
            let fill = |page: usize| from.wrapping_add(u8::try_from(page).unwrap()).max(1);
            let block: Vec<u8> = (0..size.bytes()).map(|at| fill(at / PAGE_SIZE)).collect();
            let (mut taken, mut back) = (Vec::new(), vec![0; size.bytes()]);
            mask.copy_from(&block, &mut taken);
            prop_assert_eq!(taken.len(), set.len() * PAGE_SIZE);
            mask.copy_to(&taken, &mut back);
            for page in 0..size.pages() {
                let expected = if set.contains(&page) { fill(page) } else { 0 };
                prop_assert!(back[page * PAGE_SIZE..(page + 1) * PAGE_SIZE].iter().all(|byte| *byte == expected));
            }
        }
    }

    #[test]
    fn a_mask_has_a_page_and_none_past_the_end() {
        let size = BlockSize::MIN;
        assert_eq!(PageMask::new(size, &[0]), Err(PageMaskError::Empty));
        assert_eq!(PageMask::new(size, &[1, 0]), Err(PageMaskError::Length { expected: 1, found: 2 }));
        assert_eq!(PageMask::new(size, &[0x10]), Err(PageMaskError::PastTheEnd { page: 4, pages: 4 }));
        assert_eq!(PageMask::from_pages(size, [4]), Err(PageMaskError::PastTheEnd { page: 4, pages: 4 }));
    }
}
