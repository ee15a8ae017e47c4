//! Fingerprints of pages in a local file, which may be lost, stale, cut short or another disk's.
//!
//! Every entry carries a seal over the content hash it belongs to and its fingerprints. A reader that knows what the block
//! was makes the seal again and takes the entry only when it is right, so nothing that happens to the file can make a
//! wrong entry look right: it is written in place, without order and without sync.
//!
//! With room for every block, the entry of a block has its place in the file, which is sparse where the disk is. With
//! less, a block has eight places that it shares with others, and takes that of the one that changed longest ago.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;
use vmkeep_model::{BlockIndex, BlockSize, ByteLen, ContentHash};
use xxhash_rust::xxh3::xxh3_64;

use crate::page::{Fingerprints, PageHasher};

const MAGIC: [u8; 8] = *b"vmkeepFP";
const VERSION: u16 = 1;
const HEADER_LEN: u64 = 64;
const HEADER_BYTES: usize = 64;
/// Places that a block may take when there is not one for each.
const WAYS: u64 = 8;
/// Length of the entry of a block of 4 MiB, which has 1,024 pages.
const ENTRY_LEN_MAX: usize = 8 * (1 + 1024);

/// The file of fingerprints cannot be used.
#[derive(Debug, Error)]
#[error("cannot use the page fingerprints in {}", path.display())]
pub struct FingerprintError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// How entries find their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Every block has one.
    Direct,
    /// So many sets of [`WAYS`] are shared.
    Sets(u64),
}

/// Page fingerprints of one disk, in a file.
#[derive(Debug)]
pub struct FingerprintFile {
    file: File,
    path: PathBuf,
    hasher: PageHasher,
    layout: Layout,
    pages: usize,
    /// Number of the run that writes; later runs have larger ones.
    run: u32,
    is_new: bool,
    /// The first thing that went wrong after opening. From then on nothing is known.
    failed: Mutex<Option<io::Error>>,
    is_off: AtomicBool,
}

/// Most bytes that fingerprints of a disk take by default: a quarter of a percent.
pub fn default_limit(disk: ByteLen) -> ByteLen {
    ByteLen(disk.0 / 400)
}

impl FingerprintFile {
    /// Opens the file at `path`, or begins it anew when it is not there or not for such a disk.
    ///
    /// It will take at most `limit` bytes, and holds an entry of every block when that is enough. `run` grows from backup
    /// to backup. Another process may write to the same file.
    pub fn open(
        path: &Path,
        block_size: BlockSize,
        disk: ByteLen,
        limit: ByteLen,
        hasher: PageHasher,
        run: u32,
    ) -> Result<Self, FingerprintError> {
        let error = |source| FingerprintError { path: path.to_owned(), source };
        let pages = block_size.pages();
        let layout = layout_for(block_size, disk, limit);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(error)?;
        let header = header(block_size, layout, hasher.mark());
        let mut found = [0; HEADER_BYTES];
        let is_new = file.read_exact_at(&mut found, 0).is_err() || found != header;
        if is_new {
            file.set_len(0).map_err(error)?;
            file.write_all_at(&header, 0).map_err(error)?;
        }
        let (failed, is_off) = (Mutex::new(None), AtomicBool::new(false));
        Ok(Self { file, path: path.to_owned(), hasher, layout, pages, run, is_new, failed, is_off })
    }

    /// Opens the file at `path` to look things up in it and for nothing else; `None` when it is not there or not for
    /// such a disk. What is [`put`](Fingerprints::put) into it counts as gone wrong.
    pub fn open_read_only(
        path: &Path,
        block_size: BlockSize,
        disk: ByteLen,
        limit: ByteLen,
        hasher: PageHasher,
    ) -> Result<Option<Self>, FingerprintError> {
        let layout = layout_for(block_size, disk, limit);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FingerprintError { path: path.to_owned(), source }),
        };
        let mut found = [0; HEADER_BYTES];
        if file.read_exact_at(&mut found, 0).is_err() || found != header(block_size, layout, hasher.mark()) {
            return Ok(None);
        }
        let (failed, is_off) = (Mutex::new(None), AtomicBool::new(false));
        let (path, pages) = (path.to_owned(), block_size.pages());
        Ok(Some(Self { file, path, hasher, layout, pages, run: 0, is_new: false, failed, is_off }))
    }

    /// Whether it was begun anew: then nothing is known yet.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// What went wrong with the file since it was opened, once. Nothing is lost by it but space in the vault.
    pub fn take_error(&self) -> Option<FingerprintError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map(|source| FingerprintError { path: self.path.clone(), source })
    }

    /// Forgets everything, as when what it knows proved wrong.
    pub fn forget(&self) {
        self.is_off.store(true, Ordering::Relaxed);
        let done = self.file.set_len(0);
        self.note(done);
    }

    fn note<T>(&self, done: io::Result<T>) -> Option<T> {
        match done {
            Ok(done) => Some(done),
            Err(e) => {
                self.is_off.store(true, Ordering::Relaxed);
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                None
            }
        }
    }

    /// Reads as much as there is and leaves the rest zero.
    fn read(&self, bytes: &mut [u8], at: u64) -> Option<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.note(Err(e)),
            }
        }
        Some(())
    }

    /// Takes the fingerprints out of an entry that belongs to the content `was`.
    fn decode(&self, entry: &[u8], was: ContentHash, pages: &mut Vec<u64>) -> bool {
        pages.clear();
        let mut words =
            entry.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        let seal = words.next();
        pages.extend(words);
        seal == Some(self.hasher.seal(was, pages))
    }

    fn encode(&self, now: ContentHash, pages: &[u64], entry: &mut Vec<u8>) {
        entry.extend(self.hasher.seal(now, pages).to_le_bytes());
        entry.extend(pages.iter().flat_map(|page| page.to_le_bytes()));
    }

    /// The start of the set that `block` shares, and its length.
    fn set_of(&self, block: BlockIndex, sets: u64) -> (u64, usize) {
        let len = WAYS * (entry_len(self.pages) + 4);
        let set = xxh3_64(&block.0.to_le_bytes()) % sets;
        (HEADER_LEN + set * len, usize::try_from(len).unwrap_or(0))
    }
}

