//! Frames: neighbouring changed blocks, compressed together.
//!
//! A frame is the unit of compression, of sealing (one slot) and of liveness. It holds whole blocks in
//! ascending order, a tail block padded with zeros, or pages of blocks of which little changed. What does not become
//! smaller is stored as it is.

use std::borrow::Cow;

use vmkeep_envelope::Codec;
use vmkeep_model::{BlockIndex, BlockSize, ContentHash, PageMask};
use zstd::bulk::{Compressor, Decompressor};

use crate::noise::is_noise;

/// How much effort goes into making frames small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CompressionLevel {
    /// zstd 1 on frames of up to 256 KiB.
    Fast,
    /// zstd 3 on frames of up to 512 KiB.
    #[default]
    Default,
    /// zstd 5 on frames of up to 1 MiB.
    Best,
}

impl CompressionLevel {
    /// zstd's number for the level.
    pub fn zstd(self) -> i32 {
        match self {
            Self::Fast => 1,
            Self::Default => 3,
            Self::Best => 5,
        }
    }

    /// Length of a full frame, in bytes.
    pub fn frame_bytes(self) -> usize {
        match self {
            Self::Fast => 256 << 10,
            Self::Default => 512 << 10,
            Self::Best => 1 << 20,
        }
    }

    /// Most blocks of a frame; at least 1, whatever the block size.
    pub fn frame_blocks(self, block_size: BlockSize) -> usize {
        (self.frame_bytes() / block_size.bytes()).max(1)
    }
}

/// A frame ready to be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The blocks in it, ascending, each with the hash of its content.
    pub blocks: Vec<(BlockIndex, ContentHash)>,
    /// How `body` is to be read.
    pub codec: Codec,
    /// Length of the blocks together, in bytes.
    pub plain_len: u32,
    /// The blocks, compressed or as they are.
    pub body: Vec<u8>,
}

/// Pages of several blocks, compressed together and ready to be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchFrame {
    /// The patched blocks, ascending: which pages of each are in it, and the hash of the whole block as it is now.
    pub patches: Vec<(BlockIndex, PageMask, ContentHash)>,
    /// How `body` is to be read.
    pub codec: Codec,
    /// Length of the pages together, in bytes.
    pub plain_len: u32,
    /// The pages of each patch in order, compressed or as they are.
    pub body: Vec<u8>,
}

/// Makes frames at one level. Keep one per thread: it owns the compressor's memory.
pub struct FrameEncoder {
    compressor: Compressor<'static>,
    /// Whether noise is told before it is compressed: not at the level that is as fast as telling it.
    tells_noise: bool,
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameEncoder")
    }
}

/// A frame could not be compressed or is not what its slot says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// zstd failed on our own data or memory ran out.
    #[error("cannot compress a frame")]
    Compress(#[source] std::io::Error),
    /// The blocks are longer than a frame may be.
    #[error("a frame of {0} bytes is longer than a slot holds")]
    TooLong(usize),
    /// The body does not become the length its slot names.
    #[error("a frame does not unpack to the {expected} bytes its slot names")]
    Length {
        /// What the slot says.
        expected: u32,
    },
}

impl FrameEncoder {
    /// An encoder at `level`.
    pub fn new(level: CompressionLevel) -> Result<Self, FrameError> {
        let compressor = Compressor::new(level.zstd()).map_err(FrameError::Compress)?;
        Ok(Self { compressor, tells_noise: level > CompressionLevel::Fast })
    }

    /// The frame of `plain`, which holds `blocks` one after another.
    pub fn encode(
        &mut self,
        blocks: Vec<(BlockIndex, ContentHash)>,
        plain: Cow<'_, [u8]>,
    ) -> Result<Frame, FrameError> {
        let (codec, plain_len, body) = self.pack(plain)?;
        Ok(Frame { blocks, codec, plain_len, body })
    }

    /// The frame of `plain`, which holds the pages of `patches` one after another.
    pub fn encode_patches(
        &mut self,
        patches: Vec<(BlockIndex, PageMask, ContentHash)>,
        plain: Cow<'_, [u8]>,
    ) -> Result<PatchFrame, FrameError> {
        let (codec, plain_len, body) = self.pack(plain)?;
        Ok(PatchFrame { patches, codec, plain_len, body })
    }

