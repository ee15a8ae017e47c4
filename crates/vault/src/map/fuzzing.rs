//! Entry points for a fuzzer: bytes from outside, which must never panic.

use vmkeep_model::{BlockSize, SessionId};

use super::change_list::ChangeListReader;
use super::codec::{Decoded, decode, encode, spot};
use vmkeep_envelope::PackName;

use crate::place::PackPlace;

/// Decodes `data` as a node of blocks of the size its first byte chooses; what decodes must encode to the same node.
///
/// # Panics
/// When it does not.
pub fn node(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let own = PackPlace { lineage: None, session: SessionId([1; 16]), name: PackName([2; 16]) };
    let block_size = BlockSize::try_from(1 << (14 + u64::from(choice % 9))).unwrap_or_default();
    let spot = spot(bytes);
    match decode(bytes, own, block_size) {
        Ok(Decoded::Full(node)) => {
            assert_eq!(spot, Ok((node.level(), node.index())), "a node is not where it says");
            let again = decode(&encode(&node, own), own, block_size);
            assert_eq!(again, Ok(Decoded::Full(node)), "a node changed by being encoded");
        }
        Ok(Decoded::Delta(delta)) => {
            let _ = delta.base();
        }
        Err(_) => {}
    }
}

/// Reads `data` as a change list.
pub fn change_list(data: &[u8]) {
    ChangeListReader::new(data).for_each(drop);
}
