//! Where the key comes from, and what happens with a wrong one.

#![allow(clippy::unwrap_used)]

mod harness;

use std::os::unix::fs::PermissionsExt;

use harness::{Ran, Scratch};

/// The cheapest passphrase that the format accepts.
const CHEAP: &str = "--argon2-memory-kib 19456 --argon2-passes 2";

#[test]
fn init_makes_the_key_file_once_and_uses_it_from_then_on() {
    let scratch = Scratch::empty();
    let made = scratch.ok("init --vault v --key-file key --json").summary();
    assert_eq!(made["key_file_made"], true);
    let rights = std::fs::metadata(scratch.path("key")).unwrap().permissions().mode();
    assert_eq!((scratch.read("key").len(), rights & 0o777), (32, 0o600));

    let key = scratch.read("key");
    let other = scratch.ok("init --vault w --key-file key --json").summary();
    assert_eq!(other["key_file_made"], false);
    assert_ne!(made["vault"], other["vault"]);
    assert_eq!(scratch.read("key"), key);
}

#[test]
fn a_vault_is_made_in_an_empty_place_only() {
    let scratch = Scratch::with_vault();
    scratch.json("init").expect(1, "a vault is there").error();
    std::fs::create_dir(scratch.path("full")).unwrap();
    scratch.write("full/file", b"x");
    let ran = scratch.run("init --vault full --key-file new").expect(1, "not empty");
    assert!(
        ran.stderr.contains("not empty") && ran.stderr.contains("key file new was made"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_key_file_does_not_lie_in_its_vault() {
    let scratch = Scratch::empty();
    for key in ["v/key", "./v/../v/key"] {
        scratch.run(&format!("init --vault v --key-file {key}")).expect(2, key);
    }
    assert!(!scratch.path("v").exists());
}

#[test]
fn a_key_that_cannot_be_used_is_refused_with_its_reason() {
    let scratch = Scratch::with_vault();
    scratch.write("short", b"1234");
    scratch.chmod("short", 0o600);
    scratch.write("shared", &[7; 32]);
    scratch.chmod("shared", 0o640);
    scratch.write("wrong", &[7; 32]);
    scratch.chmod("wrong", 0o600);
    scratch.write("pass", b"secret\n");
    scratch.chmod("pass", 0o600);
    scratch.write("empty", b"\nsecret\n");
    scratch.chmod("empty", 0o600);
    for (key, told) in [
        ("--key-file short", "exactly 32"),
        ("--key-file shared", "chmod 600"),
        ("--key-file missing", "no key file"),
        ("--key-file v", "not a regular file"),
        ("--key-file wrong", "wrong key"),
        ("--passphrase-file pass", "wrong key"),
        ("--passphrase-file empty", "passphrase is empty"),
        ("--passphrase-file missing", "cannot read passphrase file"),
    ] {
        let ran = scratch.run(&format!("points --vault v {key}")).expect(1, key);
        assert!(ran.stderr.contains(told), "{key}: {}", ran.stderr);
        assert!(ran.stdout.is_empty(), "{key}: {}", ran.stdout);
    }
}

#[test]
fn exactly_one_key_is_given() {
    let scratch = Scratch::with_vault();
    scratch.write("pass", b"secret");
    scratch.run("points --vault v").expect(2, "none");
    scratch.run("points --vault v --key-file key --passphrase-file pass").expect(2, "two");
    let with_variable =
        |words: &str| Ran::from(scratch.command(words).env("VMKEEP_PASSPHRASE", "x").output().unwrap());
    with_variable("points --vault v --key-file key").expect(2, "a file and the variable");
    scratch.run("init --vault w --key-file key --argon2-lanes 2").expect(2, "argon2 with a key file");
    scratch.run("init --vault w --passphrase-file pass --argon2-passes 1").expect(2, "below the minimum");
    assert!(!scratch.path("w").exists());
}

#[test]
fn a_passphrase_is_the_first_line_or_the_variable() {
    let scratch = Scratch::empty();
    scratch.write("pass", "pass phräse\r\nsecond line\n".as_bytes());
    scratch.chmod("pass", 0o600);
    let made = scratch.ok(&format!("init --vault v --passphrase-file pass {CHEAP} --json"));
    assert_eq!(made.summary()["key"], "passphrase");
    scratch.disk("disk", 1 << 20, &[(0, 1000, 1)]);
    scratch.ok("backup --vault v --vm a --disk d=disk --passphrase-file pass");
    let with = |passphrase: &str| {
        Ran::from(scratch.command("verify --vault v").env("VMKEEP_PASSPHRASE", passphrase).output().unwrap())
    };
    with("pass phräse").expect(0, "the right one");
    with("pass phräse ").expect(1, "a blank more");
    let ran = with("").expect(1, "empty");
    assert!(ran.stderr.contains("the passphrase is empty"), "{}", ran.stderr);
}

#[test]
fn a_passphrase_file_that_others_may_read_is_told_of() {
    let scratch = Scratch::empty();
    scratch.write("pass", b"secret");
    scratch.chmod("pass", 0o644);
    let ran = scratch.ok(&format!("init --vault v --passphrase-file pass {CHEAP}"));
    assert!(ran.stderr.contains("note: others than its owner"), "{}", ran.stderr);
}
