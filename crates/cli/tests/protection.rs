//! Policies, plans and the life of a protected VM at the command line.

#![allow(clippy::unwrap_used)]

mod harness;

use std::process::{Command, Stdio};

use harness::Scratch;
use serde_json::{Value, json};

const DAILY: &str = r#"
zone = "Europe/Berlin"
schedule.daily = { at = "02:30" }
[retention]
daily = "30 days"
weekly = { days = ["Sunday"], keep = "12 weeks" }
"#;

const SHORTER: &str = r#"
zone = "Europe/Berlin"
schedule.daily = { at = "02:30" }
[retention]
daily = "7 days"
"#;

const COUNTED: &str = r#"
schedule.hourly = { start = "00:00", every = 4, window = 24 }
keep = { last = 2 }
"#;

fn azure(days: u32) -> String {
    json!({"properties": {
        "backupManagementType": "AzureIaasVM", "timeZone": "Pacific Standard Time", "ours": {"kept": [1, 2]},
        "schedulePolicy": {"schedulePolicyType": "SimpleSchedulePolicy", "scheduleRunFrequency": "Daily",
            "scheduleRunTimes": ["2026-01-24T10:00:00Z"]},
        "retentionPolicy": {"retentionPolicyType": "LongTermRetentionPolicy", "dailySchedule": {
            "retentionTimes": ["2026-01-24T10:00:00Z"],
            "retentionDuration": {"count": days, "durationType": "Days"}}}
    }})
    .to_string()
}

/// A vault, a disk, and policies in files.
fn scene() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("os.raw", 1 << 20, &[(0, 5000, 1)]);
    for (name, text) in [("daily.toml", DAILY), ("shorter.toml", SHORTER), ("counted.toml", COUNTED)] {
        scratch.write(name, text.as_bytes());
    }
    scratch.write("azure.json", azure(30).as_bytes());
    scratch
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap()
}

#[test]
fn policies_of_both_languages_are_imported_shown_and_checked() {
    let scratch = scene();
    let imported = scratch.summary("policy import daily.toml --name daily");
    assert_eq!(
        (&imported["version"], &imported["source"], &imported["new"]),
        (&json!(1), &json!("toml"), &json!(true))
    );
    assert_eq!(scratch.summary("policy import daily.toml --name daily")["new"], false);
    assert_eq!(scratch.summary("policy import azure.json --name azure")["source"], "azure");

    let listed = scratch.json("policy show").expect(0, "list");
    assert_eq!(listed.summary()["policies"], 2);
    let of = |name: &str| listed.of_type("policy").into_iter().find(|line| line["name"] == name).unwrap();
    assert_eq!(of("daily")["zone"], "Europe/Berlin");
    assert_eq!(of("daily")["retention"], "daily 30 days, weekly 12 weeks");
    assert_eq!(of("azure")["schedule"], "daily at 10:00");

    // No field is lost on the way through the vault, and each can be had in the other's language.
    let shown = scratch.ok("policy show azure --format azure --vault v --key-file key").stdout;
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["properties"]["ours"]["kept"][1], 2);
    let line =
        scratch.json("policy show azure --format azure").expect(0, "as JSON").of_type("policy").remove(0);
    assert_eq!(line["document"].as_str().unwrap().trim_end(), shown.trim_end());
    let toml = scratch.ok("policy show azure --format toml --vault v --key-file key").stdout;
    scratch.write("from-azure.toml", toml.as_bytes());
    assert_eq!(
        scratch.run("policy check from-azure.toml --json").expect(0, "check").summary()["zone"],
        "Pacific Standard Time"
    );
    let counted = scratch.summary("policy import counted.toml --name counted");
    assert_eq!(counted["version"], 1);
    let error = scratch.json("policy show counted --format azure").expect(2, "no words for it").error();
    assert!(message(&error).contains("count"), "{error}");

    scratch.write("bad.toml", DAILY.replace("30 days", "0 days").as_bytes());
    let error = scratch.run("policy check bad.toml --json").expect(1, "a policy that does not hold").error();
    let causes = error["causes"][0].as_str().unwrap();
    assert!(causes.contains("retention.daily is 0: from 1 to 9999 days"), "{error}");
    scratch.write("bad.json", azure(3).as_bytes());
    let error = scratch.run("policy check bad.json --json").expect(1, "Azure wants 7 days").error();
    assert!(error["causes"][0].as_str().unwrap().contains('7'), "{error}");
    for (file, text) in [("no.toml", "schedule = 7"), ("no.json", "{\"properties\": 3}")] {
        scratch.write(file, text.as_bytes());
        scratch.run(&format!("policy check {file} --json")).expect(1, file);
    }
    scratch.run("policy check missing.toml --json").expect(1, "no file");
    scratch.json("policy import daily.toml --name No/Name").expect(1, "no name");
    scratch.json("policy show none").expect(1, "no such policy");
}

