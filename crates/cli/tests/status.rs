//! `vmkeep status`: what it says of VMs in every state, its exit codes, and its metrics as Prometheus' own parser reads them.

#![allow(clippy::unwrap_used)] // in helpers too

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;

use harness::{Ran, Scratch, flip};
use serde_json::{Value, json};
use vmkeep::backup::{self, Plan, Source, SourceDisk};
use vmkeep::disk::Memory;
use vmkeep::envelope::{KeyFileVault, OsEntropy};
use vmkeep::model::{
    BlockIndex, CancelToken, Clock, ConsistencyLevel, DiskDescription, DiskRole, ManualClock, PointNumber,
    SystemClock, Timestamp, VmName,
};
use vmkeep::vault::{Ports, Vault};
use vmkeep_testkit::permit;

const DAY: i64 = 86_400_000;

/// Every four hours: within five there is a run, whatever the time is.
const POLICY: &str = r#"
schedule.hourly = { start = "00:00", every = 4, window = 24 }
[retention]
every = "30 days"
"#;

fn scene() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("os.raw", 1 << 20, &[(0, 5000, 1)]);
    scratch.write("policy.toml", POLICY.as_bytes());
    scratch.summary("policy import policy.toml --name often");
    scratch
}

/// The vault as a program sees it whose clock is behind by `behind` milliseconds.
fn vault(scratch: &Scratch, behind: i64) -> Vault {
    let clock = Arc::new(ManualClock::new(Timestamp(SystemClock.now().0 - behind)));
    let key = Arc::new(KeyFileVault::open(scratch.path("key")).unwrap());
    Vault::open_folder(scratch.path("v"), key, Ports { clock, entropy: Arc::new(OsEntropy) }).unwrap()
}

/// A backup of `bytes` bytes that are not zero, made so many milliseconds ago.
fn back_up(scratch: &Scratch, vm: &str, behind: i64, bytes: usize, consistency: ConsistencyLevel) {
    let mut content = vec![0; 1 << 20];
    content[..bytes].fill(7);
    let disk = Memory::from(content);
    let description = DiskDescription { name: "os".parse().unwrap(), role: DiskRole::Os, lun: None };
    let disks = vec![SourceDisk { description, source: Source::Read(&disk) }];
    let plan = Plan { consistency, ..Plan::new(vm.parse().unwrap(), disks) };
    let settings = backup::Settings::default();
    let vault = vault(scratch, behind);
    backup::run(&permit(), &vault, &plan, &settings, &backup::Silent, &CancelToken::new()).unwrap();
}

fn of(ran: &Ran, vm: &str) -> Value {
    let found = ran.of_type("vm").into_iter().find(|line| line["vm"] == vm);
    found.unwrap_or_else(|| panic!("{vm} is not in\n{}", ran.stdout))
}

