//! A limit that threads share.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmkeep_model::{ByteLen, CancelToken, Cancelled};

use super::{SystemWaiter, Take, TokenBucket, Waiter};

/// Longest time between two looks at the cancel token.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// A limit on bytes per second that any number of threads share.
///
/// Whoever acquires waits in a line. The first of the line takes one piece, at most a burst, as soon as the bucket has
/// it, and whoever wants more goes back to the end: so between two pieces of one thread every other thread that waits
/// gets one, and nobody starves. What is let through is exact per piece ([`TokenBucket`]); a read longer than a burst
/// should be acquired, and done, in parts.
///
/// ```
/// use std::num::NonZeroU64;
/// use vmkeep_blockdiff::{Limiter, TokenBucket};
/// use vmkeep_model::{ByteLen, CancelToken};
///
/// let rate = NonZeroU64::new(100 << 20).expect("not zero"); // 100 MiB/s
/// let limiter = Limiter::new(TokenBucket::per_second(rate));
/// limiter.acquire(ByteLen(65_536), &CancelToken::new())?; // then read 64 KiB
/// # Ok::<(), vmkeep_model::Cancelled>(())
/// ```
#[derive(Debug)]
pub struct Limiter {
    line: Mutex<Line>,
    /// The first of the line has changed.
    moved: Condvar,
    waiter: Arc<dyn Waiter>,
}

#[derive(Debug)]
struct Line {
    bucket: TokenBucket,
    tickets: VecDeque<u64>,
    next_ticket: u64,
}

impl Limiter {
    /// A limit by the clock of the system.
    pub fn new(bucket: TokenBucket) -> Self {
        Self::with_waiter(bucket, Arc::new(SystemWaiter::default()))
    }

    /// A limit by another clock.
    pub fn with_waiter(bucket: TokenBucket, waiter: Arc<dyn Waiter>) -> Self {
        let line = Line { bucket, tickets: VecDeque::new(), next_ticket: 0 };
        Self { line: Mutex::new(line), moved: Condvar::new(), waiter }
    }

    /// Most bytes that pass at once: what is longer is best acquired, and done, in pieces of this.
    pub fn burst(&self) -> ByteLen {
        ByteLen(self.lock().bucket.burst().get())
    }

    /// Blocks the calling thread until `bytes` may pass.
    ///
    /// # Errors
    /// [`Cancelled`] at most some 50 ms after somebody asked to stop. What was let through until then counts as
    /// used; the place in the line is free again.
    pub fn acquire(&self, bytes: ByteLen, cancel: &CancelToken) -> Result<(), Cancelled> {
        cancel.check()?;
        let mut left = bytes.0;
        let mut place = Place::at_the_end(self);
        while left > 0 {
            left -= place.take(ByteLen(left), cancel)?.0;
            if left > 0 {
                place.go_to_the_end();
            }
        }
        Ok(())
    }

    // Every change of the line is whole before anything could panic, so a poisoned lock guards a sound line.
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn join(&mut self) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.tickets.push_back(ticket);
        ticket
    }

    fn leave(&mut self, ticket: u64) {
        self.tickets.retain(|waiting| *waiting != ticket);
    }
}

/// A place in the line; left when it is dropped.
struct Place<'a> {
    limiter: &'a Limiter,
    ticket: u64,
}

impl<'a> Place<'a> {
    fn at_the_end(limiter: &'a Limiter) -> Self {
        Self { limiter, ticket: limiter.lock().join() }
    }

    fn go_to_the_end(&mut self) {
        let mut line = self.limiter.lock();
        line.leave(self.ticket);
        self.ticket = line.join();
        self.limiter.moved.notify_all();
    }

