//! Finding a slot again: footer, ranged read, open, unpack. The one read path.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use vmkeep_envelope::{
    BranchKey, OpenError, PACK_HEADER_LEN, PackContent, PackHead, SlotId, SlotKind, TRAILER_LEN, Trailer,
    open_footer, open_slot,
};

use super::index::{PackIndex, SlotPlace};
use super::moved::{SlotAt, Whereabouts};
use crate::error::VaultError;
use crate::format::{FooterBody, FooterSlot, FormatError};
use crate::frame::FrameDecoder;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::map::varint::Reader;
use crate::map::{BoxError, NodeSource};
use crate::place::{PackPlace, StorageId};
use crate::store::ResultExt;
use crate::vault::Inner;

/// How much of a pack's end is read at first: more than the footer of a full data pack at the default geometry,
/// and a small pack as a whole.
const TAIL_LEN: u64 = 64 << 10;

/// Largest footer, in bytes: a pack of 64 MiB whose blocks all compress to nothing stays below it.
const FOOTER_MAX: u64 = 64 << 20;

/// A slot of map nodes, unpacked.
#[derive(Debug)]
pub(crate) struct NodeSlot {
    plain: Bytes,
    nodes: Vec<Range<usize>>,
}

impl NodeSlot {
    /// Cuts an unpacked slot into its nodes: count, lengths, nodes.
    pub(crate) fn parse(plain: Bytes) -> Result<Self, FormatError> {
        let wrong = |_| FormatError("the lengths in a slot of map nodes do not fit it".to_owned());
        let mut reader = Reader::new(&plain);
        let count = reader.varint("node count").map_err(wrong)?;
        let mut lens = Vec::new();
        for _ in 0..count {
            lens.push(reader.varint("node length").map_err(wrong)?);
        }
        let mut at = plain.len() - reader.remaining();
        let mut nodes = Vec::with_capacity(lens.len());
        for len in lens {
            let len = usize::try_from(len).ok().filter(|&len| len <= plain.len() - at);
            let len = len.ok_or_else(|| FormatError("a map node is cut short".to_owned()))?;
            nodes.push(at..at + len);
            at += len;
        }
        if at != plain.len() {
            return Err(FormatError("bytes follow the last map node of a slot".to_owned()));
        }
        Ok(Self { plain, nodes })
    }

    pub(crate) fn weight(&self) -> usize {
        self.plain.len() + self.nodes.len() * 16 + 64
    }

    /// The encoded nodes, in order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &[u8]> {
        self.nodes.iter().map(|range| &self.plain[range.clone()])
    }

    pub(crate) fn node(&self, index: u32) -> Option<Bytes> {
        let range = self.nodes.get(usize::try_from(index).ok()?)?;
        Some(self.plain.slice(range.clone()))
    }
}

impl Inner {
    /// What the pack at `place` holds and where. A metadata pack whose first copy is gone or damaged is read from its
    /// second.
    pub(crate) fn pack_index(
        &self,
        lineage: &Lineage,
        place: &PackPlace,
    ) -> Result<Arc<PackIndex>, VaultError> {
        let key = (lineage.id, *place);
        if let Some(Whereabouts::InBirthPack(index)) = self.indexes.get(&key).as_deref() {
            return Ok(Arc::clone(index));
        }
        let index = Arc::new(self.read_footer_of(lineage, place)?.into_index());
        if let (PackContent::Metadata, Some(whole)) = (index.content, &index.whole) {
            self.objects.keep(&ObjectName::pack(lineage.id, place), whole);
        }
        self.indexes.put(key, Arc::new(Whereabouts::InBirthPack(Arc::clone(&index))), index.weight());
        Ok(index)
    }

