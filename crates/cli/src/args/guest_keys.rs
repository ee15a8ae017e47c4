//! Arguments for the keys of disks that their guests encrypt.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use vmkeep::model::{DiskName, PointRef};

use super::{VaultArg, point};

/// `DISK=SECRET[,kek=KEY]`.
#[derive(Clone, Debug)]
pub(crate) struct DiskKeyArg {
    pub(crate) disk: DiskName,
    pub(crate) secret: String,
    pub(crate) kek: Option<String>,
}

pub(super) fn disk_key(text: &str) -> Result<DiskKeyArg, String> {
    let wrong = || format!("{text:?} is not DISK=SECRET[,kek=KEY]");
    let (disk, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (secret, kek) = match rest.split_once(",kek=") {
        None => (rest, None),
        Some((secret, kek)) => (secret, Some(kek.to_owned())),
    };
    if secret.is_empty() || kek.as_ref().is_some_and(String::is_empty) {
        return Err(wrong());
    }
    let disk = disk.parse().map_err(|e: vmkeep::model::NameError| e.to_string())?;
    Ok(DiskKeyArg { disk, secret: secret.to_owned(), kek })
}

/// What kind of guest unlocks a disk.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Os {
    Windows,
    Linux,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreKeysArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The point
    #[arg(value_parser = point)]
    pub(crate) point: PointRef,
    /// Put back only the keys of this disk; may be given several times [default: all]
    #[arg(long = "disk", value_name = "NAME")]
    pub(crate) disks: Vec<DiskName>,
    /// Give a secret that holds something else by now a new version with what was captured
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// What kind of guest it is, when the captured secret does not tell
    #[arg(long, value_enum)]
    pub(crate) os: Option<Os>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportKeysArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The point
    #[arg(value_parser = point)]
    pub(crate) point: PointRef,
    /// The OS disk [default: the disk whose role is os]
    #[arg(long = "disk", value_name = "NAME")]
    pub(crate) disk: Option<DiskName>,
    /// File to write, which must not be there yet; only its owner may read it
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
}
