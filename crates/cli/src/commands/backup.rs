//! `vmkeep backup`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vmkeep::backup::{
    self, Audit, Compare, DiskKeys, DiskReport, Limits, Pages, Plan, Report, Settings, Source, SourceDisk,
};
use vmkeep::disk::{self, BlockRead, OpenOptions};
use vmkeep::live::LiveReport;
use vmkeep::model::{
    ByteLen, ConsistencyLevel, DiskDescription, DiskName, DiskRole, Labels, PAGE_SIZE, Timestamp, Tracking,
    VmDescription,
};
use vmkeep::protect::{Protection, labels};
use vmkeep::vault::{CONFIG_MAX, StoredBytes, Vault};

use super::{guest_keys, live};
use crate::args::{BackupArgs, DiskKeyArg};
use crate::context::Context;
use crate::disk_arg::{DiskArg, DiskFrom};
use crate::error::{Error, Outcome};
use crate::progress::{Change, Progress};
use crate::stores::Stores;
use crate::tracking_arg::{self, Known};
use crate::{bytes, paths};

/// Most that the cache of a machine keeps for one vault, in bytes.
const CACHE_BYTES: u64 = 1 << 30;

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary<'a> {
    point: &'a str,
    base: Option<u64>,
    consistency: String,
    /// Why it is that, for a VM that ran.
    reasons: &'a [String],
    /// For how long the guest was frozen, at most; `null` when it was not.
    frozen_ms: Option<u64>,
    bytes_read: u64,
    bytes_changed: u64,
    bytes_zeroed: u64,
    /// Of the changed bytes, those that an interrupted backup had stored already, and the session of that backup.
    bytes_adopted: u64,
    resumed: Option<String>,
    /// All bytes written to the vault; `bytes_metadata` is the part of them that is not data of disks.
    bytes_stored: u64,
    bytes_metadata: u64,
    config_bytes: u64,
    duration_ms: u64,
    disks: Vec<Disk>,
    vanished: &'a [String],
}

#[derive(Serialize)]
struct Disk {
    name: String,
    role: String,
    lun: Option<u32>,
    size: u64,
    #[serde(flatten)]
    change: Change,
    bytes_read: u64,
    bytes_changed: u64,
    bytes_zeroed: u64,
    bytes_stored: u64,
    /// Of the changed blocks, those of which only pages were stored, and how many pages; and those stored as a whole
    /// because it was not known which pages changed.
    blocks_patched: u64,
    pages_patched: u64,
    blocks_whole_unknown: u64,
    /// `null` when all of the disk was read.
    tracking: Option<Tracked>,
    /// Why change tracking was there and was not believed.
    fallback: Option<String>,
}

/// What the changes of a disk rest on.
#[derive(Serialize)]
pub(super) struct Tracked {
    method: String,
    granularity: u64,
    audited_blocks: u64,
    /// The newest point up to which all of the disk has been read since.
    whole_at: u64,
    windows_done: u32,
    windows: u32,
}

impl From<&Tracking> for Tracked {
    fn from(tracking: &Tracking) -> Self {
        Self {
            method: tracking.method.to_string(),
            granularity: tracking.granularity.0,
            audited_blocks: tracking.audited,
            whole_at: tracking.whole_at.0,
            windows_done: tracking.windows_done,
            windows: tracking.windows,
        }
    }
}

/// A disk of the command line, open.
pub(super) enum Opened {
    Image(Box<dyn BlockRead>),
    Described(ByteLen),
}

pub(crate) fn run(context: &Context<'_>, args: &BackupArgs) -> Result<Outcome, Error> {
    if args.live.qemu.is_some() {
        return live::run(context, args);
    }
    let (report, outcome) = make(context, args)?;
    print(context, &report, None);
    Ok(outcome)
}