#[test]
fn a_vm_is_under_a_policy_and_its_points_are_planned_and_pruned() {
    let scratch = scene();
    scratch.summary("policy import counted.toml --name counted");
    let error = scratch.json("plan web").expect(1, "not protected").error();
    assert!(error["hint"].as_str().unwrap().contains("vmkeep protect"), "{error}");
    let error = scratch.json("protect web --policy none").expect(1, "no such policy").error();
    assert!(message(&error).contains("counted"), "{error}");
    let protected = scratch.summary("protect web --policy counted");
    assert_eq!((&protected["state"], &protected["version"]), (&json!("protected"), &json!(1)));
    assert_eq!(scratch.summary("plan web")["points"], 0, "before the first backup");

    let backup = "backup --vm web --disk os=os.raw";
    for seed in 0..4 {
        scratch.change("os.raw", 70_000, 3000, seed);
        scratch.summary(&format!("{backup} --scheduled"));
    }
    scratch.summary(&format!("{backup} --keep 30d --tag before-upgrade"));
    scratch.summary(backup);
    scratch.summary(&format!("{backup} --scheduled"));
    scratch.json("backup --vm other --disk os=os.raw --scheduled").expect(1, "under no policy");

    let plan = scratch.json("plan").expect(0, "plan");
    let points = plan.of_type("point");
    let decisions: Vec<&str> = points.iter().map(|p| p["decision"].as_str().unwrap()).collect();
    assert_eq!(decisions, ["expire", "expire", "expire", "keep", "keep", "keep", "keep"], "{}", plan.stdout);
    assert_eq!(points[3]["tags"], json!(["last"]));
    assert_eq!((&points[3]["rule"], &points[3]["expiry"]), (&json!("last"), &json!("when-replaced")));
    assert_eq!((&points[4]["rule"], &points[4]["expiry"]), (&json!("own expiry"), &json!("at")));
    assert_eq!((&points[5]["rule"], &points[5]["expiry"]), (&json!("own expiry"), &json!("never")));
    assert_eq!((&plan.summary()["expire"], &plan.summary()["keep"]), (&json!(3), &json!(4)));
    // Of each change 3000 bytes that do not compress, or their pages; what stays frees nothing.
    assert!(
        points[1]["bytes_freed"].as_u64().is_some_and(|freed| (3000..70_000).contains(&freed)),
        "{}",
        plan.stdout
    );
    assert_eq!(points[3]["bytes_freed"], Value::Null);
    let table = scratch.ok("plan web --vault v --key-file key").stdout;
    assert!(
        table.contains("EXPIRES") && table.contains("when replaced") && table.contains("in 29d"),
        "{table}"
    );

    let explained = scratch.json("plan --explain web@4").expect(0, "explain").of_type("point");
    assert_eq!(explained[0]["reasons"], json!(["last rule: number 2 of 2, newest first"]));
    let words = scratch.ok("plan --explain web@2 --vault v --key-file key").stdout;
    assert!(words.contains("no rule of the policy keeps it") && words.contains("vmkeep prune"), "{words}");
    scratch.json("plan --explain web@99").expect(2, "no such point");

    let dry = scratch.summary("prune --dry-run");
    assert_eq!(dry["forgotten"], json!(["web@1", "web@2", "web@3"]));
    scratch.json("prune").expect(2, "nobody can be asked");
    assert_eq!(scratch.summary("plan")["expire"], 3, "nothing was changed");
    scratch.summary("hold web@2");
    let pruned = scratch.summary("prune web --yes");
    assert_eq!(pruned["forgotten"], json!(["web@1", "web@3"]));
    assert_eq!(scratch.summary("prune --yes")["forgotten"], json!([]), "once is enough");
    scratch.summary("undelete web@1");
    scratch.summary("prune --yes");
    scratch.summary("sweep");
    let kept = scratch.json("prune web --to-zero").expect(0, "the newest is kept by its rule").summary();
    assert_eq!(kept["forgotten"], json!([]));
    scratch.json("prune --to-zero").expect(2, "of one VM at a time");
    scratch.json("restore web@4 --to out").expect(0, "what was kept restores");
    scratch.json("restore web@1 --to gone").expect(1, "what was pruned and swept is gone");
}

