//! Counting the requests that reach a store.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{AddAssign, Sub};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use object_store::path::Path;
use object_store::{Error, ObjectStore, Result};

use super::{Call, RequestKind, Tap, TappedStore, Verdict};

/// Requests by kind, and bytes moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects written; every step of an upload in parts is one.
    pub put: u64,
    /// Objects or ranges read.
    pub get: u64,
    /// Sizes asked for.
    pub head: u64,
    /// Prefixes listed, however many objects were under them.
    pub list: u64,
    /// Objects deleted.
    pub delete: u64,
    /// Objects copied or renamed.
    pub copy: u64,
    /// Bytes sent to the store.
    pub bytes_written: u64,
    /// Bytes the store answered reads with.
    pub bytes_read: u64,
}

impl Counts {
    /// All requests of every kind.
    pub fn total(&self) -> u64 {
        self.put + self.get + self.head + self.list + self.delete + self.copy
    }

    fn of_kind(&mut self, kind: RequestKind) -> &mut u64 {
        match kind {
            RequestKind::Put => &mut self.put,
            RequestKind::Get => &mut self.get,
            RequestKind::Head => &mut self.head,
            RequestKind::List => &mut self.list,
            RequestKind::Delete => &mut self.delete,
            RequestKind::Copy => &mut self.copy,
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    /// What was added since `earlier`. Panics when `earlier` is not earlier.
    fn sub(self, earlier: Self) -> Self {
        Self {
            put: self.put - earlier.put,
            get: self.get - earlier.get,
            head: self.head - earlier.head,
            list: self.list - earlier.list,
            delete: self.delete - earlier.delete,
            copy: self.copy - earlier.copy,
            bytes_written: self.bytes_written - earlier.bytes_written,
            bytes_read: self.bytes_read - earlier.bytes_read,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.put += more.put;
        self.get += more.get;
        self.head += more.head;
        self.list += more.list;
        self.delete += more.delete;
        self.copy += more.copy;
        self.bytes_written += more.bytes_written;
        self.bytes_read += more.bytes_read;
    }
}

/// A store that counts and lists the calls reaching it.
///
/// A call counts when it begins, whether or not the store then fails it. A read of k ranges by `get_ranges` counts
/// as k gets, though a store may merge neighbours.
pub type CountingStore = TappedStore<Counting>;

/// The tap of a [`CountingStore`].
#[derive(Debug, Default)]
pub struct Counting {
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    by_prefix: BTreeMap<String, Counts>,
    log: Vec<(RequestKind, Path)>,
}

impl Counting {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn under(&mut self, path: &Path) -> &mut Counts {
        let first = path.parts().next().map(|p| p.as_ref().to_owned()).unwrap_or_default();
        self.by_prefix.entry(first).or_default()
    }
}

impl TappedStore<Counting> {
    /// A store before `inner` that has counted nothing yet.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self::with_tap(inner, Counting::default())
    }

    /// What was counted since the start or the last [`reset`](Self::reset).
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        self.tap().tally().by_prefix.values().for_each(|&c| all += c);
        all
    }

    /// The part of [`counts`](Self::counts) whose object names begin with this segment (`"packs"`). The root of
    /// the store, where a list of everything counts, is `""`.
    pub fn counts_under(&self, first_segment: &str) -> Counts {
        self.tap().tally().by_prefix.get(first_segment).copied().unwrap_or_default()
    }

    /// The counts of every first segment.
    pub fn counts_by_prefix(&self) -> BTreeMap<String, Counts> {
        self.tap().tally().by_prefix.clone()
    }

    /// Forgets counts and log.
    pub fn reset(&self) {
        *self.tap().tally() = Tally::default();
    }

    /// The calls since the last time the log was taken, in the order in which they began.
    pub fn take_log(&self) -> Vec<(RequestKind, Path)> {
        std::mem::take(&mut self.tap().tally().log)
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountingStore")
    }
}

impl Tap for Counting {
    fn before(&self, call: &Call<'_>) -> Verdict {
        let mut tally = self.tally();
        tally.log.push((call.kind(), call.path.clone()));
        let counts = tally.under(call.path);
        *counts.of_kind(call.kind()) += call.requests();
        counts.bytes_written += call.bytes_sent();
        Verdict::Pass
    }

    fn after(&self, call: &Call<'_>, outcome: Result<u64, &Error>) {
        self.tally().under(call.path).bytes_read += outcome.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use futures::executor::block_on;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn every_kind_of_request_is_counted_once_under_its_prefix() {
        let store = CountingStore::new(Arc::new(InMemory::new()));
        let (a, b) = (Path::from("packs/a"), Path::from("points/b"));
        block_on(async {
            store.put(&a, vec![1; 100].into()).await.unwrap();
            store.head(&a).await.unwrap();
            store.get(&a).await.unwrap();
            store.get_ranges(&a, &[0..10, 90..100]).await.unwrap();
            store.copy(&a, &b).await.unwrap();
            assert_eq!(store.list(Some(&Path::from("points"))).count().await, 1);
            store.list_with_delimiter(None).await.unwrap();
            store.delete(&b).await.unwrap();
            assert!(store.get(&b).await.is_err());
        });
        let packs = Counts {
            put: 1,
            get: 3,
            head: 1,
            copy: 1,
            bytes_written: 100,
            bytes_read: 120,
            ..Counts::default()
        };
        assert_eq!(store.counts_under("packs"), packs);
        assert_eq!(store.counts_under("points"), Counts { list: 1, delete: 1, get: 1, ..Counts::default() });
        assert_eq!(store.counts_under(""), Counts { list: 1, ..Counts::default() });
        assert_eq!(store.counts().total(), 10);
        assert_eq!((store.counts() - packs).total(), 4);
        let log = store.take_log();
        assert_eq!(log[0], (RequestKind::Put, a));
        assert_eq!(log[8], (RequestKind::Get, b));
        assert!(store.take_log().is_empty());
        store.reset();
        assert_eq!(store.counts(), Counts::default());
    }

    #[test]
    fn the_steps_of_an_upload_in_parts_are_puts() {
        let store = CountingStore::new(Arc::new(InMemory::new()));
        block_on(async {
            let mut upload = store.put_multipart(&Path::from("x/y")).await.unwrap();
            upload.put_part(vec![0; 10].into()).await.unwrap();
            upload.put_part(vec![0; 20].into()).await.unwrap();
            upload.complete().await.unwrap();
        });
        assert_eq!(store.counts(), Counts { put: 4, bytes_written: 30, ..Counts::default() });
    }
}
