//! Arguments of `vmkeep keys`.

use clap::{Args, Subcommand};

use super::{ExportKeysArgs, RestoreKeysArgs};

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Put the captured keys of encrypted disks back into the key vault
    ///
    /// The disk's secret, and the key that wraps it, are put back where they are missing. A secret that holds something
    /// else by now stays as it is unless --overwrite gives it a new version; no version is ever removed.
    #[command(verbatim_doc_comment)]
    Restore(RestoreKeysArgs),
    /// Write the captured keys of the OS disk as the JSON that Azure's own scripts put keys back from
    Export(ExportKeysArgs),
}
