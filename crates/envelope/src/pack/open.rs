//! Opening a slot or a footer: in place, with every length checked first.

use std::ops::Range;

use super::{
    Codec, FOOTER_NUMBER, PackHead, PackName, SlotCiphers, SlotHead, SlotId, SlotKind, Trailer, slot_aad,
};
use crate::aead::{Cipher, TAG_LEN};
use crate::reader::{exactly, wide};
use crate::{BranchKey, OpenError, PACK_HEADER_LEN, SLOT_HEADER_LEN, SealedObject, TRAILER_LEN, labels};

/// What a slot held. The body is still compressed when the codec says so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OpenedSlot<'a> {
    /// The body, in the buffer that the slot was opened in.
    pub body: &'a [u8],
    /// How the body holds the content.
    pub codec: Codec,
    /// Length of the content.
    pub plain_len: u32,
}

impl std::fmt::Debug for OpenedSlot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { body, codec, plain_len } = self;
        write!(f, "OpenedSlot({} bytes, {codec:?}, plain {plain_len})", body.len())
    }
}

/// Opens a whole slot (header, ciphertext and tag) in place.
///
/// It must be the slot that was born as `expected`, of that `kind`, sealed with `key` or its public side; whether it still lies in its
/// birth pack does not matter.
pub fn open_slot<'a>(
    slot: &'a mut [u8],
    key: &BranchKey,
    expected: SlotId,
    kind: SlotKind,
    ciphers: &SlotCiphers,
) -> Result<OpenedSlot<'a>, OpenError> {
    let head = SlotHead::parse(slot)?;
    head.check(slot, key, expected, kind)?;
    let cipher = ciphers.get(key, head.branch, &head.salt)?;
    let (header, body, tag) = split(slot);
    cipher.open(head.number, &slot_aad(key.id().domain, header), body, &tag)?;
    Ok(OpenedSlot { body, codec: head.codec, plain_len: head.plain_len })
}

/// Opens the footer of the pack named `expected` and gives its body; with it, header and trailer are authentic.
///
/// `footer_slot` is the [`Trailer::footer_len`] bytes before the trailer. It is decrypted in place.
pub fn open_footer(
    footer_slot: &mut [u8],
    header: &[u8; PACK_HEADER_LEN],
    trailer: &[u8; TRAILER_LEN],
    key: &BranchKey,
    expected: PackName,
) -> Result<Vec<u8>, OpenError> {
    let pack = PackHead::parse(header)?;
    if pack.map != key.id() {
        return Err(OpenError::WrongKey { expected: key.id(), found: pack.map });
    }
    let footer_len = Trailer::parse(trailer)?.footer_len;
    exactly(usize::try_from(footer_len).unwrap_or(usize::MAX), footer_slot)?;
    let head = SlotHead::parse(footer_slot)?;
    head.check(footer_slot, key, SlotId { pack: expected, slot: FOOTER_NUMBER }, SlotKind::Footer)?;
    if head.codec != Codec::Stored {
        return Err(OpenError::Malformed { what: "a footer is stored, not compressed" });
    }
    let (slot_header, body, tag) = split(footer_slot);
    let aad = [&slot_aad(key.id().domain, slot_header)[..], header, trailer].concat();
    Cipher::new(key.secret(), &head.salt, labels::FOOTER).open(FOOTER_NUMBER, &aad, body, &tag)?;
    Ok(body.to_vec())
}

/// Takes the bytes of a pack back as what sealing made: for whoever puts a pack together from copies of it.
///
/// Everything in it is opened: the footer, and with it header and trailer, with `map`, and with `key` each of the slots, which
/// are told by where they lie, as what they were sealed, and their kind. They must follow one another from the header to the footer.
pub fn readmit_pack(
    bytes: Vec<u8>,
    name: PackName,
    map: &BranchKey,
    key: &BranchKey,
    slots: &[(Range<usize>, SlotId, SlotKind)],
    ciphers: &SlotCiphers,
) -> Result<SealedObject, OpenError> {
    let header = *bytes.first_chunk::<PACK_HEADER_LEN>().ok_or_else(|| too_short(&bytes))?;
    let trailer = *bytes.last_chunk::<TRAILER_LEN>().ok_or_else(|| too_short(&bytes))?;
    let footer_len = usize::try_from(Trailer::parse(&trailer)?.footer_len).unwrap_or(usize::MAX);
    let mut at = PACK_HEADER_LEN;
    for (range, expected, kind) in slots {
        let slot = bytes.get(range.clone()).filter(|_| range.start == at);
        let mut slot = slot.ok_or(OpenError::Malformed { what: "slots of a pack have gaps" })?.to_vec();
        open_slot(&mut slot, key, *expected, *kind, ciphers)?;
        at = range.end;
    }
    let footer = bytes.get(at..bytes.len() - TRAILER_LEN).filter(|footer| footer.len() == footer_len);
    let mut footer = footer.ok_or(OpenError::Malformed { what: "slots of a pack have gaps" })?.to_vec();
    open_footer(&mut footer, &header, &trailer, map, name)?;
    Ok(SealedObject::from_sealed(bytes))
}

fn too_short(bytes: &[u8]) -> OpenError {
    OpenError::Truncated { needed: wide(PACK_HEADER_LEN + TRAILER_LEN), found: wide(bytes.len()) }
}

/// Header, ciphertext and tag of a slot whose length was checked.
fn split(slot: &mut [u8]) -> (&[u8], &mut [u8], [u8; TAG_LEN]) {
    let (header, rest) = slot.split_at_mut(SLOT_HEADER_LEN);
    let (body, end) = rest.split_at_mut(rest.len() - TAG_LEN);
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(end);
    (header, body, tag)
}
