//! What a vault needs of an object store, as tests: every store and every adapter calls these in one line.
//!
//! They panic where a store breaks its promise. They need an empty store and leave it empty.
//!
//! ```
//! use std::sync::Arc;
//! use vmkeep_vault::conformance;
//!
//! conformance::holds_a_vault(Arc::new(object_store::memory::InMemory::new()));
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload, Result};
use vmkeep_envelope::PackName;
use vmkeep_model::{DomainId, LineageId, PointNumber, SessionId};

use super::bridge::Bridge;
use crate::layout::ObjectName;

/// Callers at once where several are tried.
const CALLERS: u64 = 4;
/// Names that they fight over, and how often each makes and deletes an object.
const ROUNDS: u64 = 12;
/// How often a call is made in a store that may fail.
const TRIES: u32 = 50;

/// Checks that `store`, which never fails, keeps every promise that a vault relies on.
///
/// # Panics
/// When it does not, when it fails, and when it was not empty.
pub fn holds_a_vault(store: Arc<dyn ObjectStore>) {
    Suite { store, tries: 1 }.run();
}

/// As [`holds_a_vault`], for a store that fails now and then, with or without having done what was asked: the
/// promises hold for a caller that asks again, and compares when it hears that a name exists.
///
/// # Panics
/// When they do not, and when a call has failed fifty times.
pub fn holds_a_vault_when_asked_again(store: Arc<dyn ObjectStore>) {
    Suite { store, tries: TRIES }.run();
}

struct Suite {
    store: Arc<dyn ObjectStore>,
    tries: u32,
}

impl Suite {
    fn run(&self) {
        let caller = self.caller();
        assert!(caller.list("").is_empty(), "the store is not empty to begin with");
        every_name_is_kept(&caller);
        a_name_is_taken_once(&caller);
        parts_are_read(&caller);
        prefixes_are_folders(&caller);
        deleted_is_gone(&caller);
        hints_are_replaced(&caller);
        if self.tries == 1 {
            one_of_many_under_way_wins(&caller);
        }
        self.one_creator_wins();
        self.lists_are_true_beside_changes();
        self.readers_see_whole_hints();
        let left = caller.list("");
        assert!(left.is_empty(), "left in the end: {left:?}");
    }

    fn caller(&self) -> Caller {
        let bridge = Bridge::new().expect("a runtime for the test");
        Caller { store: Arc::clone(&self.store), tries: self.tries, bridge }
    }

    /// Callers on threads of their own, all for one name at a time.
    fn one_creator_wins(&self) {
        let callers: Vec<Caller> = (0..CALLERS).map(|_| self.caller()).collect();
        for n in 1..=ROUNDS {
            let path = ObjectName::Point(lineage(3), PointNumber(n)).path();
            let winners: Vec<u64> = thread::scope(|scope| {
                let create = |who: u64, caller: &Caller| {
                    let won = caller.create(&path, &content(who, 64));
                    let seen = caller.read(&path).expect("there, once a create was answered");
                    assert_eq!(won, seen == content(who, 64), "{path}: won, and reads its own");
                    won.then_some(who)
                };
                let creators: Vec<_> = (0..)
                    .zip(&callers)
                    .map(|(who, caller)| scope.spawn(move || create(who, caller)))
                    .collect();
                creators.into_iter().filter_map(|creator| creator.join().expect("a creator")).collect()
            });
            let &[winner] = winners.as_slice() else { panic!("creators {winners:?} of {path} won") };
            assert_eq!(callers[0].read(&path), Some(content(winner, 64)), "{path} in the end");
            assert_eq!(callers[0].list("points"), BTreeMap::from([(path.clone(), 64)]), "{path} in a list");
            callers[0].delete(&path);
        }
    }

