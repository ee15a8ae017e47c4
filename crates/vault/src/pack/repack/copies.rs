//! Reading the slots of a source: one copy of a data pack, two of a metadata pack.

use std::borrow::Cow;
use std::ops::Range;

use vmkeep_envelope::{OpenError, PackContent, SlotHead, SlotId, open_slot};

use super::source::{Opened, Taken};
use crate::error::VaultError;
use crate::layout::ObjectName;
use crate::lineage::Lineage;
use crate::pack::index::{PackIndex, SlotPlace};
use crate::pack::reader::{second_copy, slot_key, slot_of};
use crate::vault::Inner;

/// The copies of a source.
pub(super) struct Copies<'a> {
    vault: &'a Inner,
    lineage: &'a Lineage,
    index: &'a PackIndex,
    pub(super) first: ObjectName,
    second: Option<(ObjectName, PackIndex)>,
}

impl<'a> Copies<'a> {
    pub(super) fn of(vault: &'a Inner, lineage: &'a Lineage, source: &'a Opened) -> Self {
        let first = ObjectName::pack(lineage.id, &source.source.pack);
        let twice = source.index.content == PackContent::Metadata;
        let second = twice.then(|| (second_copy(&first), source.index.without_bytes()));
        Self { vault, lineage, index: &source.index, first, second }
    }

    pub(super) fn range(&self, at: u32) -> Result<Range<u64>, VaultError> {
        slot_of(self.index, &self.first, at).map(SlotPlace::range)
    }

    pub(super) fn read(&self, range: Range<u64>) -> Result<Vec<u8>, VaultError> {
        self.vault.read_slots(&self.first, self.index, range.clone()).or_else(|e| self.read_second(range, e))
    }

    /// `sealed`, which is the slot at `range` of the first copy, when it is sound; else the same of the second copy.
    pub(super) fn sound<'b>(
        &self,
        sealed: &'b [u8],
        range: Range<u64>,
        slot: &Taken,
    ) -> Result<Cow<'b, [u8]>, VaultError> {
        match self.check(sealed, slot) {
            Ok(()) => Ok(Cow::Borrowed(sealed)),
            Err(e) => {
                let sealed = self.read_second(range, VaultError::open(&self.first, e))?;
                self.check(&sealed, slot).map_err(|e| VaultError::open(&self.first, e))?;
                Ok(Cow::Owned(sealed))
            }
        }
    }

    /// Reads from the second copy what cannot be had from the first because of `error`.
    fn read_second(&self, range: Range<u64>, error: VaultError) -> Result<Vec<u8>, VaultError> {
        match &self.second {
            Some((name, index)) if error.is_of_one_object() => {
                let bytes = self.vault.read_slots(name, index, range);
                bytes.map_err(|second| if second.is_of_one_object() { error } else { second })
            }
            _ => Err(error),
        }
    }

    /// Whether a slot is what the footer says. With its key at hand it is opened, so that no damage is passed on; without,
    /// its header has to agree.
    fn check(&self, sealed: &[u8], slot: &Taken) -> Result<(), OpenError> {
        slot.agrees(sealed)?;
        // Its length and its key are checked by the builder that takes it.
        let Ok(key) = slot_key(self.lineage, self.index) else { return Ok(()) };
        open_slot(&mut sealed.to_vec(), key, slot.sealed, slot.told.kind, &self.vault.ciphers).map(drop)
    }
}

impl Taken {
    /// Whether the header of a slot is what the footer says.
    pub(super) fn agrees(&self, sealed: &[u8]) -> Result<(), OpenError> {
        let (head, told) = (SlotHead::parse(sealed)?, &self.told);
        if (head.kind, head.codec, head.plain_len) != (told.kind, told.codec, told.plain_len) {
            return Err(OpenError::Malformed { what: "a slot's header contradicts the footer" });
        }
        let found = SlotId { pack: head.birth_pack(), slot: head.number };
        if found != self.sealed {
            return Err(OpenError::WrongPlace { expected: self.sealed, found });
        }
        Ok(())
    }
}
