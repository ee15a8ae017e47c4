//! A real guest under QEMU, without KVM: what `cargo xtask guest` makes.
//!
//! It appends lines `line N UPTIME` to a log on its first disk and pairs of rows to a database on its second, and
//! runs the guest agent. Its scripts for the database are named by [`QemuGuest::SCRIPTS`].

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Programs that it and the tests of it use.
const PROGRAMS: [&str; 6] = ["qemu-system-x86_64", "qemu-img", "mke2fs", "e2fsck", "debugfs", "sqlite3"];

/// A guest with two disks in a folder of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct QemuGuest {
    image: PathBuf,
    folder: PathBuf,
    child: Option<Child>,
}

impl Drop for QemuGuest {
    fn drop(&mut self) {
        self.kill();
    }
}

impl QemuGuest {
    /// The settings of its scripts, a path in the guest.
    pub const SCRIPTS: &str = "/etc/vmkeep/scripts.json";
    /// Size of each disk, in bytes.
    pub const DISK_BYTES: u64 = 256 << 20;

    /// A guest that is not started, with empty file systems, in `folder`; `None` when QEMU or the guest is not here. Under
    /// `VMKEEP_REQUIRE_TOOLS` that is a failure.
    ///
    /// # Panics
    /// When the tools are here and fail.
    pub fn create(folder: &Path) -> Option<Self> {
        let is_missing =
            |program: &&str| Command::new(program).arg("--version").output().is_err_and(|_| true);
        let missing: Vec<&str> = PROGRAMS.into_iter().filter(is_missing).collect();
        let image = env::var_os("VMKEEP_GUEST").map(PathBuf::from);
        let Some(image) = image.filter(|_| missing.is_empty()) else {
            let message = "missing: a guest (cargo xtask guest DIR, then VMKEEP_GUEST=DIR), or QEMU";
            assert!(env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{message} ({missing:?})");
            eprintln!("skipped; {message} {missing:?}");
            return None;
        };
        let guest = Self { image, folder: folder.to_owned(), child: None };
        for number in 0..2 {
            let raw = folder.join("raw");
            File::create(&raw).and_then(|file| file.set_len(Self::DISK_BYTES)).expect("an empty disk");
            run("mke2fs", &["-q", "-t", "ext4", text(&raw)]);
            run("qemu-img", &["convert", "-O", "qcow2", text(&raw), text(&guest.disk(number))]);
        }
        Some(guest)
    }

    /// A guest with the disks that are in `folder`, not started, of the kind of this one.
    #[must_use]
    pub fn another(&self, folder: &Path) -> Self {
        Self { image: self.image.clone(), folder: folder.to_owned(), child: None }
    }

    /// The image of a disk, whose node is `disk0` or `disk1`.
    pub fn disk(&self, number: usize) -> PathBuf {
        self.folder.join(format!("d{number}.qcow2"))
    }

    /// QEMU's monitor.
    pub fn qmp(&self) -> PathBuf {
        self.folder.join("qmp.sock")
    }

    /// The socket of the guest agent.
    pub fn agent(&self) -> PathBuf {
        self.folder.join("qga.sock")
    }

    /// What the guest printed.
    pub fn serial(&self) -> String {
        fs::read_to_string(self.folder.join("serial.log")).unwrap_or_default()
    }

    /// Starts it; its sockets are there a little later, its agent some seconds later.
    ///
    /// # Panics
    /// When QEMU cannot be started.
    pub fn start(&mut self) {
        for socket in [self.qmp(), self.agent()] {
            drop(fs::remove_file(socket));
        }
        let mut command = Command::new("qemu-system-x86_64");
        command.args("-accel tcg -cpu max -m 256 -nodefaults -display none".split(' '));
        command.args(["-serial", "file:serial.log", "-append", "console=ttyS0 quiet rdinit=/init panic=-1"]);
        command.arg("-kernel").arg(self.image.join("vmlinuz"));
        command.arg("-initrd").arg(self.image.join("initrd.gz"));
        for n in 0..2 {
            command.args(["-blockdev", &format!("driver=file,filename=d{n}.qcow2,node-name=f{n}")]);
            command.args(["-blockdev", &format!("driver=qcow2,file=f{n},node-name=disk{n},discard=unmap")]);
            command.args(["-device", &format!("virtio-blk-pci,drive=disk{n},id=vd{n}")]);
        }
        command.args(["-device", "virtio-serial"]);
        command.args(["-chardev", "socket,path=qga.sock,server=on,wait=off,id=qga0"]);
        command.args(["-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"]);
        for socket in ["qmp.sock", "qmp2.sock"] {
            command.args(["-qmp", &format!("unix:{socket},server=on,wait=off")]);
        }
        self.child = Some(command.current_dir(&self.folder).spawn().expect("QEMU starts"));
    }

    /// A second monitor, for a test that watches.
    pub fn second_qmp(&self) -> PathBuf {
        self.folder.join("qmp2.sock")
    }

    /// Waits for QEMU to end by itself.
    pub fn wait(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.wait());
        }
    }

    /// Ends QEMU as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// Runs a program that must succeed, and returns what it printed.
