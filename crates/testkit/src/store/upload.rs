//! Writing an object in parts, through a tap.

use std::future::ready;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::call::{Action, Call, Tap, Verdict, finish, through};

#[derive(Debug)]
pub(super) struct TappedUpload {
    inner: Box<dyn MultipartUpload>,
    tap: Arc<dyn Tap>,
    path: Path,
    /// Bytes in the parts that reached the store.
    len: u64,
}

impl TappedUpload {
    pub(super) fn new(inner: Box<dyn MultipartUpload>, tap: Arc<dyn Tap>, path: Path) -> Self {
        Self { inner, tap, path, len: 0 }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MultipartUpload for TappedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // Decided before the store hears of it: some stores take a part as soon as the future is made.
        let verdict = match self.tap.before(&Call::new(&self.path, Action::PutPart(&data))) {
            Verdict::Refuse(error) => return ready(Err(error)).boxed(),
            other => other,
        };
        self.len += data.content_length() as u64;
        let part = self.inner.put_part(data.clone());
        let (tap, path) = (Arc::clone(&self.tap), self.path.clone());
        async move {
            let call = Call::new(&path, Action::PutPart(&data));
            finish(&*tap, call, verdict, |()| 0, part).await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let call = Call::new(&self.path, Action::CompleteUpload { len: self.len });
        through(&*self.tap, call, |_| 0, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let call = Call::new(&self.path, Action::AbortUpload { len: self.len });
        through(&*self.tap, call, |()| 0, self.inner.abort()).await
    }
}