#[test]
fn an_edit_that_keeps_less_is_shown_first_and_asked_about() {
    let scratch = scene();
    scratch.summary("policy import daily.toml --name p");
    scratch.summary("protect web --policy p");
    scratch.summary("backup --vm web --disk os=os.raw --scheduled");
    let diff = scratch.json("policy diff p shorter.toml").expect(0, "diff");
    assert_eq!(diff.of_type("change").len(), 1, "{}", diff.stdout);
    assert_eq!(diff.of_type("change")[0]["change"], "sooner");
    assert_eq!(diff.summary()["weakenings"].as_array().unwrap().len(), 2);
    assert_eq!(scratch.summary("policy diff p daily.toml")["unchanged"], 1);
    scratch.json("policy import shorter.toml --name p").expect(2, "nobody can be asked");
    assert_eq!(scratch.summary("policy import shorter.toml --name p --yes")["version"], 2);
    // The other way round nobody need be asked; and so with another policy for the VM.
    assert_eq!(scratch.summary("policy import daily.toml --name p")["version"], 3);
    scratch.summary("policy import shorter.toml --name q");
    scratch.json("protect web --policy q").expect(2, "nobody can be asked");
    scratch.summary("protect web --policy q --yes");
    // Where a second person must approve, one alone may not.
    for (who, role) in [("cora", "backup-contributor"), ("mia", "backup-mua-admin")] {
        scratch.summary(&format!("roles grant {who} {role}"));
    }
    scratch.summary("policy import daily.toml --name q --as cora");
    let error =
        scratch.json("policy import shorter.toml --name q --yes --as cora").expect(1, "alone").error();
    assert!(message(&error).contains("second person (mia, owner)"), "{error}");
    scratch.summary("roles approve cora shorten-retention --as mia");
    scratch.summary("policy import shorter.toml --name q --yes --as cora");
}

#[test]
fn the_schedule_is_a_timeline_in_text_and_as_an_image() {
    let scratch = scene();
    scratch.summary("policy import counted.toml --name counted");
    scratch.write("utc.toml", DAILY.replace("Europe/Berlin", "UTC").as_bytes());
    scratch.summary("policy import utc.toml --name daily");
    scratch.summary("protect web --policy counted");
    scratch.summary("protect db --policy daily");
    let schedule = scratch.json("schedule --days 3 --svg due.svg").expect(0, "schedule");
    let runs = schedule.of_type("run");
    let of = |vm: &str| runs.iter().filter(|run| run["vm"] == vm).count();
    assert_eq!((of("web"), of("db")), (18, 3), "{}", schedule.stdout);
    assert_eq!((&schedule.summary()["vms"], &schedule.summary()["runs"]), (&json!(2), &json!(21)));
    assert!(
        runs.iter()
            .filter(|run| run["vm"] == "db")
            .all(|run| run["local"].as_str().unwrap().contains("02:30 +00:00"))
    );
    let svg = String::from_utf8(scratch.read("due.svg")).unwrap();
    assert_eq!(svg.matches("<circle").count(), 21);
    let text = scratch.ok("schedule --vault v --key-file key").stdout;
    assert!(text.contains("web ") && text.contains("daily at 02:30, UTC"), "{text}");
    scratch.summary("stop web --retain");
    assert_eq!(scratch.summary("schedule")["vms"], 1, "of a stopped VM nothing is due");
    scratch.json("schedule --days 0").expect(2, "no days");
}

