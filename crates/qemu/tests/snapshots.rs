//! Snapshots of a real QEMU without a guest: its monitor writes through the guest's device.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::json;
use vmkeep_disk::BlockRead;
use vmkeep_model::{ByteLen, ByteOffset, Extent, ExtentSet};
use vmkeep_qemu::{DiskPlan, Outcome, QemuError, Qmp, Snapshot, SnapshotPlan, Tracking, TrackingLoss};

const LIMIT: Duration = Duration::from_secs(30);
const LEN: usize = 8 << 20;
const PAGE: usize = 4096;

fn qemu_is_here() -> bool {
    let program = Command::new("qemu-system-x86_64").arg("--version").output();
    let here = program.is_ok_and(|out| out.status.success());
    if !here {
        let message = "qemu-system-x86_64 is not installed (Debian: qemu-system-x86)";
        assert!(std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{message}");
        eprintln!("{message}; skipped");
    }
    here
}

/// A machine with two disks that never starts, what its disks hold, and the pages written since the base.
struct Machine {
    child: Child,
    folder: tempfile::TempDir,
    content: [Vec<u8>; 2],
    dirty: [BTreeSet<usize>; 2],
    seed: u64,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(folder: &Path) -> Child {
    let _ = std::fs::remove_file(folder.join("qmp.sock"));
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-S"]).current_dir(folder);
    command.args(["-qmp", "unix:qmp.sock,server=on,wait=off"]);
    for n in 0..2 {
        command.args(["-blockdev", &format!("driver=file,filename=d{n}.qcow2,node-name=f{n}")]);
        command.args(["-blockdev", &format!("driver=qcow2,file=f{n},node-name=disk{n},discard=unmap")]);
        command.args(["-device", &format!("virtio-blk-pci,drive=disk{n},id=vd{n}")]);
    }
    command.spawn().unwrap()
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..2 {
            let name = format!("d{n}.qcow2");
            let words = ["create", "-q", "-f", "qcow2", &name, "8M"];
            assert!(
                Command::new("qemu-img").args(words).current_dir(folder.path()).status().unwrap().success()
            );
        }
        let (content, dirty) = ([vec![0; LEN], vec![0; LEN]], [BTreeSet::new(), BTreeSet::new()]);
        Self { child: start(folder.path()), folder, content, dirty, seed: 1 }
    }

    fn connect(&self) -> Qmp {
        loop {
            match Qmp::connect(&self.folder.path().join("qmp.sock"), LIMIT) {
                Ok(qmp) => return qmp,
                Err(QemuError::Io { doing: "connect to", .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn plan(&self, base: Option<u64>, number: u64) -> SnapshotPlan {
        SnapshotPlan {
            chain: "3f-2a".to_owned(),
            number,
            base,
            disks: ["disk0", "disk1"].map(|node| DiskPlan { node: node.to_owned() }).to_vec(),
            folder: self.folder.path().to_owned(),
            scratch_bytes_max: 64 << 20,
        }
    }

    fn random(&mut self, bound: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.seed >> 33).unwrap() % bound
    }

    /// The guest writes `count` times on each disk.
    fn write(&mut self, qmp: &mut Qmp, count: usize) {
        for disk in (0..2).cycle().take(2 * count) {
            let len = 512 * (1 + self.random(60));
            let at = 512 * self.random((LEN - len) / 512);
            let byte = 1 + self.random(250);
            let write = format!(
                "qemu-io -d /machine/peripheral/vd{disk}/virtio-backend \"write -q -P {byte} {at} {len}\""
            );
            let said = qmp.execute("human-monitor-command", json!({ "command-line": write })).unwrap();
            assert_eq!(said, "", "{write}");
            self.content[disk][at..at + len].fill(u8::try_from(byte).unwrap());
            self.dirty[disk].extend(at / PAGE..=(at + len - 1) / PAGE);
        }
    }
}

fn read_all(disk: &dyn BlockRead) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.len().0).unwrap()];
    disk.read_at(ByteOffset(0), &mut bytes).unwrap();
    bytes
}

fn extents(pages: &BTreeSet<usize>) -> ExtentSet {
    let page = |p: &usize| Extent::new(ByteOffset((p * PAGE) as u64), ByteLen(PAGE as u64));
    pages.iter().map(page).collect()
}

/// Holds a snapshot against what the disks held and what changed when it was taken, while the guest writes on.
fn check(
    machine: &mut Machine,
    qmp: &mut Qmp,
    snapshot: &Snapshot,
    content: &[Vec<u8>; 2],
    changed: Option<&[BTreeSet<usize>; 2]>,
) {
    machine.write(qmp, 5);
    for (n, disk) in snapshot.disks().iter().enumerate() {
        let opened = snapshot.open(disk).unwrap();
        assert_eq!(snapshot.changed(disk, &opened).unwrap(), changed.map(|c| extents(&c[n])), "disk {n}");
        machine.write(qmp, 5);
        assert!(read_all(&opened) == content[n], "disk {n} is not as it was");
    }
    snapshot.check(qmp).unwrap();
}

/// One backup, checked, and the changes before it; those after it are the machine's from then on.
fn round(
    machine: &mut Machine,
    qmp: &mut Qmp,
    base: Option<u64>,
    number: u64,
    is_known: bool,
) -> (Snapshot, [BTreeSet<usize>; 2]) {
    let snapshot = Snapshot::begin(qmp, &machine.plan(base, number)).unwrap();
    let content = machine.content.clone();
    let before = std::mem::take(&mut machine.dirty);
    check(machine, qmp, &snapshot, &content, is_known.then_some(&before));
    (snapshot, before)
}

/// The backup was not stored: the changes before it count as well.
fn put_back(machine: &mut Machine, before: [BTreeSet<usize>; 2]) {
    machine.dirty.iter_mut().zip(before).for_each(|(now, before)| now.extend(before));
}

fn lost(snapshot: &Snapshot) -> Vec<Option<TrackingLoss>> {
    let why = |tracking: &Tracking| match tracking {
        Tracking::Lost(why) => Some(*why),
        Tracking::Known(_) => None,
    };
    snapshot.disks().iter().map(|disk| why(&disk.tracking)).collect()
}

fn nothing_is_left(machine: &Machine, qmp: &mut Qmp) {
    assert_eq!(qmp.execute("query-jobs", json!({})).unwrap(), json!([]));
    assert_eq!(qmp.execute("query-block-exports", json!({})).unwrap(), json!([]));
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true })).unwrap();
    assert_eq!(nodes.as_array().unwrap().len(), 4, "{nodes}");
    for file in std::fs::read_dir(machine.folder.path()).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("vmkeep"), "{name}");
    }
}

