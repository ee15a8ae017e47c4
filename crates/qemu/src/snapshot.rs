//! All disks of a running VM at one instant.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use serde_json::{Value, json};
use vmkeep_blockdiff::{ChangeMethod, ChangeSource, ChangeSourceError, ExtentList};
use vmkeep_disk::{BlockRead, BlockWrite, Overwrite, Qcow2Target};
use vmkeep_model::{ByteLen, ByteOffset, Extent, ExtentSet};
use vmkeep_nbd::{ConnectOptions, NbdDisk};

use crate::bitmap::{self, BITMAP_GRANULARITY, BitmapName, Tracking, TrackingLoss, action, on_bitmap};
use crate::error::QemuError;
use crate::qmp::{Event, Qmp};

/// What is made in QEMU has these names, with the number of the disk behind; what is found under them is left over.
const SCRATCH: &str = "vmkeep-scratch-";
const SCRATCH_FILE: &str = "vmkeep-scratch-file-";
const JOB: &str = "vmkeep-job-";
const EXPORT: &str = "vmkeep-export-";
/// The event of a scratch image that passed its bound.
const THRESHOLD: &str = "BLOCK_WRITE_THRESHOLD";
const SOCKET: &str = "vmkeep-nbd.sock";

/// How long QEMU may take to end a job or an export.
const END_LIMIT: Duration = Duration::from_secs(30);
/// What is reserved for a scratch image beyond its bound.
const OVERSHOOT_BYTES: u64 = 64 << 20;

/// A disk to take part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlan {
    /// The node that the guest's device uses, by `-blockdev node-name=..`.
    pub node: String,
}

/// What to take a snapshot of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPlan {
    /// Which chain of snapshots it belongs to: letters, digits, `-`, `_` and `.`. Bitmaps of other chains are left alone.
    pub chain: String,
    /// The number of this snapshot, above that of the base.
    pub number: u64,
    /// The number of the newest snapshot of the chain that was stored, since which changes are wanted.
    pub base: Option<u64>,
    /// The disks.
    pub disks: Vec<DiskPlan>,
    /// A folder of our own for scratch images and the socket, which QEMU can reach under the same path.
    pub folder: PathBuf,
    /// So many bytes may a scratch image have before the snapshot is given up; see [`Snapshot::check`].
    pub scratch_bytes_max: u64,
}

/// What became of the data that was pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored for good: the next snapshot will have this one as its base.
    Stored,
    /// It is not: the next snapshot will have the same base as this one.
    Failed,
}

/// A disk of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDisk {
    /// Its node in QEMU.
    pub node: String,
    /// Whether it is known what changed since the base.
    pub tracking: Tracking,
    /// Whether its bitmap will be there after QEMU was ended and started again.
    pub is_persistent: bool,
    export: String,
    index: usize,
}

/// All disks of a running VM at one instant, readable while the guest goes on.
///
/// One at a time for each QEMU: beginning another ends this one, whose reads then fail.
#[derive(Debug)]
#[must_use = "the scratch images grow until `finish`"]
pub struct Snapshot {
    disks: Vec<SnapshotDisk>,
    next: String,
    folder: PathBuf,
    limit_bytes: u64,
}

impl Snapshot {
    /// Takes the snapshot and makes it readable. When it fails nothing of it is left, and the bitmaps are as before or put
    /// right. For a guest that is frozen meanwhile, the steps one by one are better: only [`Prepared::take`] need be
    /// within the freeze.
    pub fn begin(qmp: &mut Qmp, plan: &SnapshotPlan) -> Result<Self, QemuError> {
        Self::prepare(qmp, plan)?.take(qmp)?.export(qmp)
    }

    /// What is known of the changes of each disk, in the order of the plan. Changes nothing.
    pub fn tracking(qmp: &mut Qmp, plan: &SnapshotPlan) -> Result<Vec<Tracking>, QemuError> {
        check_plan(plan)?;
        let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
        let of = |disk: &DiskPlan| {
            node_info(&nodes, &disk.node)
                .map(|info| bitmap::plan(info, &plan.chain, plan.base, plan.number).tracking)
        };
        plan.disks.iter().map(of).collect()
    }

