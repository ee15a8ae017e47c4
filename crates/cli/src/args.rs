//! The command line, as clap reads it.

mod backup;
mod bill;
mod deletion;
mod estimate;
mod guest_keys;
mod keys;
mod keyvault;
mod limits;
mod live;
mod log;
mod protection;
mod repair;
mod roles;
mod status;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use vmkeep::model::{DiskName, PointRef, Principal, VmName};
use vmkeep::vault::Budget;

pub(crate) use self::backup::BackupArgs;
pub(crate) use self::bill::{BillArgs, BillCommand, BillFormat, BillOf, ForecastArgs, Group, UsageArgs};
pub(crate) use self::deletion::{CloseArgs, PointArgs, ResumeArg, SweepArgs, UnpinArgs, VmArgs, VoidArgs};
pub(crate) use self::estimate::EstimateArgs;
pub(crate) use self::guest_keys::{DiskKeyArg, ExportKeysArgs, Os, RestoreKeysArgs};
pub(crate) use self::keys::{
    ClientKekArgs, DestroyArgs, GrantClientArgs, KeysArgs, KeysCommand, ListKeysArgs, NewKekArgs,
    RotateBekArgs, RotateKekArgs, WithdrawClientArgs,
};
pub(crate) use self::keyvault::{
    GetSecretArgs, ItemArgs, ItemKindArg, KeyvaultArgs, KeyvaultCommand, KindArg, NewKeyArgs, SetSecretArgs,
};
pub(crate) use self::limits::LimitArgs;
pub(crate) use self::live::{GuestArgs, InspectArgs, LiveArgs, WantedArg, WatchdogArgs};
pub(crate) use self::log::LogArgs;
pub(crate) use self::protection::{
    CheckPolicyArgs, DiffPolicyArgs, GuardArgs, GuardCommand, ImmutabilityArg, ImmutabilityArgs, ImportArgs,
    Job, PlanArgs, PolicyArgs, PolicyCommand, PolicyFormat, ProtectArgs, PruneArgs, PurgeArgs, RunArgs,
    ScheduleArgs, ShowPolicyArgs, SoftDeleteArgs, StopArgs,
};
pub(crate) use self::repair::RepairArgs;
pub(crate) use self::roles::{RolesArgs, RolesCommand};
pub(crate) use self::status::StatusArgs;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed, or cancelled by Ctrl-C
  2    the command line cannot be carried out as written
  3    the vault holds damaged data
  4    vmkeep status found something to look at
  5    vmkeep status found a VM that cannot be restored, or damage
  130  ended by a second Ctrl-C

The key of a vault comes from exactly one of --key-file, --passphrase-file, --kek and the environment variable
VMKEEP_PASSPHRASE. Without it nothing in the vault can be read, by anybody.

A recovery point is written vm@number, or vm@latest for the newest that is not forgotten.

Sizes are in bytes, or with K, M, G or T (powers of 1024).";

const GLOBAL: &str = "Global options";

