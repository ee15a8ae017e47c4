//! A folder as an object store that survives a power cut and leaves nothing behind.
//!
//! It reads through `object_store`'s own `LocalFileSystem` and does the rest itself, because that one stages a
//! file beside its target under a name that it then hides from `list` and refuses to `delete`, publishes by a
//! hard link that a kill leaves standing (and with it the space of a pack deleted later), and does not sync
//! deletes (seen in 0.14.2). Here:
//!
//! - a put writes `sessions/<id>/stage-<n>`, syncs it, renames it to its name (without replacing, for a create),
//!   and syncs the folders, also those that another process has made and perhaps not yet synced; `<id>` is the
//!   session in the object's name, else one of this store value's own;
//! - a delete syncs the folder it deleted from before it is answered;
//! - `list` shows every file there is, also those whose names no object can have (percent-encoded).

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use vmkeep_model::SessionId;

/// How often a put starts over because a folder was removed under it; more means that somebody else deletes
/// the vault's folders, and the put fails.
const FOLDER_RACES_MAX: u32 = 16;

/// A folder as a durable object store. See the module's text for what it adds.
#[derive(Debug)]
pub struct FolderStore {
    inner: LocalFileSystem,
    root: Arc<PathBuf>,
    own: SessionId,
    staged: AtomicU64,
    anchored: Arc<Anchored>,
}

/// The folders that are in their parents for good: path and identity, since another process may remove an empty
/// folder and make it anew.
#[derive(Debug, Default)]
struct Anchored(Mutex<HashMap<PathBuf, Identity>>);

/// Inode and time of birth; file systems give the number of a removed folder to the next one.
type Identity = (u64, Option<SystemTime>);

impl fmt::Display for FolderStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder {}", self.root.display())
    }
}

impl FolderStore {
    /// The store in the folder `root`, which must exist. `own` names the staging folder of objects whose names
    /// hold no session; it must be random.
    pub fn open(root: impl AsRef<FsPath>, own: SessionId) -> Result<Self> {
        let root = fs::canonicalize(root.as_ref()).map_err(|e| generic(e, "open", root.as_ref()))?;
        let inner = LocalFileSystem::new_with_prefix(&root)?.with_fsync(true);
        Ok(Self { inner, root: Arc::new(root), own, staged: AtomicU64::new(0), anchored: Arc::default() })
    }

    fn file(&self, location: &Path) -> PathBuf {
        self.root.join(location.as_ref())
    }

    /// Where the object at `location` is written before it gets its name.
    fn stage_file(&self, location: &Path) -> PathBuf {
        let parts: Vec<&str> = location.as_ref().split('/').collect();
        let own = self.own.to_string();
        let session = match parts.as_slice() {
            ["packs", _, session, _] | ["sessions", session, "open"] => session,
            _ => own.as_str(),
        };
        let n = self.staged.fetch_add(1, Ordering::Relaxed);
        self.root.join("sessions").join(session).join(format!("stage-{n}"))
    }
}

#[async_trait]
impl ObjectStore for FolderStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let replace = match options.mode {
            PutMode::Create => false,
            PutMode::Overwrite => true,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "put with PutMode::Update".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let (stage, target, root) = (self.stage_file(location), self.file(location), Arc::clone(&self.root));
        let (path, anchored) = (location.to_string(), Arc::clone(&self.anchored));
        blocking(move || {
            put(&root, &anchored, &stage, &target, &payload, replace).map_err(|e| named(e, &path, &target))
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None, extensions: object_store::Extensions::default() })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let root = Arc::clone(&self.root);
        locations
            .then(move |location| {
                let root = Arc::clone(&root);
                async move {
                    let location = location?;
                    let target = root.join(location.as_ref());
                    let path = location.to_string();
                    blocking(move || delete(&root, &target).map_err(|e| named(e, &path, &target))).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let start = prefix.map_or_else(|| (*self.root).clone(), |prefix| self.root.join(prefix.as_ref()));
        let walk = Walk { root: Arc::clone(&self.root), to_open: Some(start), open: Vec::new() };
        // What is found some at a time, so that no more is in memory however much there is.
        stream::try_unfold(walk, |mut walk| {
            blocking(move || {
                let some = walk.some()?;
                Ok((!some.is_empty()).then_some((stream::iter(some).map(Ok), walk)))
            })
        })
        .try_flatten()
        .boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        self.list(prefix)
            .filter(move |found| {
                let after = found.as_ref().map_or(true, |meta| meta.location > offset);
                futures::future::ready(after)
            })
            .boxed()
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

/// Runs `work` where it may block: on the runtime's blocking threads, or here when there is no runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

fn generic(source: io::Error, operation: &'static str, path: &FsPath) -> Error {
    let source = io::Error::new(source.kind(), format!("cannot {operation} {}: {source}", path.display()));
    Error::Generic { store: "folder", source: source.into() }
}

fn named(source: io::Error, path: &str, file: &FsPath) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path, source: source.into() },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: source.into() },
        io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: source.into() },
        _ => generic(source, "write", file),
    }
}

