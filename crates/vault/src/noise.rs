//! Telling noise (encrypted or compressed files) from what a compressor may shrink, cheaper than by compressing it.
//!
//! zstd passes over noise fast, but not for nothing, and the slower the higher its level. Measured on one core, GB of
//! noise per second: level 1 in frames of 256 KiB 9.4, level 3 in 512 KiB 4.2, level 5 in 1 MiB 1.6. The probe is asked
//! from level 3 on. It says noise only when every page looks like it, so that one page of something else has the frame
//! compressed as ever; what is not noise it tells at the first such page, and costs nothing.

use vmkeep_model::PAGE_SIZE;

/// Bytes looked at in a page: as many as there are values of a byte.
const SAMPLED: usize = 256;
/// One byte in so many.
const STRIDE: usize = PAGE_SIZE / SAMPLED;
/// Most that the squared counts of the values may sum to. Even chances give 511 with a deviation of 23; 128 values
/// instead of 256 give 767, base 64 gives 1276, text many thousands.
const SQUARES_MAX: u32 = 700;
/// Copies on a disk lie where sectors begin.
const SECTOR: usize = 512;

/// Whether no page of `plain` would become smaller, and no sector is there twice.
pub(crate) fn is_noise(plain: &[u8]) -> bool {
    let pages = plain.chunks_exact(PAGE_SIZE);
    !plain.is_empty() && pages.remainder().is_empty() && pages.into_iter().all(is_even) && !repeats(plain)
}

/// Whether the values of bytes are about as frequent as each other in a page.
fn is_even(page: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    for (n, stretch) in page.chunks_exact(STRIDE).enumerate() {
        // Every place within a stretch comes to its turn, so that no record of a table hides in between.
        counts[usize::from(stretch[(n + n / STRIDE) % STRIDE])] += 1;
    }
    counts.iter().map(|count| count * count).sum::<u32>() <= SQUARES_MAX
}

/// Whether two sectors begin alike.
fn repeats(plain: &[u8]) -> bool {
    let mut begins: Vec<u64> = plain
        .chunks(SECTOR)
        .filter_map(|sector| sector.first_chunk().map(|begin| u64::from_le_bytes(*begin)))
        .collect();
    begins.sort_unstable();
    begins.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// A page of something that zstd makes smaller.
    fn compressible() -> impl Strategy<Value = Vec<u8>> {
        let spread = |of: &'static [u8]| move |n: u8| of[usize::from(n) % of.len()];
        let text = b"backup restore block = page map session a point is the disk of vault";
        let base64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte; PAGE_SIZE]),
            any::<u64>().prop_map(move |seed| noise(PAGE_SIZE, seed).into_iter().map(spread(text)).collect()),
            any::<u64>()
                .prop_map(move |seed| noise(PAGE_SIZE, seed).into_iter().map(spread(base64)).collect()),
            // Records of 16 bytes, half of them zeros; half a page of zeros; numbers that count up.
            any::<u64>().prop_map(|seed| {
                let bytes = noise(PAGE_SIZE, seed).into_iter().enumerate();
                bytes.map(|(n, byte)| if n % 16 < 8 { byte } else { 0 }).collect()
            }),
            any::<u64>().prop_map(|seed| [noise(PAGE_SIZE / 2, seed), vec![0; PAGE_SIZE / 2]].concat()),
            any::<u32>()
                .prop_map(|from| (0..1024).flat_map(|n| from.wrapping_add(n).to_le_bytes()).collect()),
        ]
    }

    proptest! {
        #[test]
        fn noise_is_noise(seed in any::<u64>(), pages in 1_usize..64) {
            prop_assert!(is_noise(&noise(pages * PAGE_SIZE, seed)));
        }

        #[test]
        fn one_page_of_something_else_is_enough(
            page in compressible(), seed in any::<u64>(), pages in 0_usize..32, at in any::<prop::sample::Index>()
        ) {
            let mut plain = noise(pages * PAGE_SIZE, seed);
            let at = at.index(pages + 1) * PAGE_SIZE;
            plain.splice(at..at, page);
            prop_assert!(!is_noise(&plain));
        }

        #[test]
        fn noise_that_is_there_twice_is_not(seed in any::<u64>(), pages in 1_usize..32, twice in any::<prop::sample::Index>()) {
            let mut plain = noise(pages * PAGE_SIZE, seed);
            let twice = twice.index(pages) * PAGE_SIZE;
            plain.extend_from_within(twice..twice + PAGE_SIZE);
            prop_assert!(!is_noise(&plain));
        }
    }

    #[test]
    fn what_is_not_whole_pages_is_left_to_the_compressor() {
        assert!(!is_noise(&[]));
        assert!(!is_noise(&noise(PAGE_SIZE - 1, 1)));
        assert!(!is_noise(&noise(3 * PAGE_SIZE + 1, 1)));
        // All values are as frequent as each other, in order.
        let counting: Vec<u8> = (0..=255).cycle().take(4 * PAGE_SIZE).collect();
        assert!(!is_noise(&counting));
    }
}
