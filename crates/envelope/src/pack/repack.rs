//! Moving slots: a pack of slots that are sealed already, copied byte for byte, and a fresh footer.

use std::fmt;

use super::build::{append_unsealed, check, cover_footer, footer_head, seal_footer, truncate};
use super::{
    PACK_LEN_MAX, PACK_VERSION, PackContent, PackHead, PackName, SLOT_COUNT_MAX, SealedPack, SlotHead,
    SlotId, SlotLayout, Trailer,
};
use crate::reader::{exactly, narrow, wide};
use crate::salt::Salter;
use crate::{
    Branch, BranchId, BranchKey, OpenError, PACK_HEADER_LEN, SealContext, SealError, SealedObject,
    TRAILER_LEN,
};

/// A pack in the making that takes slots out of other packs, without the key that they are sealed with.
///
/// A slot carries the pack it was born in and its number there, so it opens wherever it lies. What is checked here is
/// the slot's own header, which nobody vouches for before the slot is opened: a slot whose body was changed is moved as
/// it is, and is refused by whoever opens it, as it would have been before.
///
/// ```
/// # use std::sync::atomic::AtomicU64;
/// # use vmkeep_envelope::*;
/// # use vmkeep_model::{DomainId, SessionId};
/// # let keys = DomainKeys::generate(DomainId([1; 16]), 0, &OsEntropy)?;
/// # let counter = AtomicU64::new(0);
/// # let ctx = SealContext { session: SessionId([1; 16]), counter: &counter, entropy: &OsEntropy };
/// let mut born = PackBuilder::new(PackContent::Data, 0);
/// born.push(SlotKind::Blocks, Codec::Stored, 5, b"first")?;
/// born.push(SlotKind::Blocks, Codec::Stored, 6, b"second")?;
/// let place = born.slots()[1];
/// let born = born.seal(keys.data()?, keys.map()?, b"a footer", &ctx)?;
///
/// // Who moves the second slot needs to know which data key it has, and needs the map key alone.
/// let at = usize::try_from(place.offset)?..usize::try_from(place.offset + u64::from(place.len))?;
/// let slot = &born.object.bytes()[at.clone()];
/// let second = SlotId { pack: born.name, slot: 1 };
/// let mut pack = RepackBuilder::new(PackHead::parse(born.object.bytes())?.slots, 0)?;
/// assert_eq!(pack.push(slot, second)?, 0);
/// let place = pack.slots()[0];
/// let moved = pack.seal(keys.map()?, b"another footer", &ctx)?;
///
/// // It opens as what it was born as.
/// let at = usize::try_from(place.offset)?..usize::try_from(place.offset + u64::from(place.len))?;
/// let mut slot = moved.object.bytes()[at].to_vec();
/// let opened = open_slot(&mut slot, keys.data()?, second, SlotKind::Blocks, &SlotCiphers::default())?;
/// assert_eq!(opened.body, b"second");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RepackBuilder {
    content: PackContent,
    key: BranchId,
    buffer: Vec<u8>,
    slots: Vec<SlotLayout>,
}

impl RepackBuilder {
    /// An empty pack for slots that `key` seals, a data key or its public side, or a map key; `capacity` bytes are set aside for it at once.
    pub fn new(key: BranchId, capacity: usize) -> Result<Self, SealError> {
        let content = match key.branch {
            Branch::Data | Branch::DataPublic => PackContent::Data,
            Branch::Map => PackContent::Metadata,
            Branch::Record | Branch::Identity => {
                return Err(SealError::WrongBranch { what: "a slot of a pack", found: key });
            }
        };
        let mut buffer = Vec::with_capacity(capacity.clamp(PACK_HEADER_LEN, PACK_LEN_MAX));
        buffer.resize(PACK_HEADER_LEN, 0);
        Ok(Self { content, key, buffer, slots: Vec::new() })
    }

