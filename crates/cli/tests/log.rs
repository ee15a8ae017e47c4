//! `vmkeep log`: what was done and by whom, and what the store took back.

#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::path::Path;

use harness::Scratch;
use serde_json::json;

const MIB: u64 = 1 << 20;

fn scene() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("web", 4 * MIB, &[(0, 1 << 20, 1)]);
    for n in 1..=3 {
        scratch.change("web", 2 * MIB, 1 << 19, n);
        scratch.summary("backup --vm web --disk os=web");
    }
    scratch.json("forget web@1").expect(0, "forget");
    scratch
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[test]
fn the_log_says_what_was_done_and_by_whom() {
    let scratch = scene();
    scratch.json("roles grant ann backup-reader").expect(0, "grant");
    scratch.json("forget web@2 --as ann").expect(1, "ann may not");
    let log = scratch.json("log").expect(0, "log");
    let entries = log.of_type("entry");
    let kinds: Vec<&str> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["vault-created", "forgotten", "roles", "denied"]);
    let by: Vec<&str> = entries.iter().map(|entry| entry["by"].as_str().unwrap()).collect();
    assert_eq!(by, ["owner", "owner", "owner", "ann"]);
    assert_eq!(log.summary()["faults"], 0);

    for (filter, count) in
        [("--vm web", 2), ("--by ann", 1), ("--kind forgotten,roles", 2), ("--last 1h", 4), ("--vm db", 0)]
    {
        let log = scratch.json(&format!("log {filter}")).expect(0, filter);
        assert_eq!((log.of_type("entry").len(), &log.summary()["entries"]), (count, &json!(4)), "{filter}");
    }
    scratch.json("log --kind nonsense").expect(2, "no such kind");
    let text = scratch.ok("log --vault v --key-file key").stdout;
    assert!(text.contains("forgot point 1") && text.contains("was refused to forget on web"), "{text}");
}

/// Whoever had the data of a point is on record.
#[test]
fn the_log_says_what_was_restored_and_decided() {
    let scratch = scene();
    fs::write(
        scratch.path("daily.toml"),
        "zone = \"UTC\"\nschedule.daily = { at = \"01:30\" }\nretention.daily = \"10 days\"\n",
    )
    .unwrap();
    scratch.json("policy import --name daily daily.toml").expect(0, "import");
    scratch.json("protect web --policy daily").expect(0, "protect");
    let written =
        scratch.json("restore web@2 --to out").expect(0, "restore").summary()["bytes_written"].clone();
    let log = scratch.json("log --kind restored,policy,protection").expect(0, "log");
    let entries = log.of_type("entry");
    let told: Vec<_> = entries.iter().map(|entry| (entry["kind"].clone(), entry["vm"].clone())).collect();
    let web = json!("web");
    assert_eq!(
        told,
        [(json!("policy"), json!(null)), (json!("protection"), web.clone()), (json!("restored"), web)]
    );
    assert_eq!(entries[2]["what"], json!(format!("restored web@2, {written} bytes written")));
    assert_eq!(scratch.json("log --vm web --kind restored").expect(0, "of web").of_type("entry").len(), 1);
}

#[test]
fn a_vault_that_was_put_back_is_found_out_by_a_checkpoint() {
    let scratch = scene();
    let first = scratch.json("log --checkpoint seen").expect(0, "first").summary();
    assert_eq!((&first["checkpoint_written"], &first["seen"]), (&json!(true), &json!(null)));
    copy(&scratch.path("v"), &scratch.path("before"));
    scratch.json("hold web@2").expect(0, "hold");
    scratch.change("web", 0, 1 << 19, 9);
    scratch.summary("backup --vm web --disk os=web");
    let second = scratch.json("log --checkpoint seen").expect(0, "second").summary();
    assert!(second["seen"].is_string());
    let seen = fs::read(scratch.path("seen")).unwrap();

    fs::remove_dir_all(scratch.path("v")).unwrap();
    fs::rename(scratch.path("before"), scratch.path("v")).unwrap();
    scratch.json("verify").expect(0, "nothing in it is damaged");
    scratch.json("log").expect(0, "and without a checkpoint nothing shows");
    let found = scratch.json("log --checkpoint seen").expect(3, "put back");
    assert_eq!((found.of_type("fault").len(), &found.summary()["checkpoint_written"]), (2, &json!(false)));
    assert!(found.stderr.contains("number 4 was seen before"), "{}", found.stderr);
    assert!(fs::read(scratch.path("seen")).unwrap() == seen, "the checkpoint stays");
}

#[test]
fn what_is_no_checkpoint_of_this_vault_is_refused() {
    let scratch = scene();
    fs::write(scratch.path("seen"), b"not one").unwrap();
    let refused = scratch.json("log --checkpoint seen").expect(1, "not one");
    assert!(refused.stderr.contains("not a checkpoint of this vault"), "{}", refused.stderr);
    assert_eq!(fs::read(scratch.path("seen")).unwrap(), b"not one");
    scratch.json("log --checkpoint none/seen").expect(1, "no such folder");
}