fn put(
    root: &FsPath,
    anchored: &Anchored,
    stage: &FsPath,
    target: &FsPath,
    payload: &PutPayload,
    replace: bool,
) -> io::Result<()> {
    // Told without writing anything, for the common second create; the rename below is what decides.
    if !replace && target.exists() {
        return Err(anchored.exists(root, target));
    }
    let mut tries_left = FOLDER_RACES_MAX;
    loop {
        match try_put(root, anchored, stage, target, payload, replace) {
            // Told so once it is there to stay.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(anchored.exists(root, target)),
            // Another thread removed a folder that had become empty just before it was used again.
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries_left > 0 => tries_left -= 1,
            done => return done,
        }
    }
}

fn try_put(
    root: &FsPath,
    anchored: &Anchored,
    stage: &FsPath,
    target: &FsPath,
    payload: &PutPayload,
    replace: bool,
) -> io::Result<()> {
    let stage_folder = parent(stage)?;
    make_folders(stage_folder)?;
    make_folders(parent(target)?)?;
    let written = write_synced(stage, payload).and_then(|()| publish(stage, target, replace));
    if written.is_err() {
        // Best effort: a leftover is found by verify and removed with its session.
        fs::remove_file(stage).ok();
    }
    remove_empty(root, stage_folder);
    written?;
    anchored.sync(root, parent(target)?)
}

fn write_synced(stage: &FsPath, payload: &PutPayload) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(stage)?;
    payload.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

fn publish(stage: &FsPath, target: &FsPath, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(stage, target);
    }
    match renameat_with(CWD, stage, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // A file system without it (some network ones): a link fails on an existing name just as well.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => match fs::hard_link(stage, target) {
            Ok(()) => fs::remove_file(stage),
            Err(e) => Err(e),
        },
        Err(e) => Err(e.into()),
    }
}

impl Anchored {
    /// The answer that `target` is there, which is only given once it is there to stay.
    fn exists(&self, root: &FsPath, target: &FsPath) -> io::Error {
        match parent(target).and_then(|folder| self.sync(root, folder)) {
            Ok(()) => io::ErrorKind::AlreadyExists.into(),
            Err(e) => e,
        }
    }

    /// Makes what is in `folder` durable, and the folder itself.
    fn sync(&self, root: &FsPath, folder: &FsPath) -> io::Result<()> {
        self.anchor(root, folder)?;
        sync_folder(folder)
    }

