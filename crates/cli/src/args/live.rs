//! Arguments about a VM that runs.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use vmkeep::consistency::Wanted;
use vmkeep::model::VmName;

use super::VaultArg;
use crate::disk_arg::{self, DiskArg};
use crate::{bytes, duration};

const LIVE: &str = "A VM that runs";

const QEMU_HELP: &str = "\
QMP socket of a QEMU whose VM runs (-qmp unix:PATH,server=on,wait=off): all disks at one instant

The disks are copied as they were at that instant while the guest goes on; what it overwrites meanwhile is kept
in --scratch. Dirty bitmaps in QEMU record what changes from then on, so that the next backup reads no more than
that; a bitmap that is missing, inconsistent or of another point leads to a scan, and the point says so. With
--qemu a --disk is NAME=NODE[,role=..][,lun=..], NODE being the node name of -blockdev; without any --disk all
disks are taken, named after their devices, the first as role=os. vmkeep inspect shows them.";

const AGENT_HELP: &str = "\
Socket of the guest agent (virtserialport org.qemu.guest_agent.0), which freezes the guest's file systems

They are frozen for no more than the instant of the snapshot, and thawed whatever happens: a watchdog of its own
process does it when this one is killed, or after --freeze-limit. Without the agent, or when it does not answer,
the point is crash-consistent and says so.";

const SCRIPTS_HELP: &str = "\
Settings of pre- and post-scripts inside the guest: Azure's VMSnapshotScriptPluginConfig.json

A path in the guest, as /etc/azure/VMSnapshotScriptPluginConfig.json. The agent reads it and runs the scripts; the
settings, their owner and permissions are checked as Azure does. With both scripts a success, and file systems
frozen, the point is application-consistent.";

/// How a VM that runs is reached.
#[derive(Debug, Args)]
pub(crate) struct GuestArgs {
    /// Socket of the guest agent, which freezes the guest's file systems for the snapshot
    #[arg(long, help_heading = LIVE, value_name = "SOCKET", requires = "qemu", long_help = AGENT_HELP)]
    pub(crate) agent: Option<PathBuf>,
    /// Settings of pre- and post-scripts, a path in the guest, as Azure has them
    #[arg(long, help_heading = LIVE, value_name = "PATH", requires = "agent", long_help = SCRIPTS_HELP)]
    pub(crate) scripts: Option<String>,
    /// Least that the point must be worth [default: best]
    #[arg(long, help_heading = LIVE, value_name = "LEVEL", value_enum, requires = "qemu")]
    pub(crate) consistency: Option<WantedArg>,
    /// Folder for what the guest overwrites meanwhile; QEMU reaches it too [default: in /tmp]
    #[arg(long, help_heading = LIVE, value_name = "DIR", requires = "qemu")]
    pub(crate) scratch: Option<PathBuf>,
    /// Most bytes of that for each disk; reserved before the guest is touched
    #[arg(long, help_heading = LIVE, value_name = "BYTES", default_value = "4G", value_parser = bytes::parse)]
    pub(crate) scratch_size: u64,
    /// How often to begin again with a fresh snapshot when it was more
    #[arg(long, help_heading = LIVE, value_name = "N", default_value_t = 1)]
    pub(crate) retries: u32,
    /// How long the guest may be frozen; then the watchdog thaws it
    #[arg(long, help_heading = LIVE, value_name = "TIME", default_value = "60s", value_parser = limit)]
    pub(crate) freeze_limit: Duration,
    /// How long the guest agent may take to answer
    #[arg(long, help_heading = LIVE, value_name = "TIME", default_value = "10s", value_parser = limit)]
    pub(crate) agent_limit: Duration,
    /// How many attempts at this point failed before (some rules fall back)
    #[arg(long, help_heading = LIVE, value_name = "N", default_value_t = 0)]
    pub(crate) attempt: u32,
}

/// A VM that runs, where it need not.
#[derive(Debug, Args)]
pub(crate) struct LiveArgs {
    /// QMP socket of a QEMU whose VM runs: its disks are copied as they are at one instant
    #[arg(
        long,
        value_name = "SOCKET",
        help_heading = LIVE,
        long_help = QEMU_HELP,
        conflicts_with_all = ["changed_extents", "bitmap", "allow_backing", "direct"]
    )]
    pub(crate) qemu: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WantedArg {
    /// The best there is
    Best,
    /// Application-consistent, or no point
    App,
    /// File-system consistent or better, or no point
    Fs,
    /// Crash-consistent: the guest is not touched
    Crash,
}

impl From<WantedArg> for Wanted {
    fn from(wanted: WantedArg) -> Self {
        match wanted {
            WantedArg::Best => Self::Best,
            WantedArg::App => Self::Application,
            WantedArg::Fs => Self::FileSystem,
            WantedArg::Crash => Self::CrashOnly,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Name of the VM
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: VmName,
    /// QMP socket of a QEMU whose VM runs
    #[arg(long, value_name = "SOCKET", required = true)]
    pub(crate) qemu: Option<PathBuf>,
    /// A disk of the VM: NAME=NODE[,role=..][,lun=..] [default: all disks]
    #[arg(long = "disk", value_name = "NAME=NODE[,...]", value_parser = disk_arg::parse)]
    pub(crate) disks: Vec<DiskArg>,
    #[command(flatten)]
    pub(crate) guest: GuestArgs,
}

/// What the watchdog of a session is started with.
#[derive(Debug, Args)]
pub(crate) struct WatchdogArgs {
    #[arg(long)]
    pub(crate) agent: PathBuf,
    #[arg(long)]
    pub(crate) scripts: Option<String>,
    #[arg(long)]
    pub(crate) vm: VmName,
    #[arg(long)]
    pub(crate) job: String,
}

/// How long something in a guest may take.
fn limit(text: &str) -> Result<Duration, String> {
    let millis = duration::parse(text)?;
    match u64::try_from(millis) {
        Ok(millis @ 1_000..=600_000) => Ok(Duration::from_millis(millis)),
        _ => Err(format!("{text:?} is not from 1s to 10m")),
    }
}
