//! Bytes that can be computed at any place without computing those before.

/// What the allocated blocks of a generated disk hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    /// Noise: no compressor gains anything.
    #[default]
    Incompressible,
    /// Words and numbers, which zstd makes several times smaller.
    Text,
}

/// Bytes per word of a stream.
const WORD: usize = 8;
const VOCABULARY: &[u8; 16 * WORD] = b"backup  restore \
    block = page map\nsession a point is      the disk of    vault   \
    changed value = \nkey: 0xname=\"  </data>\n <item> ";

/// Spreads every bit of `x` over all 64; one to one. The finalizer of `SplitMix64` (Steele, Lea, Flood 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number that depends on all of `parts`.
pub(super) fn mix_all(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |sum, &part| mix(sum.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ mix(part)))
}

/// Fills `buf` with the stream of `key` from byte `at` on.
pub(super) fn fill(content: Content, key: u64, at: u64, buf: &mut [u8]) {
    let (mut word, skip) = (at / WORD as u64, (at % WORD as u64).try_into().unwrap_or(0));
    let head_len = if skip == 0 { 0 } else { buf.len().min(WORD - skip) };
    let (head, rest) = buf.split_at_mut(head_len);
    if !head.is_empty() {
        head.copy_from_slice(&word_at(content, key, word)[skip..skip + head_len]);
        word += 1;
    }
    for chunk in rest.chunks_mut(WORD) {
        chunk.copy_from_slice(&word_at(content, key, word)[..chunk.len()]);
        word += 1;
    }
}

fn word_at(content: Content, key: u64, index: u64) -> [u8; WORD] {
    let noise = mix(key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes();
    match content {
        Content::Incompressible => noise,
        Content::Text if noise[0] < 32 => noise.map(|b| b'0' + b % 10),
        Content::Text => {
            let start = usize::from(noise[1] % 16) * WORD;
            let mut word = [0; WORD];
            word.copy_from_slice(&VOCABULARY[start..start + WORD]);
            word
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_part_of_the_stream_equals_the_part_of_the_whole(
            at in 0_usize..100, len in 0_usize..100, text: bool, key: u64
        ) {
            let content = if text { Content::Text } else { Content::Incompressible };
            let (mut whole, mut part) = ([0; 200], vec![0; len]);
            fill(content, key, 0, &mut whole);
            fill(content, key, at as u64, &mut part);
            prop_assert_eq!(&part[..], &whole[at..at + len]);
        }
    }

    #[test]
    fn noise_uses_every_byte_evenly_and_text_few_of_them() {
        let distinct_and_most = |content| {
            let mut buf = vec![0; 1 << 16];
            fill(content, 7, 0, &mut buf);
            let mut count = [0_u32; 256];
            for byte in buf {
                count[usize::from(byte)] += 1;
            }
            (count.iter().filter(|&&n| n > 0).count(), count.into_iter().max().unwrap_or(0))
        };
        let (distinct, most) = distinct_and_most(Content::Incompressible);
        assert!(distinct == 256 && most < 350, "{distinct} {most}");
        let (distinct, most) = distinct_and_most(Content::Text);
        assert!(distinct < 60 && most > 1000, "{distinct} {most}");
    }
}
