//! Numbers of the protocol, and reading them from bytes.

pub(crate) const GREETING: &[u8; 8] = b"NBDMAGIC";
pub(crate) const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

pub(crate) const FLAG_FIXED_NEWSTYLE: u16 = 1;
pub(crate) const FLAG_NO_ZEROES: u16 = 2;

pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;
pub(crate) const REP_ERROR: u32 = 1 << 31;
pub(crate) const REP_ERR_UNSUP: u32 = REP_ERROR + 1;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(crate) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_DISCONNECT: u16 = 2;
pub(crate) const CMD_BLOCK_STATUS: u16 = 7;

pub(crate) const CHUNK_DONE: u16 = 1;
pub(crate) const CHUNK_NONE: u16 = 0;
pub(crate) const CHUNK_DATA: u16 = 1;
pub(crate) const CHUNK_HOLE: u16 = 2;
pub(crate) const CHUNK_STATUS: u16 = 5;
pub(crate) const CHUNK_ERROR_BIT: u16 = 1 << 15;

/// Flag of an extent of `base:allocation` that reads as zeros.
pub(crate) const STATE_ZERO: u32 = 2;

/// Longest text of the protocol, in bytes.
pub(crate) const TEXT_BYTES_MAX: usize = 4096;
/// Longest answer to an option, in bytes: a context or an export with its description, or an error with its text.
pub(crate) const OPTION_BYTES_MAX: u32 = 16_384;
/// Most answers to one option. A server that sends more is cut off.
pub(crate) const OPTION_REPLIES_MAX: usize = 64;

/// Longest single read, in bytes: longer ones are split.
pub const READ_BYTES_MAX: u32 = 32 << 20;
/// Longest list of extents in one answer about one context, in bytes: 2^20 extents, the most that nbdkit sends. A
/// server that announces more is cut off.
pub const STATUS_BYTES_MAX: u32 = 4 + (8 << 20);

/// Integers from the front of a slice; `None` when it is too short.
#[derive(Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(first)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.bytes().map(|b| u16::from_be_bytes(*b))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.bytes().map(|b| u32::from_be_bytes(*b))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.bytes().map(|b| u64::from_be_bytes(*b))
    }
}

/// A text that a server sent, safe to show: cut short, control characters replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(500)];
    String::from_utf8_lossy(shown).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A length that was bounded before, as an index into memory.
pub(crate) fn index(len: u32) -> usize {
    usize::try_from(len).expect("an address has at least 32 bits")
}
