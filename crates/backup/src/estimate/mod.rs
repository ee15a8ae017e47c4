//! What a backup would find and about what it would take, with nothing stored.

mod count;
mod history;
mod scan;

use std::num::NonZeroU32;

use vmkeep_blockdiff::{
    ChangeFacts, ChangeWarning, ChurnSample, RunHistogram, Thresholds, change_warnings, churn_per_day,
};
use vmkeep_model::{BlockSize, ByteLen, CancelToken, DiskDescription, DiskName, Permit, PointNumber, op};
use vmkeep_vault::{OpenPoint, Patched, Vault};

use self::history::{LastRuns, last_runs};
use self::scan::{Context, Scan};
use crate::observer::{DiskChange, Event, Observer};
use crate::walk::check;
use crate::{BackupError, Plan, Settings, Source};

/// How to estimate.
#[derive(Clone, Debug, PartialEq)]
pub struct EstimateSettings {
    /// How the backup would be made. Its fingerprints are read and never written; which interrupted backup it would go on
    /// from is left out of account.
    pub backup: Settings,
    /// When a warning is due.
    pub thresholds: Thresholds,
    /// Of so many frames of changed data, one is compressed to see what it takes. Default: 16.
    pub sample_every: NonZeroU32,
    /// How many of the VM's last points are looked at for its churn and for what its backups took. Default: 14.
    pub points: usize,
}

impl Default for EstimateSettings {
    fn default() -> Self {
        let sample_every = NonZeroU32::MIN.saturating_add(15);
        Self { backup: Settings::default(), thresholds: Thresholds::default(), sample_every, points: 14 }
    }
}

/// What a backup would find changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeTotals {
    /// Bytes that had to be read to tell.
    pub bytes_read: u64,
    /// Blocks whose content is new.
    pub blocks_changed: u64,
    /// Bytes in these blocks.
    pub bytes_changed: u64,
    /// Of the changed blocks, those of which only pages would be stored, and how many pages.
    pub patched: Patched,
    /// Of the changed blocks, those that would be stored as a whole because it is not known which pages changed.
    pub whole_unknown: u64,
    /// Blocks that held data and are zero now.
    pub blocks_zeroed: u64,
    /// Bytes in these blocks.
    pub bytes_zeroed: u64,
    /// Bytes of blocks and pages that would be stored, before compression.
    pub bytes_plain: u64,
    /// How long the runs of what would be stored are.
    pub runs: RunHistogram,
}

impl ChangeTotals {
    fn add(&mut self, other: &Self) {
        self.bytes_read += other.bytes_read;
        self.blocks_changed += other.blocks_changed;
        self.bytes_changed += other.bytes_changed;
        self.patched.blocks += other.patched.blocks;
        self.patched.pages += other.patched.pages;
        self.whole_unknown += other.whole_unknown;
        self.blocks_zeroed += other.blocks_zeroed;
        self.bytes_zeroed += other.bytes_zeroed;
        self.bytes_plain += other.bytes_plain;
        self.runs.merge(&other.runs);
    }
}

/// What an expected size rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatioFrom {
    /// The last backups of the VM, which together stored at least as much as this one would.
    LastRuns,
    /// A part of the changed data, compressed for it.
    Sample,
}

/// How many bytes were stored of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio {
    /// What it rests on.
    pub from: RatioFrom,
    /// Bytes before compression; not 0.
    pub plain: u64,
    /// Bytes of these in the vault.
    pub stored: u64,
}

impl Ratio {
    /// `None` when nothing was looked at.
    fn new(from: RatioFrom, plain: u64, stored: u64) -> Option<Self> {
        (plain > 0).then_some(Self { from, plain, stored })
    }

    /// What `plain` bytes become, rounded up.
    fn of(&self, plain: u64) -> u64 {
        let stored = u128::from(plain) * u128::from(self.stored);
        u64::try_from(stored.div_ceil(u128::from(self.plain.max(1)))).unwrap_or(u64::MAX)
    }

    /// Thousandths that remain, rounded; 1000 is what does not become smaller.
    pub fn permille(&self) -> u64 {
        let doubled = u128::from(self.stored) * 2000 + u128::from(self.plain);
        u64::try_from(doubled / (u128::from(self.plain.max(1)) * 2)).unwrap_or(u64::MAX)
    }
}

/// What a backup would find of one disk.
#[derive(Clone, Debug)]
pub struct DiskEstimate {
    /// Which disk.
    pub description: DiskDescription,
    /// Its size.
    pub size: ByteLen,
    /// Its blocks; `None` when it is only described.
    pub block_size: Option<BlockSize>,
    /// How it differs from the point before; `None` when it is only described.
    pub change: Option<DiskChange>,
    /// What changed.
    pub changes: ChangeTotals,
    /// Changed bytes a day over the last points and now; `None` without a series.
    pub churn_per_day: Option<ByteLen>,
    /// Expected bytes in the vault.
    pub bytes_stored: u64,
    /// What the expected bytes rest on; `None` when nothing is to be stored.
    pub ratio: Option<Ratio>,
    /// What about the disk would make the backup slow.
    pub warnings: Vec<ChangeWarning>,
}

/// What a backup would find, and about what it would take.
#[derive(Clone, Debug)]
pub struct Estimate {
    /// The point that it would be made against; `None` for a first one.
    pub base: Option<PointNumber>,
    /// Every disk, in the order of the plan.
    pub disks: Vec<DiskEstimate>,
    /// Disks of the point before that the plan does not have.
    pub vanished: Vec<String>,
    /// What changed on all disks together.
    pub changes: ChangeTotals,
    /// Changed bytes a day on all disks, over the last points and now; `None` without a series.
    pub churn_per_day: Option<ByteLen>,
    /// Expected bytes in the vault.
    pub bytes_stored: u64,
    /// Expected time in milliseconds, when the last runs tell how fast the VM is read; `None` otherwise.
    pub duration_ms: Option<u64>,
    /// How many points the churn and the expected time rest on.
    pub points: usize,
    /// What about the VM as a whole would make the backup slow; each disk has its own beside.
    pub warnings: Vec<ChangeWarning>,
}

