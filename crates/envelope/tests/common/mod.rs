//! Keys and small helpers that the tests share.
// Each test file uses some of it; helpers of tests panic by unwrap like the tests themselves.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::sync::atomic::AtomicU64;

use vmkeep_envelope::*;
use vmkeep_model::{DomainId, SessionId};

pub const DOMAIN: DomainId = DomainId([0xd0; 16]);
pub const SESSION: SessionId = SessionId([0x5e; 16]);

/// A random source and a counter that begin anew, so that equal seeds seal equal bytes.
#[derive(Debug)]
pub struct Sealer {
    pub entropy: SeededEntropy,
    pub counter: AtomicU64,
}

impl Sealer {
    pub fn new(seed: u64) -> Self {
        Self { entropy: SeededEntropy::new(seed), counter: AtomicU64::new(1) }
    }

    pub fn ctx(&self) -> SealContext<'_> {
        SealContext { session: SESSION, counter: &self.counter, entropy: &self.entropy }
    }
}

/// The key of `branch` whose bytes are all `byte`.
pub fn key(branch: Branch, epoch: u32, byte: u8) -> BranchKey {
    let domain = if branch == Branch::Record { DomainId::VAULT } else { DOMAIN };
    BranchKey::from_parts(BranchId { domain, branch, epoch }, SecretKey::from_bytes(&mut [byte; 32]))
}

pub fn record_key() -> BranchKey {
    key(Branch::Record, 0, 1)
}

pub fn map_key() -> BranchKey {
    key(Branch::Map, 2, 2)
}

pub fn data_key() -> BranchKey {
    key(Branch::Data, 3, 3)
}

pub fn key_file_vault(byte: u8) -> KeyFileVault {
    KeyFileVault::from_key(SecretKey::from_bytes(&mut [byte; 32]))
}

pub fn weakest() -> Argon2Params {
    Argon2Params::new(19_456, 2, 1).unwrap()
}

pub fn passphrase_vault(text: &str, seed: u64) -> PassphraseVault {
    let passphrase = Passphrase::new(text.to_owned()).unwrap();
    PassphraseVault::new(passphrase, weakest(), &SeededEntropy::new(seed)).unwrap()
}

pub fn key_prefix(domain: DomainId, epoch: u32) -> String {
    format!("keys/{domain}/{epoch}/")
}

/// A slot to push, or one that was read: kind, codec, plain length, body.
pub type Slot = (SlotKind, Codec, u32, Vec<u8>);

pub fn stored(kind: SlotKind, body: &[u8]) -> Slot {
    (kind, Codec::Stored, u32::try_from(body.len()).unwrap(), body.to_vec())
}

pub fn build(content: PackContent, slots: &[Slot]) -> PackBuilder {
    let mut pack = PackBuilder::new(content, 0);
    for (number, (kind, codec, plain_len, body)) in (0..).zip(slots) {
        assert_eq!(pack.push(*kind, *codec, *plain_len, body).unwrap(), number);
    }
    pack
}

/// Seals with the fixed keys.
pub fn seal(content: PackContent, slots: &[Slot], footer: &[u8], seed: u64) -> SealedPack {
    let key = if content == PackContent::Data { data_key() } else { map_key() };
    build(content, slots).seal(&key, &map_key(), footer, &Sealer::new(seed).ctx()).unwrap()
}

/// Slots, footer slot, trailer.
pub type Parts = (Vec<Vec<u8>>, Vec<u8>, [u8; TRAILER_LEN]);

/// Where slots, footer and trailer of a pack lie, by its slots' own headers.
pub fn take_apart(pack: &[u8]) -> Result<Parts, OpenError> {
    let short = || OpenError::Truncated { needed: 0, found: 0 };
    let trailer = *pack.last_chunk::<TRAILER_LEN>().ok_or_else(short)?;
    let Trailer { footer_len, slot_count } = Trailer::parse(&trailer)?;
    let footer_at = pack.len().checked_sub(TRAILER_LEN + footer_len as usize).ok_or_else(short)?;
    let mut rest = pack.get(PACK_HEADER_LEN..footer_at).ok_or_else(short)?;
    let mut slots = Vec::new();
    for _ in 0..slot_count {
        let (slot, after) = rest.split_at_checked(SlotHead::parse(rest)?.total_len()).ok_or_else(short)?;
        slots.push(slot.to_vec());
        rest = after;
    }
    if !rest.is_empty() {
        return Err(short());
    }
    Ok((slots, pack[footer_at..pack.len() - TRAILER_LEN].to_vec(), trailer))
}

/// Opens everything in a pack with the fixed keys.
pub fn open_all(pack: &[u8], name: PackName) -> Result<(Vec<Slot>, Vec<u8>), OpenError> {
    let head = PackHead::parse(pack)?;
    let (slots, mut footer, trailer) = take_apart(pack)?;
    let footer = open_footer(&mut footer, pack.first_chunk().unwrap(), &trailer, &map_key(), name)?;
    let key = if head.content == PackContent::Data { data_key() } else { map_key() };
    let ciphers = SlotCiphers::default();
    let mut opened = Vec::new();
    for (number, mut slot) in (0..).zip(slots) {
        let kind = SlotHead::parse(&slot)?.kind;
        let found = open_slot(&mut slot, &key, SlotId { pack: name, slot: number }, kind, &ciphers)?;
        opened.push((kind, found.codec, found.plain_len, found.body.to_vec()));
    }
    Ok((opened, footer))
}
