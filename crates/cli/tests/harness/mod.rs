//! What the tests of the command share: a scratch folder, running the built command in it, and disks with content.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part; helpers unwrap as tests do

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with (maybe) a vault in `v` and its key file `key`.
pub(crate) struct Scratch {
    folder: TempDir,
}

/// A command that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Scratch {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A folder with a vault that the key file opens.
    pub(crate) fn with_vault() -> Self {
        let scratch = Self::empty();
        scratch.ok("init --vault v --key-file key");
        scratch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The built command, to be run in the folder, without a key in its environment.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmkeep"));
        command
            .args(words.split_whitespace())
            .current_dir(self.folder.path())
            .env("XDG_CACHE_HOME", self.path("xdg-cache"))
            .env_remove("VMKEEP_PASSPHRASE");
        command.stdin(Stdio::null());
        command
    }

    /// Runs `vmkeep` with these words, which are separated by blanks.
    pub(crate) fn run(&self, words: &str) -> Ran {
        Ran::from(self.command(words).output().unwrap())
    }

    /// The same on the vault, with its key and as JSON.
    pub(crate) fn json(&self, words: &str) -> Ran {
        self.run(&format!("{words} --vault v --key-file key --json"))
    }

    /// Runs what must succeed.
    pub(crate) fn ok(&self, words: &str) -> Ran {
        self.run(words).expect(0, words)
    }

    /// Runs what must succeed on the vault; its summary.
    pub(crate) fn summary(&self, words: &str) -> Value {
        self.json(words).expect(0, words).summary()
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Makes a sparse file of `len` bytes with a piece of noise at each of `pieces`: offset, length, seed.
    pub(crate) fn disk(&self, name: &str, len: u64, pieces: &[(u64, usize, u64)]) {
        let file = File::create(self.path(name)).unwrap();
        file.set_len(len).unwrap();
        for &(at, len, seed) in pieces {
            file.write_all_at(&noise(len, seed), at).unwrap();
        }
    }

    /// Writes noise over a part of a file.
    pub(crate) fn change(&self, name: &str, at: u64, len: usize, seed: u64) {
        let file = File::options().write(true).open(self.path(name)).unwrap();
        file.write_all_at(&noise(len, seed), at).unwrap();
    }

    /// Whether two files hold the same bytes.
    pub(crate) fn same(&self, a: &str, b: &str) -> bool {
        self.read(a) == self.read(b)
    }

    /// The names in a folder, sorted.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub(crate) fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The largest file under the vault's packs: one that holds data of disks.
    pub(crate) fn data_pack(&self) -> PathBuf {
        let mut files = Vec::new();
        walk(&self.path("v/packs"), &mut files);
        files.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
    }
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

/// Flips the bits of the byte at `at`.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0xff;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    File::create(path).unwrap().write_all(&bytes).unwrap();
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl From<Output> for Ran {
    fn from(out: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: out.status.code().unwrap_or(-1), stdout: text(out.stdout), stderr: text(out.stderr) }
    }
}

impl Ran {
    /// Checks the exit code.
    pub(crate) fn expect(self, code: i32, what: &str) -> Self {
        assert_eq!(self.code, code, "{what}\n{}\n{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{what}\n{}", self.stderr);
        self
    }

    /// Every line of stdout, each of which is a JSON object with a type.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines: Vec<Value> = self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line["type"].is_string()), "{}", self.stdout);
        lines
    }

    /// The lines of one type.
    pub(crate) fn of_type(&self, kind: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["type"] == kind).collect()
    }

    /// The last line, which is the summary.
    pub(crate) fn summary(&self) -> Value {
        self.last("summary")
    }

    /// The last line, which is the error.
    pub(crate) fn error(&self) -> Value {
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        self.last("error")
    }

    fn last(&self, kind: &str) -> Value {
        let last = self.lines().pop().unwrap_or_default();
        assert_eq!(last["type"], kind, "{}\n{}", self.stdout, self.stderr);
        last
    }
}
