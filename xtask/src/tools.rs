//! The programs that tests and chores use, and installing them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::failure::{Failure, Result};
use crate::process;

/// A program and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What the tests and `disks` use.
pub(crate) const TEST_TOOLS: [Tool; 15] = [
    tool("qemu-img", "qemu-utils"),
    tool("qemu-io", "qemu-utils"),
    tool("qemu-nbd", "qemu-utils"),
    tool("qemu-storage-daemon", "qemu-utils"),
    tool("nbdkit", "nbdkit"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("nbdinfo", "libnbd-bin"),
    tool("sqlite3", "sqlite3"),
    tool("mke2fs", "e2fsprogs"),
    tool("e2fsck", "e2fsprogs"),
    tool("debugfs", "e2fsprogs"),
    tool("sgdisk", "gdisk"),
    tool("strace", "strace"),
    tool("softhsm2-util", "softhsm2"),
    tool("pkcs11-tool", "opensc"),
];

/// What `guest` uses.
pub(crate) const GUEST_TOOLS: [Tool; 2] = [tool("busybox", "busybox-static"), tool("cpio", "cpio")];

/// What `peers` uses.
pub(crate) const PEER_TOOLS: [Tool; 3] =
    [tool("restic", "restic"), tool("borg", "borgbackup"), tool("time", "time")];

/// Sees to it that all of `tools` are there: installs those missing where that can be done, or says which they are.
pub(crate) fn ensure(tools: &[Tool]) -> Result<()> {
    let missing = missing(tools);
    if missing.is_empty() {
        println!("all there: {}", names(tools));
        return Ok(());
    }
    if !Path::new("/etc/debian_version").exists() || !is_root() {
        let programs = names(&missing);
        let packages = packages(&missing).join(" ");
        return Err(Failure::new(format!(
            "missing: {programs}\ninstall them (Debian packages: {packages}) and run again"
        )));
    }
    println!("installing {}", names(&missing));
    apt(&["update"])?;
    // Installing one package may remove another of another version (qemu-system-x86 does so with a newer qemu-utils),
    // so what is missing afterwards is installed once more.
    for _ in 0..2 {
        let mut words = vec!["install", "-y", "--no-install-recommends"];
        let still = self::missing(tools);
        words.extend(packages(&still));
        if !still.is_empty() {
            apt(&words)?;
        }
    }
    match self::missing(tools) {
        still if still.is_empty() => Ok(()),
        still => Err(Failure::new(format!("installed, and yet not found: {}", names(&still)))),
    }
}

fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().copied().filter(|t| process::find(t.program).is_none()).collect()
}

fn names(tools: &[Tool]) -> String {
    tools.iter().map(|t| t.program).collect::<Vec<_>>().join(", ")
}

fn packages(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<_> = tools.iter().map(|t| t.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn apt(words: &[&str]) -> Result<()> {
    process::run(process::command("apt-get").args(words).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether this process may install packages: its own entry under /proc belongs to user 0.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0)
}
