//! `vmkeep keys`: listing, changing and destroying keys, and what backups, restores and verification say afterwards.

#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeSet;
use std::fs;

use harness::{Ran, Scratch, flip};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A vault with two points of `web` and one of `db`; the disks as they were are kept as `web1`, `web2` and `db1`.
fn scene() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("web", 4 * MIB, &[(0, 1 << 20, 1)]);
    scratch.disk("db", 4 * MIB, &[(0, 1 << 20, 2)]);
    scratch.back_up("web", 1);
    scratch.change("web", 2 * MIB, 1 << 19, 3);
    scratch.back_up("web", 2);
    scratch.back_up("db", 1);
    scratch
}

impl Scratch {
    fn back_up(&self, vm: &str, n: u64) {
        self.summary(&format!("backup --vm {vm} --disk os={vm}"));
        fs::copy(self.path(vm), self.path(&format!("{vm}{n}"))).unwrap();
    }

    /// The point restores with this key to the disk that was kept of it.
    fn restores_with(&self, key: &str, vm: &str, n: u64) {
        self.ok(&format!("restore {vm}@{n} --vault v {key} --to out --force"));
        assert!(self.same("out/os.raw", &format!("{vm}{n}")), "{vm}@{n}");
    }

    fn all_restore_with(&self, key: &str) {
        for (vm, n) in [("web", 1), ("web", 2), ("db", 1)] {
            self.restores_with(key, vm, n);
        }
    }

    /// Everything in the vault by path; key objects and the rest.
    fn objects(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let mut all = Vec::new();
        walk(&self.path("v"), &mut all);
        all.into_iter().partition(|path| path.contains("/keys/"))
    }
}

fn walk(folder: &std::path::Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path.to_str().unwrap().to_owned()) }
    }
}

/// The lines of `keys list` about a VM.
fn epochs(scratch: &Scratch, vm: &str) -> Vec<Value> {
    scratch.json(&format!("keys list --bytes --vm {vm}")).expect(0, "keys list").of_type("epoch")
}

#[test]
fn keys_list_shows_every_epoch_and_what_wraps_it() {
    let scratch = scene();
    let listed = scratch.json("keys list --bytes").expect(0, "keys list");
    let epochs = listed.of_type("epoch");
    assert_eq!(epochs.len(), 3);
    assert_eq!((&epochs[0]["vms"], &epochs[0]["bytes"]), (&json!([]), &Value::Null));
    assert_eq!(epochs[0]["wraps"][0]["branches"], json!(["record"]));
    assert_eq!(epochs[1]["vms"], json!([{"vm": "db", "generation": 0}]));
    assert_eq!(epochs[2]["vms"][0]["vm"], "web");
    for epoch in &epochs[1..] {
        assert_eq!(epoch["wraps"][0]["branches"], json!(["map", "data", "identity"]));
        assert_eq!((&epoch["wraps"][0]["opens"], &epoch["destroyed"]), (&json!(true), &Value::Null));
        assert!(epoch["bytes"].as_u64().unwrap() > MIB, "{epoch}");
    }
    let summary = json!({
        "type": "summary", "domains": 3, "epochs": 3, "wraps": 3, "other_keys": 0, "destroyed": 0, "damaged": 0
    });
    assert_eq!(listed.summary(), summary);

    let text = scratch.ok("keys list --vault v --key-file key --vm web").stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("VM") && lines[1].starts_with("web ") && lines[1].ends_with(" yes"),
        "{text}"
    );
    assert_eq!(scratch.json("keys list").of_type("epoch")[1]["bytes"], Value::Null);
    scratch.json("keys list --vm none").expect(1, "no such VM");

    let (keys, _) = scratch.objects();
    let web = keys.iter().find(|path| path.contains(epochs[2]["domain"].as_str().unwrap())).unwrap();
    flip(web.as_ref(), fs::read(web).unwrap().len() - 1);
    let listed = scratch.json("keys list").expect(3, "damaged");
    assert_eq!(listed.summary()["damaged"], 1);
    assert!(listed.stderr.contains("cannot be opened"), "{}", listed.stderr);
}

