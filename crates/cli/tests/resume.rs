//! A backup that was killed is not lost work.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use harness::Scratch;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 128 * MIB;

/// A vault with a backup of web, all noise, that was killed about half way.
fn killed() -> Scratch {
    let scratch = Scratch::with_vault();
    let pieces: Vec<(u64, usize, u64)> = (0..32).map(|n| (n * 4 * MIB, 4 << 20, 1 + n)).collect();
    scratch.disk("disk", SIZE, &pieces);
    kill_half_way(&scratch);
    scratch
}

fn kill_half_way(scratch: &Scratch) {
    let words =
        "backup --vm web --disk os=disk --level fast --memory 32 --workers 1 --vault v --key-file key --json";
    let mut child = scratch.command(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let half = |line: &Value| line["position"].as_u64().is_some_and(|position| position > SIZE / 2);
    assert!(lines.any(|line| half(&serde_json::from_str(&line.unwrap()).unwrap())));
    child.kill().unwrap();
    child.wait().unwrap();
}

fn sessions(scratch: &Scratch) -> Vec<(String, u64)> {
    let lines = scratch.json("sessions web").expect(0, "sessions").of_type("session");
    let of =
        |line: &Value| (line["session"].as_str().unwrap().to_owned(), line["bytes_stored"].as_u64().unwrap());
    lines.iter().map(of).collect()
}

/// What was uploaded and what was there.
fn counts(summary: &Value) -> (u64, u64) {
    (summary["bytes_stored"].as_u64().unwrap(), summary["bytes_adopted"].as_u64().unwrap())
}

fn restores(scratch: &Scratch) {
    scratch.summary("restore web@latest --to out --force");
    assert!(scratch.same("out/os.raw", "disk"));
    assert_eq!(scratch.summary("verify web@latest")["clean"], true);
}

#[test]
fn a_killed_first_full_is_gone_on_from_with_resume() {
    let scratch = killed();
    let (session, stored) = sessions(&scratch).pop().unwrap();
    assert!(stored > SIZE / 3, "{stored}");
    let ran = scratch.json("backup --vm web --disk os=disk --resume").expect(0, "backup");
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
    assert_eq!(ran.of_type("resumed")[0]["session"], *session);
    let summary = ran.summary();
    assert_eq!(summary["resumed"], *session);
    let (uploaded, adopted) = counts(&summary);
    assert_eq!(summary["bytes_changed"], SIZE);
    assert!(adopted > SIZE / 3 && uploaded < SIZE - adopted + SIZE / 50, "{summary}");
    assert_eq!(sessions(&scratch), []);
    restores(&scratch);
    // The number of the one that was killed is not a point.
    assert_eq!(summary["point"], "web@2");
}

#[test]
fn a_young_one_is_left_alone_unless_it_is_named_and_said_so() {
    let scratch = killed();
    let (session, _) = sessions(&scratch).pop().unwrap();
    let ran = scratch
        .run(&format!("backup --vm web --disk os=disk --resume {session} --vault v --key-file key"))
        .expect(0, "backup");
    let told =
        ran.stdout.lines().find(|line| line.starts_with("went on from an interrupted backup of ")).unwrap();
    assert!(told.ends_with(" MiB were there already"), "{told}");
    restores(&scratch);

    scratch.change("disk", 0, 100 << 20, 1000);
    kill_half_way(&scratch);
    let (session, _) = sessions(&scratch).pop().unwrap();
    let ran = scratch.run("backup --vm web --disk os=disk --vault v --key-file key").expect(0, "backup");
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("--resume {session} goes on from it")), "{}", ran.stderr);
    assert!(!ran.stdout.contains("went on"), "{}", ran.stdout);
    restores(&scratch);

    // It has lost its number by now: nothing is there to go on from.
    let ran = scratch.json(&format!("backup --vm web --disk os=disk --resume {session}")).expect(0, "backup");
    assert_eq!((&ran.summary()["resumed"], ran.of_type("not_resumed").len()), (&json!(null), 1));
    assert!(ran.stderr.contains("this backup begins afresh"), "{}", ran.stderr);
    let ran = scratch.json("backup --vm web --disk os=disk --resume never").expect(0, "backup");
    assert!(ran.stderr.is_empty(), "{}", ran.stderr);
}
