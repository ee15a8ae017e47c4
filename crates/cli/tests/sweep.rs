//! Deletion, as a person meets it: forget, look, have back, hold, pin, sweep, close; and the bytes on the disk.

#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::{Ran, Scratch};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A vault with three points: each stores 2 MiB that only it holds, beside 2 MiB that all hold.
fn three_points() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 8 * MIB, &[(0, 2 << 20, 1)]);
    for n in 1..=3 {
        scratch.change("disk", 4 * MIB, 2 << 20, 10 + n);
        scratch.summary("backup --vm web --disk os=disk");
        fs::copy(scratch.path("disk"), scratch.path(&format!("disk{n}"))).unwrap();
    }
    scratch
}

impl Scratch {
    /// Runs what must succeed on the vault, as text; the lines of stdout.
    fn text(&self, words: &str) -> Vec<String> {
        let ran = self.ok(&format!("{words} --vault v --key-file key"));
        assert!(ran.stderr.is_empty(), "{words}: {}", ran.stderr);
        ran.stdout.lines().map(str::to_owned).collect()
    }

    /// All files of the vault by path, with their sizes.
    fn files(&self) -> Vec<(String, u64)> {
        let mut files = Vec::new();
        walk(&self.path("v"), &mut files);
        files
    }

    /// Bytes of all objects; not of files that a killed process had not given their names yet.
    fn bytes(&self) -> u64 {
        self.files().iter().filter(|(path, _)| !path.contains("/stage-")).map(|(_, size)| size).sum()
    }

    /// The point restores to the disk that was kept of it.
    fn restores(&self, n: u32) {
        let out = format!("out{n}");
        self.summary(&format!("restore web@{n} --to {out} --force"));
        assert!(self.same(&format!("{out}/os.raw"), &format!("disk{n}")), "{n}");
    }

    /// What `points` says of each point of web: number, forgotten, held, pins.
    fn marks(&self) -> Vec<(u64, bool, bool, u64)> {
        let of = |point: &Value| {
            (
                point["number"].as_u64().unwrap(),
                point["forgotten"].as_bool().unwrap(),
                point["held"].as_bool().unwrap(),
                point["pins"].as_u64().unwrap(),
            )
        };
        self.json("points --vm web").expect(0, "points").of_type("point").iter().map(of).collect()
    }
}

fn walk(folder: &Path, files: &mut Vec<(String, u64)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            walk(&entry.path(), files);
        } else {
            let path = entry.path().to_str().unwrap().to_owned();
            files.push((path, entry.metadata().unwrap().len()));
        }
    }
}

fn number(summary: &Value, what: &str) -> u64 {
    summary[what].as_u64().unwrap_or_else(|| panic!("{what} in {summary}"))
}

#[test]
fn a_forgotten_point_is_had_back_until_a_sweep_takes_it() {
    let scratch = three_points();
    assert_eq!(
        scratch.text("forget web@2"),
        [
            "forgot web@2; until a sweep has taken it, it can be restored by its number, and vmkeep undelete takes this back"
        ]
    );
    let files = scratch.files();
    let plan = scratch.summary("sweep --dry-run");
    assert_eq!(
        (&plan["dry_run"], &plan["points"], &plan["kept"]),
        (&json!(true), &json!(["web@2"]), &json!([]))
    );
    let told = number(&plan, "bytes_freed");
    assert!(told > 2 * MIB && told < 2 * MIB + 64 * 1024, "{plan}");
    let text = scratch.text("sweep --dry-run");
    assert_eq!(text[0], "would remove web@2");
    assert!(text[1].starts_with("would remove 1 point, end 0 backups, and delete "), "{text:?}");
    assert!(text[1].contains(" with 2.0"), "{text:?}");
    assert_eq!(scratch.files(), files, "a dry run changes nothing");

    assert_eq!(scratch.text("undelete web@2"), ["web@2 is no longer forgotten"]);
    assert_eq!(scratch.text("undelete web@2"), ["web@2 was not forgotten"]);
    assert_eq!(scratch.summary("sweep")["points"], json!([]));
    scratch.restores(2);

    scratch.text("forget web@2");
    let before = scratch.bytes();
    let swept = scratch.summary("sweep");
    assert_eq!(swept["points"], json!(["web@2"]));
    let (freed, copied) = (number(&swept, "bytes_freed"), number(&swept, "bytes_copied"));
    let smaller = before - scratch.bytes();
    assert!(freed.abs_diff(told) <= 4096, "{freed} {told}");
    // Records come and go beside it.
    assert!(smaller.abs_diff(freed - copied) <= 4096, "{smaller} {swept}");

    assert_eq!(scratch.marks(), [(1, false, false, 0), (3, false, false, 0)]);
    for words in ["restore web@2 --to out", "undelete web@2", "forget web@2", "hold web@2", "verify web@2"] {
        let error = scratch.json(words).expect(1, words).error();
        assert_eq!(error["message"], "there is no recovery point web@2: it was removed", "{words}");
    }
    for n in [1, 3] {
        scratch.restores(n);
        assert_eq!(scratch.summary(&format!("verify web@{n}"))["clean"], true);
    }
    let nothing = scratch.text("sweep");
    assert_eq!(nothing, ["removed 0 points, ended 0 backups, and deleted 0 objects with 0 B; copied 0 B"]);
}

