//! What a thinned slot stands for: which units of which slots (FORMAT.md section 5).
//!
//! A unit is what the index of a reference counts: a block in a slot of blocks, a page in a slot of page patches. Maps
//! go on naming a unit by the slot it was born in and its index there; a thinned slot says which of them it holds.

use std::collections::BTreeSet;

use vmkeep_envelope::{PackName, SLOT_PLAIN_MAX, SlotId};
use vmkeep_model::{PAGE_SIZE, PointNumber, SessionId};

use super::codec::FormatError;
use super::footer::{Origin, SLOTS_MAX, SlotBirth, cut, wrong};
use crate::map::varint::{Reader, put_varint};

/// Most units of a slot: its pages, when it is as long as a slot may be.
pub(crate) const UNITS_MAX: u32 = {
    assert!(SLOT_PLAIN_MAX / PAGE_SIZE <= 1 << 16);
    #[allow(clippy::cast_possible_truncation)] // just asserted
    let units = (SLOT_PLAIN_MAX / PAGE_SIZE) as u32;
    units
};

/// What is left of other slots, sealed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thinned {
    /// As what it was sealed; `None`: as the slot of its place in the pack it lies in.
    pub(crate) sealed: Option<SlotId>,
    /// Whose units it holds, in the order in which they lie. No slot is named twice.
    pub(crate) parts: Vec<Part>,
}

/// What is left of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) birth: SlotBirth,
    /// The point that slot was made for.
    pub(crate) point: PointNumber,
    /// The units that are left, as indices in that slot: ascending, apart from one another.
    pub(crate) kept: Vec<Kept>,
}

/// A run of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// A block, or the pages of one patched block: what one entry of a footer tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// Which part of the slot it is in.
    pub(crate) part: usize,
    /// Its index in the slot it was born in: what a reference names.
    pub(crate) born: u32,
    /// Its index in the slot where it lies.
    pub(crate) at: u32,
    /// How many it counts for: 1, or the number of pages.
    pub(crate) len: u32,
}

impl Part {
    pub(crate) fn new(birth: SlotBirth, point: PointNumber) -> Self {
        Self { birth, point, kept: Vec::new() }
    }

    /// Adds units that follow those that are there.
    pub(crate) fn keep(&mut self, start: u32, len: u32) {
        match self.kept.last_mut() {
            Some(last) if last.start + last.len == start => last.len += len,
            _ => self.kept.push(Kept { start, len }),
        }
    }

    /// Where in the part `len` units lie that were born at `index`; `None` when they were not kept, or not all.
    fn find(&self, index: u32, len: u32) -> Option<u32> {
        let mut before = 0;
        for kept in &self.kept {
            if kept.start <= index && index.checked_add(len)? <= kept.start + kept.len {
                return Some(before + (index - kept.start));
            }
            before += kept.len;
        }
        None
    }

    fn units(&self) -> u32 {
        self.kept.iter().map(|kept| kept.len).sum()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.point.0);
        out.extend_from_slice(&self.birth.session.0);
        out.extend_from_slice(&self.birth.id.pack.0);
        put_varint(out, u64::from(self.birth.id.slot));
        put_varint(out, self.kept.len() as u64);
        let mut end = 0;
        for Kept { start, len } in &self.kept {
            put_varint(out, u64::from(start - end));
            put_varint(out, u64::from(*len));
            end = start + len;
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let point = PointNumber(reader.varint("number").map_err(cut)?);
        let session = SessionId(reader.array("an id or hash").map_err(cut)?);
        let id = slot_id(reader)?;
        let mut part = Self::new(SlotBirth { session, id }, point);
        let count = small(reader, "the ranges of a part")?;
        let mut end = 0;
        for nth in 0..count {
            let gap = small(reader, "the range of a part")?;
            let len = small(reader, "the range of a part")?;
            // What touches is one range: a part is told in one way.
            if len == 0 || nth > 0 && gap == 0 || end + gap + len > UNITS_MAX {
                return Err(wrong("the ranges of a part are empty, out of order or too long"));
            }
            part.kept.push(Kept { start: end + gap, len });
            end += gap + len;
        }
        if part.kept.is_empty() {
            return Err(wrong("a part of which nothing is kept"));
        }
        Ok(part)
    }
}

