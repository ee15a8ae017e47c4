//! `vmkeep keys grant-client`: a host with a key of its own makes points and reads none.

#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;

use harness::Scratch;
use serde_json::json;

const MIB: u64 = 1 << 20;

fn scene() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("web", 4 * MIB, &[(0, 1 << 20, 1)]);
    scratch.summary("backup --vm web --disk os=web");
    scratch
}

#[test]
fn a_client_backs_up_and_the_owner_restores() {
    let scratch = scene();
    let given = scratch.json("keys grant-client --vm web --vm db --client-key-file client");
    let given = given.expect(0, "grant-client").summary();
    assert_eq!((&given["added"], &given["prepared"]), (&json!(3), &json!(["db"])));
    assert_eq!((&given["key_file_made"], &given["key"]), (&json!(true), &json!("file")));

    scratch.change("web", 2 * MIB, 1 << 19, 3);
    scratch.ok("backup --vault v --key-file client --vm web --disk os=web");
    scratch.disk("db", 4 * MIB, &[(0, 1 << 20, 2)]);
    scratch.ok("backup --vault v --key-file client --vm db --disk os=db");
    assert!(scratch.ok("points --vault v --key-file client").stdout.contains("db"));
    scratch.ok("verify --vault v --key-file client --structure");

    for command in ["restore web@2 --to out", "restore db@1 --to out", "verify"] {
        let refused = scratch.run(&format!("{command} --vault v --key-file client"));
        let refused = refused.expect(1, command);
        assert!(refused.stderr.contains("write-only client"), "{command}: {}", refused.stderr);
    }
    let refused = scratch.run("backup --vault v --key-file client --vm mail --disk os=db");
    let refused = refused.expect(1, "a VM that was not granted");
    assert!(refused.stderr.contains("grant-client"), "{}", refused.stderr);

    for (point, disk) in [("web@2", "web"), ("db@1", "db")] {
        scratch.ok(&format!("restore {point} --vault v --key-file key --to out --force"));
        assert!(scratch.same("out/os.raw", disk), "{point}");
    }
    scratch.ok("verify --vault v --key-file key");
}

#[test]
fn keys_rotate_with_the_client_and_without_it_once_it_is_withdrawn() {
    let scratch = scene();
    let given =
        scratch.json("keys grant-client --vm web --client-key-file client").expect(0, "grant").summary();
    let kek = given["kek"].as_str().unwrap().to_owned();
    let refused = scratch.json("keys rotate-bek web").expect(1, "the client would be locked out");
    assert!(refused.stderr.contains("--also-key-file"), "{}", refused.stderr);
    scratch.json("keys rotate-bek web --also-key-file client").expect(0, "with the client");
    scratch.change("web", 2 * MIB, 1 << 19, 3);
    scratch.ok("backup --vault v --key-file client --vm web --disk os=web");

    scratch.json("keys withdraw-client zz").expect(2, "no such key");
    let gone = scratch.json(&format!("keys withdraw-client {}", &kek[..12])).expect(0, "withdraw").summary();
    // The record key, two epochs; of the first once with and once without the public side.
    assert_eq!((&gone["kek"], &gone["removed"]), (&json!(kek), &json!(3)));
    scratch.run("points --vault v --key-file client").expect(1, "withdrawn");
    scratch.json("keys rotate-bek web").expect(0, "without the client");
    scratch.ok("restore web@2 --vault v --key-file key --to out");
    assert!(scratch.same("out/os.raw", "web"));
    // Nor does the owner's own key become a client's, or go by this.
    scratch.json("keys grant-client --vm web --client-key-file key").expect(1, "the owner's own key");
    assert!(fs::read(scratch.path("client")).unwrap().len() == 32);
}
