//! Whether a store can hold a vault, tried out before one is made there.
//!
//! A vault rests on create-if-absent: a store that takes the same name twice lets two hosts commit one number, and
//! neither would ever know. So it is tried, under stage names of the session that makes the vault, which whoever
//! looks later knows as leftovers.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use vmkeep_model::SessionId;

use super::objects::{CREATE_TRIES, Objects};
use crate::error::{StoreOperation, VaultError};
use crate::layout::ObjectName;

/// What came of one step.
enum Failure {
    /// The store did it, and wrongly.
    Unfit(String),
    /// The store did not do it; nothing is known about how it would.
    Store(StoreOperation, Path, Error),
}

type Result<T> = std::result::Result<T, Failure>;

/// Tries what a vault needs of the store in eleven requests, and removes what it wrote for it.
///
/// `UnfitStore` when the store answers wrongly, `Store` when it does not answer. After either, removing was tried too.
pub(crate) fn probe(objects: &Objects, session: SessionId) -> std::result::Result<(), VaultError> {
    let names = ["stage-0", "stage-1"].map(|stage| ObjectName::Stage(session, stage.to_owned()).path());
    let folder = Path::from(format!("sessions/{session}"));
    let outcome = objects.run(move |store| async move {
        let probe = Probe { store, names, folder };
        match probe.run().await {
            Ok(()) => Ok(()),
            Err(failure) => {
                // Its own failure says nothing that the first one has not said.
                probe.remove().await.ok();
                Err(failure)
            }
        }
    });
    outcome?.map_err(|failure| match failure {
        Failure::Unfit(what) => VaultError::UnfitStore { store: objects.place(), what },
        Failure::Store(operation, path, source) => VaultError::store(operation, path, source),
    })
}

struct Probe {
    store: Arc<dyn ObjectStore>,
    names: [Path; 2],
    folder: Path,
}

impl Probe {
    async fn run(&self) -> Result<()> {
        self.one_after_the_other().await?;
        self.both_at_once().await?;
        self.listed(&self.names).await?;
        self.remove().await?;
        self.listed(&[]).await
    }

    async fn one_after_the_other(&self) -> Result<()> {
        let [name, _] = &self.names;
        // "Exists" may be the echo of a first attempt whose answer was lost; reading tells.
        let first = self.create(name, 1).await?;
        match (first, self.read(name).await?) {
            (_, Some(found)) if found == content(1) => {}
            (true, _) => return unfit("an object that it has just taken is not there to be read"),
            (false, _) => return unfit("it says of a name that was never used that it exists"),
        }
        if self.create(name, 2).await? {
            return unfit("it takes a second create of a name that exists");
        }
        if self.read(name).await? != Some(content(1)) {
            return unfit("a create of a name that exists is refused, and changes the object");
        }
        Ok(())
    }

    async fn both_at_once(&self) -> Result<()> {
        let [_, name] = &self.names;
        let (a, b) = join(self.create(name, 3), self.create(name, 4)).await;
        let (a, b, found) = (a?, b?, self.read(name).await?);
        if a && b {
            return unfit("of two creates of one name at once it takes both");
        }
        let possible = [(a || !b).then(|| content(3)), (b || !a).then(|| content(4))];
        match found {
            Some(found) if possible.contains(&Some(found.clone())) => Ok(()),
            _ => unfit("of two creates of one name at once it keeps the one that it refused"),
        }
    }

    /// Whether `name` was free and is ours now; the content is different for every `n`.
    async fn create(&self, name: &Path, n: u8) -> Result<bool> {
        let mut failures = 0;
        loop {
            let payload = PutPayload::from_bytes(content(n));
            match self.store.put_opts(name, payload, PutMode::Create.into()).await {
                Ok(_) => return Ok(true),
                Err(Error::AlreadyExists { .. }) => return Ok(false),
                Err(e @ (Error::NotSupported { .. } | Error::NotImplemented { .. })) => {
                    return unfit(&format!("it cannot create an object only if there is none ({e})"));
                }
                // As every create of a vault: asked again, and what is there then may be its own.
                Err(_) if failures + 1 < CREATE_TRIES => failures += 1,
                Err(e) => return Err(Failure::Store(StoreOperation::Write, name.clone(), e)),
            }
        }
    }

    async fn read(&self, name: &Path) -> Result<Option<Bytes>> {
        let read = async { self.store.get(name).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(Failure::Store(StoreOperation::Read, name.clone(), e)),
        }
    }

    /// That a list shows these objects and no others.
    async fn listed(&self, expected: &[Path]) -> Result<()> {
        let found = self.store.list(Some(&self.folder)).try_collect::<Vec<_>>().await;
        let found = found.map_err(|e| Failure::Store(StoreOperation::List, self.folder.clone(), e))?;
        let mut found: Vec<Path> = found.into_iter().map(|meta| meta.location).collect();
        found.sort();
        if let Some(hidden) = expected.iter().find(|path| !found.contains(path)) {
            return unfit(&format!("it does not list {hidden}, which it has just taken"));
        }
        match found.iter().find(|path| !expected.contains(path)) {
            Some(gone) if self.names.contains(gone) => {
                unfit(&format!("it lists {gone}, which it has just deleted"))
            }
            Some(stray) => unfit(&format!("it lists {stray}, which nobody wrote")),
            None => Ok(()),
        }
    }

    async fn remove(&self) -> Result<()> {
        let mut outcome = Ok(());
        for name in &self.names {
            match self.store.delete(name).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(e) => outcome = Err(Failure::Store(StoreOperation::Delete, name.clone(), e)),
            }
        }
        outcome
    }
}

/// What the probe writes: made of nothing that the vault will hold.
fn content(n: u8) -> Bytes {
    Bytes::from(format!("vmkeep tries what this store does: {n}"))
}

fn unfit<T>(what: &str) -> Result<T> {
    Err(Failure::Unfit(what.to_owned()))
}
