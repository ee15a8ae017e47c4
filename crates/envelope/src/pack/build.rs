//! Collecting slots and sealing them: one buffer, encrypted where it stands.

use std::fmt;

use vmkeep_model::DomainId;

use super::{
    Codec, FOOTER_NUMBER, PACK_LEN_MAX, PACK_VERSION, PackContent, PackHead, PackName, SLOT_COUNT_MAX,
    SLOT_PLAIN_MAX, SlotHead, SlotKind, Trailer, slot_aad,
};
use crate::aead::{Cipher, SALT_LEN, TAG_LEN};
use crate::public::{self, SealingKey};
use crate::reader::{narrow, wide};
use crate::salt::Salter;
use crate::{
    Branch, BranchId, BranchKey, PACK_HEADER_LEN, SLOT_HEADER_LEN, SealContext, SealError, SealedObject,
    TRAILER_LEN, labels,
};

const SALT_AT: usize = 24;
const EPOCH_AT: usize = 20;
const BRANCH_AT: usize = 18;

/// Where a slot lies in its pack, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLayout {
    /// Offset of its header from the start of the pack.
    pub offset: u64,
    /// Length of the whole slot: header, ciphertext and tag.
    pub len: u32,
    /// Length of its content.
    pub plain_len: u32,
    /// How its body holds the content.
    pub codec: Codec,
    /// What the content is.
    pub kind: SlotKind,
}

/// A pack in the making: takes slots, then is sealed in one step.
///
/// Slots are copied into one buffer, with room around them for headers and tags, and encrypted in that buffer.
///
/// A slot's number is its nonce, so no number may be used twice under one salt. Nobody gets to: slots are numbered here, the
/// salt is made from all of them at once, and sealing takes the builder away. It cannot be sealed again,
///
/// ```compile_fail,E0382
/// # use vmkeep_envelope::*;
/// # fn twice(pack: PackBuilder, keys: &DomainKeys, ctx: &SealContext<'_>) -> Result<(), Box<dyn std::error::Error>> {
/// let once = pack.seal(keys.data()?, keys.map()?, b"a footer", ctx)?;
/// let twice = pack.seal(keys.data()?, keys.map()?, b"another", ctx)?; // moved
/// # Ok(())
/// # }
/// ```
///
/// given another slot,
///
/// ```compile_fail,E0382
/// # use vmkeep_envelope::*;
/// # fn after(mut pack: PackBuilder, keys: &DomainKeys, ctx: &SealContext<'_>) -> Result<(), Box<dyn std::error::Error>> {
/// let sealed = pack.seal(keys.data()?, keys.map()?, b"a footer", ctx)?;
/// pack.push(SlotKind::Blocks, Codec::Stored, 4, b"more")?; // moved
/// # Ok(())
/// # }
/// ```
///
/// or cloned before:
///
/// ```compile_fail,E0599
/// # use vmkeep_envelope::*;
/// let pack = PackBuilder::new(PackContent::Data, 0);
/// let other = pack.clone(); // no such method
/// ```
pub struct PackBuilder {
    content: PackContent,
    buffer: Vec<u8>,
    slots: Vec<SlotLayout>,
}

/// A pack as it is stored, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedPack {
    /// Its name, made from its salt.
    pub name: PackName,
    /// Its bytes.
    pub object: SealedObject,
}

impl PackBuilder {
    /// An empty pack; `capacity` bytes are set aside for it at once.
    pub fn new(content: PackContent, capacity: usize) -> Self {
        let mut buffer = Vec::with_capacity(capacity.clamp(PACK_HEADER_LEN, PACK_LEN_MAX));
        buffer.resize(PACK_HEADER_LEN, 0);
        Self { content, buffer, slots: Vec::new() }
    }

    /// Adds a slot and gives its number. `body` holds content of `plain_len` bytes by way of `codec`.
    pub fn push(
        &mut self,
        kind: SlotKind,
        codec: Codec,
        plain_len: u32,
        body: &[u8],
    ) -> Result<u32, SealError> {
        if kind.content() != Some(self.content) {
            return Err(SealError::KindInContent { kind, content: self.content });
        }
        let number = self.slot_count();
        check("slot count", number.into(), u64::from(SLOT_COUNT_MAX) - 1)?;
        check("slot", plain_len.into(), wide(SLOT_PLAIN_MAX))?;
        let head = unsealed_head(number, kind, codec, plain_len, body)?;
        let len = head.total_len();
        let end = self.buffer.len() + len;
        check("pack", wide(end), wide(PACK_LEN_MAX))?;

        let offset = wide(self.buffer.len());
        append_unsealed(&mut self.buffer, &head, body);
        self.slots.push(SlotLayout { offset, len: narrow(len), plain_len, codec, kind });
        Ok(number)
    }

