//! Arguments of `vmkeep estimate`.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use clap::{Args, value_parser};
use vmkeep::model::{BlockSize, VmName};

use super::VaultArg;
use super::backup::{CACHE_HELP, DISK_HELP, Level, block_size};
use super::limits::rate;
use crate::disk_arg::DiskArg;
use crate::{bytes, disk_arg};

#[derive(Debug, Args)]
pub(crate) struct EstimateArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Name of the VM; it need not be in the vault yet
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: VmName,
    /// A disk of the VM; give every disk, each with a --disk of its own
    #[arg(
        long = "disk",
        value_name = "NAME=PATH[,...]",
        required = true,
        value_parser = disk_arg::parse,
        long_help = DISK_HELP
    )]
    pub(crate) disks: Vec<DiskArg>,
    /// Effort of compression
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Default)]
    pub(crate) level: Level,
    /// Block size for disks new to the VM: a power of two from 16K to 4M
    #[arg(long, value_name = "BYTES", default_value = "64K", value_parser = block_size)]
    pub(crate) block_size: BlockSize,
    /// Memory for data on its way, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = value_parser!(u32).range(32..))]
    pub(crate) memory: u32,
    /// Folder of this machine that keeps fingerprints between backups; nothing is written to it
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache", long_help = CACHE_HELP)]
    pub(crate) cache: Option<PathBuf>,
    /// Most bytes of fingerprints of one disk, as backups are told [default: 0.25 % of the disk]
    #[arg(long, value_name = "BYTES", conflicts_with = "no_cache", value_parser = bytes::parse)]
    pub(crate) cache_size: Option<u64>,
    /// Use nothing that is kept on this machine
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Threads that scan [default: one per processor, at most 8]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    pub(crate) workers: Option<u16>,
    /// A file that an image may use as backing or data file; may be given several times
    #[arg(long, value_name = "PATH")]
    pub(crate) allow_backing: Vec<PathBuf>,
    /// Read raw images and block devices past the page cache of this machine (`O_DIRECT`)
    #[arg(long)]
    pub(crate) direct: bool,
    /// Most bytes read from the disks per second
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) limit_read: Option<NonZeroU64>,
    /// Of so many frames of changed data, one is compressed to see what it takes [default: 16]
    #[arg(long, value_name = "N")]
    pub(crate) sample_every: Option<NonZeroU32>,
    /// Look at so many of the VM's last points for churn, size and time [default: 14]
    #[arg(long, value_name = "N")]
    pub(crate) points: Option<u16>,
    /// Warn when more changes in a day [default: 200 GB, of 10^9 bytes]
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    pub(crate) warn_churn: Option<u64>,
    /// Warn of fragmented changes from so many changed bytes on [default: 1G]
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    pub(crate) warn_fragmented: Option<u64>,
    /// Warn of a new disk from so many bytes of data on [default: 1]
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    pub(crate) warn_new_disk: Option<u64>,
}
