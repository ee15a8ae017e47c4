//! `vmkeep status`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use vmkeep::model::{RecoveryPoint, Timestamp};
use vmkeep::protect::status::{Level, Verdict, Verified, judge_vault};
use vmkeep::protect::{Growth, Health, HealthSettings, Protection, exposition};

use crate::args::StatusArgs;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::table::{Column, Table};
use crate::{bytes, duration};

#[derive(Serialize)]
#[serde(tag = "type", rename = "vm")]
struct VmLine<'a> {
    vm: &'a str,
    /// `ok`, `warning` or `critical`.
    status: String,
    /// In words, the worst first.
    reasons: Vec<String>,
    /// `null` for a VM that is under none.
    policy: Option<&'a str>,
    state: String,
    closed: bool,
    /// The newest point that is good for a restore; `null` where there is none.
    point: Option<String>,
    created: Option<String>,
    created_ms: Option<i64>,
    /// `null` where there is no point, or it is ahead of the clock.
    age_ms: Option<i64>,
    consistency: Option<String>,
    /// In the vault, forgotten ones among them until a sweep removes them.
    points: u64,
    unreadable: Vec<u64>,
    suspect: Vec<SuspectLine<'a>>,
    destroyed_epochs: usize,
    /// In blocks of the point that are not all zero.
    data_bytes: Option<u64>,
    /// Against an older point; `null` where there is none.
    growth: Option<GrowthLine>,
}

#[derive(Serialize)]
struct SuspectLine<'a> {
    disk: &'a str,
    from: u64,
    to: u64,
}

#[derive(Serialize)]
struct GrowthLine {
    /// Number of the older point.
    from: u64,
    window_ms: i64,
    bytes: i64,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    /// The worst of all.
    status: String,
    vms: usize,
    ok: usize,
    warning: usize,
    critical: usize,
    /// All that is older was verified; `null` where that is not known.
    verified_until: Option<String>,
    damaged: Option<u64>,
}

pub(crate) fn run(context: &Context<'_>, args: &StatusArgs) -> Result<Outcome, Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, args.vm.as_ref())?;
    let metrics = args.metrics.as_ref().map(|path| MetricsFile::new(path)).transpose()?;
    let protection = Protection::open(&vault)?;
    let vms = match &args.vm {
        Some(vm) => vec![vm.clone()],
        None => protection.watched()?,
    };
    let settings =
        HealthSettings { grace_ms: args.grace, max_age_ms: args.max_age, ..HealthSettings::default() };
    let mut all = Vec::with_capacity(vms.len());
    for vm in &vms {
        context.cancel.check()?;
        all.push(protection.health(vm, &settings)?);
    }
    let verified = vault.verified()?.as_ref().map(Verified::of);
    let of_vault = judge_vault(verified);
    if let Some(metrics) = metrics {
        metrics.replace(&exposition(&all, &of_vault, verified, vault.clock().now()))?;
    }
    Ok(show(context, &all, &of_vault, verified))
}

fn show(context: &Context<'_>, all: &[Health], of_vault: &Verdict, verified: Option<Verified>) -> Outcome {
    let output = context.output;
    let left = ["STATUS", "VM", "POLICY", "LAST POINT (UTC)"].map(Column::Left);
    let right = ["AGE", "POINTS", "DATA", "GROWTH"].map(Column::Right);
    let mut table = Table::new(left.into_iter().chain(right).chain([Column::Left("CONSISTENCY")]));
    for health in all {
        table.row(row(health));
        output.json(&VmLine::from(health));
    }
    if all.is_empty() {
        output.text("no VM is in the vault, and none is under a policy");
    } else {
        table.lines().for_each(|line| output.text(line));
    }
    for Health { vm, verdict, .. } in all {
        for reason in &verdict.reasons {
            output.text(format!("{}: {vm}: {reason}", reason.level()));
        }
    }
    for reason in &of_vault.reasons {
        output.text(format!("{}: {reason}", reason.level()));
    }
    match verified.and_then(|verified| verified.until) {
        Some(until) => output.text(format!("verified until {until}")),
        None if verified.is_some() => output.text("not all of it was verified yet"),
        None => output.text("not verified"),
    }
    let levels = || all.iter().map(|health| health.verdict.level);
    let worst = levels().chain([of_vault.level]).max().unwrap_or_default();
    let count = |level| levels().filter(|of| *of == level).count();
    output.json(&Summary {
        status: worst.to_string(),
        vms: all.len(),
        ok: count(Level::Ok),
        warning: count(Level::Warning),
        critical: count(Level::Critical),
        verified_until: verified.and_then(|verified| verified.until).map(|until| until.to_string()),
        damaged: verified.map(|verified| verified.damaged),
    });
    match worst {
        Level::Ok => Outcome::Good,
        Level::Warning => Outcome::Warning,
        Level::Critical => Outcome::Critical,
    }
}

