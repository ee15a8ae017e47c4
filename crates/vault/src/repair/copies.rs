//! Metadata packs lie in two copies: what is wrong with one is put right from the other, and slot by slot where each has a
//! fault of its own.
//!
//! A copy that is missing is created; one that is damaged is replaced in one step by the bytes it had. So at no time is anything
//! gone that was there before.

use std::ops::Range;

use bytes::Bytes;
use vmkeep_envelope::{
    OpenError, PACK_HEADER_LEN, PackContent, SealedObject, SlotId, SlotKind, TRAILER_LEN, Trailer, open_slot,
    readmit_pack,
};

use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::pack::{PackFooter, checked_footer, second_copy, slot_key};
use crate::place::PackPlace;
use crate::vault::Inner;

/// A metadata pack whose copies are not both good, and can be.
#[derive(Debug)]
pub(super) struct MendCopies {
    /// The pack as it was sealed.
    object: SealedObject,
    /// The objects that are not that, and whether there is something under their name.
    pub(super) bad: Vec<(ObjectName, bool)>,
    /// The object that all of it is in; `None` when it took both.
    pub(super) from: Option<ObjectName>,
}

impl MendCopies {
    /// Looks at both copies of the pack at `place`. `None` when nothing is wrong, it is no metadata pack, or what is wrong cannot be
    /// put right.
    pub(super) fn plan(
        vault: &Inner,
        lineage: &Lineage,
        place: &PackPlace,
    ) -> Result<Option<Self>, VaultError> {
        let first = ObjectName::pack(lineage.id, place);
        let names = [first.clone(), second_copy(&first)];
        let (mut copies, mut footer) = (Vec::new(), None);
        for name in &names {
            let bytes = vault.objects.read(name)?;
            let found = bytes.as_ref().map(|bytes| footer_in(lineage, place, name, bytes));
            match found.transpose() {
                Ok(Some(found)) if found.head.content == PackContent::Metadata => {
                    footer.get_or_insert((copies.len(), found));
                }
                // A data pack has no copies, and whoever wrote a newer one knows more of it than this version.
                Ok(Some(_)) | Err(VaultError::Newer { .. }) => return Ok(None),
                Ok(None) => {}
                Err(e) if e.is_of_one_object() => {}
                Err(e) => return Err(e),
            }
            copies.push(bytes);
        }
        let Some((main, footer)) = footer else { return Ok(None) };
        let Some((object, mixed)) = put_together(vault, lineage, place, footer, main, &copies)? else {
            return Ok(None);
        };
        let bad = names.iter().zip(&copies).filter(|(_, bytes)| bytes.as_ref() != Some(object.bytes()));
        let bad: Vec<_> = bad.map(|(name, bytes)| (name.clone(), bytes.is_some())).collect();
        let from = (!mixed).then(|| names[main].clone());
        Ok((!bad.is_empty()).then_some(Self { object, bad, from }))
    }

    /// Writes what is not as it was sealed. Gives how many objects that were.
    pub(super) fn apply(&self, vault: &Inner) -> Result<u64, VaultError> {
        for (name, is_there) in &self.bad {
            if *is_there {
                vault.objects.overwrite(name, &self.object)?;
            } else {
                // Should somebody else have been there meanwhile, the next look tells what it is.
                vault.objects.create(name, &self.object)?;
            }
        }
        Ok(self.bad.len() as u64)
    }
}

/// The footer of a pack whose bytes are all here.
fn footer_in(
    lineage: &Lineage,
    place: &PackPlace,
    name: &ObjectName,
    bytes: &Bytes,
) -> Result<PackFooter, VaultError> {
    let size = bytes.len() as u64;
    let cut = || VaultError::open(name, OpenError::Truncated { needed: size.saturating_add(1), found: size });
    let header = *bytes.first_chunk::<PACK_HEADER_LEN>().ok_or_else(cut)?;
    let trailer = *bytes.last_chunk::<TRAILER_LEN>().ok_or_else(cut)?;
    let parsed = Trailer::parse(&trailer).map_err(|e| VaultError::open(name, e))?;
    let end = bytes.len() - TRAILER_LEN;
    let start = usize::try_from(parsed.footer_len).ok().and_then(|len| end.checked_sub(len));
    let start = start.filter(|start| *start >= PACK_HEADER_LEN).ok_or_else(cut)?;
    let footer = bytes.slice(start..end).to_vec();
    checked_footer(lineage, place, name, (header, footer, trailer), size)
}

/// The pack as it was sealed, from the copy `main`, whose footer is good, and for the slots that are not good there from the
/// other; and whether it took both.
fn put_together(
    vault: &Inner,
    lineage: &Lineage,
    place: &PackPlace,
    footer: PackFooter,
    main: usize,
    copies: &[Option<Bytes>],
) -> Result<Option<(SealedObject, bool)>, VaultError> {
    let Some(Some(bytes)) = copies.get(main) else { return Ok(None) };
    let other = copies.iter().enumerate().find(|(nth, _)| *nth != main).and_then(|(_, copy)| copy.as_ref());
    let mut whole = bytes.to_vec();
    let map = lineage.domain.map_key_of(footer.head.map.epoch)?;
    let index = footer.into_index();
    let key = slot_key(lineage, &index)?;
    let (mut slots, mut mixed) = (Vec::<(Range<usize>, SlotId, SlotKind)>::new(), false);
    for (at, slot) in (0_u32..).zip(&index.slots) {
        let range = slot.range();
        let (Some(expected), Ok(start), Ok(end)) =
            (slot.sealed_as(place, at), usize::try_from(range.start), usize::try_from(range.end))
        else {
            return Ok(None);
        };
        let is_good = |bytes: &[u8]| {
            let found = bytes.get(start..end).map(<[u8]>::to_vec);
            found.is_some_and(|mut slot_bytes| {
                open_slot(&mut slot_bytes, key, expected, slot.kind, &vault.ciphers).is_ok()
            })
        };
        if !is_good(bytes) {
            let Some(other) = other.filter(|other| is_good(other)) else { return Ok(None) };
            whole[start..end].copy_from_slice(&other[start..end]);
            mixed = true;
        }
        slots.push((start..end, expected, slot.kind));
    }
    let object = readmit_pack(whole, place.name, map, key, &slots, &vault.ciphers);
    let name = ObjectName::pack(lineage.id, place);
    object.map(|object| Some((object, mixed))).map_err(|e| VaultError::open(&name, e))
}
