//! A watchdog in a process of its own: it outlives a kill of ours.
//!
//! ```text
//! parent ─► child   freezing MILLIS   thawed           thaw   done
//! child ─► parent   armed   ok        quiet | fired
//! ```
//!
//! One word a line. The end of the child's input before `done`, which comes when the parent dies in whatever way, makes it
//! undo everything; the deadline after `freezing` makes it thaw.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::port::{ArmedWatchdog, Watchdog, WatchdogEnd, WatchdogError};

/// How long a child may take to start, and to answer.
pub const ARM_TIMEOUT: Duration = Duration::from_secs(10);

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
    fn arm(&self) -> Result<Box<dyn ArmedWatchdog>, WatchdogError> {
        let mut command = (self.command)();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // A Ctrl-C for the parent's group is not for the child.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(WatchdogError)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let pipes = pipes.ok_or_else(|| WatchdogError(io::Error::other("the child has no pipes")))?;
        let mut armed = Box::new(Armed { child: Some(child), input: Some(pipes.0), answers: lines(pipes.1) });
        match armed.expect("armed") {
            Ok(()) => Ok(armed),
            Err(error) => {
                armed.kill();
                Err(WatchdogError(error))
            }
        }
    }
}

/// The lines of `input`, as they come; disconnected at its end, and at a line that is none of the protocol.
fn lines(input: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut input = BufReader::new(input);
        loop {
            let mut line = String::new();
            let read = input.by_ref().take(LINE_BYTES_MAX).read_line(&mut line);
            let whole = read.is_ok() && line.ends_with('\n');
            if !whole || sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

#[derive(Debug)]
struct Armed {
    child: Option<Child>,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Armed {
    fn tell(&mut self, line: fmt::Arguments<'_>) -> io::Result<()> {
        let input = self.input.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        input.write_all(format!("{line}\n").as_bytes())
    }

    fn answer(&mut self) -> io::Result<String> {
        self.answers.recv_timeout(ARM_TIMEOUT).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
            RecvTimeoutError::Disconnected => io::Error::other("the child has ended"),
        })
    }

    /// Ends a child that never was ready.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    fn expect(&mut self, word: &str) -> io::Result<()> {
        match self.answer()? {
            answer if answer == word => Ok(()),
            answer => Err(io::Error::other(format!("the child said {answer:?} and not {word:?}"))),
        }
    }
}

impl ArmedWatchdog for Armed {
    fn freezing(&mut self, deadline: Duration) -> Result<(), WatchdogError> {
        let told = self.tell(format_args!("freezing {}", deadline.as_millis()));
        told.and_then(|()| self.expect("ok")).map_err(WatchdogError)
    }

    fn thawed(&mut self) -> WatchdogEnd {
        let told = self.tell(format_args!("thawed"));
        match told.and_then(|()| self.answer()).as_deref() {
            Ok("quiet") => WatchdogEnd::Quiet,
            _ => WatchdogEnd::Fired,
        }
    }

    fn thaw(&mut self) {
        drop(self.tell(format_args!("thaw"))); // a child that is gone has thawed
    }

    fn disarm(mut self: Box<Self>) {
        drop(self.tell(format_args!("done")));
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        // The end of its input is the sign to undo. It is not waited for: its thaw may hang as ours did.
        drop(self.input.take());
        if let Some(mut child) = self.child.take() {
            thread::spawn(move || drop(child.wait()));
        }
    }
}

/// What the child does in place of the session.
pub trait Undo {
    /// Thaws the guest, whether it is frozen or not. It may be called more than once.
    fn thaw(&mut self);

    /// Runs the post-script.
    fn post_script(&mut self);
}

/// The child's part: watches until it is told that all is done, and undoes what nobody else did.
///
/// # Errors
/// When the parent cannot be told that all is ready; nothing was done to the guest then.
pub fn serve(
    input: impl Read + Send + 'static,
    mut output: impl Write,
    undo: &mut dyn Undo,
) -> io::Result<WatchdogEnd> {
    let told = lines(input);
    let mut say = |word: &str| writeln!(output, "{word}").and_then(|()| output.flush());
    say("armed")?;
    let mut deadline: Option<Instant> = None;
    let (mut is_frozen, mut end) = (false, WatchdogEnd::Quiet);
    loop {
        let line = match deadline {
            None => told.recv().ok(),
            Some(at) => match told.recv_timeout(at.saturating_duration_since(Instant::now())) {
                Ok(line) => Some(line),
                Err(RecvTimeoutError::Disconnected) => None,
                Err(RecvTimeoutError::Timeout) => {
                    undo.thaw();
                    (deadline, end) = (None, WatchdogEnd::Fired);
                    continue;
                }
            },
        };
        let line = line.unwrap_or_default();
        let (word, millis) = line.split_once(' ').unwrap_or((&line, ""));
        // What a parent that has died is told is lost; the end of its input comes next.
        match (word, millis.parse().ok().map(Duration::from_millis)) {
            ("freezing", Some(limit)) => {
                (deadline, is_frozen, end) = (Instant::now().checked_add(limit), true, WatchdogEnd::Quiet);
                drop(say("ok"));
            }
            ("thawed", None) => {
                (deadline, is_frozen) = (None, false);
                drop(say(if end == WatchdogEnd::Quiet { "quiet" } else { "fired" }));
            }
            ("thaw", None) => {
                undo.thaw();
                deadline = None;
            }
            ("done", None) => return Ok(end),
            _ => {
                if is_frozen {
                    undo.thaw();
                }
                undo.post_script();
                return Ok(WatchdogEnd::Fired);
            }
        }
    }
}
