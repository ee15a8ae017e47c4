//! Reading and writing the bytes of version 1: integers, LEB128 in its shortest form, and nothing unbounded.

use super::error::Malformed;

/// Longest varint: 64 bits in groups of seven.
const VARINT_LEN_MAX: u32 = 10;

/// Appends `number` as LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Takes fields off the front of bytes that nobody vouches for.
///
/// Every method names the field it was after in its error, and none allocates.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether everything was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Malformed { what })?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed { what })?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// The next byte.
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// The next eight bytes as a little endian integer.
    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// The next varint; only its shortest form is one.
    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, Malformed> {
        let mut number = 0;
        for group in 0..VARINT_LEN_MAX {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            let past_64_bits = group == VARINT_LEN_MAX - 1 && bits > 1;
            let not_shortest = group > 0 && byte == 0;
            if past_64_bits || not_shortest {
                return Err(Malformed { what });
            }
            number |= bits << (7 * group);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed { what })
    }

    /// The next varint, where only 32 bits have a meaning.
    pub(crate) fn varint_u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        u32::try_from(self.varint(what)?).map_err(|_| Malformed { what })
    }

    /// The next varint as a number of things, of which there may be `max`.
    pub(crate) fn count(&mut self, max: usize, what: &'static str) -> Result<usize, Malformed> {
        match usize::try_from(self.varint(what)?) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(Malformed { what }),
        }
    }

    /// Ends the reading; fails when something is left.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed { what: "bytes after the last field" }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8]) -> Result<u64, Malformed> {
        let mut reader = Reader::new(bytes);
        let number = reader.varint("number")?;
        reader.finish().map(|()| number)
    }

    #[test]
    fn only_the_shortest_form_is_a_varint() {
        assert_eq!(read(&[0]), Ok(0));
        assert_eq!(read(&[0x80, 1]), Ok(128));
        for bad in [&[][..], &[0x80], &[0x80, 0], &[0xff, 0x80, 0], &[0xff; 10], &[0xff; 11], &[0, 0]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        let past_64_bits = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert!(read(&past_64_bits).is_err());
    }

    proptest! {
        #[test]
        fn every_number_reads_back_from_one_encoding(bits in 0_u32..=64, raw: u64) {
            let number = raw.checked_shr(bits).unwrap_or(0);
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            prop_assert_eq!(read(&bytes), Ok(number));
        }

        #[test]
        fn what_reads_is_what_would_be_written(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(number) = read(&bytes) {
                let mut again = Vec::new();
                put_varint(&mut again, number);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
