//! The programs that tests and chores use, and installing them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
pub(crate) const TEST_TOOLS: [Tool; 16] = [
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
    tool("mkfs.xfs", "xfsprogs"),
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

/// The `FinOps` Foundation's validator of FOCUS files, in a virtual environment of its own under `target`, where
/// `crates/billing/tests/focus.rs` looks for it. Its newer dependencies do not agree with one another.
pub(crate) fn ensure_focus_validator() -> Result<()> {
    let folder = process::workspace().join("target/tools/focus-validator");
    let program = folder.join("bin/focus-validator");
    if std::env::var_os("FOCUS_VALIDATOR").is_some() || program.is_file() {
        println!("all there: focus-validator");
        return Ok(());
    }
    println!("installing focus-validator");
    let at = folder.to_string_lossy();
    process::output(process::command(&python()?.to_string_lossy()).args(["-m", "venv", "--clear", &at]))?;
    let pip = folder.join("bin/pip");
    let words = ["install", "--quiet", "focus-validator==2.2.1", "pyarrow<22"];
    process::run(process::command(&pip.to_string_lossy()).args(words))
}

/// Prometheus' client library for Python, whose parser `crates/cli/tests/status.rs` reads metrics with.
pub(crate) fn ensure_prometheus_parser() -> Result<()> {
    let words = ["-c", "import prometheus_client.parser"];
    let has_it = |python: &str| process::output(process::command(python).args(words)).is_ok();
    let is_there = || ["/usr/bin/python3", "python3"].into_iter().any(has_it);
    if is_there() {
        println!("all there: prometheus_client");
        return Ok(());
    }
    let package = "python3-prometheus-client";
    let missing = format!("missing: prometheus_client\ninstall it (Debian package: {package}) and run again");
    if !Path::new("/etc/debian_version").exists() || !is_root() {
        return Err(Failure::new(missing));
    }
    println!("installing {package}");
    apt(&["update"])?;
    apt(&["install", "-y", "--no-install-recommends", package])?;
    if is_there() { Ok(()) } else { Err(Failure::new(missing)) }
}

/// A Python that the validator runs on: 3.12, which its pinned dependencies have wheels for, or else a newer one.
fn python() -> Result<PathBuf> {
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let pyenv = pyenv.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")));
    let installed = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    let installed = installed.into_iter().flatten().flatten().map(|entry| entry.path().join("bin/python3"));
    let named = ["python3.12", "python3.13", "python3"].into_iter().filter_map(process::find);
    let mut found: Vec<_> = named.chain(installed).filter_map(|path| Some((minor(&path)?, path))).collect();
    found.sort();
    let fits = found.into_iter().find(|(minor, _)| *minor >= 12);
    fits.map(|(_, path)| path).ok_or_else(|| {
        Failure::new(
            "focus-validator needs Python 3.12 or newer, and there is none; or name it in FOCUS_VALIDATOR",
        )
    })
}

/// Minor version of a Python 3 that can make virtual environments.
fn minor(python: &Path) -> Option<u32> {
    let words = ["-c", "import sys, ensurepip; print(sys.version_info.minor)"];
    process::output(process::command(&python.to_string_lossy()).args(words)).ok()?.trim().parse().ok()
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
