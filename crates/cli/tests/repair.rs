//! `vmkeep repair`, as a person meets it: a damaged folder, a plan, what is put back and what the next backup heals.

#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::path::PathBuf;

use harness::{Scratch, flip};

const MIB: u64 = 1 << 20;

/// A vault with two points of a VM.
fn two_points() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 8 * MIB, &[(0, 1 << 20, 1)]);
    scratch.summary("backup --vm web --disk os=disk,format=raw");
    scratch.change("disk", 4 * MIB, 1 << 20, 2);
    scratch.summary("backup --vm web --disk os=disk,format=raw");
    scratch
}

fn files(scratch: &Scratch) -> Vec<PathBuf> {
    let mut folders = vec![scratch.path("v/packs")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

#[test]
fn a_copy_is_put_back_and_a_plan_writes_nothing() {
    let scratch = two_points();
    scratch.json("repair").expect(0, "nothing is wrong");
    let copy =
        files(&scratch).into_iter().find(|path| path.extension().is_some_and(|end| end == "copy")).unwrap();
    let was = fs::read(&copy).unwrap();
    flip(&copy, was.len() / 2);
    let damaged = fs::read(&copy).unwrap();

    for words in ["repair", "repair --plan"] {
        let plan = scratch.json(words).expect(3, words);
        let mends = plan.of_type("mend");
        assert_eq!(mends.len(), 1, "{}", plan.stdout);
        assert_eq!((&mends[0]["was"], &mends[0]["done"]), (&"damaged".into(), &false.into()));
        assert!(mends[0]["object"].as_str().unwrap().strip_suffix(".copy").is_some());
        assert_eq!(plan.summary()["whole"], false);
        assert_eq!(fs::read(&copy).unwrap(), damaged, "a plan writes nothing");
    }
    scratch.run("repair --plan --apply --vault v --key-file key").expect(2, "one or the other");

    let done = scratch.json("repair --apply").expect(0, "repair --apply");
    assert_eq!(done.summary()["whole"], true);
    assert_eq!(fs::read(&copy).unwrap(), was, "byte for byte");
    scratch.json("verify").expect(0, "verify");
    let log = scratch.json("log --kind repaired").expect(0, "log");
    assert_eq!(log.of_type("entry").len(), 1, "{}", log.stdout);
}

#[test]
fn what_is_lost_is_told_by_range_and_heals_at_the_next_backup() {
    let scratch = two_points();
    let pack = scratch.data_pack();
    flip(&pack, 100);
    let plan = scratch.run("repair --vault v --key-file key").expect(3, "repair");
    assert!(plan.stdout.contains("lost: web@"), "{}", plan.stdout);
    assert!(plan.stdout.contains("the next backup has it again"), "{}", plan.stdout);
    let applied = scratch.json("repair --apply").expect(3, "repair --apply");
    let lost = applied.of_type("lost_range");
    assert!(!lost.is_empty() && lost.iter().any(|range| range["heals"] == true), "{}", applied.stdout);
    assert_eq!(applied.of_type("marked").len(), 1);
    let again = scratch.json("repair --apply").expect(3, "again");
    assert_eq!((again.of_type("mend").len(), again.of_type("marked").len()), (0, 0), "{}", again.stdout);

    scratch.summary("backup --vm web --disk os=disk,format=raw");
    scratch.summary("restore web@latest --to out");
    assert!(scratch.same("out/os.raw", "disk"));

    // The disk still has it, so older points have it back as well.
    let done = scratch.json("repair --apply --vm web --disk os=disk,format=raw").expect(0, "with the disk");
    assert_eq!(done.summary()["lost_ranges"], 0, "{}", done.stdout);
    scratch.json("verify").expect(0, "verify");
    scratch.run("repair --disk os=disk --vault v --key-file key").expect(2, "whose disk");
}

#[test]
fn a_foreign_file_is_named_and_left_alone() {
    let scratch = two_points();
    scratch.write("v/notes.txt", b"mine");
    let done = scratch.json("repair --apply").expect(3, "repair");
    let objects = done.of_type("damaged_object");
    assert_eq!(objects[0]["object"], "notes.txt");
    assert!(objects[0]["advice"].as_str().unwrap().contains("left alone"), "{}", done.stdout);
    assert_eq!(scratch.read("v/notes.txt"), b"mine");
}
