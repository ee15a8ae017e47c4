//! Objects by name: create once, read, list; an uncertain answer is settled by reading back.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::{
    Error, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};
use vmkeep_envelope::SealedObject;

use super::bridge::{Bridge, Pending};
use super::pack_cache::PackCache;
use crate::error::{StoreOperation, VaultError};
use crate::layout::ObjectName;

/// Largest object that is read whole into memory: twice the largest pack.
const WHOLE_OBJECT_MAX: u64 = 128 << 20;

/// How often a create is tried when the store contradicts itself: a name that is taken and then free, an object
/// that is there although its put failed.
pub(super) const CREATE_TRIES: u32 = 5;

/// The objects of one vault.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    bridge: Arc<Bridge>,
    cache: Option<Arc<PackCache>>,
    is_near: bool,
}

/// How a create went, both ways good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    /// This object is there now.
    Ours,
    /// Another object was there.
    Other,
}

/// A create under way.
#[derive(Debug)]
pub(crate) struct PendingCreate {
    name: ObjectName,
    answer: Pending<Result<Created, Error>>,
}

impl PendingCreate {
    /// Blocks until the object is durable, or it is known that it is not.
    pub(crate) fn wait(self) -> Result<Created, VaultError> {
        let answer = self.answer.wait().unwrap_or_else(|| Err(gone()));
        answer.map_err(|e| VaultError::store(StoreOperation::Write, &self.name, e))
    }

    /// As [`wait`](Self::wait), for a name that nobody else may use.
    pub(crate) fn wait_ours(self) -> Result<(), VaultError> {
        let object = self.name.to_string();
        match self.wait()? {
            Created::Ours => Ok(()),
            Created::Other => Err(VaultError::Taken { object }),
        }
    }
}

/// How one attempt to create an object went.
#[derive(Debug)]
pub(crate) enum Put {
    /// It is there, durably.
    Done,
    /// Something was there.
    Taken,
    /// It failed, or the answer was lost: it may be there.
    Failed(VaultError),
}

/// How many objects a page of a listing has at most.
const PAGE_LEN: usize = 1000;