/// Makes a point, and prints nothing but progress.
pub(super) fn make(context: &Context<'_>, args: &BackupArgs) -> Result<(Report, Outcome), Error> {
    if args.live.qemu.is_some() {
        return live::make(context, args).map(|(report, outcome)| (report.backup, outcome));
    }
    let descriptions: Vec<DiskDescription> = args.disks.iter().map(|disk| disk.description.clone()).collect();
    VmDescription::new(args.vm.clone(), descriptions).map_err(Error::usage)?;
    let settings = settings(args)?;
    let config = args.config.as_deref().map(read_config).transpose()?;
    let opened: Vec<Opened> = {
        let reading = Reading { allow_backing: &args.allow_backing, direct: args.direct };
        args.disks.iter().map(|disk| open(disk, &reading)).collect::<Result<_, _>>()?
    };
    let vault = open_vault(context, args)?;
    let permit = context.permit(&vault, Some(&args.vm))?;
    let known = known(args, &opened)?;
    let disks = args.disks.iter().zip(&opened).zip(&known).map(|((disk, opened), known)| SourceDisk {
        description: disk.description.clone(),
        source: match (opened, known) {
            (Opened::Image(image), None) => Source::Read(&**image),
            (Opened::Image(image), Some(known)) => Source::Tracked(&**image, known.changes()),
            (Opened::Described(size), _) => Source::Describe(*size),
        },
    });
    let names: Vec<&DiskName> = args.disks.iter().map(|disk| &disk.description.name).collect();
    let captured = Captured::open(context, &args.disk_keys, &names)?;
    let plan = Plan {
        vm: args.vm.clone(),
        disks: disks.collect(),
        consistency: ConsistencyLevel::Crash,
        keys: captured.keys()?,
        evidence: vec!["the disks were read as they were found; nothing was quiesced".to_owned()],
        labels: labels(&vault, args)?,
        config,
        snapshot: None,
        guard: None,
    };
    let progress = Progress::new(context.output);
    let report = backup::run(&permit, &vault, &plan, &settings, &progress, context.cancel)?;
    let outcome = if progress.met_damage() { Outcome::Damage } else { Outcome::Good };
    drop(progress);
    Ok((report, outcome))
}

pub(super) fn open_vault(context: &Context<'_>, args: &BackupArgs) -> Result<Vault, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    match &args.cache {
        Some(folder) => Ok(vault.with_cache(folder, CACHE_BYTES)?),
        None => Ok(vault),
    }
}

/// The stores of guests' keys, and what of them is to be captured.
pub(super) struct Captured {
    stores: Stores,
    named: Vec<guest_keys::DiskKey>,
}

impl Captured {
    pub(super) fn open(
        context: &Context<'_>,
        keys: &[DiskKeyArg],
        disks: &[&DiskName],
    ) -> Result<Self, Error> {
        let stores = if keys.is_empty() { Stores::default() } else { Stores::open(&context.key.stores)? };
        if let Some(key) = keys.iter().find(|key| !disks.contains(&&key.disk)) {
            return Err(Error::usage(format!("--disk-key {}: there is no such disk", key.disk)));
        }
        let named = guest_keys::named(&stores, keys)?;
        Ok(Self { stores, named })
    }

    pub(super) fn keys(&self) -> Result<Vec<DiskKeys<'_>>, Error> {
        let keys = self.named.iter().map(|key| {
            Ok(DiskKeys { disk: &key.disk, encryption: &key.encryption, stores: key.stores(&self.stores)? })
        });
        keys.collect()
    }
}

