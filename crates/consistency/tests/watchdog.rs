//! The watchdog as a process, and a real kill of the process that froze.
//!
//! This program is the test, the parent that is killed, and the watchdog's child, by its first argument.
#![allow(clippy::unwrap_used)] // a test, which clippy cannot see without the usual harness

fn main() {
    #[cfg(unix)]
    unix::main();
}

#[cfg(unix)]
mod unix {
    use std::env;
    use std::io::{self, BufRead, BufReader, Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use vmkeep_consistency::{ProcessWatchdog, Undo, Watchdog, WatchdogEnd, conformance, serve};

    const LONG: Duration = Duration::from_mins(10);

    pub(crate) fn main() {
        let arguments: Vec<String> = env::args().collect();
        match arguments.get(1).map(String::as_str) {
            Some("child") => drop(serve(io::stdin(), io::stdout(), &mut Guest(Path::new(&arguments[2])))),
            Some("parent") => parent(Path::new(&arguments[2]), false),
            Some("freezing-parent") => parent(Path::new(&arguments[2]), true),
            _ => {
                a_killed_parent_leaves_a_thawed_guest();
                a_parent_killed_before_the_freeze_leaves_the_post_script_run();
                the_deadline_thaws_under_a_living_parent();
                the_process_keeps_the_contract();
                a_child_that_does_not_answer_is_no_watchdog();
                println!("watchdog: 5 passed");
            }
        }
    }

    fn watchdog(guest: &Path) -> ProcessWatchdog<impl Fn() -> Command> {
        let guest = guest.to_owned();
        ProcessWatchdog::new(move || {
            let mut command = Command::new(env::current_exe().unwrap());
            command.arg("child").arg(&guest);
            command
        })
    }

    /// To thaw is to connect to the guest's socket and write `t`, to run the post-script is to write `p`.
    struct Guest<'a>(&'a Path);

    impl Undo for Guest<'_> {
        fn thaw(&mut self) {
            UnixStream::connect(self.0).unwrap().write_all(b"t").unwrap();
        }
        fn post_script(&mut self) {
            UnixStream::connect(self.0).unwrap().write_all(b"p").unwrap();
        }
    }

    fn next(listener: &UnixListener) -> String {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    }

    fn parent(guest: &Path, freezes: bool) {
        let mut armed = watchdog(guest).arm().unwrap();
        if freezes {
            armed.freezing(LONG).unwrap();
        }
        println!("ready");
        std::thread::park(); // until the kill
    }

    fn guest(folder: &Path) -> (UnixListener, PathBuf) {
        let path = folder.join("guest");
        (UnixListener::bind(&path).unwrap(), path)
    }

    /// What the watchdog does after the kill of a parent.
    fn killed(how: &str, acts: [&str; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = guest(folder.path());
        let mut parent = Command::new(env::current_exe().unwrap())
            .arg(how)
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "nothing while the parent lives");
        listener.set_nonblocking(false).unwrap();
        parent.kill().unwrap(); // SIGKILL
        parent.wait().unwrap();
        for act in acts.into_iter().filter(|act| !act.is_empty()) {
            assert_eq!(next(&listener), act);
        }
    }

    fn a_killed_parent_leaves_a_thawed_guest() {
        killed("freezing-parent", ["t", "p"]);
    }

    fn a_parent_killed_before_the_freeze_leaves_the_post_script_run() {
        killed("parent", ["p", ""]);
    }

    fn the_deadline_thaws_under_a_living_parent() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = guest(folder.path());
        let mut armed = watchdog(&path).arm().unwrap();
        armed.freezing(Duration::from_millis(1)).unwrap();
        assert_eq!(next(&listener), "t", "thawed at the deadline");
        assert_eq!(armed.thawed(), WatchdogEnd::Fired, "and the parent learns of it");
        armed.freezing(LONG).unwrap();
        assert_eq!(armed.thawed(), WatchdogEnd::Quiet, "the next freeze is another");
        armed.disarm();
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "the post-script is the parent's");
    }

    fn the_process_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = guest(folder.path());
        conformance::watchdog(&watchdog(&path), &mut |expected| {
            // The post-script after a drop may come in between.
            listener.set_nonblocking(expected == WatchdogEnd::Quiet).unwrap();
            loop {
                let Ok((mut stream, _)) = listener.accept() else { return false };
                let mut text = String::new();
                stream.read_to_string(&mut text).unwrap();
                if text == "t" {
                    return true;
                }
            }
        });
    }

    fn a_child_that_does_not_answer_is_no_watchdog() {
        let gone = ProcessWatchdog::new(|| Command::new("/nonexistent/watchdog"));
        assert!(gone.arm().is_err());
        let silent = ProcessWatchdog::new(|| Command::new("true"));
        assert!(silent.arm().is_err());
    }
}