#[test]
fn the_newest_the_held_and_the_pinned_stay_and_the_sweep_says_why() {
    let scratch = three_points();
    assert_eq!(scratch.text("hold web@1"), ["web@1 is held: no sweep removes it until vmkeep release web@1"]);
    scratch.text("forget web@1");
    let told = scratch.text("forget web@latest");
    assert_eq!(
        told[1],
        "web@3 is the newest point of web: it stays until there is a newer one or the VM is closed"
    );
    assert_eq!(scratch.summary("forget web@3")["newest"], true);
    assert_eq!(scratch.summary("forget web@2")["newest"], false);
    scratch.summary("undelete web@2");
    assert_eq!(scratch.marks(), [(1, true, true, 0), (2, false, false, 0), (3, true, false, 0)]);
    let table = scratch.text("points");
    assert!(table[1].ends_with("  forgotten, held") && table[3].ends_with("  forgotten"), "{table:?}");

    let kept = [
        "kept web@1: it is held; vmkeep release web@1 lets it go",
        "kept web@3: it is the newest; it stays until there is a newer one or the VM is closed",
    ];
    let mut told = scratch.text("sweep");
    let last = told.pop().unwrap();
    told.sort();
    assert_eq!(told, kept);
    assert_eq!(last, "removed 0 points, ended 0 backups, and deleted 0 objects with 0 B; copied 0 B");
    (1..=3).for_each(|n| scratch.restores(n));

    assert_eq!(
        scratch.text("release web@1"),
        ["web@1 is not held; it is forgotten, and the next sweep may remove it"]
    );
    assert_eq!(scratch.text("release web@2"), ["web@2 is not held"]);
    assert_eq!(scratch.summary("sweep")["points"], json!(["web@1"]));
    assert_eq!(scratch.summary("sweep")["kept"], json!([{"point": "web@3", "why": "newest"}]));
    for n in [2, 3] {
        scratch.restores(n);
    }
}

#[test]
fn a_restore_that_was_killed_leaves_a_pin_that_is_shown_and_broken_on_purpose() {
    let scratch = three_points();
    let mut child = scratch.restore_of_big();
    child.kill().unwrap();
    child.wait().unwrap();

    let ran = scratch.json("pins big").expect(0, "pins");
    let pins = ran.of_type("pin");
    assert_eq!(
        (pins.len(), &pins[0]["point"], &pins[0]["why"]),
        (1, &json!("big@1"), &json!("vmkeep restore"))
    );
    assert!(scratch.text("points --vm big")[1].ends_with("  pinned"));
    scratch.summary("forget big@1");
    assert_eq!(scratch.text("sweep")[0], "kept big@1: it is pinned by a restore; vmkeep pins big lists them");

    let pin = pins[0]["pin"].as_str().unwrap();
    let unpin = format!("unpin big@1 {pin}");
    let error = scratch.json(&unpin).expect(2, "nobody can be asked").error();
    assert!(error["message"].as_str().unwrap().contains("--yes"), "{error}");
    assert_eq!(scratch.text(&format!("{unpin} --yes")), [format!("broke pin {pin} of big@1")]);
    let error = scratch.json(&format!("{unpin} --yes")).expect(1, "again").error();
    assert_eq!(error["message"], format!("big@1 has no pin {pin}"));
    assert_eq!(scratch.text("pins big"), ["no pins"]);
    assert_eq!(scratch.summary("sweep")["points"], json!(["big@1"]));
}