#[test]
fn no_change_is_lost_whatever_becomes_of_a_backup() {
    if !qemu_is_here() {
        return;
    }
    let mut machine = Machine::new();
    let mut qmp = machine.connect();
    machine.write(&mut qmp, 10);
    let (mut base, mut number) = (None, 1);
    for outcome in "stored failed dropped stored stored dropped dropped failed stored died stored".split(' ')
    {
        let (snapshot, before) = round(&mut machine, &mut qmp, base, number, base.is_some());
        match outcome {
            "stored" => {
                snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
                nothing_is_left(&machine, &mut qmp);
                base = Some(number);
            }
            "failed" => {
                snapshot.finish(&mut qmp, Outcome::Failed).unwrap();
                nothing_is_left(&machine, &mut qmp);
                put_back(&mut machine, before);
            }
            // Our process ended while it pulled.
            "dropped" => {
                drop((snapshot, qmp));
                qmp = machine.connect();
                put_back(&mut machine, before);
            }
            // It ended after the point was stored and before the snapshot was finished.
            _ => {
                drop((snapshot, qmp));
                qmp = machine.connect();
                base = Some(number);
            }
        }
        number += 1;
    }
}

#[test]
fn bitmaps_survive_a_clean_end_of_qemu_and_are_not_believed_after_a_kill() {
    if !qemu_is_here() {
        return;
    }
    let mut machine = Machine::new();
    let mut qmp = machine.connect();
    let (snapshot, _) = round(&mut machine, &mut qmp, None, 1, false);
    assert_eq!(lost(&snapshot), [Some(TrackingLoss::NoBase); 2]);
    snapshot.finish(&mut qmp, Outcome::Stored).unwrap();

    qmp.execute("quit", json!({})).unwrap();
    machine.child.wait().unwrap();
    machine.child = start(machine.folder.path());
    qmp = machine.connect();
    machine.write(&mut qmp, 5);
    let (snapshot, _) = round(&mut machine, &mut qmp, Some(1), 2, true);
    snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
    machine.write(&mut qmp, 5);
    for n in 0..2 {
        let flush = format!("qemu-io -d /machine/peripheral/vd{n}/virtio-backend flush");
        qmp.execute("human-monitor-command", json!({ "command-line": flush })).unwrap();
    }

    machine.child.kill().unwrap();
    machine.child.wait().unwrap();
    machine.child = start(machine.folder.path());
    qmp = machine.connect();
    let snapshot = Snapshot::begin(&mut qmp, &machine.plan(Some(2), 3)).unwrap();
    // The first pair of bitmaps was written out at the clean end and is in use since; the second never was.
    for why in lost(&snapshot) {
        assert!(matches!(
            why,
            Some(TrackingLoss::Inconsistent | TrackingLoss::Missing | TrackingLoss::OtherBase)
        ));
    }
    snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
    machine.dirty = Default::default();
    machine.write(&mut qmp, 5);
    let (snapshot, _) = round(&mut machine, &mut qmp, Some(3), 4, true);
    snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
}

