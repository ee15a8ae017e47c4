//! The two ends of a pack: its header and its trailer.

use std::fmt;

use vmkeep_model::DomainId;

use super::{PACK_VERSION, SLOT_COUNT_MAX, SLOT_HEADER_LEN, SLOT_PLAIN_MAX};
use crate::aead::TAG_LEN;
use crate::reader::{Reader, within};
use crate::{Branch, BranchId, OpenError, PACK_HEADER_LEN, TRAILER_LEN};

const MAGIC: &str = "vmkeepP1";
const TRAILER_MAGIC: &str = "vmkeepE1";

/// What a pack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PackContent {
    /// Content of disks, sealed with the data branch.
    Data = 1,
    /// Block maps and the like, sealed with the map branch.
    Metadata = 2,
}

impl PackContent {
    /// The branch that opens the slots.
    pub fn branch(self) -> Branch {
        match self {
            Self::Data => Branch::Data,
            Self::Metadata => Branch::Map,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Metadata => 2,
        }
    }
}

impl fmt::Display for PackContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
        })
    }
}

/// The header of a pack. Authenticated by opening the footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackHead {
    /// Version of the format.
    pub version: u16,
    /// What it holds.
    pub content: PackContent,
    /// The key of slots that were born here.
    pub slots: BranchId,
    /// The key of the footer.
    pub map: BranchId,
}

impl PackHead {
    /// Reads a header from the first [`PACK_HEADER_LEN`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut reader = Reader::new(bytes);
        reader.magic(MAGIC)?;
        let version = reader.version(PACK_VERSION)?;
        let content = match reader.u8()? {
            1 => PackContent::Data,
            2 => PackContent::Metadata,
            _ => return Err(OpenError::Malformed { what: "content of a pack is not 1 or 2" }),
        };
        let branch = Branch::from_number(reader.u8()?)?;
        if branch.opened_by() != content.branch() {
            return Err(OpenError::Malformed { what: "branch of a pack is not that of its content" });
        }
        let epoch = reader.u32()?;
        let domain = DomainId(reader.array()?);
        let map = BranchId { domain, branch: Branch::Map, epoch: reader.u32()? };
        reader.reserved(4)?;
        Ok(Self { version, content, slots: BranchId { domain, branch, epoch }, map })
    }

    pub(crate) fn encode(&self) -> [u8; PACK_HEADER_LEN] {
        let mut header = [0; PACK_HEADER_LEN];
        header[..8].copy_from_slice(MAGIC.as_bytes());
        header[8..10].copy_from_slice(&self.version.to_le_bytes());
        header[10] = self.content.number();
        header[11] = self.slots.branch.number();
        header[12..16].copy_from_slice(&self.slots.epoch.to_le_bytes());
        header[16..32].copy_from_slice(&self.slots.domain.0);
        header[32..36].copy_from_slice(&self.map.epoch.to_le_bytes());
        header
    }
}

/// The trailer of a pack: where the footer begins. Authenticated by opening the footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Length of the footer slot in all; it ends where the trailer begins.
    pub footer_len: u32,
    /// Number of slots before the footer.
    pub slot_count: u32,
}

impl Trailer {
    /// Reads a trailer from the last [`TRAILER_LEN`] bytes of a pack.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpenError> {
        let mut reader = Reader::new(bytes);
        let (footer_len, slot_count) = (reader.u32()?, reader.u32()?);
        reader.magic(TRAILER_MAGIC)?;
        let len = within("footer", footer_len, SLOT_HEADER_LEN + SLOT_PLAIN_MAX + TAG_LEN)?;
        if len < SLOT_HEADER_LEN + TAG_LEN {
            return Err(OpenError::Malformed { what: "footer is shorter than its header and tag" });
        }
        if slot_count > SLOT_COUNT_MAX {
            let (len, max) = (slot_count.into(), SLOT_COUNT_MAX.into());
            return Err(OpenError::TooLarge { what: "slot count", len, max });
        }
        Ok(Self { footer_len, slot_count })
    }

    pub(crate) fn encode(self) -> [u8; TRAILER_LEN] {
        let mut trailer = [0; TRAILER_LEN];
        trailer[..4].copy_from_slice(&self.footer_len.to_le_bytes());
        trailer[4..8].copy_from_slice(&self.slot_count.to_le_bytes());
        trailer[8..].copy_from_slice(TRAILER_MAGIC.as_bytes());
        trailer
    }
}
