//! Arguments of `vmkeep keyvault`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, value_parser};

#[derive(Debug, Args)]
pub(crate) struct KeyvaultArgs {
    #[command(subcommand)]
    pub(crate) command: KeyvaultCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyvaultCommand {
    /// Make a key vault; a key file that is not there is made as well
    Init(KeyvaultInitArgs),
    /// List keys and secrets with their versions; nothing secret is shown
    List,
    /// Make a key, or a new version of one
    NewKey(NewKeyArgs),
    /// Set a secret from a file, or give it a new version
    SetSecret(SetSecretArgs),
    /// Write a secret into a file that only its owner may read
    GetSecret(GetSecretArgs),
    /// Let a key or secret be used again
    Enable(ItemArgs),
    /// Keep a key or secret from being used
    Disable(ItemArgs),
    /// Delete a key or secret; it can be recovered for some days
    Delete(ItemArgs),
    /// Take back that a key or secret was deleted
    Recover(ItemArgs),
    /// Remove a deleted key or secret for good
    Purge(PurgeArgs),
    /// Keep everybody from purging before the days are over; this cannot be taken off again
    Protect,
}

#[derive(Debug, Args)]
pub(crate) struct KeyvaultInitArgs {
    /// Days for which what is deleted can be recovered
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = value_parser!(u8).range(7..=90))]
    pub(crate) recoverable_days: u8,
    /// Nothing can be purged before these days are over; this cannot be taken off again
    #[arg(long)]
    pub(crate) purge_protection: bool,
}

/// What kind of key is made.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KindArg {
    Rsa2048,
    Rsa3072,
    Rsa4096,
    Aes256,
}

#[derive(Debug, Args)]
pub(crate) struct NewKeyArgs {
    /// Its name: A-Z a-z 0-9 and -
    pub(crate) name: String,
    /// What kind of key
    #[arg(long, value_enum, default_value_t = KindArg::Rsa2048)]
    pub(crate) kind: KindArg,
}

#[derive(Debug, Args)]
pub(crate) struct SetSecretArgs {
    /// Its name: A-Z a-z 0-9 and -
    pub(crate) name: String,
    /// File that holds it, every byte of it; at most 25 KiB
    #[arg(long, value_name = "FILE")]
    pub(crate) from: PathBuf,
    /// Wrap it with this key first, by its name or URL: how Azure Disk Encryption keeps a BEK under a KEK
    #[arg(long, value_name = "KEY")]
    pub(crate) wrap_with: Option<String>,
    /// Name of the VM, for the tags of a wrapped secret
    #[arg(long, value_name = "NAME", requires = "wrap_with")]
    pub(crate) machine: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GetSecretArgs {
    /// Its name or URL
    pub(crate) name: String,
    /// File to write, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// Unwrap it with the key that its tags name
    #[arg(long)]
    pub(crate) unwrap: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ItemArgs {
    /// A key or a secret
    #[arg(value_enum)]
    pub(crate) kind: ItemKindArg,
    /// Its name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    pub(crate) item: ItemArgs,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// A key or a secret.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ItemKindArg {
    Key,
    Secret,
}
