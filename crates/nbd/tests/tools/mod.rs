//! What the tests share: servers that run while a test does, and disks for them.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part; helpers unwrap as tests do

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use vmkeep_nbd::{ConnectOptions, NbdDisk};

/// Whether a program is here. When it is not, the test has nothing to do, unless `VMKEEP_REQUIRE_TOOLS` is set.
pub(crate) fn is_here(program: &str, package: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    if !here {
        let message = format!("{program} is not installed (Debian: {package})");
        assert!(std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{message}");
        eprintln!("{message}; skipped");
    }
    here
}

/// Runs a program to its end.
pub(crate) fn run(folder: &Path, program: &str, words: &[&str]) {
    let out = Command::new(program).args(words).current_dir(folder).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{program} {words:?}: {told}");
}

/// A server that ends with the value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a program that listens at `socket` in `folder` and writes its number into `pid` once it does.
    pub(crate) fn start(folder: &Path, socket: &str, program: &str, words: &[&str]) -> Self {
        let child = Command::new(program).args(words).current_dir(folder).spawn().unwrap();
        let server = Self { child, socket: folder.join(socket) };
        while fs::read_to_string(folder.join("pid")).map_or(true, |pid| !pid.ends_with('\n')) {
            std::thread::yield_now();
        }
        server
    }

    /// Starts nbdkit with these words.
    pub(crate) fn nbdkit(folder: &Path, words: &[&str]) -> Self {
        let mut all = vec!["-f", "-U", "sock", "-P", "pid"];
        all.extend(words);
        Self::start(folder, "sock", "nbdkit", &all)
    }

    /// Starts qemu-nbd with these words.
    pub(crate) fn qemu_nbd(folder: &Path, words: &[&str]) -> Self {
        let socket = folder.join("sock");
        let mut all = vec!["-t", "--shared=8", "--pid-file=pid", "-k", socket.to_str().unwrap()];
        all.extend(words);
        Self::start(folder, "sock", "qemu-nbd", &all)
    }

    /// Starts qemu-storage-daemon, which speaks QMP at its input and output.
    pub(crate) fn storage_daemon(folder: &Path, words: &[&str]) -> Self {
        let mut all = vec!["--pidfile", "pid"];
        all.extend(words);
        Self::start(folder, "sock", "qemu-storage-daemon", &all)
    }

    pub(crate) fn disk(&self, options: &ConnectOptions) -> NbdDisk {
        NbdDisk::connect_unix(&self.socket, options).unwrap()
    }
}

/// A disk of data and holes with an end that is no multiple of anything but sectors.
pub(crate) fn content() -> Vec<u8> {
    let mut content = vec![0; (3 << 20) + 1536];
    for (start, len) in [(0, 5000), (131_072, 65_536), (300_000, 200_000), (2 << 20, 400_000)] {
        for (at, byte) in content[start..start + len].iter_mut().enumerate() {
            *byte = u8::try_from((at * 31 + at / 251 + start) % 253).unwrap();
        }
    }
    content
}

/// Writes `content` into a sparse file.
pub(crate) fn write_sparse(path: &Path, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (at, page) in content.chunks(4096).enumerate() {
        if page.iter().any(|&b| b != 0) {
            file.write_all_at(page, at as u64 * 4096).unwrap();
        }
    }
}
