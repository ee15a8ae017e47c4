//! A real guest that writes all the time, backed up by the real program: every level of consistency, twelve points through
//! everything that can happen to a guest, its QEMU and ours; and a vault too slow to keep up with it.
//!
//! The guest is that of `cargo xtask guest`. All changes are checked against a full scan of the same snapshot: the audit
//! reads every block that the bitmap calls unchanged.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use harness::Scratch;
use serde_json::{Value, json};
use vmkeep::consistency::script::{ScriptCommand, ScriptHost};
use vmkeep::consistency::{FreezeState, GuestAgent, conformance};
use vmkeep::qemu::{QemuAgent, QemuError, Qmp};
use vmkeep_testkit::qemu_guest::{QemuGuest, Restored, run};

const LIMIT: Duration = Duration::from_mins(2);
const FULL_AUDIT: &str = "--audit-rate 100%";

/// Prints past the capture of the test's output: how long the guest waited is to be seen, also of a test that passes.
fn show(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Tries until there is somebody at the socket.
fn until<T>(connect: impl Fn() -> Result<T, QemuError>) -> T {
    let start = Instant::now();
    loop {
        match connect() {
            Ok(connection) => return connection,
            Err(error) if start.elapsed() > LIMIT => panic!("{error}"),
            Err(_) => thread::yield_now(),
        }
    }
}

fn agent(guest: &QemuGuest) -> QemuAgent {
    until(|| QemuAgent::connect(&guest.agent(), LIMIT))
}

fn monitor(guest: &QemuGuest) -> Qmp {
    until(|| Qmp::connect(&guest.second_qmp(), LIMIT))
}

/// Runs a line of shell in the guest and returns what it printed.
fn shell(agent: &QemuAgent, line: &str) -> String {
    let params = ["-c".to_owned(), line.to_owned()];
    let run = agent.run(&ScriptCommand { path: "/bin/sh", params: &params, environment: &[] }, LIMIT);
    assert_eq!(run.end, vmkeep::consistency::script::ScriptEnd::Succeeded, "{line}: {run:?}");
    String::from_utf8(run.output).unwrap()
}

/// The newest line of the guest's log: its number, and the guest's uptime in seconds.
fn newest_line(agent: &QemuAgent) -> (u64, f64) {
    let line = shell(agent, "tail -n 1 /disks/vda/log");
    let mut words = line.split_whitespace().skip(1);
    (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap())
}

/// Waits until the guest has written `lines` more lines.
fn let_it_write(agent: &QemuAgent, lines: u64) {
    let (from, _) = newest_line(agent);
    let start = Instant::now();
    while newest_line(agent).0 < from + lines {
        assert!(start.elapsed() < LIMIT, "the guest writes no more");
    }
}

struct Scene {
    scratch: Scratch,
    guest: QemuGuest,
    /// Lines and rows of the newest point.
    last: (u64, u64),
}

impl Scene {
    fn new() -> Option<Self> {
        let scratch = Scratch::with_vault();
        fs::create_dir(scratch.path("scratch")).unwrap();
        let mut guest = QemuGuest::create(&scratch.path(""))?;
        guest.start();
        let scene = Self { scratch, guest, last: (0, 0) };
        let agent = agent(&scene.guest);
        let_it_write(&agent, 50);
        Some(scene)
    }

    fn words(options: &str) -> String {
        format!("backup --vm web --qemu qmp.sock --scratch scratch {FULL_AUDIT} {options}")
    }

    fn back_up(&self, options: &str) -> Value {
        let summary = self.scratch.summary(&Self::words(options));
        show(&format!(
            "{}: {}, frozen for {} ms, {} bytes read, {} stored",
            summary["point"],
            summary["consistency"],
            summary["frozen_ms"],
            summary["bytes_read"],
            summary["bytes_stored"]
        ));
        summary
    }

    /// Restores a point to raw images and checks what holds at every level: the point goes on from the one before.
    fn restored(&mut self, summary: &Value, level: &str) {
        assert_eq!(summary["consistency"], level, "{summary}");
        let point = summary["point"].as_str().unwrap();
        self.scratch.ok(&format!("restore {point} --vault v --key-file key --to out --force"));
        let folder = self.scratch.path("");
        let disks = ["out/vd0.raw", "out/vd1.raw"].map(|name| self.scratch.path(name));
        let restored = Restored::new(&folder, disks[0].clone(), disks[1].clone());
        match level {
            "application" => {
                assert!(restored.is_clean(), "{point}: nothing to replay");
                assert_eq!(restored.database_log(), 0, "{point}: the database is at rest");
            }
            "file-system" => assert!(restored.is_clean(), "{point}: nothing to replay"),
            _ => {
                assert!(!restored.is_clean(), "{point}: of a mounted file system that nobody froze");
                restored.replay();
            }
        }
        let now = (restored.lines(), restored.rows());
        show(&format!("{point}: {} lines, {} rows", now.0, now.1));
        assert!(now.0 >= self.last.0 && now.1 >= self.last.1, "{point}: {now:?} after {:?}", self.last);
        self.last = now;
    }

    /// How each disk's changes were known: by the bitmap, or why not.
    fn tracking(summary: &Value) -> Vec<String> {
        let of = |disk: &Value| match (&disk["tracking"], &disk["fallback"]) {
            (Value::Object(tracking), Value::Null) => tracking["method"].as_str().unwrap().to_owned(),
            (_, Value::String(why)) => why.clone(),
            (_, _) => disk["change"].as_str().unwrap().to_owned(),
        };
        summary["disks"].as_array().unwrap().iter().map(of).collect()
    }
}

const BOTH: [&str; 2] = ["block status", "block status"];
const AGENT: &str = "--agent qga.sock";

#[test]
fn a_guest_that_writes_all_the_time() {
    let Some(mut scene) = Scene::new() else { return };
    scene.levels();
    scene.incidents();
    scene.kills();
    scene.boots_again();
    scene.scratch.ok("verify --vault v --key-file key");
}

impl Scene {
    fn levels(&mut self) {
        let inspect = format!("inspect --vm web --qemu qmp.sock {AGENT} --scripts {}", QemuGuest::SCRIPTS);
        let seen = self.scratch.summary(&inspect);
        assert_eq!(
            (&seen["consistency"], &seen["agent"], &seen["scripts"], &seen["since"]),
            (&json!("application"), &json!("answers"), &json!("ready"), &Value::Null),
            "{seen}"
        );
        conformance::guest_agent(&agent(&self.guest));

        let first = self.back_up(AGENT);
        assert_eq!(Self::tracking(&first), ["appeared", "appeared"]);
        self.restored(&first, "file-system");
        let_it_write(&agent(&self.guest), 20);
        let scripts = format!("{AGENT} --scripts {} --consistency app", QemuGuest::SCRIPTS);
        let second = self.back_up(&scripts);
        assert_eq!(Self::tracking(&second), BOTH);
        self.restored(&second, "application");
        let_it_write(&agent(&self.guest), 20);
        let third = self.back_up("");
        assert_eq!(Self::tracking(&third), BOTH);
        self.restored(&third, "crash");
        let refused = self.scratch.json(&Self::words("--consistency fs")).expect(1, "there is no agent");
        assert!(refused.stderr.contains("crash-consistent only"), "{}", refused.stderr);
        let_it_write(&agent(&self.guest), 20);
        let fourth = self.back_up(&scripts);
        assert_eq!(Self::tracking(&fourth), BOTH, "the refused attempt lost no changes");
        self.restored(&fourth, "application");
    }

    fn incidents(&mut self) {
        // A reboot: the guest's file systems replay their journals, QEMU and its bitmaps live on.
        monitor(&self.guest).execute("system_reset", json!({})).unwrap();
        let_it_write(&agent(&self.guest), 20);
        let after = self.back_up(AGENT);
        assert_eq!(Self::tracking(&after), BOTH);
        self.restored(&after, "file-system");

        // QEMU ended and started again: its bitmaps are in the images.
        self.end_and_start();
        let after = self.back_up(AGENT);
        assert_eq!(Self::tracking(&after), BOTH);
        self.restored(&after, "file-system");

        // QEMU killed: what the images say of bitmaps is not true any more, and that is seen.
        self.end_and_start();
        self.guest.kill();
        self.guest.start();
        let_it_write(&agent(&self.guest), 20);
        let after = self.back_up(AGENT);
        for why in Self::tracking(&after) {
            assert!(why.contains("inconsistent"), "{why}");
        }
        self.restored(&after, "file-system");
        let_it_write(&agent(&self.guest), 20);
        let after = self.back_up(AGENT);
        assert_eq!(Self::tracking(&after), BOTH, "and from then on bitmaps are believed again");
        self.restored(&after, "file-system");

        // A disk grown online.
        let larger = QemuGuest::DISK_BYTES + (64 << 20);
        let grow = json!({ "node-name": "disk1", "size": larger });
        monitor(&self.guest).execute("block_resize", grow).unwrap();
        let after = self.back_up(AGENT);
        assert_eq!(after["disks"][1]["size"], larger);
        self.restored(&after, "file-system");

        // A disk added.
        let image = self.scratch.path("new.qcow2");
        run("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "32M"]);
        let mut qmp = monitor(&self.guest);
        let file = json!({ "driver": "file", "filename": image, "node-name": "f2" });
        qmp.execute("blockdev-add", json!({ "driver": "qcow2", "node-name": "disk2", "file": file }))
            .unwrap();
        let device = json!({ "driver": "virtio-blk-pci", "id": "vd2", "drive": "disk2" });
        qmp.execute("device_add", device).unwrap();
        drop(qmp);
        let after = self.back_up(AGENT);
        assert_eq!(Self::tracking(&after)[2], "appeared");
        self.restored(&after, "file-system");
        let_it_write(&agent(&self.guest), 20);
        let after = self.back_up(AGENT);
        assert_eq!(Self::tracking(&after), ["block status"; 3]);
        self.restored(&after, "file-system");

        // The agent hangs: the point is worth less, and says so.
        shell(
            &agent(&self.guest),
            "setsid sh -c 'sleep 1; kill -STOP $(pidof qemu-ga); sleep 15; kill -CONT $(pidof qemu-ga)' > /dev/null 2>&1 &",
        );
        self.wait_until_the_agent_is_silent();
        let after = self.back_up(&format!("{AGENT} --agent-limit 2s"));
        assert!(after["reasons"][0].as_str().unwrap().contains("did not answer"), "{after}");
        assert_eq!(Self::tracking(&after), ["block status"; 3]);
        self.restored(&after, "crash");
    }

    fn end_and_start(&mut self) {
        let_it_write(&agent(&self.guest), 20);
        monitor(&self.guest).execute("quit", json!({})).unwrap();
        self.guest.wait();
        self.guest.start();
        let_it_write(&agent(&self.guest), 20);
    }

    fn wait_until_the_agent_is_silent(&self) {
        while QemuAgent::connect(&self.guest.agent(), Duration::from_millis(500)).is_ok() {}
    }

    fn kills(&mut self) {
        // Killed while the guest is frozen: a monitor that answers nothing to the transaction keeps it so.
        drop(agent(&self.guest)); // it answers again
        let (frozen, at_transaction) = mpsc::channel();
        let front = self.scratch.path("front.sock");
        stand_in(&front, &self.guest.qmp(), frozen);
        let words = format!("--qemu front.sock {AGENT} --freeze-limit 60s --scripts {}", QemuGuest::SCRIPTS);
        let words = Self::words("").replace("--qemu qmp.sock", &words);
        let mut child = self.spawn(&words);
        at_transaction.recv_timeout(LIMIT).expect("it comes to the transaction");
        let killed = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        let agent_again = agent(&self.guest);
        while agent_again.status(LIMIT).unwrap() == FreezeState::Frozen {
            assert!(killed.elapsed() < Duration::from_mins(1), "thawed within the deadline");
        }
        show(&format!("thawed {} ms after the kill", killed.elapsed().as_millis()));
        let_it_write(&agent_again, 20);
        while shell(&agent_again, "ls /run").contains("quiesce") {
            assert!(killed.elapsed() < LIMIT, "the post-script runs too");
        }
        drop(agent_again);
        let after = self.back_up(AGENT);
        assert_eq!(Self::tracking(&after), ["block status"; 3]);
        self.restored(&after, "file-system");

        // Killed while pulling: the next increment misses nothing.
        let writing = agent(&self.guest);
        shell(&writing, "head -c 6000000 /dev/urandom > /disks/vdb/noise; sync");
        drop(writing);
        let mut child = self.spawn(&Self::words(&format!("{AGENT} --limit-write 1M")));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.find(|line| line.as_ref().unwrap().contains("\"progress\""));
        assert!(first.is_some(), "it is pulling");
        child.kill().unwrap();
        child.wait().unwrap();
        let_it_write(&agent(&self.guest), 20);
        let after = self.back_up(AGENT);
        assert_eq!(Self::tracking(&after), ["block status"; 3]);
        self.restored(&after, "file-system");
    }

    fn spawn(&self, words: &str) -> Child {
        let mut command = self.scratch.command(&format!("{words} --vault v --key-file key --json"));
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The newest point boots, and the log goes on where the snapshot was.
    fn boots_again(&mut self) {
        self.guest.kill();
        let folder = self.scratch.path("again");
        self.scratch.ok("restore web@latest --vault v --key-file key --to again --format qcow2");
        for n in 0..2 {
            fs::rename(folder.join(format!("vd{n}.qcow2")), folder.join(format!("d{n}.qcow2"))).unwrap();
        }
        let mut again = self.guest.another(&folder);
        again.start();
        let agent = agent(&again);
        let_it_write(&agent, 20);
        let first = shell(&agent, &format!("sed -n {}p /disks/vda/log", self.last.0 + 1));
        assert!(first.starts_with(&format!("line {} ", self.last.0 + 1)), "{first:?}");
        let rows = shell(
            &agent,
            "sqlite3 -cmd '.timeout 60000' /disks/vdb/db 'SELECT count(*) FROM pairs' 2> /dev/null",
        );
        assert!(rows.trim().parse::<u64>().is_ok_and(|rows| rows >= self.last.1), "{rows:?}");
    }
}

/// A monitor in front of another: it passes everything on but the transaction that takes a snapshot.
fn stand_in(front: &Path, behind: &Path, frozen: mpsc::Sender<()>) {
    let listener = UnixListener::bind(front).unwrap();
    let behind = behind.to_owned();
    thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let qemu = UnixStream::connect(behind).unwrap();
        let (mut answers, mut back) = (qemu.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut answers, &mut back));
        let mut to = qemu;
        for line in BufReader::new(client).lines() {
            let Ok(line) = line else { return };
            if line.contains("\"transaction\"") && line.contains("blockdev-backup") {
                to.shutdown(std::net::Shutdown::Both).unwrap(); // as when the program is killed
                frozen.send(()).unwrap();
                return;
            }
            writeln!(to, "{line}").unwrap();
        }
    });
}

