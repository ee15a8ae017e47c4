//! When to try again what cannot be done now.

use crate::Millis;

/// Waits that double, up to a bound, so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// Before the second attempt.
    pub first: Millis,
    /// The longest.
    pub longest: Millis,
    /// How many attempts there are, the first included.
    pub attempts: u32,
}

impl BackOff {
    /// 30 s, doubling up to 15 min, eight attempts: somewhat over an hour, within the two hours in which Azure starts a
    /// scheduled backup.
    pub const DEFAULT: Self = Self { first: Millis(30_000), longest: Millis(900_000), attempts: 8 };

    /// How long to wait when so many attempts have failed before this one; `None` when this was the last.
    pub fn after(&self, failed_before: u32) -> Option<Millis> {
        if failed_before >= self.attempts.saturating_sub(1) {
            return None;
        }
        let factor = 1_u64.checked_shl(failed_before).unwrap_or(u64::MAX);
        Some(Millis(self.first.0.saturating_mul(factor).min(self.longest.0)))
    }
}
