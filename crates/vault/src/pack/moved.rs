//! Slots whose pack was repacked: the pack they were born in is gone, and a record says where they lie now.
//!
//! Maps go on naming a slot by its birth. A reader asks for the birth pack first. When that is gone it asks for the
//! newest `moved` record of it, and what it finds there may be gone too by the time it reads: then there is a newer
//! record, or the slot is lost. So every look that fails goes on from a larger k, and ends.

use std::collections::BTreeSet;
use std::sync::Arc;

#[cfg(test)]
use vmkeep_envelope::SealContext;
use vmkeep_envelope::{PackName, SlotId};
#[cfg(test)]
use vmkeep_model::LineageId;
use vmkeep_model::SessionId;

use super::index::PackIndex;
use super::reader::{slot_of, unplaced};
use crate::error::VaultError;
use crate::format::{FormatError, MovedBody, MovedSlotBody, PackBody, SlotBirth};
use crate::layout::{ObjectName, highest_taken};
use crate::lineage::Lineage;
use crate::place::PackPlace;
use crate::records;
#[cfg(test)]
use crate::store::Created;
use crate::store::ResultExt;
use crate::vault::Inner;

/// Where the slots of a birth pack lie, as far as it is known.
#[derive(Clone, Debug)]
pub(crate) enum Whereabouts {
    /// In the pack they were born in.
    InBirthPack(Arc<PackIndex>),
    /// In others: it was repacked.
    Moved(Arc<MovedBody>),
}

/// A slot where it lies now.
#[derive(Clone, Debug)]
pub(crate) struct SlotAt {
    pub(crate) pack: PackPlace,
    /// The first copy of that pack.
    pub(crate) name: ObjectName,
    pub(crate) index: Arc<PackIndex>,
    /// Its place among the slots of that pack.
    pub(crate) at: u32,
    /// What was asked for.
    birth: SlotBirth,
}

impl SlotAt {
    /// Where in the slot `len` units lie that a reference names by `index`.
    pub(crate) fn unit(&self, index: u32, len: u32) -> Option<u32> {
        let slot = self.index.slots.get(usize::try_from(self.at).ok()?)?;
        slot.unit((&self.pack, self.at), &self.birth, index, len)
    }
}

impl Whereabouts {
    /// The k of the record it is from; 0 for the birth pack itself. What is newer has a larger one.
    pub(crate) fn k(&self) -> u64 {
        match self {
            Self::InBirthPack(_) => 0,
            Self::Moved(body) => body.k,
        }
    }
}

impl Inner {
    /// Where the slots of the pack `birth` lie.
    pub(crate) fn whereabouts(
        &self,
        lineage: &Lineage,
        birth: &PackPlace,
    ) -> Result<Whereabouts, VaultError> {
        if let Some(known) = self.indexes.get(&(lineage.id, *birth)) {
            return Ok((*known).clone());
        }
        match self.pack_index(lineage, birth) {
            Ok(index) => Ok(Whereabouts::InBirthPack(index)),
            // A pack is deleted after its `moved` record was written.
            Err(gone @ VaultError::Missing { .. }) => {
                let moved = self.newest_moved(lineage, birth, 0)?.ok_or(gone)?;
                Ok(self.keep_moved(lineage, birth, moved))
            }
            Err(e) => Err(e),
        }
    }

    /// Where the slots of the pack `birth` lie when they are gone from where record `k` says (0: from
    /// `birth` itself); when there is no newer record, the error that `birth` is missing.
    pub(crate) fn whereabouts_after(
        &self,
        lineage: &Lineage,
        birth: &PackPlace,
        k: u64,
    ) -> Result<Whereabouts, VaultError> {
        // Whatever comes of it, the next reader does not begin with what is gone.
        self.indexes.remove(&(lineage.id, *birth));
        match self.newest_moved(lineage, birth, k)? {
            Some(moved) if moved.k > k => Ok(self.keep_moved(lineage, birth, moved)),
            _ => Err(VaultError::Missing { object: ObjectName::pack(lineage.id, birth).to_string() }),
        }
    }

    fn keep_moved(&self, lineage: &Lineage, birth: &PackPlace, moved: MovedBody) -> Whereabouts {
        let weight = moved.slots.len() * size_of::<MovedSlotBody>() + 128;
        let found = Whereabouts::Moved(Arc::new(moved));
        self.indexes.put((lineage.id, *birth), Arc::new(found.clone()), weight);
        found
    }

    /// The newest record of where the slots of `birth` lie, searched upwards from `known`, which is there or 0.
    pub(crate) fn newest_moved(
        &self,
        lineage: &Lineage,
        birth: &PackPlace,
        known: u64,
    ) -> Result<Option<MovedBody>, VaultError> {
        let owner = birth.lineage.unwrap_or(lineage.id);
        let name = |k| ObjectName::Moved(owner, birth.name, k);
        let k = highest_taken(known, |k| self.objects.exists(&name(k)))?;
        if k == 0 {
            return Ok(None);
        }
        let bytes = self.objects.read(&name(k)).or_missing(&name(k))?;
        let moved: MovedBody = records::open(&name(k), &bytes, &self.record)?;
        let told = (moved.lineage, moved.session, moved.name, moved.k);
        if told != (owner.0, birth.session.0, birth.name.0, k) {
            let what = FormatError("it tells of the slots of another pack".to_owned());
            return Err(VaultError::malformed(name(k), what));
        }
        Ok(Some(moved))
    }

