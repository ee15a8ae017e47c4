//! `vmkeep estimate`.

use serde::Serialize;
use vmkeep::backup::{
    self, ChangeTotals, Compare, DiskEstimate, Estimate, EstimateSettings, Limits, Pages, Plan, RatioFrom,
    Settings, Source, SourceDisk,
};
use vmkeep::blockdiff::{ChangeShape, ChangeWarning, RunHistogram, Thresholds};
use vmkeep::model::{ByteLen, ConsistencyLevel, DiskDescription, PAGE_SIZE, VmDescription};

use super::backup::{Opened, Reading, open};
use crate::args::EstimateArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::progress::{Change, Progress};
use crate::{bytes, output, paths};

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary<'a> {
    vm: &'a str,
    /// The point that a backup would be made against.
    base: Option<u64>,
    #[serde(flatten)]
    found: Found,
    /// Changed bytes a day, over so many of the last points and now.
    churn_per_day: Option<u64>,
    points: usize,
    bytes_stored: u64,
    duration_ms: Option<u64>,
    disks: Vec<Disk>,
    vanished: &'a [String],
    warnings: Vec<Warning>,
}

#[derive(Serialize)]
struct Disk {
    name: String,
    role: String,
    lun: Option<u32>,
    size: u64,
    block_size: Option<u64>,
    #[serde(flatten)]
    change: Change,
    #[serde(flatten)]
    found: Found,
    churn_per_day: Option<u64>,
    bytes_stored: u64,
    ratio: Option<Ratio>,
    warnings: Vec<Warning>,
}

/// What changed, on a disk or on all.
#[derive(Serialize)]
struct Found {
    bytes_read: u64,
    blocks_changed: u64,
    bytes_changed: u64,
    /// Of the changed blocks, those of which only pages would be stored, and how many pages; and those that would be
    /// stored as a whole because it is not known which pages changed.
    blocks_patched: u64,
    pages_patched: u64,
    blocks_whole_unknown: u64,
    blocks_zeroed: u64,
    bytes_zeroed: u64,
    /// What would be stored, before compression.
    bytes_plain: u64,
    /// unchanged, contiguous or fragmented; and the runs that this rests on.
    shape: &'static str,
    bytes_in_short_runs: u64,
    runs: u64,
    mean_run: u64,
    longest_run: u64,
    histogram: Vec<Bucket>,
}

/// Runs of `from` bytes up to twice that.
#[derive(Serialize)]
struct Bucket {
    from: u64,
    runs: u64,
    bytes: u64,
}

/// What the expected bytes rest on: so many of so many were stored.
#[derive(Serialize)]
struct Ratio {
    from: &'static str,
    plain: u64,
    stored: u64,
}

#[derive(Serialize)]
struct Warning {
    kind: &'static str,
    message: String,
}

pub(crate) fn run(context: &Context<'_>, args: &EstimateArgs) -> Result<Outcome, Error> {
    let descriptions: Vec<DiskDescription> = args.disks.iter().map(|disk| disk.description.clone()).collect();
    VmDescription::new(args.vm.clone(), descriptions).map_err(Error::usage)?;
    let settings = settings(args)?;
    let reading = Reading { allow_backing: &args.allow_backing, direct: args.direct };
    let opened: Vec<Opened> = args.disks.iter().map(|disk| open(disk, &reading)).collect::<Result<_, _>>()?;
    let vault = context.open_vault(&args.vault.vault)?;

    let permit = context.permit(&vault, Some(&args.vm))?;
    let disks = args.disks.iter().zip(&opened).map(|(disk, opened)| SourceDisk {
        description: disk.description.clone(),
        source: match opened {
            Opened::Image(image) => Source::Read(&**image),
            Opened::Described(size) => Source::Describe(*size),
        },
    });
    let plan = Plan {
        vm: args.vm.clone(),
        disks: disks.collect(),
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep::model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    };
    let progress = Progress::new(context.output);
    let found = backup::estimate(&permit, &vault, &plan, &settings, &progress, context.cancel)?;
    let outcome = if progress.met_damage() { Outcome::Damage } else { Outcome::Good };
    drop(progress);
    print(context, args.vm.as_str(), &found, &settings.thresholds);
    Ok(outcome)
}

