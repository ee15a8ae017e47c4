//! Two hosts at one store, the second run whole within one store call of the first.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vmkeep::object_store::ObjectStore;
use vmkeep_testkit::{Call, Tap, TappedStore, Verdict};

/// Runs something once, within the call of a number, before that call reaches the store.
struct Meanwhile {
    at: u64,
    calls: AtomicU64,
    #[allow(clippy::type_complexity)] // a closure that is taken out when it runs
    what: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meanwhile({})", self.at)
    }
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Tap for Meanwhile {
    fn before(&self, _: &Call<'_>) -> Verdict {
        if self.calls.fetch_add(1, Ordering::SeqCst) == self.at
            && let Some(what) = self.what.lock().unwrap().take()
        {
            // A thread of its own: this one belongs to the first host's runtime.
            std::thread::scope(|scope| scope.spawn(what).join().unwrap());
        }
        Verdict::Pass
    }
}

/// Runs `first` on `store` with `second` as a whole within its call number `at`; says what both gave, and whether
/// the call came.
pub(crate) fn interleaved<A, B: Send + 'static>(
    store: &Arc<dyn ObjectStore>,
    at: u64,
    first: impl FnOnce(Arc<dyn ObjectStore>) -> A,
    second: impl FnOnce(Arc<dyn ObjectStore>) -> B + Send + 'static,
) -> (A, Option<B>) {
    let (plain, result) = (Arc::clone(store), Arc::new(Mutex::new(None)));
    let told = Arc::clone(&result);
    let what = move || *told.lock().unwrap() = Some(second(plain));
    let tap = Meanwhile { at, calls: AtomicU64::new(0), what: Mutex::new(Some(Box::new(what))) };
    let outcome = first(Arc::new(TappedStore::with_tap(Arc::clone(store), tap)));
    let second = result.lock().unwrap().take();
    (outcome, second)
}