/// How many packs are deleted at a time.
const DELETES: usize = 16;

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Result<Self, VaultError> {
        Ok(Self {
            store,
            bridge: Arc::new(Bridge::new().map_err(VaultError::Runtime)?),
            cache: None,
            is_near: false,
        })
    }

    /// The same objects, which lie on a disk of this machine.
    pub(crate) fn near(self) -> Self {
        Self { is_near: true, ..self }
    }

    /// Whether they lie on a disk of this machine.
    pub(crate) fn is_near(&self) -> bool {
        self.is_near
    }

    /// As [`new`](Self::new), with every call run on the thread that makes it.
    pub(crate) fn inline(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, bridge: Arc::new(Bridge::inline()), cache: None, is_near: false }
    }

    /// The same objects, with metadata packs kept in `folder` beside them.
    pub(crate) fn with_cache(self, folder: PathBuf, budget: u64) -> std::io::Result<Self> {
        Ok(Self { cache: Some(Arc::new(PackCache::open(folder, budget)?)), ..self })
    }

    /// The same objects, read from the store and from nowhere else.
    pub(crate) fn uncached(&self) -> Self {
        let (store, bridge) = (Arc::clone(&self.store), Arc::clone(&self.bridge));
        Self { store, bridge, cache: None, is_near: self.is_near }
    }

    /// Keeps a metadata pack beside the store, when there is a cache.
    pub(crate) fn keep(&self, name: &ObjectName, pack_bytes: &Bytes) {
        if let (Some(cache), ObjectName::Pack(_, _, pack)) = (&self.cache, name) {
            cache.put(*pack, pack_bytes);
        }
    }

    /// Drops a pack from the cache; true when it was there.
    pub(crate) fn drop_kept(&self, name: &ObjectName) -> bool {
        matches!((&self.cache, name), (Some(cache), ObjectName::Pack(_, _, pack)) if cache.remove(*pack))
    }

    /// Where the objects are, for messages.
    pub(crate) fn place(&self) -> String {
        self.store.to_string()
    }

    /// Creates `name`, unless it exists. Durable on return; "exists" and a lost answer are settled by reading back
    /// and comparing the whole object.
    pub(crate) fn create(&self, name: &ObjectName, object: &SealedObject) -> Result<Created, VaultError> {
        self.start_create(name, object).wait()
    }

    /// Starts [`create`](Self::create) and returns; the answer must be waited for before anything relies on it.
    pub(crate) fn start_create(&self, name: &ObjectName, object: &SealedObject) -> PendingCreate {
        let (store, path, bytes) = (Arc::clone(&self.store), name.path(), object.bytes().clone());
        let call = async move {
            let mut failure = None;
            for _ in 0..CREATE_TRIES {
                let put = store
                    .put_opts(&path, PutPayload::from_bytes(bytes.clone()), PutMode::Create.into())
                    .await;
                let Err(failed) = put else { return Ok(Created::Ours) };
                let exists = matches!(failed, Error::AlreadyExists { .. });
                // The first attempt may have landed although its answer was lost.
                match store.get(&path).await {
                    Ok(found) => {
                        if found.meta.size != bytes.len() as u64 || found.bytes().await? != bytes {
                            return Ok(Created::Other);
                        }
                        if exists {
                            return Ok(Created::Ours);
                        }
                        // It is there; whether it is durable only the store can say, and a failure does not.
                    }
                    Err(Error::NotFound { .. }) if exists => {}
                    Err(_) => return Err(failed),
                }
                failure = Some(failed);
            }
            Err(failure.unwrap_or_else(gone))
        };
        PendingCreate { name: name.clone(), answer: self.bridge.start(call) }
    }

    /// Tries once to create `name`.
    pub(crate) fn put_once(&self, name: &ObjectName, object: &SealedObject) -> Put {
        let (store, path, bytes) = (Arc::clone(&self.store), name.path(), object.bytes().clone());
        let call = async move {
            store.put_opts(&path, PutPayload::from_bytes(bytes), PutMode::Create.into()).await.map(drop)
        };
        match self.bridge.start(call).wait().unwrap_or_else(|| Err(gone())) {
            Ok(()) => Put::Done,
            Err(Error::AlreadyExists { .. }) => Put::Taken,
            Err(e) => Put::Failed(VaultError::store(StoreOperation::Write, name, e)),
        }
    }

    /// Removes objects in the order given, but for packs, of which some go at a time. Missing ones count as removed.
    pub(crate) fn delete_all(&self, names: &[ObjectName]) -> Result<(), VaultError> {
        let is_pack = |name: &ObjectName| matches!(name, ObjectName::Pack(..) | ObjectName::PackCopy(..));
        for group in names.chunk_by(|a, b| is_pack(a) && is_pack(b)) {
            let [name] = group else {
                self.delete_packs(group)?;
                continue;
            };
            self.delete(name)?;
        }
        Ok(())
    }

    fn delete_packs(&self, names: &[ObjectName]) -> Result<(), VaultError> {
        let (store, paths) =
            (Arc::clone(&self.store), names.iter().map(ObjectName::path).collect::<Vec<_>>());
        let call = async move {
            let deletes = paths.into_iter().map(|path| {
                let store = Arc::clone(&store);
                async move { store.delete(&path).await.map_err(|e| (path, e)) }
            });
            let mut done = futures::stream::iter(deletes).buffer_unordered(DELETES);
            while let Some(deleted) = done.next().await {
                match deleted {
                    Ok(()) | Err((_, Error::NotFound { .. })) => {}
                    Err(failed) => return Err(failed),
                }
            }
            Ok(())
        };
        let failed =
            |(path, e): (object_store::path::Path, Error)| VaultError::store(StoreOperation::Delete, path, e);
        match self.bridge.start(call).wait() {
            Some(done) => done.map_err(failed),
            None => Err(VaultError::store(StoreOperation::Delete, "packs", gone())),
        }
    }

    /// Writes `name`, replacing what is there in one step: hints, and what is damaged with what it was.
    pub(crate) fn overwrite(&self, name: &ObjectName, object: &SealedObject) -> Result<(), VaultError> {
        let (store, path, bytes) = (Arc::clone(&self.store), name.path(), object.bytes().clone());
        let call = async move { store.put(&path, PutPayload::from_bytes(bytes)).await.map(drop) };
        Self::wait(StoreOperation::Write, name, self.bridge.start(call))
    }

    /// The whole object, or `None` when there is none.
    pub(crate) fn read(&self, name: &ObjectName) -> Result<Option<Bytes>, VaultError> {
        let (store, path) = (Arc::clone(&self.store), name.path());
        let call = async move {
            let found = store.get(&path).await?;
            if found.meta.size > WHOLE_OBJECT_MAX {
                return Err(Error::Generic {
                    store: "vault",
                    source: format!("an object of {} bytes; {WHOLE_OBJECT_MAX} is the most", found.meta.size)
                        .into(),
                });
            }
            found.bytes().await
        };
        none_when_missing(Self::wait(StoreOperation::Read, name, self.bridge.start(call)))
    }

    /// The last `len` bytes of the object (all of it when it is shorter) and its size.
    pub(crate) fn read_tail(&self, name: &ObjectName, len: u64) -> Result<Option<(Bytes, u64)>, VaultError> {
        if let (Some(cache), ObjectName::Pack(_, _, pack)) = (&self.cache, name)
            && let Some(kept) = cache.tail(*pack, len)
        {
            return Ok(Some(kept));
        }
        let (store, path) = (Arc::clone(&self.store), name.path());
        let call = async move {
            let options = GetOptions { range: Some(GetRange::Suffix(len)), ..GetOptions::default() };
            let found = match store.get_opts(&path, options).await {
                // Some stores have no ranges counted from the end (Azure): ask for the size first.
                Err(Error::NotSupported { .. } | Error::NotImplemented { .. }) => {
                    let size = store.head(&path).await?.size;
                    let range = GetRange::Bounded(size.saturating_sub(len)..size);
                    store.get_opts(&path, GetOptions { range: Some(range), ..GetOptions::default() }).await?
                }
                found => found?,
            };
            let size = found.meta.size;
            Ok((found.bytes().await?, size))
        };
        none_when_missing(Self::wait(StoreOperation::Read, name, self.bridge.start(call)))
    }

    /// The bytes of `range`, which may be fewer when the object is shorter.
    pub(crate) fn read_range(
        &self,
        name: &ObjectName,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, VaultError> {
        if let (Some(cache), ObjectName::Pack(_, _, pack)) = (&self.cache, name)
            && let Some(kept) = cache.range(*pack, range.clone())
        {
            return Ok(Some(kept));
        }
        let (store, path) = (Arc::clone(&self.store), name.path());
        let call = async move { store.get_range(&path, range).await };
        none_when_missing(Self::wait(StoreOperation::Read, name, self.bridge.start(call)))
    }

    /// Whether the object is there.
    pub(crate) fn exists(&self, name: &ObjectName) -> Result<bool, VaultError> {
        let (store, path) = (Arc::clone(&self.store), name.path());
        let call = async move { store.head(&path).await.map(drop) };
        none_when_missing(Self::wait(StoreOperation::Read, name, self.bridge.start(call)))
            .map(|found| found.is_some())
    }

    /// When the object was written, in milliseconds since 1970, and its size; `None` when it is not there.
    pub(crate) fn written(&self, name: &ObjectName) -> Result<Option<(i64, u64)>, VaultError> {
        let (store, path) = (Arc::clone(&self.store), name.path());
        let call = async move { store.head(&path).await };
        let found = none_when_missing(Self::wait(StoreOperation::Read, name, self.bridge.start(call)))?;
        Ok(found.map(|meta| (meta.last_modified.timestamp_millis(), meta.size)))
    }

    /// Path and size of every object under `prefix` (of the whole store for an empty one), sorted by path.
    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, VaultError> {
        let store = Arc::clone(&self.store);
        let path = (!prefix.is_empty()).then(|| object_store::path::Path::from(prefix));
        let call = async move {
            let found = store.list(path.as_ref()).map_ok(|meta| (meta.location.to_string(), meta.size));
            let mut found: Vec<_> = found.try_collect().await?;
            found.sort();
            Ok(found)
        };
        Self::wait(StoreOperation::List, &prefix, self.bridge.start(call))
    }

    /// As [`list`](Self::list), in the order in which the store tells of them and some at a time.
    pub(crate) fn pages(&self, prefix: &str) -> Pages {
        let (store, path) = (Arc::clone(&self.store), object_store::path::Path::from(prefix));
        Pages { objects: self.clone(), prefix: prefix.to_owned(), next: Next::Begin(store, path) }
    }

    /// Removes the object; one that is not there counts as removed.
    pub(crate) fn delete(&self, name: &ObjectName) -> Result<(), VaultError> {
        let (store, path) = (Arc::clone(&self.store), name.path());
        let call = async move { store.delete(&path).await };
        none_when_missing(Self::wait(StoreOperation::Delete, name, self.bridge.start(call))).map(drop)
    }

    /// Runs `work` on the store as it is, for what the calls above do not offer.
    pub(super) fn run<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Arc<dyn ObjectStore>) -> F,
    ) -> Result<T, VaultError>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let answer = self.bridge.start(work(Arc::clone(&self.store))).wait();
        answer.ok_or_else(|| VaultError::store(StoreOperation::Read, self.place(), gone()))
    }

    fn wait<T>(
        operation: StoreOperation,
        object: &impl ToString,
        pending: Pending<Result<T, Error>>,
    ) -> Result<T, VaultError> {
        let answer = pending.wait().unwrap_or_else(|| Err(gone()));
        answer.map_err(|e| VaultError::store(operation, object.to_string(), e))
    }
}