    /// Objects come and go beside some that stay; folders become empty and are used again.
    fn lists_are_true_beside_changes(&self) {
        let pack = |who: u64, n: u64| pack_name(who, who * 2 + n % 2).path();
        let stays =
            [ObjectName::Head(lineage(1)).path(), ObjectName::Point(lineage(1), PointNumber(1)).path()];
        let caller = self.caller();
        for path in &stays {
            assert!(caller.create(path, &content(9, 10)));
        }
        thread::scope(|scope| {
            for who in 0..CALLERS {
                let stays = &stays;
                scope.spawn(move || {
                    let caller = self.caller();
                    for n in 0..ROUNDS {
                        let path = pack(who, n);
                        assert!(caller.create(&path, &content(who, 100)), "{path} was free");
                        let listed = caller.list("packs");
                        assert_eq!(listed.get(&path), Some(&100), "{path} is not in a list after its create");
                        caller.delete(&path);
                        let listed = caller.list("");
                        assert!(!listed.contains_key(&path), "{path} is in a list after it was deleted");
                        for path in stays {
                            assert_eq!(listed.get(path), Some(&10), "{path}, which stays, is not in a list");
                        }
                    }
                });
            }
        });
        for path in &stays {
            caller.delete(path);
        }
    }

    fn readers_see_whole_hints(&self) {
        let (path, written) = (ObjectName::Head(lineage(2)).path(), AtomicBool::new(false));
        let hint = |n: u64| content(n, 40 + index(n) * 7);
        self.caller().overwrite(&path, &hint(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                let caller = self.caller();
                (1..=ROUNDS).for_each(|n| caller.overwrite(&path, &hint(n)));
                written.store(true, Ordering::SeqCst);
            });
            let (caller, mut newest) = (self.caller(), 0);
            loop {
                let ended = written.load(Ordering::SeqCst);
                let read = caller.read(&path).expect("a hint is there while it is replaced");
                let seen = (newest..=ROUNDS).find(|&n| hint(n) == read);
                newest = seen.unwrap_or_else(|| panic!("a hint that is torn, or older than one read before"));
                if ended {
                    break;
                }
            }
            assert_eq!(newest, ROUNDS, "the last overwrite is what is read");
        });
        self.caller().delete(&path);
    }
}

/// Every shape of name is stored, read, measured and listed, from empty objects to some that come in pieces.
fn every_name_is_kept(caller: &Caller) {
    let names = names();
    let object = |n: usize| content(n as u64, [0, 1, 200, 70_000][n % 4]);
    for (n, name) in names.iter().enumerate() {
        let path = name.path();
        assert_eq!(path.as_ref(), name.to_string(), "a name and its path");
        assert_eq!((caller.read(&path), caller.size(&path)), (None, None), "{path} before it is there");
        assert_eq!(caller.range(&path, 0..1), None, "a range of {path} before it is there");
        assert!(caller.create(&path, &object(n)), "{path} was free");
        assert_eq!(caller.read(&path), Some(object(n)), "{path}, just created");
        assert_eq!(caller.size(&path), Some(object(n).len() as u64), "size of {path}");
    }
    let expected: BTreeMap<Path, u64> =
        names.iter().enumerate().map(|(n, name)| (name.path(), object(n).len() as u64)).collect();
    assert_eq!(caller.list(""), expected, "a list of everything");
    for name in &names {
        caller.delete(&name.path());
    }
    assert!(caller.list("").is_empty(), "a list after everything was deleted");
}

fn a_name_is_taken_once(caller: &Caller) {
    let path = ObjectName::Point(lineage(1), PointNumber(1)).path();
    for first in [content(1, 100), Bytes::new()] {
        assert!(caller.create(&path, &first));
        for other in [content(2, 100), content(2, 7), content(2, 5000)] {
            assert!(!caller.create(&path, &other), "{path} was taken, and a second create succeeds");
            assert_eq!(caller.read(&path), Some(first.clone()), "{path} after a second create");
        }
        let size = first.len() as u64;
        assert_eq!(caller.list(""), BTreeMap::from([(path.clone(), size)]), "after second creates");
        caller.delete(&path);
    }
}

