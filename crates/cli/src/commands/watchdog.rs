//! The watchdog of a live backup: a process that outlives a kill of the one that froze the guest.
//!
//! Its standard error is the connection to the guest agent: QEMU serves one at a time, and the backup has it.

use std::io;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use vmkeep::consistency::script::{ScriptContext, ScriptRunner};
use vmkeep::consistency::{Undo, serve};
use vmkeep::model::VmName;
use vmkeep::qemu::{QemuAgent, QemuError, thaw_over};

use crate::args::WatchdogArgs;
use crate::error::{Error, Outcome};

/// How long it tries to thaw: an agent that hangs may come back.
const THAW_WITHIN: Duration = Duration::from_mins(30);
/// How long the agent has to answer it.
const AGENT_LIMIT: Duration = Duration::from_secs(10);

/// What starts the watchdog.
pub(super) fn command(
    agent: &QemuAgent,
    scripts: Option<&str>,
    vm: &VmName,
    job: &str,
) -> Result<impl Fn() -> Command, Error> {
    let connection = agent.connection()?;
    let program = std::env::current_exe().map_err(|source| Error::File {
        what: "find the program",
        path: "vmkeep".into(),
        source,
    })?;
    let (socket, scripts) = (agent.socket().to_owned(), scripts.map(str::to_owned));
    let (vm, job) = (vm.to_string(), job.to_owned());
    Ok(move || {
        let Ok(connection) = connection.try_clone() else {
            return Command::new(""); // cannot be started, so nothing is frozen
        };
        let mut command = Command::new(&program);
        command.args(["watchdog", "--vm", &vm, "--job", &job]).arg("--agent").arg(&socket);
        if let Some(scripts) = &scripts {
            command.args(["--scripts", scripts]);
        }
        command.stderr(Stdio::from(connection));
        command
    })
}

struct Guest<'a> {
    agent: Result<QemuAgent, QemuError>,
    args: &'a WatchdogArgs,
}

impl Undo for Guest<'_> {
    fn thaw(&mut self) {
        if let Ok(agent) = &self.agent {
            drop(thaw_over(agent, THAW_WITHIN)); // there is nobody to tell
        }
    }

    fn post_script(&mut self) {
        if let (Ok(agent), Some(path)) = (&self.agent, &self.args.scripts) {
            let context = ScriptContext { vm: self.args.vm.to_string(), job: self.args.job.clone() };
            ScriptRunner::new(agent, path, 0, context).post_script_alone();
        }
    }
}

pub(crate) fn run(args: &WatchdogArgs) -> Result<Outcome, Error> {
    let handle = io::stderr().as_fd().try_clone_to_owned();
    let agent = match handle {
        Ok(connection) => Ok(QemuAgent::from_connection(connection, &args.agent, AGENT_LIMIT)),
        Err(_) => QemuAgent::connect(&args.agent, AGENT_LIMIT),
    };
    serve(io::stdin(), io::stdout(), &mut Guest { agent, args }).map_err(Error::Output)?;
    Ok(Outcome::Good)
}
