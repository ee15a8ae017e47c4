//! What of a VM is known to be lost: noted by a repair, looked at by the next backup, which then relies on none of it.
//!
//! The newest entry of a journal stream of its own says all of it, by stored bytes and not by block: once a block was stored
//! again its map entry names other bytes, and the mark means nothing to it any more.

use std::collections::btree_map::Entry::Occupied;
use std::collections::{BTreeMap, BTreeSet};

use vmkeep_model::{LineageId, PointNumber, Principal};

use crate::error::VaultError;
use crate::format::PackBody;
use crate::journal::{self, JournalEntry};
use crate::map::Entry;
use crate::place::StorageId;
use crate::vault::Inner;

/// What the id of the stream is made with (FORMAT.md section 8).
const STREAM_LABEL: &str = "vmkeep v1 damage stream";

/// Of a pack of which more than this many blocks and patches are lost, all is taken as lost.
const PACK_UNITS_MAX: usize = 4096;
/// As many blocks and patches are named one by one in all.
const UNITS_MAX: usize = 1 << 20;

/// Stored bytes that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DamageMarks {
    /// The point that they are about, the newest when they were made.
    newest: u64,
    /// Slot and index of what is lost, per pack it was born in; none is all of the pack.
    packs: BTreeMap<PackBody, BTreeSet<(u32, u32)>>,
}

impl DamageMarks {
    /// Of a point, with nothing lost yet.
    pub(super) fn of(newest: PointNumber) -> Self {
        Self { newest: newest.0, packs: BTreeMap::new() }
    }

    /// The point that they are of.
    pub(super) fn point(&self) -> Option<PointNumber> {
        Some(PointNumber(self.newest)).filter(|newest| newest.0 > 0)
    }

    /// Whether both say the same, of whatever point.
    pub(super) fn say_what(&self, others: &Self) -> bool {
        self.packs == others.packs
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// What of them a backup against the point `base` has to know.
    ///
    /// The one that was under way when they were made did not know them and may have made the point after; whatever is newer was
    /// made by one that did, and relies on nothing that is lost.
    pub(crate) fn for_base(self, base: Option<PointNumber>) -> Self {
        let applies = base.is_some_and(|base| base.0 <= self.newest.saturating_add(1));
        if applies { self } else { Self::default() }
    }

    fn holds(&self, at: &StorageId) -> bool {
        let marked = self.packs.get(&(at.pack.session.0, at.pack.name.0));
        marked.is_some_and(|units| units.is_empty() || units.contains(&(at.slot, at.index)))
    }

    /// Whether anything that the block is made of is lost.
    pub(crate) fn hold_some_of(&self, entry: &Entry) -> bool {
        !self.is_empty() && entry.references().any(|reference| self.holds(&reference.at))
    }

    /// Notes that something cannot be read. Of a block it may be any part of what it is made of: a backup needs no more than that.
    pub(super) fn add(&mut self, at: StorageId) {
        let count = self.packs.len();
        let units = self.packs.entry((at.pack.session.0, at.pack.name.0));
        let is_all = matches!(&units, Occupied(units) if units.get().is_empty());
        if !is_all {
            let units = units.or_default();
            units.insert((at.slot, at.index));
            if units.len() > PACK_UNITS_MAX.min(UNITS_MAX / count.max(1)) {
                units.clear();
            }
        }
    }
}

impl Inner {
    /// The stream of the journal that says what of a lineage is lost.
    pub(crate) fn damage_stream(&self, lineage: LineageId) -> [u8; 16] {
        self.record.subkey(STREAM_LABEL).hash16(&[&lineage.0])
    }

    /// What the newest repair found lost of a lineage's newest point. Where that cannot be read nothing is known: a backup
    /// goes on then.
    pub(crate) fn damage_marks(&self, lineage: LineageId) -> Result<DamageMarks, VaultError> {
        let stream = self.damage_stream(lineage);
        let number = journal::last_number(self, stream)?;
        if number == 0 {
            return Ok(DamageMarks::default());
        }
        let entry = match journal::entry(self, stream, number, None) {
            Ok(entry) => entry.map(|(record, _)| record.entry),
            Err(e) if e.is_of_one_object() => None,
            Err(e) => return Err(e),
        };
        let Some(JournalEntry::Damaged { newest, packs }) = entry else { return Ok(DamageMarks::default()) };
        let packs =
            packs.into_iter().map(|(session, name, units)| ((session, name), units.into_iter().collect()));
        Ok(DamageMarks { newest, packs: packs.collect() })
    }

    /// Says that this, and nothing else, is lost of a lineage.
    pub(super) fn mark_damage(
        &self,
        lineage: LineageId,
        by: &Principal,
        marks: &DamageMarks,
    ) -> Result<(), VaultError> {
        let packs = marks.packs.iter();
        let packs = packs.map(|((session, name), units)| (*session, *name, units.iter().copied().collect()));
        let entry = JournalEntry::Damaged { newest: marks.newest, packs: packs.collect() };
        journal::append(self, self.damage_stream(lineage), by, &entry)
    }
}