    /// Takes back the slots that were added last, so that `slots` of them are left.
    pub fn truncate(&mut self, slots: u32) {
        truncate(&mut self.buffer, &mut self.slots, slots);
    }

    /// Bytes collected so far, header and tags included; the footer and the trailer will be added to it.
    pub fn byte_len(&self) -> usize {
        self.buffer.len()
    }

    /// Number of slots.
    pub fn slot_count(&self) -> u32 {
        narrow(self.slots.len())
    }

    /// Where every slot lies, by number: what the footer tells of.
    pub fn slots(&self) -> &[SlotLayout] {
        &self.slots
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Seals every slot with `slots`, the footer with `map`, and names the pack.
    ///
    /// For a pack of metadata both are the map key; for one of data, `slots` is the data key or its public side.
    pub fn seal<'k>(
        mut self,
        slots: impl Into<SealingKey<'k>>,
        map: &BranchKey,
        footer_body: &[u8],
        ctx: &SealContext<'_>,
    ) -> Result<SealedPack, SealError> {
        let slots = slots.into();
        let (slots_id, map_id) = (slots.id(), map.id());
        if slots_id.branch.opened_by() != self.content.branch() {
            return Err(SealError::WrongBranch { what: "a slot of this content", found: slots_id });
        }
        let same_key = self.content == PackContent::Data || slots_id == map_id;
        if map_id.branch != Branch::Map || map_id.domain != slots_id.domain || !same_key {
            return Err(SealError::WrongBranch { what: "the footer of this pack", found: map_id });
        }
        let footer = footer_head(footer_body, map_id)?;
        let footer_len = footer.total_len();
        let footer_at = self.buffer.len();

        let head = PackHead { version: PACK_VERSION, content: self.content, slots: slots_id, map: map_id };
        let header = head.encode();
        let trailer = Trailer { footer_len: narrow(footer_len), slot_count: self.slot_count() }.encode();
        self.buffer.reserve_exact(footer_len + TRAILER_LEN);
        self.buffer[..PACK_HEADER_LEN].copy_from_slice(&header);
        append_unsealed(&mut self.buffer, &footer, footer_body);
        self.buffer.extend_from_slice(&trailer);

        let (body, rest) = self.buffer.split_at_mut(footer_at);
        let footer_slot = &mut rest[..footer_len];
        for slot in each_slot(&mut body[PACK_HEADER_LEN..], &self.slots) {
            slot[BRANCH_AT] = slots_id.branch.number();
            slot[EPOCH_AT..SALT_AT].copy_from_slice(&slots_id.epoch.to_le_bytes());
        }

        let mut salter = slots.salter(ctx)?;
        let prefix = &slot_aad(slots_id.domain, &[0; SLOT_HEADER_LEN])[..18];
        for slot in each_slot(&mut body[PACK_HEADER_LEN..], &self.slots) {
            salter.cover(&[prefix, &slot[..SALT_AT]], &slot[SLOT_HEADER_LEN..slot.len() - TAG_LEN]);
        }
        cover_footer(&mut salter, slots_id.domain, footer_slot, &header, &trailer);
        let (salt, cipher) = slots.finish(salter, public::SLOT);
        for (number, slot) in (0..).zip(each_slot(&mut body[PACK_HEADER_LEN..], &self.slots)) {
            seal_slot(&cipher, number, &salt, slot, |header| slot_aad(slots_id.domain, header));
        }
        seal_footer(map, &salt, footer_slot, &header, &trailer);
        Ok(SealedPack { name: PackName::of_salt(&salt), object: SealedObject::from_sealed(self.buffer) })
    }
}

impl fmt::Debug for PackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (content, slots) = (self.content, self.slots.len());
        write!(f, "PackBuilder({content}, {slots} slots, {} bytes)", self.buffer.len())
    }
}

