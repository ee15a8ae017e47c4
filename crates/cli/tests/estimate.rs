//! `vmkeep estimate`, and the options that say how disks are read.
#![allow(clippy::unwrap_used)] // in helpers too

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use harness::Scratch;

const MIB: u64 = 1 << 20;

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn it_tells_what_a_backup_then_finds_and_stores_nothing() {
    let scratch = Scratch::with_vault();
    scratch.disk("os", 8 * MIB, &[(0, 3 << 20, 1)]);
    let before = files(&scratch.path("v"));
    let found = scratch.summary("estimate --vm web --disk os=os,role=os,format=raw");
    assert_eq!(files(&scratch.path("v")), before);
    assert!(!scratch.path("xdg-cache").exists());
    assert_eq!(found["base"], serde_json::Value::Null);
    assert_eq!(found["disks"][0]["change"], "appeared");
    assert_eq!(found["disks"][0]["ratio"]["from"], "sample");
    assert_eq!(found["bytes_changed"], 3 * MIB);

    let stored = scratch.summary("backup --vm web --disk os=os,role=os,format=raw");
    assert_eq!(stored["bytes_changed"], found["bytes_changed"]);
    scratch.change("os", MIB, 4096, 7);
    scratch.change("os", 2 * MIB, 4096, 8);
    scratch.disk("new", 4 * MIB, &[(0, 1 << 20, 3)]);
    let disks = "--vm web --disk os=os,role=os,format=raw --disk new=new,format=raw";
    let before = (files(&scratch.path("v")), files(&scratch.path("xdg-cache")));
    let words = format!("estimate {disks} --warn-churn 1 --warn-fragmented 1");
    let found = scratch.summary(&words);
    let text = scratch.ok(&format!("{words} --vault v --key-file key"));
    assert_eq!((files(&scratch.path("v")), files(&scratch.path("xdg-cache"))), before);
    let os = &found["disks"][0];
    assert_eq!((&os["blocks_patched"], &os["pages_patched"]), (&2.into(), &2.into()));
    assert_eq!((&os["shape"], &os["runs"]), (&"fragmented".into(), &2.into()));
    assert_eq!(os["histogram"][0]["from"], 4096);
    assert_eq!(os["warnings"][0]["kind"], "fragmented");
    assert_eq!(found["disks"][1]["warnings"][0]["kind"], "initial_replication");
    let kinds: Vec<_> =
        found["warnings"].as_array().unwrap().iter().map(|warning| &warning["kind"]).collect();
    assert!(kinds.contains(&&"high_churn".into()), "{kinds:?}");
    for part in ["fragmented: 2 runs of 4.00 KiB", "web, against web@1:", "(100.", "churn: "] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
    assert!(text.stderr.contains("warning: new: a new disk of 1048576 bytes"), "{}", text.stderr);

    let stored = scratch.summary(&format!("backup {disks}"));
    for (name, stored) in ["os", "new"].iter().zip(stored["disks"].as_array().unwrap()) {
        let expected = found["disks"].as_array().unwrap().iter().find(|disk| disk["name"] == *name).unwrap();
        for number in
            ["bytes_changed", "bytes_zeroed", "blocks_patched", "pages_patched", "blocks_whole_unknown"]
        {
            assert_eq!(expected[number], stored[number], "{number} of {name}");
        }
    }
}

#[test]
fn limits_and_direct_reads_give_the_same_backup() {
    let scratch = Scratch::with_vault();
    scratch.disk("os", 8 * MIB + 512, &[(MIB, 1 << 20, 1), (8 * MIB, 512, 2)]);
    // Where the file system of temporary files refuses direct reads, it says so.
    let words = "backup --vm web --disk os=os,format=raw --limit-read 1G --limit-write 512M --direct --json";
    let ran = scratch.run(&format!("{words} --vault v --key-file key"));
    if ran.code == 0 {
        scratch.ok("restore web@1 --to r --vault v --key-file key");
        assert!(scratch.same("os", "r/os.raw"));
    } else {
        assert!(ran.stderr.contains("page cache"), "{}", ran.stderr);
    }
    for (words, why) in [("--limit-read 0", "would never end"), ("--limit-write 5x", "not a size")] {
        let ran = scratch.run(&format!("backup --vm web --disk os=os --vault v --key-file key {words}"));
        assert!(ran.expect(2, words).stderr.contains(why));
    }
    scratch.write("q", b"QFI\xfb");
    let ran = scratch.run("backup --vm web --disk os=q --direct --vault v --key-file key").expect(1, "qcow2");
    assert!(ran.stderr.contains("only raw images and block devices"), "{}", ran.stderr);
}
