//! Arguments of the commands that take points and interrupted backups away, and that keep them.

use clap::Args;
use vmkeep::model::{PointRef, SessionId, VmName};
use vmkeep::vault::ABANDONED_AFTER_MS;

use super::{VaultArg, point};
use crate::{bytes, duration};

/// A vault and one of its points.
#[derive(Debug, Args)]
pub(crate) struct PointArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The point
    #[arg(value_parser = point)]
    pub(crate) point: PointRef,
}

/// A vault and one of its VMs.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Name of the VM
    #[arg(value_name = "VM")]
    pub(crate) vm: VmName,
}

#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Change nothing; say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Copy at most this much to free files that are needed in part [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = bytes::parse)]
    pub(crate) max_repack: Option<u64>,
    /// End backups that began so long ago and did not finish: 90m, 3d, never
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = abandoned_after)]
    pub(crate) abandoned_after: AbandonedAfter,
}

/// When a backup that has not finished counts as abandoned, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AbandonedAfter(pub(crate) Option<i64>);

#[derive(Debug, Args)]
pub(crate) struct UnpinArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The point
    #[arg(value_parser = point)]
    pub(crate) point: PointRef,
    /// The pin, as vmkeep pins shows it
    #[arg(value_parser = session)]
    pub(crate) pin: SessionId,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CloseArgs {
    #[command(flatten)]
    pub(crate) vm: VmArgs,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VoidArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The session, as vmkeep sessions shows it
    #[arg(value_parser = session)]
    pub(crate) session: SessionId,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Which interrupted backup to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResumeArg {
    Auto,
    Never,
    Newest,
    Session(SessionId),
}

impl From<ResumeArg> for vmkeep::backup::Resume {
    fn from(resume: ResumeArg) -> Self {
        match resume {
            ResumeArg::Auto => Self::Abandoned { after_ms: ABANDONED_AFTER_MS },
            ResumeArg::Never => Self::Never,
            ResumeArg::Newest => Self::Newest,
            ResumeArg::Session(session) => Self::Session(session),
        }
    }
}

pub(crate) fn resume(text: &str) -> Result<ResumeArg, String> {
    match text {
        "auto" => Ok(ResumeArg::Auto),
        "never" => Ok(ResumeArg::Never),
        "newest" => Ok(ResumeArg::Newest),
        text => session(text).map(ResumeArg::Session).map_err(|e| format!("{e}, or auto, newest or never")),
    }
}

fn session(text: &str) -> Result<SessionId, String> {
    text.parse().map_err(|e: vmkeep::model::IdParseError| e.to_string())
}

fn abandoned_after(text: &str) -> Result<AbandonedAfter, String> {
    let after = if text == "never" { None } else { Some(duration::parse(text)?) };
    Ok(AbandonedAfter(after))
}
