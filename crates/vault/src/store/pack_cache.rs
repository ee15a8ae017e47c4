//! Metadata packs kept on this machine, so that the next backup does not fetch what the last one wrote.
//!
//! A cache and nothing else: files are sealed packs as they lie in the vault, so they tell nobody anything; what is
//! read from them is authenticated like everything; a file that does not open is dropped and the vault is asked. It
//! may be deleted at any time and is never looked at when damage is looked for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use vmkeep_envelope::PackName;

/// Part of the budget that stays when it was exceeded and the longest unused files go.
const KEEP_PERCENT: u64 = 75;

#[derive(Debug)]
pub(crate) struct PackCache {
    folder: PathBuf,
    budget: u64,
    /// Bytes in the folder; counted when it is opened, kept by adding.
    used: Mutex<u64>,
    temporary: AtomicU64,
}

impl PackCache {
    /// The cache in `folder`, which is made for its owner alone; at most about `budget` bytes are kept.
    pub(crate) fn open(folder: PathBuf, budget: u64) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder)?;
        let used = files(&folder)?.iter().map(|file| file.len).sum();
        Ok(Self { folder, budget, used: Mutex::new(used), temporary: AtomicU64::new(0) })
    }

    /// The last `len` bytes of a pack that is here, and its size.
    pub(crate) fn tail(&self, name: PackName, len: u64) -> Option<(Bytes, u64)> {
        let file = File::open(self.file(name)).ok()?;
        let size = file.metadata().ok()?.len();
        let bytes = read(&file, size.saturating_sub(len)..size)?;
        // Used now: the longest unused go first. A failure only makes it go earlier.
        file.set_modified(modified_now()).ok();
        Some((bytes, size))
    }

    /// A range of a pack that is here.
    pub(crate) fn range(&self, name: PackName, range: Range<u64>) -> Option<Bytes> {
        read(&File::open(self.file(name)).ok()?, range)
    }

    /// Keeps a pack. A failure (a full disk, say) means that it is not kept.
    pub(crate) fn put(&self, name: PackName, bytes: &[u8]) {
        let here = self.file(name).exists();
        if !here && bytes.len() as u64 <= self.budget / 4 && self.write(name, bytes).is_ok() {
            self.count(bytes.len() as u64);
        }
    }

    /// Drops a pack; true when it was here.
    pub(crate) fn remove(&self, name: PackName) -> bool {
        fs::remove_file(self.file(name)).is_ok()
    }

    fn write(&self, name: PackName, bytes: &[u8]) -> io::Result<()> {
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{name}.{}-{number}", std::process::id()));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&temporary, self.file(name)));
        if written.is_err() {
            fs::remove_file(&temporary).ok();
        }
        written
    }

    fn count(&self, more: u64) {
        let mut used = self.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *used += more;
        if *used <= self.budget {
            return;
        }
        let Ok(mut found) = files(&self.folder) else { return };
        found.sort_by_key(|file| file.modified);
        *used = found.iter().map(|file| file.len).sum();
        for file in found {
            if *used <= self.budget / 100 * KEEP_PERCENT {
                break;
            }
            if fs::remove_file(&file.path).is_ok() {
                *used -= file.len;
            }
        }
    }

    fn file(&self, name: PackName) -> PathBuf {
        self.folder.join(name.to_string())
    }
}

#[allow(clippy::disallowed_methods)] // orders files of a cache; nothing depends on it
fn modified_now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}

fn read(file: &File, range: Range<u64>) -> Option<Bytes> {
    let mut bytes = vec![0; usize::try_from(range.end.checked_sub(range.start)?).ok()?];
    file.read_exact_at(&mut bytes, range.start).ok()?;
    Some(bytes.into())
}

struct Kept {
    path: PathBuf,
    len: u64,
    modified: std::time::SystemTime,
}

fn files(folder: &Path) -> io::Result<Vec<Kept>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(meta) = entry.metadata() else { continue };
        if let (true, Ok(modified)) = (meta.is_file(), meta.modified()) {
            found.push(Kept { path: entry.path(), len: meta.len(), modified });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u8) -> PackName {
        PackName([n; 16])
    }

    #[test]
    fn keeps_what_fits_and_drops_the_longest_unused() {
        let folder = tempfile::tempdir().unwrap();
        let cache = PackCache::open(folder.path().join("c"), 1000).unwrap();
        for n in 0..20 {
            cache.put(name(n), &[n; 100]);
            let total: u64 = files(&folder.path().join("c")).unwrap().iter().map(|file| file.len).sum();
            assert!(total <= 1000);
        }
        assert_eq!(cache.range(name(19), 10..20).as_deref(), Some(&[19; 10][..]));
        assert_eq!(cache.tail(name(19), 5), Some((vec![19; 5].into(), 100)));
        assert_eq!(cache.tail(name(0), 5), None);
        assert!(cache.remove(name(19)) && !cache.remove(name(19)));
        assert_eq!(cache.range(name(18), 90..110), None);
    }
}