#[test]
fn after_rotate_kek_the_old_key_opens_nothing_and_the_new_one_everything() {
    let scratch = scene();
    let (keys, rest) = scratch.objects();
    let done = scratch.json("keys rotate-kek --new-key-file new").expect(0, "rotate-kek");
    let summary = done.summary();
    assert_eq!((&summary["added"], &summary["removed"]), (&json!(3), &json!(3)));
    assert_eq!((&summary["key_file_made"], &summary["resumed"]), (&json!(true), &json!(false)));
    for kind in ["wrapping", "checking", "removing"] {
        assert!(!done.of_type(kind).is_empty(), "{kind}: {}", done.stdout);
    }
    let (keys_since, rest_since) = scratch.objects();
    assert!(keys.is_disjoint(&keys_since) && keys_since.len() == 3);
    assert!(
        rest_since.is_superset(&rest) && rest_since.difference(&rest).all(|path| path.contains("/journal/"))
    );

    scratch.json("points").expect(1, "the old key");
    scratch.all_restore_with("--key-file new");
    let summary = scratch.ok("verify --vault v --key-file new --json").summary();
    assert_eq!((&summary["clean"], &summary["destroyed_keys"]), (&json!(true), &json!(0)));
}

#[test]
fn an_interrupted_rotate_kek_goes_on_when_it_is_given_again() {
    let scratch = scene();
    let (old, _) = scratch.objects();
    let kept: Vec<(String, Vec<u8>)> =
        old.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    let rotate = "keys rotate-kek --new-key-file new";
    scratch.summary(rotate);
    // As after a run whose answer nobody saw.
    let again = scratch.summary(rotate);
    assert_eq!((&again["added"], &again["removed"], &again["resumed"]), (&json!(0), &json!(0), &json!(true)));

    // A key object of the old key beside a vault that opens with the new one alone.
    let of_vm = kept.iter().find(|(path, _)| !path.contains("00000000000000000000000000000000")).unwrap();
    fs::write(&of_vm.0, &of_vm.1).unwrap();
    let again = scratch.summary(rotate);
    assert_eq!((&again["added"], &again["removed"], &again["resumed"]), (&json!(0), &json!(1), &json!(true)));

    // As a run leaves it that was killed before it removed anything: both keys open the vault.
    for (path, bytes) in &kept {
        fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    scratch.all_restore_with("--key-file key");
    scratch.all_restore_with("--key-file new");
    let again = scratch.summary(rotate);
    assert_eq!(
        (&again["added"], &again["removed"], &again["resumed"]),
        (&json!(0), &json!(3), &json!(false))
    );
    scratch.json("points").expect(1, "the old key");
    scratch.all_restore_with("--key-file new");
}

#[test]
fn rotate_kek_refuses_the_old_key_a_key_in_the_vault_and_keys_that_open_nothing() {
    let scratch = scene();
    fs::copy(scratch.path("key"), scratch.path("same")).unwrap();
    scratch.write("other", &[7; 32]);
    scratch.chmod("other", 0o600);
    let (keys, _) = scratch.objects();
    for (words, code, told) in [
        ("--key-file key --new-key-file key", 1, "cannot rotate the KEK"),
        ("--key-file key --new-key-file same", 1, "cannot rotate the KEK"),
        ("--key-file key --new-key-file v/new", 2, "lies in the vault"),
        ("--key-file key", 2, "--new-key-file"),
        ("--key-file key --new-key-file new --new-passphrase-file new", 2, "cannot be used with"),
        ("--key-file other --new-key-file new", 1, "wrong key"),
        ("--key-file other --new-key-file same", 0, "nothing was wrapped"),
    ] {
        let ran = scratch.run(&format!("keys rotate-kek --vault v {words}")).expect(code, words);
        assert!(
            ran.stderr.contains(told) || ran.stdout.contains(told),
            "{words}: {}{}",
            ran.stdout,
            ran.stderr
        );
    }
    assert!(!scratch.path("new").exists(), "no key file is made for nothing");
    assert_eq!(scratch.objects().0, keys);
}

#[test]
fn rotate_kek_leaves_a_damaged_key_object_and_tells_of_it_and_changes_the_others() {
    let scratch = scene();
    let domain = epochs(&scratch, "web")[0]["domain"].as_str().unwrap().to_owned();
    let (keys, _) = scratch.objects();
    let web = keys.iter().find(|path| path.contains(&domain)).unwrap();
    let whole = fs::read(web).unwrap();
    flip(web.as_ref(), whole.len() - 1);
    let ran = scratch.json("keys rotate-kek --new-key-file new").expect(3, "damage");
    let summary = ran.summary();
    assert_eq!(
        (&summary["added"], &summary["removed"], &summary["damaged"]),
        (&json!(2), &json!(2), &json!(1))
    );
    assert_eq!(ran.of_type("damaged").len(), 1);
    assert!(
        ran.stderr.contains("damaged and stays as it is") && ran.stderr.contains(&domain),
        "{}",
        ran.stderr
    );
    scratch.restores_with("--key-file new", "db", 1);

    // Once it is whole again, the same command changes it too.
    fs::write(web, whole).unwrap();
    assert_eq!(scratch.summary("keys rotate-kek --new-key-file new")["removed"], 1);
    scratch.all_restore_with("--key-file new");
}

#[test]
fn a_vault_goes_from_a_key_file_to_a_passphrase_and_back() {
    let scratch = scene();
    scratch.write("pass", b"correct horse\n");
    scratch.chmod("pass", 0o600);
    let done = scratch.summary("keys rotate-kek --new-passphrase-file pass");
    assert_eq!(
        (&done["key"], &done["added"], &done["key_file"]),
        (&json!("passphrase"), &json!(3), &Value::Null)
    );
    scratch.json("points").expect(1, "the key file");
    scratch.restores_with("--passphrase-file pass", "web", 2);

    let same = "keys rotate-kek --vault v --passphrase-file pass --new-passphrase-file pass";
    let ran = scratch.run(same).expect(1, "the same passphrase");
    assert!(ran.stderr.contains("cannot rotate the KEK"), "{}", ran.stderr);

    let text = scratch.ok("keys rotate-kek --vault v --passphrase-file pass --new-key-file new").stdout;
    assert!(text.contains("made key file new") && text.contains("keep a copy of it"), "{text}");
    scratch.all_restore_with("--key-file new");
    scratch.run("points --vault v --passphrase-file pass").expect(1, "the passphrase");
}

#[test]
fn a_vault_goes_to_a_key_of_a_key_vault_and_to_its_next_version() {
    let scratch = scene();
    let kv = "--keyvault kv --kv-key-file kv.key";
    let rotate =
        |words: &str| scratch.ok(&format!("keys rotate-kek --vault v {words} {kv} --json")).summary();
    scratch.ok(&format!("keyvault init {kv}"));
    scratch.ok(&format!("keyvault new-key kek {kv}"));
    let done = rotate("--key-file key --new-kek kek");
    assert_eq!((&done["key"], &done["added"], &done["removed"]), (&json!("store"), &json!(3), &json!(3)));
    scratch.all_restore_with(&format!("--kek kek {kv}"));
    let version = |key: &str| {
        let listed = scratch.ok(&format!("keys list --vault v {key} --json")).of_type("epoch");
        listed[0]["wraps"][0]["key_version"].as_str().map(str::to_owned)
    };
    let first = version(&format!("--kek kek {kv}")).unwrap();
    scratch.ok(&format!("keyvault new-key kek {kv}"));
    // A VM that is new, and new keys, are wrapped by the new version already when the rest is taken along.
    scratch.disk("mail", 4 * MIB, &[(0, 1 << 20, 5)]);
    scratch.ok(&format!("backup --vault v --kek kek {kv} --vm mail --disk os=mail"));
    let rotated =
        scratch.ok(&format!("keys rotate-kek --vault v --kek kek --new-kek kek {kv} --json")).summary();
    assert_eq!((&rotated["added"], &rotated["removed"]), (&json!(3), &json!(3)));
    scratch.ok(&format!("restore mail@1 --vault v --kek kek {kv} --to mail-out"));
    assert_ne!(version(&format!("--kek kek {kv}")).unwrap(), first);
    scratch.all_restore_with(&format!("--kek kek {kv}"));
    rotate("--kek kek --new-key-file key");
    scratch.all_restore_with("--key-file key");
}

#[test]
fn rotate_bek_seals_new_data_with_new_keys_and_moves_the_old_when_told() {
    let scratch = scene();
    let before = epochs(&scratch, "web")[0]["bytes"].clone();
    let text = scratch.ok("keys rotate-bek --vault v --key-file key web").stdout;
    assert!(text.contains("epoch 1") && text.contains("on older epochs rest 1."), "{text}");
    scratch.change("web", 3 * MIB, 1 << 19, 4);
    scratch.back_up("web", 3);
    for n in 1..=3 {
        scratch.restores_with("--key-file key", "web", n);
    }
    let listed = epochs(&scratch, "web");
    assert_eq!((listed.len(), &listed[0]["bytes"]), (2, &before));
    assert!(listed[1]["bytes"].as_u64().unwrap() > 1 << 19, "{}", listed[1]);

    // A budget that no file fits into moves nothing.
    let done = scratch.summary("keys rotate-bek web --no-new-epoch --rewrite --budget 1K");
    assert_eq!((&done["epoch"], &done["bytes_on_old"]), (&Value::Null, &before));
    assert_eq!((&done["rewrite"]["moved"], &done["rewrite"]["left"]), (&json!(0), &before));

    let done = scratch.summary("keys rotate-bek web --rewrite");
    assert_eq!((&done["epoch"], done["old"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!((&done["rewrite"]["left"], &done["rewrite"]["stuck"]), (&json!(0), &json!(0)));
    assert_eq!(done["rewrite"]["moved"], done["bytes_on_old"]);
    let done = scratch.summary("keys rotate-bek web --rewrite --no-new-epoch");
    assert_eq!((&done["bytes_on_old"], &done["rewrite"]["moved"]), (&json!(0), &json!(0)));
    for n in 1..=3 {
        scratch.restores_with("--key-file key", "web", n);
    }
    scratch.restores_with("--key-file key", "db", 1);
    assert_eq!(scratch.summary("verify")["clean"], true);

    // Now nothing rests on the first keys: they can go, and nothing is lost.
    let done = scratch.summary("keys destroy web --epoch 0 --yes");
    assert_eq!((&done["points"], &done["closed"]), (&json!([]), &json!(false)));
    scratch.restores_with("--key-file key", "web", 1);
    for words in ["web --no-new-epoch", "web --budget 1M", "web --rewrite --budget much"] {
        scratch.json(&format!("keys rotate-bek {words}")).expect(2, words);
    }
    scratch.json("keys rotate-bek none").expect(1, "no such VM");
    scratch.summary("close db --yes");
    let error = scratch.json("keys rotate-bek db").expect(1, "closed").error();
    assert!(error["message"].as_str().unwrap().contains("protection of db has ended"), "{error}");
}

#[test]
fn destroy_shows_what_would_be_lost_and_wants_to_be_confirmed() {
    let scratch = scene();
    let objects = scratch.objects();
    let ran = scratch.json("keys destroy web --dry-run").expect(0, "dry run");
    let plan = &ran.of_type("plan")[0];
    assert_eq!(
        (&plan["points"][0]["point"], &plan["points"][1]["point"]),
        (&json!("web@1"), &json!("web@2"))
    );
    assert!(plan["points"][1]["created"].as_str().unwrap().ends_with('Z'), "{plan}");
    assert_eq!((&plan["closes"], &plan["epochs"][0]["points"]), (&json!(true), &json!(2)));
    assert_eq!(ran.summary()["dry_run"], true);

    let text = scratch.ok("keys destroy web --dry-run --vault v --key-file key").stdout;
    for told in [
        "2 points can never be restored",
        "  web@1  20",
        "the protection of web ends",
        "kept a copy",
        "share",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let ran = scratch.json("keys destroy web").expect(2, "nobody can be asked");
    assert!(ran.error()["message"].as_str().unwrap().contains("--yes") && ran.of_type("plan").len() == 1);
    let ran = scratch.run("keys destroy web --vault v --key-file key").expect(2, "nobody can be asked");
    assert!(ran.stdout.contains("web@2") && ran.stderr.contains("--yes"), "{}{}", ran.stdout, ran.stderr);
    let error = scratch.json("keys destroy web --epoch 3 --dry-run").expect(1, "no such epoch").error();
    assert!(error["hint"].as_str().unwrap().contains("keys list"), "{error}");
    scratch.json("keys destroy none --yes").expect(1, "no such VM");
    assert_eq!(scratch.objects(), objects);
    scratch.all_restore_with("--key-file key");
}

/// Both points of web are told of as destroyed, and nothing as damaged.
fn assert_told(scratch: &Scratch) {
    let ran = scratch.json("verify").expect(0, "no damage");
    let told = ran.of_type("destroyed");
    assert_eq!((told.len(), &told[0]["points"]), (1, &json!(["web@1", "web@2"])));
    assert_eq!((&told[0]["by"], &told[0]["finished"]), (&json!("owner"), &json!(true)));
    let summary = ran.summary();
    assert_eq!((&summary["clean"], &summary["destroyed_keys"]), (&json!(true), &json!(1)));
    assert!(summary["destroyed_blocks"].as_u64().unwrap() > 0, "{summary}");

    let text = scratch.ok("verify --vault v --key-file key").stdout;
    for told in
        ["destroyed on purpose: VM web, epoch 0, by owner at 20", "points 1-2 cannot", "nothing is damaged"]
    {
        assert!(text.contains(told), "{told}: {text}");
    }
    let ran = scratch.json("verify web@2").expect(0, "one point");
    assert_eq!(ran.of_type("destroyed")[0]["points"], json!(["web@2"]));
    assert_eq!(scratch.json("verify db@1").expect(0, "another VM").summary()["destroyed_keys"], 0);

    let points = scratch.json("points").expect(0, "points");
    let marks: Vec<(Value, Value)> =
        points.of_type("point").iter().map(|p| (p["point"].clone(), p["destroyed"].clone())).collect();
    let expected = [("db@1", false), ("web@1", true), ("web@2", true)];
    assert_eq!(marks, expected.map(|(point, destroyed)| (json!(point), json!(destroyed))));
    assert_eq!(points.summary()["destroyed"], 2);
}

#[test]
fn what_was_destroyed_is_gone_on_purpose_and_told_of_and_all_else_goes_on() {
    let scratch = scene();
    let done = scratch.summary("keys destroy web --yes");
    assert_eq!((&done["points"], &done["closed"]), (&json!(["web@1", "web@2"]), &json!(true)));
    for n in 1..=2 {
        let ran: Ran = scratch.json(&format!("restore web@{n} --to gone")).expect(1, "gone, and not damaged");
        let told = ran.error().to_string();
        for word in ["VM web", "epoch 0", "destroyed on purpose at 20", "by owner", "for ever"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert!(scratch.names("gone").is_empty());
    }
    scratch.restores_with("--key-file key", "db", 1);
    assert_told(&scratch);
    let web = &epochs(&scratch, "web")[0];
    assert_eq!((&web["destroyed"]["by"], &web["destroyed"]["points"]), (&json!("owner"), &json!(2)));
    assert_eq!(web["wraps"][0]["branches"], json!(["map", "identity"]));
    let text = scratch.ok("keys list --vault v --key-file key").stdout;
    assert!(text.contains("data key destroyed at 20"), "{text}");

    // Again: it is done already.
    let again = scratch.summary("keys destroy web --yes");
    assert_eq!((&again["removed"], &again["closed"]), (&json!(0), &json!(false)));
    // The VM is protected anew, with keys of its own.
    scratch.back_up("web", 1);
    scratch.restores_with("--key-file key", "web", 1);
    let points = scratch.summary("points --vm web");
    assert_eq!((&points["points"], &points["destroyed"]), (&json!(1), &json!(0)));
    let summary = scratch.summary("verify");
    assert_eq!((&summary["clean"], &summary["destroyed_keys"]), (&json!(true), &json!(1)));
}

#[test]
fn who_may_not_change_keys_is_refused_and_a_second_person_approves_destruction() {
    let scratch = scene();
    for (who, role) in
        [("olaf", "backup-operator"), ("cora", "backup-contributor"), ("rita", "backup-reader")]
    {
        scratch.summary(&format!("roles grant {who} {role}"));
    }
    scratch.json("keys list --as rita").expect(0, "a reader looks");
    scratch.json("keys list --as eve").expect(1, "nobody knows her");
    for words in ["rotate-kek --new-key-file new", "rotate-bek web", "destroy web --yes"] {
        let error = scratch.json(&format!("keys {words} --as olaf")).expect(1, words).error();
        assert!(error["message"].as_str().unwrap().starts_with("olaf may not "), "{error}");
    }
    assert!(!scratch.path("new").exists(), "no key file is made for who may not use it");
    scratch.summary("keys rotate-bek web --as cora");
    scratch.summary("keys destroy db --yes --as cora");
    let ran = scratch.json("restore db@1 --to gone").expect(1, "gone");
    assert!(ran.error().to_string().contains("by cora"), "{}", ran.stdout);

    scratch.summary("roles grant mia backup-mua-admin");
    let refused = scratch.json("keys destroy web --yes --as cora").expect(1, "needs approval").error();
    assert!(refused["message"].as_str().unwrap().contains("cora"), "{refused}");
    scratch.restores_with("--key-file key", "web", 1);
    scratch.summary("keys destroy web --dry-run --as cora");
    scratch.summary("roles approve cora destroy-keys --vm web --as mia");
    let done = scratch.summary("keys destroy web --yes --as cora");
    assert_eq!(done["points"], json!(["web@1", "web@2"]));
    scratch.json("restore web@1 --to gone").expect(1, "gone");
    assert_eq!(scratch.summary("verify")["clean"], true);
}
