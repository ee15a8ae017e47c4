//! A KEK in a file: 32 bytes that only their owner may read.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use zeroize::Zeroizing;

use crate::kek::{Kek, is_ours};
use crate::{Entropy, KeyError, KeyVault, SecretKey, Unwrapped, WrapContext, WrappedKey};

/// Length of a key file.
const LEN: usize = 32;

/// Wraps with the 32 bytes of a file. Whoever has the file can open everything wrapped with it; when it is lost, so
/// is everything that no other KEK wraps.
pub struct KeyFileVault {
    kek: Kek,
}

impl KeyFileVault {
    /// Makes a new key file of mode 0600, on disk when this returns, and opens it.
    ///
    /// A file that is there already is never overwritten.
    pub fn create(path: impl AsRef<Path>, entropy: &dyn Entropy) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let key = SecretKey::generate(entropy)?;
        let mut file = create_new(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::KeyFileExists { path: path.to_owned() },
            _ => KeyError::KeyFileIo { path: path.to_owned(), source },
        })?;
        let written =
            file.write_all(key.expose()).and_then(|()| file.sync_all()).and_then(|()| sync_folder(path));
        if let Err(source) = written {
            drop(file);
            // Half a key file is worse than none; that it could not be written is what matters to the caller.
            let _ = fs::remove_file(path);
            return Err(KeyError::KeyFileIo { path: path.to_owned(), source });
        }
        Ok(Self::from_key(key))
    }

    /// Opens a key file: a regular file of exactly 32 bytes on which nobody but its owner has any right.
    ///
    /// A symbolic link is followed, and what it points to is what is checked. Rights are checked on Unix only.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => KeyError::KeyFileMissing { path: path.to_owned() },
            _ => KeyError::KeyFileIo { path: path.to_owned(), source },
        };
        // Looked at before it is opened, because opening a pipe would wait for a writer; and again once open.
        check(path, &fs::metadata(path).map_err(failed)?)?;
        let mut file = File::open(path).map_err(failed)?;
        check(path, &file.metadata().map_err(failed)?)?;
        let key = SecretKey::fill(|key| file.read_exact(key)).map_err(failed)?;
        let mut beyond = Zeroizing::new([0]);
        match file.read(beyond.as_mut_slice()).map_err(failed)? {
            0 => Ok(Self::from_key(key)),
            _ => Err(KeyError::KeyFileLength { path: path.to_owned(), found: 33 }),
        }
    }

    /// The key itself, for something else that takes one.
    pub fn into_key(self) -> SecretKey {
        self.kek.into_key()
    }

    /// A vault of a key that came from elsewhere.
    pub fn from_key(key: SecretKey) -> Self {
        Self { kek: Kek::new(key) }
    }
}

impl KeyVault for KeyFileVault {
    fn wrap(
        &self,
        key: &SecretKey,
        context: &WrapContext,
        entropy: &dyn Entropy,
    ) -> Result<WrappedKey, KeyError> {
        self.kek.wrap(key, context, None, entropy)
    }

    fn unwrap(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Unwrapped, KeyError> {
        if wrapped.kdf.is_some() || !is_ours(wrapped) {
            return Ok(Unwrapped::NotMine);
        }
        Ok(self.kek.unwrap(wrapped, context))
    }
}

impl fmt::Debug for KeyFileVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFileVault(..)")
    }
}

fn check(path: &Path, found: &fs::Metadata) -> Result<(), KeyError> {
    let path = || path.to_owned();
    if !found.is_file() {
        return Err(KeyError::KeyFileKind { path: path() });
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::KeyFileMode { path: path(), mode });
        }
    }
    if usize::try_from(found.len()) != Ok(LEN) {
        return Err(KeyError::KeyFileLength { path: path(), found: found.len() });
    }
    Ok(())
}

fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes the new name itself survive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}
