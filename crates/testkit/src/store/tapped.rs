//! A store with a tap before it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::call::{Action, Call, Tap, Verdict, through};
use super::upload::TappedUpload;

/// A store every call of which goes through a [`Tap`]. Clones share the tap and the store.
///
/// A delete stream is one call per object, in order and one after the other. `get_ranges` is one call of several
/// requests. Every step of an upload in parts is a call.
pub struct TappedStore<T> {
    inner: Arc<dyn ObjectStore>,
    tap: Arc<T>,
}

impl<T: Tap> TappedStore<T> {
    /// Puts `tap` before `inner`.
    pub fn with_tap(inner: Arc<dyn ObjectStore>, tap: T) -> Self {
        Self { inner, tap: Arc::new(tap) }
    }

    /// The tap.
    pub fn tap(&self) -> &T {
        &self.tap
    }

    /// The store behind the tap: what reaches it directly is neither seen nor disturbed.
    pub fn inner(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.inner)
    }

    fn listing(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce(&dyn ObjectStore) -> BoxStream<'static, Result<ObjectMeta>>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let whole_store = Path::default();
        let call = Call::new(prefix.unwrap_or(&whole_store), Action::List);
        match self.tap.before(&call) {
            Verdict::Pass => {
                self.tap.after(&call, Ok(0));
                list(&self.inner)
            }
            Verdict::Refuse(error) => stream::once(async { Err(error) }).boxed(),
            Verdict::LoseAnswer(error) => {
                self.tap.after(&call, Ok(0));
                stream::once(async { Err(error) }).boxed()
            }
        }
    }
}

impl<T> Clone for TappedStore<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), tap: Arc::clone(&self.tap) }
    }
}

impl<T: fmt::Debug> fmt::Debug for TappedStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TappedStore").field("tap", &self.tap).field("inner", &self.inner).finish()
    }
}

impl<T: fmt::Display> fmt::Display for TappedStore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.tap, self.inner)
    }
}

fn nothing_read<R>(_: &R) -> u64 {
    0
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: Tap> ObjectStore for TappedStore<T> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let sent = payload.clone();
        let call = Call {
            if_absent: matches!(opts.mode, PutMode::Create),
            ..Call::new(location, Action::Put(&sent))
        };
        through(&*self.tap, call, nothing_read, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let call = Call::new(location, Action::BeginUpload);
        let begin = self.inner.put_multipart_opts(location, opts);
        let upload = through(&*self.tap, call, nothing_read, begin).await?;
        Ok(Box::new(TappedUpload::new(upload, Arc::clone(&self.tap) as Arc<dyn Tap>, location.clone())))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let call = Call::new(location, if head { Action::Head } else { Action::Get { ranges: 1 } });
        let bytes = move |r: &GetResult| if head { 0 } else { r.range.end.saturating_sub(r.range.start) };
        through(&*self.tap, call, bytes, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let call = Call::new(location, Action::Get { ranges: ranges.len() as u64 });
        let bytes = |parts: &Vec<Bytes>| parts.iter().map(|b| b.len() as u64).sum();
        through(&*self.tap, call, bytes, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, tap) = (self.inner(), Arc::clone(&self.tap));
        let delete_one = move |location: Result<Path>| {
            let (inner, tap) = (Arc::clone(&inner), Arc::clone(&tap));
            async move {
                let path = location?;
                let one = inner.delete_stream(stream::once(std::future::ready(Ok(path.clone()))).boxed());
                let call = Call::new(&path, Action::Delete);
                through(&*tap, call, nothing_read, one.try_collect::<Vec<_>>()).await?;
                Ok(path)
            }
        };
        locations.then(delete_one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, |inner| inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, |inner| inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let whole_store = Path::default();
        let call = Call::new(prefix.unwrap_or(&whole_store), Action::List);
        through(&*self.tap, call, nothing_read, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let call = Call::new(from, Action::Copy(to));
        through(&*self.tap, call, nothing_read, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let call = Call::new(from, Action::Rename(to));
        through(&*self.tap, call, nothing_read, self.inner.rename_opts(from, to, options)).await
    }
}