impl Fingerprints for FingerprintFile {
    fn get(&self, block: BlockIndex, was: ContentHash, pages: &mut Vec<u64>) -> bool {
        if self.is_off.load(Ordering::Relaxed) {
            return false;
        }
        let len = usize::try_from(entry_len(self.pages)).unwrap_or(0);
        match self.layout {
            Layout::Direct => {
                let mut entry = [0; ENTRY_LEN_MAX];
                let entry = &mut entry[..len];
                let at = HEADER_LEN.saturating_add(block.0.saturating_mul(len as u64));
                self.read(entry, at).is_some() && self.decode(entry, was, pages)
            }
            Layout::Sets(0) => false,
            Layout::Sets(sets) => {
                let (at, set_len) = self.set_of(block, sets);
                let mut set = vec![0; set_len];
                self.read(&mut set, at).is_some()
                    && set.chunks_exact(len + 4).any(|entry| self.decode(&entry[4..], was, pages))
            }
        }
    }

    fn put(&self, block: BlockIndex, now: ContentHash, pages: &[u64]) {
        if self.is_off.load(Ordering::Relaxed) || pages.len() != self.pages {
            return;
        }
        let len = usize::try_from(entry_len(self.pages)).unwrap_or(0);
        let mut entry = Vec::with_capacity(len + 4);
        let at = match self.layout {
            Layout::Direct => HEADER_LEN.saturating_add(block.0.saturating_mul(len as u64)),
            Layout::Sets(0) => return,
            Layout::Sets(sets) => {
                let (at, set_len) = self.set_of(block, sets);
                let mut set = vec![0; set_len];
                if self.read(&mut set, at).is_none() {
                    return;
                }
                let age = |entry: &[u8]| u32::from_le_bytes(entry[..4].try_into().unwrap_or_default());
                let ages = set.chunks_exact(len + 4).map(age).enumerate();
                // Of a block's older entries none is ever right again; they are the oldest sooner or later.
                let Some((way, _)) = ages.min_by_key(|&(_, age)| age) else { return };
                entry.extend(self.run.to_le_bytes());
                at + way as u64 * (len as u64 + 4)
            }
        };
        self.encode(now, pages, &mut entry);
        let done = self.file.write_all_at(&entry, at);
        self.note(done);
    }

    fn wants_all(&self) -> bool {
        self.is_new
    }
}

/// How entries of a disk's blocks find their places within `limit` bytes.
fn layout_for(block_size: BlockSize, disk: ByteLen, limit: ByteLen) -> Layout {
    let entry = entry_len(block_size.pages());
    let need = block_size.count_for(disk).saturating_mul(entry).saturating_add(HEADER_LEN);
    if need <= limit.0 {
        Layout::Direct
    } else {
        Layout::Sets(limit.0.saturating_sub(HEADER_LEN) / (WAYS * (entry + 4)))
    }
}

/// A seal and a fingerprint per page.
fn entry_len(pages: usize) -> u64 {
    8 * (1 + pages as u64)
}

fn header(block_size: BlockSize, layout: Layout, mark: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let sets = if let Layout::Sets(sets) = layout { sets } else { 0 };
    let kind = u8::from(layout != Layout::Direct);
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[10] = block_size.log2();
    header[11] = kind;
    header[12..20].copy_from_slice(&sets.to_le_bytes());
    header[20..28].copy_from_slice(&mark.to_le_bytes());
    let check = xxh3_64(&header[..28]);
    header[28..36].copy_from_slice(&check.to_le_bytes());
    header
}

#[cfg(test)]
mod tests;
