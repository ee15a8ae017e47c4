//! Running QEMU guests, seen from outside.
//!
//! [`Qmp`] speaks to QEMU and [`Agent`] to the guest agent inside the guest. A [`Snapshot`] is all disks of the VM at
//! one instant while the guest goes on writing, with what changed on each since an earlier one:
//!
//! ```no_run
//! use std::time::Duration;
//! use vmkeep_qemu::{Agent, DiskPlan, Outcome, Qmp, Snapshot, SnapshotPlan};
//!
//! let limit = Duration::from_secs(10);
//! let mut qmp = Qmp::connect("/run/vm/qmp.sock".as_ref(), limit)?;
//! let mut agent = Agent::connect("/run/vm/qga.sock".as_ref(), limit)?;
//! let plan = SnapshotPlan {
//!     chain: "3f2a".to_owned(),
//!     number: 8,
//!     base: Some(7), // the newest point that was stored
//!     disks: vec![DiskPlan { node: "disk0".to_owned() }],
//!     folder: "/var/lib/vmkeep/scratch".into(),
//!     scratch_bytes_max: 4 << 30,
//! };
//! agent.freeze()?;
//! let snapshot = Snapshot::begin(&mut qmp, &plan);
//! agent.thaw()?; // whatever became of the snapshot
//! let snapshot = snapshot?;
//! for disk in snapshot.disks() {
//!     let source = snapshot.open(disk)?;
//!     let changed = snapshot.changed(disk, &source)?; // `None`: look at all of it
//! }
//! snapshot.finish(&mut qmp, Outcome::Stored)?;
//! # Ok::<(), vmkeep_qemu::QemuError>(())
//! ```
//!
//! # How it works
//! One QMP transaction starts, for every disk, a backup job that copies what the guest is about to overwrite into a
//! scratch image (fleecing), stops the bitmap of the base and starts the bitmap of this snapshot. The scratch images
//! over their disks are the snapshot; they are read by NBD through a Unix socket.
//!
//! | bitmap of | before | during | [`Outcome::Stored`] | [`Outcome::Failed`] |
//! |---|---|---|---|---|
//! | the base, n | records | stopped: changes n to n+1 | removed | merged with n+1, records |
//! | this snapshot, n+1 | | records | records | removed |
//!
//! A process that died in between leaves both; the next [`Snapshot::begin`] puts them right by what it is told was
//! stored. No path loses a change.
//!
//! # What it does not do
//! It sends no data anywhere and starts no thread; what a snapshot is worth is decided by `vmkeep-consistency`, whose
//! ports [`QemuAgent`] (agent, files and programs of scripts) and [`QemuSnapshotter`] are. QEMU 6.0 or newer.
//!
//! Reference: <https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html>,
//! <https://www.qemu.org/docs/master/interop/bitmaps.html>,
//! <https://www.qemu.org/docs/master/interop/qemu-ga-ref.html>.

mod guest_agent;
mod machine;
mod scripts;
mod snapshot;
mod snapshotter;

mod agent;
mod bitmap;
mod qmp;

mod error;
mod lines;

pub use agent::{Agent, FreezeReport, Mount};
pub use bitmap::{BITMAP_GRANULARITY, BitmapName, Tracking, TrackingLoss};
pub use error::QemuError;
pub use guest_agent::{QemuAgent, thaw_over};
pub use lines::LINE_BYTES_MAX;
pub use machine::{VmDisk, disks, power};
pub use qmp::{EVENTS_MAX, Event, Qmp};
pub use snapshot::{DiskPlan, Outcome, Prepared, QemuChanges, Snapshot, SnapshotDisk, SnapshotPlan};
pub use snapshotter::QemuSnapshotter;
