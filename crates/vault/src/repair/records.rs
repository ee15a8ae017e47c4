//! Records that follow from others: the hint where a line of points stands, and a point's own record, of which a copy lies in a
//! metadata pack.

use std::collections::BTreeSet;

use vmkeep_envelope::{SealedObject, SlotKind};
use vmkeep_model::PointNumber;

use crate::error::VaultError;
use crate::format::{HeadBody, PlaceBody, PointBody, RecordKind, SlotBirth};
use crate::journal::{self, JournalEntry};
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::place::PackPlace;
use crate::records;
use crate::vault::Inner;

/// A record that can be written again.
#[derive(Debug)]
pub(super) struct MendRecord {
    pub(super) name: ObjectName,
    /// Where what it says comes from, in words.
    pub(super) from: String,
    object: SealedObject,
    pub(super) is_there: bool,
}

impl MendRecord {
    pub(super) fn apply(&self, vault: &Inner) -> Result<(), VaultError> {
        if self.is_there {
            vault.objects.overwrite(&self.name, &self.object)
        } else {
            vault.objects.create(&self.name, &self.object).map(drop)
        }
    }

    /// The hint of a lineage, when it is damaged. A missing one is no damage: it is written with the next point.
    pub(super) fn hint(vault: &Inner, lineage: &Lineage) -> Result<Option<Self>, VaultError> {
        let name = ObjectName::Head(lineage.id);
        let Some(bytes) = vault.objects.read(&name)? else { return Ok(None) };
        match records::open::<HeadBody>(&name, &bytes, &vault.record) {
            Err(e) if e.is_damage() => {}
            Err(e) if !e.is_of_one_object() => return Err(e),
            _ => return Ok(None),
        }
        let head = lineage.head(vault)?;
        // What is damaged tells at least that something is missing: it stays while a newer point may have been there.
        if head.unreadable.is_some() || !copies_of(vault, lineage, head.top + 1)?.is_empty() {
            return Ok(None);
        }
        let newest = head.newest.as_ref().map_or(0, |point| point.head.number);
        let body = HeadBody { newest, retired: head.retired.map_or(0, |retired| retired.k) };
        let context = vault.sealer.context(&*vault.ports.entropy);
        let object = records::seal(&name, &body, &vault.record, &context)?;
        let from = "the points that are there".to_owned();
        Ok(Some(Self { name, from, object, is_there: true }))
    }

    /// The record of point `number`, which is damaged or missing, from the copy that its session stored.
    ///
    /// It must be known that a point stood there, and not the end of a session: a point that was made against it says so, or the
    /// hint does. And there must be one copy for that number alone.
    pub(super) fn point(
        vault: &Inner,
        lineage: &Lineage,
        number: u64,
        is_a_base: bool,
    ) -> Result<Option<Self>, VaultError> {
        let name = ObjectName::Point(lineage.id, PointNumber(number));
        let is_there = match vault.objects.read(&name)? {
            None => false,
            Some(bytes) => match lineage.decode_at(vault, &name, number, &bytes) {
                Err(e) if e.is_damage() => true,
                _ => return Ok(None),
            },
        };
        if lineage.retired(vault)?.is_some_and(|retired| retired.holds(number)) {
            return Ok(None);
        }
        if !is_a_base && !is_newest(vault, lineage, number)? {
            return Ok(None);
        }
        let mut copies = copies_of(vault, lineage, number)?;
        let Some((mut body, place, slot)) = copies.pop().filter(|_| copies.is_empty()) else {
            return Ok(None);
        };
        let pack = ObjectName::pack(lineage.id, &place);
        body.copy = Some((PlaceBody::of(&place), slot));
        let plain = body.encode().map_err(|e| VaultError::malformed(&name, e))?;
        let context = vault.sealer.context(&*vault.ports.entropy);
        let key = lineage.domain.map_key()?;
        let object = records::seal_bytes(&name, RecordKind::Point, &plain, key, &context)?;
        Ok(Some(Self { name, from: format!("its copy in {pack}"), object, is_there }))
    }
}

/// Whether the hint says that the newest point has this number, and the journal does not say that the line ends there.
fn is_newest(vault: &Inner, lineage: &Lineage, number: u64) -> Result<bool, VaultError> {
    let name = ObjectName::Head(lineage.id);
    let Some(bytes) = vault.objects.read(&name)? else { return Ok(false) };
    let hint = match records::open::<HeadBody>(&name, &bytes, &vault.record) {
        Ok(hint) => hint,
        Err(e) if e.is_of_one_object() => return Ok(false),
        Err(e) => return Err(e),
    };
    let entries = match journal::read(vault, lineage.id.0) {
        Ok(entries) => entries,
        Err(e) if e.is_of_one_object() => return Ok(false),
        Err(e) => return Err(e),
    };
    let ends = |entry: &JournalEntry| {
        matches!(entry, JournalEntry::Closed { .. } | JournalEntry::Unknown { .. })
            || matches!(entry, JournalEntry::Voided { number: ended, .. } if *ended == number)
    };
    Ok(hint.newest == number && !entries.iter().any(|record| ends(&record.entry)))
}

/// The copies that sessions stored of a point of that number, each with where it lies.
fn copies_of(
    vault: &Inner,
    lineage: &Lineage,
    number: u64,
) -> Result<Vec<(PointBody, PackPlace, u32)>, VaultError> {
    let (mut found, mut looked) = (Vec::<(PointBody, PackPlace, u32)>::new(), BTreeSet::new());
    for (path, _) in vault.objects.list(&format!("packs/{}", lineage.id))? {
        let Some(ObjectName::Pack(_, session, pack) | ObjectName::PackCopy(_, session, pack)) =
            ObjectName::parse(&path)
        else {
            continue;
        };
        let pack = PackPlace { lineage: None, session, name: pack };
        if !looked.insert(pack) {
            continue;
        }
        let footer = match vault.read_footer_of(lineage, &pack) {
            Ok(footer) => footer,
            Err(e) if e.is_of_one_object() => continue,
            Err(e) => return Err(e),
        };
        for (at, slot) in (0_u32..).zip(&footer.body.slots) {
            let birth = slot.origin.births(&pack, at).next();
            let Some(SlotBirth { session, id }) =
                birth.filter(|_| slot.kind == SlotKind::PointCopy && slot.birth.0 == number)
            else {
                continue;
            };
            let place = PackPlace { lineage: None, session, name: id.pack };
            let plain = match vault.metadata_slot(lineage, &place, id.slot, SlotKind::PointCopy) {
                Ok(plain) => plain,
                Err(e) if e.is_of_one_object() => continue,
                Err(e) => return Err(e),
            };
            let Ok(body) = PointBody::decode(&plain) else { continue };
            let told = (body.head.lineage, body.head.number, body.head.session);
            let is_it = told == (lineage.id.0, number, session.0) && body.vm == lineage.vm.as_str();
            if is_it && !found.iter().any(|(known, ..)| known.head.session == session.0) {
                found.push((body, place, id.slot));
            }
        }
    }
    Ok(found)
}
