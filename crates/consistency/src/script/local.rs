//! Scripts of this machine, on Unix: in a process group of their own, with a deadline that kills.

use std::collections::VecDeque;
use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::files::SystemFiles;
use super::runner::{OUTPUT_BYTES_MAX, ScriptCommand, ScriptEnd, ScriptHost, ScriptRun};

/// How long output is waited for after a script's end: a daemon that it started may hold the pipe for ever.
const OUTPUT_WAIT: Duration = Duration::from_millis(500);

impl ScriptHost for SystemFiles {
    fn run(&self, script: &ScriptCommand<'_>, limit: Duration) -> ScriptRun {
        let mut command = Command::new(script.path);
        command.args(script.params).envs(script.environment.iter().copied());
        run_once(command, limit)
    }
}

fn run_once(mut command: Command, limit: Duration) -> ScriptRun {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return ScriptRun::failed(format!("cannot be started: {error}")),
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
    let end = match status {
        _ if !ended => ScriptEnd::TimedOut,
        Ok(status) if status.success() => ScriptEnd::Succeeded,
        Ok(status) => ScriptEnd::Failed(status.to_string()),
        Err(error) => ScriptEnd::Failed(format!("cannot be waited for: {error}")),
    };
    ScriptRun { end, output: tail.bytes.iter().copied().collect(), output_dropped: tail.dropped }
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
