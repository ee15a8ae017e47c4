//! What the disks cost at least, as `vmkeep-bounds` of the package of the benches finds it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::disks::{image, path_of};
use crate::failure::{At, Failure, Result};
use crate::process;

/// The versions whose changed pages are known, each with the version it was made from.
const KNOWN: [(&str, &str); 2] = [("v1db", "v0"), ("v1", "v0")];

/// What of a disk changed, and how small it gets when nothing but that is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alone {
    /// Bytes in changed pages.
    pub(crate) bytes: u64,
    /// Blocks of 64 KiB that have such pages.
    pub(crate) blocks: u64,
    /// Bytes of the pages compressed in runs of 256 KiB, by level.
    fast: u64,
    default: u64,
    best: u64,
}

impl Alone {
    /// The changed pages, compressed at `level`.
    pub(crate) fn at(&self, level: &str) -> u64 {
        match level {
            "fast" => self.fast,
            "best" => self.best,
            _ => self.default,
        }
    }

    /// Understands lines and words of the form `name=number`.
    fn parse(text: &str) -> Option<Self> {
        let number = |name: &str| -> Option<u64> {
            text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?.parse().ok()
        };
        Some(Self {
            bytes: number("bytes")?,
            blocks: number("blocks")?,
            fast: number("fast")?,
            default: number("default")?,
            best: number("best")?,
        })
    }
}

/// What is known of the disks before any tool runs.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    alone: Vec<(&'static str, Alone)>,
}

impl Bounds {
    /// Compares the disks, writes the lists of what changed to `folder`, and asks `program` what that costs at least.
    pub(crate) fn find(program: &Path, disks: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).at(folder)?;
        let empty = list(folder, "v3");
        fs::write(&empty, "[]").at(&empty)?;
        let mut alone = Vec::new();
        for (version, base) in KNOWN {
            let (disk, list) = (path_of(disks, version), list(folder, version));
            write_list(&list, &image::changed_extents(&path_of(disks, base), &disk)?)?;
            let mut command = process::command(&program.to_string_lossy());
            let said = process::output(command.arg("pages").arg(&disk).arg(&list))?;
            let found =
                Alone::parse(&said).ok_or_else(|| Failure::new(format!("vmkeep-bounds wrote {said:?}")))?;
            alone.push((version, found));
        }
        Ok(Self { alone })
    }

    /// What changed in a version, when that is known.
    pub(crate) fn alone(&self, version: &str) -> Option<Alone> {
        self.alone.iter().find(|(known, _)| *known == version).map(|(_, alone)| *alone)
    }
}

/// The file that lists what changed from the version before to `version`.
pub(crate) fn list(folder: &Path, version: &str) -> PathBuf {
    folder.join(format!("{version}.json"))
}

/// Writes extents as the JSON that `vmkeep backup --changed-extents` takes.
fn write_list(path: &Path, extents: &[(u64, u64)]) -> Result<()> {
    let mut text = Vec::new();
    for (n, (offset, length)) in extents.iter().enumerate() {
        let before = if n == 0 { "[" } else { ",\n" };
        write!(text, "{before}{{\"offset\":{offset},\"length\":{length}}}").at(path)?;
    }
    text.extend(if extents.is_empty() { &b"[]"[..] } else { b"]" });
    fs::write(path, text).at(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_understood_and_lists_are_json() {
        let found = Alone::parse("bytes=8192 blocks=2\nfast=30\ndefault=20\nbest=10\n").unwrap();
        assert_eq!((found.bytes, found.blocks), (8192, 2));
        assert_eq!(["fast", "default", "best"].map(|level| found.at(level)), [30, 20, 10]);
        assert_eq!(Alone::parse("bytes=8192\n"), None);

        let path = std::env::temp_dir().join(format!("vmkeep-xtask-list-{}", std::process::id()));
        write_list(&path, &[(0, 4096), (65_536, 8192)]).unwrap();
        let expected = "[{\"offset\":0,\"length\":4096},\n{\"offset\":65536,\"length\":8192}]";
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        write_list(&path, &[]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[]");
        fs::remove_file(&path).unwrap();
    }
}