/// A listing under way.
pub(crate) struct Pages {
    objects: Objects,
    prefix: String,
    next: Next,
}

/// Where a listing goes on.
enum Next {
    Begin(Arc<dyn ObjectStore>, object_store::path::Path),
    GoOn(BoxStream<'static, Result<ObjectMeta, Error>>),
    End,
}

impl Pages {
    /// Path and size of some more objects; `None` after the last.
    pub(crate) fn next_page(&mut self) -> Result<Option<Vec<(String, u64)>>, VaultError> {
        let next = std::mem::replace(&mut self.next, Next::End);
        let call = async move {
            let mut stream = match next {
                Next::Begin(store, path) => store.list(Some(&path)),
                Next::GoOn(stream) => stream,
                Next::End => return Ok(None),
            };
            let mut page = Vec::new();
            while page.len() < PAGE_LEN {
                match stream.try_next().await? {
                    Some(meta) => page.push((meta.location.to_string(), meta.size)),
                    None => return Ok((!page.is_empty()).then_some((page, Next::End))),
                }
            }
            Ok(Some((page, Next::GoOn(stream))))
        };
        let found = Objects::wait(StoreOperation::List, &self.prefix, self.objects.bridge.start(call))?;
        Ok(found.map(|(page, next)| {
            self.next = next;
            page
        }))
    }
}

fn gone() -> Error {
    Error::Generic { store: "vault", source: "the store's runtime ended under the call".into() }
}

fn none_when_missing<T>(answer: Result<T, VaultError>) -> Result<Option<T>, VaultError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(VaultError::Store { source, .. }) if matches!(*source, Error::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Turns an absent object into an error where it must be there.
pub(crate) trait ResultExt<T> {
    fn or_missing(self, name: &ObjectName) -> Result<T, VaultError>;
}

impl<T> ResultExt<T> for Result<Option<T>, VaultError> {
    fn or_missing(self, name: &ObjectName) -> Result<T, VaultError> {
        self?.ok_or_else(|| VaultError::Missing { object: name.to_string() })
    }
}
