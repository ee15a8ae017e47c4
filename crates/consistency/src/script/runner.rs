//! Runs the scripts of the settings, wherever they are: retries, one deadline for all runs, the flow around the snapshot.

use std::time::{Duration, Instant};

use super::files::{check_scripts, load};
use super::{Flow, FlowAction, FlowEvent, FlowRules, Precheck, ScriptErrorCode, ScriptFiles, ScriptSettings};
use crate::evidence::{OnGuestFailure, ScriptOutcome, ScriptTrace, ScriptsEvidence};
use crate::port::{Before, Scripts};

/// How much of a script's output is kept: its end.
pub const OUTPUT_BYTES_MAX: usize = 16 * 1024;

/// What a script is told of the job, in its environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptContext {
    /// `VMKEEP_VM`.
    pub vm: String,
    /// `VMKEEP_JOB`.
    pub job: String,
}

/// A script to run.
#[derive(Clone, Copy, Debug)]
pub struct ScriptCommand<'a> {
    /// Its path.
    pub path: &'a str,
    /// Its arguments.
    pub params: &'a [String],
    /// Names and values that its environment has besides.
    pub environment: &'a [(&'a str, &'a str)],
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptEnd {
    /// With exit code 0.
    Succeeded,
    /// In another way, told in words; or it could not be started.
    Failed(String),
    /// It did not; it and everything that it started was killed.
    TimedOut,
}

/// A run of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptRun {
    /// How it ended.
    pub end: ScriptEnd,
    /// The end of what it printed to stdout and stderr, at most [`OUTPUT_BYTES_MAX`].
    pub output: Vec<u8>,
    /// Bytes that were printed before and not kept.
    pub output_dropped: u64,
}

impl ScriptRun {
    /// A run that came to nothing.
    pub fn failed(why: impl Into<String>) -> Self {
        Self { end: ScriptEnd::Failed(why.into()), output: Vec::new(), output_dropped: 0 }
    }
}

/// Where scripts are and run: this machine, or a guest that is reached through its agent.
pub trait ScriptHost: ScriptFiles {
    /// Runs a script and waits for its end. After `limit` it is killed with everything that it started.
    fn run(&self, script: &ScriptCommand<'_>, limit: Duration) -> ScriptRun;
}

/// The owner's scripts around a snapshot.
#[derive(Debug)]
pub struct ScriptRunner<'h> {
    host: &'h dyn ScriptHost,
    settings: Result<ScriptSettings, (ScriptErrorCode, String)>,
    ready: Result<(), (ScriptErrorCode, String)>,
    context: ScriptContext,
    flow: Option<Flow>,
    pre: ScriptOutcome,
    post: ScriptOutcome,
}

impl<'h> ScriptRunner<'h> {
    /// Reads the settings at `path` and checks the scripts. Files must belong to user `owner`, root (0) as a rule.
    /// What is wrong is in the evidence.
    pub fn new(host: &'h dyn ScriptHost, path: &str, owner: u32, context: ScriptContext) -> Self {
        let settings = load(host, path, owner);
        let ready = match &settings {
            Ok(settings) => check_scripts(host, settings, owner),
            Err(error) => Err(error.clone()),
        };
        let (pre, post) = (ScriptOutcome::NotRun, ScriptOutcome::NotRun);
        Self { host, settings, ready, context, flow: None, pre, post }
    }

    /// What stands in the way of running the scripts, and why.
    pub fn problem(&self) -> Option<(ScriptErrorCode, &str)> {
        self.ready.as_ref().err().map(|(code, why)| (*code, &**why))
    }

    /// Runs the post-script by itself, for a watchdog in place of a session that was killed after
    /// [`before`](Scripts::before). Scripts that cannot be run are left.
    pub fn post_script_alone(&mut self) -> &ScriptOutcome {
        if self.ready.is_ok() {
            self.post = self.run(Phase::Post);
        }
        &self.post
    }

    fn run(&self, phase: Phase) -> ScriptOutcome {
        match &self.settings {
            Ok(settings) => phase.run(self.host, settings, &self.context),
            Err((code, message)) => failed(*code, message.clone(), ScriptTrace::default()),
        }
    }
}

impl Scripts for ScriptRunner<'_> {
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

impl Phase {
    fn run(self, host: &dyn ScriptHost, settings: &ScriptSettings, context: &ScriptContext) -> ScriptOutcome {
        use ScriptErrorCode as Code;
        let (path, params, retries, name) = match self {
            Self::Pre => (&settings.pre_script, &settings.pre_params, settings.pre_retries, "pre"),
            Self::Post => (&settings.post_script, &settings.post_params, settings.post_retries, "post"),
        };
        let start = Instant::now();
        let mut trace = ScriptTrace::default();
        let mut end = ScriptEnd::TimedOut;
        for _ in 0..=retries {
            let left = settings.timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                end = ScriptEnd::TimedOut;
                break;
            }
            let environment =
                [("VMKEEP_VM", &*context.vm), ("VMKEEP_JOB", &*context.job), ("VMKEEP_PHASE", name)];
            let run = host.run(&ScriptCommand { path, params, environment: &environment }, left);
            trace.runs += 1;
            trace.output = String::from_utf8_lossy(&run.output).into_owned();
            trace.output_dropped = run.output_dropped;
            end = run.end;
            if !matches!(end, ScriptEnd::Failed(_)) {
                break;
            }
        }
        trace.took = start.elapsed().into();
        match (end, self) {
            (ScriptEnd::Succeeded, _) => ScriptOutcome::Succeeded(trace),
            (ScriptEnd::Failed(why), Self::Pre) => failed(Code::FailedPrepostPreScriptFailed, why, trace),
            (ScriptEnd::Failed(why), Self::Post) => failed(Code::FailedPrepostPostScriptFailed, why, trace),
            (ScriptEnd::TimedOut, phase) => {
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