/// What retention is to know of the point.
pub(super) fn labels(vault: &Vault, args: &BackupArgs) -> Result<Labels, Error> {
    let expires = args.retention.keep_ms.map(|keep| Timestamp(vault.clock().now().0.saturating_add(keep)));
    let mut labels = if args.retention.scheduled {
        let protection = Protection::open(vault)?;
        let instance = protection.instance(&args.vm)?;
        if !instance.state.kind().backs_up() {
            let state = instance.state.kind();
            return Err(Error::usage(format!(
                "{} is {state}: no scheduled backup is made of it; resume it first",
                args.vm
            )));
        }
        let version = protection.policy(&instance.policy)?.version;
        labels::scheduled(&instance.policy, version)
    } else if args.retention.tags.is_empty() && expires.is_none() {
        return Ok(Labels::default());
    } else {
        labels::on_demand(None)
    }
    .map_err(Error::usage)?;
    if let Some(expires) = expires {
        labels.insert(labels::EXPIRES, expires.0.to_string()).map_err(Error::usage)?;
    }
    for tag in &args.retention.tags {
        labels.insert(format!("{}{tag}", labels::TAG), "").map_err(Error::usage)?;
    }
    Ok(labels)
}

/// What is known of the changes of each disk.
fn known(args: &BackupArgs, opened: &[Opened]) -> Result<Vec<Option<Known>>, Error> {
    let known = args.disks.iter().zip(opened).map(|(disk, opened)| match opened {
        Opened::Image(image) => {
            tracking_arg::known(&args.changed_extents, &args.bitmap, &args.disks, disk, &**image)
        }
        Opened::Described(_) => Ok(None),
    });
    known.collect()
}

pub(super) fn settings(args: &BackupArgs) -> Result<Settings, Error> {
    let default = Settings::default();
    let memory_bytes = usize::try_from(u64::from(args.memory) << 20).map_err(|_| {
        Error::usage(format!("--memory {} is more than this machine can address", args.memory))
    })?;
    let folder = if args.no_cache { None } else { args.cache.clone().or_else(paths::cache) };
    let limit = args.cache_size.map(ByteLen);
    Ok(Settings {
        level: args.level.into(),
        block_size: args.block_size,
        workers: args.workers.map_or(default.workers, usize::from),
        memory_bytes,
        resume: args.resume.into(),
        pages: Pages { folder, limit, compare: Compare::default() },
        full_scan: args.full_scan,
        audit: Audit { rate: args.audit_rate, rounds: args.audit_rounds.unwrap_or(Audit::default().rounds) },
        limits: Limits::per_second(args.limits.limit_read, args.limits.limit_write),
    })
}

/// How the disks of a command line are opened.
pub(super) struct Reading<'a> {
    pub(super) allow_backing: &'a [PathBuf],
    pub(super) direct: bool,
}

pub(super) fn open(disk: &DiskArg, reading: &Reading<'_>) -> Result<Opened, Error> {
    let (path, format) = match &disk.from {
        DiskFrom::Size(size) => return Ok(Opened::Described(*size)),
        DiskFrom::Path { path, format } => (path, *format),
    };
    let options =
        OpenOptions { format, allowed_backing: reading.allow_backing.to_vec(), direct: reading.direct };
    let image = disk::open(path, &options)
        .map_err(|source| Error::Source { disk: disk.description.name.clone(), source })?;
    Ok(match disk.description.role {
        DiskRole::Temporary => Opened::Described(image.len()),
        DiskRole::Os | DiskRole::Data => Opened::Image(image),
    })
}

pub(super) fn read_config(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::File { what: "read configuration", path: path.to_owned(), source };
    let mut config = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(CONFIG_MAX as u64 + 1).read_to_end(&mut config).map_err(failed)?;
    if config.len() > CONFIG_MAX {
        let what = format!("longer than a VM configuration may be ({})", bytes::show(CONFIG_MAX as u64));
        return Err(Error::Content { path: path.to_owned(), what });
    }
    Ok(config)
}