fn settings(args: &EstimateArgs) -> Result<EstimateSettings, Error> {
    let default = EstimateSettings::default();
    let memory_bytes = usize::try_from(u64::from(args.memory) << 20).map_err(|_| {
        Error::usage(format!("--memory {} is more than this machine can address", args.memory))
    })?;
    let folder = if args.no_cache { None } else { args.cache.clone().or_else(paths::cache) };
    let limit = args.cache_size.map(ByteLen);
    let backup = Settings {
        level: args.level.into(),
        block_size: args.block_size,
        workers: args.workers.map_or(default.backup.workers, usize::from),
        memory_bytes,
        pages: Pages { folder, limit, compare: Compare::default() },
        limits: Limits::per_second(args.limit_read, None),
        ..default.backup
    };
    let told = default.thresholds;
    let thresholds = Thresholds {
        churn_per_day_max: args.warn_churn.map_or(told.churn_per_day_max, ByteLen),
        fragmented_bytes_min: args.warn_fragmented.map_or(told.fragmented_bytes_min, ByteLen),
        initial_replication_min: args.warn_new_disk.map_or(told.initial_replication_min, ByteLen),
        ..told
    };
    let sample_every = args.sample_every.unwrap_or(default.sample_every);
    let points = args.points.map_or(default.points, usize::from);
    Ok(EstimateSettings { backup, thresholds, sample_every, points })
}

fn print(context: &Context<'_>, vm: &str, found: &Estimate, thresholds: &Thresholds) {
    let output = context.output;
    for disk in &found.disks {
        for line in describe(disk, thresholds) {
            output.text(line);
        }
    }
    for disk in &found.vanished {
        output.text(format!("{disk}: is in the point before and would not be in this one"));
    }
    let against =
        found.base.map_or_else(|| "a first backup".to_owned(), |base| format!("against {vm}@{}", base.0));
    output.text(format!(
        "{vm}, {against}: {} changed, about {} to store{}",
        bytes::show(found.changes.bytes_changed),
        bytes::show(found.bytes_stored),
        found
            .duration_ms
            .map(|ms| format!(", in about {}.{:03} s", ms / 1000, ms % 1000))
            .unwrap_or_default(),
    ));
    if let Some(churn) = found.churn_per_day {
        output.text(format!("churn: {} a day, by the last {} points", bytes::show(churn.0), found.points));
    }
    if !output.is_json() {
        for disk in &found.disks {
            let name = &disk.description.name;
            disk.warnings.iter().for_each(|warning| output::warn(&format!("{name}: {warning}"), &[]));
        }
        found.warnings.iter().for_each(|warning| output::warn(&format!("{vm}: {warning}"), &[]));
    }
    output.json(&Summary {
        vm,
        base: found.base.map(|base| base.0),
        found: Found::new(&found.changes, thresholds),
        churn_per_day: found.churn_per_day.map(|churn| churn.0),
        points: found.points,
        bytes_stored: found.bytes_stored,
        duration_ms: found.duration_ms,
        disks: found.disks.iter().map(|disk| Disk::new(disk, thresholds)).collect(),
        vanished: &found.vanished,
        warnings: found.warnings.iter().map(Warning::from).collect(),
    });
}

/// The lines about a disk.
fn describe(disk: &DiskEstimate, thresholds: &Thresholds) -> Vec<String> {
    let (name, size) = (&disk.description.name, bytes::show(disk.size.0));
    let what = match Change::from(disk.change) {
        Change::Appeared => "new".to_owned(),
        Change::SameSize => "as before".to_owned(),
        Change::Grew { from } => format!("grew from {}", bytes::show(from)),
        Change::Shrank { from } => format!("shrank from {}", bytes::show(from)),
        Change::Anew => "to be stored again as a whole".to_owned(),
        Change::Described => return vec![format!("{name}: {size}, temporary, not stored")],
    };
    let changes = &disk.changes;
    let pages = match changes.patched.blocks {
        0 => String::new(),
        blocks => {
            let pages = bytes::show(changes.patched.pages * PAGE_SIZE as u64);
            format!(" (of {blocks} of them {pages} of pages)")
        }
    };
    let unknown = match changes.whole_unknown {
        0 => String::new(),
        blocks => format!(", changed pages of {blocks} blocks not known"),
    };
    let mut lines = vec![format!(
        "{name}: {size} ({what}), {} changed in {} blocks{pages}{unknown}, {} became zero",
        bytes::show(changes.bytes_changed),
        changes.blocks_changed,
        bytes::show(changes.bytes_zeroed)
    )];
    if let Some(ratio) = &disk.ratio {
        let from = match ratio.from {
            RatioFrom::LastRuns => "as in the last backups",
            RatioFrom::Sample => "by a sample",
        };
        let permille = ratio.permille();
        lines.push(format!(
            "  about {} to store ({}.{} % {from})",
            bytes::show(disk.bytes_stored),
            permille / 10,
            permille % 10
        ));
    }
    if changes.runs.runs() > 0 {
        lines.extend(shape_lines(&changes.runs, thresholds));
    }
    if let Some(churn) = disk.churn_per_day {
        lines.push(format!("  churn: {} a day", bytes::show(churn.0)));
    }
    lines
}

