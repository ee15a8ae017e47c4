//! `vmkeep inspect`: what a backup of a running VM would use, and why.

use std::path::PathBuf;

use serde::Serialize;
use vmkeep::consistency::script::{ScriptContext, ScriptRunner};
use vmkeep::consistency::{Decision, GuestAgent, Preflight, Scripts, ScriptsEvidence, preflight, promise};
use vmkeep::live::snapshot_plan;
use vmkeep::model::{ConsistencyLevel, DiskRole};
use vmkeep::qemu::{QemuAgent, QemuError, Snapshot, Tracking};

use super::live::{Machine, Silent};
use crate::args::{GuestArgs, InspectArgs};
use crate::bytes;
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::table::{Column, Table};

#[derive(Serialize)]
#[serde(tag = "type", rename = "disk")]
struct Disk {
    name: String,
    role: String,
    node: String,
    device: String,
    size: u64,
    format: String,
    /// What is known of its changes: `bitmap`, `none`, or `temporary` for a disk that is not stored.
    changes: &'static str,
    /// Why they are not known.
    why: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "mount")]
struct Mount {
    path: String,
    kind: String,
    device: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Summary {
    qemu: Option<String>,
    /// The point that changes are known since.
    since: Option<u64>,
    power: String,
    /// `answers`, `silent` or `none`.
    agent: &'static str,
    /// `ready`, `failed` or `none`.
    scripts: &'static str,
    /// What the point would be worth if all goes well; `null` when there would be none.
    consistency: Option<String>,
    /// Why that, and what it says of a restore.
    reasons: Vec<String>,
}

/// What a backup can count on in the guest.
struct Guest {
    agent: &'static str,
    scripts: &'static str,
    reasons: Vec<String>,
    mounts: Vec<Mount>,
}

pub(crate) fn run(context: &Context<'_>, args: &InspectArgs) -> Result<Outcome, Error> {
    let Some(qemu) = &args.qemu else { return Err(Error::usage("--qemu SOCKET is missing")) };
    let mut machine = Machine::connect(&args.vm, qemu, &args.disks, &args.guest)?;
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, Some(&args.vm))?;
    let plan = machine.plan(&args.vm, &args.guest, PathBuf::new(), Vec::new());
    let (snapshot, since) = snapshot_plan(&vault, &plan)?;
    let tracking = Snapshot::tracking(&mut machine.qmp, &snapshot)?;
    let disks = disks(&machine, tracking);
    let guest = guest(&machine, args)?;
    let (consistency, mut reasons) = expected(&machine, &guest);
    reasons.extend(guest.reasons);
    if let Some(level) = consistency {
        let promise = promise(level);
        reasons.push(format!(
            "after a restore the guest {}, applications {}",
            promise.at_boot, promise.applications
        ));
    }
    show(context, &disks, &guest.mounts);
    let summary = Summary {
        qemu: machine.qmp.version().map(|[major, minor, micro]| format!("{major}.{minor}.{micro}")),
        since: since.map(|number| number.0),
        power: format!("{:?}", machine.request.vm.power).to_lowercase(),
        agent: guest.agent,
        scripts: guest.scripts,
        consistency: consistency.map(|level| level.to_string()),
        reasons,
    };
    let output = context.output;
    output.text(format!(
        "guest agent: {}; scripts: {}; the VM is {}",
        summary.agent, summary.scripts, summary.power
    ));
    match &summary.consistency {
        Some(level) => output.text(format!("a backup would be {level}-consistent, if nothing fails")),
        None => output.text("there would be no recovery point"),
    }
    for reason in &summary.reasons {
        output.text(format!("  {reason}"));
    }
    output.json(&summary);
    Ok(Outcome::Good)
}

fn disks(machine: &Machine, tracking: Vec<Tracking>) -> Vec<Disk> {
    let mut tracking = tracking.into_iter();
    let disk = |disk: &vmkeep::live::LiveDisk| {
        let known = machine.known.iter().find(|known| known.node == disk.node);
        let (changes, why) = match disk.description.role {
            DiskRole::Temporary => ("temporary", None),
            _ => match tracking.next() {
                Some(Tracking::Known(_)) => ("bitmap", None),
                Some(Tracking::Lost(why)) => ("none", Some(why.to_string())),
                None => ("none", None),
            },
        };
        Disk {
            name: disk.description.name.to_string(),
            role: disk.description.role.to_string(),
            node: disk.node.clone(),
            device: known.map(|known| known.device.clone()).unwrap_or_default(),
            size: known.map_or(0, |known| known.size.0),
            format: known.map(|known| known.format.clone()).unwrap_or_default(),
            changes,
            why,
        }
    };
    machine.disks.iter().map(disk).collect()
}