#[test]
fn a_restore_whose_pin_is_broken_and_point_swept_says_so_and_leaves_no_file() {
    let scratch = three_points();
    let child = scratch.restore_of_big();
    signal("-STOP", &child);
    let pins = scratch.json("pins big").expect(0, "pins").of_type("pin");
    scratch.summary(&format!("unpin big@1 {} --yes", pins[0]["pin"].as_str().unwrap()));
    scratch.summary("forget big@1");
    assert_eq!(scratch.summary("sweep")["points"], json!(["big@1"]));
    signal("-CONT", &child);
    let ran = Ran::from(child.wait_with_output().unwrap()).expect(1, "restore");
    assert!(
        ran.stderr.contains("error: the pin on big@1 was broken and a sweep took the point"),
        "{}",
        ran.stderr
    );
    assert_eq!(scratch.names("out"), [""; 0]);
}

#[test]
fn a_restore_takes_its_pin_away_and_goes_on_where_the_vault_cannot_be_written() {
    let scratch = three_points();
    scratch.restores(1);
    assert_eq!(scratch.text("pins web"), ["no pins"]);
    // Nobody, not even root, makes a folder under a file.
    let _ = fs::remove_dir_all(scratch.path("v/pins"));
    scratch.write("v/pins", b"");
    let ran = scratch.json("restore web@2 --to out").expect(0, "restore");
    assert!(ran.stderr.starts_with("note: the point is not pinned"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(scratch.same("out/os.raw", "disk2"));
    let ran = scratch.json("restore web@2 --to quiet --no-pin").expect(0, "restore");
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
}

#[test]
fn a_closed_vm_whose_points_are_forgotten_leaves_records_of_fixed_size() {
    let scratch = three_points();
    let error = scratch.json("close web").expect(2, "nobody can be asked").error();
    assert!(error["message"].as_str().unwrap().contains("--yes"), "{error}");
    scratch.summary("forget web@1");
    assert_eq!(
        scratch.text("close web --yes"),
        [
            "ended the protection of web",
            "points that stay until they are forgotten: 2; forgotten, which the next sweep may remove: 1",
        ]
    );
    let again = scratch.summary("close web --yes");
    assert_eq!((&again["closed"], &again["was_closed"]), (&json!(true), &json!(true)));
    assert_eq!(scratch.summary("forget web@2")["newest"], false);
    assert_eq!(scratch.summary("forget web@3")["newest"], false);
    assert_eq!(scratch.summary("sweep")["points"], json!(["web@1", "web@2", "web@3"]));
    assert_eq!(scratch.text("points"), ["no recovery points"]);
    for (path, size) in scratch.files() {
        let kept = ["vault", "keys/", "names/", "journal/", "heads/", "retired/", "points/"];
        let (_, name) = path.split_once("/v/").unwrap();
        assert!(kept.iter().any(|kept| name.starts_with(kept)) && size < 1024, "{path} {size}");
    }
    assert_eq!(scratch.summary("verify")["clean"], true);

    // The VM is protected again, from the beginning.
    let summary = scratch.summary("backup --vm web --disk os=disk");
    assert_eq!((&summary["point"], &summary["base"]), (&json!("web@1"), &Value::Null));
}

#[test]
fn what_an_interrupted_backup_left_is_freed_once_it_is_ended() {
    let scratch = three_points();
    let before = scratch.bytes();
    let session = scratch.abandoned_backup();
    let left = scratch.bytes() - before;
    assert!(left > 2 * MIB, "{left}");
    // It may still run: by default it is given a week.
    for words in ["sweep", "sweep --abandoned-after never", "sweep --abandoned-after 90m"] {
        let swept = scratch.summary(words);
        assert_eq!((number(&swept, "open_sessions"), &swept["ended"]), (1, &json!([])), "{words}");
    }
    assert_eq!(
        scratch.text("sweep")[0],
        "backups that have not finished and may still run: 1; vmkeep sessions VM lists them"
    );
    let plan = scratch.summary("sweep --abandoned-after 0s --dry-run");
    assert_eq!(plan["ended"], json!([{"vm": "web", "session": session}]));
    assert_eq!(scratch.json("sessions web").of_type("session").len(), 1);
    let swept = scratch.summary("sweep --abandoned-after 0s");
    assert_eq!(swept["ended"], plan["ended"]);
    assert!(scratch.bytes() < before + 4096, "{before} {}", scratch.bytes());
    assert_eq!(scratch.text("sessions web"), ["no backup of web is running or was interrupted"]);
    (1..=3).for_each(|n| scratch.restores(n));

    // The same on purpose, by its name.
    let session = scratch.abandoned_backup();
    let error = scratch.json(&format!("void {session}")).expect(2, "nobody can be asked").error();
    assert!(error["message"].as_str().unwrap().contains("--yes"), "{error}");
    let told = scratch.text(&format!("void {session} --yes"));
    assert_eq!(told, [format!("ended session {session}; the next sweep removes what it has stored")]);
    let error = scratch.json(&format!("void {session} --yes")).expect(1, "again").error();
    assert!(error["message"].as_str().unwrap().contains(&session), "{error}");
    scratch.summary("sweep");
    assert!(scratch.bytes() < before + 8192, "{before} {}", scratch.bytes());
}

fn signal(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

impl Scratch {
    /// A restore that takes a while, of a point that is not the newest; it has begun.
    fn restore_of_big(&self) -> Child {
        let pieces: Vec<(u64, usize, u64)> = (0..48).map(|n| (n * 4 * MIB, 4 << 20, n)).collect();
        self.disk("big", 192 * MIB, &pieces);
        self.summary("backup --vm big --disk os=big --level fast");
        self.summary("backup --vm big --disk os=disk");
        let mut command = self.command("restore big@1 --to out --vault v --key-file key --json");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains("disk_began"), "{line}");
        child
    }

    /// A backup of web that is killed while it stores; its session.
    fn abandoned_backup(&self) -> String {
        let pieces: Vec<(u64, usize, u64)> = (0..64).map(|n| (n * 4 * MIB, 4 << 20, 100 + n)).collect();
        self.disk("large", 256 * MIB, &pieces);
        let words =
            "backup --vm web --disk os=large --memory 32 --vault v --key-file key --json --resume never";
        let mut child = self.command(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let far = |line: &Value| line["position"].as_u64().is_some_and(|position| position > 100 * MIB);
        assert!(lines.any(|line| far(&serde_json::from_str(&line.unwrap()).unwrap())));
        child.kill().unwrap();
        child.wait().unwrap();
        let sessions = self.json("sessions web").expect(0, "sessions").of_type("session");
        assert_eq!(sessions.len(), 1);
        assert!(sessions[0]["bytes_stored"].as_u64().unwrap() > 2 * MIB, "{sessions:?}");
        sessions[0]["session"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_sweep_that_is_interrupted_says_that_the_next_goes_on() {
    let scratch = three_points();
    (0..24).for_each(|_| drop(scratch.summary("backup --vm web --disk os=disk")));
    (1..24).for_each(|n| drop(scratch.summary(&format!("forget web@{n}"))));
    let mut command = scratch.command("sweep --vault v --key-file key --json");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("\"type\":\"vm\""), "{line}");
    // Slowed down until the signal is there.
    for which in ["-STOP", "-INT", "-CONT"] {
        signal(which, &child);
    }
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    // It may have been done before the signal came; then there is nothing to go on with.
    if ran.code != 0 {
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("the next sweep goes on") && ran.stderr.contains("error: cancelled"));
    }
    scratch.summary("sweep");
    assert_eq!(scratch.marks().iter().map(|mark| mark.0).collect::<Vec<_>>(), [24, 25, 26, 27]);
    fs::copy(scratch.path("disk3"), scratch.path("disk27")).unwrap();
    scratch.restores(27);
}
