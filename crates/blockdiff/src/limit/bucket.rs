//! A token bucket, without a clock.

use std::num::NonZeroU64;
use std::time::Duration;

use vmkeep_model::ByteLen;

const NANOS: u128 = 1_000_000_000;

/// Least burst of [`TokenBucket::per_second`]: one block of the default size.
const BURST_MIN: NonZeroU64 = NonZeroU64::new(65_536).expect("not zero");

/// Lets through `rate` bytes per second, and `burst` bytes at once after a rest.
///
/// Over any stretch of time `t`, at most `rate * t + burst` bytes are let through; nothing is ever lent ahead. The
/// arithmetic is in whole numbers and loses nothing: over a long time the rate is exact.
///
/// ```
/// use std::num::NonZeroU64;
/// use std::time::Duration;
/// use vmkeep_blockdiff::{Take, TokenBucket};
/// use vmkeep_model::ByteLen;
///
/// let number = |n| NonZeroU64::new(n).expect("not zero");
/// let mut bucket = TokenBucket::new(number(1000), number(500));
/// let second = Duration::from_secs;
/// assert_eq!(bucket.take(second(7), ByteLen(400)), Take::Granted(ByteLen(400)));
/// assert_eq!(bucket.take(second(7), ByteLen(400)), Take::Wait(Duration::from_millis(300)));
/// assert_eq!(bucket.take(second(8), ByteLen(400)), Take::Granted(ByteLen(400)));
/// ```
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: NonZeroU64,
    burst: NonZeroU64,
    /// What may be let through at `at`, in bytes times 10^9: what comes in a nanosecond is a whole number of these.
    level: u128,
    /// When the level was counted; `None` before the first take.
    at: Option<Duration>,
}

/// What a bucket says to who wants bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// So many may pass now: all that was wanted, or one burst when that is less. Whoever wants the rest asks again.
    Granted(ByteLen),
    /// None may pass; after this time the same take is granted, unless somebody else took in between.
    Wait(Duration),
}

impl TokenBucket {
    /// A bucket of `rate` bytes per second that holds up to `burst` bytes, and is full.
    pub fn new(rate: NonZeroU64, burst: NonZeroU64) -> Self {
        Self { rate, burst, level: u128::from(burst.get()) * NANOS, at: None }
    }

    /// A bucket of `rate` bytes per second whose burst is a tenth of a second's worth, or 64 KiB where that is more.
    pub fn per_second(rate: NonZeroU64) -> Self {
        Self::new(rate, NonZeroU64::new(rate.get() / 10).map_or(BURST_MIN, |tenth| tenth.max(BURST_MIN)))
    }

    /// Bytes per second.
    pub fn rate(&self) -> NonZeroU64 {
        self.rate
    }

    /// Most bytes that pass at once.
    pub fn burst(&self) -> NonZeroU64 {
        self.burst
    }

    /// Takes `wanted` bytes, or one burst when that is less, or says how long to wait. `now` is the time since any
    /// fixed moment; where it goes backwards, no time has passed.
    pub fn take(&mut self, now: Duration, wanted: ByteLen) -> Take {
        self.fill(now);
        let piece = wanted.0.min(self.burst.get());
        let needed = u128::from(piece) * NANOS;
        match needed.checked_sub(self.level) {
            None | Some(0) => {
                self.level -= needed;
                Take::Granted(ByteLen(piece))
            }
            Some(lacking) => {
                let nanos = lacking.div_ceil(u128::from(self.rate.get()));
                Take::Wait(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
            }
        }
    }

    fn fill(&mut self, now: Duration) {
        let before = self.at.unwrap_or(now);
        let passed = now.saturating_sub(before).as_nanos();
        let full = u128::from(self.burst.get()) * NANOS;
        self.level = passed.saturating_mul(u128::from(self.rate.get())).saturating_add(self.level).min(full);
        self.at = Some(before.max(now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = NonZeroU64> {
        prop_oneof![1_u64..10, 1_u64..100_000, 1_u64..1 << 40, Just(u64::MAX)]
            .prop_map(|n| NonZeroU64::new(n).unwrap())
    }

    proptest! {
        #[test]
        fn over_any_stretch_of_time_no_more_than_rate_and_burst_pass(
            rate in number(), burst in number(),
            takes in prop::collection::vec((0_u64..3_000_000_000, 0_u64..1 << 41), 1..40)
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let mut now = 0;
            let mut granted: Vec<(u64, u128)> = Vec::new();
            for (pause, wanted) in takes {
                now += pause;
                if let Take::Granted(bytes) = bucket.take(Duration::from_nanos(now), ByteLen(wanted)) {
                    prop_assert_eq!(bytes.0, wanted.min(burst.get()));
                    granted.push((now, u128::from(bytes.0)));
                }
            }
            for (n, (start, _)) in granted.iter().enumerate() {
                let mut sum = 0;
                for (end, bytes) in &granted[n..] {
                    sum += bytes;
                    let allowed = u128::from(rate.get()) * u128::from(end - start) + u128::from(burst.get()) * NANOS;
                    prop_assert!(sum * NANOS <= allowed, "{} bytes in {} ns", sum, end - start);
                }
            }
        }

        /// The wait is long enough, and no nanosecond longer.
        #[test]
        fn after_the_wait_it_is_granted_and_not_before(
            rate in 1_u64..1 << 40, burst in 1_u64..1 << 40, wanted in prop::collection::vec(0_u64..1 << 40, 1..20)
        ) {
            let number = |n| NonZeroU64::new(n).unwrap();
            let mut bucket = TokenBucket::new(number(rate), number(burst));
            let mut now = Duration::from_secs(5);
            for wanted in wanted {
                if let Take::Wait(wait) = bucket.take(now, ByteLen(wanted)) {
                    let almost = (now + wait).saturating_sub(Duration::from_nanos(1));
                    prop_assert_eq!(bucket.clone().take(almost, ByteLen(wanted)), Take::Wait(Duration::from_nanos(1)));
                    now += wait;
                    prop_assert_eq!(bucket.take(now, ByteLen(wanted)), Take::Granted(ByteLen(wanted.min(burst))));
                }
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_and_takes_nothing() {
        let number = |n| NonZeroU64::new(n).unwrap();
        let mut bucket = TokenBucket::new(number(10), number(10));
        assert_eq!(bucket.take(Duration::from_secs(9), ByteLen(10)), Take::Granted(ByteLen(10)));
        assert_eq!(bucket.take(Duration::from_secs(3), ByteLen(10)), Take::Wait(Duration::from_secs(1)));
        assert_eq!(bucket.take(Duration::from_secs(10), ByteLen(10)), Take::Granted(ByteLen(10)));
    }

    #[test]
    fn nothing_is_always_granted() {
        let one = NonZeroU64::MIN;
        let mut bucket = TokenBucket::new(one, one);
        for _ in 0..3 {
            assert_eq!(bucket.take(Duration::ZERO, ByteLen(0)), Take::Granted(ByteLen(0)));
        }
    }
}
