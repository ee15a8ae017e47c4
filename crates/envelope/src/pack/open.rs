//! Opening a slot or a footer: in place, with every length checked first.

use super::{
    Codec, FOOTER_NUMBER, PackHead, PackName, SlotCiphers, SlotHead, SlotId, SlotKind, Trailer, slot_aad,
};
use crate::aead::{Cipher, TAG_LEN};
use crate::reader::exactly;
use crate::{BranchKey, OpenError, PACK_HEADER_LEN, SLOT_HEADER_LEN, TRAILER_LEN, labels};

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

/// Header, ciphertext and tag of a slot whose length was checked.
fn split(slot: &mut [u8]) -> (&[u8], &mut [u8], [u8; TAG_LEN]) {
    let (header, rest) = slot.split_at_mut(SLOT_HEADER_LEN);
    let (body, end) = rest.split_at_mut(rest.len() - TAG_LEN);
    let mut tag = [0; TAG_LEN];
    tag.copy_from_slice(end);
    (header, body, tag)
}
