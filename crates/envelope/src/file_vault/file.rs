//! The file: read under a shared lock, replaced under an exclusive one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::FileVault;
use super::content::Content;
use super::sealed::{BODY_MAX, Kind, NotOpened, SEALED_MAX};
use crate::writer::{TooLarge, Written};
use crate::{Argon2Kdf, KeyError, KeyStoreError};

/// A lock on a vault, held as long as this is.
pub(super) struct Locked {
    _file: File,
}

impl Locked {
    pub(super) fn exclusive(path: &Path) -> Result<Self, KeyStoreError> {
        Self::take(path, File::lock)
    }

    fn shared(path: &Path) -> Result<Self, KeyStoreError> {
        Self::take(path, File::lock_shared)
    }

    fn take(path: &Path, lock: fn(&File) -> io::Result<()>) -> Result<Self, KeyStoreError> {
        let path = beside(path, ".lock");
        let open = || {
            // The lock file is never removed: a process that holds a removed one would hold nothing.
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options.open(&path)?;
            lock(&file)?;
            Ok(file)
        };
        open().map(|file| Self { _file: file }).map_err(|source| KeyStoreError::Io { path, source })
    }
}

/// `path` with something after its file name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// What a vault is written as before it is renamed: a name that no vault may have, since what is left under it is removed.
fn stage(path: &Path) -> PathBuf {
    let mut name = OsString::from(STAGE_BEGIN);
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// What the name of a file begins with that a vault is written as.
const STAGE_BEGIN: &str = ".vmkeep-stage-";

/// Where the vault at `path` really is: behind symbolic links, which a rename would replace.
pub(super) fn real(path: &Path) -> Result<PathBuf, KeyStoreError> {
    let failed = |source| KeyStoreError::Io { path: path.to_owned(), source };
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        // One that is yet to be made, in a folder that is there.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = fs::canonicalize(parent.unwrap_or(Path::new("."))).map_err(failed)?;
            parent.join(path.file_name().unwrap_or_default())
        }
        Err(e) => return Err(failed(e)),
    };
    let is_stage = real.file_name().is_some_and(|name| name.to_string_lossy().starts_with(STAGE_BEGIN));
    if is_stage {
        return Err(KeyStoreError::Settings { what: "a vault is not called .vmkeep-stage-..." });
    }
    Ok(real)
}

impl FileVault {
    /// What the vault holds now.
    pub(super) fn read(&self) -> Result<Content, KeyStoreError> {
        // A folder that may not be written has no lock file and cannot change either.
        let locked = Locked::shared(&self.path);
        let read = self.read_unlocked().map(|(content, _)| content);
        drop(locked);
        read
    }

    /// Changes what the vault holds: all of it or, after an error, nothing.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Content) -> Result<T, KeyStoreError>,
    ) -> Result<T, KeyStoreError> {
        let locked = Locked::exclusive(&self.path)?;
        let (mut content, kdf) = self.read_unlocked()?;
        let changed = change(&mut content)?;
        self.store_like(&locked, &content, kdf)?;
        Ok(changed)
    }

    fn read_unlocked(&self) -> Result<(Content, Option<Argon2Kdf>), KeyStoreError> {
        let file = File::open(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => KeyStoreError::NotFound { url: self.path.display().to_string() },
            _ => self.io(source),
        })?;
        check_mode(&self.path, &file.metadata().map_err(|source| self.io(source))?)?;
        let mut sealed = Vec::new();
        file.take(SEALED_MAX as u64 + 1).read_to_end(&mut sealed).map_err(|source| self.io(source))?;
        if sealed.len() > SEALED_MAX {
            return Err(self.damaged("it is longer than a vault may be"));
        }
        let (body, kdf) = self.lock.open(Kind::Vault, &sealed).map_err(|e| match e {
            NotOpened::NotMine => KeyStoreError::Credentials {
                store: self.path.display().to_string(),
                why: "another passphrase or key opens it".to_owned(),
            },
            NotOpened::Open(e) => self.damaged(crate::error::chain(&e)),
            NotOpened::Key(e) => self.unsealed(e),
        })?;
        let content = Content::decode(&body).map_err(|e| self.damaged(e))?;
        // The vault was replaced by another one of the same key: its URLs are not those that were asked for.
        if self.id != [0; 16] && content.id != self.id {
            return Err(self.damaged("it is another vault than the one that was opened"));
        }
        Ok((content, kdf))
    }

    pub(super) fn store(&self, locked: &Locked, content: &Content) -> Result<(), KeyStoreError> {
        self.store_like(locked, content, None)
    }

    /// A new file beside the old one, synced, and renamed over it.
    fn store_like(
        &self,
        _: &Locked,
        content: &Content,
        like: Option<Argon2Kdf>,
    ) -> Result<(), KeyStoreError> {
        let body = content.written().map_err(|TooLarge { what, len, max }| KeyStoreError::TooLarge {
            what,
            len,
            max,
        })?;
        // What could not be opened again is not written.
        if body.len() > BODY_MAX {
            return Err(KeyStoreError::TooLarge { what: "vault", len: body.len(), max: BODY_MAX });
        }
        let entropy = &*self.ports.entropy;
        let sealed = self.lock.seal(Kind::Vault, &body, like, entropy).map_err(|e| self.unsealed(e))?;
        let new = stage(&self.path);
        let failed = |source| KeyStoreError::Io { path: new.clone(), source };
        // One that was left by a crash: nobody else writes it while the lock is held.
        match fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let write = || -> io::Result<()> {
            let mut file = options.open(&new)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            if cfg!(unix) {
                let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
                File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(failed)
    }

    pub(super) fn unsealed(&self, source: KeyError) -> KeyStoreError {
        KeyStoreError::Unreachable { store: self.path.display().to_string(), source: source.into() }
    }
}

fn check_mode(path: &Path, found: &fs::Metadata) -> Result<(), KeyStoreError> {
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyStoreError::Mode { path: path.to_owned(), mode });
        }
    }
    Ok(())
}
