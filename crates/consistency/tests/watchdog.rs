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
    use std::io::{self, BufRead, BufReader};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use vmkeep_consistency::{FIRED_EXIT_CODE, ProcessWatchdog, Watchdog, WatchdogEnd, conformance, serve};

    const LONG: Duration = Duration::from_mins(10);

    pub(crate) fn main() {
        let arguments: Vec<String> = env::args().collect();
        match arguments.get(1).map(String::as_str) {
            Some("child") => {
                let code = child(Path::new(&arguments[2]));
                std::process::exit(i32::from(code == WatchdogEnd::Fired) * i32::from(FIRED_EXIT_CODE));
            }
            Some("parent") => parent(Path::new(&arguments[2])),
            _ => {
                a_killed_parent_leaves_a_thawed_guest();
                the_deadline_thaws_under_a_living_parent();
                the_process_keeps_the_contract();
                a_child_that_does_not_answer_is_no_watchdog();
                println!("watchdog: 4 passed");
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

    /// To thaw is to connect to the guest's socket.
    fn child(guest: &Path) -> WatchdogEnd {
        serve(io::stdin(), io::stdout(), || drop(UnixStream::connect(guest).unwrap())).unwrap()
    }

    fn parent(guest: &Path) {
        let _armed = watchdog(guest).arm(LONG).unwrap();
        println!("frozen");
        std::thread::park(); // until the kill
    }

    fn guest(folder: &Path) -> (UnixListener, PathBuf) {
        let path = folder.join("guest");
        (UnixListener::bind(&path).unwrap(), path)
    }

    fn a_killed_parent_leaves_a_thawed_guest() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = guest(folder.path());
        let mut parent = Command::new(env::current_exe().unwrap())
            .arg("parent")
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "frozen\n");
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "not thawed while the parent lives");
        listener.set_nonblocking(false).unwrap();
        parent.kill().unwrap(); // SIGKILL
        parent.wait().unwrap();
        listener.accept().expect("thawed by the watchdog");
    }

    fn the_deadline_thaws_under_a_living_parent() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = guest(folder.path());
        let armed = watchdog(&path).arm(Duration::from_millis(1)).unwrap();
        listener.accept().expect("thawed at the deadline");
        assert_eq!(armed.disarm(), WatchdogEnd::Fired, "and the parent learns of it");
    }

    fn the_process_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, path) = guest(folder.path());
        conformance::watchdog(&watchdog(&path), &mut |expected| {
            listener.set_nonblocking(expected == WatchdogEnd::Quiet).unwrap();
            listener.accept().is_ok()
        });
    }

    fn a_child_that_does_not_answer_is_no_watchdog() {
        let gone = ProcessWatchdog::new(|| Command::new("/nonexistent/watchdog"));
        assert!(gone.arm(LONG).is_err());
        let silent = ProcessWatchdog::new(|| Command::new("true"));
        assert!(silent.arm(LONG).is_err());
    }
}
