//! Arguments of `vmkeep log`.

use std::path::PathBuf;

use clap::Args;
use vmkeep::model::{Principal, VmName};

use super::VaultArg;
use crate::duration;

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Only what was done to this VM
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<VmName>,
    /// Only what this user did
    #[arg(long, value_name = "NAME")]
    pub(crate) by: Option<Principal>,
    /// Only entries of this kind, such as forgotten or denied; may be given several times
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    pub(crate) kinds: Vec<String>,
    /// Only what was done within this time, such as 90m or 7d
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) last: Option<i64>,
    /// File that remembers how far the vault was seen; keep it outside of the vault
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
}
