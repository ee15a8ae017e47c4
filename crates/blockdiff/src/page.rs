//! Which pages of a changed block changed.

use vmkeep_model::{BlockIndex, BlockSize, ContentHash, PAGE_SIZE, PageMask};
use xxhash_rust::xxh3::{Xxh3Builder, xxh3_64_with_secret};
use zeroize::Zeroizing;

/// What a block was at the point before, as the map knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Was {
    /// Its content.
    pub hash: ContentHash,
    /// When it is stored as pages over a whole block: which pages.
    pub patched: Option<PageMask>,
}

impl From<ContentHash> for Was {
    /// A block that is stored as a whole.
    fn from(hash: ContentHash) -> Self {
        Self { hash, patched: None }
    }
}

/// Makes fingerprints of pages: seeded xxh3, several times as fast as a cryptographic hash.
///
/// Whoever writes to the disk chooses the content, so the secret must not be known to the guest. A fingerprint never
/// says what a block is; it says which pages to store again, and the block's own hash is kept beside them: a page that
/// was wrongly left out is found when the block is read.
#[derive(Clone)]
pub struct PageHasher {
    secret: Zeroizing<[u8; 192]>,
    /// Seed of the seals of fingerprint entries.
    seal: u64,
}

impl std::fmt::Debug for PageHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageHasher")
    }
}

impl PageHasher {
    /// A hasher with a secret of the disk's key domain.
    pub fn new(secret: Zeroizing<[u8; 192]>) -> Self {
        let seal = xxh3_64_with_secret(b"vmkeep fingerprints", &*secret);
        Self { secret, seal }
    }

    /// The fingerprints of the pages of `block`, in order, in place of what `into` held.
    pub fn pages(&self, block: &[u8], into: &mut Vec<u64>) {
        into.clear();
        into.extend(block.chunks(PAGE_SIZE).map(|page| xxh3_64_with_secret(page, &*self.secret)));
    }

    /// Binds fingerprints to the content they were made of: only with that hash the seal is right.
    pub(crate) fn seal(&self, content: ContentHash, pages: &[u64]) -> u64 {
        let mut hasher = Xxh3Builder::new().with_seed(self.seal).build();
        hasher.update(&content.0);
        for page in pages {
            hasher.update(&page.to_le_bytes());
        }
        hasher.digest()
    }

    /// Tells one secret from another.
    pub(crate) fn mark(&self) -> u64 {
        xxh3_64_with_secret(b"vmkeep fingerprint file", &*self.secret)
    }
}

/// Keeps the fingerprints of pages between backups. Whatever it forgets costs space and never correctness.
///
/// # Contract
/// [`get`](Self::get) gives what [`put`](Self::put) was given for exactly that content, or nothing. Several threads may
/// call both. What goes wrong inside is kept to itself.
pub trait Fingerprints: Send + Sync + std::fmt::Debug {
    /// The fingerprints of the pages of `block` when its content was `was`, into `pages`; false when they are not known.
    fn get(&self, block: BlockIndex, was: ContentHash, pages: &mut Vec<u64>) -> bool;

    /// Keeps the fingerprints of what `block` is now.
    fn put(&self, block: BlockIndex, now: ContentHash, pages: &[u64]);

    /// Whether it is new and would like to hear of blocks that did not change, too.
    fn wants_all(&self) -> bool {
        false
    }
}

/// Knows nothing: every changed block is compared with what is stored of it, or stored as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFingerprints;

impl Fingerprints for NoFingerprints {
    fn get(&self, _: BlockIndex, _: ContentHash, _: &mut Vec<u64>) -> bool {
        false
    }

    fn put(&self, _: BlockIndex, _: ContentHash, _: &[u64]) {}
}

/// Fetches what blocks were at the point before.
pub trait PreviousContent: Send + Sync {
    /// Calls `sink` for each of `blocks`, in any order, with its whole content then, or with `None` when it cannot be had.
    fn previous(&self, blocks: &[BlockIndex], sink: &mut dyn FnMut(BlockIndex, Option<&[u8]>));
}