    /// Waits to be the first of the line and then for the bucket; takes one piece.
    fn take(&self, wanted: ByteLen, cancel: &CancelToken) -> Result<ByteLen, Cancelled> {
        let mut line = self.limiter.lock();
        while line.tickets.front() != Some(&self.ticket) {
            cancel.check()?;
            line =
                self.limiter.moved.wait_timeout(line, CANCEL_CHECK).unwrap_or_else(PoisonError::into_inner).0;
        }
        loop {
            cancel.check()?;
            match line.bucket.take(self.limiter.waiter.now(), wanted) {
                Take::Granted(bytes) => return Ok(bytes),
                Take::Wait(time) => {
                    // Others may join meanwhile; nobody else is the first.
                    drop(line);
                    self.limiter.waiter.wait(time.min(CANCEL_CHECK));
                    line = self.limiter.lock();
                }
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.limiter.lock().leave(self.ticket);
        self.limiter.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::num::NonZeroU64;
    use std::thread::{self, ThreadId};

    use super::*;

    /// Time passes only by waiting; remembers who waited.
    #[derive(Debug, Default)]
    struct ByHand {
        state: Mutex<(Duration, Vec<ThreadId>)>,
        cancel_after: Option<(Duration, CancelToken)>,
    }

    impl Waiter for ByHand {
        fn now(&self) -> Duration {
            self.state.lock().unwrap().0
        }

        fn wait(&self, time: Duration) {
            let mut state = self.state.lock().unwrap();
            state.0 += time;
            state.1.push(thread::current().id());
            if let Some((after, cancel)) = &self.cancel_after
                && state.0 >= *after
            {
                cancel.cancel();
            }
        }
    }

    fn bucket(rate: u64, burst: u64) -> TokenBucket {
        TokenBucket::new(NonZeroU64::new(rate).unwrap(), NonZeroU64::new(burst).unwrap())
    }

    #[test]
    fn it_takes_as_long_as_the_rate_says() {
        let time = Arc::new(ByHand::default());
        let limiter = Limiter::with_waiter(bucket(1000, 100), time.clone());
        for bytes in [0, 1, 99, 5000, 4900, 100] {
            limiter.acquire(ByteLen(bytes), &CancelToken::new()).unwrap();
        }
        // 10,100 bytes, of which one burst was there.
        assert_eq!(time.now(), Duration::from_secs(10));
    }

    #[test]
    fn who_is_cancelled_leaves_the_line() {
        let cancel = CancelToken::new();
        let cancel_after = Some((Duration::from_secs(3), cancel.clone()));
        let time = Arc::new(ByHand { cancel_after, ..ByHand::default() });
        let limiter = Limiter::with_waiter(bucket(10, 10), time.clone());
        assert_eq!(limiter.acquire(ByteLen(1_000_000), &cancel), Err(Cancelled));
        assert!(time.now() < Duration::from_secs(4));
        assert_eq!(limiter.acquire(ByteLen(1), &cancel), Err(Cancelled));
        assert!(limiter.line.lock().unwrap().tickets.is_empty());
        limiter.acquire(ByteLen(10), &CancelToken::new()).unwrap();
    }

    /// Four threads with a thousand pieces each. While all are in the line, each gets one piece in four.
    #[test]
    fn threads_take_turns() {
        const THREADS: usize = 4;
        let time = Arc::new(ByHand::default());
        // One piece is ten bytes and takes 10 ms: one wait for each.
        let limiter = Limiter::with_waiter(bucket(1000, 10), time.clone());
        let closed = Place::at_the_end(&limiter);
        thread::scope(|threads| {
            for _ in 0..THREADS {
                threads.spawn(|| limiter.acquire(ByteLen(10_000), &CancelToken::new()).unwrap());
            }
            while limiter.lock().tickets.len() <= THREADS {
                thread::yield_now();
            }
            drop(closed);
        });
        assert_eq!(time.now(), Duration::from_millis((1000 * THREADS as u64 - 1) * 10));
        let order = &time.state.lock().unwrap().1;
        let all: HashSet<ThreadId> = order.iter().copied().collect();
        let ended =
            all.iter().map(|who| order.iter().rposition(|other| other == who).unwrap()).min().unwrap();
        for window in order[..ended].windows(THREADS) {
            let different: HashSet<&ThreadId> = window.iter().collect();
            assert_eq!(different.len(), THREADS, "somebody had two turns before another had one");
        }
    }

    #[test]
    fn who_waits_for_a_turn_can_be_cancelled() {
        let time = Arc::new(ByHand::default());
        let limiter = Limiter::with_waiter(bucket(10, 10), time);
        let first = Place::at_the_end(&limiter);
        let cancel = CancelToken::new();
        thread::scope(|threads| {
            let waiting = threads.spawn(|| limiter.acquire(ByteLen(1), &cancel));
            cancel.cancel();
            assert_eq!(waiting.join().unwrap(), Err(Cancelled));
        });
        drop(first);
        assert!(limiter.line.lock().unwrap().tickets.is_empty());
    }

    #[test]
    fn the_clock_of_the_system_goes_on_while_waiting() {
        let system = SystemWaiter::default();
        let before = system.now();
        while system.now() < before + Duration::from_millis(2) {
            system.wait(Duration::from_millis(1));
        }
    }
}
