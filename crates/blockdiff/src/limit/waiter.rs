//! Waiting as a port, so that tests and simulations do not.

use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Tells how much time has passed, and lets it pass.
///
/// # Contract
/// - [`now`](Self::now) never goes back, whatever happens to the wall clock; two threads see the same time.
/// - [`wait`](Self::wait) blocks the calling thread until `time` has passed, or less; whoever waits looks at the clock
///   again. It must not return at once for ever: a waiter by hand moves its time on.
pub trait Waiter: Send + Sync + fmt::Debug {
    /// Time since a fixed moment.
    fn now(&self) -> Duration;

    /// Waits for `time`, or less.
    fn wait(&self, time: Duration);
}

/// The monotonic clock of the system.
#[derive(Clone, Copy, Debug)]
pub struct SystemWaiter {
    origin: Instant,
}

impl Default for SystemWaiter {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Waiter for SystemWaiter {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn wait(&self, time: Duration) {
        // Nobody else has these, so nobody signals: only the time-out ends the wait.
        let (lock, never) = (Mutex::new(()), Condvar::new());
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(never.wait_timeout(guard, time));
    }
}