/// Finds out what a backup of `plan` would store, by reading its disks as the backup would, and stores nothing: neither
/// in the vault nor in the folder of fingerprints.
///
/// The numbers of changed blocks and pages are those of a backup made at once with the same settings, as long as what
/// fingerprints say is right (a backup checks a part of it). Bytes and time are expectations.
///
/// # Errors
/// As [`run`](crate::run), but for those of writing.
pub fn estimate(
    permit: &Permit<op::Verify>,
    vault: &Vault,
    plan: &Plan<'_>,
    settings: &EstimateSettings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<Estimate, BackupError> {
    check(plan)?;
    let shares = settings.backup.shares(1)?;
    cancel.check()?;
    let base = match vault.base(&plan.vm) {
        Ok(base) => base,
        Err(error) if error.is_damage() => {
            observer.event(Event::BaseUnreadable { disk: None, error: &error });
            None
        }
        Err(error) => return Err(BackupError::Store(error)),
    };
    let vanished = base.as_ref().map(|base| vanished(plan, base)).unwrap_or_default();
    for disk in &vanished {
        observer.event(Event::Vanished { disk });
    }
    let runs = last_runs(vault, base.as_ref(), settings.points).map_err(BackupError::Store)?;
    let context = Context { permit, vault, base: base.as_ref(), settings, shares: &shares, observer, cancel };
    let mut scans = Vec::with_capacity(plan.disks.len());
    for disk in &plan.disks {
        let name = &disk.description.name;
        scans.push(match disk.source {
            Source::Read(source) => Some(context.scan(name, source, None)?),
            Source::Tracked(source, changes) => Some(context.scan(name, source, Some(changes))?),
            Source::Describe(_) => None,
        });
    }
    cancel.check()?;
    Ok(conclude(vault, plan, settings, base.as_ref(), vanished, &runs, scans))
}

fn vanished(plan: &Plan<'_>, base: &OpenPoint) -> Vec<String> {
    let planned = |name: &&DiskName| plan.disks.iter().any(|disk| disk.description.name == **name);
    base.stored_disks().filter(|name| !planned(name)).map(ToString::to_string).collect()
}

/// Turns what was found into what is to be expected.
fn conclude(
    vault: &Vault,
    plan: &Plan<'_>,
    settings: &EstimateSettings,
    base: Option<&OpenPoint>,
    vanished: Vec<String>,
    runs: &LastRuns,
    scans: Vec<Option<Scan>>,
) -> Estimate {
    let now = vault.clock().now();
    let churn = |mut series: Vec<ChurnSample>, changed: u64| {
        let alone = churn_per_day(&series);
        series.push(ChurnSample { at: now, changed: ByteLen(changed) });
        // A clock that went back since the newest point says nothing of now.
        churn_per_day(&series).or(alone)
    };
    let mut changes = ChangeTotals::default();
    scans.iter().flatten().for_each(|scan| changes.add(&scan.changes));
    let told = runs.ratio().filter(|ratio| ratio.plain >= changes.bytes_plain);

    let (mut disks, mut incremental) = (Vec::with_capacity(scans.len()), RunHistogram::default());
    for (disk, scan) in plan.disks.iter().zip(scans) {
        let (description, size) = (disk.description.clone(), disk.source.size());
        let mut estimate = DiskEstimate {
            churn_per_day: None,
            description,
            size,
            block_size: None,
            change: None,
            changes: ChangeTotals::default(),
            bytes_stored: 0,
            ratio: None,
            warnings: Vec::new(),
        };
        if let Some(Scan { changes, change, block_size, sample }) = scan {
            let is_whole = matches!(change, DiskChange::Appeared | DiskChange::Anew);
            let compressed = sample.map(|sample| (sample.plain, sample.stored));
            let mut facts = ChangeFacts { compressed, ..ChangeFacts::default() };
            if !is_whole {
                facts.runs = changes.runs.clone();
                incremental.merge(&changes.runs);
            } else if base.is_some() && change == DiskChange::Appeared {
                facts.new_disk = Some(ByteLen(changes.bytes_changed));
            }
            estimate.warnings = change_warnings(&facts, &settings.thresholds);
            if !is_whole {
                let series = runs.churn_of(&estimate.description.name);
                estimate.churn_per_day = churn(series, changes.bytes_changed);
            }
            estimate.ratio = told.or(sample).filter(|_| changes.bytes_plain > 0);
            estimate.bytes_stored = estimate.ratio.map_or(0, |ratio| ratio.of(changes.bytes_plain));
            estimate.block_size = Some(block_size);
            estimate.change = Some(change);
            estimate.changes = changes;
        }
        disks.push(estimate);
    }
    let churn_per_day = base.and_then(|_| churn(runs.churn(), changes.bytes_changed));
    let facts = ChangeFacts { runs: incremental, churn_per_day, new_disk: None, compressed: None };
    let mut warnings = change_warnings(&facts, &settings.thresholds);
    if disks.len() == 1 {
        // What is said of the only disk need not be said again.
        warnings.retain(|warning| !disks[0].warnings.contains(warning));
    }
    Estimate {
        base: base.map(|base| base.point().id.number),
        bytes_stored: disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.bytes_stored)),
        duration_ms: runs.duration_ms(changes.bytes_read),
        points: runs.len(),
        disks,
        vanished,
        changes,
        churn_per_day,
        warnings,
    }
}
