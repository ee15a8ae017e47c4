//! The real guest agent in a real guest, which `cargo xtask guest DIR` makes. Without `VMKEEP_GUEST=DIR` there is
//! nothing to do.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use vmkeep_disk::BlockRead;
use vmkeep_model::ByteOffset;
use vmkeep_qemu::{Agent, DiskPlan, Outcome, QemuError, Qmp, Snapshot, SnapshotPlan};

const LIMIT: Duration = Duration::from_mins(1);

/// QEMU, which ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn boot(guest: &Path, folder: &Path) -> Running {
    let mut command = Command::new("qemu-system-x86_64");
    command.args("-accel tcg -cpu max -m 256 -nodefaults -display none -no-reboot".split(' '));
    command.args(["-serial", "file:serial.log", "-append", "console=ttyS0 quiet rdinit=/init"]);
    command.arg("-kernel").arg(guest.join("vmlinuz")).arg("-initrd").arg(guest.join("initrd.gz"));
    for n in 0..2 {
        command.args(["-blockdev", &format!("driver=file,filename=d{n}.qcow2,node-name=f{n}")]);
        command.args(["-blockdev", &format!("driver=qcow2,file=f{n},node-name=disk{n}")]);
        command.args(["-device", &format!("virtio-blk-pci,drive=disk{n},id=vd{n}")]);
    }
    command.args(["-device", "virtio-serial", "-chardev", "socket,path=qga.sock,server=on,wait=off,id=qga0"]);
    command.args(["-device", "virtserialport,chardev=qga0,name=org.qemu.guest_agent.0"]);
    command.args(["-qmp", "unix:qmp.sock,server=on,wait=off"]);
    Running(command.current_dir(folder).spawn().unwrap())
}

fn run(folder: &Path, program: &str, words: &str) -> String {
    let out = Command::new(program).args(words.split(' ')).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{program} {words}: {out:?}");
    String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout)
}

fn connect<T>(connect: impl Fn() -> Result<T, QemuError>) -> T {
    loop {
        match connect() {
            Ok(connection) => return connection,
            Err(QemuError::Io { doing: "connect to", .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_frozen_guest_gives_file_systems_that_need_no_recovery() {
    let Some(guest) = std::env::var_os("VMKEEP_GUEST").map(PathBuf::from) else {
        eprintln!("no VMKEEP_GUEST; skipped");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for n in 0..2 {
        std::fs::File::create(at.join("raw")).unwrap().set_len(64 << 20).unwrap();
        run(at, "mke2fs", "-q -t ext4 raw");
        run(at, "qemu-img", &format!("convert -O qcow2 raw d{n}.qcow2"));
    }
    let _running = boot(&guest, at);
    let mut qmp = connect(|| Qmp::connect(&at.join("qmp.sock"), LIMIT));
    let mut agent = connect(|| Agent::connect(&at.join("qga.sock"), LIMIT));
    for number in 1..=3 {
        let plan = SnapshotPlan {
            chain: "guest".to_owned(),
            number,
            base: (number > 1).then(|| number - 1),
            disks: ["disk0", "disk1"].map(|node| DiskPlan { node: node.to_owned() }).to_vec(),
            folder: at.to_owned(),
            scratch_bytes_max: 64 << 20,
        };
        let frozen = agent.freeze().unwrap();
        assert_eq!(frozen.frozen, 2, "{frozen:?}");
        assert!(agent.is_frozen().unwrap());
        let snapshot = Snapshot::begin(&mut qmp, &plan);
        assert_eq!(agent.thaw().unwrap(), 2);
        assert!(!agent.is_frozen().unwrap());
        let snapshot = snapshot.unwrap();
        for (n, disk) in snapshot.disks().iter().enumerate() {
            let opened = snapshot.open(disk).unwrap();
            let file = at.join(format!("restored{n}"));
            // An increment changes the copy of the point before at the changed places only.
            let mut bytes = vec![0; usize::try_from(opened.len().0).unwrap()];
            opened.read_at(ByteOffset(0), &mut bytes).unwrap();
            if let Some(changed) = snapshot.changed(disk, &opened).unwrap() {
                let mut restored = std::fs::read(&file).unwrap();
                for extent in changed.iter() {
                    let range =
                        usize::try_from(extent.start().0).unwrap()..usize::try_from(extent.end().0).unwrap();
                    restored[range.clone()].copy_from_slice(&bytes[range]);
                }
                assert!(restored == bytes, "point {number}, disk {n}: the bitmap misses changes");
            }
            std::fs::write(&file, &bytes).unwrap();
            let told = run(at, "e2fsck", &format!("-fn restored{n}"));
            assert!(!told.contains("recovery"), "{told}");
        }
        snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
    }
}
