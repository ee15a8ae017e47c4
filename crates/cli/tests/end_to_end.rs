//! A VM as the tools of the trade make it, through backup, change, backup and restore of every point.
//!
//! Its OS disk is a raw image with a GPT and an ext4 file system full of files, its data disk a qcow2 image of
//! another. The judges are `qemu-img compare`, `qemu-img check`, `e2fsck -fn` and `sgdisk --verify`.

#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::process::{Command, Output};

use harness::{Scratch, noise};

/// The tools, and the Debian package that each is in.
const TOOLS: [(&str, &str); 6] = [
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("sgdisk", "gdisk"),
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
];
/// Where the partition of the OS disk begins.
const OFFSET: &str = "1048576";
const MIB: u64 = 1 << 20;

/// Whether the tools are here. Without them the test has nothing to do, unless `VMKEEP_REQUIRE_TOOLS` is set.
fn tools_are_here() -> bool {
    // `env` ends with 127 when there is no such command.
    let here = |name| command(name).arg("--version").output().is_ok_and(|out| out.status.code() != Some(127));
    let missing: Vec<_> = TOOLS.iter().filter(|(name, _)| !here(name)).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(),
        "missing tools, with their packages: {missing:?}"
    );
    eprintln!("skipped; missing tools, with their packages: {missing:?}");
    false
}

/// A tool, also from where root's tools are.
fn command(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new("env");
    command.arg(format!("PATH={path}")).arg(name);
    command
}

impl Scratch {
    /// Runs a tool, whose words are separated by blanks, and which must succeed.
    fn tool(&self, words: &str) -> Output {
        let mut words_iter = words.split_whitespace();
        let mut command = command(words_iter.next().unwrap());
        let out = command.args(words_iter).current_dir(self.path("")).output().unwrap();
        let told = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{words}: {told}");
        out
    }

    /// Runs commands in a file system, changing it.
    fn debugfs(&self, image: &str, script: &str) {
        self.write("script", script.as_bytes());
        let told = self.tool(&format!("debugfs -w -f script {image}"));
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.lines().all(|line| line.starts_with("debugfs ")), "{script}: {told}");
    }

    /// Writes to an image as a guest would.
    fn qemu_io(&self, image: &str, writes: &[&str]) {
        let mut io = command("qemu-io");
        io.args(["-f", "qcow2"]);
        for write in writes {
            io.args(["-c", write]);
        }
        let out = io.arg(image).current_dir(self.path("")).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    /// The content of a file in a file system.
    fn content(&self, image: &str, file: &str) -> Vec<u8> {
        let out = command("debugfs")
            .args(["-R", &format!("cat {file}"), image])
            .current_dir(self.path(""))
            .output();
        out.unwrap().stdout
    }

    /// A folder of files: small and large, text and noise.
    fn tree(&self, name: &str, files: u64, seed: u64) {
        for nth in 0..files {
            let folder = self.path(&format!("{name}/folder{}", nth % 7));
            fs::create_dir_all(&folder).unwrap();
            let len = usize::try_from(nth * nth * 53 % 400_000).unwrap();
            let content = match nth % 3 {
                0 => noise(len, seed + nth),
                1 => format!("line {nth} of a log that says little\n").repeat(len / 32).into_bytes(),
                _ => noise(len / 20, seed + nth).repeat(20),
            };
            fs::write(folder.join(format!("file{nth}")), content).unwrap();
        }
    }

    /// A GPT with one partition, full of files.
    fn make_os_disk(&self) {
        self.disk("os.raw", 64 * MIB, &[]);
        self.tool("sgdisk --new=1:2048:+60M --typecode=1:8300 --change-name=1:root os.raw");
        self.tree("os-files", 240, 1000);
        self.tool(&format!("mke2fs -q -F -t ext4 -d os-files -E offset={OFFSET} os.raw 60M"));
    }

    /// A file system without a partition table, in a qcow2 image with compressed clusters.
    fn make_data_disk(&self) {
        self.disk("data.raw", 96 * MIB, &[]);
        self.tree("data-files", 150, 5000);
        self.tool("mke2fs -q -F -t ext4 -d data-files data.raw");
        self.tool("qemu-img convert -c -f raw -O qcow2 data.raw data.qcow2");
    }

    /// Keeps what the disks are now as what point `n` must restore to.
    fn keep(&self, n: u32, data: &str) {
        fs::copy(self.path("os.raw"), self.path(&format!("os.{n}"))).unwrap();
        self.tool(&format!("qemu-img convert -f qcow2 -O raw {data} data.{n}"));
    }

    fn check_point(&self, n: u32) {
        let (raw, qcow2) = (format!("raw{n}"), format!("qcow2-{n}"));
        self.summary(&format!("restore vm@{n} --to {raw}"));
        self.summary(&format!("restore vm@{n} --to {qcow2} --format qcow2"));
        for disk in ["os", "data"] {
            for restored in [format!("raw {raw}/{disk}.raw"), format!("qcow2 {qcow2}/{disk}.qcow2")] {
                let told = self.tool(&format!("qemu-img compare -f raw {disk}.{n} -F {restored}")).stdout;
                // It would warn of two sizes and still call them identical.
                assert_eq!(String::from_utf8_lossy(&told), "Images are identical.\n", "{n} {restored}");
            }
            self.tool(&format!("qemu-img check -f qcow2 {qcow2}/{disk}.qcow2"));
        }
        let verified = self.tool(&format!("sgdisk --verify {raw}/os.raw")).stdout;
        assert!(String::from_utf8_lossy(&verified).contains("No problems found"));
        self.tool(&format!("e2fsck -fn {raw}/os.raw?offset={OFFSET}"));
        self.tool(&format!("e2fsck -fn {raw}/data.raw"));
    }
}

