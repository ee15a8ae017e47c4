//! Arguments of `vmkeep repair`.

use clap::Args;

use super::VaultArg;

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
}
