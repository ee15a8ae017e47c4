//! What verify finds, and that exit code 3 says so.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Scratch, flip};

fn one_point() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 8 << 20, &[(0, 300_000, 1), (5 << 20, 1 << 20, 2)]);
    scratch.summary("backup --vm web --disk os=disk");
    scratch
}

#[test]
fn a_good_vault_is_accounted_for_to_the_byte() {
    let scratch = one_point();
    let summary = scratch.summary("verify");
    assert_eq!((&summary["clean"], summary["points"].as_u64()), (&true.into(), Some(1)));
    let accounting = &summary["accounting"];
    assert!(accounting["live"]["bytes"].as_u64().unwrap() > 1 << 20);
    for nothing in ["garbage", "in_progress", "unexplained"] {
        assert_eq!(accounting[nothing]["objects"], 0, "{nothing}");
    }
    assert!(scratch.summary("verify web@1")["accounting"].is_null());
    assert_eq!(scratch.summary("verify --structure")["clean"], true);
    let text = scratch.ok("verify --vault v --key-file key").stdout;
    assert!(text.contains("unexplained") && text.contains("nothing is damaged"), "{text}");
}

#[test]
fn a_flipped_byte_of_data_is_found_with_its_ranges_and_its_object() {
    let scratch = one_point();
    flip(&scratch.data_pack(), 5000);
    for words in ["verify", "verify web@1", "verify web@latest"] {
        let ran = scratch.json(words).expect(3, words);
        // What is lost is one frame, whose blocks need not lie together.
        let (ranges, mut lost) = (ran.of_type("damaged_range"), 0);
        assert!(!ranges.is_empty(), "{words}");
        for range in &ranges {
            assert_eq!((&range["disk"], &range["point"]), (&"os".into(), &"web@1".into()));
            assert!(range["object"].as_str().unwrap().starts_with("packs/"));
            lost += range["length"].as_u64().unwrap();
        }
        assert!(lost <= 512 << 10 && lost % 65_536 == 0, "{lost}");
        let summary = ran.summary();
        assert_eq!((&summary["clean"], summary["damaged_bytes"].as_u64()), (&false.into(), Some(lost)));
    }
    // As sealed, the same is lost.
    let lost = |words| scratch.json(words).expect(3, words).of_type("damaged_range");
    assert_eq!(lost("verify --depth sealed"), lost("verify --depth blocks"));
    assert_eq!(lost("verify web@1 --depth sealed"), lost("verify web@1"));
    // No data is read, so nothing is seen; what it says is about structure only.
    for words in ["verify --structure", "verify --depth structure", "verify web@1 --structure"] {
        assert_eq!(scratch.json(words).expect(0, words).summary()["depth"], "structure");
    }
    for words in ["--depth data", "--structure --depth sealed"] {
        scratch.run(&format!("verify --vault v --key-file key {words}")).expect(2, words);
    }
    let text = scratch.run("verify --vault v --key-file key").expect(3, "text").stdout;
    assert!(text.contains("lost: web@1 disk os") && text.contains("authentication failed"), "{text}");
}

#[test]
fn a_missing_pack_is_found_by_structure() {
    let scratch = one_point();
    std::fs::remove_file(scratch.data_pack()).unwrap();
    let ran = scratch.json("verify --structure").expect(3, "structure");
    let lost: u64 = ran.of_type("damaged_range").iter().map(|range| range["length"].as_u64().unwrap()).sum();
    assert_eq!(ran.summary()["damaged_bytes"], lost);
    assert_eq!(lost, 21 * 65_536);
}

#[test]
fn a_file_that_does_not_belong_is_reported() {
    let scratch = one_point();
    scratch.write("v/notes.txt", b"hello");
    let ran = scratch.json("verify --structure").expect(3, "stray");
    assert_eq!(ran.of_type("damaged_object")[0]["object"], "notes.txt");
    let unexplained = &ran.summary()["accounting"]["unexplained"];
    assert_eq!((unexplained["objects"].as_u64(), unexplained["bytes"].as_u64()), (Some(1), Some(5)));
    // The point itself is whole.
    scratch.json("verify web@1").expect(0, "point");
}

#[test]
fn damage_that_ends_a_command_early_is_damage_too() {
    let scratch = one_point();
    let mut vault = std::fs::read_dir(scratch.path("v")).unwrap().map(|entry| entry.unwrap().path());
    let record = vault.find(|path| path.is_file()).unwrap();
    let middle = std::fs::metadata(&record).unwrap().len() / 2;
    flip(&record, usize::try_from(middle).unwrap());
    let error = scratch.json("points").expect(3, "the vault's record").error();
    assert!(error["message"].as_str().unwrap().contains("damaged"), "{error}");
}

#[test]
fn a_point_that_cannot_be_read_is_listed_as_such_and_the_vm_is_backed_up_anew() {
    let scratch = one_point();
    let lineage = scratch.names("v/points").pop().unwrap();
    let record = scratch.names(&format!("v/points/{lineage}")).pop().unwrap();
    flip(&scratch.path(&format!("v/points/{lineage}/{record}")), 200);
    let ran = scratch.json("points").expect(3, "points");
    assert_eq!(ran.of_type("unreadable")[0]["point"], "web@1");
    assert_eq!((&ran.summary()["points"], &ran.summary()["unreadable"]), (&0.into(), &1.into()));
    scratch.json("restore web@1 --to out").expect(3, "restore").error();

    // The new point is whole and stands alone; that there is damage is said again.
    let ran = scratch.json("backup --vm web --disk os=disk").expect(3, "backup");
    assert!(!ran.of_type("base_unreadable").is_empty(), "{}", ran.stdout);
    assert!(ran.stderr.contains("warning: the point before cannot be read"), "{}", ran.stderr);
    assert_eq!(ran.summary()["point"], "web@2");
    scratch.summary("restore web@2 --to out");
    assert!(scratch.same("out/os.raw", "disk"));
    scratch.json("backup --vm web --disk os=disk").expect(0, "the one after");
}
