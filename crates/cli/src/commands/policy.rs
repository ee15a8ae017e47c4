//! `vmkeep policy`.

use serde::Serialize;
use vmkeep::model::{VmName, op};
use vmkeep::protect::{PolicySource, PolicyVersion, Protection};
use vmkeep::retention::azure::AzurePolicy;
use vmkeep::retention::{PointChange, Policy, PolicyDiff, weakenings};

use super::plan::expiry_at;
use crate::args::{
    CheckPolicyArgs, DiffPolicyArgs, ImportArgs, PolicyArgs, PolicyCommand, PolicyFormat, ShowPolicyArgs,
};
use crate::confirm::{confirm, word};
use crate::context::Context;
use crate::error::{Error, Outcome};
use crate::policy_file;
use crate::table::{Column, Table};

#[derive(Serialize)]
#[serde(tag = "type", rename = "policy")]
struct Line<'a> {
    name: &'a str,
    version: u32,
    at: String,
    at_ms: i64,
    source: &'static str,
    zone: &'a str,
    schedule: String,
    retention: String,
    vms: Vec<String>,
    /// The policy as TOML, of which no field is left out.
    toml: String,
    /// The document that `--format` asks for; else `null`.
    document: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "change")]
struct ChangeLine<'a> {
    /// `lost`, `saved`, `sooner` or `later`.
    change: &'static str,
    point: String,
    created: String,
    before: &'a str,
    after: &'a str,
    expires_before: Option<String>,
    expires_after: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Imported<'a> {
    policy: &'a str,
    version: u32,
    source: &'static str,
    /// Whether this made the version.
    new: bool,
    weakenings: Vec<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Checked {
    source: &'static str,
    zone: String,
    schedule: String,
    retention: String,
    /// What Azure's own clients refuse although nothing here depends on it.
    remarks: Vec<String>,
    toml: String,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Listed {
    policies: usize,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "summary")]
struct Compared {
    vms: usize,
    lost: usize,
    saved: usize,
    sooner: usize,
    later: usize,
    unchanged: usize,
    weakenings: Vec<String>,
}

pub(crate) fn run(context: &Context<'_>, args: &PolicyArgs) -> Result<Outcome, Error> {
    match &args.command {
        PolicyCommand::Import(args) => import(context, args)?,
        PolicyCommand::Show(args) => show(context, args)?,
        PolicyCommand::Check(args) => check(context, args)?,
        PolicyCommand::Diff(args) => diff(context, args)?,
    }
    Ok(Outcome::Good)
}

fn import(context: &Context<'_>, args: &ImportArgs) -> Result<(), Error> {
    let source = policy_file::read(&args.file)?;
    let policy = source.policy()?;
    let vault = context.open_vault(&args.vault.vault)?;
    let mut protection = Protection::open(&vault)?;
    let permit = context.permit(&vault, None)?;
    let before = protection.policy(&args.name).ok().cloned();
    let weakenings = match &before {
        Some(before) if vms_under(&protection, &args.name).next().is_some() => {
            weakenings(&before.policy, &policy)
        }
        _ => Vec::new(),
    };
    let shorten = if weakenings.is_empty() {
        None
    } else {
        let question = format!(
            "It keeps less than version {} ({}); vmkeep policy diff shows which points go. Make it the policy {}?",
            before.as_ref().map_or(0, |before| before.version),
            weakenings.join("; "),
            args.name
        );
        confirm(context.output, args.yes, &question)?;
        Some(context.permit::<op::ShortenRetention>(&vault, None)?)
    };
    let kind = policy_file::kind(&source);
    let confirmed = word(&Protection::long_retention(&policy), args.confirm.as_deref())?;
    let version =
        protection.set_policy_confirmed(&permit, shorten.as_ref(), &args.name, source, confirmed.as_ref())?;
    let new = before.is_none_or(|before| before.version != version);
    context.output.text(if new {
        format!("policy {} is at version {version}", args.name)
    } else {
        format!("policy {} says that already, as version {version}", args.name)
    });
    context.output.json(&Imported { policy: &args.name, version, source: kind, new, weakenings });
    Ok(())
}

/// The VMs that are under a policy.
fn vms_under<'p>(protection: &'p Protection<'_>, policy: &'p str) -> impl Iterator<Item = &'p VmName> {
    protection.instances().filter(move |(_, instance)| instance.policy == policy).map(|(vm, _)| vm)
}

