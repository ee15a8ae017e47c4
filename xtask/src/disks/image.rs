//! Raw images as files: copying, comparing, measuring.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::failure::{At, Result};

/// The unit of change.
pub(crate) const PAGE: u64 = 4096;
const PAGE_LEN: usize = 4096;
const ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];
/// Pages in a block of 64 KiB.
const BLOCK_PAGES: u64 = 16;
const CHUNK_LEN: usize = 1 << 20;

/// Reads a file chunk by chunk; `each` gets the position and the bytes.
fn for_each_chunk(path: &Path, mut each: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let file = File::open(path).at(path)?;
    let (mut buf, mut at) = (vec![0; CHUNK_LEN], 0);
    loop {
        let len = read_full(&file, &mut buf).at(path)?;
        if len == 0 {
            return Ok(());
        }
        each(at, &buf[..len])?;
        at += len as u64;
    }
}

/// Fills `buf` as far as the file goes.
fn read_full(mut file: &File, buf: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buf.len() {
        match file.read(&mut buf[len..])? {
            0 => break,
            n => len += n,
        }
    }
    Ok(len)
}

/// Reads the whole file once, so that it lies in the page cache.
pub(crate) fn warm(path: &Path) -> Result<()> {
    for_each_chunk(path, |_, _| Ok(()))
}

/// Copies a file; pages of zeros become holes.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    let target = File::create(to).at(to)?;
    target.set_len(std::fs::metadata(from).at(from)?.len()).at(to)?;
    for_each_chunk(from, |at, chunk| {
        for (start, page) in (at..).step_by(PAGE_LEN).zip(chunk.chunks(PAGE_LEN)) {
            if *page != ZEROS[..page.len()] {
                target.write_all_at(page, start).at(to)?;
            }
        }
        Ok(())
    })
}

/// Bytes that a file takes on its file system.
pub(crate) fn allocated(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).at(path)?.blocks() * 512)
}

/// How far two images differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Pages of 4 KiB.
    pub(crate) pages: u64,
    /// Blocks of 64 KiB.
    pub(crate) blocks: u64,
}

/// Compares two images; what one has past the end of the other counts as different.
pub(crate) fn compare(one: &Path, other: &Path) -> Result<Difference> {
    let (mut difference, mut last_block) = (Difference::default(), None);
    for_each_changed_page(one, other, |page| {
        difference.pages += 1;
        let block = page / BLOCK_PAGES;
        difference.blocks += u64::from(last_block.replace(block) != Some(block));
    })?;
    Ok(difference)
}

/// Where two images differ, page by page, as runs of (offset, length) in bytes; none passes the end of `other`.
pub(crate) fn changed_extents(one: &Path, other: &Path) -> Result<Vec<(u64, u64)>> {
    let len = std::fs::metadata(other).at(other)?.len();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for_each_changed_page(one, other, |page| {
        let (start, end) = (page * PAGE, len.min((page + 1) * PAGE));
        match runs.last_mut() {
            _ if start >= end => {}
            Some((at, run)) if *at + *run == start => *run += end - start,
            _ => runs.push((start, end - start)),
        }
    })?;
    Ok(runs)
}

/// Calls `page_differs` with the number of every page in which two images differ, ascending.
fn for_each_changed_page(one: &Path, other: &Path, mut page_differs: impl FnMut(u64)) -> Result<()> {
    let other_file = File::open(other).at(other)?;
    let mut theirs = vec![0; CHUNK_LEN];
    let mut end = 0;
    for_each_chunk(one, |at, ours| {
        let len = read_full(&other_file, &mut theirs).at(other)?;
        end = at + ours.len() as u64;
        if *ours == theirs[..len] {
            return Ok(());
        }
        let theirs = theirs[..len].chunks(PAGE_LEN).map(Some).chain(std::iter::repeat(None));
        for ((page, ours), theirs) in (at / PAGE..).zip(ours.chunks(PAGE_LEN)).zip(theirs) {
            if Some(ours) != theirs {
                page_differs(page);
            }
        }
        Ok(())
    })?;
    let other_len = other_file.metadata().at(other)?.len();
    (end.div_ceil(PAGE)..other_len.div_ceil(PAGE)).for_each(page_differs);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_equal_and_differences_are_counted() {
        let folder = std::env::temp_dir().join(format!("vmkeep-xtask-image-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (a, b) = (folder.join("a"), folder.join("b"));
        let mut bytes = vec![0; (3 << 20) + 100];
        for at in [0, 5000, 70_000, (2 << 20) + 1, (3 << 20) + 99] {
            bytes[at] = 1;
        }
        std::fs::write(&a, &bytes).unwrap();
        copy_sparse(&a, &b).unwrap();
        assert_eq!(std::fs::read(&b).unwrap(), bytes);
        assert_eq!(compare(&a, &b).unwrap(), Difference::default());
        for at in [1, 5001, 70_001, (3 << 20) + 98] {
            bytes[at] = 2;
        }
        std::fs::write(&b, &bytes).unwrap();
        assert_eq!(compare(&a, &b).unwrap(), Difference { pages: 4, blocks: 3 });
        bytes.resize(bytes.len() + 200_000, 0);
        std::fs::write(&b, &bytes).unwrap();
        // 200,100 bytes past 3 MiB: the page at the old end had changed already, 48 pages in 3 further blocks follow.
        assert_eq!(compare(&a, &b).unwrap(), Difference { pages: 4 + 48, blocks: 3 + 3 });
        assert_eq!(compare(&b, &a).unwrap(), Difference { pages: 4 + 48, blocks: 3 + 3 });
        let at = |page| (page * PAGE, PAGE);
        let first = [(0, 2 * PAGE), at(17)];
        assert_eq!(changed_extents(&b, &a).unwrap(), [&first[..], &[(768 * PAGE, 100)]].concat());
        let grown = (768 * PAGE, 100 + 200_000);
        assert_eq!(changed_extents(&a, &b).unwrap(), [&first[..], &[grown]].concat());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