/// Creates of one name that one caller has under way at the same time.
fn one_of_many_under_way_wins(caller: &Caller) {
    for n in 1..=ROUNDS {
        let path = ObjectName::Journal([1; 16], n).path();
        let creates: Vec<_> =
            (0..CALLERS).map(|who| caller.put_if_absent(&path, &content(who, 50))).collect();
        let answers = caller.bridge.start(join_all(creates)).wait().expect("the store panicked");
        let mut winners = Vec::new();
        for (who, answer) in (0..).zip(answers) {
            match answer {
                Ok(()) => winners.push(who),
                Err(Error::AlreadyExists { .. }) => {}
                Err(e) => panic!("create of {path} beside others: {e:?}"),
            }
        }
        let &[winner] = winners.as_slice() else {
            panic!("of creates under way for {path}, {winners:?} won")
        };
        assert_eq!(caller.read(&path), Some(content(winner, 50)), "{path}");
        caller.delete(&path);
    }
}

fn parts_are_read(caller: &Caller) {
    let path = pack_name(0, 1).path();
    let whole = content(5, 100_000);
    assert!(caller.create(&path, &whole));
    for range in [0..1, 0..100_000, 99_999..100_000, 40_000..40_001, 7..65_543] {
        let expected = whole.slice(index(range.start)..index(range.end));
        assert_eq!(caller.range(&path, range.clone()), Some(expected), "bytes {range:?} of {path}");
    }
    assert_eq!(caller.range(&path, 99_990..200_000), Some(whole.slice(99_990..)), "a range past the end");
    for len in [1, 16, 99_999, 100_000, 100_001, 1 << 20] {
        // A store without ranges from the end says so; the vault asks for the size then.
        if let Some((tail, size)) = caller.tail(&path, len) {
            let start = whole.len().saturating_sub(index(len));
            assert_eq!((tail, size), (whole.slice(start..), 100_000), "the last {len} bytes of {path}");
        }
    }
    caller.delete(&path);
}

/// A prefix is whole segments of a path; what begins alike is not under it.
fn prefixes_are_folders(caller: &Caller) {
    let paths =
        ["points/a/1", "points/a/10", "points/ab/1", "forgets/a/1", "forgets/a/1-2", "vault", "packs/a/b/c"];
    for path in paths {
        assert!(caller.create(&Path::from(path), &content(1, 3)));
    }
    for (prefix, expected) in [
        ("points", &["points/a/1", "points/a/10", "points/ab/1"][..]),
        ("points/a", &["points/a/1", "points/a/10"]),
        ("forgets/a", &["forgets/a/1", "forgets/a/1-2"]),
        ("packs", &["packs/a/b/c"]),
        ("packs/a/b", &["packs/a/b/c"]),
        ("point", &[]),
        ("points/a/1", &[]),
        ("vault", &[]),
        ("heads", &[]),
        ("points/b/c/d", &[]),
    ] {
        let listed: Vec<String> = caller.list(prefix).keys().map(ToString::to_string).collect();
        assert_eq!(listed, expected, "a list of {prefix}");
    }
    for path in paths {
        caller.delete(&Path::from(path));
    }
}

fn deleted_is_gone(caller: &Caller) {
    let (gone, stays) = (pack_name(1, 0).path(), pack_name(1, 1).path());
    assert!(caller.create(&stays, &content(1, 20)));
    for n in 2..5 {
        assert!(caller.create(&gone, &content(n, 30)), "{gone} is free again after its delete");
        assert_eq!(caller.read(&gone), Some(content(n, 30)), "{gone} after it was created again");
        caller.delete(&gone);
        assert_eq!((caller.read(&gone), caller.size(&gone)), (None, None), "{gone} after its delete");
        assert_eq!(caller.list(""), BTreeMap::from([(stays.clone(), 20)]), "a list after a delete");
        caller.delete(&gone);
    }
    assert_eq!(caller.read(&stays), Some(content(1, 20)), "{stays}, beside which others were deleted");
    caller.delete(&stays);
}

