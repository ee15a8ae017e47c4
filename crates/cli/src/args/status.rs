//! Arguments of `vmkeep status`.

use std::path::PathBuf;

use clap::Args;
use vmkeep::model::VmName;

use super::VaultArg;
use crate::duration;

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The VM [default: each that is in the vault or under a policy]
    #[arg(value_name = "VM")]
    pub(crate) vm: Option<VmName>,
    /// Write metrics for Prometheus into this file, at once and whole; name it .prom
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics: Option<PathBuf>,
    /// How old the newest point of a VM without a schedule may be [default: not judged]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) max_age: Option<i64>,
    /// For how long a run of a schedule may be without its point
    #[arg(long, value_name = "DURATION", default_value = "4h", value_parser = duration::parse)]
    pub(crate) grace: i64,
}
