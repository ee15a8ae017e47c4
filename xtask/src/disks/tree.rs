//! The files of the disk.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::filesystem::EPOCH_SECONDS;
use crate::failure::{At, Failure, Result};
use crate::random::Random;

/// Path of the database within the file system.
pub(crate) const DATABASE: &str = "/srv/db/base.tables";
/// Where files of this machine come from.
const SAMPLED: &str = "/usr";
/// Larger files are left out of the sample.
const SAMPLED_LEN_MAX: u64 = 200 << 20;
const TABLE_PAGE: usize = 8192;
const NEW_FILE: u64 = 4 << 20;

/// Makes a tree of about `bytes` in `tree` and returns the paths of its files as the file system will have them.
///
/// A fifth is a database, 8 % logs, 7 % data that does not compress, the rest a sample of this machine's programs
/// (or more logs, when it has not enough of them).
pub(crate) fn make(tree: &Path, bytes: u64, seed: u64) -> Result<Vec<String>> {
    if tree.exists() {
        fs::remove_dir_all(tree).at(tree)?;
    }
    let (database, noise) = (bytes / 5, bytes * 7 / 100);
    let mut paths = vec![DATABASE.to_owned()];
    write_file(&in_tree(tree, DATABASE), |file| table(file, database, &mut Random::new(seed, "database")))?;
    for (number, len) in pieces(noise, 16 << 20) {
        let path = format!("/srv/media/{number:04}.bin");
        let mut random = Random::new(seed, &path);
        write_file(&in_tree(tree, &path), |file| copy_noise(file, len, &mut random))?;
        paths.push(path);
    }
    let sampled = sample(tree, bytes - database - noise - bytes * 8 / 100, &mut paths)?;
    for (number, len) in pieces(bytes - database - noise - sampled, 8 << 20) {
        let path = format!("/var/log/app/{number:04}.log");
        let mut random = Random::new(seed, &path);
        write_file(&in_tree(tree, &path), |file| log(file, len, &mut random))?;
        paths.push(path);
    }
    date(tree)?;
    Ok(paths)
}

/// Makes new files of `mib` MiB together, in turn text and noise, and returns where they are.
pub(crate) fn make_new_files(folder: &Path, mib: u64, seed: u64) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (number, len) in pieces(mib << 20, NEW_FILE) {
        let path = folder.join(format!("new{number:03}"));
        let mut random = Random::new(seed, &format!("new {number}"));
        write_file(&path, |file| {
            if number % 2 == 0 { log(file, len, &mut random) } else { copy_noise(file, len, &mut random) }
        })?;
        files.push(path);
    }
    Ok(files)
}

fn in_tree(tree: &Path, path: &str) -> PathBuf {
    tree.join(path.trim_start_matches('/'))
}

/// Numbers and lengths of files of at most `each` bytes that are `bytes` together.
fn pieces(bytes: u64, each: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..bytes.div_ceil(each)).map(move |n| (n, each.min(bytes - n * each)))
}

fn write_file(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).at(folder)?;
    }
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).at(path)?);
    write(&mut file).and_then(|()| file.flush()).at(path)
}