    /// Does all that can be done before the instant: removes what an earlier snapshot left, puts bitmaps right, reserves
    /// the space of the scratch images.
    pub fn prepare(qmp: &mut Qmp, plan: &SnapshotPlan) -> Result<Prepared, QemuError> {
        check_plan(plan)?;
        clean_up(qmp, plan.disks.len(), &plan.folder)?;
        let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
        let mut snapshot = Self {
            disks: Vec::new(),
            next: BitmapName { chain: plan.chain.clone(), number: plan.number }.to_string(),
            folder: plan.folder.clone(),
            limit_bytes: plan.scratch_bytes_max,
        };
        let (mut repairs, mut actions) = (Vec::new(), Vec::new());
        let mut sizes = Vec::new();
        for (index, DiskPlan { node }) in plan.disks.iter().enumerate() {
            let info = node_info(&nodes, node)?;
            sizes.push(info["image"]["virtual-size"].as_u64().unwrap_or(0));
            let bitmaps = bitmap::plan(info, &plan.chain, plan.base, plan.number);
            repairs.extend(bitmaps.repair);
            actions.extend(bitmaps.rotate);
            actions.push(action(
                "blockdev-backup",
                json!({ "job-id": format!("{JOB}{index}"), "device": node, "sync": "none",
                        "target": format!("{SCRATCH}{index}") }),
            ));
            let (tracking, is_persistent) = (bitmaps.tracking, bitmaps.is_persistent);
            let export = format!("disk{index}");
            snapshot.disks.push(SnapshotDisk { node: node.clone(), tracking, is_persistent, export, index });
        }
        qmp.transaction(repairs)?;
        let prepared = Prepared { snapshot, actions };
        match prepared.snapshot.add_scratch(qmp, &sizes) {
            Ok(()) => Ok(prepared),
            Err(error) => prepared.abandon(qmp).and(Err(error)),
        }
    }

    /// Makes the scratch images and puts them over their disks. Their space is taken from the host's file system at once,
    /// so that it cannot run out under the guest's writes.
    fn add_scratch(&self, qmp: &mut Qmp, sizes: &[u64]) -> Result<(), QemuError> {
        for (disk, size) in self.disks.iter().zip(sizes) {
            let index = disk.index;
            let path = scratch_path(&self.folder, index);
            Qcow2Target::create(&path, ByteLen(*size), Overwrite::Refuse)
                .and_then(|image| image.sync())
                .map_err(|e| QemuError::Scratch(Box::new(e)))?;
            self.reserve(&path, *size)?;
            let file = format!("{SCRATCH_FILE}{index}");
            let node = json!({
                "driver": "qcow2", "node-name": format!("{SCRATCH}{index}"), "backing": disk.node,
                "file": { "driver": "file", "filename": path, "node-name": file },
            });
            qmp.execute("blockdev-add", node)?;
            let bound = json!({ "node-name": file, "write-threshold": self.limit_bytes });
            qmp.execute("block-set-write-threshold", bound)?;
        }
        Ok(())
    }

