//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// What to do with a file that has the name of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Refuse,
    Replace,
}

/// A file being written beside its place, under its name and `.partial`.
///
/// Nothing is under the final name, or what was there before is, until [`publish`](Self::publish); dropped before
/// that, it is removed.
#[derive(Debug)]
pub(crate) struct Staged {
    target: PathBuf,
    partial: PathBuf,
    existing: Existing,
    /// Whether the partial file is there and is ours to remove.
    ours: bool,
}

impl Staged {
    /// A file that will be `target`. Nothing is made yet.
    pub(crate) fn new(target: PathBuf, existing: Existing) -> Result<Self, Error> {
        let mut partial = target.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        if existing == Existing::Refuse && is_there(&target) {
            return Err(Error::Exists(target));
        }
        if target.is_dir() {
            return Err(Error::Content {
                path: target,
                what: "is a folder, and only files are replaced".to_owned(),
            });
        }
        if is_there(&partial) {
            return Err(Error::Unfinished(partial));
        }
        Ok(Self { target, partial, existing, ours: false })
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the partial file with `make`, which must fail when it is there, as `exists` tells of its error.
    pub(crate) fn create<T, E>(
        &mut self,
        make: impl FnOnce(&Path) -> Result<T, E>,
        exists: impl FnOnce(&E) -> bool,
        failed: impl FnOnce(E) -> Error,
    ) -> Result<T, Error> {
        make(&self.partial)
            .map_err(|error| {
                if exists(&error) {
                    return Error::Unfinished(self.partial.clone());
                }
                // It was not there, so what there is now of it was made here.
                let _ = fs::remove_file(&self.partial);
                failed(error)
            })
            .inspect(|_| self.ours = true)
    }

    /// Gives the file, complete and synced, its final name, durably.
    pub(crate) fn publish(mut self) -> Result<PathBuf, Error> {
        let failed = |source| Error::File { what: "make", path: self.target.clone(), source };
        match self.existing {
            Existing::Replace => fs::rename(&self.partial, &self.target).map_err(failed)?,
            Existing::Refuse => match fs::hard_link(&self.partial, &self.target) {
                Ok(()) => fs::remove_file(&self.partial).map_err(failed)?,
                Err(_) if is_there(&self.target) => return Err(Error::Exists(self.target.clone())),
                // A file system without links: looking first is the best there is.
                Err(_) => fs::rename(&self.partial, &self.target).map_err(failed)?,
            },
        }
        self.ours = false;
        sync_folder(&self.target).map_err(|source| Error::File {
            what: "make durable",
            path: self.target.clone(),
            source,
        })?;
        Ok(std::mem::take(&mut self.target))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.ours {
            // Best effort: the error that led here is the one to report.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Whether the name is taken, be it by a broken link.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