///
/// # Panics
/// When it fails.
pub fn run(program: &str, words: &[&str]) -> String {
    let out = Command::new(program).args(words).output().expect("it can be started");
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {words:?}: {}: {said}", out.status);
    said
}

/// What there is to know of the disks of the guest, restored as raw images.
#[derive(Debug)]
pub struct Restored<'a> {
    folder: &'a Path,
    log: PathBuf,
    data: PathBuf,
}

impl<'a> Restored<'a> {
    /// The images of the first and second disk; `folder` is for files of ours.
    pub fn new(folder: &'a Path, log: PathBuf, data: PathBuf) -> Self {
        Self { folder, log, data }
    }

    /// Whether `e2fsck` finds nothing to do on either disk, not even a journal to replay.
    ///
    /// # Panics
    /// When it finds damage.
    pub fn is_clean(&self) -> bool {
        let needs_none = |disk: &PathBuf| {
            let features = run("dumpe2fs", &["-h", text(disk)]);
            if features.contains("needs_recovery") {
                return false;
            }
            run("e2fsck", &["-fn", text(disk)]);
            true
        };
        [&self.log, &self.data].into_iter().all(needs_none)
    }

    /// Replays the journals, as the guest's kernel would.
    ///
    /// # Panics
    /// When there is more to mend than a journal does.
    pub fn replay(&self) {
        for disk in [&self.log, &self.data] {
            let out = Command::new("e2fsck").args(["-p", text(disk)]).output().expect("e2fsck starts");
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.code().is_some_and(|code| code <= 1), "{said}");
            run("e2fsck", &["-fn", text(disk)]);
        }
    }

    fn dump(&self, disk: &Path, name: &str) -> PathBuf {
        let to = self.folder.join(name);
        drop(fs::remove_file(&to));
        run("debugfs", &["-R", &format!("dump /{name} {}", text(&to)), text(disk)]);
        to
    }

    /// The numbers of the lines in the log.
    ///
    /// # Panics
    /// When a line but the last is not whole, or one is missing.
    pub fn lines(&self) -> u64 {
        let log = fs::read_to_string(self.dump(&self.log, "log")).expect("the log is text");
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let mut last = 0;
        for line in whole.lines() {
            let number: u64 = line.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("line N UPTIME");
            assert_eq!(number, last + 1, "the log has every line once");
            last = number;
        }
        last
    }

    /// Bytes of the database's log that are to be replayed into it.
    pub fn database_log(&self) -> u64 {
        fs::metadata(self.dump(&self.data, "db-wal")).map_or(0, |facts| facts.len())
    }

    /// The rows of the database, after its own recovery.
    ///
    /// # Panics
    /// When it is damaged, or a transaction is there by half.
    pub fn rows(&self) -> u64 {
        let (database, _) = (self.dump(&self.data, "db"), self.dump(&self.data, "db-wal"));
        assert_eq!(run("sqlite3", &[text(&database), "PRAGMA integrity_check"]), "ok\n");
        let rows: u64 = run("sqlite3", &[text(&database), "SELECT count(*) FROM pairs"])
            .trim()
            .parse()
            .expect("a number");
        assert_eq!(rows % 2, 0, "both rows of every transaction");
        rows
    }
}
