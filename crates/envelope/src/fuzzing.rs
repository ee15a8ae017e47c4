//! Entry points for fuzzing: every parser and opener over arbitrary bytes, with keys that never change.

use vmkeep_model::DomainId;

use crate::{
    Branch, BranchId, BranchKey, KeyFileVault, PACK_HEADER_LEN, PackHead, PackName, RecordHead,
    RepackBuilder, SecretKey, SlotCiphers, SlotHead, SlotId, SlotKind, TRAILER_LEN, Trailer, open_footer,
    open_key_object, open_record, open_slot,
};

/// Domain of every key here but the record key.
pub const DOMAIN: DomainId = DomainId([0x11; 16]);

/// The key of `branch` at epoch 0, the same in every run: to make a corpus that gets past authentication.
pub fn branch_key(branch: Branch) -> BranchKey {
    let domain = if branch == Branch::Record { DomainId::VAULT } else { DOMAIN };
    let key = SecretKey::from_bytes(&mut [branch.number(); 32]);
    BranchKey::from_parts(BranchId { domain, branch, epoch: 0 }, key)
}

/// The key vault of [`key_object`].
pub fn vault() -> KeyFileVault {
    KeyFileVault::from_key(SecretKey::from_bytes(&mut [0x22; 32]))
}

/// Opens `data` as a key object, under the name that its head asks for where there is one.
pub fn key_object(data: &[u8]) {
    let vault = vault();
    let _ = crate::KeyObjectHead::parse(data);
    let named = open_key_object(data, "", &vault);
    if let Err(crate::OpenError::WrongName { expected }) = named {
        let _ = open_key_object(data, &expected, &vault);
    }
}

/// Reads `data` as a file vault and as a backup blob: as it is, and as what is inside the seal.
#[cfg(feature = "file-vault")]
pub fn file_vault(data: &[u8]) {
    crate::file_vault::fuzz(data);
}

/// Opens `data` as a record, of the kind and with the branch that its head says.
pub fn record(data: &[u8]) {
    if let Ok(head) = RecordHead::parse(data) {
        let key = BranchKey::from_parts(head.branch, SecretKey::from_bytes(&mut [1; 32]));
        let _ = open_record(data, "points/x/1", &key, head.kind);
    }
    let _ = open_record(data, "vault", &branch_key(Branch::Record), 1);
}

/// Reads `data` as a pack: its header, its trailer and footer, and its slots as far as they follow one another, which
/// are also moved.
pub fn pack(data: &[u8]) {
    let (ciphers, map, blocks) = (SlotCiphers::new(2), branch_key(Branch::Map), branch_key(Branch::Data));
    let head = PackHead::parse(data);
    let _ = Trailer::parse(data);
    let mut moved = [&blocks, &map].map(|key| RepackBuilder::new(key.id(), 0));
    let mut rest = data.get(PACK_HEADER_LEN..).unwrap_or(data).to_vec();
    let mut at = 0;
    while let Ok(slot) = SlotHead::parse(&rest[at..]) {
        let end = (at + slot.total_len()).min(rest.len());
        let expected = SlotId { pack: slot.birth_pack(), slot: slot.number };
        let mut bytes = rest[at..end].to_vec();
        for pack in moved.iter_mut().flatten() {
            let before = (pack.slot_count(), pack.byte_len());
            if pack.push(&bytes, expected).is_err() {
                assert_eq!((pack.slot_count(), pack.byte_len()), before, "a slot was refused and taken");
            }
        }
        for kind in [slot.kind, SlotKind::Blocks] {
            let key = if slot.branch == Branch::Map { &map } else { &blocks };
            let _ = open_slot(&mut bytes, key, expected, kind, &ciphers);
        }
        at = end;
    }
    let Some((body, trailer)) = rest.split_last_chunk_mut::<TRAILER_LEN>() else { return };
    let Ok(Trailer { footer_len, .. }) = Trailer::parse(trailer) else { return };
    let footer_at = usize::try_from(footer_len).ok().and_then(|len| body.len().checked_sub(len)).unwrap_or(0);
    let Some(header) = data.first_chunk::<PACK_HEADER_LEN>() else { return };
    let footer = &mut body[footer_at..];
    let name = SlotHead::parse(footer).map_or(PackName([0; 16]), |slot| slot.birth_pack());
    let _ = open_footer(footer, header, trailer, &map, name);
    if let Ok(head) = head {
        let key = BranchKey::from_parts(head.map, SecretKey::from_bytes(&mut [2; 32]));
        let _ = open_footer(footer, header, trailer, &key, name);
    }
}