#[test]
fn run_makes_what_is_due_and_the_second_finds_nothing_to_do() {
    let scratch = scene();
    scratch.summary("policy import counted.toml --name counted");
    for vm in ["web", "db", "idle"] {
        scratch.summary(&format!("protect {vm} --policy counted"));
    }
    scratch.disk("db.raw", 1 << 20, &[(0, 9000, 2)]);
    let jobs =
        "[web]\ndisks = ['os=os.raw,role=os']\noptions = ['--level', 'fast']\n[db]\ndisks = ['os=db.raw']\n";
    scratch.write("jobs.toml", jobs.as_bytes());
    // Two at once, as two machines or two timers might start them.
    let start = || {
        let words = "run --jobs jobs.toml --once --vault v --key-file key --json";
        scratch.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()].map(|child| child.wait_with_output().unwrap());
    let text: String = both.iter().map(|out| String::from_utf8(out.stdout.clone()).unwrap()).collect();
    assert!(both.iter().all(|out| out.status.success()), "{text}");
    let backups = text.lines().filter(|line| line.contains("\"type\":\"backup\"")).count();
    assert_eq!(backups, 2, "one of each VM: {text}");
    assert!(text.contains("idle is protected and has no job"), "{text}");
    assert_eq!(scratch.json("points").expect(0, "points").of_type("point").len(), 2);
    let again = scratch.summary("run --jobs jobs.toml --once");
    assert_eq!((&again["backups"], &again["failed"]), (&json!(0), &json!(0)));
    assert!(again["next"].is_string(), "{again}");

    // What a policy lets go is forgotten by it.
    for _ in 0..2 {
        scratch.summary("backup --vm web --disk os=os.raw --scheduled");
    }
    assert_eq!(scratch.summary("run --jobs jobs.toml --once")["pruned"], 1);

    scratch.summary("protect lost --policy counted");
    scratch.write("lost.toml", b"[lost]\ndisks = ['os=nowhere.raw']\n");
    let failed = scratch.json("run --jobs lost.toml --once").expect(1, "a disk that is not there");
    assert_eq!(failed.of_type("failed")[0]["vm"], "lost");
    for (text, what) in [
        ("[a]\n", "no disks"),
        ("[a]\ndisks = ['os']\n", "no path"),
        ("[a]\ndisks = ['os=x']\noptions = ['--frobnicate']\n", "no such option"),
        ("[a]\ndisks = ['os=x']\ncolour = 'red'\n", "no such key"),
        ("a = 1\n", "no table"),
    ] {
        scratch.write("bad.toml", text.as_bytes());
        let error = scratch.json("run --jobs bad.toml --once").expect(1, what).error();
        assert!(message(&error).contains("bad.toml"), "{error}");
    }
}