    /// Adds a whole slot (header, ciphertext and tag) that was born as `expected`, and gives its place among the slots
    /// of this pack.
    ///
    /// Refused are bytes that are not one whole slot, another slot, and a slot that another key seals. The key domain is
    /// in no slot's header: that the slot is of this one shows when it is opened.
    pub fn push(&mut self, slot: &[u8], expected: SlotId) -> Result<u32, SealError> {
        let head =
            self.checked(slot, expected).map_err(|source| SealError::NotThatSlot { expected, source })?;
        let place = self.slot_count();
        check("slot count", place.into(), u64::from(SLOT_COUNT_MAX) - 1)?;
        check("pack", wide(self.buffer.len() + slot.len()), wide(PACK_LEN_MAX))?;
        let SlotHead { plain_len, codec, kind, .. } = head;
        let (offset, len) = (wide(self.buffer.len()), narrow(slot.len()));
        self.slots.push(SlotLayout { offset, len, plain_len, codec, kind });
        self.buffer.extend_from_slice(slot);
        Ok(place)
    }

    /// Takes back the slots that were added last, so that `slots` of them are left.
    pub fn truncate(&mut self, slots: u32) {
        truncate(&mut self.buffer, &mut self.slots, slots);
    }

    /// Bytes collected so far; the footer and the trailer will be added to it.
    pub fn byte_len(&self) -> usize {
        self.buffer.len()
    }

    /// Number of slots.
    pub fn slot_count(&self) -> u32 {
        narrow(self.slots.len())
    }

    /// Where every slot lies, in order: what the footer tells of.
    pub fn slots(&self) -> &[SlotLayout] {
        &self.slots
    }

    /// Whether there is no slot.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What the slots are.
    pub fn content(&self) -> PackContent {
        self.content
    }

    /// Seals the footer with `map`, of whatever epoch, and names the pack.
    ///
    /// The salt, and with it the name, depends on the footer and on where it stands: nothing else is sealed here.
    pub fn seal(
        mut self,
        map: &BranchKey,
        footer_body: &[u8],
        ctx: &SealContext<'_>,
    ) -> Result<SealedPack, SealError> {
        let map_id = map.id();
        if map_id.branch != Branch::Map || map_id.domain != self.key.domain {
            return Err(SealError::WrongBranch { what: "the footer of this pack", found: map_id });
        }
        let footer = footer_head(footer_body, map_id)?;
        let footer_len = footer.total_len();
        let footer_at = self.buffer.len();
        let head = PackHead { version: PACK_VERSION, content: self.content, slots: self.key, map: map_id };
        let header = head.encode();
        let trailer = Trailer { footer_len: narrow(footer_len), slot_count: self.slot_count() }.encode();
        self.buffer.reserve_exact(footer_len + TRAILER_LEN);
        self.buffer[..PACK_HEADER_LEN].copy_from_slice(&header);
        append_unsealed(&mut self.buffer, &footer, footer_body);
        let footer_slot = &mut self.buffer[footer_at..];

        let mut salter = Salter::in_session(map.secret(), ctx)?;
        cover_footer(&mut salter, map_id.domain, footer_slot, &header, &trailer);
        let salt = salter.finish();
        seal_footer(map, &salt, footer_slot, &header, &trailer);
        self.buffer.extend_from_slice(&trailer);
        Ok(SealedPack { name: PackName::of_salt(&salt), object: SealedObject::from_sealed(self.buffer) })
    }

    /// The header of `slot`, when it is all that can be told without the key.
    fn checked(&self, slot: &[u8], expected: SlotId) -> Result<SlotHead, OpenError> {
        let head = SlotHead::parse(slot)?;
        exactly(head.total_len(), slot)?;
        let found = SlotId { pack: head.birth_pack(), slot: head.number };
        if found != expected {
            return Err(OpenError::WrongPlace { expected, found });
        }
        // The branch follows from the kind: a footer has the map branch too and is no slot to move.
        if head.kind.content() != Some(self.content) {
            return Err(OpenError::Malformed { what: "the kind of the slot is not of the pack's content" });
        }
        let found = BranchId { domain: self.key.domain, branch: head.branch, epoch: head.epoch };
        if found != self.key {
            return Err(OpenError::WrongKey { expected: self.key, found });
        }
        Ok(head)
    }
}

impl fmt::Debug for RepackBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (content, slots) = (self.content, self.slots.len());
        write!(f, "RepackBuilder({content}, {slots} slots, {} bytes)", self.buffer.len())
    }
}
