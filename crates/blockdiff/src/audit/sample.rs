//! A uniform sample without replacement, in ascending order, without memory.

/// `SplitMix64` (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Clone, Debug)]
pub(super) struct SplitMix(u64);

impl SplitMix {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and 1, neither of them.
    #[allow(clippy::cast_precision_loss)] // 53 bits are exact
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }
}

/// Where stepping one by one is faster than drawing the length of a step: Vitter's `1/alpha`.
const STEP_BELOW: u64 = 13;

/// `wanted` of the numbers `0 .. len`, ascending, every set of that size as likely as any other.
///
/// Vitter's method D ("An Efficient Algorithm for Sequential Random Sampling", ACM TOMS 13, 1987): the length of each
/// step is drawn from its distribution by rejection, so the time goes with `wanted`; where much of what is left is
/// wanted, method A walks it.
#[derive(Debug)]
pub(super) struct UniformSample {
    random: SplitMix,
    /// First number not decided.
    at: u64,
    left: u64,
    wanted: u64,
    /// The largest of `wanted` random numbers, as one draw: what the next step of method D is guessed from. `None`
    /// where it was not drawn for what is wanted now.
    guess: Option<f64>,
}

impl UniformSample {
    /// `wanted` is cut to `len`.
    pub(super) fn new(random: SplitMix, len: u64, wanted: u64) -> Self {
        Self { random, at: 0, left: len, wanted: wanted.min(len), guess: None }
    }

    /// How many numbers to leave out before the next that is taken.
    fn step(&mut self) -> u64 {
        if self.wanted == 1 {
            return floor(float(self.left) * self.random.unit()).min(self.left - 1);
        }
        if self.left / STEP_BELOW < self.wanted { self.step_a() } else { self.step_d() }
    }

    fn step_a(&mut self) -> u64 {
        self.guess = None;
        let random = self.random.unit();
        let (mut others, mut left) = (self.left - self.wanted, self.left);
        let mut chance = float(others) / float(left);
        let mut step = 0;
        while chance > random && others > 0 {
            step += 1;
            others -= 1;
            left -= 1;
            chance *= float(others) / float(left);
        }
        step
    }

    fn step_d(&mut self) -> u64 {
        let (left, wanted) = (float(self.left), float(self.wanted));
        let step_max = self.left - self.wanted;
        let places = float(step_max + 1);
        let root = 1.0 / (wanted - 1.0);
        loop {
            let guess = self.guess.take().unwrap_or_else(|| largest_of(&mut self.random, self.wanted));
            let x = left * (1.0 - guess);
            let step = floor(x);
            if step > step_max {
                continue;
            }
            // Accepted at once: then what was computed is a fresh guess for the next step.
            let y = (self.random.unit() * left / places).powf(root);
            let fresh = y * (1.0 - x / left) * (places / (places - float(step)));
            if fresh <= 1.0 {
                self.guess = Some(fresh);
                return step;
            }
            // The exact ratio decides.
            let (mut bottom, limit) = if self.wanted - 1 > step {
                (self.left - self.wanted, self.left - step)
            } else {
                (self.left - step - 1, step_max + 1)
            };
            let mut ratio = 1.0;
            for top in (limit..self.left).rev() {
                ratio *= float(top) / float(bottom);
                bottom -= 1;
            }
            if left / (left - x) >= y * ratio.powf(root) {
                return step;
            }
        }
    }
}

impl Iterator for UniformSample {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.wanted == 0 {
            return None;
        }
        let step = self.step();
        let taken = self.at + step;
        self.at = taken + 1;
        self.left -= step + 1;
        self.wanted -= 1;
        Some(taken)
    }
}

fn largest_of(random: &mut SplitMix, count: u64) -> f64 {
    random.unit().powf(1.0 / float(count.max(1)))
}

/// Exact up to 2^53, which is more than the blocks of any disk.
#[allow(clippy::cast_precision_loss)]
fn float(n: u64) -> f64 {
    n as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // of a value from 0 to 2^64; `as` saturates
fn floor(x: f64) -> u64 {
    x as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(seed: u64, len: u64, wanted: u64) -> Vec<u64> {
        UniformSample::new(SplitMix::new(seed), len, wanted).collect()
    }

    proptest! {
        #[test]
        fn ascending_unique_within_and_as_many_as_wanted(
            seed in any::<u64>(), len in prop_oneof![0_u64..40, 0_u64..100_000, 0_u64..1 << 40], wanted in 0_u64..500
        ) {
            let taken = sample(seed, len, wanted);
            prop_assert_eq!(taken.len() as u64, wanted.min(len));
            prop_assert!(taken.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(taken.last().is_none_or(|last| *last < len));
        }
    }

    /// Every set of 3 out of 7 (method A) is as likely as any other: chi square with 34 degrees of freedom is below
    /// 66.6 with a chance of 0.9993.
    #[test]
    fn every_set_is_as_likely() {
        let (runs, sets) = (35_000_u64, 35.0);
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..runs {
            *counts.entry(sample(seed.wrapping_mul(0x1234_5677), 7, 3)).or_insert(0_u64) += 1;
        }
        assert_eq!(counts.len(), 35);
        let expected = float(runs) / sets;
        let chi: f64 = counts.values().map(|n| (float(*n) - expected).powi(2) / expected).sum();
        assert!(chi < 66.6, "{chi}");
    }

    /// Pairs of places out of 60 numbers, 4 wanted (method D): each pair is taken with 4/60 * 3/59.
    #[test]
    fn every_pair_is_as_likely() {
        let runs = 120_000_u64;
        let mut pairs = vec![0_u64; 3600];
        let mut singles = vec![0_u64; 60];
        for seed in 0..runs {
            let taken = sample(seed.wrapping_mul(0x9876_5431), 60, 4);
            for (n, a) in taken.iter().enumerate() {
                singles[usize::try_from(*a).unwrap()] += 1;
                for b in &taken[n + 1..] {
                    pairs[usize::try_from(a * 60 + b).unwrap()] += 1;
                }
            }
        }
        // Bounds of 4.5 standard deviations for each of 60, of 5 for each of 1770.
        let near = |count: u64, chance: f64, bound: f64| {
            let expected = float(runs) * chance;
            (float(count) - expected).abs() < bound * (expected * (1.0 - chance)).sqrt()
        };
        assert!(singles.iter().all(|n| near(*n, 4.0 / 60.0, 4.5)), "{singles:?}");
        for a in 0..60 {
            for b in a + 1..60 {
                assert!(
                    near(pairs[a * 60 + b], 4.0 / 60.0 * 3.0 / 59.0, 5.0),
                    "{a} {b}: {}",
                    pairs[a * 60 + b]
                );
            }
        }
    }

    /// 2^40 numbers, 1000 wanted: spread evenly over 64 parts. Chi square with 63 degrees of freedom is below 112 with
    /// a chance of 0.9999.
    #[test]
    fn a_sample_of_a_long_range_is_spread_evenly() {
        let mut counts = [0_u64; 64];
        for seed in 0..50 {
            for taken in sample(seed * 77 + 1, 1 << 40, 1000) {
                counts[usize::try_from(taken >> 34).unwrap()] += 1;
            }
        }
        let expected = 50_000.0 / 64.0;
        let chi: f64 = counts.iter().map(|n| (float(*n) - expected).powi(2) / expected).sum();
        assert!(chi < 112.0, "{chi}");
    }
}