/// What failed is not left until the next time of the schedule; and what is forgotten is swept when that is asked for.
#[test]
fn run_tries_again_what_failed_and_sweeps() {
    let scratch = scene();
    scratch.summary("policy import counted.toml --name counted");
    scratch.summary("protect web --policy counted");
    scratch.write("jobs.toml", b"[web]\ndisks = ['os=late.raw']\n");
    let words = "run --jobs jobs.toml --retry-after 1s --vault v --key-file key --json";
    let mut child = scratch.command(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.by_ref().any(|line| line.unwrap().contains("\"type\":\"failed\"")));
    scratch.disk("late.raw", 1 << 20, &[(0, 9000, 2)]);
    assert!(lines.by_ref().any(|line| line.unwrap().contains("\"type\":\"backup\"")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");

    for seed in 3..6 {
        scratch.change("late.raw", 0, 1 << 20, seed);
        scratch.summary("backup --vm web --disk os=late.raw --scheduled");
    }
    let unswept = scratch.json("run --jobs jobs.toml --once").expect(0, "no sweep was asked for");
    assert!(unswept.of_type("swept").is_empty() && unswept.summary()["pruned"] != 0);
    let ran = scratch.json("run --jobs jobs.toml --once --sweep-every 1d").expect(0, "sweep");
    let swept = ran.of_type("swept");
    assert!(
        swept[0]["points"].as_u64() > Some(0) && swept[0]["bytes_freed"].as_u64() > Some(1 << 19),
        "{swept:?}"
    );
}

#[test]
fn run_waits_and_stops_cleanly_at_ctrl_c() {
    let scratch = scene();
    scratch.summary("policy import counted.toml --name counted");
    scratch.summary("protect web --policy counted");
    scratch.write("jobs.toml", b"[web]\ndisks = ['os=os.raw']\n");
    let words = "run --jobs jobs.toml --vault v --key-file key --json";
    let mut child = scratch.command(words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    // It has made what was due when it says so; from then on it waits.
    assert!(lines.by_ref().any(|line| line.unwrap().contains("\"type\":\"backup\"")));
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    let summary: Value = serde_json::from_str(rest.last().unwrap()).unwrap();
    assert_eq!(
        (&summary["type"], &summary["stopped"], &summary["backups"]),
        (&json!("summary"), &json!(true), &json!(1))
    );
}

#[test]
fn a_vm_is_stopped_deleted_had_back_and_resumed() {
    let scratch = scene();
    scratch.summary("policy import counted.toml --name counted");
    scratch.summary("protect web --policy counted");
    for _ in 0..4 {
        scratch.summary("backup --vm web --disk os=os.raw --scheduled");
    }
    scratch.json("stop web").expect(2, "how is to be said");
    scratch.json("stop web --retain --delete").expect(2, "one of them");
    assert_eq!(scratch.summary("stop web --by-policy")["state"], "stopped-by-policy");
    assert_eq!(scratch.summary("plan")["expire"], 2, "they go on expiring");
    let error = scratch.json("backup --vm web --disk os=os.raw --scheduled").expect(2, "no backups").error();
    assert!(message(&error).contains("resume"), "{error}");
    assert_eq!(scratch.summary("stop web --retain")["state"], "stopped-retain");
    assert_eq!(scratch.summary("plan")["expire"], 0, "nothing expires");
    scratch.json("stop web --by-policy").expect(1, "resume first");
    assert_eq!(scratch.summary("resume web")["state"], "protected");

    scratch.json("stop web --delete").expect(2, "nobody can be asked");
    let deleted = scratch.summary("stop web --delete --yes");
    assert_eq!(deleted["state"], "soft-deleted");
    assert!(deleted["until"].is_string());
    let error = scratch.json("forget web@1").expect(1, "not by hand either").error();
    assert!(message(&error).contains("stay until"), "{error}");
    let error = scratch.json("purge web").expect(1, "before its time").error();
    assert!(message(&error).contains("stay until"), "{error}");
    scratch.json("resume web").expect(1, "undelete first");
    let error = scratch.json("restore web@1 --to out").expect(1, "undelete first").error();
    assert!(message(&error).contains("soft-deleted") && error["hint"].is_string(), "{error}");
    scratch.json("protect web --policy counted").expect(1, "undelete first");
    scratch.summary("sweep");
    assert_eq!(scratch.summary("undelete-vm web")["state"], "stopped-retain");
    scratch.json("undelete-vm web").expect(1, "it is not deleted");
    scratch.json("restore web@1 --to out").expect(0, "every point is back");
    scratch.summary("resume web");

    // Without soft delete it is for good, and takes the word that stands for it.
    assert_eq!(scratch.summary("guard soft-delete --off")["soft_delete_days"], Value::Null);
    let error = scratch.json("stop web --delete --yes").expect(1, "for good").error();
    let word = message(&error).rsplit(' ').next().unwrap().to_owned();
    assert!(word.starts_with("delete-") && error["hint"].as_str().unwrap().contains("--confirm"), "{error}");
    scratch.json("stop web --delete --confirm delete-000000").expect(1, "another word");
    let gone = scratch.summary(&format!("stop web --delete --confirm {word}"));
    assert_eq!((&gone["state"], &gone["forgotten"]), (&json!("purged"), &json!(4)));
    scratch.summary("sweep");
    assert_eq!(scratch.json("points --vm web").of_type("point").len(), 0);
    scratch.summary("protect web --policy counted");
    assert_eq!(
        scratch.summary("backup --vm web --disk os=os.raw --scheduled")["point"],
        "web@1",
        "a new line"
    );
}

#[test]
fn immutability_keeps_what_a_policy_keeps() {
    let scratch = scene();
    scratch.summary("policy import daily.toml --name p");
    scratch.summary("protect web --policy p");
    for _ in 0..2 {
        scratch.summary("backup --vm web --disk os=os.raw --scheduled");
    }
    let shown = scratch.summary("guard show");
    assert_eq!((&shown["immutability"], &shown["soft_delete_days"]), (&json!("disabled"), &json!(14)));
    scratch.json("guard immutability locked").expect(1, "not in one step");
    scratch.summary("guard immutability unlocked");
    scratch
        .write("longer.toml", DAILY.replace("30 days", "40 days").replace("12 weeks", "20 weeks").as_bytes());
    for refused in [
        "stop web --delete --yes",
        "policy import shorter.toml --name p --yes",
        "forget web@1",
        "keys destroy web --yes",
        "guard soft-delete --off",
    ] {
        let error = scratch.json(refused).expect(1, refused).error();
        assert!(message(&error).contains("immutability is unlocked"), "{error}");
    }
    scratch.summary("policy import longer.toml --name p");
    let error = scratch.json("guard immutability locked").expect(1, "to be confirmed").error();
    let word = message(&error).rsplit(' ').next().unwrap().to_owned();
    assert!(message(&error).contains("can never be unlocked") && word.starts_with("lock-"), "{error}");
    assert_eq!(
        scratch.summary(&format!("guard immutability locked --confirm {word}"))["immutability"],
        "locked"
    );
    scratch.json("guard immutability disabled").expect(1, "never");
    // A mistake of ninety-nine years is said before it is made.
    scratch
        .write("ages.toml", DAILY.replace("30 days", "9000 days").replace("12 weeks", "20 weeks").as_bytes());
    let error = scratch.json("policy import ages.toml --name p").expect(1, "to be confirmed").error();
    assert!(
        message(&error).contains("9000 days") && message(&error).contains("never be shortened"),
        "{error}"
    );
    let word = message(&error).rsplit(' ').next().unwrap().to_owned();
    scratch.summary(&format!("policy import ages.toml --name p --confirm {word}"));
}