fn copy_noise(file: &mut impl Write, len: u64, random: &mut Random) -> std::io::Result<()> {
    let mut buf = vec![0; 1 << 16];
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        random.fill(&mut buf[..part]);
        file.write_all(&buf[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Words of a language that nobody speaks; small numbers are the frequent ones.
fn vocabulary(random: &mut Random) -> Vec<String> {
    const SYLLABLES: [&str; 20] = [
        "ar", "be", "con", "der", "el", "for", "ga", "hin", "is", "ka", "lo", "men", "nor", "ost", "per",
        "ra", "sta", "ti", "ver", "zu",
    ];
    let word = |_| (0..=random.below(3)).map(|_| SYLLABLES[random.index(SYLLABLES.len())]).collect();
    (0..3000).map(word).collect()
}

fn word<'a>(words: &'a [String], random: &mut Random) -> &'a str {
    let bound = random.index(words.len()) + 1;
    &words[random.index(bound)]
}

/// Lines as services write them.
fn log(file: &mut impl Write, len: u64, random: &mut Random) -> std::io::Result<()> {
    const LEVELS: [&str; 4] = ["INFO", "INFO", "DEBUG", "WARN"];
    let words = vocabulary(random);
    let (mut written, mut second) = (0, 0_u64);
    while written < len {
        second += random.below(3);
        let mut line = format!(
            "2024-06-{:02}T{:02}:{:02}:{:02}Z {} {}[{}]: id={:08x}",
            1 + second / 86_400 % 30,
            second / 3600 % 24,
            second / 60 % 60,
            second % 60,
            LEVELS[random.index(LEVELS.len())],
            words[random.index(12)],
            1000 + random.below(40),
            random.next() >> 32,
        );
        for _ in 0..4 + random.below(16) {
            line.push(' ');
            line.push_str(word(&words, random));
        }
        line.push('\n');
        let part = line.len().min(usize::try_from(len - written).unwrap_or(usize::MAX));
        file.write_all(&line.as_bytes()[..part])?;
        written += part as u64;
    }
    Ok(())
}

/// Pages as a database has them: a header, rows from the end, free space between.
fn table(file: &mut impl Write, len: u64, random: &mut Random) -> std::io::Result<()> {
    let words = vocabulary(random);
    let mut id = 0_u64;
    for number in 0..len / TABLE_PAGE as u64 {
        let mut page = [0; TABLE_PAGE];
        page[..8].copy_from_slice(&(number * 977).to_le_bytes());
        page[8..12].copy_from_slice(&random.next().to_le_bytes()[..4]);
        let (mut pointers, mut end) = (24, TABLE_PAGE);
        let free = random.index(1600);
        loop {
            let row = row(id, &words, random);
            if pointers + 4 + free + row.len() > end {
                break;
            }
            id += 1;
            end -= row.len();
            page[end..end + row.len()].copy_from_slice(&row);
            let pointer = u16::try_from(end).unwrap_or(0).to_le_bytes();
            page[pointers..pointers + 2].copy_from_slice(&pointer);
            pointers += 4;
        }
        file.write_all(&page)?;
    }
    Ok(())
}

fn row(id: u64, words: &[String], random: &mut Random) -> Vec<u8> {
    let mut row = id.to_le_bytes().to_vec();
    row.extend((1_700_000_000 + id * 3).to_le_bytes());
    row.extend(random.next().to_le_bytes());
    row.extend(random.next().to_le_bytes());
    for _ in 0..6 + random.below(24) {
        row.extend(word(words, random).bytes());
        row.push(b' ');
    }
    let start = row.len();
    row.resize(start + 30 + random.index(150), 0);
    random.fill(&mut row[start..]);
    row
}

/// Copies files of this machine, from every part of its tree in a fixed order, until `bytes` are together.
fn sample(tree: &Path, bytes: u64, paths: &mut Vec<String>) -> Result<u64> {
    let mut found = Vec::new();
    let root = Path::new(SAMPLED);
    if root.exists() {
        walk(root, fs::metadata(root).at(root)?.dev(), &mut found)?;
    }
    let all: u64 = found.iter().map(|(_, len)| len).sum();
    let step = usize::try_from((all / bytes.max(1)).max(1)).unwrap_or(usize::MAX);
    let mut total = 0;
    for (path, len) in (0..step).flat_map(|first| found.iter().skip(first).step_by(step)) {
        if total + len > bytes {
            continue;
        }
        let Some(name) = path.to_str() else { continue };
        let target = in_tree(tree, name);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).at(folder)?;
        }
        fs::copy(path, &target).at(path)?;
        total += len;
        paths.push(name.to_owned());
    }
    Ok(total)
}

/// Readable files under `folder` on its own file system, sorted, with names that debugfs takes as they are.
fn walk(folder: &Path, device: u64, found: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    let entries = fs::read_dir(folder).at(folder)?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    paths.sort();
    for path in paths {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-@:=,~".contains(c);
        if meta.dev() != device || !path.to_str().is_some_and(|p| p.chars().all(plain)) {
            continue;
        }
        if meta.is_dir() {
            walk(&path, device, found)?;
        } else if meta.is_file() && (1..=SAMPLED_LEN_MAX).contains(&meta.len()) && File::open(&path).is_ok() {
            found.push((path, meta.len()));
        }
    }
    Ok(())
}

/// Gives everything in the tree the same date.
fn date(path: &Path) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path).at(path)? {
            date(&entry.at(path)?.path())?;
        }
    }
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(EPOCH_SECONDS));
    let time = time.ok_or_else(|| Failure::new("the date of the files is past what this system knows"))?;
    let times = fs::FileTimes::new().set_accessed(time).set_modified(time);
    File::open(path).and_then(|file| file.set_times(times)).at(path)
}