    /// Sees to it that `folder` and those above it, up to `root`, are synced into their parents, whoever made them.
    fn anchor(&self, root: &FsPath, folder: &FsPath) -> io::Result<()> {
        if folder == root {
            return Ok(());
        }
        self.anchor(root, parent(folder)?)?;
        let identity = match fs::metadata(folder) {
            Ok(meta) => (meta.ino(), meta.created().ok()),
            // Emptied and removed by another thread: there is nothing left to make durable.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if self.lock().get(folder) == Some(&identity) {
            return Ok(());
        }
        sync_folder(parent(folder)?)?;
        self.lock().insert(folder.to_owned(), identity);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Identity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delete(root: &FsPath, target: &FsPath) -> io::Result<()> {
    fs::remove_file(target)?;
    let folder = parent(target)?;
    sync_folder(folder)?;
    remove_empty(root, folder);
    Ok(())
}

fn parent(path: &FsPath) -> io::Result<&FsPath> {
    path.parent().ok_or_else(|| io::Error::other("a path without a folder"))
}

/// Makes `folder` and what is missing above it; synced by whoever answers for what is in it.
fn make_folders(folder: &FsPath) -> io::Result<()> {
    fs::create_dir_all(folder).map_err(|e| match e.kind() {
        // It was there, and then another thread removed it: not to be taken for an object that exists.
        io::ErrorKind::AlreadyExists if !folder.is_file() => io::ErrorKind::NotFound.into(),
        io::ErrorKind::AlreadyExists => io::ErrorKind::NotADirectory.into(),
        _ => e,
    })
}

/// Removes `folder` and those above it as far as they are empty. A folder in use is not empty: nothing to report.
fn remove_empty(root: &FsPath, folder: &FsPath) {
    let mut folder = folder;
    while folder != root && fs::remove_dir(folder).is_ok() {
        let Some(above) = folder.parent() else { return };
        folder = above;
    }
}

fn sync_folder(folder: &FsPath) -> io::Result<()> {
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        // Emptied and removed by another thread: there is nothing left to make durable.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// How many files a listing finds before it gives them on.
const LISTED_AT_ONCE: usize = 1000;

/// A walk through folders, depth first.
struct Walk {
    root: Arc<PathBuf>,
    /// The folder to open next.
    to_open: Option<PathBuf>,
    /// The folders that the walk is in, each below the one before.
    open: Vec<(PathBuf, fs::ReadDir)>,
}

impl Walk {
    /// Some more files; none when there are none left. Nothing is under a file; a folder that vanishes meanwhile is empty.
    fn some(&mut self) -> Result<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        while found.len() < LISTED_AT_ONCE {
            if let Some(folder) = self.to_open.take() {
                match fs::read_dir(&folder) {
                    Ok(entries) => self.open.push((folder, entries)),
                    Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                    Err(e) => return Err(generic(e, "list", &folder)),
                }
            }
            let Some((folder, entries)) = self.open.last_mut() else { break };
            let Some(entry) = entries.next() else {
                self.open.pop();
                continue;
            };
            let path = entry.map_err(|e| generic(e, "list", folder))?.path();
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(generic(e, "look at", &path)),
            };
            if meta.is_dir() {
                self.to_open = Some(path);
                continue;
            }
            let relative = path.strip_prefix(&*self.root).unwrap_or(&path);
            let parts = relative.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
            found.push(ObjectMeta {
                location: parts.collect(),
                last_modified: meta.modified().unwrap_or(std::time::UNIX_EPOCH).into(),
                size: meta.len(),
                e_tag: None,
                version: None,
            });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use object_store::ObjectStoreExt;

    use super::*;

    fn store() -> (tempfile::TempDir, FolderStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(folder.path(), SessionId([7; 16])).unwrap();
        (folder, store)
    }

    fn create(store: &FolderStore, name: &str, bytes: &'static [u8]) -> Result<PutResult> {
        block_on(store.put_opts(&Path::from(name), PutPayload::from_static(bytes), PutMode::Create.into()))
    }

    fn names(store: &FolderStore) -> Vec<String> {
        let found: Vec<ObjectMeta> = block_on(store.list(None).try_collect()).unwrap();
        found.into_iter().map(|meta| meta.location.to_string()).collect()
    }

    #[test]
    fn a_create_has_one_winner_among_many_threads() {
        let (_folder, store) = store();
        let wins: Vec<bool> = std::thread::scope(|scope| {
            let tries: Vec<_> =
                (0..8).map(|_| scope.spawn(|| create(&store, "points/a/1", b"x").is_ok())).collect();
            tries.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(wins.iter().filter(|&&won| won).count(), 1);
        assert!(matches!(create(&store, "points/a/1", b"y"), Err(Error::AlreadyExists { .. })));
        assert_eq!(names(&store), ["points/a/1"]);
    }

    #[test]
    fn every_file_is_listed_even_one_no_object_can_be_named_like() {
        let (folder, store) = store();
        create(&store, "vault", b"v").unwrap();
        for odd in ["x#1", "a\\b", "%2e", "~"] {
            fs::write(folder.path().join(odd), b"").unwrap();
        }
        assert_eq!(names(&store).len(), 5);
    }

    #[test]
    fn nothing_is_left_of_what_was_deleted() {
        let (folder, store) = store();
        create(&store, "packs/a/b/c", b"pack").unwrap();
        block_on(store.delete(&Path::from("packs/a/b/c"))).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(matches!(block_on(store.delete(&Path::from("packs/a/b/c"))), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_hint_is_replaced_whole() {
        let (_folder, store) = store();
        let path = Path::from("heads/a");
        for text in ["1", "22"] {
            block_on(store.put(&path, text.into())).unwrap();
            let read = block_on(async { store.get(&path).await?.bytes().await }).unwrap();
            assert_eq!(read, text.as_bytes());
        }
    }
}