fn row(health: &Health) -> [String; 9] {
    let none = || "-".to_owned();
    let newest = newest(health);
    let growth = health.growth.map(|Growth { window_ms, bytes, .. }| {
        let sign = if bytes < 0 { '-' } else { '+' };
        format!("{sign}{} in {}", bytes::show(bytes.unsigned_abs()), duration::show(window_ms))
    });
    let created = |point: &RecoveryPoint| format!("@{} {}", point.id.number, point.created);
    [
        health.verdict.level.to_string(),
        health.vm.to_string(),
        health.policy.clone().unwrap_or_else(none),
        newest.map_or_else(none, created),
        health.verdict.age_ms.map_or_else(none, duration::show),
        health.glance.as_ref().map_or(0, |glance| glance.points).to_string(),
        health.data().map_or_else(none, |data| bytes::show(data.0)),
        growth.unwrap_or_else(none),
        newest.map_or_else(none, |point| point.consistency.to_string()),
    ]
}

fn newest(health: &Health) -> Option<&RecoveryPoint> {
    health.glance.as_ref()?.newest.as_ref()
}

impl<'a> From<&'a Health> for VmLine<'a> {
    fn from(health: &'a Health) -> Self {
        let (glance, newest) = (health.glance.as_ref(), newest(health));
        let created = newest.map(|point| point.created);
        let suspects = glance.into_iter().flat_map(|glance| &glance.suspects);
        let unreadable = glance.into_iter().flat_map(|glance| &glance.unreadable);
        Self {
            vm: health.vm.as_str(),
            status: health.verdict.level.to_string(),
            reasons: health.verdict.reasons.iter().map(ToString::to_string).collect(),
            policy: health.policy.as_deref(),
            state: health.state.kind().to_string(),
            closed: glance.is_some_and(|glance| glance.closed),
            point: newest.map(|point| format!("{}@{}", health.vm, point.id.number)),
            created: created.map(|created: Timestamp| created.to_string()),
            created_ms: created.map(|created| created.0),
            age_ms: health.verdict.age_ms,
            consistency: newest.map(|point| point.consistency.to_string()),
            points: glance.map_or(0, |glance| glance.points),
            unreadable: unreadable.map(|number| number.0).collect(),
            suspect: suspects
                .map(|found| SuspectLine { disk: &found.disk, from: found.from.0, to: found.to.0 })
                .collect(),
            destroyed_epochs: glance.map_or(0, |glance| glance.destroyed_epochs),
            data_bytes: health.data().map(|data| data.0),
            growth: health.growth.map(|Growth { from, window_ms, bytes }| GrowthLine {
                from: from.0,
                window_ms,
                bytes,
            }),
        }
    }
}

/// A file that a collector reads whenever it likes: it is replaced as a whole, or stays as it was.
struct MetricsFile {
    path: PathBuf,
    /// Beside it, of this process alone. A collector passes over what does not end in `.prom`.
    partial: PathBuf,
}

impl MetricsFile {
    /// Refuses what a rename would destroy: a device, a link, a folder.
    fn new(path: &Path) -> Result<Self, Error> {
        let is_replaceable = match fs::symlink_metadata(path) {
            Ok(there) => there.is_file(),
            Err(_) => true,
        };
        if !is_replaceable || path.file_name().is_none() {
            let what = "is no plain file, and only files are replaced".to_owned();
            return Err(Error::Content { path: path.to_owned(), what });
        }
        let mut partial = path.to_owned().into_os_string();
        partial.push(format!(".{}.partial", std::process::id()));
        Ok(Self { path: path.to_owned(), partial: partial.into() })
    }

    fn replace(&self, text: &str) -> Result<(), Error> {
        self.write(text).map_err(|source| {
            // Best effort: the error that led here is the one to report.
            let _ = fs::remove_file(&self.partial);
            Error::File { what: "write", path: self.path.clone(), source }
        })
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let create = || File::options().write(true).create_new(true).open(&self.partial);
        let mut file = match create() {
            // Left by one that was killed and had the same id.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&self.partial)?;
                create()?
            }
            created => created?,
        };
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&self.partial, &self.path)
    }
}