    /// The footer of the pack at `place`, from whichever copy is good.
    pub(crate) fn read_footer_of(
        &self,
        lineage: &Lineage,
        place: &PackPlace,
    ) -> Result<PackFooter, VaultError> {
        let first = ObjectName::pack(lineage.id, place);
        let mut footer = self.read_footer(lineage, place, &first);
        if matches!(&footer, Err(e) if e.is_of_one_object()) && self.objects.drop_kept(&first) {
            footer = self.read_footer(lineage, place, &first);
        }
        match footer {
            Err(e) if e.is_of_one_object() => match self.read_footer(lineage, place, &second_copy(&first)) {
                Ok(footer) if footer.head.content == PackContent::Metadata => Ok(footer),
                _ => Err(e),
            },
            footer => footer,
        }
    }

    /// As [`read_footer`](Self::read_footer), for what a reader needs of it.
    pub(crate) fn read_index(
        &self,
        lineage: &Lineage,
        place: &PackPlace,
        name: &ObjectName,
    ) -> Result<PackIndex, VaultError> {
        self.read_footer(lineage, place, name).map(PackFooter::into_index)
    }

    /// Reads and checks the header, footer and trailer of the pack stored under `name`.
    pub(crate) fn read_footer(
        &self,
        lineage: &Lineage,
        place: &PackPlace,
        name: &ObjectName,
    ) -> Result<PackFooter, VaultError> {
        let damaged = |e: OpenError| VaultError::open(name, e);
        let (tail, size) = self.objects.read_tail(name, TAIL_LEN).or_missing(name)?;
        let frame = (PACK_HEADER_LEN + TRAILER_LEN) as u64;
        let trailer = tail.last_chunk::<TRAILER_LEN>().ok_or_else(|| damaged(truncated(size)))?;
        let parsed = Trailer::parse(trailer).map_err(damaged)?;
        let footer_len = u64::from(parsed.footer_len);
        if footer_len > FOOTER_MAX || footer_len + frame > size {
            return Err(damaged(truncated(size)));
        }
        let slots_end = size - TRAILER_LEN as u64 - footer_len;
        let header = match tail.first_chunk::<PACK_HEADER_LEN>().filter(|_| tail.len() as u64 == size) {
            Some(header) => *header,
            None => {
                let head = self.objects.read_range(name, 0..PACK_HEADER_LEN as u64).or_missing(name)?;
                *head.first_chunk::<PACK_HEADER_LEN>().ok_or_else(|| damaged(truncated(size)))?
            }
        };
        let footer_range = slots_end..size - TRAILER_LEN as u64;
        let in_tail =
            footer_range.start.checked_sub(size - tail.len() as u64).and_then(|at| usize::try_from(at).ok());
        let footer = match in_tail {
            Some(at) => tail[at..tail.len() - TRAILER_LEN].to_vec(),
            None => self.objects.read_range(name, footer_range).or_missing(name)?.to_vec(),
        };
        let mut footer = checked_footer(lineage, place, name, (header, footer, *trailer), size)?;
        footer.whole = (tail.len() as u64 == size).then_some(tail);
        Ok(footer)
    }

    /// Reads the bytes of one or more neighbouring slots of `name`.
    pub(crate) fn read_slots(
        &self,
        name: &ObjectName,
        index: &PackIndex,
        range: Range<u64>,
    ) -> Result<Vec<u8>, VaultError> {
        let expected = range.end - range.start;
        let bytes = match &index.whole {
            Some(whole) => usize::try_from(range.start)
                .ok()
                .zip(usize::try_from(range.end).ok())
                .and_then(|(start, end)| whole.get(start..end))
                .map(<[u8]>::to_vec)
                .unwrap_or_default(),
            None => self.objects.read_range(name, range).or_missing(name)?.to_vec(),
        };
        if bytes.len() as u64 == expected {
            Ok(bytes)
        } else {
            Err(VaultError::open(name, OpenError::Truncated { needed: expected, found: bytes.len() as u64 }))
        }
    }