/// What answers at a socket, one line after each that comes, until `lines` are through.
fn speaks(path: &Path, lines: &'static [&'static str]) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = BufReader::new(stream.try_clone().unwrap()).lines();
        for (number, line) in lines.iter().enumerate() {
            if number > 0 && asked.next().is_none() {
                return;
            }
            writeln!(stream, "{line}").unwrap();
        }
    });
}

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}"#;

#[test]
fn what_is_no_qemu_is_told_and_nothing_is_stored() {
    let scratch = Scratch::with_vault();
    let said = |name: &str, lines, options: &str| {
        speaks(&scratch.path(name), lines);
        let words = format!("backup --vm web --qemu {name} {options}");
        scratch.json(&words).expect(1, &words).stderr
    };
    let none = scratch.json("backup --vm web --qemu none.sock").expect(1, "nobody is there").stderr;
    assert!(none.contains("cannot connect to none.sock"), "{none}");
    assert!(said("a", &["hello"], "").contains("does not speak the protocol"));
    assert!(said("b", &[GREETING], "").contains("cannot"), "it hangs up");
    let refusing = &[
        GREETING,
        r#"{"id": 1, "return": {}}"#,
        r#"{"id": 2, "error": {"class": "X", "desc": "not today"}}"#,
    ];
    assert!(said("c", refusing, "").contains("not today"));
    assert_eq!(scratch.summary("points")["points"], 0);
}