fn hints_are_replaced(caller: &Caller) {
    let path = ObjectName::Head(lineage(1)).path();
    for (n, len) in (0..).zip([10, 500, 0, 3]) {
        caller.overwrite(&path, &content(n, len));
        assert_eq!(caller.read(&path), Some(content(n, len)), "{path} after it was replaced");
        assert_eq!(caller.list("heads"), BTreeMap::from([(path.clone(), len as u64)]), "its size in a list");
    }
    assert!(!caller.create(&path, &content(8, 8)), "{path} is there: it cannot be created");
    caller.delete(&path);
}

/// One who calls the store, as a vault does: from a plain thread, through a runtime of its own.
struct Caller {
    store: Arc<dyn ObjectStore>,
    tries: u32,
    bridge: Bridge,
}

impl Caller {
    /// What the store says in the end. That something is there, or is not, or cannot be done, is an answer.
    fn call<T, F>(&self, what: &str, attempt: impl Fn(Arc<dyn ObjectStore>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut failure = None;
        for _ in 0..self.tries {
            let answer = self.bridge.start(attempt(Arc::clone(&self.store))).wait();
            match answer.unwrap_or_else(|| panic!("{what}: the store panicked")) {
                Ok(done) => return Ok(done),
                Err(
                    e @ (Error::NotFound { .. }
                    | Error::AlreadyExists { .. }
                    | Error::NotSupported { .. }
                    | Error::NotImplemented { .. }),
                ) => return Err(e),
                Err(e) => failure = Some(e),
            }
        }
        panic!("{what} failed: {failure:?}")
    }

    /// As [`call`](Self::call), `None` for what is not there.
    fn find<T, F>(&self, what: &str, attempt: impl Fn(Arc<dyn ObjectStore>) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match self.call(what, attempt) {
            Ok(found) => Some(found),
            Err(Error::NotFound { .. }) => None,
            Err(e) => panic!("{what}: {e:?}"),
        }
    }

    /// Whether the name was free; the object is there then.
    fn create(&self, path: &Path, object: &Bytes) -> bool {
        match self.call(&format!("create of {path}"), |_| self.put_if_absent(path, object)) {
            Ok(()) => true,
            // Ours, when the answer to an earlier try was lost; where nothing fails, nobody asks twice.
            Err(Error::AlreadyExists { .. }) => self.tries > 1 && self.read(path).as_ref() == Some(object),
            Err(e) => panic!("create of {path}: {e:?}"),
        }
    }

    fn put_if_absent(&self, path: &Path, object: &Bytes) -> impl Future<Output = Result<()>> + Send + use<> {
        let (store, path) = (Arc::clone(&self.store), path.clone());
        let payload = PutPayload::from_bytes(object.clone());
        async move { store.put_opts(&path, payload, PutMode::Create.into()).await.map(drop) }
    }

    fn overwrite(&self, path: &Path, object: &Bytes) {
        let put = |store: Arc<dyn ObjectStore>| {
            let (path, payload) = (path.clone(), PutPayload::from_bytes(object.clone()));
            async move { store.put(&path, payload).await.map(drop) }
        };
        self.call(&format!("overwrite of {path}"), put)
            .unwrap_or_else(|e| panic!("overwrite of {path}: {e:?}"));
    }

    fn read(&self, path: &Path) -> Option<Bytes> {
        self.find(&format!("read of {path}"), |store| {
            let path = path.clone();
            async move { store.get(&path).await?.bytes().await }
        })
    }

    fn size(&self, path: &Path) -> Option<u64> {
        self.find(&format!("head of {path}"), |store| {
            let path = path.clone();
            async move { store.head(&path).await.map(|meta| meta.size) }
        })
    }

    fn range(&self, path: &Path, range: Range<u64>) -> Option<Bytes> {
        self.find(&format!("bytes {range:?} of {path}"), |store| {
            let (path, range) = (path.clone(), range.clone());
            async move { store.get_range(&path, range).await }
        })
    }

    /// The last `len` bytes and the size; `None` where the store has no such ranges.
    fn tail(&self, path: &Path, len: u64) -> Option<(Bytes, u64)> {
        let what = format!("the last {len} bytes of {path}");
        let read = self.call(&what, |store| {
            let path = path.clone();
            async move {
                let options = GetOptions { range: Some(GetRange::Suffix(len)), ..GetOptions::default() };
                let found = store.get_opts(&path, options).await?;
                let size = found.meta.size;
                Ok((found.bytes().await?, size))
            }
        });
        match read {
            Ok(read) => Some(read),
            Err(Error::NotSupported { .. } | Error::NotImplemented { .. }) => None,
            Err(e) => panic!("{what}: {e:?}"),
        }
    }

    /// Path and size of everything under `prefix`, each once; of the whole store for an empty one.
    fn list(&self, prefix: &str) -> BTreeMap<Path, u64> {
        let found = self.call(&format!("list of {prefix:?}"), |store| {
            let path = (!prefix.is_empty()).then(|| Path::from(prefix));
            async move { store.list(path.as_ref()).try_collect::<Vec<_>>().await }
        });
        let found = found.unwrap_or_else(|e| panic!("list of {prefix:?}: {e:?}"));
        let mut objects = BTreeMap::new();
        for meta in found {
            let before = objects.insert(meta.location.clone(), meta.size);
            assert_eq!(before, None, "{} is twice in a list of {prefix:?}", meta.location);
        }
        objects
    }

    /// Deletes; what is not there is deleted.
    fn delete(&self, path: &Path) {
        self.find(&format!("delete of {path}"), |store| {
            let path = path.clone();
            async move { store.delete(&path).await }
        });
    }
}

fn lineage(n: u8) -> LineageId {
    LineageId([n; 16])
}

/// Of one of two sessions: several callers use a folder, and empty it under each other.
fn pack_name(session: u64, pack: u64) -> ObjectName {
    let id = |n: u64| [n.to_le_bytes(), [0xab; 8]].concat().try_into().expect("sixteen bytes");
    ObjectName::Pack(lineage(1), SessionId(id(session % 2)), PackName(id(pack)))
}

/// A name of every shape that a vault has.
fn names() -> Vec<ObjectName> {
    let (session, pack, wrap) = (SessionId([0xab; 16]), PackName([4; 16]), "0f".repeat(16));
    vec![
        ObjectName::Vault,
        ObjectName::Key { domain: DomainId([3; 16]), epoch: 0, wrap: wrap.clone() },
        ObjectName::Name(wrap),
        ObjectName::Point(lineage(1), PointNumber(u64::MAX)),
        ObjectName::Head(lineage(1)),
        ObjectName::Retired(lineage(1), 12),
        ObjectName::Session(session),
        ObjectName::Stage(session, "stage-0".to_owned()),
        ObjectName::Forget(lineage(1), PointNumber(1)),
        ObjectName::Mark(lineage(1), PointNumber(1), 2),
        ObjectName::Pin(lineage(1), PointNumber(7), [5; 16]),
        ObjectName::Plan(lineage(1), session, 0),
        ObjectName::Worn(lineage(1), session, pack),
        ObjectName::Repack(lineage(1), session),
        ObjectName::Moved(lineage(1), pack, 1),
        ObjectName::Pack(lineage(1), session, pack),
        ObjectName::PackCopy(lineage(1), session, pack),
        ObjectName::Journal([9; 16], 3),
    ]
}

/// `len` bytes that are others for another `who`.
fn content(who: u64, len: usize) -> Bytes {
    let mixed =
        |n: usize| (n as u64).wrapping_mul(31).wrapping_add(who.wrapping_mul(0x9e37) + 1).to_le_bytes();
    (0..len).map(|n| mixed(n)[n % 2]).collect()
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("a small number")
}