    /// The plain bytes of one metadata slot, wherever it lies and from whichever copy is good.
    pub(crate) fn metadata_slot(
        &self,
        lineage: &Lineage,
        birth: &PackPlace,
        slot: u32,
        kind: SlotKind,
    ) -> Result<Bytes, VaultError> {
        self.at_slot(lineage, birth, slot, |SlotAt { pack, name, index, at, .. }| {
            let mut plain = self.plain_slot(lineage, pack, index, name, *at, kind);
            if matches!(&plain, Err(e) if e.is_of_one_object()) && self.objects.drop_kept(name) {
                plain = self.plain_slot(lineage, pack, &index.without_bytes(), name, *at, kind);
            }
            match plain {
                Err(e) if e.is_of_one_object() => {
                    let (stored, copy) = (index.without_bytes(), second_copy(name));
                    self.plain_slot(lineage, pack, &stored, &copy, *at, kind).map_err(|_| e)
                }
                done => done,
            }
        })
    }

    /// The plain bytes of the slot at place `at` of the pack `place` that lies under `name`.
    pub(crate) fn plain_slot(
        &self,
        lineage: &Lineage,
        place: &PackPlace,
        index: &PackIndex,
        name: &ObjectName,
        at: u32,
        kind: SlotKind,
    ) -> Result<Bytes, VaultError> {
        let placed = slot_of(index, name, at)?;
        let mut bytes = self.read_slots(name, index, placed.range())?;
        let key = slot_key(lineage, index)?;
        let expected = sealed_as(placed, place, name, at)?;
        let opened = open_slot(&mut bytes, key, expected, kind, &self.ciphers)
            .map_err(|e| VaultError::open(name, e))?;
        let mut decoder = FrameDecoder::new().map_err(|e| frame_error(name, &e))?;
        let plain =
            decoder.unpack(opened.codec, opened.plain_len, opened.body).map_err(|e| frame_error(name, &e))?;
        Ok(Bytes::copy_from_slice(plain))
    }
}

/// Checks header, footer and trailer of a pack of `size` bytes that lies, or could lie, under `name`.
pub(crate) fn checked_footer(
    lineage: &Lineage,
    place: &PackPlace,
    name: &ObjectName,
    (header, mut footer, trailer): ([u8; PACK_HEADER_LEN], Vec<u8>, [u8; TRAILER_LEN]),
    size: u64,
) -> Result<PackFooter, VaultError> {
    let damaged = |e: OpenError| VaultError::open(name, e);
    let parsed = Trailer::parse(&trailer).map_err(damaged)?;
    let slots_end = size - TRAILER_LEN as u64 - u64::from(parsed.footer_len);
    let head = PackHead::parse(&header).map_err(damaged)?;
    if head.slots.domain != lineage.domain.id {
        return Err(misplaced(name));
    }
    let key = lineage.domain.map_key_claimed(name, head.map)?;
    let body = open_footer(&mut footer, &header, &trailer, key, place.name).map_err(damaged)?;
    let body = FooterBody::decode(&body).map_err(|e| VaultError::malformed(name, e))?;
    let owner = place.lineage.unwrap_or(lineage.id);
    if body.lineage != owner || body.session != place.session {
        return Err(misplaced(name));
    }
    let end = body.slots.iter().fold(PACK_HEADER_LEN as u64, |offset, slot| offset.saturating_add(slot.len));
    if end != slots_end || body.slots.len() as u64 != u64::from(parsed.slot_count) {
        let what = FormatError("the footer does not account for every byte of the pack".to_owned());
        return Err(VaultError::malformed(name, what));
    }
    Ok(PackFooter { head, body, size, whole: None })
}

/// The key that seals the slots of a pack.
pub(crate) fn slot_key<'a>(lineage: &'a Lineage, index: &PackIndex) -> Result<&'a BranchKey, VaultError> {
    match index.content {
        PackContent::Data => lineage.domain.data_key_of(index.epoch),
        PackContent::Metadata => lineage.domain.map_key_of(index.epoch),
    }
}

/// The slot of that number, or the damage that it is not there.
pub(crate) fn slot_of<'a>(
    index: &'a PackIndex,
    name: &ObjectName,
    slot: u32,
) -> Result<&'a SlotPlace, VaultError> {
    let found = usize::try_from(slot).ok().and_then(|slot| index.slots.get(slot));
    found.ok_or_else(|| VaultError::malformed(name, FormatError(format!("the pack has no slot {slot}"))))
}