    /// Reserves the bound, and what the guest may write between passing it and our ending the snapshot; no more than a
    /// disk of `size` bytes can ever need.
    fn reserve(&self, path: &Path, size: u64) -> Result<(), QemuError> {
        let metadata = size / 1000 + (1 << 20);
        let bytes = self.limit_bytes.saturating_add(OVERSHOOT_BYTES).min(size.saturating_add(metadata));
        let file = fs::File::options().write(true).open(path);
        let reserved = file.and_then(|file| Ok(fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes)?));
        match reserved {
            // Not every file system can: there the threshold alone bounds it.
            Err(e) if e.kind() == std::io::ErrorKind::Unsupported => Ok(()),
            Err(source) => Err(QemuError::NoScratchSpace { path: path.to_owned(), bytes, source }),
            Ok(()) => Ok(()),
        }
    }

    /// Makes the snapshot readable.
    pub fn export(self, qmp: &mut Qmp) -> Result<Self, QemuError> {
        match self.add_exports(qmp) {
            Ok(()) => Ok(self),
            Err(error) => self.finish(qmp, Outcome::Failed).and(Err(error)),
        }
    }

    fn add_exports(&self, qmp: &mut Qmp) -> Result<(), QemuError> {
        let address = json!({ "type": "unix", "data": { "path": self.socket() } });
        qmp.execute("nbd-server-start", json!({ "addr": address }))?;
        for disk in &self.disks {
            let bitmaps = match &disk.tracking {
                Tracking::Known(name) => vec![name.clone()],
                Tracking::Lost(_) => Vec::new(),
            };
            let export = json!({
                "type": "nbd", "id": format!("{EXPORT}{}", disk.index), "name": disk.export,
                "node-name": format!("{SCRATCH}{}", disk.index), "writable": false, "bitmaps": bitmaps,
            });
            qmp.execute("block-export-add", export)?;
        }
        Ok(())
    }

    /// The disks, in the order of the plan.
    pub fn disks(&self) -> &[SnapshotDisk] {
        &self.disks
    }

    /// The socket that the disks are exported at.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// Connects to a disk as it was at the instant of the snapshot.
    pub fn open(&self, disk: &SnapshotDisk) -> Result<NbdDisk, QemuError> {
        let options = ConnectOptions::new(&disk.export);
        let options = match &disk.tracking {
            Tracking::Known(name) => options.with_bitmap(name),
            Tracking::Lost(_) => options,
        };
        Ok(NbdDisk::connect_unix(&self.socket(), &options)?)
    }

    /// The same, as a walk over changed blocks takes it.
    pub fn changes(&self, disk: &SnapshotDisk, opened: &NbdDisk) -> Result<Option<QemuChanges>, QemuError> {
        let changed = self.changed(disk, opened)?;
        Ok(changed.and_then(|extents| ExtentList::new(extents, opened.len()).ok()).map(QemuChanges))
    }

    /// What changed on a disk since the base, or `None` when that is not known. `opened` is the disk.
    pub fn changed(&self, disk: &SnapshotDisk, opened: &NbdDisk) -> Result<Option<ExtentSet>, QemuError> {
        match &disk.tracking {
            Tracking::Known(name) => Ok(Some(opened.dirty_extents(name)?)),
            Tracking::Lost(_) => Ok(None),
        }
    }

    /// Whether the snapshot still holds: every job runs and no scratch image passed its bound. Call it while pulling,
    /// every few seconds: QEMU only reports the bound, and a scratch file system that is full fails the guest's writes.
    pub fn check(&self, qmp: &mut Qmp) -> Result<(), QemuError> {
        let jobs = qmp.execute("query-jobs", json!({}))?;
        for disk in &self.disks {
            let lost = |reason: String| Err(QemuError::SnapshotLost { node: disk.node.clone(), reason });
            let id = format!("{JOB}{}", disk.index);
            let job = jobs.as_array().and_then(|all| all.iter().find(|job| job["id"] == *id));
            let status = job.map_or("gone", |job| job["status"].as_str().unwrap_or("unknown"));
            if !["running", "paused", "ready"].contains(&status) {
                return lost(format!("its job is {status}"));
            }
            let file = format!("{SCRATCH_FILE}{}", disk.index);
            let is_full = |e: &Event| e.name == THRESHOLD && e.data["node-name"] == *file;
            if qmp.events().any(is_full) {
                return lost(format!("its scratch image passed {} bytes", self.limit_bytes));
            }
        }
        Ok(())
    }

    /// Looks whether the snapshot still holds, then waits for something to happen to it, at most `wait`. To be called again
    /// and again by a thread beside whoever pulls.
    pub fn look(&self, qmp: &mut Qmp, wait: Duration) -> Result<(), QemuError> {
        self.check(qmp)?;
        match qmp.wait_for(is_telling, wait) {
            // Left for the next check.
            Ok(event) if event.name == THRESHOLD => qmp.put_back(event),
            Ok(_) | Err(QemuError::TimedOut { .. }) => {}
            Err(error) => return Err(error),
        }
        self.check(qmp)
    }

    /// Ends the snapshot at once, so that its scratch images cannot grow: reads fail from here on. To be followed by
    /// [`finish`](Self::finish) with [`Outcome::Failed`].
    pub fn abort(&self, qmp: &mut Qmp) -> Result<(), QemuError> {
        clean_up(qmp, self.disks.len(), &self.folder)
    }

    /// Ends the snapshot and removes its scratch images. [`Outcome::Stored`] is taken as failed, and is an error, when
    /// the snapshot did not hold to the end.
    pub fn finish(self, qmp: &mut Qmp, outcome: Outcome) -> Result<(), QemuError> {
        let held = match outcome {
            Outcome::Stored => self.check(qmp),
            Outcome::Failed => Ok(()),
        };
        let is_stored = outcome == Outcome::Stored && held.is_ok();
        let cleaned = clean_up(qmp, self.disks.len(), &self.folder);
        let mut actions = Vec::new();
        for SnapshotDisk { node, tracking, .. } in &self.disks {
            match tracking {
                Tracking::Known(base) if is_stored => actions.push(on_bitmap("remove", node, base)),
                Tracking::Known(base) => actions.extend(bitmap::merge(node, base, &self.next)),
                Tracking::Lost(_) if is_stored => {}
                Tracking::Lost(TrackingLoss::Occupied) => {} // none was begun
                Tracking::Lost(_) => actions.push(on_bitmap("remove", node, &self.next)),
            }
        }
        let settled = qmp.transaction(actions);
        held.and(cleaned).and(settled)
    }
}

