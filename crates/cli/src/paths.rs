//! Where a path leads.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Whether `path` is `folder` or within it, once links are followed.
pub(crate) fn lies_in(path: &Path, folder: &Path) -> bool {
    resolved(path).starts_with(resolved(folder))
}

/// The folder for what may be lost: `$XDG_CACHE_HOME/vmkeep`, else `~/.cache/vmkeep` (XDG Base Directory Specification,
/// where a path that is not absolute counts as not set).
pub(crate) fn cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("vmkeep"))
}

/// The path without symbolic links as far as it exists, and without `..` from there on.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // What the `..` of a part that is not there yet leads back to may have links again.
    follow(&follow(&path))
}

fn follow(path: &Path) -> PathBuf {
    for known in path.ancestors() {
        let (Ok(mut real), Ok(rest)) = (fs::canonicalize(known), path.strip_prefix(known)) else { continue };
        for component in rest.components() {
            match component {
                Component::ParentDir => drop(real.pop()),
                component => real.push(component),
            }
        }
        return real;
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_dots_are_seen_through() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("v/packs")).unwrap();
        std::os::unix::fs::symlink(at("v"), at("link")).unwrap();
        for inside in ["v", "v/new/file", "link/key", "new/../v/key", "new/../link/key", "v/packs/../key"] {
            assert!(lies_in(&at(inside), &at("v")), "{inside}");
        }
        for outside in ["", "vv", "v/../key", "v/new/../../key", "link/../key"] {
            assert!(!lies_in(&at(outside), &at("v")), "{outside}");
        }
    }
}