fn show(context: &Context<'_>, args: &ShowPolicyArgs) -> Result<(), Error> {
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, None)?;
    let protection = Protection::open(&vault)?;
    let output = context.output;
    let named = match &args.name {
        Some(name) => vec![(name.as_str(), protection.policy(name)?)],
        None => protection.policies().collect(),
    };
    for (name, version) in &named {
        let document = args.format.map(|format| document(version, format)).transpose()?;
        if let Some(document) = &document {
            output.text(document.trim_end());
        }
        output.json(&Line { document, ..line(&protection, name, version) });
    }
    match (&args.name, args.format) {
        (Some(_), Some(_)) => {}
        (Some(name), None) => {
            let version = protection.policy(name)?;
            let of = line(&protection, name, version);
            output.text(format!("{name}, version {} of {} ({})", of.version, of.at, of.source));
            output.text(format!("schedule:  {}, {}", of.schedule, of.zone));
            output.text(format!("retention: {}", of.retention));
            let vms = if of.vms.is_empty() { "none".to_owned() } else { of.vms.join(", ") };
            output.text(format!("VMs:       {vms}"));
        }
        (None, _) => {
            let mut table =
                Table::new(["POLICY", "VERSION", "SCHEDULE", "ZONE", "RETENTION", "VMS"].map(Column::Left));
            for (name, version) in &named {
                let of = line(&protection, name, version);
                let (number, vms) = (of.version.to_string(), of.vms.len().to_string());
                table.row([(*name).to_owned(), number, of.schedule, of.zone.to_owned(), of.retention, vms]);
            }
            table.lines().for_each(|line| output.text(line));
        }
    }
    output.json(&Listed { policies: named.len() });
    Ok(())
}

fn line<'a>(protection: &Protection<'_>, name: &'a str, version: &'a PolicyVersion) -> Line<'a> {
    let policy = &version.policy;
    Line {
        name,
        version: version.version,
        at: version.at.to_string(),
        at_ms: version.at.0,
        source: policy_file::kind(&version.source),
        zone: policy.zone.given(),
        schedule: policy_file::schedule(&policy.schedule),
        retention: policy_file::retention(&policy.retention),
        vms: vms_under(protection, name).map(ToString::to_string).collect(),
        toml: policy.to_toml(),
        document: None,
    }
}

/// As a document; of what was imported as such, every field is kept.
fn document(version: &PolicyVersion, format: PolicyFormat) -> Result<String, Error> {
    match (format, &version.source) {
        (PolicyFormat::Toml, PolicySource::Toml(text)) | (PolicyFormat::Azure, PolicySource::Azure(text)) => {
            Ok(text.clone())
        }
        (PolicyFormat::Toml, PolicySource::Azure(_)) => Ok(version.policy.to_toml()),
        (PolicyFormat::Azure, PolicySource::Toml(_)) => {
            Ok(AzurePolicy::of(&version.policy).map_err(Error::usage)?.to_json())
        }
    }
}

fn check(context: &Context<'_>, args: &CheckPolicyArgs) -> Result<(), Error> {
    let source = policy_file::read(&args.file)?;
    let policy: Policy = source.policy()?;
    let remarks: Vec<String> = match &source {
        PolicySource::Azure(text) => AzurePolicy::parse(text.as_bytes())
            .map(|document| document.remarks().iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        PolicySource::Toml(_) => Vec::new(),
    };
    let output = context.output;
    let (schedule, retention) =
        (policy_file::schedule(&policy.schedule), policy_file::retention(&policy.retention));
    output.text(format!("schedule:  {schedule}, {}", policy.zone));
    output.text(format!("retention: {retention}"));
    for remark in &remarks {
        output.text(format!("remark:    {remark}"));
    }
    let (zone, toml) = (policy.zone.given().to_owned(), policy.to_toml());
    output.json(&Checked { source: policy_file::kind(&source), zone, schedule, retention, remarks, toml });
    Ok(())
}

fn diff(context: &Context<'_>, args: &DiffPolicyArgs) -> Result<(), Error> {
    let to = policy_file::read(&args.file)?.policy()?;
    let vault = context.open_vault(&args.vault.vault)?;
    context.may_view(&vault, None)?;
    let protection = Protection::open(&vault)?;
    let weakenings = weakenings(&protection.policy(&args.name)?.policy, &to);
    let mut sum =
        Compared { vms: 0, lost: 0, saved: 0, sooner: 0, later: 0, unchanged: 0, weakenings: Vec::new() };
    for vm in vms_under(&protection, &args.name) {
        let diff = protection.diff(vm, &to)?;
        sum.vms += 1;
        sum.lost += diff.lost.len();
        sum.saved += diff.saved.len();
        sum.sooner += diff.sooner.len();
        sum.later += diff.later.len();
        sum.unchanged += diff.unchanged;
        changes(context, vm, &diff);
    }
    let output = context.output;
    for what in &weakenings {
        output.text(format!("keeps less: {what}"));
    }
    output.text(format!(
        "of {} VMs: {} points go, {} stay that would go, {} go sooner, {} go later, {} are as before",
        sum.vms, sum.lost, sum.saved, sum.sooner, sum.later, sum.unchanged
    ));
    output.json(&Compared { weakenings, ..sum });
    Ok(())
}

fn changes(context: &Context<'_>, vm: &VmName, diff: &PolicyDiff) {
    let all: [(&'static str, &Vec<PointChange>); 4] =
        [("lost", &diff.lost), ("saved", &diff.saved), ("sooner", &diff.sooner), ("later", &diff.later)];
    for (change, points) in all {
        for point in points {
            let number = format!("{vm}@{}", point.number);
            context.output.text(format!("{change:<6} {number}: {} -> {}", point.before, point.after));
            context.output.json(&ChangeLine {
                change,
                point: number,
                created: point.time.to_string(),
                before: &point.before,
                after: &point.after,
                expires_before: expiry_at(point.expires_before).map(|at| at.to_string()),
                expires_after: expiry_at(point.expires_after).map(|at| at.to_string()),
            });
        }
    }
}