fn reasons(line: &Value) -> String {
    let all = line["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap());
    all.collect::<Vec<_>>().join("; ")
}

#[test]
fn a_vm_that_was_just_backed_up_is_well() {
    let scratch = scene();
    assert_eq!(scratch.summary("status")["vms"], 0);
    let text = scratch.ok("status --vault v --key-file key").stdout;
    assert!(text.contains("no VM") && text.contains("not verified"), "{text}");

    scratch.summary("protect web --policy often");
    let waiting = scratch.json("status").expect(4, "no point yet");
    assert!(reasons(&of(&waiting, "web")).contains("no point yet"), "{}", waiting.stdout);
    scratch.summary("backup --vm web --disk os=os.raw --scheduled");

    let ran = scratch.json("status").expect(0, "fresh");
    let line = of(&ran, "web");
    assert_eq!((&line["status"], &line["reasons"]), (&json!("ok"), &json!([])));
    assert_eq!((&line["policy"], &line["state"]), (&json!("often"), &json!("protected")));
    assert_eq!((&line["point"], &line["points"]), (&json!("web@1"), &json!(1)));
    assert_eq!((&line["consistency"], &line["data_bytes"]), (&json!("crash"), &json!(65_536)));
    assert!(line["age_ms"].as_i64().is_some_and(|age| (0..600_000).contains(&age)), "{line}");
    assert_eq!(line["growth"], Value::Null);
    let summary = ran.summary();
    assert_eq!((&summary["status"], &summary["ok"]), (&json!("ok"), &json!(1)));
    assert_eq!((&summary["verified_until"], &summary["damaged"]), (&Value::Null, &Value::Null));
    let text = scratch.ok("status web --vault v --key-file key").stdout;
    assert!(text.contains("@1 ") && text.contains("often") && text.contains("64.00 KiB"), "{text}");
    scratch.json("status db").expect(1, "no such VM");
}

/// Until when the vault was verified is told, and what was found damaged then is critical.
#[test]
fn what_verification_found_is_told() {
    let scratch = scene();
    scratch.summary("protect web --policy often");
    scratch.summary("backup --vm web --disk os=os.raw --scheduled");
    scratch.json("verify --budget 50%").expect(0, "half of it");
    let text = scratch.ok("status --vault v --key-file key").stdout;
    assert!(text.contains("not all of it was verified yet"), "{text}");
    scratch.json("verify").expect(0, "whole");
    let summary = scratch.summary("status --metrics m.prom");
    assert!(summary["verified_until"].is_string() && summary["damaged"] == 0, "{summary}");
    let metrics = String::from_utf8(scratch.read("m.prom")).unwrap();
    assert!(metrics.contains("vmkeep_verified_timestamp_seconds "), "{metrics}");
    flip(&scratch.data_pack(), 100);
    scratch.json("verify").expect(3, "damage");
    let ran = scratch.json("status").expect(5, "damage was found");
    assert!(ran.summary()["damaged"].as_u64() > Some(0), "{}", ran.stdout);
}

#[test]
fn a_run_that_made_no_point_is_a_warning() {
    let scratch = scene();
    scratch.summary("protect late --policy often");
    // The schedule counts from when the VM was put under it, so that is in the past too.
    let old = scene();
    let vault = vault(&old, 3 * DAY);
    let mut protection = vmkeep::protect::Protection::open(&vault).unwrap();
    protection.protect(&permit(), None, &"late".parse().unwrap(), "often").unwrap();
    back_up(&old, "late", 2 * DAY, 100_000, ConsistencyLevel::Crash);
    let ran = old.json("status").expect(4, "overdue");
    let line = of(&ran, "late");
    assert!(reasons(&line).contains("runs have passed without a point"), "{line}");
    // A point of before, and no run since the VM came under the schedule, is no fault.
    back_up(&scratch, "late", 2 * DAY, 100_000, ConsistencyLevel::Crash);
    scratch.json("status").expect(0, "not yet due");

    assert_eq!(of(&old.json("status --grace 60h").expect(0, "grace"), "late")["status"], "ok");
    let ran = old.json("status --max-age 1h --grace 60h").expect(0, "the schedule governs");
    assert_eq!(of(&ran, "late")["status"], "ok");
}

#[test]
fn without_a_schedule_the_age_that_is_given_decides_or_nothing() {
    let scratch = scene();
    back_up(&scratch, "db", 3 * DAY, 100_000, ConsistencyLevel::Crash);
    let line = of(&scratch.json("status").expect(0, "not judged"), "db");
    assert!(reasons(&line).contains("not judged") && line["policy"].is_null(), "{line}");
    scratch.json("status db --max-age 4d").expect(0, "young enough");
    let line = of(&scratch.json("status db --max-age 2d").expect(4, "too old"), "db");
    assert_eq!(reasons(&line), "its newest point is 3d old, more than 2d");
    // A clock that was set back.
    back_up(&scratch, "ahead", -3 * DAY, 100_000, ConsistencyLevel::Crash);
    let line = of(&scratch.json("status ahead --max-age 4d").expect(4, "ahead"), "ahead");
    assert!(reasons(&line).contains("ahead of the clock"), "{line}");
    assert_eq!(line["age_ms"], Value::Null);
}

#[test]
fn growth_is_against_the_point_of_a_week_before_or_the_first() {
    let scratch = scene();
    for (ago, blocks) in [(20, 2), (12, 3), (9, 4), (3, 5), (1, 8)] {
        back_up(&scratch, "web", ago * DAY, blocks << 16, ConsistencyLevel::Crash);
        let line = of(&scratch.json("status web").expect(0, "grows"), "web");
        let growth = |from: u64, days: i64, grown: i64| {
            let window = line["growth"]["window_ms"].as_i64().unwrap();
            assert!((window - days * DAY).abs() < 3_600_000, "{line}");
            assert_eq!(
                (&line["growth"]["from"], &line["growth"]["bytes"]),
                (&json!(from), &json!(grown << 16))
            );
        };
        match ago {
            20 => assert_eq!(line["growth"], Value::Null),
            12 => growth(1, 8, 1),
            9 => growth(1, 11, 2),
            3 => growth(2, 9, 2),
            _ => growth(3, 8, 4),
        }
    }
}

#[test]
fn a_point_that_is_worth_less_than_the_one_before_is_a_warning() {
    let scratch = scene();
    back_up(&scratch, "web", DAY, 100, ConsistencyLevel::Application);
    back_up(&scratch, "web", 0, 200, ConsistencyLevel::Crash);
    let line = of(&scratch.json("status").expect(4, "weaker"), "web");
    assert!(reasons(&line).contains("crash-consistent, the one before was application-consistent"), "{line}");
    back_up(&scratch, "web", 0, 300, ConsistencyLevel::Crash);
    scratch.json("status").expect(0, "as before");
    // What was forgotten is not what is compared with.
    back_up(&scratch, "web", 0, 400, ConsistencyLevel::Application);
    scratch.summary("forget web@4");
    assert_eq!(of(&scratch.json("status").expect(0, "forgotten"), "web")["point"], "web@3");
}

#[test]
fn points_that_may_hold_old_data_are_a_warning_until_there_is_a_newer_one() {
    let scratch = scene();
    for age in [3, 2] {
        back_up(&scratch, "web", age * DAY, 100, ConsistencyLevel::Crash);
    }
    let vault = vault(&scratch, 0);
    let session = vault.begin(&permit(), &"web".parse().unwrap()).unwrap();
    session.mark_suspect(&"os".parse().unwrap(), PointNumber(1), BlockIndex(3)).unwrap();
    drop(session);
    let line = of(&scratch.json("status").expect(4, "suspect"), "web");
    assert!(reasons(&line).contains("points 1 to 2 may hold old data of disk os"), "{line}");
    assert_eq!(line["suspect"], json!([{"disk": "os", "from": 1, "to": 2}]));
    for _ in 0..2 {
        back_up(&scratch, "web", -60_000, 200, ConsistencyLevel::Crash);
    }
    assert_eq!(of(&scratch.json("status").expect(0, "newer"), "web")["suspect"], json!([]));
}

#[test]
fn a_vm_that_nobody_backs_up_any_more_is_not_overdue() {
    let scratch = scene();
    for vm in ["kept", "deleted", "closed"] {
        scratch.summary(&format!("protect {vm} --policy often"));
        back_up(&scratch, vm, 9 * DAY, 100, ConsistencyLevel::Crash);
    }
    scratch.summary("stop kept --retain");
    scratch.summary("stop deleted --delete --yes");
    scratch.summary("close closed --yes");
    let ran = scratch.json("status --grace 0s").expect(0, "all stopped");
    for (vm, told) in [
        ("kept", "no backups are made: stopped"),
        ("deleted", "can be had back until"),
        ("closed", "its protection was closed"),
    ] {
        assert!(reasons(&of(&ran, vm)).contains(told), "{vm}: {}", ran.stdout);
    }
    assert_eq!(of(&ran, "closed")["points"], 1);
}

#[test]
fn without_a_point_that_opens_it_is_critical() {
    let scratch = scene();
    back_up(&scratch, "web", DAY, 100, ConsistencyLevel::Crash);
    scratch.summary("forget web@1");
    let ran = scratch.json("status").expect(5, "all forgotten");
    assert_eq!(reasons(&of(&ran, "web")), "no point to restore");
    assert_eq!(ran.summary()["critical"], 1);
    scratch.summary("undelete web@1");

    back_up(&scratch, "web", 0, 200, ConsistencyLevel::Crash);
    let lineage = &scratch.names("v/points")[0];
    let newest = scratch.path(&format!("v/points/{lineage}/2"));
    flip(&newest, 100);
    let line = of(&scratch.json("status").expect(5, "damaged"), "web");
    assert!(reasons(&line).contains("point 2 does not open"), "{line}");
    assert_eq!((&line["point"], &line["unreadable"]), (&json!("web@1"), &json!([2])));
    back_up(&scratch, "db", 0, 200, ConsistencyLevel::Crash);
    let ran = scratch.json("status").expect(5, "one of two");
    assert_eq!((&of(&ran, "db")["status"], &ran.summary()["ok"]), (&json!("ok"), &json!(1)));

    // Keys that do not open keep nobody from hearing of the other VMs.
    let before = scratch.names("v/keys");
    back_up(&scratch, "locked", 0, 200, ConsistencyLevel::Crash);
    let domain = scratch.names("v/keys").into_iter().find(|domain| !before.contains(domain)).unwrap();
    let wrap = &scratch.names(&format!("v/keys/{domain}/0"))[0];
    flip(&scratch.path(&format!("v/keys/{domain}/0/{wrap}")), 100);
    let ran = scratch.json("status --metrics status.prom").expect(5, "no keys");
    assert!(reasons(&of(&ran, "locked")).contains("its points cannot be told"), "{}", ran.stdout);
    assert_eq!((&of(&ran, "locked")["point"], &of(&ran, "db")["status"]), (&Value::Null, &json!("ok")));
    let text = String::from_utf8(scratch.read("status.prom")).unwrap();
    assert!(text.contains("vmkeep_vm_status{vm=\"locked\"} 2\n"), "{text}");
    assert!(!text.contains("vmkeep_vm_points{vm=\"locked\"}"), "{text}");
}

/// A Python that has Prometheus' client library, or nothing; under `VMKEEP_REQUIRE_TOOLS` a missing one fails.
fn python() -> Option<&'static str> {
    let has_it = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-c", "import prometheus_client.parser"]).output().is_ok_and(|out| out.status.success())
    };
    let found = ["/usr/bin/python3", "python3"].into_iter().find(has_it);
    let message = "Prometheus' client library for Python is not here (Debian: python3-prometheus-client)";
    assert!(found.is_some() || std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{message}");
    if found.is_none() {
        println!("left out: {message}");
    }
    found
}

