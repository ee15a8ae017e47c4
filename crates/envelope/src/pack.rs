//! Packs: slots sealed in one step, each opened by itself (FORMAT.md section 5).
//!
//! ```text
//! | header 40 | slot 0 | slot 1 | ... | footer (a slot) | trailer 16 |
//!             |  header 56 (has the birth salt) | ciphertext | tag 16 |
//! ```
//!
//! A [`PackBuilder`] seals slots that are born in its pack. A [`RepackBuilder`] takes slots that are sealed already and
//! seals only the footer that tells of them.

mod build;
mod ciphers;
mod head;
mod open;
mod repack;
mod slot;

pub use build::{PackBuilder, SealedPack, SlotLayout};
pub use ciphers::SlotCiphers;
pub use head::{PackContent, PackHead, Trailer};
pub use open::{OpenedSlot, open_footer, open_slot, readmit_pack};
pub use repack::RepackBuilder;
pub use slot::{Codec, SlotHead, SlotKind};

use std::fmt;
use std::str::FromStr;

use vmkeep_model::{DomainId, IdParseError};

use crate::aead::SALT_LEN;
use crate::branch::half;
use crate::labels;

/// Version of packs that this crate writes, and the newest it reads.
pub const PACK_VERSION: u16 = 1;
/// Length of a pack's header.
pub const PACK_HEADER_LEN: usize = 40;
/// Length of a slot's header.
pub const SLOT_HEADER_LEN: usize = 56;
/// Length of a pack's trailer.
pub const TRAILER_LEN: usize = 16;
/// Longest plain content of a slot, and so the longest body. A longer one is refused, sealing and opening.
pub const SLOT_PLAIN_MAX: usize = 4 << 20;
/// Most slots of a pack. One more is refused; it keeps far within what one AES-GCM key may encrypt.
pub const SLOT_COUNT_MAX: u32 = 1 << 16;
/// Longest pack that a [`PackBuilder`] takes; a slot that would pass it is refused.
pub const PACK_LEN_MAX: usize = 1 << 30;

/// The slot number of the footer.
const FOOTER_NUMBER: u32 = u32::MAX;

/// The name of a pack: made from its salt, so that a slot carries the name of the pack it was born in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName(pub [u8; 16]);

impl PackName {
    pub(crate) fn of_salt(salt: &[u8; SALT_LEN]) -> Self {
        Self(half(&blake3::Hasher::new().update(labels::PACK_NAME).update(salt).finalize()))
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackName({self})")
    }
}

impl FromStr for PackName {
    type Err = IdParseError;

    fn from_str(text: &str) -> Result<Self, IdParseError> {
        // The same 32 digits as any id.
        text.parse::<DomainId>().map(|id| Self(id.0))
    }
}

/// Where a slot was born: the pack, and its number there. It keeps both wherever it is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId {
    /// The pack it was born in.
    pub pack: PackName,
    /// Its number there.
    pub slot: u32,
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {} of pack {}", self.slot, self.pack)
    }
}

/// 32 lower-case digits.
pub(crate) fn hex(bytes: &[u8; 16]) -> String {
    DomainId(*bytes).to_string()
}

/// What every AAD of a pack begins with: version, key domain, the slot's header.
fn slot_aad(domain: DomainId, header: &[u8]) -> [u8; 2 + 16 + SLOT_HEADER_LEN] {
    let mut aad = [0; 2 + 16 + SLOT_HEADER_LEN];
    aad[..2].copy_from_slice(&PACK_VERSION.to_le_bytes());
    aad[2..18].copy_from_slice(&domain.0);
    aad[18..].copy_from_slice(header);
    aad
}
