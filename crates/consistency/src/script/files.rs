//! Who may have written what is run as root: owners and permissions.

use std::fmt;
use std::io;

use super::settings::{SETTINGS_BYTES_MAX, ScriptErrorCode, ScriptSettings};

/// What a file looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Whether it is a regular file.
    pub regular: bool,
    /// Permission bits, the lowest nine.
    pub mode: u32,
    /// User id of its owner.
    pub owner: u32,
}

/// A view of files.
pub trait ScriptFiles: fmt::Debug {
    /// What the file at `path` looks like, links followed.
    ///
    /// # Errors
    /// When it cannot be told; [`io::ErrorKind::NotFound`] when there is none.
    fn facts(&self, path: &str) -> io::Result<FileFacts>;

    /// The facts and at most `limit` bytes of one and the same file.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, path: &str, limit: usize) -> io::Result<(FileFacts, Vec<u8>)>;
}

/// The files of this machine.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

#[cfg(unix)]
impl ScriptFiles for SystemFiles {
    fn facts(&self, path: &str) -> io::Result<FileFacts> {
        std::fs::metadata(path).map(|metadata| facts_of(&metadata))
    }

    fn read(&self, path: &str, limit: usize) -> io::Result<(FileFacts, Vec<u8>)> {
        use std::io::Read as _;
        let file = std::fs::File::open(path)?;
        let facts = facts_of(&file.metadata()?);
        let mut bytes = Vec::new();
        file.take(u64::try_from(limit).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
        Ok((facts, bytes))
    }
}

#[cfg(unix)]
fn facts_of(metadata: &std::fs::Metadata) -> FileFacts {
    use std::os::unix::fs::MetadataExt as _;
    FileFacts { regular: metadata.is_file(), mode: metadata.mode() & 0o777, owner: metadata.uid() }
}

/// Reads the settings when nobody but `owner` can have written or read them.
///
/// # Errors
/// 316 when there are none, 317 for permissions beyond 600, 318 for another owner, 305 for what they say.
pub(super) fn load(
    files: &dyn ScriptFiles,
    path: &str,
    owner: u32,
) -> Result<ScriptSettings, (ScriptErrorCode, String)> {
    let (facts, bytes) = files
        .read(path, SETTINGS_BYTES_MAX + 1)
        .map_err(|error| (ScriptErrorCode::FailedPrepostPluginConfigNotFound, format!("{path}: {error}")))?;
    if facts.owner != owner {
        let text = format!("{path} belongs to user {}, not {owner}", facts.owner);
        return Err((ScriptErrorCode::FailedPrepostPluginConfigOwnershipError, text));
    }
    if facts.mode & 0o177 != 0 || !facts.regular {
        let text = format!("{path} has permissions {:03o}; set 600", facts.mode);
        return Err((ScriptErrorCode::FailedPrepostPluginConfigPermissionError, text));
    }
    ScriptSettings::parse(&bytes).map_err(|error| {
        let source = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        (ScriptErrorCode::FailedPrepostPluginConfigParsing, format!("{error}{source}"))
    })
}

/// Checks both scripts: there (302, 303), and writable by nobody but `owner`, who may run them (306, 307).
pub(super) fn check_scripts(
    files: &dyn ScriptFiles,
    settings: &ScriptSettings,
    owner: u32,
) -> Result<(), (ScriptErrorCode, String)> {
    use ScriptErrorCode as Code;
    for (path, missing, permission) in [
        (
            &settings.pre_script,
            Code::FailedPrepostPreScriptNotFound,
            Code::FailedPrepostPreScriptPermissionError,
        ),
        (
            &settings.post_script,
            Code::FailedPrepostPostScriptNotFound,
            Code::FailedPrepostPostScriptPermissionError,
        ),
    ] {
        let facts = files.facts(path).map_err(|error| (missing, format!("{path:?}: {error}")))?;
        if !facts.regular {
            return Err((missing, format!("{path:?} is not a file")));
        }
        if facts.owner != owner || facts.mode & 0o077 != 0 || facts.mode & 0o500 != 0o500 {
            let text = format!(
                "{path} has permissions {:03o} and owner {}; set 700 and owner {owner}",
                facts.mode, facts.owner
            );
            return Err((permission, text));
        }
    }
    Ok(())
}
