//! Stores that cannot hold a vault.

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};

/// In what way a store is unfit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A create of a name that exists replaces the object.
    Overwrites,
    /// A create of a name that exists replaces the object, and says that it did not.
    OverwritesInSecret,
    /// A create looks first and writes then: two at once both succeed.
    LooksFirst,
    /// A create is refused as something the service does not do.
    NotSupported,
    /// A create is refused as something the client does not do.
    NotImplemented,
    /// A create always says that the name exists.
    AlwaysExists,
    /// What is written is not there.
    Forgets,
    /// What is written is not listed.
    Hides,
    /// What is deleted is still there.
    KeepsDeleted,
}

impl Unfit {
    /// Every way.
    pub const ALL: [Self; 9] = [
        Self::Overwrites,
        Self::OverwritesInSecret,
        Self::LooksFirst,
        Self::NotSupported,
        Self::NotImplemented,
        Self::AlwaysExists,
        Self::Forgets,
        Self::Hides,
        Self::KeepsDeleted,
    ];
}

/// A store that does one thing wrong and all else as the store behind it.
#[derive(Clone, Debug)]
pub struct UnfitStore {
    inner: Arc<dyn ObjectStore>,
    unfit: Unfit,
}

impl UnfitStore {
    /// Makes `inner` unfit in one way.
    pub fn new(inner: Arc<dyn ObjectStore>, unfit: Unfit) -> Self {
        Self { inner, unfit }
    }

    async fn create(&self, location: &Path, payload: PutPayload) -> Result<PutResult> {
        let put = async |mode: PutMode| self.inner.put_opts(location, payload, mode.into()).await;
        let text = || "create if absent".to_owned();
        let exists = || Error::AlreadyExists { path: location.to_string(), source: text().into() };
        match self.unfit {
            Unfit::Overwrites => put(PutMode::Overwrite).await,
            Unfit::OverwritesInSecret => {
                let there = self.inner.head(location).await.is_ok();
                put(PutMode::Overwrite).await.and_then(|put| if there { Err(exists()) } else { Ok(put) })
            }
            Unfit::LooksFirst => {
                if self.inner.head(location).await.is_ok() {
                    return Err(exists());
                }
                let_others_run().await;
                put(PutMode::Overwrite).await
            }
            Unfit::NotSupported => Err(Error::NotSupported { source: text().into() }),
            Unfit::NotImplemented => {
                Err(Error::NotImplemented { operation: text(), implementer: self.to_string() })
            }
            Unfit::AlwaysExists => Err(exists()),
            Unfit::Forgets => Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() }),
            Unfit::Hides | Unfit::KeepsDeleted => put(PutMode::Create).await,
        }
    }
}

/// Waits once: whatever else the caller has begun gets its turn.
async fn let_others_run() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl fmt::Display for UnfitStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnfitStore({:?}, {})", self.unfit, self.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for UnfitStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Create) {
            return self.create(location, payload).await;
        }
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.unfit == Unfit::KeepsDeleted { locations } else { self.inner.delete_stream(locations) }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.unfit == Unfit::Hides { stream::empty().boxed() } else { self.inner.list(prefix) }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.unfit == Unfit::Hides {
            return stream::empty().boxed();
        }
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
