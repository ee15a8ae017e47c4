//! What a sample finds, and how large it must be.

/// Below this logarithm of the chance to find nothing, the chance to find something is 1 to the last bit of an `f64`.
const CERTAIN: f64 = -40.0;

/// The chance that a uniform sample of `sampled` out of `unchanged` blocks, without replacement, holds at least one of
/// the `missed` blocks: the hypergeometric `1 - C(u-m, s) / C(u, s)`, from 0 to 1.
///
/// More missed or sampled than there are counts as all of them. The relative error is a few units in the last place
/// times the number of terms, which is the smaller of `missed` and `sampled`, and at most about `7 * sqrt(unchanged)`.
pub fn detection_probability(missed: u64, unchanged: u64, sampled: u64) -> f64 {
    let (missed, sampled) = (missed.min(unchanged), sampled.min(unchanged));
    if missed == 0 || sampled == 0 {
        return 0.0;
    }
    if missed > unchanged - sampled {
        return 1.0;
    }
    // C(u-m, s) / C(u, s) is symmetric in m and s; the product over the smaller has fewer factors 1 - larger/(u-i).
    let (terms, larger) = (missed.min(sampled), float(missed.max(sampled)));
    let mut log_none = 0.0;
    for i in 0..terms {
        log_none += (-larger / float(unchanged - i)).ln_1p();
        if log_none < CERTAIN {
            return 1.0;
        }
    }
    -f64::exp_m1(log_none)
}

/// The smallest sample of `unchanged` blocks that finds at least one of `missed` with at least `probability`.
///
/// 0 for a probability of 0 or less and where nothing is there to be found; for 1 or more, and for what is no number,
/// as many as make it certain: all but `missed`, and one.
pub fn sample_size_for(missed: u64, unchanged: u64, probability: f64) -> u64 {
    let missed = missed.min(unchanged);
    if missed == 0 || probability <= 0.0 {
        return 0;
    }
    let certain = unchanged - missed + 1;
    if probability.is_nan() || probability >= 1.0 {
        return certain;
    }
    // The chance grows with the sample.
    let (mut below, mut enough) = (0, certain);
    while enough - below > 1 {
        let middle = below + (enough - below) / 2;
        if detection_probability(missed, unchanged, middle) >= probability {
            enough = middle;
        } else {
            below = middle;
        }
    }
    enough
}

/// Exact up to 2^53, which is more than the blocks of any disk.
#[allow(clippy::cast_precision_loss)]
fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By counting: Pascal's triangle.
    fn counted(missed: u64, unchanged: u64, sampled: u64) -> f64 {
        let choose = |n: u64, k: u64| {
            if k > n { 0 } else { (0..k).fold(1_u128, |c, i| c * u128::from(n - i) / u128::from(i + 1)) }
        };
        #[allow(clippy::cast_precision_loss)]
        let ratio = choose(unchanged - missed, sampled) as f64 / choose(unchanged, sampled) as f64;
        1.0 - ratio
    }

    proptest! {
        #[test]
        fn equals_counting(
            (unchanged, missed, sampled) in (1_u64..60).prop_flat_map(|u| (Just(u), 0..=u, 0..=u))
        ) {
            let got = detection_probability(missed, unchanged, sampled);
            prop_assert!((got - counted(missed, unchanged, sampled)).abs() < 1e-12, "{got}");
        }

        #[test]
        fn the_size_is_the_smallest_that_suffices(
            (unchanged, missed) in (1_u64..1 << 30).prop_flat_map(|u| (Just(u), 1..=u)), probability in 0.001_f64..0.9999
        ) {
            let size = sample_size_for(missed, unchanged, probability);
            prop_assert!(detection_probability(missed, unchanged, size) >= probability);
            prop_assert!(detection_probability(missed, unchanged, size - 1) < probability);
        }
    }

    #[test]
    fn at_the_edges() {
        assert!(detection_probability(0, 10, 10) < f64::EPSILON);
        assert!(detection_probability(1, 0, 1) < f64::EPSILON);
        assert!((detection_probability(1, 10, 10) - 1.0).abs() < f64::EPSILON);
        assert!((detection_probability(u64::MAX, u64::MAX, 1) - 1.0).abs() < f64::EPSILON);
        // One of 2^29 blocks by one: not lost to rounding.
        let tiny = detection_probability(1, 1 << 29, 1);
        assert!((tiny * f64::from(1 << 29) - 1.0).abs() < 1e-9, "{tiny}");
        assert_eq!(sample_size_for(3, 10, 1.0), 8);
        assert_eq!(sample_size_for(0, 10, 0.5), 0);
        // 1 % of a disk of 32 TiB with 99 %: as few blocks as for a small one.
        assert_eq!(sample_size_for((1 << 29) / 100, 1 << 29, 0.99), 459);
    }
}