#[test]
fn a_vm_with_a_partitioned_raw_disk_and_a_qcow2_disk_comes_back_as_it_was_at_every_point() {
    if !tools_are_here() {
        return;
    }
    let scratch = Scratch::with_vault();
    let root = format!("os.raw?offset={OFFSET}");
    scratch.make_os_disk();
    scratch.make_data_disk();
    scratch.keep(1, "data.qcow2");
    let backup = "backup --vm vm --disk os=os.raw,role=os,format=raw";
    let full = scratch.summary(&format!("{backup} --disk data=data.qcow2,lun=0"));

    // Files come and go, on both disks; the qcow2 image is written to in place.
    scratch.write("new", &noise(1_500_000, 77));
    scratch.debugfs(&root, "write new new-file\nrm folder3/file3\nrm folder1/file120\nmkdir more\n");
    scratch.debugfs("data.raw", "write new new-file\nrm folder2/file9\n");
    scratch.tool("qemu-img convert -n -f raw -O qcow2 data.raw data.qcow2");
    scratch.keep(2, "data.qcow2");
    let second = scratch.summary(&format!("{backup} --disk data=data.qcow2,lun=0"));
    let count = |summary: &serde_json::Value, what: &str| summary[what].as_u64().unwrap();
    assert!(count(&second, "bytes_changed") >= 2 * 1_500_000, "{second}");
    assert!(count(&second, "bytes_changed") < count(&full, "bytes_changed") / 2, "{second}");

    // The data disk goes on in an image over the one before, and grows.
    scratch.tool("qemu-img create -q -f qcow2 -b data.qcow2 -F qcow2 top.qcow2 128M");
    scratch.qemu_io("top.qcow2", &["write -P 0x5a 100M 3M", "write -z 101M 1M"]);
    scratch.keep(3, "top.qcow2");
    let third = format!("{backup} --disk data=top.qcow2,lun=0");
    scratch.json(&third).expect(1, "its backing file is not allowed").error();
    let third = scratch.summary(&format!("{third} --allow-backing data.qcow2"));
    assert_eq!(third["disks"][1]["change"], "grew");
    assert_eq!(third["bytes_changed"], 2 * MIB);

    for point in 1..=3 {
        scratch.check_point(point);
    }
    let new = scratch.read("new");
    let in_point =
        |point: u32| scratch.content(&format!("raw{point}/os.raw?offset={OFFSET}"), "/new-file") == new;
    assert!(!in_point(1) && in_point(2) && in_point(3));
    let verified = scratch.summary("verify");
    assert_eq!((verified["clean"].as_bool(), verified["points"].as_u64()), (Some(true), Some(3)));
}
