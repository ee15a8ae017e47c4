//! Runs scripts on Unix: in a process group of their own, with a deadline that kills.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::files::{check_scripts, load};
use super::{Flow, FlowAction, FlowEvent, FlowRules, Precheck, ScriptErrorCode, ScriptFiles, ScriptSettings};
use crate::evidence::{OnGuestFailure, ScriptOutcome, ScriptTrace, ScriptsEvidence};
use crate::port::{Before, Scripts};

/// How much of a script's output is kept: its end.
pub const OUTPUT_BYTES_MAX: usize = 16 * 1024;
/// How long output is waited for after a script's end: a daemon that it started may hold the pipe for ever.
const OUTPUT_WAIT: Duration = Duration::from_millis(500);

/// What a script is told of the job, in its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptContext {
    /// `VMKEEP_VM`.
    pub vm: String,
    /// `VMKEEP_JOB`.
    pub job: String,
}

/// The owner's scripts, run by this process where it runs: inside the guest.
#[derive(Debug)]
pub struct ScriptRunner {
    settings: Result<ScriptSettings, (ScriptErrorCode, String)>,
    ready: Result<(), (ScriptErrorCode, String)>,
    context: ScriptContext,
    flow: Option<Flow>,
    pre: ScriptOutcome,
    post: ScriptOutcome,
}

impl ScriptRunner {
    /// Reads the settings at `path` and checks the scripts. Files must belong to user `owner`, root (0) as a rule.
    /// What is wrong is in the evidence.
    pub fn new(files: &dyn ScriptFiles, path: &str, owner: u32, context: ScriptContext) -> Self {
        let settings = load(files, path, owner);
        let ready = match &settings {
            Ok(settings) => check_scripts(files, settings, owner),
            Err(error) => Err(error.clone()),
        };
        Self { settings, ready, context, flow: None, pre: ScriptOutcome::NotRun, post: ScriptOutcome::NotRun }
    }

    fn run(&self, phase: Phase) -> ScriptOutcome {
        match &self.settings {
            Ok(settings) => phase.run(settings, &self.context),
            Err((code, message)) => failed(*code, message.clone(), ScriptTrace::default()),
        }
    }
}

impl Scripts for ScriptRunner {
    fn before(&mut self, disks: usize) -> Before {
        let rules = FlowRules {
            // Settings that could not be read say nothing, so the default holds.
            continue_on_failure: self.settings.as_ref().map_or(true, |settings| settings.continue_on_failure),
            fs_freeze: self.settings.as_ref().map_or(true, |settings| settings.fs_freeze),
            disks,
        };
        let precheck = match &self.ready {
            Ok(()) => Precheck::Clean,
            Err((code, message)) => {
                self.pre = failed(*code, message.clone(), ScriptTrace::default());
                Precheck::Failed(*code)
            }
        };
        let mut flow = Flow::new(rules, precheck);
        if flow.action() == FlowAction::RunPre {
            self.pre = self.run(Phase::Pre);
            let event = if self.pre.succeeded() { FlowEvent::Succeeded } else { FlowEvent::Failed };
            flow = flow.advance(event);
        }
        self.flow = Some(flow);
        match flow.action() {
            FlowAction::Freeze => Before::Freeze,
            FlowAction::Snapshot => Before::SnapshotOnly,
            _ => Before::Stop,
        }
    }

    fn after(&mut self) {
        if self.flow.take().is_some_and(|flow| flow.owes_post()) {
            self.post = self.run(Phase::Post);
        }
    }

    fn evidence(&self) -> ScriptsEvidence {
        match &self.ready {
            Err((code, _)) if code.means_not_configured() => {
                ScriptsEvidence::NotConfigured { code: Some(code.number()) }
            }
            _ => ScriptsEvidence::Configured { pre: self.pre.clone(), post: self.post.clone() },
        }
    }

    fn on_failure(&self) -> OnGuestFailure {
        match &self.settings {
            Ok(settings) if !settings.continue_on_failure => OnGuestFailure::Refuse,
            _ => OnGuestFailure::Degrade,
        }
    }
}

fn failed(code: ScriptErrorCode, message: String, trace: ScriptTrace) -> ScriptOutcome {
    ScriptOutcome::Failed { code: code.number(), message, trace }
}

#[derive(Clone, Copy)]
enum Phase {
    Pre,
    Post,
}

enum RunEnd {
    Succeeded,
    Failed(String),
    TimedOut,
}

