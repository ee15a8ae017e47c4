//! Arguments of the commands about policies and the VMs that are under them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, value_parser};
use vmkeep::model::{PointNumber, PointRef, VmName};

use super::{VaultArg, VmArgs, point};
use crate::duration;

#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Make a policy, or the next version of one, from a file
    ///
    /// The file holds the short TOML of vmkeep or the JSON of an Azure policy; which one is seen from what it says. VMs that
    /// are under the policy follow with their next plan. What an edit does to points that are there, vmkeep policy diff
    /// shows first; one that keeps less than before is asked about.
    #[command(verbatim_doc_comment)]
    Import(ImportArgs),
    /// List the policies, or show one
    Show(ShowPolicyArgs),
    /// Say what a file would be as a policy, and everything that is wrong with it
    ///
    /// Needs no vault and no key.
    #[command(verbatim_doc_comment)]
    Check(CheckPolicyArgs),
    /// Show what would become of the points of the VMs under a policy if it were as in a file
    Diff(DiffPolicyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The policy: TOML, or the JSON of Azure
    pub(crate) file: PathBuf,
    /// Name of the policy: 1 to 64 of a-z, 0-9, '.', '_' and '-'
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,
    /// Do not ask, also when it keeps less than before
    #[arg(long)]
    pub(crate) yes: bool,
    /// Confirm what cannot be undone, with the word that the refusal tells
    #[arg(long, value_name = "WORD")]
    pub(crate) confirm: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PolicyFormat {
    Azure,
    Toml,
}

#[derive(Debug, Args)]
pub(crate) struct ShowPolicyArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The policy [default: a list of all]
    pub(crate) name: Option<String>,
    /// Print it as a document: TOML, or the JSON of Azure
    #[arg(long, value_enum, requires = "name")]
    pub(crate) format: Option<PolicyFormat>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckPolicyArgs {
    /// The policy: TOML, or the JSON of Azure
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DiffPolicyArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The policy as it is
    pub(crate) name: String,
    /// The policy as it would be: TOML, or the JSON of Azure
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ProtectArgs {
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    /// The policy
    #[arg(long, value_name = "NAME", required_unless_present = "trust")]
    pub(crate) policy: Option<String>,
    /// Say that the times of the points up to this one are right, when a plan doubts them
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    pub(crate) trust: Option<PointNumber>,
    /// Do not ask, also when the policy keeps less than the one before
    #[arg(long)]
    pub(crate) yes: bool,
    /// Confirm what cannot be undone, with the word that the refusal tells
    #[arg(long, value_name = "WORD")]
    pub(crate) confirm: Option<String>,
}

fn number(text: &str) -> Result<PointNumber, String> {
    text.parse().map(PointNumber).map_err(|_| format!("{text:?} is no number of a point"))
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The VM [default: each that is under a policy]
    #[arg(value_name = "VM")]
    pub(crate) vm: Option<VmName>,
    /// Print every reason why this point stays or goes
    #[arg(long, value_name = "POINT", value_parser = point, conflicts_with = "vm")]
    pub(crate) explain: Option<PointRef>,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The VM [default: each that is under a policy]
    #[arg(value_name = "VM")]
    pub(crate) vm: Option<VmName>,
    /// Change nothing; show what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Let the newest point go too when its time has come: none is left to restore from
    #[arg(long, requires = "vm")]
    pub(crate) to_zero: bool,
    /// Confirm what cannot be undone, with the word that the refusal tells
    #[arg(long, value_name = "WORD")]
    pub(crate) confirm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// For how many days from now
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = value_parser!(u16).range(1..=366))]
    pub(crate) days: u16,
    /// Write the timeline as an SVG image into this file too
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[group(id = "how", multiple = false, required = true)]
pub(crate) struct StopHow {
    /// Keep all its points for ever
    #[arg(long, group = "how")]
    pub(crate) retain: bool,
    /// Let its points expire by its policy, all but the newest
    #[arg(long, group = "how")]
    pub(crate) by_policy: bool,
    /// Delete its points: they can be had back for the days of soft delete
    #[arg(long, group = "how")]
    pub(crate) delete: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    #[command(flatten)]
    pub(crate) how: StopHow,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
    /// Confirm what cannot be undone, with the word that the refusal tells
    #[arg(long, value_name = "WORD")]
    pub(crate) confirm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    /// Confirm what cannot be undone, with the word that the refusal tells
    #[arg(long, value_name = "WORD")]
    pub(crate) confirm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GuardArgs {
    #[command(subcommand)]
    pub(crate) command: GuardCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GuardCommand {
    /// Show immutability and soft delete
    Show(VaultArg),
    /// Switch immutability: whether points can be removed before their time
    ///
    /// unlocked refuses to stop a VM with its points deleted, to shorten a retention, to put a VM under a policy that keeps
    /// less and to forget a point before its time; it can be switched off again. locked is the same for ever.
    #[command(verbatim_doc_comment)]
    Immutability(ImmutabilityArgs),
    /// Change for how many days deleted VMs can be had back: 14 to 180
    SoftDelete(SoftDeleteArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImmutabilityArg {
    Disabled,
    Unlocked,
    Locked,
}

#[derive(Debug, Args)]
pub(crate) struct ImmutabilityArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// What it is to be; locked comes after unlocked
    #[arg(value_enum)]
    pub(crate) to: ImmutabilityArg,
    /// Confirm what cannot be undone, with the word that the refusal tells
    #[arg(long, value_name = "WORD")]
    pub(crate) confirm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SoftDeleteArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// For how many days
    #[arg(long, value_name = "N", required_unless_present = "off")]
    pub(crate) days: Option<u32>,
    /// For ever: it can never be switched off or shortened again
    #[arg(long, requires = "days")]
    pub(crate) always_on: bool,
    /// Switch it off: what is deleted from then on is gone at once
    #[arg(long, conflicts_with = "days")]
    pub(crate) off: bool,
    /// Confirm what cannot be undone, with the word that the refusal tells
    #[arg(long, value_name = "WORD")]
    pub(crate) confirm: Option<String>,
}

const JOBS_HELP: &str = "\
File that says how each VM is backed up, in TOML: a table for each VM

  [web]
  disks = [\"os=/dev/vg/web,role=os,format=raw\", \"data=/srv/web.qcow2\"]
  options = [\"--level\", \"fast\"]

disks are as with vmkeep backup --disk, options any others of vmkeep backup: --config, --disk-key, --bitmap
and so on. Paths are from the folder that vmkeep runs in. Two vmkeep run with the same file take turns.";

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// File that says how each VM is backed up: its disks, and other options of vmkeep backup
    #[arg(long, value_name = "FILE", long_help = JOBS_HELP)]
    pub(crate) jobs: PathBuf,
    /// Do what is due now, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Try a backup that failed again after so long, then twice as long
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration::parse)]
    pub(crate) retry_after: i64,
    /// Sweep so often, with --once at the end; what is forgotten is gone then [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) sweep_every: Option<i64>,
}

/// A job of `vmkeep run`, as its words are read.
#[derive(Debug, clap::Parser)]
#[command(name = "job", no_binary_name = true, disable_help_flag = true)]
pub(crate) struct Job {
    #[command(flatten)]
    pub(crate) backup: super::BackupArgs,
}
