//! A watchdog in a process of its own: it outlives a kill of ours.
//!
//! The child is told the deadline in its first line of input and answers `armed`. A byte `d` after that ends it quietly;
//! the end of its input, which comes when the parent dies in whatever way, or the deadline, makes it thaw.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::port::{ArmedWatchdog, Watchdog, WatchdogEnd, WatchdogError};

/// How long a child may take to start.
pub const ARM_TIMEOUT: Duration = Duration::from_secs(10);
/// Exit code of a child that has thawed.
pub const FIRED_EXIT_CODE: u8 = 3;

const DISARM: u8 = b'd';
const LINE_BYTES_MAX: u64 = 32;

/// Starts the child. Its program must call [`serve`] with its standard input and output; an embedder's own executable
/// with a hidden argument will do.
pub struct ProcessWatchdog<F> {
    command: F,
}

impl<F> fmt::Debug for ProcessWatchdog<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessWatchdog").finish_non_exhaustive()
    }
}

impl<F: Fn() -> Command> ProcessWatchdog<F> {
    /// A watchdog whose child is started by what `command` returns; its standard input and output are set here.
    pub fn new(command: F) -> Self {
        Self { command }
    }
}

impl<F: Fn() -> Command> Watchdog for ProcessWatchdog<F> {
    fn arm(&self, deadline: Duration) -> Result<Box<dyn ArmedWatchdog>, WatchdogError> {
        let mut command = (self.command)();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A Ctrl-C for the parent's group is not for the child.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(WatchdogError)?;
        match greet(&mut child, deadline) {
            Ok(input) => Ok(Box::new(Armed { child: Some(child), input: Some(input) })),
            Err(error) => {
                drop(child.kill());
                drop(child.wait());
                Err(WatchdogError(error))
            }
        }
    }
}

fn greet(child: &mut Child, deadline: Duration) -> io::Result<ChildStdin> {
    let missing = || io::Error::other("the child has no pipe");
    let mut input = child.stdin.take().ok_or_else(missing)?;
    let output = child.stdout.take().ok_or_else(missing)?;
    writeln!(input, "{}", deadline.as_millis())?;
    let (sender, answer) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(output.take(LINE_BYTES_MAX)).read_line(&mut line);
        drop(sender.send(read.map(|_| line)));
    });
    let line = answer.recv_timeout(ARM_TIMEOUT).map_err(|_| io::ErrorKind::TimedOut)??;
    if line == "armed\n" {
        Ok(input)
    } else {
        Err(io::Error::other("the child did not say that it is armed"))
    }
}

#[derive(Debug)]
struct Armed {
    child: Option<Child>,
    input: Option<ChildStdin>,
}

impl ArmedWatchdog for Armed {
    fn disarm(mut self: Box<Self>) -> WatchdogEnd {
        let told = self.input.take().is_some_and(|mut input| input.write_all(&[DISARM]).is_ok());
        match self.child.take().map(|mut child| child.wait()) {
            Some(Ok(status)) if told && status.success() => WatchdogEnd::Quiet,
            _ => WatchdogEnd::Fired,
        }
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        // The end of its input is the sign to thaw. It is not waited for: its thaw may hang as ours did.
        drop(self.input.take());
        if let Some(mut child) = self.child.take() {
            thread::spawn(move || drop(child.wait()));
        }
    }
}

/// The child's part: watches until it is told to stop, or calls `thaw`. Returns what it did; the program should then exit
/// with 0 or [`FIRED_EXIT_CODE`].
///
/// # Errors
/// When the first line is not a deadline, or the parent is gone before it was told that all is ready; nothing is
/// frozen then.
pub fn serve(
    input: impl Read + Send + 'static,
    mut output: impl Write,
    thaw: impl FnOnce(),
) -> io::Result<WatchdogEnd> {
    let mut input = BufReader::new(input);
    let mut line = String::new();
    input.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    let millis = line.trim_end().parse().map_err(|_| io::Error::other("the first line is not a deadline"))?;
    let (sender, told) = mpsc::channel();
    thread::spawn(move || {
        let mut byte = [0];
        let disarmed = input.read_exact(&mut byte).is_ok() && byte[0] == DISARM;
        sender.send(disarmed).ok(); // fails only when the deadline came first
    });
    output.write_all(b"armed\n")?;
    output.flush()?;
    match told.recv_timeout(Duration::from_millis(millis)) {
        Ok(true) => Ok(WatchdogEnd::Quiet),
        Ok(false) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            thaw();
            Ok(WatchdogEnd::Fired)
        }
    }
}