pub(super) fn print(context: &Context<'_>, report: &Report, live: Option<&LiveReport>) {
    let output = context.output;
    let point = format!("{}@{}", report.point.vm, report.point.id.number);
    for disk in &report.disks {
        output.text(describe(disk));
    }
    for disk in &report.vanished {
        output.text(format!("{disk}: was in the point before and is not in this one"));
    }
    if let Some(from) = &report.resumed {
        output.text(format!(
            "went on from an interrupted backup of {}: {} were there already",
            from.opened,
            bytes::show(report.bytes_adopted)
        ));
    }
    output.text(format!(
        "{point}: {} read, {} changed, {} stored, in {}.{:03} s",
        bytes::show(report.bytes_read),
        bytes::show(report.bytes_changed),
        bytes::show(all(report.stored)),
        report.duration_ms / 1000,
        report.duration_ms % 1000,
    ));
    let reasons: Vec<String> =
        live.map_or(Vec::new(), |live| live.verdict.reasons.iter().map(ToString::to_string).collect());
    if live.is_some() {
        let consistency = report.point.consistency;
        output.text(format!("{point}: {consistency}-consistent: {}", reasons.join("; ")));
    }
    output.json(&Summary {
        point: &point,
        base: report.point.base.map(|base| base.0),
        consistency: report.point.consistency.to_string(),
        reasons: &reasons,
        frozen_ms: live.and_then(|live| live.evidence.frozen()).map(|frozen| frozen.0),
        bytes_read: report.bytes_read,
        bytes_changed: report.bytes_changed,
        bytes_zeroed: report.disks.iter().map(|disk| disk.bytes_zeroed).sum(),
        bytes_adopted: report.bytes_adopted,
        resumed: report.resumed.map(|from| from.id.to_string()),
        bytes_stored: all(report.stored),
        bytes_metadata: report.stored.metadata,
        config_bytes: report.point.config_len,
        duration_ms: report.duration_ms,
        disks: report.disks.iter().map(Disk::from).collect(),
        vanished: &report.vanished,
    });
}

fn all(stored: StoredBytes) -> u64 {
    stored.data + stored.metadata
}

/// A line about a disk.
fn describe(disk: &DiskReport) -> String {
    let size = bytes::show(disk.size.0);
    let what = match Change::from(disk.change) {
        Change::Appeared => "new".to_owned(),
        Change::SameSize => "as before".to_owned(),
        Change::Grew { from } => format!("grew from {}", bytes::show(from)),
        Change::Shrank { from } => format!("shrank from {}", bytes::show(from)),
        Change::Anew => "stored again as a whole".to_owned(),
        Change::Described => return format!("{}: {size}, temporary, not stored", disk.description.name),
    };
    let changed = bytes::show(disk.bytes_changed);
    let mut parts = vec![format!("{}: {size} ({what}), {changed} changed", disk.description.name)];
    if disk.patched.blocks > 0 {
        let pages = bytes::show(disk.patched.pages * PAGE_SIZE as u64);
        parts.push(format!(" ({} blocks stored as {pages} of pages)", disk.patched.blocks));
    }
    if disk.whole_unknown > 0 {
        let blocks = disk.whole_unknown;
        parts.push(format!(", {blocks} blocks stored as a whole because their pages were not known"));
    }
    parts.push(format!(", {} became zero", bytes::show(disk.bytes_zeroed)));
    if let Some(tracking) = &disk.tracking {
        parts.push(format!("; by {}, {} blocks audited", tracking.method, tracking.audited));
    }
    parts.concat()
}

impl From<&DiskReport> for Disk {
    fn from(disk: &DiskReport) -> Self {
        Self {
            name: disk.description.name.to_string(),
            role: disk.description.role.to_string(),
            lun: disk.description.lun,
            size: disk.size.0,
            change: disk.change.into(),
            bytes_read: disk.bytes_read,
            bytes_changed: disk.bytes_changed,
            bytes_zeroed: disk.bytes_zeroed,
            blocks_patched: disk.patched.blocks,
            pages_patched: disk.patched.pages,
            blocks_whole_unknown: disk.whole_unknown,
            tracking: disk.tracking.as_ref().map(Tracked::from),
            fallback: disk.fallback.clone(),
            bytes_stored: all(disk.stored),
        }
    }
}
