//! A set of bytes as sorted extents that neither touch nor overlap.

use crate::{ByteLen, ByteOffset, Extent};

/// A set of byte positions, kept as the fewest sorted extents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentSet {
    extents: Vec<Extent>,
}

impl ExtentSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The extents, sorted, none empty, none touching its neighbour.
    pub fn as_slice(&self) -> &[Extent] {
        &self.extents
    }

    /// Every extent in order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        self.extents.iter().copied()
    }

    /// Number of bytes in the set.
    pub fn byte_count(&self) -> ByteLen {
        ByteLen(self.extents.iter().map(|e| e.len().0).sum())
    }

    /// Whether no byte is in the set.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Adds the bytes of `extent`. Appending in order is O(1).
    pub fn insert(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        let first = self.extents.partition_point(|e| e.end() < extent.start());
        let last = self.extents.partition_point(|e| e.start() <= extent.end());
        if first == last {
            self.extents.insert(first, extent);
            return;
        }
        let start = self.extents[first].start().min(extent.start());
        let end = self.extents[last - 1].end().max(extent.end());
        self.extents.splice(first..last, [Extent::between(start, end)]);
    }

    /// Whether the byte at `offset` is in the set.
    pub fn contains(&self, offset: ByteOffset) -> bool {
        let next = self.extents.partition_point(|e| e.end() <= offset);
        self.extents.get(next).is_some_and(|e| e.start() <= offset)
    }
}

impl FromIterator<Extent> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut set = Self::new();
        extents.into_iter().for_each(|e| set.insert(e));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_set_of_bytes(extents in prop::collection::vec((0_u64..200, 0_u64..30), 0..30)) {
            let set: ExtentSet = extents.iter().map(|&(s, n)| Extent::new(ByteOffset(s), ByteLen(n))).collect();
            let model: BTreeSet<u64> = extents.iter().flat_map(|&(s, n)| s..s + n).collect();
            prop_assert_eq!(set.byte_count().0, model.len() as u64);
            for byte in 0..240 {
                prop_assert_eq!(set.contains(ByteOffset(byte)), model.contains(&byte));
            }
            for pair in set.as_slice().windows(2) {
                prop_assert!(pair[0].end() < pair[1].start());
            }
        }
    }
}
