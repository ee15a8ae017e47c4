//! Arguments of `vmkeep keys`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vmkeep::model::VmName;

use super::{ExportKeysArgs, RestoreKeysArgs, VaultArg, VmArgs};
use crate::bytes;

#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List the keys of the vault and of its VMs: their epochs, and what wraps them
    List(ListKeysArgs),
    /// Change the vault's key: every key is wrapped by a new one, and the old wraps are removed
    ///
    /// The old key is given as with every command, the new one with --new-key-file, --new-passphrase-file or --new-kek. No
    /// data is touched. It may be stopped at any time: give the same command again, and it goes on; keep the old key until it
    /// has ended well. It does nothing against whoever kept the old key together with copies of the old key objects.
    #[command(verbatim_doc_comment)]
    RotateKek(RotateKekArgs),
    /// Give a VM new keys: what is backed up from now on is sealed with them
    ///
    /// Old points restore as before: what they hold stays under the keys of older epochs until --rewrite moves it. Without
    /// a budget all of it is moved. It may be stopped at any time; --rewrite --no-new-epoch goes on.
    #[command(verbatim_doc_comment)]
    RotateBek(RotateBekArgs),
    /// Let a host make points of VMs without being able to read any
    ///
    /// The host gets a key of its own, given here with --client-key-file (made when it is not there),
    /// --client-passphrase-file or --client-kek, and uses it as the vault's key. It finds what changed, seals it to the
    /// public side of the data key, and commits; list and structure checks work, restore does not. Changed pages it tells by
    /// its own cache (--cache) and change tracking; else it stores whole blocks. A VM that is not protected yet gets its keys
    /// now. Give the command again for further VMs, and after a rotate-bek that did not name the client's key.
    #[command(verbatim_doc_comment)]
    GrantClient(GrantClientArgs),
    /// Take from a client what grant-client gave it
    WithdrawClient(WithdrawClientArgs),
    /// Destroy the data keys of a VM: what they sealed can never be read again
    ///
    /// Shows first what would be lost, and asks. A tombstone stays, so that restore and verify can say when it was done and
    /// by whom. It does nothing against whoever kept a copy of a key object (a copy of the vault, say) and a key that opens
    /// it, nor against what was restored before. Where VMs share a key domain, it takes from all of them.
    #[command(verbatim_doc_comment)]
    Destroy(DestroyArgs),
    /// Put the captured keys of encrypted disks back into the key vault
    ///
    /// The disk's secret, and the key that wraps it, are put back where they are missing. A secret that holds something
    /// else by now stays as it is unless --overwrite gives it a new version; no version is ever removed.
    #[command(verbatim_doc_comment)]
    Restore(RestoreKeysArgs),
    /// Write the captured keys of the OS disk as the JSON that Azure's own scripts put keys back from
    Export(ExportKeysArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListKeysArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Only the keys of this VM
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<VmName>,
    /// Tell how many bytes rest on each epoch; reads the header of each file with disk data
    #[arg(long)]
    pub(crate) bytes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RotateKekArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    #[command(flatten)]
    pub(crate) new: NewKekArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GrantClientArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// A VM that the client backs up; may be given more than once
    #[arg(long = "vm", value_name = "NAME", required = true)]
    pub(crate) vms: Vec<VmName>,
    #[command(flatten)]
    pub(crate) client: ClientKekArgs,
}

/// The key of a client: exactly one.
#[derive(Debug, Args)]
#[group(multiple = false, required = true)]
pub(crate) struct ClientKekArgs {
    /// The client's key: a file of 32 bytes; made when it is not there
    #[arg(id = "client_key_file", long = "client-key-file", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// The client's key: a passphrase, the first line of a file
    #[arg(id = "client_passphrase_file", long = "client-passphrase-file", value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The client's key: this key of the key vault, by its name or URL
    #[arg(id = "client_kek", long = "client-kek", value_name = "KEY")]
    pub(crate) kek: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WithdrawClientArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The client's key, by the id that grant-client printed and keys list shows, or the beginning of it
    #[arg(value_name = "KEY_ID")]
    pub(crate) client: String,
}

/// The key that a vault is to have: exactly one.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct NewKekArgs {
    /// The new key: a file of 32 bytes; made when it is not there
    #[arg(id = "new_key_file", long = "new-key-file", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// The new key: a passphrase, the first line of a file
    #[arg(id = "new_passphrase_file", long = "new-passphrase-file", value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// The new key: this key of the key vault, by its name or URL
    #[arg(id = "new_kek", long = "new-kek", value_name = "KEY")]
    pub(crate) kek: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateBekArgs {
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    /// Move what rests on older epochs to the newest
    #[arg(long)]
    pub(crate) rewrite: bool,
    /// Copy at most this much while moving [default: no limit]
    #[arg(long, value_name = "BYTES", requires = "rewrite", value_parser = bytes::parse)]
    pub(crate) budget: Option<u64>,
    /// Wrap the new keys by this key file too; every other key that wraps them now is needed
    #[arg(long, value_name = "FILE", conflicts_with = "no_new_epoch")]
    pub(crate) also_key_file: Vec<PathBuf>,
    /// Wrap the new keys by this key of the key vault too
    #[arg(long, value_name = "KEY", conflicts_with = "no_new_epoch")]
    pub(crate) also_kek: Vec<String>,
    /// Make no new keys; only go on moving
    #[arg(long, requires = "rewrite")]
    pub(crate) no_new_epoch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DestroyArgs {
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    /// Only the data key of this epoch, as vmkeep keys list shows it [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) epoch: Option<u32>,
    /// Another line of points of the VM than its newest, as vmkeep keys list shows it: 0 is the first
    #[arg(long, value_name = "N")]
    pub(crate) generation: Option<u32>,
    /// Change nothing; show what would be lost
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}
