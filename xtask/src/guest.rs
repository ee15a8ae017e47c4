//! `cargo xtask guest`: a small Linux guest for QEMU, of Debian's kernel, busybox and the real guest agent.
//!
//! `vmlinuz` and `initrd.gz` boot without KVM in seconds. The guest mounts the ext4 file systems of its disks, appends to a
//! log on the first and to a database on the second for as long as it runs; `xtask/guest/init` is all that it does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::args::Args;
use crate::failure::{At, Failure, Result};
use crate::process::{self, command};
use crate::tools::{self, GUEST_TOOLS};

const KERNEL: &str = "linux-image-cloud-amd64";
/// The agent, the database, and those of their libraries that a small host lacks.
const PROGRAMS: [&str; 7] =
    ["qemu-guest-agent", "liburing2", "libnuma1", "sqlite3", "libsqlite3-0", "libreadline8", "libtinfo6"];
/// What the kernel needs for disks and the agent's port, each after what it builds on.
const MODULES: [&str; 7] = [
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci",
    "block/virtio_blk",
    "char/virtio_console",
];

pub(crate) fn run(mut args: Args) -> Result<()> {
    let folder = PathBuf::from(args.position("DIR")?);
    args.end()?;
    make(&folder)
}

/// Makes the guest in `folder`, unless it is there and newer than what it is made of.
pub(crate) fn make_if_old(folder: &Path) -> Result<()> {
    let made = |path: &Path| fs::metadata(path).and_then(|facts| facts.modified());
    let sources = process::workspace().join("xtask");
    let sources =
        ["guest/init", "guest/etc/pre.sh", "guest/etc/post.sh", "guest/etc/scripts.json", "src/guest.rs"]
            .map(|name| sources.join(name));
    let is_new = made(&folder.join("vmlinuz"))
        .is_ok_and(|at| sources.iter().all(|source| made(source).is_ok_and(|changed| changed < at)));
    if is_new {
        println!("{}: there", folder.display());
        return Ok(());
    }
    make(folder)
}

/// Makes the guest in `folder`.
pub(crate) fn make(folder: &Path) -> Result<()> {
    tools::ensure(&GUEST_TOOLS)?;
    fs::create_dir_all(folder).at(folder)?;
    let folder = folder.canonicalize().at(folder)?;
    let work = folder.join("work");
    let _ = fs::remove_dir_all(&work);
    let (packages, root) = (work.join("packages"), work.join("root"));
    fs::create_dir_all(&packages).at(&packages)?;
    unpack(&packages)?;
    make_root(&packages, &root)?;
    let initrd = folder.join("initrd.gz");
    let pack = format!("find . | cpio --quiet -o -H newc --owner=0:0 | gzip -1 > '{}'", initrd.display());
    process::run(command("sh").args(["-c", &pack]).current_dir(&root))?;
    copy(&find(&packages.join("boot"), "vmlinuz-")?, &folder.join("vmlinuz"))?;
    fs::remove_dir_all(&work).at(&work)?;
    println!("{}: vmlinuz, initrd.gz; VMKEEP_GUEST={0} lets the tests use it", folder.display());
    Ok(())
}

/// Fetches the packages and unpacks them in place; nothing is installed.
fn unpack(packages: &Path) -> Result<()> {
    let depends = process::output(command("apt-cache").args(["depends", KERNEL]))?;
    let kernel = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let kernel = kernel.ok_or_else(|| Failure::new(format!("{KERNEL} names no kernel")))?;
    let mut fetch = command("apt-get");
    fetch.args(["-q", "download", &format!("linux-image-{kernel}")]).args(PROGRAMS).current_dir(packages);
    process::output(&mut fetch)?;
    for entry in fs::read_dir(packages).at(packages)? {
        let path = entry.at(packages)?.path();
        if path.extension().is_some_and(|e| e == "deb") {
            process::run(command("dpkg-deb").arg("-x").arg(&path).arg(packages))?;
        }
    }
    Ok(())
}

fn make_root(packages: &Path, root: &Path) -> Result<()> {
    for folder in [
        "bin",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "var",
        "disks",
        "modules",
        "usr/sbin",
        "usr/bin",
        "etc/vmkeep",
    ] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).at(&folder)?;
    }
    let busybox = process::find("busybox").ok_or_else(|| Failure::new("no busybox"))?;
    copy(&busybox, &root.join("bin/busybox"))?;
    let init = root.join("init");
    copy(&process::workspace().join("xtask/guest/init"), &init)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).at(&init)?;

    let drivers = find(&packages.join("lib/modules"), "")?.join("kernel/drivers");
    let mut order = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        copy(&drivers.join(format!("{module}.ko")), &root.join(format!("modules/{name}.ko")))?;
        order.push_str(name);
        order.push('\n');
    }
    let path = root.join("modules/order");
    fs::write(&path, order).at(&path)?;

    for (name, mode) in [("pre.sh", 0o700), ("post.sh", 0o700), ("scripts.json", 0o600)] {
        let path = root.join("etc/vmkeep").join(name);
        copy(&process::workspace().join("xtask/guest/etc").join(name), &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).at(&path)?;
    }
    for program in ["usr/sbin/qemu-ga", "usr/bin/sqlite3"] {
        install(packages, root, program)?;
    }
    Ok(())
}

/// Copies a program of the packages with the libraries that it is linked to.
fn install(packages: &Path, root: &Path, program: &str) -> Result<()> {
    let from = packages.join(program);
    copy(&from, &root.join(program))?;
    let places = [packages.join("usr/lib/x86_64-linux-gnu"), packages.join("lib/x86_64-linux-gnu")];
    let search = places.each_ref().map(|place| place.display().to_string()).join(":");
    let listed = process::output(command("ldd").arg(&from).env("LD_LIBRARY_PATH", search))?;
    for path in listed.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        let ours = places.iter().find_map(|place| path.strip_prefix(place).ok());
        let place = match ours {
            Some(name) => root.join("lib/x86_64-linux-gnu").join(name),
            None => root.join(path.strip_prefix("/").unwrap_or(path)),
        };
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).at(folder)?;
        }
        copy(path, &place)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).at(from)
}

/// The entry of `folder` that begins with `prefix`.
fn find(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).at(folder)?;
    let named = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix));
    let found = entries.filter_map(|entry| Some(entry.ok()?.path())).find(named);
    found.ok_or_else(|| Failure::new(format!("{}: nothing named {prefix}..", folder.display())))
}