/// The longest time between two lines of the log from line `from` on, in seconds.
fn longest_gap(agent: &QemuAgent, from: u64) -> f64 {
    let program = format!(
        "tail -n +{from} /disks/vda/log | awk '{{ if (last && $3 - last > gap) gap = $3 - last; last = $3 }} END {{ print gap }}'"
    );
    shell(agent, &program).trim().parse().unwrap()
}

#[test]
fn a_slow_vault_does_not_stall_the_guest() {
    let Some(scene) = Scene::new() else { return };
    let beside = agent(&scene.guest);
    shell(&beside, "head -c 24000000 /dev/urandom > /disks/vdb/noise; sync");
    let quiet = longest_gap(&beside, newest_line(&beside).0.saturating_sub(200));
    // Without --agent: the test asks the guest meanwhile.
    let mut child = scene.spawn(&Scene::words("--limit-write 2M"));
    let (mut first, mut last) = (None, None);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if line["type"] == "progress" {
            let now = newest_line(&beside);
            first.get_or_insert(now);
            last = Some(now);
        }
    }
    assert!(child.wait().unwrap().success());
    let (first, last) = (first.unwrap(), last.unwrap());
    let (lines, seconds) = (last.0 - first.0, last.1 - first.1);
    let stall = longest_gap(&beside, first.0);
    show(&format!(
        "between the first and the last pulled byte ({seconds:.1} s) the guest wrote {lines} lines; its longest stall was \
         {stall:.2} s ({quiet:.2} s before)"
    ));
    assert!(lines > 50, "{lines} lines in {seconds} s");
}