/// Takes slots back from the end of a pack in the making, so that `slots` of them are left.
pub(super) fn truncate(buffer: &mut Vec<u8>, layout: &mut Vec<SlotLayout>, slots: u32) {
    let slots = usize::try_from(slots).unwrap_or(usize::MAX);
    let Some(first) = layout.get(slots) else { return };
    // It was the length of the buffer when that slot was added.
    buffer.truncate(usize::try_from(first.offset).unwrap_or(usize::MAX));
    layout.truncate(slots);
}

/// A header as far as it is known before sealing: without epoch and salt.
fn unsealed_head(
    number: u32,
    kind: SlotKind,
    codec: Codec,
    plain_len: u32,
    body: &[u8],
) -> Result<SlotHead, SealError> {
    let contradiction = || SealError::BodyLength { body: wide(body.len()), plain: plain_len.into() };
    let body_len = u32::try_from(body.len()).map_err(|_| contradiction())?;
    if body_len > plain_len || codec == Codec::Stored && body_len != plain_len {
        return Err(contradiction());
    }
    let branch = kind.content().map_or(Branch::Map, PackContent::branch);
    Ok(SlotHead { number, plain_len, body_len, codec, kind, branch, epoch: 0, salt: [0; SALT_LEN] })
}

/// The header of a footer that `map` seals, as far as it is known before sealing.
pub(super) fn footer_head(body: &[u8], map: BranchId) -> Result<SlotHead, SealError> {
    check("footer", wide(body.len()), wide(SLOT_PLAIN_MAX))?;
    let plain_len = narrow(body.len());
    let head = unsealed_head(FOOTER_NUMBER, SlotKind::Footer, Codec::Stored, plain_len, body)?;
    Ok(SlotHead { epoch: map.epoch, ..head })
}

/// Header, body, and room for the tag.
pub(super) fn append_unsealed(buffer: &mut Vec<u8>, head: &SlotHead, body: &[u8]) {
    buffer.extend_from_slice(&head.encode());
    buffer.extend_from_slice(body);
    buffer.extend_from_slice(&[0; TAG_LEN]);
}

/// Adds a footer that is not sealed yet to what the salt depends on.
pub(super) fn cover_footer(
    salter: &mut Salter,
    domain: DomainId,
    footer_slot: &[u8],
    header: &[u8; PACK_HEADER_LEN],
    trailer: &[u8; TRAILER_LEN],
) {
    let prefix = &slot_aad(domain, &[0; SLOT_HEADER_LEN])[..18];
    let body = &footer_slot[SLOT_HEADER_LEN..footer_slot.len() - TAG_LEN];
    salter.cover(&[prefix, &footer_slot[..SALT_AT], header, trailer], body);
}

/// Seals the footer where it stands, and with it header and trailer.
pub(super) fn seal_footer(
    map: &BranchKey,
    salt: &[u8; SALT_LEN],
    footer_slot: &mut [u8],
    header: &[u8; PACK_HEADER_LEN],
    trailer: &[u8; TRAILER_LEN],
) {
    let cipher = Cipher::new(map.secret(), salt, labels::FOOTER);
    seal_slot(&cipher, FOOTER_NUMBER, salt, footer_slot, |slot_header| {
        [&slot_aad(map.id().domain, slot_header)[..], header, trailer].concat()
    });
}

fn each_slot<'a>(mut body: &'a mut [u8], slots: &[SlotLayout]) -> impl Iterator<Item = &'a mut [u8]> {
    slots.iter().map(move |layout| {
        let len = usize::try_from(layout.len).expect("at most 4 MiB and a header");
        let (slot, rest) = std::mem::take(&mut body).split_at_mut(len);
        body = rest;
        slot
    })
}

fn seal_slot<A: AsRef<[u8]>>(
    cipher: &Cipher,
    number: u32,
    salt: &[u8; SALT_LEN],
    slot: &mut [u8],
    aad: impl FnOnce(&[u8]) -> A,
) {
    let (header, rest) = slot.split_at_mut(SLOT_HEADER_LEN);
    header[SALT_AT..].copy_from_slice(salt);
    let (body, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
    tag.copy_from_slice(&cipher.seal(number, aad(header).as_ref(), body));
}

pub(super) fn check(what: &'static str, len: u64, max: u64) -> Result<(), SealError> {
    if len <= max { Ok(()) } else { Err(SealError::TooLarge { what, len, max }) }
}