/// What a dirty bitmap of QEMU holds.
#[derive(Clone, Debug)]
pub struct QemuChanges(ExtentList);

impl ChangeSource for QemuChanges {
    fn next_changed(&self, from: ByteOffset) -> Result<Option<Extent>, ChangeSourceError> {
        self.0.next_changed(from)
    }

    fn granularity(&self) -> ByteLen {
        ByteLen(BITMAP_GRANULARITY)
    }

    fn method(&self) -> ChangeMethod {
        ChangeMethod::BlockStatus
    }
}

/// A snapshot up to its instant.
#[derive(Debug)]
#[must_use = "the scratch images stay until it is taken and finished, or abandoned"]
pub struct Prepared {
    snapshot: Snapshot,
    actions: Vec<Value>,
}

impl Prepared {
    /// The disks, in the order of the plan.
    pub fn disks(&self) -> &[SnapshotDisk] {
        &self.snapshot.disks
    }

    /// The instant: one transaction for all disks, or nothing.
    pub fn take(self, qmp: &mut Qmp) -> Result<Snapshot, QemuError> {
        match qmp.transaction(self.actions) {
            Ok(()) => Ok(self.snapshot),
            Err(error) => clean_up(qmp, self.snapshot.disks.len(), &self.snapshot.folder).and(Err(error)),
        }
    }

    /// Removes what was prepared.
    pub fn abandon(self, qmp: &mut Qmp) -> Result<(), QemuError> {
        clean_up(qmp, self.snapshot.disks.len(), &self.snapshot.folder)
    }
}

fn node_info<'v>(nodes: &'v Value, node: &str) -> Result<&'v Value, QemuError> {
    let info = nodes.as_array().and_then(|all| all.iter().find(|n| n["node-name"] == *node));
    info.ok_or_else(|| QemuError::NoSuchNode { node: node.to_owned() })
}

/// Events that say that something became of a snapshot.
fn is_telling(event: &Event) -> bool {
    let is_ours = || event.data["node-name"].as_str().is_some_and(|node| node.starts_with(SCRATCH_FILE));
    match &*event.name {
        THRESHOLD => is_ours(),
        "BLOCK_JOB_ERROR" | "JOB_STATUS_CHANGE" => true,
        _ => false,
    }
}

