//! Failing at a chosen call.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use object_store::{Error, ObjectStore};

use super::{Call, Tap, TappedStore, Verdict};

/// What goes wrong, and at which call; calls of every kind are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call has no effect; it and every later call fail: the host died before it.
    StopBefore(u64),
    /// The call takes effect; it and every later call fail: the host died after it, without hearing of it.
    StopAfter(u64),
    /// The call takes effect but the caller is told that it failed; later calls work.
    LostAck(u64),
    /// The call has no effect and fails; later calls work.
    Fail(u64),
}

/// A store that fails as its script says.
///
/// Which calls there are is learned by a first run with an empty script: afterwards [`calls`](Self::calls) is the
/// number of faults to go through.
///
/// Calls are numbered as they begin; several that run at once get their numbers in the order they begin in. A call
/// that was already with the store when the script stopped goes on.
pub type FaultyStore = TappedStore<Faults>;

/// The tap of a [`FaultyStore`].
#[derive(Debug)]
pub struct Faults {
    script: Vec<Fault>,
    calls: AtomicU64,
    counted: Counted,
}

/// Which calls get a number. Others always pass, unless the script has stopped everything.
struct Counted(Box<dyn Fn(&Call<'_>) -> bool + Send + Sync>);

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

impl TappedStore<Faults> {
    /// A store before `inner` that fails as `script` says; with an empty one it never does.
    pub fn new(inner: Arc<dyn ObjectStore>, script: impl IntoIterator<Item = Fault>) -> Self {
        Self::counting_only(inner, script, |_| true)
    }

    /// The same, but only the calls for which `counted` holds have a number ("the third put under `packs`"). After
    /// a stop all calls fail.
    pub fn counting_only(
        inner: Arc<dyn ObjectStore>,
        script: impl IntoIterator<Item = Fault>,
        counted: impl Fn(&Call<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let script = script.into_iter().collect();
        Self::with_tap(
            inner,
            Faults { script, calls: AtomicU64::new(0), counted: Counted(Box::new(counted)) },
        )
    }

    /// Number of calls so far, refused ones too.
    pub fn calls(&self) -> u64 {
        self.tap().calls.load(Ordering::SeqCst)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

/// What a store says when the network fails it.
fn broken(call: &Call<'_>, number: u64) -> Error {
    let text = format!("connection lost by the script at call {number}, {:?} {}", call.kind(), call.path);
    Error::Generic {
        store: "FaultyStore",
        source: Box::new(io::Error::new(io::ErrorKind::ConnectionReset, text)),
    }
}

impl Tap for Faults {
    fn before(&self, call: &Call<'_>) -> Verdict {
        let counted = (self.counted.0)(call);
        let number = self.calls.fetch_add(u64::from(counted), Ordering::SeqCst);
        let stopped = self.script.iter().any(|fault| match *fault {
            Fault::StopBefore(n) => number > n || (counted && number == n),
            Fault::StopAfter(n) => number > n,
            Fault::LostAck(_) | Fault::Fail(_) => false,
        });
        if stopped || (counted && self.script.contains(&Fault::Fail(number))) {
            return Verdict::Refuse(broken(call, number));
        }
        let lost = [Fault::StopAfter(number), Fault::LostAck(number)];
        if counted && lost.iter().any(|fault| self.script.contains(fault)) {
            return Verdict::LoseAnswer(broken(call, number));
        }
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::{StreamExt, TryStreamExt};
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStoreExt, Result};

    use super::super::RequestKind;
    use super::*;

    /// Puts a, b, c and says which calls succeeded and which objects are there.
    fn run(script: &[Fault]) -> (Vec<bool>, Vec<String>) {
        let memory = Arc::new(InMemory::new());
        let store = FaultyStore::new(memory.clone(), script.iter().copied());
        block_on(async {
            let mut ok = Vec::new();
            for name in ["a", "b", "c"] {
                ok.push(store.put(&Path::from(name), "x".into()).await.is_ok());
            }
            assert_eq!(store.calls(), 3);
            let there = memory.list(None).map_ok(|m| m.location.to_string());
            (ok, there.try_collect::<Vec<_>>().await.unwrap())
        })
    }

    #[test]
    fn each_fault_does_what_it_says() {
        assert_eq!(run(&[]), (vec![true, true, true], vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(run(&[Fault::StopBefore(1)]), (vec![true, false, false], vec!["a".into()]));
        assert_eq!(run(&[Fault::StopAfter(1)]), (vec![true, false, false], vec!["a".into(), "b".into()]));
        assert_eq!(run(&[Fault::LostAck(1)]).0, vec![true, false, true]);
        assert_eq!(run(&[Fault::LostAck(1)]).1, vec!["a", "b", "c"]);
        assert_eq!(run(&[Fault::Fail(1)]), (vec![true, false, true], vec!["a".into(), "c".into()]));
        assert_eq!(
            run(&[Fault::Fail(0), Fault::LostAck(2)]),
            (vec![false, true, false], vec!["b".into(), "c".into()])
        );
    }

    #[test]
    fn reads_lists_deletes_and_copies_are_calls() {
        let (a, b) = (Path::from("a"), Path::from("b"));
        for n in 0..7 {
            let memory = Arc::new(InMemory::new());
            block_on(memory.put(&a, "x".into())).unwrap();
            let store = FaultyStore::new(memory, [Fault::Fail(n)]);
            let outcomes: [Result<()>; 7] = block_on(async {
                [
                    store.get(&a).await.map(drop),
                    store.head(&a).await.map(drop),
                    store.list(None).try_collect::<Vec<_>>().await.map(drop),
                    store.list_with_delimiter(None).await.map(drop),
                    store.get_ranges(&a, &[0..1, 0..1]).await.map(drop),
                    store.copy(&a, &b).await,
                    store.delete(&a).await,
                ]
            });
            for (i, outcome) in (0..).zip(outcomes) {
                assert_eq!(outcome.is_err(), i == n, "fault {n}, call {i}: {outcome:?}");
            }
            assert_eq!(store.calls(), 7);
        }
    }

    #[test]
    fn a_stop_within_a_delete_stream_leaves_the_rest() {
        let memory = Arc::new(InMemory::new());
        let paths: Vec<Path> = ["a", "b", "c"].map(Path::from).to_vec();
        for path in &paths {
            block_on(memory.put(path, "x".into())).unwrap();
        }
        let store = FaultyStore::new(memory.clone(), [Fault::StopAfter(1)]);
        let deletes = store.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
        let outcomes: Vec<_> = block_on(deletes.map(|r| r.is_ok()).collect());
        assert_eq!(outcomes, [true, false, false]);
        assert_eq!(
            block_on(memory.list(None).map_ok(|m| m.location.to_string()).try_collect::<Vec<_>>()).unwrap(),
            ["c"]
        );
    }

    #[test]
    fn a_failed_part_does_not_reach_the_store() {
        let memory = Arc::new(InMemory::new());
        let store = FaultyStore::new(memory.clone(), [Fault::Fail(1)]);
        let path = Path::from("a");
        block_on(async {
            let mut upload = store.put_multipart(&path).await.unwrap();
            assert!(upload.put_part("lost".into()).await.is_err());
            upload.put_part("kept".into()).await.unwrap();
            upload.complete().await.unwrap();
            assert_eq!(memory.get(&path).await.unwrap().bytes().await.unwrap(), "kept");
        });
    }

    #[test]
    fn a_stop_may_count_some_calls_only_but_then_fails_all() {
        let store = FaultyStore::counting_only(Arc::new(InMemory::new()), [Fault::StopBefore(1)], |call| {
            call.kind() == RequestKind::Put && call.path.as_ref().starts_with("packs/")
        });
        let (point, pack) = (Path::from("points/1"), Path::from("packs/1"));
        block_on(async {
            store.put(&point, "x".into()).await.unwrap();
            store.put(&pack, "x".into()).await.unwrap();
            store.get(&point).await.unwrap();
            assert!(store.put(&pack, "x".into()).await.is_err());
            assert!(store.get(&point).await.is_err());
        });
    }
}