fn guest(machine: &Machine, args: &InspectArgs) -> Result<Guest, Error> {
    let mut guest = Guest { agent: "none", scripts: "none", reasons: Vec::new(), mounts: Vec::new() };
    if let Some(Silent(error)) = &machine.silent {
        guest.agent = "silent";
        guest.reasons.push(error.to_string());
    }
    let Some(agent) = &machine.agent else { return Ok(guest) };
    guest.agent = "answers";
    guest.mounts = mounts(agent)?;
    if agent
        .status(args.guest.agent_limit)
        .is_ok_and(|state| state == vmkeep::consistency::FreezeState::Frozen)
    {
        guest.reasons.push("the guest is frozen now: somebody else is at it".to_owned());
    }
    scripts(agent, &args.guest, args, &mut guest);
    Ok(guest)
}

fn mounts(agent: &QemuAgent) -> Result<Vec<Mount>, Error> {
    let mounts = match agent.mounts() {
        Err(QemuError::Refused { .. }) => Vec::new(),
        mounts => mounts?,
    };
    Ok(mounts
        .into_iter()
        .map(|mount| Mount { path: mount.mountpoint, kind: mount.kind, device: mount.device })
        .collect())
}

fn scripts(agent: &QemuAgent, args: &GuestArgs, inspect: &InspectArgs, guest: &mut Guest) {
    let Some(path) = &args.scripts else { return };
    let script_context = ScriptContext { vm: inspect.vm.to_string(), job: args.attempt.to_string() };
    let runner = ScriptRunner::new(agent, path, 0, script_context);
    match (runner.problem(), runner.evidence()) {
        (None, _) => guest.scripts = "ready",
        (Some((code, why)), ScriptsEvidence::NotConfigured { .. }) => {
            guest.reasons.push(format!("scripts count as not configured: {code}: {why}"));
        }
        (Some((code, why)), ScriptsEvidence::Configured { .. }) => {
            guest.scripts = "failed";
            guest.reasons.push(format!("scripts cannot be run: {code}: {why}"));
        }
    }
}

/// What the point would be worth, and what already stands in the way of more.
fn expected(machine: &Machine, guest: &Guest) -> (Option<ConsistencyLevel>, Vec<String>) {
    let request = &machine.request;
    match preflight(&request.policy, &request.vm, request.attempt, request.command_age) {
        Preflight::Stop(Decision::Refused(refusal)) => (None, vec![refusal.to_string()]),
        Preflight::Stop(Decision::NotNow { why, .. }) => (None, vec![why.to_string()]),
        Preflight::Stop(Decision::Point(_)) => (None, Vec::new()),
        Preflight::CrashOnly(reason) => (Some(ConsistencyLevel::Crash), vec![reason.to_string()]),
        Preflight::Quiesce => match (guest.agent, guest.scripts) {
            ("answers", "ready") => (Some(ConsistencyLevel::Application), Vec::new()),
            ("answers", _) => (Some(ConsistencyLevel::FileSystem), Vec::new()),
            _ => (Some(ConsistencyLevel::Crash), vec!["no agent can freeze the file systems".to_owned()]),
        },
    }
}

fn show(context: &Context<'_>, disks: &[Disk], mounts: &[Mount]) {
    let output = context.output;
    let mut table = Table::new([
        Column::Left("DISK"),
        Column::Left("ROLE"),
        Column::Left("NODE"),
        Column::Left("DEVICE"),
        Column::Right("SIZE"),
        Column::Left("FORMAT"),
        Column::Left("CHANGES"),
    ]);
    for disk in disks {
        let changes = disk.why.clone().unwrap_or_else(|| disk.changes.to_owned());
        table.row([
            disk.name.clone(),
            disk.role.clone(),
            disk.node.clone(),
            disk.device.clone(),
            bytes::show(disk.size),
            disk.format.clone(),
            changes,
        ]);
        output.json(disk);
    }
    table.lines().for_each(|line| output.text(line));
    for mount in mounts {
        output.text(format!("file system {} ({}, on {})", mount.path, mount.kind, mount.device));
        output.json(mount);
    }
}