    /// `plain` compressed, or as it is when that is not smaller.
    pub(crate) fn pack(&mut self, plain: Cow<'_, [u8]>) -> Result<(Codec, u32, Vec<u8>), FrameError> {
        let plain_len = u32::try_from(plain.len()).map_err(|_| FrameError::TooLong(plain.len()))?;
        if self.tells_noise && is_noise(&plain) {
            return Ok((Codec::Stored, plain_len, plain.into_owned()));
        }
        let packed = self.compressor.compress(&plain).map_err(FrameError::Compress)?;
        let (codec, body) = if packed.len() < plain.len() {
            (Codec::Zstd, packed)
        } else {
            (Codec::Stored, plain.into_owned())
        };
        Ok((codec, plain_len, body))
    }
}

/// Unpacks frames. Keep one per thread.
pub(crate) struct FrameDecoder {
    decompressor: Decompressor<'static>,
    plain: Vec<u8>,
}

impl FrameDecoder {
    pub(crate) fn new() -> Result<Self, FrameError> {
        let decompressor = Decompressor::new().map_err(FrameError::Compress)?;
        Ok(Self { decompressor, plain: Vec::new() })
    }

    /// The `plain_len` bytes that `body` holds, valid until the next call.
    ///
    /// Never produces more than `plain_len`, whatever the body claims about itself.
    pub(crate) fn unpack<'a>(
        &'a mut self,
        codec: Codec,
        plain_len: u32,
        body: &'a [u8],
    ) -> Result<&'a [u8], FrameError> {
        let wrong = || FrameError::Length { expected: plain_len };
        let expected = usize::try_from(plain_len).map_err(|_| wrong())?;
        let plain = match codec {
            Codec::Stored => body,
            Codec::Zstd => {
                self.plain.clear();
                self.plain.reserve(expected);
                self.decompressor.decompress_to_buffer(body, &mut self.plain).map_err(|_| wrong())?;
                &self.plain
            }
        };
        if plain.len() == expected { Ok(plain) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, mut state: u64) -> Vec<u8> {
        state |= 1;
        let step = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        };
        std::iter::repeat_with(step).take(len).collect()
    }

    proptest! {
        /// Pages of noise and of one byte, at the levels that tell noise.
        #[test]
        fn pages_of_any_kind_unpack_to_what_went_in(
            pages in prop::collection::vec(prop::option::of(any::<u8>()), 1..24), seed in any::<u64>(), cut in 0_usize..4096,
            level in prop_oneof![Just(CompressionLevel::Default), Just(CompressionLevel::Best)]
        ) {
            let page = |(n, page): (usize, &Option<u8>)| match page {
                Some(byte) => vec![*byte; 4096],
                None => noise(4096, seed.wrapping_add(n as u64 * 7)),
            };
            let mut plain = pages.iter().enumerate().map(page).collect::<Vec<_>>().concat();
            plain.truncate(plain.len() - cut);
            let frame = FrameEncoder::new(level).unwrap().encode(Vec::new(), plain.as_slice().into()).unwrap();
            let mut decoder = FrameDecoder::new().unwrap();
            prop_assert_eq!(decoder.unpack(frame.codec, frame.plain_len, &frame.body).unwrap(), &plain[..]);
            // No larger than what zstd alone makes of it.
            let alone = zstd::bulk::compress(&plain, level.zstd()).unwrap();
            prop_assert!(frame.body.len() <= plain.len().min(alone.len()));
        }

        #[test]
        fn a_frame_unpacks_to_what_went_in(seed in any::<u8>(), repeat in 1_usize..64, noise in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut plain = vec![seed; repeat * 100];
            plain.extend(noise);
            let frame = FrameEncoder::new(CompressionLevel::Fast).unwrap().encode(Vec::new(), plain.as_slice().into()).unwrap();
            let mut decoder = FrameDecoder::new().unwrap();
            prop_assert_eq!(decoder.unpack(frame.codec, frame.plain_len, &frame.body).unwrap(), &plain[..]);
            prop_assert!(frame.body.len() <= plain.len());
        }

        #[test]
        fn a_body_never_unpacks_to_more_than_its_slot_names(claimed in 0_u32..10_000, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoder = FrameDecoder::new().unwrap();
            if let Ok(plain) = decoder.unpack(Codec::Zstd, claimed, &body) {
                prop_assert_eq!(plain.len(), claimed as usize);
            }
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        assert!(FrameDecoder::new().unwrap().unpack(Codec::Zstd, 65_536, &bomb).is_err());
    }
}
