//! Record bodies to bytes and back: the one place that knows bincode.
//!
//! The layout is that of bincode 1 (fixed-width little-endian integers, u64 lengths), which other crates can
//! write too, so this dependency can be replaced without moving a stored byte. What is decoded is bounded in
//! size and must end where the bytes end. Encodings are authenticated as stored, never re-encoded to compare.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest body of a record, in bytes; a longer one is refused before it is decoded.
pub(crate) const BODY_MAX: usize = 16 << 20;

/// A body that is not what its record kind says.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(pub(crate) String);

/// The stored bytes of `body`.
pub(crate) fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, FormatError> {
    bincode::serde::encode_to_vec(body, bincode::config::legacy()).map_err(|e| FormatError(e.to_string()))
}

/// The body that all of `bytes` are.
pub(crate) fn decode_exact<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FormatError> {
    let (body, used) = decode_prefix(bytes)?;
    if used != bytes.len() {
        return Err(FormatError(format!("{} bytes follow the last field", bytes.len() - used)));
    }
    Ok(body)
}

/// The body that `bytes` begin with, and how many bytes it took.
pub(crate) fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), FormatError> {
    let config = bincode::config::legacy().with_limit::<BODY_MAX>();
    bincode::serde::decode_from_slice(bytes, config).map_err(|e| FormatError(e.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reads_back_what_it_wrote(n in any::<u64>(), text in ".{0,40}", list in prop::collection::vec(any::<u32>(), 0..20), some in any::<Option<u8>>()) {
            let body = (n, text, list, some);
            let bytes = encode(&body).unwrap();
            prop_assert_eq!(decode_exact::<(u64, String, Vec<u32>, Option<u8>)>(&bytes).unwrap(), body);
        }
    }

    #[test]
    fn the_layout_is_that_of_bincode_1() {
        let bytes = encode(&(0x0102_u16, Some(7_u32), "ab".to_owned())).unwrap();
        assert_eq!(bytes, [2, 1, 1, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b']);
    }

    #[test]
    fn a_length_that_lies_and_a_byte_too_many_are_refused() {
        assert!(decode_exact::<Vec<u64>>(&(1_u64 << 60).to_le_bytes()).is_err());
        assert!(decode_exact::<u8>(&[1, 2]).is_err());
        assert!(decode_exact::<u64>(&[1, 2]).is_err());
    }
}