/// As what the slot at place `at` was sealed, or the fault that its footer does not say so.
pub(crate) fn sealed_as(
    slot: &SlotPlace,
    pack: &PackPlace,
    name: &ObjectName,
    at: u32,
) -> Result<SlotId, VaultError> {
    slot.sealed_as(pack, at).ok_or_else(|| unplaced(name, at))
}

/// The fault that a footer does not say where a slot was born.
pub(crate) fn unplaced(name: &ObjectName, at: u32) -> VaultError {
    let what = format!("its footer does not say where slot {at} was born");
    VaultError::malformed(name, FormatError(what))
}

pub(crate) fn frame_error(name: &ObjectName, error: &crate::frame::FrameError) -> VaultError {
    VaultError::malformed(name, FormatError(error.to_string()))
}

pub(crate) fn second_copy(first: &ObjectName) -> ObjectName {
    match first {
        ObjectName::Pack(lineage, session, name) => ObjectName::PackCopy(*lineage, *session, *name),
        other => other.clone(),
    }
}

fn truncated(size: u64) -> OpenError {
    OpenError::Truncated { needed: size.saturating_add(1), found: size }
}

fn misplaced(name: &ObjectName) -> VaultError {
    VaultError::malformed(name, FormatError("the pack belongs to another VM or session".to_owned()))
}

/// All that a pack says of itself.
#[derive(Clone, Debug)]
pub(crate) struct PackFooter {
    pub(crate) head: PackHead,
    pub(crate) body: FooterBody,
    /// Size of the pack.
    pub(crate) size: u64,
    /// The pack itself when it is small enough to have come with its footer.
    pub(crate) whole: Option<Bytes>,
}

impl PackFooter {
    pub(crate) fn into_index(self) -> PackIndex {
        let mut offset = PACK_HEADER_LEN as u64;
        let (mut slots, mut blocks, mut patches) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (number, slot) in (0_u32..).zip(self.body.slots) {
            let FooterSlot { birth: point, len, plain_len, codec, kind, origin, .. } = slot;
            slots.push(SlotPlace { offset, len, kind, codec, plain_len, origin, point });
            blocks.push(slot.blocks);
            if !slot.patches.is_empty() {
                let told = slot.patches.iter().map(|&(block, pages, _)| (block, pages));
                patches.insert(number, told.collect());
            }
            offset = offset.saturating_add(len);
        }
        let (content, epoch) = (self.head.content, self.head.slots.epoch);
        let (disk, size, whole) = (self.body.disk, self.size, self.whole);
        PackIndex { content, epoch, disk, slots, blocks, patches, size, whole }
    }
}

/// Gives the map its nodes: from the cache, else from packs.
#[derive(Clone, Debug)]
pub(crate) struct PackNodes {
    pub(crate) vault: Arc<Inner>,
    pub(crate) lineage: Lineage,
}

impl PackNodes {
    /// The slot of nodes that `at` lies in.
    pub(crate) fn slot(&self, at: &StorageId) -> Result<Arc<NodeSlot>, VaultError> {
        let key = (self.lineage.id, at.pack, at.slot);
        if let Some(slot) = self.vault.nodes.get(&key) {
            return Ok(slot);
        }
        let plain = self.vault.metadata_slot(&self.lineage, &at.pack, at.slot, SlotKind::Nodes)?;
        let name = ObjectName::pack(self.lineage.id, &at.pack);
        let slot = Arc::new(NodeSlot::parse(plain).map_err(|e| VaultError::malformed(&name, e))?);
        self.vault.nodes.put(key, Arc::clone(&slot), slot.weight());
        Ok(slot)
    }
}

impl NodeSource for PackNodes {
    fn node(&self, at: &StorageId) -> Result<Bytes, BoxError> {
        let node = self.slot(at)?.node(at.index);
        let name = ObjectName::pack(self.lineage.id, &at.pack);
        Ok(node.ok_or_else(|| {
            VaultError::malformed(&name, FormatError(format!("slot {} has no node {}", at.slot, at.index)))
        })?)
    }
}