impl Phase {
    fn run(self, settings: &ScriptSettings, context: &ScriptContext) -> ScriptOutcome {
        use ScriptErrorCode as Code;
        let (path, params, retries, name) = match self {
            Self::Pre => (&settings.pre_script, &settings.pre_params, settings.pre_retries, "pre"),
            Self::Post => (&settings.post_script, &settings.post_params, settings.post_retries, "post"),
        };
        let start = Instant::now();
        let mut trace = ScriptTrace::default();
        let mut end = RunEnd::TimedOut;
        for _ in 0..=retries {
            let left = settings.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                end = RunEnd::TimedOut;
                break;
            }
            let mut command = Command::new(path);
            command.args(params).env("VMKEEP_VM", &context.vm).env("VMKEEP_JOB", &context.job);
            command.env("VMKEEP_PHASE", name);
            trace.runs += 1;
            end = run_once(command, left, &mut trace);
            if !matches!(end, RunEnd::Failed(_)) {
                break;
            }
        }
        trace.took = start.elapsed().into();
        match (end, self) {
            (RunEnd::Succeeded, _) => ScriptOutcome::Succeeded(trace),
            (RunEnd::Failed(why), Self::Pre) => failed(Code::FailedPrepostPreScriptFailed, why, trace),
            (RunEnd::Failed(why), Self::Post) => failed(Code::FailedPrepostPostScriptFailed, why, trace),
            (RunEnd::TimedOut, phase) => {
                let code = match phase {
                    Self::Pre => Code::FailedPrepostPreScriptTimeout,
                    Self::Post => Code::FailedPrepostPostScriptTimeout,
                };
                failed(
                    code,
                    format!("not done after {:?}; its process group was killed", settings.timeout),
                    trace,
                )
            }
        }
    }
}

fn run_once(mut command: Command, limit: Duration, trace: &mut ScriptTrace) -> RunEnd {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return RunEnd::Failed(format!("cannot be started: {error}")),
    };
    let tail = Arc::new(Mutex::new(Tail::default()));
    let (sender, drained) = mpsc::channel();
    if let Some(output) = child.stdout.take() {
        drain(output, tail.clone(), sender.clone());
    }
    if let Some(output) = child.stderr.take() {
        drain(output, tail.clone(), sender.clone());
    }
    drop(sender);
    let ended = watch(&child).recv_timeout(limit).is_ok();
    if !ended {
        kill_group(&mut child);
    }
    let status = child.wait();
    let patience = Instant::now();
    // Each drain sends once; an error is that both have, or that somebody else holds the pipe.
    while drained.recv_timeout(OUTPUT_WAIT.saturating_sub(patience.elapsed())).is_ok() {}
    let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    trace.output = String::from_utf8_lossy(&tail.bytes.iter().copied().collect::<Vec<u8>>()).into_owned();
    trace.output_dropped = tail.dropped;
    match status {
        _ if !ended => RunEnd::TimedOut,
        Ok(status) if status.success() => RunEnd::Succeeded,
        Ok(status) => RunEnd::Failed(status.to_string()),
        Err(error) => RunEnd::Failed(format!("cannot be waited for: {error}")),
    }
}

/// Tells when the child has ended and leaves it unreaped, so that its process id stays its own.
fn watch(child: &Child) -> Receiver<()> {
    let (sender, ended) = mpsc::channel();
    let id = Pid::from_child(child);
    thread::spawn(move || {
        while waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            .is_err_and(|error| error == rustix::io::Errno::INTR)
        {}
        sender.send(()).ok(); // fails only when the deadline came first
    });
    ended
}

fn kill_group(child: &mut Child) {
    if kill_process_group(Pid::from_child(child), Signal::KILL).is_err() {
        child.kill().ok(); // the group is gone, the child at most a zombie
    }
}

#[derive(Default)]
struct Tail {
    bytes: VecDeque<u8>,
    dropped: u64,
}

fn drain(mut output: impl Read + Send + 'static, tail: Arc<Mutex<Tail>>, sender: mpsc::Sender<()>) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.bytes.extend(&buffer[..count]);
            let surplus = tail.bytes.len().saturating_sub(OUTPUT_BYTES_MAX);
            tail.bytes.drain(..surplus);
            tail.dropped += u64::try_from(surplus).unwrap_or(u64::MAX);
        }
        sender.send(()).ok(); // nobody waits any more when the script left a daemon
    });
}
