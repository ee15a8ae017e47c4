//! The body of a pack's footer (FORMAT.md section 5).

use std::sync::Arc;

use vmkeep_envelope::{Codec, PackName, SlotId, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, DiskName, LineageId, PointNumber, SessionId};

use super::codec::FormatError;
use super::thinned::{Thinned, Unit};
use crate::map::varint::{Reader, put_varint};

/// Most slots of a pack; the sealing bound and the footer's bound agree.
pub(super) const SLOTS_MAX: u64 = vmkeep_envelope::SLOT_COUNT_MAX as u64;

/// Where a slot comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Born in this pack, under the number of its place.
    BornHere,
    /// Born in a pack that the footer does not name. Version 1 never wrote this.
    MovedUnplaced,
    /// Born in another pack.
    Moved(SlotBirth),
    /// Made of what was left of slots that were born in other packs.
    Thinned(Arc<Thinned>),
}

/// Where a slot was born: what the maps name it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SlotBirth {
    /// The session that wrote the pack.
    pub(crate) session: SessionId,
    pub(crate) id: SlotId,
}

impl Origin {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::BornHere => out.push(0),
            Self::MovedUnplaced => out.push(1),
            Self::Moved(SlotBirth { session, id }) => {
                out.push(2);
                out.extend_from_slice(&session.0);
                out.extend_from_slice(&id.pack.0);
                put_varint(out, u64::from(id.slot));
            }
            Self::Thinned(thinned) => {
                out.push(if thinned.sealed.is_some() { 4 } else { 3 });
                thinned.encode(out);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        match reader.u8("number").map_err(cut)? {
            0 => Ok(Self::BornHere),
            1 => Ok(Self::MovedUnplaced),
            2 => {
                let session = SessionId(reader.array("an id or hash").map_err(cut)?);
                let pack = PackName(reader.array("an id or hash").map_err(cut)?);
                let slot = reader.varint("number").map_err(cut)?;
                let slot = u32::try_from(slot).ok().filter(|&slot| u64::from(slot) < SLOTS_MAX);
                let slot = slot.ok_or_else(|| wrong("the number of a moved slot"))?;
                Ok(Self::Moved(SlotBirth { session, id: SlotId { pack, slot } }))
            }
            moved @ (3 | 4) => Ok(Self::Thinned(Arc::new(Thinned::decode(reader, moved == 4)?))),
            _ => Err(wrong("moved is not 0 to 4")),
        }
    }
}

/// A slot as the footer tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FooterSlot {
    pub(crate) birth: PointNumber,
    pub(crate) origin: Origin,
    /// Header, body and tag.
    pub(crate) len: u64,
    pub(crate) plain_len: u32,
    pub(crate) codec: Codec,
    pub(crate) kind: SlotKind,
    /// Blocks of a block slot, ascending.
    pub(crate) blocks: Vec<(BlockIndex, ContentHash)>,
    /// Patched blocks of a page-patch slot, ascending: block, pages, hash of the patched block.
    pub(crate) patches: Vec<(BlockIndex, u32, ContentHash)>,
}

/// What a pack says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FooterBody {
    pub(crate) lineage: LineageId,
    pub(crate) session: SessionId,
    pub(crate) point: PointNumber,
    /// The disk of a data pack, with its block size.
    pub(crate) disk: Option<(DiskName, BlockSize)>,
    pub(crate) slots: Vec<FooterSlot>,
}

impl FooterBody {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.slots.len() * 96);
        out.extend_from_slice(&self.lineage.0);
        out.extend_from_slice(&self.session.0);
        put_varint(&mut out, self.point.0);
        let (name, log2) = self.disk.as_ref().map_or(("", 0), |(name, size)| (name.as_str(), size.log2()));
        // A disk name has at most 64 bytes.
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(name.as_bytes());
        out.push(log2);
        put_varint(&mut out, self.slots.len() as u64);
        for slot in &self.slots {
            slot.encode(&mut out);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let lineage = LineageId(reader.array("an id or hash").map_err(cut)?);
        let session = SessionId(reader.array("an id or hash").map_err(cut)?);
        let point = PointNumber(reader.varint("number").map_err(cut)?);
        let name_len = reader.u8("number").map_err(cut)?;
        let name = std::str::from_utf8(reader.bytes(usize::from(name_len), "disk name").map_err(cut)?)
            .map_err(|_| wrong("disk name"))?;
        let log2 = reader.u8("number").map_err(cut)?;
        let disk = match (name, log2) {
            ("", 0) => None,
            (name, log2) => {
                let size = 1_u64.checked_shl(u32::from(log2)).unwrap_or(0);
                let block_size = BlockSize::try_from(size).map_err(|_| wrong("block size"))?;
                Some((name.parse().map_err(|_| wrong("disk name"))?, block_size))
            }
        };
        let count = reader.varint("number").map_err(cut)?;
        if count > SLOTS_MAX {
            return Err(wrong("more slots than a pack may have"));
        }
        let mut slots = Vec::new();
        for _ in 0..count {
            slots.push(FooterSlot::decode(&mut reader)?);
        }
        if !reader.is_empty() {
            return Err(wrong("bytes follow the last slot"));
        }
        Ok(Self { lineage, session, point, disk, slots })
    }
}

