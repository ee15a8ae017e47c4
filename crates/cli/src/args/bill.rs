//! Arguments of what costs and takes what.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, value_parser};
use vmkeep::billing::Month;
use vmkeep::model::VmName;

use super::VaultArg;
use crate::bytes;

const BOOK_HELP: &str = "\
The price book: TOML, or JSON

  name = \"house prices\"
  currency = \"EUR\"
  zone = \"Europe/Berlin\"
  gigabyte = \"GiB\"
  rounding = \"half-even\"
  instance = { integration = \"day\", agentless_factor = \"0.5\", step_gb = 500, step_units = \"1\", bands = [
    { up_to_gb = 50, units = \"0.5\" }, { up_to_gb = 500, units = \"1\" } ] }
  storage = { integration = \"exact\", archive_days_min = 180 }
  soft_delete = { free_days = 14, free = \"last\" }
  price = [
    { meter = \"instance\", from = \"2026-01-01\", price = \"10\" },
    { meter = \"vault\", redundancy = \"lrs\", from = \"2026-01-01\", price = \"0.0224\" } ]";

const INSTANCES_HELP: &str = "\
What is to be known of the VMs beside their names: TOML

  [default]
  region = \"here\"
  redundancy = \"lrs\"
  [vm.web-01]
  cost_center = \"4711\"
  tags = { env = \"prod\" }";

#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
}

#[derive(Debug, Args)]
pub(crate) struct BillArgs {
    #[command(flatten)]
    pub(crate) of: BillOf,
    /// The month, as 2026-11 [default: this one, up to now]
    #[arg(long, value_name = "MONTH", value_parser = month)]
    pub(crate) month: Option<Month>,
    /// Add up by vm, meter, cost-center, or the value of a tag, as tag:env
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub(crate) by: Option<Group>,
    /// Form of the statement
    #[arg(long, value_enum, default_value_t = BillFormat::Table)]
    pub(crate) format: BillFormat,
    /// Close the month: from then on it is what was billed, whatever is found out later
    #[arg(long)]
    pub(crate) close: bool,
    /// Draw cost and size of the last 24 months into this SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) chart: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<BillCommand>,
}

/// Whose bill, and what it rests on.
#[derive(Debug, Args)]
#[command(next_help_heading = "What the bill rests on")]
pub(crate) struct BillOf {
    /// Folder of the vault
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) vault: Option<PathBuf>,
    /// The price book
    #[arg(long, value_name = "FILE", global = true, long_help = BOOK_HELP)]
    pub(crate) book: Option<PathBuf>,
    /// What is to be known of the VMs: region, redundancy, cost centre, tags
    #[arg(long, value_name = "FILE", global = true, long_help = INSTANCES_HELP)]
    pub(crate) instances: Option<PathBuf>,
    /// Only this VM
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) vm: Option<VmName>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BillCommand {
    /// Say what the next months will cost, if things go on as they did
    Forecast(ForecastArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ForecastArgs {
    /// How many months
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=120))]
    pub(crate) months: u32,
    /// Growth of each VM a day, in place of what it was
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    pub(crate) growth: Option<u64>,
    /// What each further backup stores, in place of what it was
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    pub(crate) stored: Option<u64>,
    /// Points that are kept, in place of those that are
    #[arg(long, value_name = "N")]
    pub(crate) points: Option<u32>,
    /// Points that are so many days old go to the archive, as large as they were
    #[arg(long, value_name = "DAYS")]
    pub(crate) archive_after: Option<u32>,
    /// Tell of VMs that so many bytes more would make count as more units
    #[arg(long, value_name = "BYTES", default_value = "5GiB", value_parser = bytes::parse)]
    pub(crate) warn_within: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BillFormat {
    Table,
    Json,
    Csv,
    Focus,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Vm,
    Meter,
    CostCenter,
    Tag(String),
}

fn month(text: &str) -> Result<Month, String> {
    text.parse().map_err(|_| format!("{text:?} is no month; write 2026-11"))
}

fn group(text: &str) -> Result<Group, String> {
    match (text, text.strip_prefix("tag:")) {
        ("vm", _) => Ok(Group::Vm),
        ("meter", _) => Ok(Group::Meter),
        ("cost-center", _) => Ok(Group::CostCenter),
        (_, Some(tag)) if !tag.is_empty() => Ok(Group::Tag(tag.to_owned())),
        _ => Err(format!("{text:?} is no group; write vm, meter, cost-center or tag:NAME")),
    }
}