#[test]
fn a_snapshot_that_outgrew_its_scratch_is_not_stored() {
    if !qemu_is_here() {
        return;
    }
    let mut machine = Machine::new();
    let mut qmp = machine.connect();
    machine.write(&mut qmp, 20);
    let (snapshot, _) = round(&mut machine, &mut qmp, None, 1, false);
    snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
    machine.write(&mut qmp, 20);
    let small = SnapshotPlan { scratch_bytes_max: 1 << 20, ..machine.plan(Some(1), 2) };
    let snapshot = Snapshot::begin(&mut qmp, &small).unwrap();
    machine.write(&mut qmp, 60);
    let finished = snapshot.finish(&mut qmp, Outcome::Stored);
    assert!(matches!(finished, Err(QemuError::SnapshotLost { .. })), "{finished:?}");
    nothing_is_left(&machine, &mut qmp);
    let (snapshot, _) = round(&mut machine, &mut qmp, Some(1), 3, true);
    snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
}

#[test]
fn a_snapshot_that_cannot_be_taken_leaves_nothing() {
    if !qemu_is_here() {
        return;
    }
    let mut machine = Machine::new();
    let mut qmp = machine.connect();
    let mut plan = machine.plan(None, 1);
    plan.disks[1].node = "disk7".to_owned();
    let refused = Snapshot::begin(&mut qmp, &plan);
    assert!(matches!(&refused, Err(QemuError::NoSuchNode { node }) if node == "disk7"), "{refused:?}");
    nothing_is_left(&machine, &mut qmp);
    let (snapshot, _) = round(&mut machine, &mut qmp, None, 1, false);
    snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
    // The server of exports is another program's: all is undone after the transaction.
    let address = json!({ "type": "unix", "data": { "path": machine.folder.path().join("other.sock") } });
    qmp.execute("nbd-server-start", json!({ "addr": address })).unwrap();
    let again = Snapshot::begin(&mut qmp, &machine.plan(Some(1), 2));
    assert!(matches!(again, Err(QemuError::Refused { .. })), "{again:?}");
    nothing_is_left(&machine, &mut qmp);
    qmp.execute("nbd-server-stop", json!({})).unwrap();
    machine.write(&mut qmp, 5);
    let (snapshot, _) = round(&mut machine, &mut qmp, Some(1), 2, true);
    snapshot.finish(&mut qmp, Outcome::Stored).unwrap();
}