impl FooterSlot {
    /// Adds it to a footer's body.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.birth.0);
        self.origin.encode(out);
        put_varint(out, self.len);
        put_varint(out, u64::from(self.plain_len));
        out.push(self.codec.number());
        out.push(self.kind.number());
        put_varint(out, (self.blocks.len() + self.patches.len()) as u64);
        let mut before = 0;
        for (block, hash) in &self.blocks {
            put_varint(out, block.0 - before);
            before = block.0;
            out.extend_from_slice(&hash.0);
        }
        for (block, pages, hash) in &self.patches {
            put_varint(out, block.0 - before);
            before = block.0;
            put_varint(out, u64::from(*pages));
            out.extend_from_slice(&hash.0);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let birth = PointNumber(reader.varint("number").map_err(cut)?);
        let origin = Origin::decode(reader)?;
        let len = reader.varint("number").map_err(cut)?;
        let plain_len =
            u32::try_from(reader.varint("number").map_err(cut)?).map_err(|_| wrong("plain length"))?;
        let codec = Codec::try_from(reader.u8("number").map_err(cut)?).map_err(|_| wrong("codec"))?;
        let kind = SlotKind::try_from(reader.u8("number").map_err(cut)?).map_err(|_| wrong("slot kind"))?;
        let entries = reader.varint("number").map_err(cut)?;
        if !matches!(kind, SlotKind::Blocks | SlotKind::Patches) && entries > 0 {
            return Err(wrong("entries in a slot that has none"));
        }
        let (mut blocks, mut patches, mut before) = (Vec::new(), Vec::new(), None::<u64>);
        for _ in 0..entries {
            let step = reader.varint("number").map_err(cut)?;
            let block = before.unwrap_or(0).checked_add(step).ok_or_else(|| wrong("block number"))?;
            if before.is_some() && step == 0 {
                return Err(wrong("blocks out of order"));
            }
            before = Some(block);
            if kind == SlotKind::Blocks {
                blocks.push((BlockIndex(block), ContentHash(reader.array("an id or hash").map_err(cut)?)));
            } else {
                let pages =
                    u32::try_from(reader.varint("number").map_err(cut)?).map_err(|_| wrong("page count"))?;
                patches.push((
                    BlockIndex(block),
                    pages,
                    ContentHash(reader.array("an id or hash").map_err(cut)?),
                ));
            }
        }
        let slot = Self { birth, origin, len, plain_len, codec, kind, blocks, patches };
        slot.check_parts()?;
        Ok(slot)
    }

    /// What each entry tells of; `None` when the slot does not hold exactly that.
    pub(crate) fn units(&self) -> Option<Vec<Unit>> {
        let patches = self.patches.iter().map(|&(_, pages, _)| pages);
        self.origin.units(self.blocks.iter().map(|_| 1).chain(patches))
    }

    /// Whether the parts of a thinned slot are what its entries tell of.
    fn check_parts(&self) -> Result<(), FormatError> {
        let Origin::Thinned(thinned) = &self.origin else { return Ok(()) };
        if !matches!(self.kind, SlotKind::Blocks | SlotKind::Patches) {
            return Err(wrong("a thinned slot that holds no blocks"));
        }
        if thinned.parts.is_empty() || self.birth != thinned.newest() {
            return Err(wrong("the point of a thinned slot is not that of its parts"));
        }
        if self.patches.iter().any(|&(_, pages, _)| pages == 0) || self.units().is_none() {
            return Err(wrong("the parts of a slot do not hold what its entries tell of"));
        }
        Ok(())
    }
}

pub(super) fn wrong(what: &str) -> FormatError {
    FormatError(format!("pack footer: {what}"))
}

