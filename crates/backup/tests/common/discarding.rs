//! A store that takes packs and keeps none of them: for backups too large to keep in a test.
#![allow(unreachable_pub)]

use std::fmt;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Everything but packs is kept in memory. The newest pack is held until the next one comes, as if the store were
/// as slow as the backup: so a second pack is always on its way.
#[derive(Debug, Default)]
pub struct DiscardingStore {
    rest: InMemory,
    on_its_way: Mutex<Option<PutPayload>>,
}

impl fmt::Display for DiscardingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiscardingStore")
    }
}

#[async_trait]
impl ObjectStore for DiscardingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if location.as_ref().starts_with("packs/") {
            *self.on_its_way.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
            return Ok(PutResult { e_tag: None, version: None, extensions: Extensions::default() });
        }
        self.rest.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.rest.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.rest.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.rest.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.rest.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.rest.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.rest.copy_opts(from, to, options).await
    }
}
