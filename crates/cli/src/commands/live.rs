//! `vmkeep backup --qemu`.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmkeep::backup::DiskKeys;
use vmkeep::consistency::script::{ScriptContext, ScriptRunner};
use vmkeep::consistency::{
    AgentError, ArmedWatchdog, ConsistencyPolicy, FreezeReport, FreezeState, GuestAgent, GuestOs, NoScripts,
    ProcessWatchdog, ProvisioningState, Request, Scripts, SystemMonotonic, VmState, Wanted, Watchdog,
    WatchdogEnd, WatchdogError,
};
use vmkeep::live::{self, LiveDisk, LivePlan, LivePorts, LiveReport};
use vmkeep::model::{DiskDescription, DiskName, DiskRole, Labels, VmDescription, VmName};
use vmkeep::qemu::{QemuAgent, Qmp, VmDisk, disks, power};

use super::backup::{Captured, labels, open_vault, print, read_config, settings};
use super::watchdog;
use crate::args::{BackupArgs, GuestArgs, WantedArg};
use crate::context::Context;
use crate::disk_arg::{DiskArg, DiskFrom};
use crate::error::{Error, Outcome, chain};
use crate::output;
use crate::progress::Progress;

/// How long QEMU may take to answer.
const QMP_LIMIT: Duration = Duration::from_secs(30);

/// A VM that runs, and whoever can be talked to.
pub(super) struct Machine {
    pub(super) qmp: Qmp,
    pub(super) agent: Option<QemuAgent>,
    /// The agent that was named and cannot be talked to.
    pub(super) silent: Option<Silent>,
    pub(super) disks: Vec<LiveDisk>,
    pub(super) known: Vec<VmDisk>,
    pub(super) request: Request,
}

impl Machine {
    pub(super) fn connect(
        vm: &VmName,
        qemu: &Path,
        named: &[DiskArg],
        guest: &GuestArgs,
    ) -> Result<Self, Error> {
        let mut qmp = Qmp::connect(qemu, QMP_LIMIT)?;
        let wanted = Wanted::from(guest.consistency.unwrap_or(WantedArg::Best));
        let (mut agent, mut silent) = (None, None);
        // A guest that is to be left alone is not asked anything either.
        let socket = guest.agent.as_deref().filter(|_| wanted != Wanted::CrashOnly);
        match socket.map(|socket| QemuAgent::connect(socket, guest.agent_limit)) {
            Some(Ok(connected)) => agent = Some(connected),
            Some(Err(error)) => silent = Some(Silent(error.into_agent_error(guest.agent_limit))),
            None => {}
        }
        let os = match &agent {
            Some(agent) => agent.os().unwrap_or(GuestOs::Other),
            None => GuestOs::Other,
        };
        let known = disks(&mut qmp)?;
        let disks = chosen(&known, named)?;
        let descriptions: Vec<DiskDescription> = disks.iter().map(|disk| disk.description.clone()).collect();
        VmDescription::new(vm.clone(), descriptions).map_err(Error::usage)?;
        let state = VmState { provisioning: ProvisioningState::Succeeded, power: power(&mut qmp)?, os };
        let request = Request {
            policy: ConsistencyPolicy { wanted, ..ConsistencyPolicy::default() },
            attempt: guest.attempt,
            deadline: guest.freeze_limit,
            agent_timeout: guest.agent_limit,
            ..Request::new(state)
        };
        Ok(Self { qmp, agent, silent, disks, known, request })
    }

    /// The disks to store, and how.
    pub(super) fn plan<'k>(
        &self,
        vm: &VmName,
        guest: &GuestArgs,
        scratch: PathBuf,
        keys: Vec<DiskKeys<'k>>,
    ) -> LivePlan<'k> {
        LivePlan {
            vm: vm.clone(),
            disks: self.disks.clone(),
            request: self.request.clone(),
            keys,
            labels: Labels::default(),
            config: None,
            scratch,
            scratch_bytes_max: guest.scratch_size,
            retries: guest.retries,
        }
    }
}

pub(super) fn run(context: &Context<'_>, args: &BackupArgs) -> Result<Outcome, Error> {
    let (report, outcome) = make(context, args)?;
    print(context, &report.backup, Some(&report));
    Ok(outcome)
}

/// Makes a point, and prints nothing but progress.
pub(super) fn make(context: &Context<'_>, args: &BackupArgs) -> Result<(LiveReport, Outcome), Error> {
    let Some(qemu) = &args.live.qemu else { return Err(Error::usage("--qemu SOCKET is missing")) };
    let guest = &args.live.guest;
    let settings = settings(args)?;
    let config = args.config.as_deref().map(read_config).transpose()?;
    let mut machine = Machine::connect(&args.vm, qemu, &args.disks, guest)?;
    if let Some(Silent(error)) = &machine.silent {
        output::note(&error.to_string());
    }
    let scratch = scratch(guest.scratch.as_deref(), qemu)?;
    let names: Vec<&DiskName> = machine.disks.iter().map(|disk| &disk.description.name).collect();
    let captured = Captured::open(context, &args.disk_keys, &names)?;
    let vault = open_vault(context, args)?;
    let permit = context.permit(&vault, Some(&args.vm))?;
    let labels = labels(&vault, args)?;
    let plan = LivePlan { config, labels, ..machine.plan(&args.vm, guest, scratch, captured.keys()?) };
    let job = plan.request.attempt.to_string();

    let mut no_scripts = NoScripts;
    let mut runner;
    let scripts: &mut dyn Scripts = match (&machine.agent, &guest.scripts) {
        (Some(agent), Some(path)) => {
            let script_context = ScriptContext { vm: args.vm.to_string(), job: job.clone() };
            runner = ScriptRunner::new(agent, path, 0, script_context);
            &mut runner
        }
        _ => &mut no_scripts,
    };
    let process;
    let watchdog: &dyn Watchdog = match &machine.agent {
        Some(agent) => {
            let command = watchdog::command(agent, guest.scripts.as_deref(), &args.vm, &job)?;
            process = ProcessWatchdog::new(command);
            &process
        }
        None => &NothingToUndo,
    };
    let progress = Progress::new(context.output);
    let ports = LivePorts {
        qmp: &mut machine.qmp,
        agent: match (&machine.agent, &machine.silent) {
            (Some(agent), _) => Some(agent),
            (None, Some(silent)) => Some(silent),
            (None, None) => None,
        },
        scripts,
        watchdog,
        clock: &SystemMonotonic::default(),
    };
    let report = live::run(&permit, &vault, &plan, ports, &settings, &progress, context.cancel)?;
    let outcome = if progress.met_damage() { Outcome::Damage } else { Outcome::Good };
    drop(progress);
    if let Some(error) = &report.unsettled {
        output::note(&format!("the snapshot did not end as it should: {}", chain(error).join(": ")));
    }
    Ok((report, outcome))
}

