//! How far a walk is: bars for people, events for programs.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use vmkeep::model::{BlockIndex, ByteLen, DiskName, PointNumber, SessionId, VmName};
use vmkeep::vault::{OpenSession, VaultError};
use vmkeep::{backup, restore};

use crate::error::chain;
use crate::output::{self, Output};

/// Progress is told of after a hundredth of the disk, but within these bounds.
const STEP_MIN: u64 = 1 << 20;
const STEP_MAX: u64 = 1 << 30;

/// Hears a walk and tells of it: with one bar per disk when stderr is a terminal, or with JSON lines.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    output: &'a Output,
    bars: Option<MultiProgress>,
    disks: Mutex<BTreeMap<DiskName, Disk>>,
    met_damage: AtomicBool,
}

#[derive(Debug)]
struct Disk {
    bar: Option<ProgressBar>,
    position: u64,
    total: u64,
    /// The position from which on the next event is due.
    due: u64,
}

/// How a disk differs from what it was at the point before.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub(crate) enum Change {
    Appeared,
    /// What it was could not be read: all of it was stored again.
    Anew,
    SameSize,
    Grew {
        from: u64,
    },
    Shrank {
        from: u64,
    },
    /// It is a temporary disk, which is not compared.
    Described,
}

impl From<Option<backup::DiskChange>> for Change {
    fn from(change: Option<backup::DiskChange>) -> Self {
        match change {
            None => Self::Described,
            Some(backup::DiskChange::Appeared) => Self::Appeared,
            Some(backup::DiskChange::Anew) => Self::Anew,
            Some(backup::DiskChange::SameSize) => Self::SameSize,
            Some(backup::DiskChange::Grew { from }) => Self::Grew { from: from.0 },
            Some(backup::DiskChange::Shrank { from }) => Self::Shrank { from: from.0 },
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line<'a> {
    Began {
        vm: &'a str,
        number: u64,
        base: Option<u64>,
    },
    /// Another backup of the VM has not finished, and this one does not go on from it.
    LeftOpen {
        session: String,
        began: String,
        began_ms: i64,
    },
    /// The backup to go on from has ended meanwhile.
    NotResumed {
        session: String,
        causes: Vec<String>,
    },
    /// What an interrupted backup stored is used.
    Resumed {
        session: String,
        packs: u64,
        skipped: u64,
    },
    Vanished {
        disk: &'a str,
    },
    /// The point before, or what a disk was in it, is damaged and is not relied on.
    BaseUnreadable {
        disk: Option<&'a str>,
        causes: Vec<String>,
    },
    /// Fingerprints of pages cannot be kept or read; blocks are compared or stored as a whole instead.
    FingerprintsUnusable {
        disk: &'a str,
        causes: Vec<String>,
    },
    /// Fingerprints were found wrong: the disk is scanned again without them.
    FingerprintsWrong {
        disk: &'a str,
        block: u64,
    },
    /// Change tracking was not believed: all of the disk is scanned.
    ScannedInstead {
        disk: &'a str,
        why: &'a str,
    },
    /// Change tracking missed a change; points from `suspect_from` to `suspect_to` may hold old data.
    TrackingMissed {
        disk: &'a str,
        block: u64,
        suspect_from: Option<u64>,
        suspect_to: Option<u64>,
    },
    DiskBegan {
        disk: &'a str,
        size: u64,
        #[serde(flatten, skip_serializing_if = "Option::is_none")]
        change: Option<Change>,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes_stored: Option<u64>,
    },
    Progress {
        disk: &'a str,
        /// Of the disk in a backup, of what is stored of it otherwise.
        position: u64,
        total: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes_read: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes_changed: Option<u64>,
    },
    DiskDone {
        disk: &'a str,
    },
}

impl<'a> Progress<'a> {
    pub(crate) fn new(output: &'a Output) -> Self {
        let shown = !output.is_json() && std::io::stderr().is_terminal();
        let bars = shown.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        Self { output, bars, disks: Mutex::default(), met_damage: AtomicBool::new(false) }
    }

    fn disks(&self) -> MutexGuard<'_, BTreeMap<DiskName, Disk>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vm_began(&self, vm: &VmName, target: PointNumber, base: Option<PointNumber>) {
        self.output.json(&Line::Began { vm: vm.as_str(), number: target.0, base: base.map(|base| base.0) });
    }

    fn base_unreadable(&self, disk: Option<&DiskName>, error: &VaultError) {
        self.met_damage.store(true, Ordering::Relaxed);
        let what = disk.map_or_else(|| "the point before".to_owned(), |disk| format!("what disk {disk} was"));
        let causes = chain(error);
        let warn = || output::warn(&format!("{what} cannot be read; it is stored again as a whole"), &causes);
        self.bars.as_ref().map_or_else(warn, |bars| bars.suspend(warn));
        self.output.json(&Line::BaseUnreadable { disk: disk.map(DiskName::as_str), causes });
    }

    /// A remark for people, above the bars.
    fn note(&self, text: &str) {
        let note = || output::note(text);
        self.bars.as_ref().map_or_else(note, |bars| bars.suspend(note));
    }

    fn left_open(&self, session: &OpenSession) {
        self.note(&format!(
            "a backup of this VM that began {} has not finished and is left alone; when it runs no more, --resume {} goes \
             on from it",
            session.opened, session.id
        ));
        let (began, began_ms) = (session.opened.to_string(), session.opened.0);
        self.output.json(&Line::LeftOpen { session: session.id.to_string(), began, began_ms });
    }

    fn not_resumed(&self, session: SessionId, error: &VaultError) {
        let causes = chain(error);
        self.note(&format!("{}; this backup begins afresh", causes.join(": ")));
        self.output.json(&Line::NotResumed { session: session.to_string(), causes });
    }

    fn tracking_missed(
        &self,
        disk: &DiskName,
        block: BlockIndex,
        suspect: Option<(PointNumber, PointNumber)>,
    ) {
        let marked = match suspect {
            Some((from, to)) => {
                format!("; points {from} to {to} may hold old data of it and are marked suspect")
            }
            None => String::new(),
        };
        self.note(&format!("disk {disk}: change tracking missed a change of block {block}{marked}"));
        let (suspect_from, suspect_to) = suspect.map(|(from, to)| (from.0, to.0)).unzip();
        self.output.json(&Line::TrackingMissed {
            disk: disk.as_str(),
            block: block.0,
            suspect_from,
            suspect_to,
        });
    }

    /// Whether a backup came by damage of the vault that it could do without.
    pub(crate) fn met_damage(&self) -> bool {
        self.met_damage.load(Ordering::Relaxed)
    }

    fn disk_began(&self, disk: &DiskName, size: ByteLen, total: ByteLen, change: Option<Change>) {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(total.0).with_style(style()));
            bar.set_message(disk.to_string());
            bar
        });
        self.disks().insert(disk.clone(), Disk { bar, position: 0, total: total.0, due: 0 });
        let bytes_stored = change.is_none().then_some(total.0);
        self.output.json(&Line::DiskBegan { disk: disk.as_str(), size: size.0, change, bytes_stored });
    }

    /// Notes the position that `to` makes of the one before, and tells of it when that is due.
    fn advance(&self, disk: &DiskName, to: impl FnOnce(u64) -> u64, counts: Option<(u64, u64)>) {
        let mut disks = self.disks();
        let Some(state) = disks.get_mut(disk) else { return };
        state.position = to(state.position).min(state.total);
        if let Some(bar) = &state.bar {
            bar.set_position(state.position);
        }
        if state.position < state.due {
            return;
        }
        state.due = state.position + (state.total / 100).clamp(STEP_MIN, STEP_MAX);
        // Under the lock, so that the lines of a disk are in order.
        self.output.json(&Line::Progress {
            disk: disk.as_str(),
            position: state.position,
            total: state.total,
            bytes_read: counts.map(|(read, _)| read),
            bytes_changed: counts.map(|(_, changed)| changed),
        });
    }

    fn disk_done(&self, disk: &DiskName) {
        if let Some(Disk { bar: Some(bar), .. }) = self.disks().remove(disk) {
            bar.finish_and_clear();
        }
        self.output.json(&Line::DiskDone { disk: disk.as_str() });
    }
}

