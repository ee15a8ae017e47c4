//! What QEMU tells of a VM: its disks, and whether it runs.

use serde_json::{Value, json};
use vmkeep_consistency::PowerState;
use vmkeep_model::ByteLen;

use crate::error::QemuError;
use crate::qmp::Qmp;

/// A disk of a running VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDisk {
    /// The node that the guest's device uses.
    pub node: String,
    /// The device, such as `vd0` for `-device virtio-blk-pci,id=vd0`; empty when it has no id.
    pub device: String,
    /// Size that the guest sees, in bytes.
    pub size: ByteLen,
    /// Format of its image, such as `qcow2`.
    pub format: String,
    /// Whether the guest may write to it.
    pub is_writable: bool,
    /// Dirty bitmaps of the disk, ours and others.
    pub bitmaps: Vec<String>,
}

/// The disks of the VM: every device that holds a medium and that is not for removable ones. A snapshot that is under way, or
/// was left by a process that died, does not show.
pub fn disks(qmp: &mut Qmp) -> Result<Vec<VmDisk>, QemuError> {
    let list = qmp.execute("query-block", json!({}))?;
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let disk = |entry: &Value| {
        let inserted = entry.get("inserted").filter(|_| entry["removable"] != true)?;
        let inserted = below_filter(inserted, &nodes);
        // `/machine/peripheral/vd0/virtio-backend` is a part of the device `vd0`.
        let path = text(&entry["qdev"]);
        let device = match path.split_once("/peripheral/") {
            Some((_, rest)) => rest.split('/').next().unwrap_or("").to_owned(),
            None if path.starts_with('/') => String::new(),
            None => path,
        };
        let bitmaps = inserted["dirty-bitmaps"].as_array().map(Vec::as_slice).unwrap_or_default();
        Some(VmDisk {
            node: inserted["node-name"].as_str()?.to_owned(),
            device,
            size: ByteLen(inserted["image"]["virtual-size"].as_u64()?),
            format: text(&inserted["image"]["format"]),
            is_writable: inserted["ro"] == false,
            // Those without a name belong to jobs.
            bitmaps: bitmaps.iter().filter_map(|bitmap| bitmap["name"].as_str().map(str::to_owned)).collect(),
        })
    };
    Ok(list.as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(disk).collect())
}

/// The node that is the disk: of a copy-before-write filter, the one below it, which has the file and format that QEMU
/// tells of what the filter is over.
fn below_filter<'v>(node: &'v Value, nodes: &'v Value) -> &'v Value {
    if node["drv"] != "copy-before-write" {
        return node;
    }
    let over = &node["image"]["backing-image"];
    let is_below = |other: &&Value| {
        other["drv"] == over["format"] && other["image"]["filename"] == over["filename"] && !over.is_null()
    };
    nodes.as_array().and_then(|nodes| nodes.iter().find(is_below)).unwrap_or(node)
}

/// Whether the guest runs.
pub fn power(qmp: &mut Qmp) -> Result<PowerState, QemuError> {
    let status = qmp.execute("query-status", json!({}))?;
    Ok(match status["status"].as_str() {
        Some("running") => PowerState::Running,
        Some("shutdown" | "guest-panicked") => PowerState::Stopped,
        Some("inmigrate" | "finish-migrate" | "postmigrate" | "restore-vm" | "save-vm") => {
            PowerState::Changing
        }
        _ => PowerState::Paused,
    })
}