/// An agent that did not answer at first, so that nothing is asked of it.
#[derive(Debug)]
pub(super) struct Silent(pub(super) AgentError);

impl GuestAgent for Silent {
    fn freeze(&self, _: Duration) -> Result<FreezeReport, AgentError> {
        Err(self.0.clone())
    }

    fn thaw(&self, _: Duration) -> Result<usize, AgentError> {
        Ok(0)
    }

    fn status(&self, _: Duration) -> Result<FreezeState, AgentError> {
        Err(self.0.clone())
    }
}

/// Where nobody can be talked to, nothing is done to the guest.
#[derive(Debug)]
struct NothingToUndo;

impl Watchdog for NothingToUndo {
    fn arm(&self) -> Result<Box<dyn ArmedWatchdog>, WatchdogError> {
        Ok(Box::new(Self))
    }
}

impl ArmedWatchdog for NothingToUndo {
    fn freezing(&mut self, _: Duration) -> Result<(), WatchdogError> {
        Ok(())
    }

    fn thawed(&mut self) -> WatchdogEnd {
        WatchdogEnd::Quiet
    }

    fn thaw(&mut self) {}

    fn disarm(self: Box<Self>) {}
}

/// The disks of the command line, or all of them.
fn chosen(known: &[VmDisk], named: &[DiskArg]) -> Result<Vec<LiveDisk>, Error> {
    if named.is_empty() {
        let mut taken = BTreeSet::new();
        let disk = |(index, disk): (usize, &VmDisk)| {
            let (device, node) = (name(&disk.device), name(&disk.node));
            let name = [device, node].into_iter().flatten().find(|name| taken.insert(name.clone()));
            let name = name.ok_or_else(|| {
                Error::usage(format!("node {} has no name to use; give --disk NAME={0}", disk.node))
            })?;
            let role = if index == 0 { DiskRole::Os } else { DiskRole::Data };
            Ok(LiveDisk { description: DiskDescription { name, role, lun: None }, node: disk.node.clone() })
        };
        let disks: Vec<LiveDisk> = known
            .iter()
            .filter(|disk| disk.is_writable)
            .enumerate()
            .map(disk)
            .collect::<Result<_, Error>>()?;
        return if disks.is_empty() { Err(Error::usage("the VM has no disk")) } else { Ok(disks) };
    }
    let disk = |arg: &DiskArg| {
        let node = match &arg.from {
            DiskFrom::Path { path, format: None } => path.display().to_string(),
            _ => return Err(Error::usage("with --qemu a disk is NAME=NODE[,role=..][,lun=..]")),
        };
        if !known.iter().any(|disk| disk.node == node) {
            let there: Vec<&str> = known.iter().map(|disk| &*disk.node).collect();
            let there = there.join(", ");
            return Err(Error::usage(format!("the VM has no disk with node {node:?}; it has: {there}")));
        }
        Ok(LiveDisk { description: arg.description.clone(), node })
    };
    named.iter().map(disk).collect()
}

/// A name for a disk, made of a name in QEMU.
fn name(text: &str) -> Option<DiskName> {
    let text = text.trim_start_matches('#').to_ascii_lowercase();
    text.parse().ok()
}

/// The folder of scratch images: the one that is given, or one of ours in the folder for temporary files, which is the same
/// each time for one QEMU, so that what a killed backup left is found. It holds what was on the guest's disks.
fn scratch(given: Option<&Path>, qemu: &Path) -> Result<PathBuf, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { what: "use as scratch folder", path, source }
    };
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => {
            let mut hasher = DefaultHasher::new();
            qemu.canonicalize().unwrap_or_else(|_| qemu.to_owned()).hash(&mut hasher);
            std::env::temp_dir().join(format!("vmkeep-{:016x}", hasher.finish()))
        }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed(&folder))?;
    let folder = folder.canonicalize().map_err(failed(&folder))?;
    if given.is_none() {
        let (facts, me) = (fs::metadata(&folder).map_err(failed(&folder))?, fs::metadata("/proc/self"));
        let is_ours = me.map_err(failed(&folder))?.uid() == facts.uid() && facts.mode() & 0o777 == 0o700;
        if !is_ours {
            let what = "is not of this user alone; give a folder with --scratch".to_owned();
            return Err(Error::Content { path: folder, what });
        }
    }
    Ok(folder)
}
