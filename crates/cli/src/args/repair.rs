//! Arguments of `vmkeep repair`.

use clap::Args;

use vmkeep::model::VmName;

use super::VaultArg;
use crate::disk_arg::{self, DiskArg};

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Change nothing; say what is lost and what would be done [default]
    #[arg(long, conflicts_with = "apply")]
    pub(crate) plan: bool,
    /// Put back what can be, and look again
    #[arg(long)]
    pub(crate) apply: bool,
    /// Whose disks --disk names
    #[arg(long, value_name = "NAME", requires = "disks")]
    pub(crate) vm: Option<VmName>,
    /// A disk of the VM as it is now: what it still has is put back; may be repeated
    #[arg(long = "disk", value_name = "NAME=PATH", requires = "vm", value_parser = disk_arg::parse)]
    pub(crate) disks: Vec<DiskArg>,
}
