//! A backup of a real guest that runs: what happens in which order, by QEMU's own account.
//!
//! The guest is that of `cargo xtask guest`; what becomes of it under load and kills is tested with the command.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::Write;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vmkeep::backup::{self, Event, Limits, Observer};
use vmkeep::consistency::script::{ScriptCommand, ScriptEnd, ScriptHost};
use vmkeep::consistency::{
    AgentError, FreezeReport, FreezeState, GuestAgent, GuestOs, NoScripts, PowerState, ProvisioningState,
    Request, SystemMonotonic, VmState, fake,
};
use vmkeep::live::{self, LiveDisk, LiveError, LivePlan, LivePorts};
use vmkeep::model::{
    CancelToken, ConsistencyLevel, DiskDescription, DiskRole, Labels, Owner, Permit, Scope, op,
};
use vmkeep::object_store::memory::InMemory;
use vmkeep::qemu::{QemuAgent, QemuError, Qmp};
use vmkeep_testkit::qemu_guest::QemuGuest;

const LIMIT: Duration = Duration::from_mins(2);

#[allow(clippy::disallowed_methods)] // QEMU tells microseconds
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

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

/// Notes when what was done, by the clock that QEMU goes by.
#[derive(Debug, Default)]
struct Notes(Mutex<Vec<(&'static str, Duration)>>);

impl Notes {
    fn note(&self, what: &'static str) {
        self.0.lock().unwrap().push((what, now()));
    }

    fn at(&self, what: &str) -> Duration {
        let notes = self.0.lock().unwrap();
        notes.iter().find(|(name, _)| *name == what).unwrap_or_else(|| panic!("{what} in {notes:?}")).1
    }
}

#[derive(Debug)]
struct Noted<'a>(&'a QemuAgent, &'a Notes);

impl GuestAgent for Noted<'_> {
    fn freeze(&self, timeout: Duration) -> Result<FreezeReport, AgentError> {
        let report = self.0.freeze(timeout);
        self.1.note("frozen");
        report
    }
    fn thaw(&self, timeout: Duration) -> Result<usize, AgentError> {
        self.1.note("thaw begins");
        let thawed = self.0.thaw(timeout);
        self.1.note("thawed");
        thawed
    }
    fn status(&self, timeout: Duration) -> Result<FreezeState, AgentError> {
        self.0.status(timeout)
    }
}

impl Observer for Notes {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Began { .. }) {
            self.note("walk begins");
        }
    }
}

fn plan(folder: &std::path::Path) -> LivePlan<'static> {
    let disk = |(name, role): (&str, DiskRole)| LiveDisk {
        description: DiskDescription { name: name.parse().unwrap(), role, lun: None },
        node: name.to_owned(),
    };
    let vm = VmState {
        provisioning: ProvisioningState::Succeeded,
        power: PowerState::Running,
        os: GuestOs::Linux,
    };
    LivePlan {
        vm: "web".parse().unwrap(),
        disks: [("disk0", DiskRole::Os), ("disk1", DiskRole::Data)].map(disk).to_vec(),
        request: Request::new(vm),
        keys: Vec::new(),
        labels: Labels::default(),
        config: None,
        scratch: folder.to_owned(),
        scratch_bytes_max: 1 << 30,
        retries: 0,
    }
}

#[test]
fn a_guest_is_frozen_for_the_transaction_and_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut guest) = QemuGuest::create(folder.path()) else { return };
    guest.start();
    let agent = until(|| QemuAgent::connect(&guest.agent(), LIMIT));
    let mut beside = until(|| Qmp::connect(&guest.second_qmp(), LIMIT));
    let mut qmp = until(|| Qmp::connect(&guest.qmp(), LIMIT));
    let (vault, notes) = (common::create(Arc::new(InMemory::new()), 1), Notes::default());
    let scratch = folder.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let watchdog = fake::Guest::new(["disk0", "disk1"]);
    let permit: Permit<op::Backup> = Owner.permit(Scope::Vault);
    let mut run = |plan: &LivePlan<'_>, settings: &backup::Settings| {
        let ports = LivePorts {
            qmp: &mut qmp,
            agent: Some(&Noted(&agent, &notes)),
            scripts: &mut NoScripts,
            watchdog: &watchdog,
            clock: &SystemMonotonic::default(),
        };
        live::run(&permit, &vault, plan, ports, settings, &notes, &CancelToken::new())
    };
    let quick = backup::Settings::default();
    let report = run(&plan(&scratch), &quick).unwrap();
    assert_eq!(report.verdict.level, ConsistencyLevel::FileSystem, "{:?}", report.verdict);
    assert!(report.unsettled.is_none());

    // QEMU's own account: the jobs of both disks began within the freeze, and nothing was read before the thaw.
    beside.execute("query-status", serde_json::json!({})).unwrap();
    let began: Vec<Duration> = beside
        .take_events()
        .into_iter()
        .filter(|event| event.name == "JOB_STATUS_CHANGE" && event.data["status"] == "created")
        .map(|event| event.at)
        .collect();
    assert_eq!(began.len(), 2, "a job for each disk");
    for at in began {
        assert!(notes.at("frozen") < at && at < notes.at("thaw begins"), "{at:?}: {notes:?}");
    }
    assert!(notes.at("thawed") < notes.at("walk begins"), "{notes:?}");
    // Past the capture of the test's output: it is to be seen, also of a test that passes.
    let frozen = format!("frozen for at most {}\n", report.evidence.frozen().unwrap());
    std::io::stderr().write_all(frozen.as_bytes()).unwrap();

    // A snapshot that has no room is refused before the guest is touched.
    let before = watchdog.events().len();
    let huge = LivePlan { scratch_bytes_max: u64::MAX >> 1, ..plan("/dev/shm/none".as_ref()) };
    assert!(matches!(run(&huge, &quick), Err(LiveError::Qemu(QemuError::Scratch(_)))));
    assert_eq!(watchdog.events().len(), before, "the guest was not touched");

    // A scratch image that fills: the backup begins again as often as it may, and then fails; nothing is half there.
    let bulk = ScriptCommand {
        path: "/bin/sh",
        params: &["-c".to_owned(), "head -c 8000000 /dev/urandom > /disks/vdb/noise; sync".to_owned()],
        environment: &[],
    };
    assert_eq!(agent.run(&bulk, LIMIT).end, ScriptEnd::Succeeded);
    let slow =
        backup::Settings { limits: Limits::per_second(None, NonZeroU64::new(1 << 20)), ..quick.clone() };
    let small = LivePlan { scratch_bytes_max: 512 << 10, retries: 1, ..plan(&scratch) };
    let walks = || notes.0.lock().unwrap().iter().filter(|(what, _)| *what == "walk begins").count();
    let before = walks();
    let lost = run(&small, &slow);
    assert!(matches!(lost, Err(LiveError::Qemu(QemuError::SnapshotLost { .. }))), "{lost:?}");
    assert_eq!(walks() - before, 2);
    assert_eq!(vault.points(&"web".parse().unwrap()).unwrap().len(), 1);
    let report = run(&plan(&scratch), &quick).unwrap();
    assert!(report.backup.disks.iter().all(|disk| disk.tracking.is_some()), "no change was lost: {report:?}");
}