impl Thinned {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(SlotId { pack, slot }) = self.sealed {
            out.extend_from_slice(&pack.0);
            put_varint(out, u64::from(slot));
        }
        put_varint(out, self.parts.len() as u64);
        self.parts.iter().for_each(|part| part.encode(out));
    }

    pub(super) fn decode(reader: &mut Reader<'_>, moved: bool) -> Result<Self, FormatError> {
        let sealed = if moved { Some(slot_id(reader)?) } else { None };
        let count = small(reader, "the parts of a slot")?;
        let (mut parts, mut births) = (Vec::new(), BTreeSet::new());
        for _ in 0..count {
            let part = Part::decode(reader)?;
            if !births.insert(part.birth) {
                return Err(wrong("two parts of one slot"));
            }
            parts.push(part);
        }
        Ok(Self { sealed, parts })
    }

    /// The newest point that any part was made for.
    pub(crate) fn newest(&self) -> PointNumber {
        self.parts.iter().map(|part| part.point).max().unwrap_or(PointNumber(0))
    }

    /// Where in the slot `len` units lie that were born at `index` of `birth`; `None` when they are not in it.
    pub(crate) fn find(&self, birth: &SlotBirth, index: u32, len: u32) -> Option<u32> {
        let part = self.parts.iter().position(|part| part.birth == *birth)?;
        let before: u32 = self.parts[..part].iter().map(Part::units).sum();
        Some(before + self.parts[part].find(index, len)?)
    }

    /// What each entry tells of, by how many units each has; `None` when the parts do not hold exactly that.
    fn units(&self, lens: impl Iterator<Item = u32>) -> Option<Vec<Unit>> {
        let mut runs = (0..).zip(&self.parts).flat_map(|(part, told): (usize, _)| {
            told.kept.iter().map(move |kept| (part, kept.start, kept.len))
        });
        let (mut units, mut at, mut open) = (Vec::new(), 0, None::<(usize, u32, u32)>);
        for len in lens {
            let (part, born, left) = match open.take() {
                Some(open) => open,
                None => runs.next()?,
            };
            let rest = left.checked_sub(len)?;
            units.push(Unit { part, born, at, len });
            at += len;
            open = (rest > 0).then_some((part, born + len, rest));
        }
        (open.is_none() && runs.next().is_none()).then_some(units)
    }
}

impl Origin {
    /// What each entry of a slot tells of, by how many units each has: 1 for a block, its pages for a patched block.
    /// `None` when the slot does not hold exactly that.
    pub(crate) fn units(&self, lens: impl Iterator<Item = u32>) -> Option<Vec<Unit>> {
        if let Self::Thinned(thinned) = self {
            return thinned.units(lens);
        }
        let mut at = 0_u32;
        let mut unit = |len| {
            let born = at;
            at = at.checked_add(len)?;
            Some(Unit { part: 0, born, at: born, len })
        };
        lens.map(&mut unit).collect()
    }

    /// The points that what is in a slot was made for, by part, when the slot itself was made for `point`.
    pub(crate) fn points(&self, point: PointNumber) -> Vec<PointNumber> {
        match self {
            Self::Thinned(thinned) => thinned.parts.iter().map(|part| part.point).collect(),
            _ => vec![point],
        }
    }
}

fn slot_id(reader: &mut Reader<'_>) -> Result<SlotId, FormatError> {
    let pack = PackName(reader.array("an id or hash").map_err(cut)?);
    let slot = reader.varint("number").map_err(cut)?;
    let slot = u32::try_from(slot).ok().filter(|&slot| u64::from(slot) < SLOTS_MAX);
    Ok(SlotId { pack, slot: slot.ok_or_else(|| wrong("the number of a moved slot"))? })
}

/// A number that nothing counted by units passes.
fn small(reader: &mut Reader<'_>, what: &'static str) -> Result<u32, FormatError> {
    let number = u32::try_from(reader.varint("number").map_err(cut)?).ok();
    number.filter(|&number| number <= UNITS_MAX).ok_or_else(|| wrong(what))
}
