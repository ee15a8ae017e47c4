//! Remembering every payload that was sent to a store.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;

use super::{Call, Tap, TappedStore, Verdict};

/// A store that keeps every payload ever sent to it: overwritten, deleted and refused ones too, as somebody at the
/// wire would. Every part of an upload is a payload; a copy within the store sends none.
pub type RecordingStore = TappedStore<Recording>;

/// The tap of a [`RecordingStore`].
#[derive(Debug, Default)]
pub struct Recording {
    puts: Mutex<Vec<(Path, Bytes)>>,
}

impl Recording {
    fn lock(&self) -> MutexGuard<'_, Vec<(Path, Bytes)>> {
        self.puts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TappedStore<Recording> {
    /// A store before `inner` that remembers nothing yet.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self::with_tap(inner, Recording::default())
    }

    /// Every payload so far with the object it was for, in the order in which they were sent.
    pub fn puts(&self) -> Vec<(Path, Bytes)> {
        self.tap().lock().clone()
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordingStore")
    }
}

impl Tap for Recording {
    fn before(&self, call: &Call<'_>) -> Verdict {
        if let Some(payload) = call.payload() {
            self.lock().push((call.path.clone(), Bytes::from(payload.clone())));
        }
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutMode};

    use super::*;

    #[test]
    fn overwritten_deleted_and_refused_payloads_are_kept() {
        let store = RecordingStore::new(Arc::new(InMemory::new()));
        let a = Path::from("a");
        block_on(async {
            store.put(&a, "1".into()).await.unwrap();
            store.put(&a, "2".into()).await.unwrap();
            assert!(store.put_opts(&a, "3".into(), PutMode::Create.into()).await.is_err());
            store.delete(&a).await.unwrap();
        });
        let payloads: Vec<_> =
            store.puts().into_iter().map(|(path, bytes)| (path.to_string(), bytes)).collect();
        assert_eq!(payloads, ["1", "2", "3"].map(|p| ("a".to_owned(), Bytes::from(p))));
    }
}
