//! Arguments of `vmkeep roles`.

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use vmkeep::model::{Operation, Principal, VmName};

use super::VaultArg;
use crate::duration;

#[derive(Debug, Args)]
pub(crate) struct RolesArgs {
    #[command(subcommand)]
    pub(crate) command: RolesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolesCommand {
    /// List the roles, who has them, what is approved and what is asked for
    List(VaultArg),
    /// Give a user a role
    Grant(RoleOfArgs),
    /// Take a role from a user
    Revoke(RoleOfArgs),
    /// Make a role, or change what one allows
    Define(DefineArgs),
    /// Ask that a second person approve a protected operation of yours
    ///
    /// Protected are destroy-keys, disable-soft-delete, shorten-retention and stop-with-delete, as soon as somebody other
    /// than the owner may approve.
    #[command(verbatim_doc_comment)]
    Request(RequestArgs),
    /// Approve a protected operation of another user, for a time
    Approve(ApproveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RoleOfArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The user
    #[arg(value_name = "NAME")]
    pub(crate) who: Principal,
    /// The role
    pub(crate) role: String,
}

#[derive(Debug, Args)]
pub(crate) struct DefineArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The role
    pub(crate) role: String,
    /// What it allows, such as view or restore; may be given several times
    #[arg(long = "allow", value_name = "OPERATION", value_delimiter = ',')]
    pub(crate) allows: Vec<Operation>,
}

impl DefineArgs {
    pub(crate) fn allows(&self) -> BTreeSet<Operation> {
        self.allows.iter().copied().collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The operation, such as destroy-keys
    pub(crate) operation: Operation,
    /// Only for this VM [default: the whole vault]
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<VmName>,
}

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The user who may do it
    #[arg(value_name = "NAME")]
    pub(crate) who: Principal,
    /// The operation, such as destroy-keys
    pub(crate) operation: Operation,
    /// Only for this VM [default: the whole vault]
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<VmName>,
    /// For so long, up to 7d
    #[arg(long = "for", value_name = "TIME", default_value = "8h", value_parser = duration::parse)]
    pub(crate) lasts_ms: i64,
}
