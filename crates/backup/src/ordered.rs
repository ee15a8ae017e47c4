//! Work on several threads whose results come in the order of the input.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

/// Applies `work` to every item of `input` on `workers` threads of `scope` and gives the results in order.
///
/// At most `window` items are between input and output, so memory is bounded by what an item holds. `init` makes
/// what each thread keeps for itself. With one worker nothing is started and the work is done as results are
/// asked for. Dropping the iterator stops the threads after the item they are at.
pub(crate) fn ordered<'scope, T, R, S>(
    scope: &'scope Scope<'scope, '_>,
    workers: usize,
    window: usize,
    input: impl Iterator<Item = T> + Send + 'scope,
    init: impl Fn() -> S + Send + Sync + 'scope,
    work: impl Fn(&mut S, T) -> R + Send + Sync + 'scope,
) -> Box<dyn Iterator<Item = R> + Send + 'scope>
where
    T: Send + 'scope,
    R: Send + 'scope,
    S: Send + 'scope,
{
    if workers <= 1 {
        let mut state = init();
        return Box::new(input.map(move |item| work(&mut state, item)));
    }
    let queue =
        Arc::new(Queue { state: Mutex::new(State::default()), moved: Condvar::new(), window: window.max(1) });
    let shared = Arc::new((Mutex::new(input), init, work));
    for _ in 0..workers {
        let (queue, shared) = (Arc::clone(&queue), Arc::clone(&shared));
        scope.spawn(move || {
            let stop = StopOnPanic(&queue);
            let (input, init, work) = &*shared;
            let mut state = init();
            while let Some((number, item)) = queue.take(input) {
                queue.put(number, work(&mut state, item));
            }
            drop(stop);
        });
    }
    Box::new(Results { queue })
}

struct Queue<R> {
    state: Mutex<State<R>>,
    moved: Condvar,
    window: usize,
}

struct State<R> {
    /// Number of the next item to be taken, and of the next result to be given.
    next_in: usize,
    next_out: usize,
    done: BTreeMap<usize, R>,
    /// No more items will be taken.
    ended: bool,
}

impl<R> Default for State<R> {
    fn default() -> Self {
        Self { next_in: 0, next_out: 0, done: BTreeMap::new(), ended: false }
    }
}

impl<R> Queue<R> {
    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next item and its number, when there is room for its result.
    fn take<T>(&self, input: &Mutex<impl Iterator<Item = T>>) -> Option<(usize, T)> {
        // Held while waiting for room: whoever comes next would wait for the same room.
        let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |state: &mut State<R>| !state.ended && state.next_in >= state.next_out + self.window;
        if self.moved.wait_while(self.state(), full).unwrap_or_else(PoisonError::into_inner).ended {
            return None;
        }
        let item = input.next();
        let mut state = self.state();
        match item {
            Some(item) => {
                let number = state.next_in;
                state.next_in += 1;
                Some((number, item))
            }
            None => {
                state.ended = true;
                self.moved.notify_all();
                None
            }
        }
    }

    fn put(&self, number: usize, result: R) {
        self.state().done.insert(number, result);
        self.moved.notify_all();
    }

    fn stop(&self) {
        let mut state = self.state();
        state.ended = true;
        // What a panicking worker took will never be done: whoever waits for it must not wait for ever.
        state.next_in = state.next_in.min(state.next_out);
        self.moved.notify_all();
    }
}

/// Stops the others when a worker panics; the scope then passes the panic on.
struct StopOnPanic<'a, R>(&'a Queue<R>);

impl<R> Drop for StopOnPanic<'_, R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

struct Results<R> {
    queue: Arc<Queue<R>>,
}

impl<R> Iterator for Results<R> {
    type Item = R;

    fn next(&mut self) -> Option<R> {
        let waiting = |state: &mut State<R>| {
            let due = state.next_out < state.next_in || !state.ended;
            due && !state.done.contains_key(&state.next_out)
        };
        let queue = &self.queue;
        let mut state =
            queue.moved.wait_while(queue.state(), waiting).unwrap_or_else(PoisonError::into_inner);
        let next_out = state.next_out;
        let result = state.done.remove(&next_out)?;
        state.next_out += 1;
        drop(state);
        queue.moved.notify_all();
        Some(result)
    }
}

impl<R> Drop for Results<R> {
    fn drop(&mut self) {
        self.queue.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn results_come_in_the_order_of_the_input(
            input in prop::collection::vec(any::<u32>(), 0..200), workers in 1_usize..5, window in 1_usize..9, taken in 0_usize..220
        ) {
            let spin = |n: u32| (0..n % 500).fold(n, |a, b| a.wrapping_mul(31).wrapping_add(b));
            let expected: Vec<u32> = input.iter().map(|&n| spin(n)).take(taken).collect();
            let found: Vec<u32> = thread::scope(|scope| {
                let first = ordered(scope, workers, window, input.clone().into_iter(), || (), |(), n| n);
                ordered(scope, workers, window, first, || (), move |(), n| spin(n)).take(taken).collect()
            });
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn no_more_than_the_window_is_taken_ahead() {
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            let input = (0..1000).inspect(|_| {
                taken.fetch_add(1, Ordering::SeqCst);
            });
            let results = ordered(scope, 4, 8, input, || (), |(), n: usize| n);
            for (given, result) in results.enumerate() {
                assert_eq!(given, result);
                assert!(taken.load(Ordering::SeqCst) <= given + 1 + 8);
            }
        });
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panicking_worker_ends_the_walk_and_is_heard_of() {
        thread::scope(|scope| {
            let results = ordered(scope, 2, 4, 0..100, || (), |(), n: usize| assert!(n != 7, "seven"));
            results.for_each(drop);
        });
    }
}
