//! Arguments of `vmkeep backup`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use vmkeep::backup::Rounds;
use vmkeep::blockdiff::AuditRate;
use vmkeep::model::{BlockSize, VmName};
use vmkeep::vault::CompressionLevel;

use super::{DiskKeyArg, LimitArgs, LiveArgs, ResumeArg, VaultArg, guest_keys};
use crate::disk_arg::DiskArg;
use crate::tracking_arg::{self, TrackingArg};
use crate::{bytes, disk_arg, duration};

const EXTENTS_HELP: &str = "\
File that lists what may have changed on a disk since the newest point; may be given several times

  [DISK=]FILE[,since=N]

FILE holds JSON as qemu-img map and nbdinfo --map --json print it, or [{\"offset\": 0, \"length\": 4096}, ...].
DISK may be left out when the VM has one disk. With since the list is used only when the newest point is N.
What it names is read; of the rest a sample is (--audit-rate). A list that cannot be about the disk is not
used: then the disk is scanned, and the point says why.";

const BITMAP_HELP: &str = "\
Dirty bitmap in a disk's qcow2 file that records changes since the newest point; may be given several times

  [DISK=]NAME[,since=N]

The bitmap is a persistent one of QEMU (qemu-img bitmap --add, block-dirty-bitmap-add) that was begun or
cleared when the newest point was made; name it after the point and give since=N to have that checked.
DISK may be left out when the VM has one disk. A bitmap that is missing, in use or of another size is not
used: then the disk is scanned, and the point says why.";

const AUDIT_HELP: &str = "\
How many of the blocks that change tracking calls unchanged are read all the same

  P%of M%   enough to find, with P percent, a tracker that misses M percent of them [default: 99%of1%]
  F%        F percent of them
  none      none

A change that is found there is in the point, with all others: the disk is scanned at once, and the points
that rest on the tracking alone are marked suspect.";

pub(super) const CACHE_HELP: &str = "\
Folder of this machine that keeps maps of disks and fingerprints of their pages between backups

By default fingerprints are kept in the user's cache folder ($XDG_CACHE_HOME/vmkeep or ~/.cache/vmkeep); maps
are kept only in a folder that is given. Fingerprints tell which pages of a changed block changed, so that no
more than these is stored; without them the block is compared with what the vault has of it. The folder may be
deleted at any time.";

pub(super) const DISK_HELP: &str = "\
A disk of the VM; give every disk, each with a --disk of its own

  NAME=PATH[,role=os|data|temp][,lun=N][,format=raw|qcow2|vhd]
  NAME,role=temp,size=SIZE

PATH is an image or a block device; a comma in it is written twice.
role    what the disk is for [default: data]; a temp disk is described in the point and not stored:
        only its size is looked at, or given with size
lun     its logical unit number
format  detected when not given; give it for raw disks, because their guest could make them look
        like something else";

const DISK_KEY_HELP: &str = "\
Keys of a disk that its guest encrypts; may be given several times

  DISK=SECRET[,kek=KEY]

SECRET is the disk's encryption key or passphrase in the key vault (--keyvault), by its name or URL; KEY is the
key that wraps it, in the key vault or on the token. Both are read and sealed into the point, with the versions
that were seen: vmkeep keys restore puts them back. A URL without a version, or a name, means the newest.";

const RESUME_HELP: &str = "\
Interrupted backup to go on from [default: auto]

What that backup had stored is not stored again. It is ended by this: should it still run, it fails
when it would finish.

auto     one that began more than 7 days ago and has not finished
newest   the newest that has stored anything: for when it is known to run no more; also without a value
never    none
SESSION  this one, as vmkeep sessions shows it";

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Name of the VM
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: VmName,
    /// A disk of the VM; give every disk, each with a --disk of its own
    #[arg(
        long = "disk",
        value_name = "NAME=PATH[,...]",
        required_unless_present = "qemu",
        value_parser = disk_arg::parse,
        long_help = DISK_HELP
    )]
    pub(crate) disks: Vec<DiskArg>,
    #[command(flatten)]
    pub(crate) live: LiveArgs,
    /// Keys of a disk that its guest encrypts: DISK=SECRET[,kek=KEY]; may be repeated
    #[arg(long = "disk-key", value_name = "DISK=SECRET", value_parser = guest_keys::disk_key, long_help = DISK_KEY_HELP)]
    pub(crate) disk_keys: Vec<DiskKeyArg>,
    #[command(flatten)]
    pub(crate) retention: RetentionArgs,
    /// File with the VM's configuration (at most 1 MiB), stored with the point
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Effort of compression
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Default)]
    pub(crate) level: Level,
    /// Block size for disks new to the VM: a power of two from 16K to 4M
    #[arg(long, value_name = "BYTES", default_value = "64K", value_parser = block_size)]
    pub(crate) block_size: BlockSize,
    /// Memory for data on its way, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = value_parser!(u32).range(32..))]
    pub(crate) memory: u32,
    /// Folder of this machine for maps of disks and fingerprints of their pages between backups
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache", long_help = CACHE_HELP)]
    pub(crate) cache: Option<PathBuf>,
    /// Most bytes of fingerprints of one disk [default: 0.25 % of the disk]
    #[arg(long, value_name = "BYTES", conflicts_with = "no_cache", value_parser = bytes::parse)]
    pub(crate) cache_size: Option<u64>,
    /// Keep nothing on this machine
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// File that lists what may have changed on a disk since the newest point; may be repeated
    #[arg(long, value_name = "FILE", value_parser = tracking_arg::parse, long_help = EXTENTS_HELP)]
    pub(crate) changed_extents: Vec<TrackingArg>,
    /// Bitmap in a disk's qcow2 file with what changed since the newest point; may be repeated
    #[arg(long, value_name = "NAME", value_parser = tracking_arg::parse, long_help = BITMAP_HELP)]
    pub(crate) bitmap: Vec<TrackingArg>,
    /// Read every disk as a whole, whatever is known of its changes
    #[arg(long)]
    pub(crate) full_scan: bool,
    /// How many blocks that tracking calls unchanged are read all the same
    #[arg(long, value_name = "RATE", default_value = "99%of1%", value_parser = tracking_arg::rate, long_help = AUDIT_HELP)]
    pub(crate) audit_rate: AuditRate,
    /// Runs in which tracking is audited over the whole disk, or off [default: 64 MiB a run]
    #[arg(long, value_name = "N", value_parser = tracking_arg::rounds)]
    pub(crate) audit_rounds: Option<Rounds>,
    /// Threads that scan and compress [default: one per processor, at most 8]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    pub(crate) workers: Option<u16>,
    /// A file that an image may use as backing or data file; may be given several times
    #[arg(long, value_name = "PATH")]
    pub(crate) allow_backing: Vec<PathBuf>,
    /// Read raw images and block devices past the page cache of this machine (`O_DIRECT`)
    #[arg(long)]
    pub(crate) direct: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// Interrupted backup to go on from: a session, newest (or no value), never [default: auto]
    #[arg(
        long,
        value_name = "SESSION",
        num_args = 0..=1,
        default_value = "auto",
        hide_default_value = true,
        default_missing_value = "newest",
        value_parser = super::deletion::resume,
        long_help = RESUME_HELP
    )]
    pub(crate) resume: ResumeArg,
}

/// What retention is to know of the point.
#[derive(Debug, Args)]
pub(crate) struct RetentionArgs {
    /// The point is one of the schedule of the VM's policy, whose rules keep it
    #[arg(long)]
    pub(crate) scheduled: bool,
    /// Tag of the point, for policies that keep by tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Keep the point for so long, such as 30d [default: by policy, or for ever]
    #[arg(long = "keep", value_name = "TIME", value_parser = duration::parse)]
    pub(crate) keep_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Level {
    Fast,
    Default,
    Best,
}

impl From<Level> for CompressionLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Fast => Self::Fast,
            Level::Default => Self::Default,
            Level::Best => Self::Best,
        }
    }
}

pub(super) fn block_size(text: &str) -> Result<BlockSize, String> {
    BlockSize::try_from(bytes::parse(text)?).map_err(|e| e.to_string())
}
