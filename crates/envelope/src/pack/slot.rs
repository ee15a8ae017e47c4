//! The header of a slot, and the small vocabulary in it.

use std::fmt;

use super::{FOOTER_NUMBER, PackContent, PackName, SLOT_PLAIN_MAX, SlotId};
use crate::aead::{SALT_LEN, TAG_LEN};
use crate::reader::{Reader, exactly, within};
use crate::{Branch, BranchId, BranchKey, OpenError, SLOT_HEADER_LEN};

const MAGIC: &str = "vkS1";

/// How the body of a slot holds its plain content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Stored = 0,
    /// As one zstd frame.
    Zstd = 1,
}

impl Codec {
    /// Its number in the format.
    pub fn number(self) -> u8 {
        match self {
            Self::Stored => 0,
            Self::Zstd => 1,
        }
    }
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SlotKind {
    /// Whole blocks.
    Blocks = 1,
    /// Pages of blocks.
    Patches = 2,
    /// Nodes of a block map.
    Nodes = 3,
    /// What changed on a disk.
    ChangeList = 4,
    /// A copy of a point's sections.
    PointCopy = 5,
    /// The footer of the pack.
    Footer = 255,
}

impl TryFrom<u8> for Codec {
    type Error = OpenError;

    fn try_from(number: u8) -> Result<Self, OpenError> {
        match number {
            0 => Ok(Self::Stored),
            1 => Ok(Self::Zstd),
            _ => Err(OpenError::Malformed { what: "codec is not 0 or 1" }),
        }
    }
}

impl TryFrom<u8> for SlotKind {
    type Error = OpenError;

    fn try_from(number: u8) -> Result<Self, OpenError> {
        Self::from_number(number)
    }
}

impl SlotKind {
    /// Its number in the format.
    pub fn number(self) -> u8 {
        match self {
            Self::Blocks => 1,
            Self::Patches => 2,
            Self::Nodes => 3,
            Self::ChangeList => 4,
            Self::PointCopy => 5,
            Self::Footer => 255,
        }
    }

    /// The packs it goes into; the footer is in every one, and put there by sealing alone.
    pub(crate) fn content(self) -> Option<PackContent> {
        match self {
            Self::Blocks | Self::Patches => Some(PackContent::Data),
            Self::Nodes | Self::ChangeList | Self::PointCopy => Some(PackContent::Metadata),
            Self::Footer => None,
        }
    }

    fn from_number(number: u8) -> Result<Self, OpenError> {
        match number {
            1 => Ok(Self::Blocks),
            2 => Ok(Self::Patches),
            3 => Ok(Self::Nodes),
            4 => Ok(Self::ChangeList),
            5 => Ok(Self::PointCopy),
            255 => Ok(Self::Footer),
            _ => Err(OpenError::Malformed { what: "kind of a slot is not 1 to 5 or 255" }),
        }
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocks => "blocks",
            Self::Patches => "page patches",
            Self::Nodes => "nodes",
            Self::ChangeList => "a change list",
            Self::PointCopy => "a copy of the point",
            Self::Footer => "the footer",
        })
    }
}

/// The header of a slot. Authenticated by opening the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotHead {
    /// Its number in its birth pack.
    pub number: u32,
    /// Length of the content.
    pub plain_len: u32,
    /// Length of the body, which holds the content by way of `codec`.
    pub body_len: u32,
    /// How.
    pub codec: Codec,
    /// What the content is.
    pub kind: SlotKind,
    /// Branch of the key.
    pub branch: Branch,
    /// Epoch of the key.
    pub epoch: u32,
    /// Salt of its birth pack.
    pub salt: [u8; SALT_LEN],
}

impl SlotHead {
    /// Reads a header from the first [`SLOT_HEADER_LEN`] bytes of a slot.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut reader = Reader::new(bytes);
        reader.magic(MAGIC)?;
        let number = reader.u32()?;
        let (plain_len, body_len) = (reader.u32()?, reader.u32()?);
        within("slot", plain_len, SLOT_PLAIN_MAX)?;
        within("slot body", body_len, SLOT_PLAIN_MAX)?;
        let codec = match reader.u8()? {
            0 => Codec::Stored,
            1 => Codec::Zstd,
            _ => return Err(OpenError::Malformed { what: "codec is not 0 or 1" }),
        };
        if body_len > plain_len || codec == Codec::Stored && body_len != plain_len {
            return Err(OpenError::Malformed { what: "body length contradicts plain length and codec" });
        }
        let kind = SlotKind::from_number(reader.u8()?)?;
        let branch = Branch::from_number(reader.u8()?)?;
        if branch.opened_by() != kind.content().map_or(Branch::Map, PackContent::branch) {
            return Err(OpenError::Malformed { what: "branch of a slot is not that of its kind" });
        }
        if (number == FOOTER_NUMBER) != (kind == SlotKind::Footer) {
            return Err(OpenError::Malformed { what: "slot number contradicts kind" });
        }
        reader.reserved(1)?;
        let epoch = reader.u32()?;
        let salt = reader.array()?;
        Ok(Self { number, plain_len, body_len, codec, kind, branch, epoch, salt })
    }

    /// The pack it was born in.
    pub fn birth_pack(&self) -> PackName {
        PackName::of_salt(&self.salt)
    }

    /// Length of the whole slot: header, ciphertext and tag.
    pub fn total_len(&self) -> usize {
        usize::try_from(self.body_len).unwrap_or(usize::MAX).saturating_add(SLOT_HEADER_LEN + TAG_LEN)
    }

    pub(crate) fn encode(&self) -> [u8; SLOT_HEADER_LEN] {
        let mut header = [0; SLOT_HEADER_LEN];
        header[..4].copy_from_slice(MAGIC.as_bytes());
        header[4..8].copy_from_slice(&self.number.to_le_bytes());
        header[8..12].copy_from_slice(&self.plain_len.to_le_bytes());
        header[12..16].copy_from_slice(&self.body_len.to_le_bytes());
        header[16] = self.codec.number();
        header[17] = self.kind.number();
        header[18] = self.branch.number();
        header[20..24].copy_from_slice(&self.epoch.to_le_bytes());
        header[24..].copy_from_slice(&self.salt);
        header
    }

    /// Whether this is the slot, of the kind, under the key, and of the length that was asked for.
    pub(crate) fn check(
        &self,
        slot: &[u8],
        key: &BranchKey,
        expected: SlotId,
        kind: SlotKind,
    ) -> Result<(), OpenError> {
        exactly(self.total_len(), slot)?;
        let found = SlotId { pack: self.birth_pack(), slot: self.number };
        if found != expected {
            return Err(OpenError::WrongPlace { expected, found });
        }
        if self.kind != kind {
            return Err(OpenError::WrongKind { expected: kind.number(), found: self.kind.number() });
        }
        let found = BranchId { domain: key.id().domain, branch: self.branch, epoch: self.epoch };
        if !key.id().opens(found) {
            return Err(OpenError::WrongKey { expected: key.id(), found });
        }
        Ok(())
    }
}