/// How the changes lie.
fn shape_lines(runs: &RunHistogram, thresholds: &Thresholds) -> Vec<String> {
    let fragmentation = runs.fragmentation(thresholds);
    let mut lines = vec![format!(
        "  {}: {} runs of {} on average, the longest of {}",
        shape_name(fragmentation.shape),
        fragmentation.runs,
        bytes::show(fragmentation.mean_run.0),
        bytes::show(fragmentation.longest.0)
    )];
    lines.extend(runs.buckets().map(|bucket| {
        let (from, all) = (bytes::show(bucket.from.0), bytes::show(bucket.bytes.0));
        format!("    from {from}: {} runs, {all}", bucket.runs)
    }));
    lines
}

fn shape_name(shape: ChangeShape) -> &'static str {
    match shape {
        ChangeShape::Unchanged => "unchanged",
        ChangeShape::Contiguous => "contiguous",
        ChangeShape::Fragmented => "fragmented",
    }
}

impl Found {
    fn new(changes: &ChangeTotals, thresholds: &Thresholds) -> Self {
        let fragmentation = changes.runs.fragmentation(thresholds);
        Self {
            bytes_read: changes.bytes_read,
            blocks_changed: changes.blocks_changed,
            bytes_changed: changes.bytes_changed,
            blocks_patched: changes.patched.blocks,
            pages_patched: changes.patched.pages,
            blocks_whole_unknown: changes.whole_unknown,
            blocks_zeroed: changes.blocks_zeroed,
            bytes_zeroed: changes.bytes_zeroed,
            bytes_plain: changes.bytes_plain,
            shape: shape_name(fragmentation.shape),
            bytes_in_short_runs: fragmentation.bytes_in_short_runs.0,
            runs: fragmentation.runs,
            mean_run: fragmentation.mean_run.0,
            longest_run: fragmentation.longest.0,
            histogram: changes
                .runs
                .buckets()
                .map(|bucket| Bucket { from: bucket.from.0, runs: bucket.runs, bytes: bucket.bytes.0 })
                .collect(),
        }
    }
}

impl Disk {
    fn new(disk: &DiskEstimate, thresholds: &Thresholds) -> Self {
        Self {
            name: disk.description.name.to_string(),
            role: disk.description.role.to_string(),
            lun: disk.description.lun,
            size: disk.size.0,
            block_size: disk.block_size.map(vmkeep::model::BlockSize::bytes_u64),
            change: disk.change.into(),
            found: Found::new(&disk.changes, thresholds),
            churn_per_day: disk.churn_per_day.map(|churn| churn.0),
            bytes_stored: disk.bytes_stored,
            ratio: disk.ratio.map(|ratio| Ratio {
                from: match ratio.from {
                    RatioFrom::LastRuns => "last_runs",
                    RatioFrom::Sample => "sample",
                },
                plain: ratio.plain,
                stored: ratio.stored,
            }),
            warnings: disk.warnings.iter().map(Warning::from).collect(),
        }
    }
}

impl From<&ChangeWarning> for Warning {
    fn from(warning: &ChangeWarning) -> Self {
        let kind = match warning {
            ChangeWarning::HighChurn { .. } => "high_churn",
            ChangeWarning::Fragmented(_) => "fragmented",
            ChangeWarning::InitialReplication { .. } => "initial_replication",
            ChangeWarning::Incompressible { .. } => "incompressible",
            _ => "other",
        };
        Self { kind, message: warning.to_string() }
    }
}