/// Every sample as JSON: `[name, type, help, labels, value]`.
const PARSE: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families
text = open(sys.argv[1], encoding='utf-8').read()
families = list(text_string_to_metric_families(text))
print(json.dumps([[s.name, f.type, f.documentation, s.labels, s.value] for f in families for s in f.samples]))
";

/// Name, type, help, labels and value.
type Sample = (String, String, String, BTreeMap<String, String>, f64);

/// Samples by name and VM.
fn parsed(python: &str, scratch: &Scratch, file: &str) -> BTreeMap<(String, String), f64> {
    let out = Command::new(python).args(["-c", PARSE]).arg(scratch.path(file)).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let samples: Vec<Sample> = serde_json::from_slice(&out.stdout).unwrap();
    let mut by_name = BTreeMap::new();
    for (name, kind, help, mut labels, value) in samples {
        assert!(name.starts_with("vmkeep_") && kind == "gauge" && !help.is_empty(), "{name} {kind} {help}");
        let vm = labels.remove("vm").unwrap_or_default();
        let is_new = by_name.insert((name.clone(), vm), value).is_none();
        assert!(is_new, "{name} is there twice");
    }
    by_name
}

const HOSTILE: [&str; 7] =
    ["plain", "Прод web 01", "a\"} 1", "back\\slash\\n", "vm=\"x\",y=\"z\"", "#HELP", "trailing\\"];