    /// Stores the record `moved`. One create decides: with [`Created::Other`] another record of that k was first.
    #[cfg(test)] // a sweep creates it through the protocol
    pub(crate) fn create_moved(
        &self,
        moved: &MovedBody,
        context: &SealContext<'_>,
    ) -> Result<Created, VaultError> {
        let name = ObjectName::Moved(LineageId(moved.lineage), PackName(moved.name), moved.k);
        let object = records::seal(&name, moved, &self.record, context)?;
        self.objects.create(&name, &object)
    }

    /// Calls `read` with the place of a slot. When the pack there is gone, looks where the slot was moved to and calls again.
    pub(crate) fn at_slot<T>(
        &self,
        lineage: &Lineage,
        birth: &PackPlace,
        slot: u32,
        mut read: impl FnMut(&SlotAt) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let mut known = self.whereabouts(lineage, birth)?;
        loop {
            let done = self.slot_at(lineage, birth, slot, &known).and_then(|at| read(&at));
            let Err(VaultError::Missing { .. }) = done else { return done };
            known = self.whereabouts_after(lineage, birth, known.k())?;
        }
    }

    fn slot_at(
        &self,
        lineage: &Lineage,
        birth: &PackPlace,
        slot: u32,
        known: &Whereabouts,
    ) -> Result<SlotAt, VaultError> {
        let (pack, at, index) = match known {
            Whereabouts::InBirthPack(index) => (*birth, slot, Arc::clone(index)),
            Whereabouts::Moved(moved) => {
                let (pack, at) = moved_to(moved, lineage, birth, slot)?;
                (pack, at, self.pack_index(lineage, &pack)?)
            }
        };
        let name = ObjectName::pack(lineage.id, &pack);
        check_held(&index, &pack, &name, at, birth, slot)?;
        Ok(SlotAt { pack, name, index, at, birth: birth_in(birth, slot) })
    }
}

/// The pack that holds a slot of `birth` now, and its place there.
pub(crate) fn moved_to(
    moved: &MovedBody,
    lineage: &Lineage,
    birth: &PackPlace,
    slot: u32,
) -> Result<(PackPlace, u32), VaultError> {
    let found = moved.slots.binary_search_by_key(&slot, |moved| moved.slot).ok();
    let Some(MovedSlotBody { pack: (session, name), at, .. }) = found.and_then(|at| moved.slots.get(at))
    else {
        let object = ObjectName::pack(lineage.id, birth).to_string();
        return Err(VaultError::SlotGone { object, slot });
    };
    let pack = PackPlace { lineage: birth.lineage, session: SessionId(*session), name: PackName(*name) };
    Ok((pack, *at))
}

/// Whether the slot at place `at` of `pack` is the one that was born as `slot` of `birth`, or holds what is left of it, by
/// the footer of `pack`.
pub(crate) fn check_held(
    index: &PackIndex,
    pack: &PackPlace,
    name: &ObjectName,
    at: u32,
    birth: &PackPlace,
    slot: u32,
) -> Result<(), VaultError> {
    let mut told = slot_of(index, name, at)?.origin.births(pack, at).peekable();
    if told.peek().is_none() {
        return Err(unplaced(name, at));
    }
    if told.any(|told| told == birth_in(birth, slot)) {
        return Ok(());
    }
    let what = format!("its slot {at} is not slot {slot} of pack {birth}");
    Err(VaultError::malformed(name, FormatError(what)))
}

/// Slot `slot` of the pack `birth`, as footers name it.
pub(crate) fn birth_in(birth: &PackPlace, slot: u32) -> SlotBirth {
    SlotBirth { session: birth.session, id: SlotId { pack: birth.name, slot } }
}

/// The record that follows `before` (`None`: the first), when the packs `emptied` were repacked: the slots of `birth` lie as
/// `slots` says, and those that lie in other packs stay where they are.
pub(crate) fn next_moved(
    lineage: &Lineage,
    birth: PackBody,
    before: Option<&MovedBody>,
    emptied: &BTreeSet<PackBody>,
    mut slots: Vec<MovedSlotBody>,
) -> MovedBody {
    let stay = before.iter().flat_map(|before| &before.slots);
    slots.extend(stay.filter(|slot| !emptied.contains(&slot.pack)).cloned());
    // Stable: of a slot that is named twice, what was moved now comes first.
    slots.sort_by_key(|slot| slot.slot);
    slots.dedup_by_key(|slot| slot.slot);
    let (session, name) = birth;
    MovedBody { lineage: lineage.id.0, session, name, k: before.map_or(0, |before| before.k) + 1, slots }
}