/// Back up the disks of virtual machines into an encrypted vault of one's own, and restore them.
#[derive(Debug, Parser)]
#[command(name = "vmkeep", bin_name = "vmkeep", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Print events as JSON lines; the last line is a summary, or the error
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Act as this user, within the vault's roles [default: the owner]
    #[arg(long = "as", global = true, value_name = "NAME", help_heading = GLOBAL)]
    pub(crate) acting: Option<Principal>,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Key of the vault: a file of 32 bytes that only its owner may read
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) key_file: Option<PathBuf>,
    /// Key of the vault: a passphrase, the first line of a file (or set `VMKEEP_PASSPHRASE`)
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Key of the vault: this key of the key vault or token, by its name or URL
    #[arg(long, global = true, value_name = "KEY", help_heading = GLOBAL)]
    pub(crate) kek: Option<String>,
    #[command(flatten)]
    pub(crate) stores: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Key vault: a file of keys and secrets, as vmkeep keyvault init makes it
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) keyvault: Option<PathBuf>,
    /// Key of the key vault: a file of 32 bytes that only its owner may read
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) kv_key_file: Option<PathBuf>,
    /// Key of the key vault: the first line of a file (or set `VMKEEP_KEYVAULT_PASSPHRASE`)
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) kv_passphrase_file: Option<PathBuf>,
    /// Keys on a token: the PKCS#11 library that its maker provides
    #[arg(long, global = true, value_name = "LIBRARY", requires = "token", help_heading = GLOBAL)]
    pub(crate) pkcs11: Option<PathBuf>,
    /// Label of the token
    #[arg(long, global = true, value_name = "LABEL", requires = "pkcs11", help_heading = GLOBAL)]
    pub(crate) token: Option<String>,
    /// PIN of the token: the first line of a file (or set `VMKEEP_PIN`)
    #[arg(long, global = true, value_name = "FILE", help_heading = GLOBAL)]
    pub(crate) pin_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a vault
    ///
    /// The folder is made when it is not there and must be empty. With --key-file, the key file is made (32 random bytes
    /// that only its owner may read) when it is not there. Keep the key apart from the vault, and keep a copy of it.
    #[command(verbatim_doc_comment)]
    Init(InitArgs),
    /// Back up a VM: all its disks become one recovery point
    ///
    /// Only blocks that changed since the VM's newest point are stored. The disks are read as they are: stop the VM or
    /// take a snapshot first, for a disk that is written while it is read is torn. An interrupted backup leaves all
    /// earlier points as they were; run it again. What it had stored need not be stored again: see --resume. Where the
    /// point before is damaged, the disk is stored again as a whole: the new point is good, and exit code 3 tells of the
    /// damage.
    #[command(verbatim_doc_comment)]
    Backup(Box<BackupArgs>),
    /// Tell what a backup would store, and store nothing
    ///
    /// Reads the disks as a backup would and tells per disk how much changed, how it lies, how much changes in a day,
    /// and about what a backup would take; and what of that makes backups slow. The VM need not be in the vault yet.
    #[command(verbatim_doc_comment)]
    Estimate(EstimateArgs),
    /// List recovery points
    Points(PointsArgs),
    /// Show which ranges of the disks differ between two points of a VM
    ///
    /// Ranges are of whole blocks. No disk data is read.
    #[command(verbatim_doc_comment)]
    Diff(DiffArgs),
    /// Look for damage in a point or in the whole vault
    ///
    /// Reads and checks every byte unless told otherwise (--depth). Without a point, every file of the vault is accounted for
    /// as well, and the vault remembers until when it is verified. Ends with exit code 3 when something is damaged.
    ///
    /// With --budget, a run takes a part of the packs by themselves, and regular runs cover all of them within the number
    /// of runs that is printed, whatever is backed up and swept meanwhile. That something is missing shows only without.
    #[command(verbatim_doc_comment)]
    Verify(VerifyArgs),
    /// Tell exactly what damage has cost each point, and put back what can be
    ///
    /// Reads and checks every byte. Without --apply nothing is written. What can be put back: a metadata file from its second
    /// copy, records that follow from others, and blocks that another point or the live disk (--disk) still has. What the
    /// newest point has lost is noted, and the next backup stores it again while the disk still has it. Nothing that can be
    /// read is ever removed. Ends with exit code 3 when something is damaged; with --apply, when something still is.
    #[command(verbatim_doc_comment)]
    Repair(RepairArgs),
    /// Restore the disks of a point into a folder
    ///
    /// A disk becomes DIR/NAME.raw or DIR/NAME.qcow2; a stored VM configuration becomes DIR/config when all disks are
    /// restored. Files are written under a name that ends in .partial and get their own names when all of them are
    /// complete. Temporary disks are not stored and so not restored. While it is read, the point is pinned: no sweep
    /// takes it.
    #[command(verbatim_doc_comment)]
    Restore(RestoreArgs),
    /// Forget a point: it no longer counts as latest, and the next sweep may remove it
    ///
    /// Nothing is removed yet: until a sweep has taken it, the point can be restored by its number, and vmkeep undelete
    /// takes the forgetting back. The newest point of a VM stays until there is a newer one or the VM is closed.
    #[command(verbatim_doc_comment)]
    Forget(PointArgs),
    /// Take back that a point was forgotten
    ///
    /// Possible until a sweep has taken the point.
    #[command(verbatim_doc_comment)]
    Undelete(PointArgs),
    /// Hold a point: no sweep removes it, forgotten or not, until it is released
    Hold(PointArgs),
    /// Release a hold
    Release(PointArgs),
    /// Remove forgotten points and what interrupted backups left, and free their space
    ///
    /// What it removes is gone for good. Points that are the newest of their VM, held or pinned stay, and are named.
    /// Backups and restores may run beside it, and it may be stopped at any time: the next sweep goes on. A backup that
    /// still runs but counts as abandoned is ended by it, and is told so.
    #[command(verbatim_doc_comment)]
    Sweep(SweepArgs),
    /// List the pins on a VM's points: restores that run, or were killed
    Pins(VmArgs),
    /// Break a pin, so that a sweep may take the point
    ///
    /// A restore that still runs may then find the point gone; it fails and says so. Pins of restores that were killed
    /// stay until they are broken.
    #[command(verbatim_doc_comment)]
    Unpin(UnpinArgs),
    /// List a VM's backups that have not finished: running, or interrupted
    Sessions(VmArgs),
    /// End a backup that has not finished
    ///
    /// It can never become a point from then on. Should it still run, it is told so when it would finish. What it has
    /// stored is removed by the next sweep.
    #[command(verbatim_doc_comment)]
    Void(VoidArgs),
    /// End the protection of a VM
    ///
    /// Its points stay as they are, but its newest can then be forgotten and swept like any other. A backup that runs is
    /// ended. A later backup of a VM of this name is a full one that begins again with point 1, and hides what was kept
    /// before: forget what is not to stay first.
    #[command(verbatim_doc_comment)]
    Close(CloseArgs),
    /// See, change and destroy the keys of a vault; put captured keys of disks back
    ///
    /// The vault's key (KEK) wraps the keys of each VM, which come in epochs; what is backed up is sealed with the
    /// newest. Only wrapped keys are in the vault.
    #[command(verbatim_doc_comment)]
    Keys(KeysArgs),
    /// Keep keys and secrets in a file: for the vault's own key, and for those of encrypted disks
    ///
    /// The file is given with --keyvault, its own key with --kv-key-file or --kv-passphrase-file. Whatever is
    /// changed makes a new version; what is deleted can be recovered for some days.
    #[command(verbatim_doc_comment)]
    Keyvault(KeyvaultArgs),
    /// Show what was done to the vault, when and by whom; and whether the store took any of it back
    ///
    /// Every journal is a chain of entries that is checked. With --checkpoint it is also held against what was seen the
    /// time before: entries and points that are gone, or changed, end the command with exit code 3, and the file stays
    /// as it was; else it remembers how far the vault was seen now. Backups are not in it: vmkeep points lists those.
    #[command(verbatim_doc_comment)]
    Log(LogArgs),
    /// Say who may do what in a vault, for programs and people that ask it (--as)
    ///
    /// This is policy and no boundary: whoever has the vault's key and can reach its files can do everything without asking.
    /// The boundaries are keys, and what the store itself allows. Without --as, vmkeep acts as the owner.
    #[command(verbatim_doc_comment)]
    Roles(RolesArgs),
    /// Show what a backup of a running VM would use and why, and touch nothing
    ///
    /// Its disks and what is known of their changes since the newest point; whether the guest agent answers, what it can
    /// freeze, whether the scripts can be run; and what the point would be worth.
    #[command(verbatim_doc_comment)]
    Inspect(InspectArgs),
    /// Make, show, check and compare policies: when backups are made and how long their points are kept
    Policy(PolicyArgs),
    /// Put a VM under a policy
    ///
    /// The VM need not be in the vault yet. Points that are there follow the policy with the next plan. One that was under a
    /// policy that keeps more is asked about.
    #[command(verbatim_doc_comment)]
    Protect(ProtectArgs),
    /// Show which points their policies keep and let go, and why; changes nothing
    Plan(PlanArgs),
    /// Forget the points that their policies let go
    ///
    /// Shows the plan and asks, looks again, and forgets what the plan and a new one both let go. Never the newest point of
    /// a VM, nor one that is held or was made on demand before its time. A sweep frees the space; until it has,
    /// vmkeep undelete has a point back.
    #[command(verbatim_doc_comment)]
    Prune(PruneArgs),
    /// Show when backups of the VMs under policies are due
    Schedule(ScheduleArgs),
    /// Tell at a glance how well each VM is protected; for monitoring
    ///
    /// Per VM its newest good point, how old that is against its schedule, what it is worth and how its data grew. Reads the
    /// vault's notes and of each VM a few records, however much is stored, and no pack. Exit code 4, a warning: a run of the schedule has passed by more than
    /// --grace without a point, the point is older than --max-age or ahead of the clock, it is worth less than the one
    /// before, change tracking has missed a change, or there is no point yet. Exit code 5, critical: there is no point to
    /// restore, or one does not open, or damage was found. Stopped, deleted and closed VMs are shown and not held overdue.
    #[command(verbatim_doc_comment)]
    Status(StatusArgs),
    /// Back up and prune the VMs under policies whenever it is due, until Ctrl-C
    ///
    /// A VM without a point that a schedule made is backed up at once, then at the times of its policy; of runs that were
    /// missed one is made up for. What policies let go is forgotten without asking. Safe beside another vmkeep run: the
    /// second sees the point that the first made, and does nothing. A backup that failed is told of and tried again at the
    /// next time.
    #[command(verbatim_doc_comment)]
    Run(RunArgs),
    /// Stop the protection of a VM: no backups are due any more
    ///
    /// Deleted points stay for the days of soft delete, in which vmkeep undelete-vm has them back; vmkeep run removes them
    /// after, and so does vmkeep purge.
    #[command(verbatim_doc_comment)]
    Stop(StopArgs),
    /// Back up a stopped VM again; points that are overdue go with the next plan
    Resume(VmArgs),
    /// Have the points of a deleted VM back; it is stopped then, and its points are retained
    UndeleteVm(VmArgs),
    /// Remove the points of a deleted VM once their time is over; before it only while soft delete is off
    Purge(PurgeArgs),
    /// Show and change what keeps points from being removed: immutability and soft delete
    Guard(GuardArgs),
    /// Show what each VM takes in the vault; the lines add up to the bytes in its folder
    Usage(UsageArgs),
    /// Say what protecting the VMs costs, for whom, and why
    ///
    /// Metered are VMs under a policy (vmkeep protect), from their first backup on: their size at each backup and the bytes
    /// they take in the vault. Prices are yours, in a file. This month's statement is up to now; a month that was closed stays
    /// what it was.
    #[command(verbatim_doc_comment)]
    Bill(Box<BillArgs>),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// The watchdog of a backup, which starts it
    #[command(hide = true)]
    Watchdog(WatchdogArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VaultArg {
    /// Folder of the vault
    #[arg(long, value_name = "DIR")]
    pub(crate) vault: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Memory for turning a passphrase into a key, in KiB
    #[arg(long, value_name = "KIB")]
    pub(crate) argon2_memory_kib: Option<u32>,
    /// Passes over that memory
    #[arg(long, value_name = "N")]
    pub(crate) argon2_passes: Option<u32>,
    /// Lanes of that memory
    #[arg(long, value_name = "N")]
    pub(crate) argon2_lanes: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct PointsArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// Only the points of this VM
    #[arg(long, value_name = "NAME")]
    pub(crate) vm: Option<VmName>,
    /// Say of each point why it is as consistent as it is, and what a restore can count on
    #[arg(long)]
    pub(crate) why: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The point to compare from
    #[arg(value_name = "POINT", value_parser = point)]
    pub(crate) before: PointRef,
    /// The point to compare to, of the same VM
    #[arg(value_name = "POINT", value_parser = point)]
    pub(crate) after: PointRef,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The point to verify [default: everything in the vault]
    #[arg(value_parser = point)]
    pub(crate) point: Option<PointRef>,
    /// How deep [default: blocks; with --budget: sealed]
    #[arg(long, value_enum, value_name = "DEPTH")]
    pub(crate) depth: Option<DepthArg>,
    /// Only the packs unchecked for the longest: so many bytes, or per cent of all (10GiB or 5%)
    #[arg(long, value_name = "BUDGET", value_parser = budget, conflicts_with_all = ["point", "structure"])]
    pub(crate) budget: Option<Budget>,
    /// The same as --depth structure
    #[arg(long, conflicts_with = "depth")]
    pub(crate) structure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DepthArg {
    /// Records, footers and maps; no disk data is read, and no data key is needed
    Structure,
    /// Also the authentication tag of everything that is stored; nothing is decompressed
    Sealed,
    /// Also every block by its hash
    Blocks,
}

impl DepthArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Structure => "structure",
            Self::Sealed => "sealed",
            Self::Blocks => "blocks",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) vault: VaultArg,
    /// The point to restore
    #[arg(value_parser = point)]
    pub(crate) point: PointRef,
    /// Folder to restore into; made when it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Restore only this disk; may be given several times [default: all]
    #[arg(long = "disk", value_name = "NAME")]
    pub(crate) disks: Vec<DiskName>,
    /// Format of the restored disks
    #[arg(long, value_enum, default_value_t = TargetFormat::Raw)]
    pub(crate) format: TargetFormat,
    /// Replace files that exist, each once the new one is complete
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not pin the point: nothing is written to the vault
    #[arg(long)]
    pub(crate) no_pin: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetFormat {
    Raw,
    Qcow2,
}

impl TargetFormat {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// A size, or a percentage with up to three decimal places.
fn budget(text: &str) -> Result<Budget, String> {
    let Some(percent) = text.strip_suffix('%') else {
        let size = crate::bytes::parse(text)?;
        return if size > 0 {
            Ok(Budget::Bytes(size))
        } else {
            Err("a budget of nothing checks nothing".to_owned())
        };
    };
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, "0"));
    let is_digits =
        |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let share = (is_digits(whole, 3) && is_digits(decimals, 3))
        .then(|| format!("{whole}{decimals:0<3}").parse().ok())
        .flatten()
        .filter(|share| (1..=100_000).contains(share));
    share.map(Budget::Millipercent).ok_or_else(|| {
        format!("{text:?} is no share of the vault; write more than 0% and at most 100%, such as 5% or 0.5%")
    })
}

fn point(text: &str) -> Result<PointRef, String> {
    text.parse().map_err(|e: vmkeep::model::PointRefError| {
        crate::error::sentence(&e.to_string(), &crate::error::causes(&e))
    })
}
