//! Restored files appear whole or not at all, and never over others unless asked for.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Scratch, flip};

fn one_point() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 8 << 20, &[(0, 300_000, 1), (5 << 20, 1 << 20, 2)]);
    scratch.write("config", b"cpu: 4");
    scratch.summary("backup --vm web --disk os=disk --disk data=disk --config config");
    scratch
}

#[test]
fn nothing_is_overwritten_unless_asked_for() {
    for file in ["data.raw", "config"] {
        let scratch = one_point();
        std::fs::create_dir(scratch.path("out")).unwrap();
        scratch.write(&format!("out/{file}"), b"precious");
        let error = scratch.json("restore web@1 --to out").expect(1, file).error();
        assert!(error["hint"].as_str().unwrap().contains("--force"), "{error}");
        assert_eq!(scratch.read(&format!("out/{file}")), b"precious");
        assert_eq!(scratch.names("out"), [file]);

        scratch.summary("restore web@1 --to out --force");
        assert_eq!(scratch.names("out"), ["config", "data.raw", "os.raw"]);
        assert!(scratch.same("out/data.raw", "disk"));
        assert_eq!(scratch.read("out/config"), b"cpu: 4");
    }
}

#[test]
fn a_folder_in_the_place_of_a_disk_is_kept() {
    let scratch = one_point();
    std::fs::create_dir_all(scratch.path("out/os.raw")).unwrap();
    scratch.json("restore web@1 --to out --force").expect(1, "a folder").error();
    assert_eq!(scratch.names("out"), ["os.raw"]);
}

#[test]
fn a_link_is_replaced_and_what_it_names_is_kept() {
    let scratch = one_point();
    std::fs::create_dir(scratch.path("out")).unwrap();
    scratch.write("precious", b"precious");
    std::os::unix::fs::symlink(scratch.path("precious"), scratch.path("out/os.raw")).unwrap();
    scratch.json("restore web@1 --to out").expect(1, "a link").error();
    scratch.summary("restore web@1 --to out --force");
    assert_eq!(scratch.read("precious"), b"precious");
    assert!(scratch.same("out/os.raw", "disk"));
}

#[test]
fn what_another_restore_may_be_writing_is_not_touched() {
    let scratch = one_point();
    std::fs::create_dir(scratch.path("out")).unwrap();
    scratch.write("out/os.raw.partial", b"theirs");
    for force in ["", "--force"] {
        let error = scratch.json(&format!("restore web@1 --to out {force}")).expect(1, "partial").error();
        assert!(error["hint"].as_str().unwrap().contains("delete it"), "{error}");
        assert_eq!(scratch.read("out/os.raw.partial"), b"theirs");
        assert_eq!(scratch.names("out"), ["os.raw.partial"]);
    }
}

#[test]
fn a_restore_that_meets_damage_leaves_what_was_there() {
    let scratch = one_point();
    scratch.summary("restore web@1 --to out");
    scratch.write("out/os.raw", b"precious");
    scratch.write("out/data.raw", b"precious");
    flip(&scratch.data_pack(), 5000);
    let error = scratch.json("restore web@1 --to out --force").expect(3, "damage").error();
    assert!(error["causes"][0].as_str().unwrap().contains("packs/"), "{error}");
    assert_eq!(scratch.read("out/os.raw"), b"precious");
    assert_eq!(scratch.read("out/data.raw"), b"precious");
    assert_eq!(scratch.names("out"), ["config", "data.raw", "os.raw"]);
    scratch.json("restore web@1 --to fresh").expect(3, "damage").error();
    assert!(scratch.names("fresh").is_empty());
}

#[test]
fn a_disk_of_odd_size_does_not_become_qcow2() {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", (1 << 20) + 100, &[(0, 1000, 1), (1 << 20, 100, 2)]);
    scratch.summary("backup --vm odd --disk d=disk");
    let error = scratch.json("restore odd@1 --to out --format qcow2").expect(2, "odd size").error();
    assert!(error["message"].as_str().unwrap().contains("--format raw"), "{error}");
    assert!(!scratch.path("out").exists());
    scratch.summary("restore odd@1 --to out");
    assert!(scratch.same("out/d.raw", "disk"));
}

#[test]
fn nothing_is_restored_into_the_vault() {
    let scratch = one_point();
    for to in ["v", "v/out", "x/../v/packs"] {
        scratch.json(&format!("restore web@1 --to {to}")).expect(2, to).error();
    }
    assert_eq!(scratch.summary("verify --structure")["clean"], true);
}

#[test]
fn a_restored_disk_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = one_point();
    for (format, file) in [("raw", "os.raw"), ("qcow2", "os.qcow2")] {
        scratch.summary(&format!("restore web@1 --to {format} --disk os --format {format}"));
        let mode = std::fs::metadata(scratch.path(&format!("{format}/{file}"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}: {mode:o}");
    }
}