#[test]
fn metrics_say_the_same_and_prometheus_reads_them_whatever_vms_are_called() {
    let scratch = scene();
    for (n, vm) in HOSTILE.iter().enumerate() {
        let ago = i64::try_from(n).unwrap() * DAY;
        back_up(&scratch, vm, ago + DAY, 100, ConsistencyLevel::FileSystem);
        back_up(&scratch, vm, ago, (n + 1) << 16, ConsistencyLevel::FileSystem);
    }
    let vm: VmName = "none yet".parse().unwrap();
    let vault = vault(&scratch, 0);
    let mut protection = vmkeep::protect::Protection::open(&vault).unwrap();
    protection.protect(&permit(), None, &vm, "often").unwrap();

    let ran = scratch.json("status --max-age 3d --metrics status.prom").expect(4, "some are too old");
    let text = String::from_utf8(scratch.read("status.prom")).unwrap();
    for line in text.lines() {
        assert!(
            line.starts_with("# HELP ") || line.starts_with("# TYPE ") || line.starts_with("vmkeep_"),
            "{line}"
        );
    }
    let Some(python) = python() else { return };
    let samples = parsed(python, &scratch, "status.prom");
    let value = |name: &str, vm: &str| samples.get(&(name.to_owned(), vm.to_owned())).copied();
    assert_eq!((value("vmkeep_status", ""), value("vmkeep_vms", "")), (Some(1.0), Some(8.0)));
    let named: Vec<&str> =
        samples.keys().filter(|(name, _)| name == "vmkeep_vm_status").map(|(_, vm)| vm.as_str()).collect();
    let lines = ran.of_type("vm");
    assert_eq!(named.len(), lines.len());
    for line in &lines {
        let vm = line["vm"].as_str().unwrap();
        let number = |name: &str| value(&format!("vmkeep_vm_{name}"), vm);
        let level = ["ok", "warning", "critical"].iter().position(|level| line["status"] == *level).unwrap();
        assert_eq!(number("status"), Some(f64::from(u8::try_from(level).unwrap())), "{vm}");
        assert_eq!(number("info"), Some(1.0));
        assert_eq!(number("backed_up"), Some(1.0));
        assert_eq!(number("data_bytes"), line["data_bytes"].as_f64(), "{vm}");
        assert_eq!(number("points"), line["points"].as_f64().filter(|_| vm != "none yet"), "{vm}");
        assert_eq!(number("last_point_timestamp_seconds"), line["created_ms"].as_f64().map(|ms| ms / 1000.0));
        assert_eq!(number("growth_bytes"), line["growth"]["bytes"].as_f64());
        assert_eq!(
            number("growth_window_seconds"),
            line["growth"]["window_ms"].as_f64().map(|ms| ms / 1000.0)
        );
        assert_eq!(number("last_point_consistency"), line["point"].as_str().map(|_| 1.0));
        assert_eq!(number("overdue_seconds").is_some_and(|late| late > 0.0), level == 1 && vm != "none yet");
    }
}

