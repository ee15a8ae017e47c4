//! `vmkeep keyvault`, and a vault whose key is in one.

#![allow(clippy::unwrap_used)]

mod harness;

use std::os::unix::fs::PermissionsExt;

use harness::{Ran, Scratch};

const KV: &str = "--keyvault kv --kv-key-file kv.key";

/// A key vault with an RSA key.
fn scene() -> Scratch {
    let scratch = Scratch::empty();
    scratch.ok(&format!("keyvault init {KV}"));
    scratch.ok(&format!("keyvault new-key kek {KV}"));
    scratch
}

fn json(scratch: &Scratch, command: &str) -> Ran {
    scratch.run(&format!("{command} {KV} --json"))
}

#[test]
fn keys_and_secrets_have_versions_and_come_back_after_deletion() {
    let scratch = scene();
    scratch.write("one", b"first");
    scratch.write("two", b"second");
    let first =
        json(&scratch, "keyvault set-secret bek --from one").expect(0, "set").summary()["url"].clone();
    json(&scratch, "keyvault set-secret bek --from two").expect(0, "a new version");
    json(&scratch, "keyvault new-key kek --kind aes256").expect(0, "a new version of the key");
    let items = json(&scratch, "keyvault list").expect(0, "list").of_type("item");
    let seen: Vec<_> = items
        .iter()
        .map(|i| (i["name"].as_str().unwrap(), i["versions"].as_array().unwrap().len()))
        .collect();
    assert_eq!(seen, [("kek", 2), ("bek", 2)]);

    json(&scratch, "keyvault get-secret bek --to newest").expect(0, "the newest");
    json(&scratch, &format!("keyvault get-secret {} --to oldest", first.as_str().unwrap()))
        .expect(0, "by URL");
    assert_eq!((scratch.read("newest"), scratch.read("oldest")), (b"second".to_vec(), b"first".to_vec()));
    let rights = std::fs::metadata(scratch.path("newest")).unwrap().permissions().mode() & 0o777;
    assert_eq!(rights, 0o600);
    json(&scratch, "keyvault get-secret bek --to newest").expect(1, "it is there").error();

    json(&scratch, "keyvault disable secret bek").expect(0, "disable");
    let error = json(&scratch, "keyvault get-secret bek --to x").expect(1, "disabled").error();
    assert!(error["message"].as_str().unwrap().contains("disabled"), "{error}");
    json(&scratch, "keyvault enable secret bek").expect(0, "enable");
    json(&scratch, "keyvault delete secret bek").expect(0, "delete");
    json(&scratch, "keyvault get-secret bek --to x").expect(1, "deleted").error();
    json(&scratch, "keyvault recover secret bek").expect(0, "recover");
    json(&scratch, "keyvault get-secret bek --to x").expect(0, "there again");
    json(&scratch, "keyvault protect").expect(0, "protect");
    json(&scratch, "keyvault delete key kek").expect(0, "delete");
    json(&scratch, "keyvault purge key kek").expect(2, "nobody was asked");
    let error = json(&scratch, "keyvault purge key kek --yes").expect(1, "protected").error();
    assert!(error["message"].as_str().unwrap().contains("purge protection"), "{error}");
}

#[test]
fn a_wrong_key_and_a_key_vault_that_is_there_are_refused() {
    let scratch = scene();
    scratch.run(&format!("keyvault init {KV}")).expect(1, "it is there");
    scratch.run("keyvault list --keyvault kv").expect(2, "no key is given");
    scratch.ok("keyvault init --keyvault other --kv-key-file other.key");
    let ran = scratch.run("keyvault list --keyvault kv --kv-key-file other.key --json");
    let error = ran.expect(1, "another key").error();
    assert!(error["message"].as_str().unwrap().contains("credentials"), "{error}");
    scratch.write("words", b"a passphrase\n");
    scratch.chmod("words", 0o600);
    scratch.ok("keyvault init --keyvault third --kv-passphrase-file words");
    scratch.ok("keyvault list --keyvault third --kv-passphrase-file words");
}

#[test]
fn a_vault_whose_key_is_in_a_key_vault_says_so_and_stops_when_that_key_is_switched_off() {
    let scratch = scene();
    scratch.disk("os.raw", 1 << 20, &[(0, 5000, 1)]);
    let vault = |command: &str| scratch.run(&format!("{command} --vault v --kek kek {KV} --json"));
    vault("init").expect(0, "init");
    vault("backup --vm web --disk os=os.raw").expect(0, "backup");
    let point = &vault("points").expect(0, "points").of_type("point")[0];
    let kek = point["storage_encryption"]["key"].as_str().unwrap();
    assert!(kek.contains("/keys/kek/") && point["storage_encryption"]["managed"] == "customer", "{point}");

    for (off, on) in [("disable key kek", "enable key kek"), ("delete key kek", "recover key kek")] {
        json(&scratch, &format!("keyvault {off}")).expect(0, off);
        for command in ["backup --vm web --disk os=os.raw", "restore web@1 --to out --force", "points"] {
            let error = vault(command).expect(1, command).error();
            let text = error.to_string();
            assert!(text.contains("/keys/kek"), "{off}, {command}: {text}");
        }
        json(&scratch, &format!("keyvault {on}")).expect(0, on);
        vault("backup --vm web --disk os=os.raw").expect(0, "it works again");
        vault("restore web@1 --to out --force").expect(0, "it works again");
        assert!(scratch.same("os.raw", "out/os.raw"));
    }
    scratch.run(&format!("points --vault v --kek kek --key-file x {KV}")).expect(2, "two keys");
    scratch.run("points --vault v --kek kek").expect(2, "no store");
    vault("verify").expect(0, "nothing is damaged");
}