impl Drop for Progress<'_> {
    /// Leaves the terminal to what is printed next, also after an error.
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            // A terminal that went away shows nothing anyhow.
            let _ = bars.clear();
        }
    }
}

impl backup::Observer for Progress<'_> {
    fn event(&self, event: backup::Event<'_>) {
        use backup::Event;
        match event {
            Event::Began { vm, target, base } => self.vm_began(vm, target, base),
            Event::LeftOpen { session } => self.left_open(session),
            Event::NotResumed { session, error } => self.not_resumed(session, error),
            Event::Inherited { from, packs, skipped } => {
                self.output.json(&Line::Resumed { session: from.to_string(), packs, skipped });
            }
            Event::Vanished { disk } => self.output.json(&Line::Vanished { disk }),
            Event::BaseUnreadable { disk, error } => self.base_unreadable(disk, error),
            Event::FingerprintsUnusable { disk, error } => {
                let causes = chain(error);
                self.note(&format!("disk {disk}: {}", causes.join(": ")));
                self.output.json(&Line::FingerprintsUnusable { disk: disk.as_str(), causes });
            }
            Event::FingerprintsWrong { disk, block } => {
                self.note(&format!(
                    "disk {disk}: the page fingerprints of block {block} are wrong; they are forgotten, and the disk is scanned \
                     again without them"
                ));
                self.output.json(&Line::FingerprintsWrong { disk: disk.as_str(), block: block.0 });
            }
            Event::ScannedInstead { disk, why } => {
                self.note(&format!("disk {disk}: change tracking is not used, all of it is scanned: {why}"));
                self.output.json(&Line::ScannedInstead { disk: disk.as_str(), why });
            }
            Event::TrackingMissed { disk, block, suspect } => self.tracking_missed(disk, block, suspect),
            Event::DiskBegan { disk, size, change } => {
                self.disk_began(disk, size, size, Some(Some(change).into()));
            }
            Event::Progress { disk, position, bytes_read, bytes_changed, .. } => {
                self.advance(disk, |_| position.0, Some((bytes_read, bytes_changed)));
            }
            Event::DiskDone { disk } => self.disk_done(disk),
            // What became zero is in the summary; run by run it would drown the rest.
            _ => {}
        }
    }
}

impl restore::Observer for Progress<'_> {
    fn event(&self, event: restore::Event<'_>) {
        use restore::Event;
        match event {
            Event::DiskBegan { disk, size, stored } => self.disk_began(disk, size, stored, None),
            Event::Progress { disk, bytes } => self.advance(disk, |before| before + bytes.0, None),
            Event::DiskDone { disk } => self.disk_done(disk),
            _ => {}
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{msg:16!} [{wide_bar:.cyan/blue}] {binary_bytes:>11} of {binary_total_bytes:>11} {binary_bytes_per_sec:>13}";
    // The template is a constant; were it wrong, the default would do.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