fn check_plan(plan: &SnapshotPlan) -> Result<(), QemuError> {
    let bad = |reason| Err(QemuError::BadPlan { reason });
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if plan.chain.is_empty() || plan.chain.len() > 128 || !plan.chain.chars().all(is_plain) {
        return bad("the name of a chain is 1 to 128 letters, digits, hyphens, dots and underscores");
    }
    if plan.base.is_some_and(|base| base >= plan.number) {
        return bad("the number of a snapshot is above that of its base");
    }
    let mut nodes: Vec<_> = plan.disks.iter().map(|disk| &disk.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.is_empty() || nodes.len() != plan.disks.len() {
        return bad("a snapshot has at least one disk, and each once");
    }
    Ok(())
}

fn scratch_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{SCRATCH}{index}.qcow2"))
}

/// Removes all that snapshots make in QEMU, of this one or of a process that died, in the order that QEMU allows.
fn clean_up(qmp: &mut Qmp, disks: usize, folder: &Path) -> Result<(), QemuError> {
    let is_ours = |prefix: &'static str| move |id: &String| id.starts_with(prefix);
    let exports = ids(qmp, "query-block-exports", "id")?;
    for id in exports.iter().filter(|id| is_ours(EXPORT)(id)) {
        qmp.execute("block-export-del", json!({ "id": id, "mode": "hard" }))?;
    }
    wait_until_gone(qmp, "query-block-exports", EXPORT, "BLOCK_EXPORT_DELETED")?;
    let socket = folder.join(SOCKET);
    if socket.exists() && exports.iter().all(|id| is_ours(EXPORT)(id)) {
        refused_is_fine(qmp.execute("nbd-server-stop", json!({})))?;
        let _ = fs::remove_file(socket);
    }
    for id in ids(qmp, "query-jobs", "id")?.iter().filter(|id| is_ours(JOB)(id)) {
        refused_is_fine(qmp.execute("block-job-cancel", json!({ "device": id, "force": true })))?;
    }
    wait_until_gone(qmp, "query-jobs", JOB, "JOB_STATUS_CHANGE")?;
    let nodes = ids_of(&qmp.execute("query-named-block-nodes", json!({ "flat": true }))?, "node-name");
    let is_top = |node: &&String| node.starts_with(SCRATCH) && !node.starts_with(SCRATCH_FILE);
    let tops: Vec<_> = nodes.iter().filter(is_top).collect();
    let most = tops.iter().filter_map(|node| node.strip_prefix(SCRATCH)?.parse::<usize>().ok()).max();
    for node in tops {
        qmp.execute("blockdev-del", json!({ "node-name": node }))?;
    }
    for index in 0..disks.max(most.map_or(0, |most| most + 1)) {
        let path = scratch_path(folder, index);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(QemuError::Io { doing: "remove", socket: path, source });
            }
            _ => {}
        }
    }
    // What was told of earlier scratch images says nothing of the next.
    qmp.forget_events(THRESHOLD);
    Ok(())
}

fn refused_is_fine(result: Result<Value, QemuError>) -> Result<(), QemuError> {
    match result {
        Err(QemuError::Refused { .. }) => Ok(()),
        result => result.map(drop),
    }
}

fn ids(qmp: &mut Qmp, query: &str, field: &str) -> Result<Vec<String>, QemuError> {
    Ok(ids_of(&qmp.execute(query, json!({}))?, field))
}

fn ids_of(list: &Value, field: &str) -> Vec<String> {
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|entry| entry[field].as_str().map(str::to_owned)).collect()
}

/// Waits until `query` names nothing that begins with `prefix`; `event` tells of each that goes.
fn wait_until_gone(qmp: &mut Qmp, query: &str, prefix: &str, event: &str) -> Result<(), QemuError> {
    qmp.forget_events(event);
    while ids(qmp, query, "id")?.iter().any(|id| id.starts_with(prefix)) {
        qmp.wait_for(|e| e.name == event, END_LIMIT)?;
    }
    Ok(())
}