pub(super) fn cut<E>(_: E) -> FormatError {
    wrong("cut short")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::thinned::Part;
    use super::*;

    fn origin() -> impl Strategy<Value = Origin> {
        let moved = (any::<[u8; 16]>(), any::<[u8; 16]>(), 0..SLOTS_MAX).prop_map(|(session, pack, slot)| {
            let id = SlotId { pack: PackName(pack), slot: u32::try_from(slot).unwrap() };
            Origin::Moved(SlotBirth { session: SessionId(session), id })
        });
        prop_oneof![Just(Origin::BornHere), Just(Origin::MovedUnplaced), moved]
    }

    fn slot() -> impl Strategy<Value = FooterSlot> {
        let entries = prop::collection::btree_map(any::<u32>(), any::<[u8; 16]>(), 0..9);
        (0_u64..100, origin(), any::<u32>(), any::<u32>(), 0..4_u8, entries).prop_map(
            |(birth, origin, len, plain_len, kind, entries)| {
                let kind = [SlotKind::Blocks, SlotKind::Patches, SlotKind::Nodes, SlotKind::ChangeList]
                    [usize::from(kind)];
                let of =
                    |want| if kind == want { entries.clone() } else { std::collections::BTreeMap::new() };
                FooterSlot {
                    birth: PointNumber(birth),
                    origin,
                    len: u64::from(len),
                    plain_len,
                    codec: if birth % 2 == 0 { Codec::Zstd } else { Codec::Stored },
                    kind,
                    blocks: of(SlotKind::Blocks)
                        .into_iter()
                        .map(|(b, h)| (BlockIndex(b.into()), ContentHash(h)))
                        .collect(),
                    patches: of(SlotKind::Patches)
                        .into_iter()
                        .map(|(b, h)| (BlockIndex(b.into()), b % 17, ContentHash(h)))
                        .collect(),
                }
            },
        )
    }

    /// A slot with entries, as what is left of others: for each entry whether it begins a part, and how many units before
    /// it were dropped.
    fn thinned(of: FooterSlot, cuts: &[(bool, u32)], sealed: Option<u32>) -> FooterSlot {
        let mut slot = of;
        slot.patches.iter_mut().for_each(|patch| patch.1 += 1);
        let lens = slot.blocks.iter().map(|_| 1).chain(slot.patches.iter().map(|patch| patch.1));
        let (mut parts, mut next) = (Vec::<Part>::new(), 0);
        for (len, (begins, gap)) in lens.zip(cuts.iter().cycle()) {
            if *begins || parts.is_empty() {
                let number = u32::try_from(parts.len()).unwrap();
                let id = SlotId { pack: PackName([7; 16]), slot: number * 9 };
                let birth = SlotBirth { session: SessionId([9; 16]), id };
                parts.push(Part::new(birth, PointNumber(u64::from(*gap))));
                next = 0;
            }
            parts.last_mut().unwrap().keep(next + gap, len);
            next += gap + len;
        }
        let sealed = sealed.map(|slot| SlotId { pack: PackName([8; 16]), slot: slot % 65_536 });
        if !parts.is_empty() {
            let thinned = Thinned { sealed, parts };
            slot.birth = thinned.newest();
            slot.origin = Origin::Thinned(Arc::new(thinned));
        }
        slot
    }

    fn any_slot() -> impl Strategy<Value = FooterSlot> {
        let cuts = prop::collection::vec((any::<bool>(), 0..5_u32), 1..9);
        prop_oneof![
            slot(),
            (slot(), cuts, any::<Option<u32>>()).prop_map(|(of, cuts, sealed)| thinned(of, &cuts, sealed))
        ]
    }

    /// A slot of three blocks, as parts of two slots: blocks 1 and 5 of one, block 0 of another.
    fn of_parts() -> FooterSlot {
        let hash = ContentHash([1; 16]);
        let slot = FooterSlot {
            birth: PointNumber(1),
            origin: Origin::BornHere,
            len: 9,
            plain_len: 9,
            codec: Codec::Stored,
            kind: SlotKind::Blocks,
            blocks: [3, 6, 9].map(|block| (BlockIndex(block), hash)).to_vec(),
            patches: Vec::new(),
        };
        thinned(slot, &[(true, 1), (false, 3), (true, 0)], None)
    }

    #[test]
    fn parts_that_contradict_the_entries_are_refused() {
        let refused = |what: &str, change: &dyn Fn(&mut FooterSlot, &mut Thinned)| {
            let mut slot = of_parts();
            let Origin::Thinned(thinned) = slot.origin.clone() else { unreachable!() };
            let mut thinned = (*thinned).clone();
            change(&mut slot, &mut thinned);
            slot.origin = Origin::Thinned(Arc::new(thinned));
            let mut bytes = Vec::new();
            slot.encode(&mut bytes);
            let decoded = FooterSlot::decode(&mut Reader::new(&bytes));
            assert_eq!(decoded.is_err(), what != "nothing", "{what}: {decoded:?}");
        };
        refused("nothing", &|_, _| {});
        refused("no parts", &|_, thinned| thinned.parts.clear());
        refused("a part too few", &|_, thinned| drop(thinned.parts.pop()));
        refused("a part twice", &|_, thinned| thinned.parts[1].birth = thinned.parts[0].birth);
        refused("a range too few", &|_, thinned| thinned.parts[0].kept.truncate(1));
        refused("a longer range", &|_, thinned| thinned.parts[1].kept[0].len = 2);
        refused("an empty range", &|_, thinned| thinned.parts[0].kept[1].len = 0);
        refused("ranges that touch", &|_, thinned| thinned.parts[0].kept[1].start = 2);
        refused("past the end of a slot", &|_, thinned| thinned.parts[0].kept[1].start = 1024);
        refused("another point", &|slot, _| slot.birth = PointNumber(2));
        refused("an entry more", &|slot, _| slot.blocks.push((BlockIndex(10), ContentHash([1; 16]))));
        refused("another kind", &|slot, _| (slot.kind, slot.blocks) = (SlotKind::Nodes, Vec::new()));
        refused("no entries", &|slot, _| slot.blocks.clear());
        refused("a slot number that no pack has", &|_, thinned| thinned.parts[0].birth.id.slot = 65_536);
        let parts = |count| {
            move |_: &mut FooterSlot, thinned: &mut Thinned| {
                let part = thinned.parts[0].clone();
                thinned.parts = (0..count)
                    .map(|slot| {
                        let mut part = part.clone();
                        part.birth.id.slot = slot;
                        part
                    })
                    .collect();
            }
        };
        refused("more parts than a slot has pages", &parts(1025));
    }

    #[test]
    fn a_patch_is_never_told_in_two_ranges() {
        let mut slot = of_parts();
        (slot.kind, slot.blocks) = (SlotKind::Patches, Vec::new());
        let hash = ContentHash([1; 16]);
        let Origin::Thinned(parts) = &slot.origin else { unreachable!() };
        assert_eq!(parts.parts[0].kept.len(), 2);
        for (patches, sound) in
            [([1, 1, 1].as_slice(), true), (&[2, 1], false), (&[1, 2], false), (&[1, 0, 1, 1], false)]
        {
            slot.patches = (0..).zip(patches).map(|(n, &pages)| (BlockIndex(n), pages, hash)).collect();
            let mut bytes = Vec::new();
            slot.encode(&mut bytes);
            assert_eq!(FooterSlot::decode(&mut Reader::new(&bytes)).is_ok(), sound, "{patches:?}");
        }
    }

    #[test]
    fn units_are_found_where_the_parts_say() {
        let Origin::Thinned(thinned) = of_parts().origin else { unreachable!() };
        let [first, second] = [0, 1].map(|part| thinned.parts[part].birth);
        let find = |birth, index| thinned.find(birth, index, 1);
        assert_eq!(
            [0, 1, 2, 4, 5, 6].map(|index| find(&first, index)),
            [None, Some(0), None, None, Some(1), None]
        );
        assert_eq!([0, 1].map(|index| find(&second, index)), [Some(2), None]);
        assert_eq!((thinned.find(&first, 1, 2), thinned.find(&first, u32::MAX, 2)), (None, None));
        let other = SlotBirth { session: SessionId([1; 16]), ..first };
        assert_eq!(find(&other, 1), None);
    }

    proptest! {
        #[test]
        fn decodes_to_what_was_encoded(slots in prop::collection::vec(any_slot(), 0..12), data in any::<bool>()) {
            let footer = FooterBody {
                lineage: LineageId([1; 16]), session: SessionId([2; 16]), point: PointNumber(300),
                disk: data.then(|| ("os".parse().unwrap(), BlockSize::default())), slots,
            };
            let bytes = footer.encode();
            prop_assert_eq!(FooterBody::decode(&bytes).unwrap(), footer);
            for cut in 0..bytes.len() {
                prop_assert!(FooterBody::decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn a_slot_number_that_no_pack_has_is_refused(slot in SLOTS_MAX..=u64::from(u32::MAX)) {
            let mut bytes = vec![2; 33];
            put_varint(&mut bytes, slot);
            prop_assert!(Origin::decode(&mut Reader::new(&bytes)).is_err());
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            FooterBody::decode(&bytes).ok();
        }
    }
}
