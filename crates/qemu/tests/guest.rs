//! The real guest agent in a real guest, that of `cargo xtask guest`: the contracts of the ports.

#![allow(clippy::unwrap_used)] // helpers unwrap as tests do

use std::time::{Duration, Instant};

use vmkeep_consistency::script::{
    ScriptCommand, ScriptContext, ScriptEnd, ScriptFiles, ScriptHost, ScriptRunner,
};
use vmkeep_consistency::{Before, GuestOs, ScriptOutcome, Scripts, ScriptsEvidence, conformance};
use vmkeep_qemu::{QemuAgent, QemuError, QemuSnapshotter, Qmp, Snapshot, SnapshotPlan, disks};
use vmkeep_testkit::qemu_guest::QemuGuest;

const LIMIT: Duration = Duration::from_mins(2);

fn connect<T>(connect: impl Fn() -> Result<T, QemuError>) -> T {
    let start = Instant::now();
    loop {
        match connect() {
            Ok(connection) => return connection,
            Err(error) if start.elapsed() > LIMIT => panic!("{error}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

#[test]
fn the_ports_keep_their_contracts() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut guest) = QemuGuest::create(folder.path()) else { return };
    guest.start();
    let agent = connect(|| QemuAgent::connect(&guest.agent(), LIMIT));
    let mut qmp = connect(|| Qmp::connect(&guest.qmp(), LIMIT));
    conformance::guest_agent(&agent);
    assert_eq!(agent.os().unwrap(), GuestOs::Linux);
    let mounts = agent.mounts().unwrap();
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    scripts(&agent);

    let found = disks(&mut qmp).unwrap();
    let names: Vec<_> = found.iter().map(|disk| (&*disk.node, &*disk.device, &*disk.format)).collect();
    assert_eq!(names, [("disk0", "vd0", "qcow2"), ("disk1", "vd1", "qcow2")]);
    let plan = SnapshotPlan {
        chain: "guest".to_owned(),
        number: 1,
        base: None,
        disks: found.iter().map(|disk| vmkeep_qemu::DiskPlan { node: disk.node.clone() }).collect(),
        folder: folder.path().to_owned(),
        scratch_bytes_max: 64 << 20,
    };
    let prepared = Snapshot::prepare(&mut qmp, &plan).unwrap();
    let snapshotter = QemuSnapshotter::new(&mut qmp, prepared);
    conformance::snapshotter(&snapshotter);
    let snapshot = snapshotter.finish().unwrap().expect("it was taken");
    let mut during = disks(&mut qmp).unwrap();
    assert!(during.iter().all(|disk| disk.bitmaps == ["vmkeep.guest.1"]), "{during:?}");
    for disk in &mut during {
        disk.bitmaps.clear();
    }
    assert_eq!(during, found, "a snapshot under way does not show");
    snapshot.finish(&mut qmp, vmkeep_qemu::Outcome::Failed).unwrap();
    let unused = Snapshot::prepare(&mut qmp, &plan).unwrap();
    assert!(QemuSnapshotter::new(&mut qmp, unused).finish().unwrap().is_none());
    assert!(!folder.path().join("vmkeep-scratch-0.qcow2").exists(), "what was prepared is removed");
}

/// Scripts run in the guest as on this machine: context, output, exit code, time-out of the whole group.
fn scripts(agent: &QemuAgent) {
    let context = || ScriptContext { vm: "web1".to_owned(), job: "7".to_owned() };
    let mut runner = ScriptRunner::new(agent, QemuGuest::SCRIPTS, 0, context());
    assert_eq!(runner.problem(), None);
    assert_eq!(runner.before(2), Before::Freeze);
    runner.after();
    match runner.evidence() {
        ScriptsEvidence::Configured {
            pre: ScriptOutcome::Succeeded(pre),
            post: ScriptOutcome::Succeeded(post),
        } => {
            assert_eq!((&*pre.output, &*post.output), ("pre: web1 is at rest\n", "post: web1 goes on\n"));
        }
        other => panic!("{other:?}"),
    }
    let missing = ScriptRunner::new(agent, "/etc/none.json", 0, context());
    assert_eq!(missing.problem().map(|(code, _)| code.number()), Some(316));
    let stranger = ScriptRunner::new(agent, QemuGuest::SCRIPTS, 1000, context());
    assert_eq!(stranger.problem().map(|(code, _)| code.number()), Some(318));

    let sh = |line: &str, limit| {
        let params = ["-c".to_owned(), line.to_owned()];
        agent.run(&ScriptCommand { path: "/bin/sh", params: &params, environment: &[("A", "b c")] }, limit)
    };
    let run = sh("echo out $A; echo err >&2; exit 3", LIMIT);
    assert_eq!(
        (run.end, &*run.output),
        (ScriptEnd::Failed("exit status: 3".to_owned()), &b"out b c\nerr\n"[..])
    );
    let run = sh("echo begun; sleep 600 & sleep 600", Duration::from_secs(1));
    assert_eq!((run.end, &*run.output), (ScriptEnd::TimedOut, &b"begun\n"[..]));
    let left = sh("pidof sleep", LIMIT);
    assert!(left.output.is_empty(), "what it had started is killed too: {left:?}");
    let run = sh("head -c 100000 /dev/zero | tr '\\0' a; echo end", LIMIT);
    assert!(
        run.output.ends_with(b"aend\n") && run.output_dropped == 100_004 - 16_384,
        "{}",
        run.output_dropped
    );

    let (facts, text) = agent.read(QemuGuest::SCRIPTS, 5).unwrap();
    assert_eq!((facts.mode, facts.owner, text.len()), (0o600, 0, 5));
    assert_eq!(agent.facts("/etc/none").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert!(!agent.facts("/etc").unwrap().regular);
}
