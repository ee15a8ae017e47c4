//! A store that becomes full.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::path::Path;
use object_store::{Error, ObjectStore, Result};

use super::{Action, Call, Tap, TappedStore, Verdict};

/// A store that refuses bytes past a limit, as a full disk does.
///
/// Only objects written through it count. An overwrite needs room for the new object beside the old one; parts of
/// an upload need room as they are sent. Deleting gives back.
pub type QuotaStore = TappedStore<Quota>;

/// The tap of a [`QuotaStore`].
#[derive(Debug)]
pub struct Quota {
    space: Mutex<Space>,
}

#[derive(Debug)]
struct Space {
    limit: u64,
    used: u64,
    sizes: BTreeMap<Path, u64>,
}

impl Quota {
    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space {
    fn size_of(&self, path: &Path) -> u64 {
        self.sizes.get(path).copied().unwrap_or(0)
    }

    /// Bytes that a call needs before it begins.
    fn needed(&self, call: &Call<'_>) -> u64 {
        match call.action {
            Action::Copy(_) => self.size_of(call.path),
            _ => call.bytes_sent(),
        }
    }

    fn store(&mut self, path: &Path, len: u64) {
        self.used -= self.sizes.insert(path.clone(), len).unwrap_or(0);
    }

    fn remove(&mut self, path: &Path) -> u64 {
        self.sizes.remove(path).unwrap_or(0)
    }
}

impl TappedStore<Quota> {
    /// A store before `inner` that takes `limit` bytes.
    pub fn new(inner: Arc<dyn ObjectStore>, limit: u64) -> Self {
        let space = Space { limit, used: 0, sizes: BTreeMap::new() };
        Self::with_tap(inner, Quota { space: Mutex::new(space) })
    }

    /// Bytes taken.
    pub fn used(&self) -> u64 {
        self.tap().space().used
    }

    /// Changes the limit; a smaller one than what is used refuses every further byte.
    pub fn set_limit(&self, limit: u64) {
        self.tap().space().limit = limit;
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuotaStore")
    }
}

impl Tap for Quota {
    fn before(&self, call: &Call<'_>) -> Verdict {
        let mut space = self.space();
        let needed = space.needed(call);
        if needed > 0 && space.used.saturating_add(needed) > space.limit {
            let text = format!("{needed} bytes for {} do not fit", call.path);
            let source = Box::new(io::Error::new(io::ErrorKind::StorageFull, text));
            return Verdict::Refuse(Error::Generic { store: "QuotaStore", source });
        }
        space.used += needed;
        Verdict::Pass
    }

    fn after(&self, call: &Call<'_>, outcome: Result<u64, &Error>) {
        let mut space = self.space();
        match (call.action, outcome.is_ok()) {
            (Action::Put(payload), true) => space.store(call.path, payload.content_length() as u64),
            (Action::CompleteUpload { len }, true) => space.store(call.path, len),
            (Action::CompleteUpload { len }, false) | (Action::AbortUpload { len }, true) => {
                space.used -= len;
            }
            (Action::Put(_) | Action::Copy(_), false) => space.used -= space.needed(call),
            (Action::Copy(to), true) => {
                let len = space.size_of(call.path);
                space.store(to, len);
            }
            (Action::Rename(to), true) => {
                let len = space.remove(call.path);
                space.store(to, len);
            }
            (Action::Delete, true) => space.used -= space.remove(call.path),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutMode};

    use super::*;

    #[test]
    fn a_full_store_refuses_and_deleting_makes_room() {
        let memory = Arc::new(InMemory::new());
        let store = QuotaStore::new(memory.clone(), 100);
        let (a, b) = (Path::from("a"), Path::from("b"));
        block_on(async {
            store.put(&a, vec![0; 60].into()).await.unwrap();
            let full = store.put(&b, vec![0; 41].into()).await.unwrap_err();
            let Error::Generic { source, .. } = &full else { panic!("{full:?}") };
            let io = source.downcast_ref::<io::Error>().map(io::Error::kind);
            assert_eq!(io, Some(io::ErrorKind::StorageFull));
            assert!(memory.head(&b).await.is_err());
            assert!(store.copy(&a, &b).await.is_err());
            store.put(&a, vec![0; 40].into()).await.unwrap();
            assert_eq!(store.used(), 40);
            store.copy(&a, &b).await.unwrap();
            store.rename(&b, &Path::from("c")).await.unwrap();
            assert_eq!(store.used(), 80);
            store.delete(&a).await.unwrap();
            store.delete(&Path::from("c")).await.unwrap();
            assert_eq!(store.used(), 0);
            store.set_limit(10);
            assert!(store.put(&a, vec![0; 11].into()).await.is_err());
        });
    }

    #[test]
    fn what_the_store_refused_itself_takes_no_room() {
        let store = QuotaStore::new(Arc::new(InMemory::new()), 100);
        let a = Path::from("a");
        block_on(async {
            store.put(&a, vec![0; 30].into()).await.unwrap();
            assert!(store.put_opts(&a, vec![0; 30].into(), PutMode::Create.into()).await.is_err());
            assert_eq!(store.used(), 30);
            let mut upload = store.put_multipart(&a).await.unwrap();
            upload.put_part(vec![0; 50].into()).await.unwrap();
            assert!(upload.put_part(vec![0; 50].into()).await.is_err());
            assert_eq!(store.used(), 80);
            upload.complete().await.unwrap();
            assert_eq!(store.used(), 50);
        });
    }
}
