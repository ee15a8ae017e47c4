//! Waits for a future on the thread that asks, with no runtime.
//!
//! imago's futures wait for nothing but one another's locks; their input and output are plain system calls. So no
//! reactor is needed, and a disk may be read from any thread. Within a tokio task `unconstrained` matters: tokio's
//! locks count how often a task takes one and then ask it to yield, but the wake-up for that comes from the very
//! worker that waits here.

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Runs `future` to its end.
pub(super) fn wait<F: Future>(future: F) -> F::Output {
    let signal = Arc::new(Signal::default());
    let waker = Waker::from(Arc::clone(&signal));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(tokio::task::coop::unconstrained(future));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        signal.wait();
    }
}

/// Whether the future asked to be polled again.
#[derive(Default)]
struct Signal {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    fn wait(&self) {
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let mut woken = self.changed.wait_while(woken, |w| !*w).unwrap_or_else(PoisonError::into_inner);
        *woken = false;
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_woken_from_another_thread_ends() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::scope(|threads| {
            let waiting = threads.spawn(|| wait(receiver));
            sender.send(7).unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(7));
        });
    }

    #[test]
    fn a_tokio_task_may_wait_for_any_number_of_locks() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let lock = tokio::sync::Mutex::new(0);
            for _ in 0..10_000 {
                wait(async { *lock.lock().await += 1 });
            }
            assert_eq!(*lock.lock().await, 10_000);
        });
    }
}
