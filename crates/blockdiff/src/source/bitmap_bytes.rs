//! A dirty bitmap as bytes, to be kept between two backups.
//!
//! ```text
//!  0 magic "VMKDIRTY"                 16 bytes of the disk
//!  8 version, 1                       24 length of the bitmap
//! 10 log2 of the granularity          32 bitmap: the portable 64-bit roaring format
//! 11 zeros                             … XXH3-64 of everything before
//! ```
//! Numbers are little endian. The checksum finds accidents; it does not tell who wrote the bytes.

use roaring::RoaringTreemap;
use vmkeep_model::ByteLen;
use xxhash_rust::xxh3::xxh3_64;

use super::bitmap::{LOG2_MAX, LOG2_MIN};
use super::{DirtyBitmap, DirtyBitmapError};

const MAGIC: &[u8; 8] = b"VMKDIRTY";
const VERSION: u16 = 1;
const HEAD_LEN: usize = 32;
const SUM_LEN: usize = 8;

fn damaged(reason: &'static str) -> DirtyBitmapError {
    DirtyBitmapError::Damaged { reason }
}

impl DirtyBitmap {
    /// The bitmap as bytes; equal bitmaps that were marked in another order may differ in bytes.
    pub fn encode(&self) -> Vec<u8> {
        let payload = payload(self.granules());
        let mut bytes = Vec::with_capacity(HEAD_LEN + payload.len() + SUM_LEN);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.push(self.log2());
        bytes.extend([0; 5]);
        bytes.extend(self.disk_len().0.to_le_bytes());
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(payload);
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote. Takes memory in proportion to `bytes`, whatever they say.
    ///
    /// # Errors
    /// [`DirtyBitmapError::Foreign`] for something else, [`DirtyBitmapError::Version`] for a later version,
    /// [`DirtyBitmapError::Damaged`] otherwise.
    pub fn decode(bytes: &[u8]) -> Result<Self, DirtyBitmapError> {
        if !bytes.starts_with(MAGIC) {
            return Err(DirtyBitmapError::Foreign);
        }
        let (body, sum) = bytes.split_last_chunk::<SUM_LEN>().ok_or(damaged("it was cut short"))?;
        let (head, payload) = body.split_first_chunk::<HEAD_LEN>().ok_or(damaged("it was cut short"))?;
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version != VERSION {
            return Err(DirtyBitmapError::Version(version));
        }
        if xxh3_64(body) != u64::from_le_bytes(*sum) {
            return Err(damaged("its checksum does not fit"));
        }
        let word = |at: usize| head[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let (log2, disk_len) = (head[10], ByteLen(word(16)));
        if !(LOG2_MIN..=LOG2_MAX).contains(&log2) || head[11..16] != [0; 5] {
            return Err(damaged("its header says what cannot be"));
        }
        if word(24) != payload.len() as u64 {
            return Err(damaged("its length does not fit"));
        }
        let empty = Self::new(disk_len, ByteLen(1 << log2))?;
        let granules = granules(payload)?;
        if granules.max().is_some_and(|last| last >= disk_len.0.div_ceil(1 << log2)) {
            return Err(damaged("it has granules behind the end of the disk"));
        }
        Ok(Self::of_parts(empty.disk_len(), log2, granules))
    }
}

fn payload(granules: &RoaringTreemap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(granules.serialized_size());
    granules.serialize_into(&mut bytes).expect("writing to memory does not fail");
    bytes
}

/// Reads a roaring bitmap that must be written back as the same bytes: the reader lets pass a part given twice, a
/// count that is not that of the runs, and bytes behind the end.
fn granules(bytes: &[u8]) -> Result<RoaringTreemap, DirtyBitmapError> {
    let granules = RoaringTreemap::deserialize_from(bytes).map_err(|_| damaged("its bitmap cannot be"))?;
    if granules.serialized_size() != bytes.len() || payload(&granules) != bytes {
        return Err(damaged("its bitmap is not written as it must be"));
    }
    Ok(granules)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmkeep_model::{ByteOffset, Extent};

    use super::*;

    fn bitmap() -> impl Strategy<Value = DirtyBitmap> {
        let marks = prop::collection::vec((any::<u64>(), prop_oneof![0_u64..5000, 0_u64..1 << 30]), 0..12);
        (1_u64..1 << 46, 9_u8..=31, marks).prop_map(|(len, log2, marks)| {
            let mut bitmap = DirtyBitmap::new(ByteLen(len), ByteLen(1 << log2)).unwrap();
            for (start, len_marked) in marks {
                bitmap.mark(Extent::new(ByteOffset(start % len), ByteLen(len_marked)));
            }
            bitmap
        })
    }

    /// Puts the right checksum under changed bytes, as somebody could who wants to.
    fn seal(bytes: &mut [u8]) {
        let end = bytes.len() - SUM_LEN;
        let sum = xxh3_64(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&sum);
    }

    proptest! {
        #[test]
        fn decode_undoes_encode(bitmap in bitmap()) {
            let bytes = bitmap.encode();
            let back = DirtyBitmap::decode(&bytes).unwrap();
            prop_assert_eq!(&back, &bitmap);
            prop_assert_eq!(back.encode(), bytes);
        }

        #[test]
        fn a_changed_byte_is_found(bitmap in bitmap(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut bytes = bitmap.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(DirtyBitmap::decode(&bytes).is_err());
            prop_assert!(DirtyBitmap::decode(&bytes[..at]).is_err());
        }

        #[test]
        fn under_a_right_checksum_only_what_is_written_the_same_way_is_read(
            bitmap in bitmap(), at in any::<prop::sample::Index>(), flip in 1_u8..
        ) {
            let mut bytes = bitmap.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            seal(&mut bytes);
            if let Ok(back) = DirtyBitmap::decode(&bytes) {
                prop_assert_eq!(back.encode(), bytes);
            }
        }
    }

    #[test]
    fn each_refusal_is_named() {
        let sound = DirtyBitmap::new(ByteLen(1 << 20), ByteLen(4096)).unwrap().encode();
        assert!(matches!(DirtyBitmap::decode(b"QFI\xfb"), Err(DirtyBitmapError::Foreign)));
        assert!(matches!(DirtyBitmap::decode(&[]), Err(DirtyBitmapError::Foreign)));
        let with = |at: usize, byte: u8| {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            seal(&mut bytes);
            DirtyBitmap::decode(&bytes).unwrap_err()
        };
        assert!(matches!(with(8, 2), DirtyBitmapError::Version(2)));
        assert!(matches!(with(10, 8), DirtyBitmapError::Damaged { .. }));
        assert!(matches!(with(12, 1), DirtyBitmapError::Damaged { .. }));
        assert!(matches!(with(23, 0xff), DirtyBitmapError::TooFine { .. }));
        assert!(matches!(with(24, 9), DirtyBitmapError::Damaged { .. }));
        assert!(matches!(with(32, 1), DirtyBitmapError::Damaged { .. })); // one part more than there is
    }

    /// The bytes of version 1 stay readable: nobody may change what this says.
    #[test]
    fn golden() {
        let mut bitmap = DirtyBitmap::new(ByteLen(1 << 20), ByteLen(65_536)).unwrap();
        bitmap.mark(Extent::new(ByteOffset(65_536), ByteLen(1)));
        let hex = bitmap.encode().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(
            hex,
            "564d4b4449525459010010000000000000001000000000001e00000000000000\
                 0100000000000000000000003a300000010000000000000010000000010079b0eabd7d670871"
        );
    }
}