#[test]
fn a_metrics_file_that_cannot_be_written_is_an_error_and_the_old_one_stays() {
    let scratch = scene();
    back_up(&scratch, "web", 0, 100, ConsistencyLevel::Crash);
    scratch.summary("status --metrics status.prom");
    let old = scratch.read("status.prom");
    back_up(&scratch, "db", 0, 100, ConsistencyLevel::Crash);

    // No file may grow: as on a full disk, the write fails.
    let words = "status --metrics status.prom --vault v --key-file key --json";
    let shell = "trap '' XFSZ; ulimit -f 0; exec \"$@\"";
    let vmkeep = env!("CARGO_BIN_EXE_vmkeep");
    let out = Command::new("sh")
        .args(["-c", shell, "sh", vmkeep])
        .args(words.split(' '))
        .current_dir(scratch.path(""))
        .output()
        .unwrap();
    let error = Ran::from(out).expect(1, "full").error();
    assert!(error["message"].as_str().unwrap().contains("cannot write status.prom"), "{error}");
    assert_eq!(scratch.read("status.prom"), old);

    fs::create_dir(scratch.path("folder")).unwrap();
    std::os::unix::fs::symlink(scratch.path("elsewhere"), scratch.path("link")).unwrap();
    for (path, told) in [
        ("missing/status.prom", "cannot write"),
        ("os.raw/status.prom", "cannot write"),
        ("folder", "is no plain file"),
        ("link", "is no plain file"),
        ("/dev/null", "is no plain file"),
    ] {
        let error = scratch.json(&format!("status --metrics {path}")).expect(1, path).error();
        assert!(error["message"].as_str().unwrap().contains(told), "{error}");
    }
    let left: Vec<String> = scratch.names("").into_iter().filter(|name| name.contains("partial")).collect();
    assert!(left.is_empty(), "{left:?}");

    scratch.summary("status --metrics status.prom");
    let new = String::from_utf8(scratch.read("status.prom")).unwrap();
    assert!(new.contains("vm=\"db\"") && new.as_bytes() != old, "{new}");
}