/// The pages in which two contents of a block differ; `None` when they are equal or of different lengths.
pub fn changed_pages(block_size: BlockSize, before: &[u8], now: &[u8]) -> Option<PageMask> {
    if before.len() != now.len() {
        return None;
    }
    let pages = before.chunks(PAGE_SIZE).zip(now.chunks(PAGE_SIZE)).enumerate();
    let differ = pages.filter(|(_, (before, now))| before != now).map(|(page, _)| page);
    PageMask::from_pages(block_size, differ).ok()
}

/// The pages whose fingerprints differ; `None` when none do or there are more of one than of the other.
pub(crate) fn changed_fingerprints(block_size: BlockSize, before: &[u64], now: &[u64]) -> Option<PageMask> {
    if before.len() != now.len() {
        return None;
    }
    let differ = before.iter().zip(now).enumerate().filter(|(_, (before, now))| before != now);
    PageMask::from_pages(block_size, differ.map(|(page, _)| page)).ok()
}

/// The pages to store of a block that was `was` and in which `changed` changed; `None` when the whole block is to be
/// stored.
///
/// A patch always lies over a whole block: pages that were patched before are stored again with it. Past half of the
/// block the whole of it takes hardly more and is read faster.
pub fn pages_to_store(block_size: BlockSize, was: &Was, mut changed: PageMask) -> Option<PageMask> {
    if let Some(patched) = &was.patched {
        changed.add(patched);
    }
    (changed.count() as usize * 2 <= block_size.pages()).then_some(changed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn mask(pages: &BTreeSet<usize>) -> PageMask {
        PageMask::from_pages(BlockSize::default(), pages.iter().copied()).unwrap()
    }

    fn some_pages() -> impl Strategy<Value = BTreeSet<usize>> {
        prop::collection::btree_set(0..BlockSize::default().pages(), 1..12)
    }

    fn hasher(secret: u8) -> PageHasher {
        PageHasher::new(Zeroizing::new([secret; 192]))
    }

    proptest! {
        #[test]
        fn a_patch_holds_what_changed_and_what_was_patched_or_the_block_is_stored(
            changed in some_pages(), patched in prop::option::of(some_pages())
        ) {
            let size = BlockSize::default();
            let was = Was { hash: ContentHash([1; 16]), patched: patched.as_ref().map(mask) };
            let all = &changed | &patched.unwrap_or_default();
            let expected = (all.len() * 2 <= size.pages()).then(|| mask(&all));
            prop_assert_eq!(pages_to_store(size, &was, mask(&changed)), expected);
        }

        #[test]
        fn fingerprints_differ_where_pages_differ(changed in some_pages(), seed in any::<u8>()) {
            let size = BlockSize::default();
            let before = vec![seed; size.bytes()];
            let mut now = before.clone();
            for page in &changed {
                now[page * PAGE_SIZE + usize::from(seed)] ^= 1;
            }
            let (mut one, mut two) = (Vec::new(), Vec::new());
            let hasher = hasher(seed);
            hasher.pages(&before, &mut one);
            hasher.pages(&now, &mut two);
            prop_assert_eq!(changed_fingerprints(size, &one, &two), Some(mask(&changed)));
            prop_assert_eq!(changed_pages(size, &before, &now), Some(mask(&changed)));
            prop_assert_eq!(changed_fingerprints(size, &one, &one), None);
            prop_assert_eq!(changed_pages(size, &now, &now), None);
        }
    }

    #[test]
    fn another_secret_gives_other_fingerprints_and_seals() {
        let (one, two) = (hasher(1), hasher(2));
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let block = vec![5; 65_536];
        one.pages(&block, &mut a);
        two.pages(&block, &mut b);
        assert!(a.iter().zip(&b).all(|(a, b)| a != b));
        let seal = one.seal(ContentHash([1; 16]), &a);
        assert_ne!(seal, two.seal(ContentHash([1; 16]), &a));
        assert_ne!(seal, one.seal(ContentHash([2; 16]), &a));
        assert_ne!(one.mark(), two.mark());
    }
}
