//! A disk that its guest encrypts, with its keys: backed up, lost, restored and opened.

#![allow(clippy::unwrap_used)]

mod harness;

use std::process::{Command, Output};

use harness::{Ran, Scratch, noise};
use vmkeep_testkit::softhsm::Token;

const KV: &str = "--keyvault kv --kv-key-file kv.key";

fn tool(name: &str) -> bool {
    let found = Command::new(name).arg("--version").output().is_ok();
    assert!(found || std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(), "{name} is not installed");
    if !found {
        println!("left out: {name} is not installed");
    }
    found
}

fn qemu_img(scratch: &Scratch, args: &str) {
    let run =
        || Command::new("qemu-img").args(args.split(' ')).current_dir(scratch.path("")).output().unwrap();
    // QEMU 7.2 measures how fast a key is derived, and gives up when that took less than a tick of its clock.
    let gave_up = |ran: &Output| String::from_utf8_lossy(&ran.stderr).contains("accurate CPU usage");
    let ran = (0..20).map(|_| run()).find(|ran| !gave_up(ran)).expect("qemu-img can measure in 20 tries");
    assert!(ran.status.success(), "{args}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A LUKS disk with known content, its passphrase in a key vault, wrapped by `kek` when there is one.
fn scene(kek: Option<&str>) -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.write("passphrase", b"correct horse battery staple");
    let mut plain = noise(1 << 20, 7);
    plain.resize(4 << 20, 0);
    scratch.write("plain.raw", &plain);
    let secret = "--object secret,id=s,file=passphrase";
    qemu_img(&scratch, &format!("create -q {secret} -f luks -o key-secret=s,iter-time=10 luks.raw 4M"));
    qemu_img(
        &scratch,
        &format!(
            "convert -n {secret} -f raw plain.raw --target-image-opts driver=luks,file.filename=luks.raw,key-secret=s"
        ),
    );
    scratch.ok(&format!("keyvault init {KV}"));
    let wrap = match kek {
        None => String::new(),
        Some(kind) => {
            scratch.ok(&format!("keyvault new-key kek --kind {kind} {KV}"));
            " --wrap-with kek --machine web".to_owned()
        }
    };
    scratch.ok(&format!("keyvault set-secret bek --from passphrase{wrap} {KV}"));
    scratch
}

fn json(scratch: &Scratch, command: &str) -> Ran {
    scratch.run(&format!("{command} {KV} --json"))
}

/// The restored disk opens with the restored passphrase and holds what it held.
fn assert_opens(scratch: &Scratch, passphrase: &str) {
    let _ = std::fs::remove_file(scratch.path("opened.raw"));
    let secret = format!("--object secret,id=s,file={passphrase}");
    let image = "driver=luks,file.filename=out/os.raw,key-secret=s";
    qemu_img(scratch, &format!("convert {secret} --image-opts {image} -O raw opened.raw"));
    assert!(scratch.same("plain.raw", "opened.raw"));
}

fn round_trip(kek: Option<&str>) {
    if !tool("qemu-img") {
        return;
    }
    let scratch = scene(kek);
    let keys = if kek.is_some() { "os=bek,kek=kek" } else { "os=bek" };
    let backup = format!(
        "backup --vault v --key-file key --vm web --disk os=luks.raw,role=os,format=raw --disk-key {keys}"
    );
    json(&scratch, &backup).expect(0, "backup");
    let point = scratch.json("points").expect(0, "points").of_type("point").remove(0);
    let seen = &point["disks"][0]["encryption"];
    assert!(seen["bek"].as_str().unwrap().contains("/secrets/bek/"), "{point}");
    assert_eq!(seen["kek"].is_string(), kek.is_some(), "{point}");

    // Everything but the vault, its key and the key vault's own key is lost: the disk, the passphrase, the key vault.
    for lost in ["luks.raw", "passphrase", "kv"] {
        std::fs::remove_file(scratch.path(lost)).unwrap();
    }
    scratch.ok(&format!("keyvault init {KV}"));
    scratch.summary("restore web@1 --to out");
    let put = json(&scratch, "keys restore web@1 --vault v --key-file key").expect(0, "keys restore");
    let line = &put.of_type("keys")[0];
    assert_eq!(line["secret"]["state"], "restored", "{line}");
    assert_eq!(
        line["kek"]["state"],
        if kek.is_some() { "restored".into() } else { serde_json::Value::Null },
        "{line}"
    );
    let again = json(&scratch, "keys restore web@1 --vault v --key-file key").expect(0, "twice");
    assert_eq!(again.of_type("keys")[0]["secret"]["state"], "already_there");

    let unwrap = if kek.is_some() { " --unwrap" } else { "" };
    scratch.ok(&format!("keyvault get-secret bek --to restored.pass{unwrap} {KV}"));
    assert_opens(&scratch, "restored.pass");
}

#[test]
fn a_luks_disk_and_its_passphrase_come_back_and_open() {
    round_trip(None);
}

#[test]
fn a_luks_disk_whose_passphrase_is_wrapped_by_an_rsa_key_comes_back_and_opens() {
    round_trip(Some("rsa2048"));
}

/// The whole of it with keys that never leave a token: the disk and the secrets are lost, and the token stays.
#[test]
fn a_luks_disk_whose_passphrase_is_wrapped_by_a_key_on_a_token_comes_back_and_opens() {
    if !tool("qemu-img") {
        return;
    }
    let scratch = scene(None);
    std::fs::create_dir(scratch.path("hsm")).unwrap();
    let Some(token) = Token::create(&scratch.path("hsm")) else { return };
    scratch.write("pin", Token::PIN.as_bytes());
    scratch.chmod("pin", 0o600);
    let run = |command: &str| {
        let mut words = scratch.command(&format!("{command} {KV} --json --pin-file pin"));
        words.arg("--pkcs11").arg(token.module()).args(["--token", Token::LABEL]);
        Ran::from(token.environment(&mut words).output().unwrap())
    };
    let (rsa, aes) = (
        format!("pkcs11:vmkeep%20test/keys/{}", Token::RSA),
        format!("pkcs11:vmkeep%20test/keys/{}", Token::AES),
    );
    run(&format!("keyvault set-secret bek --from passphrase --machine web --wrap-with {rsa}"))
        .expect(0, "wrapped");
    // The vault's own keys are wrapped on the token too.
    let kek = format!("--vault hv --kek {aes}");
    run(&format!("init {kek}")).expect(0, "init");
    let disk = "--disk os=luks.raw,role=os,format=raw";
    run(&format!("backup {kek} --vm web {disk} --disk-key os=bek,kek={rsa}")).expect(0, "backup");
    let point = run(&format!("points {kek}")).expect(0, "points").of_type("point").remove(0);
    assert_eq!(point["disks"][0]["encryption"]["kek_captured"], false, "{point}");
    assert_eq!(point["storage_encryption"]["managed"], "customer", "{point}");

    for lost in ["luks.raw", "passphrase", "kv"] {
        std::fs::remove_file(scratch.path(lost)).unwrap();
    }
    scratch.ok(&format!("keyvault init {KV}"));
    run(&format!("restore {kek} web@1 --to out")).expect(0, "restore");
    let put = run(&format!("keys restore {kek} web@1 --os linux")).expect(0, "keys restore");
    let line = &put.of_type("keys")[0];
    assert_eq!(
        (&line["secret"]["state"], &line["kek"]["state"]),
        (&"restored".into(), &"already_there".into())
    );
    run("keyvault get-secret bek --to restored.pass --unwrap").expect(0, "unwrapped on the token");
    assert_opens(&scratch, "restored.pass");

    // Without the token's PIN there is no vault, and the error says whose credentials are wrong.
    scratch.write("pin", b"0000");
    let error = run(&format!("points {kek}")).expect(1, "a wrong PIN").error();
    assert!(error["message"].as_str().unwrap().contains("credentials"), "{error}");
}

#[test]
fn a_secret_that_was_changed_meanwhile_stays_unless_overwriting_is_asked_for() {
    if !tool("qemu-img") {
        return;
    }
    let scratch = scene(Some("rsa2048"));
    let backup = "backup --vault v --key-file key --vm web --disk os=luks.raw,role=os,format=raw --disk-key os=bek,kek=kek";
    json(&scratch, backup).expect(0, "backup");
    scratch.write("other", b"another passphrase");
    json(&scratch, "keyvault set-secret bek --from other").expect(0, "a new version");
    json(&scratch, backup).expect(0, "the next point has the new one");

    let restore = "keys restore web@1 --vault v --key-file key";
    let error = json(&scratch, restore).expect(1, "something else is there").error();
    assert!(error["message"].as_str().unwrap().contains("overwriting"), "{error}");
    json(&scratch, "keyvault get-secret bek --to still").expect(0, "it stays");
    assert_eq!(scratch.read("still"), b"another passphrase");
    let put = json(&scratch, &format!("{restore} --overwrite")).expect(0, "asked for");
    assert_eq!(put.of_type("keys")[0]["secret"]["state"], "replaced");
    scratch.ok(&format!("keyvault get-secret bek --to old --unwrap {KV}"));
    assert_eq!(scratch.read("old"), b"correct horse battery staple");
    let error = json(&scratch, "keys restore web@2 --vault v --key-file key").expect(1, "and back").error();
    assert!(error["message"].as_str().unwrap().contains("overwriting"), "{error}");

    json(&scratch, "keyvault disable key kek").expect(0, "disable");
    let error = json(&scratch, backup).expect(1, "a point whose keys are of no use is none").error();
    assert!(error.to_string().contains("/keys/kek"), "{error}");
}

#[test]
fn captured_keys_are_for_those_who_may_restore_keys() {
    if !tool("qemu-img") {
        return;
    }
    let scratch = scene(Some("rsa2048"));
    let backup = "backup --vault v --key-file key --vm web --disk os=luks.raw,role=os,format=raw";
    json(&scratch, backup).expect(0, "without keys");
    let export = "keys export web@latest --vault v --key-file key";
    let error = json(&scratch, &format!("{export} --to json")).expect(1, "none were captured").error();
    assert!(error["message"].as_str().unwrap().contains("--disk-key"), "{error}");
    json(&scratch, &format!("{backup} --disk-key os=bek,kek=kek")).expect(0, "with keys");
    json(&scratch, &format!("{export} --to json")).expect(0, "export");
    let config: serde_json::Value = serde_json::from_slice(&scratch.read("json")).unwrap();
    let details = &config["OsDiskKeyAndSecretDetails"];
    for field in ["KeyBackupData", "KeyUrl", "SecretData", "SecretUrl", "KeyVaultSecretBackupData"] {
        assert!(details[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {config}");
    }
    scratch.summary("roles grant rita backup-reader");
    json(&scratch, &format!("{export} --to x --as rita")).expect(1, "a reader may not");
    assert!(!scratch.path("x").exists());
    // Neither the passphrase nor what it was wrapped to lies in the vault or in what is printed.
    let wrapped = details["SecretData"].as_str().unwrap();
    let shown = scratch.json("points").stdout;
    assert!(!shown.contains(wrapped) && !shown.contains("correct horse"));
    json(&scratch, &format!("{backup} --disk-key data=bek")).expect(2, "no such disk");
}
