//! The body of a pack's footer (FORMAT.md section 5).

use vmkeep_envelope::{Codec, SlotKind};
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, DiskName, LineageId, PointNumber, SessionId};

use super::codec::FormatError;
use crate::map::varint::{Reader, put_varint};

/// Most slots of a pack; the sealing bound and the footer's bound agree.
const SLOTS_MAX: u64 = vmkeep_envelope::SLOT_COUNT_MAX as u64;

/// A slot as the footer tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FooterSlot {
    pub(crate) birth: PointNumber,
    pub(crate) moved: bool,
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
            put_varint(&mut out, slot.birth.0);
            out.push(u8::from(slot.moved));
            put_varint(&mut out, slot.len);
            put_varint(&mut out, u64::from(slot.plain_len));
            out.push(slot.codec.number());
            out.push(slot.kind.number());
            put_varint(&mut out, (slot.blocks.len() + slot.patches.len()) as u64);
            let mut before = 0;
            for (block, hash) in &slot.blocks {
                put_varint(&mut out, block.0 - before);
                before = block.0;
                out.extend_from_slice(&hash.0);
            }
            for (block, pages, hash) in &slot.patches {
                put_varint(&mut out, block.0 - before);
                before = block.0;
                put_varint(&mut out, u64::from(*pages));
                out.extend_from_slice(&hash.0);
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let wrong = |what: &str| FormatError(format!("pack footer: {what}"));
        let mut reader = Reader::new(bytes);
        let cut = |_| wrong("cut short");
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
            slots.push(Self::decode_slot(&mut reader)?);
        }
        if !reader.is_empty() {
            return Err(wrong("bytes follow the last slot"));
        }
        Ok(Self { lineage, session, point, disk, slots })
    }

    fn decode_slot(reader: &mut Reader<'_>) -> Result<FooterSlot, FormatError> {
        let wrong = |what: &str| FormatError(format!("pack footer: {what}"));
        let cut = |_| wrong("cut short");
        let birth = PointNumber(reader.varint("number").map_err(cut)?);
        let moved = match reader.u8("number").map_err(cut)? {
            0 => false,
            1 => true,
            _ => return Err(wrong("moved is neither 0 nor 1")),
        };
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
        Ok(FooterSlot { birth, moved, len, plain_len, codec, kind, blocks, patches })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot() -> impl Strategy<Value = FooterSlot> {
        let entries = prop::collection::btree_map(any::<u32>(), any::<[u8; 16]>(), 0..9);
        (0_u64..100, any::<bool>(), any::<u32>(), any::<u32>(), 0..4_u8, entries).prop_map(
            |(birth, moved, len, plain_len, kind, entries)| {
                let kind = [SlotKind::Blocks, SlotKind::Patches, SlotKind::Nodes, SlotKind::ChangeList]
                    [usize::from(kind)];
                let of =
                    |want| if kind == want { entries.clone() } else { std::collections::BTreeMap::new() };
                FooterSlot {
                    birth: PointNumber(birth),
                    moved,
                    len: u64::from(len),
                    plain_len,
                    codec: if moved { Codec::Zstd } else { Codec::Stored },
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

    proptest! {
        #[test]
        fn decodes_to_what_was_encoded(slots in prop::collection::vec(slot(), 0..12), data in any::<bool>()) {
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
        fn arbitrary_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            FooterBody::decode(&bytes).ok();
        }
    }
}
