//! What the tests of image formats share: running qemu-img, and disks to run it on.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part; helpers unwrap as tests do

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use vmkeep_disk::{BlockRead, DiskError, OpenOptions, open};
use vmkeep_model::ByteOffset;

/// Whether qemu-img is here. When it is not, the test has nothing to do, unless `VMKEEP_REQUIRE_TOOLS` is set.
pub(crate) fn qemu_img_is_here() -> bool {
    is_here("qemu-img")
}

/// The same for qemu-io.
pub(crate) fn qemu_io_is_here() -> bool {
    is_here("qemu-io")
}

fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !here {
        let message = format!("{program} is not installed (Debian: qemu-utils)");
        assert!(std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{message}");
        eprintln!("{message}; skipped");
    }
    here
}

/// Runs qemu-img, whose words are separated by blanks, in `folder`.
pub(crate) fn qemu_img(folder: &Path, words: &str) {
    let run =
        || Command::new("qemu-img").args(words.split_whitespace()).current_dir(folder).output().unwrap();
    let told = |out: &Output| {
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout)
    };
    // QEMU 7.2 measures how fast a LUKS key is derived, and gives up when that took less than a tick of its clock.
    let gave_up = |out: &Output| told(out).contains("accurate CPU usage");
    let out = (0..20).map(|_| run()).find(|out| !gave_up(out)).expect("qemu-img can measure in 20 tries");
    assert!(out.status.success(), "qemu-img {words}: {}", told(&out));
}

/// Runs commands of qemu-io on an image in `folder`; the image is closed when it returns.
pub(crate) fn qemu_io(folder: &Path, image: &str, commands: &[String]) {
    let words = commands.iter().flat_map(|command| ["-c", command]);
    let out = Command::new("qemu-io").args(words).arg(image).current_dir(folder).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    let failed = ["failed", "error", "invalid"].iter().any(|word| told.to_lowercase().contains(word));
    assert!(out.status.success() && !failed, "qemu-io {commands:?}: {told}");
}

/// A folder with `raw`, a disk of data, holes and zeros that are stored, and its content.
pub(crate) fn folder_with_raw() -> (TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let mut content = vec![0; 3 << 20];
    for (start, len) in [(0, 5000), (131_072, 65_536), (300_000, 200_000), (2 << 20, 400_000)] {
        for (at, byte) in content[start..start + len].iter_mut().enumerate() {
            *byte = u8::try_from((at * 31 + at / 251 + start) % 253).unwrap();
        }
    }
    let file = File::create(folder.path().join("raw")).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (at, page) in content.chunks(4096).enumerate() {
        if page.iter().any(|&b| b != 0) {
            file.write_all_at(page, at as u64 * 4096).unwrap();
        }
    }
    (folder, content)
}

/// Opens an image in the folder, allowing it the other files there that are named.
pub(crate) fn open_in(
    folder: &TempDir,
    name: &str,
    allowed: &[&str],
) -> Result<Box<dyn BlockRead>, DiskError> {
    let allowed_backing: Vec<PathBuf> = allowed.iter().map(|name| folder.path().join(name)).collect();
    open(folder.path().join(name), &OpenOptions { allowed_backing, ..OpenOptions::default() })
}

/// Writes bytes over a file.
pub(crate) fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// The bytes that `next_data` calls data.
pub(crate) fn data_bytes(disk: &dyn BlockRead) -> u64 {
    let (mut at, mut sum) = (ByteOffset(0), 0);
    while let Some(data) = disk.next_data(at).unwrap() {
        sum += data.len().0;
        at = data.end();
    }
    sum
}
