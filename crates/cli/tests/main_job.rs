//! Back up, change, back up, look, restore: what each command says, and that every point restores to what was there.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::Scratch;
use serde_json::json;

const BLOCK: u64 = 65_536;
const MIB: u64 = 1 << 20;

/// A vault with two points of one disk; `first` and `second` are copies of what it was.
fn two_points() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 32 * MIB, &[(0, 300_000, 1), (20 * MIB, 1 << 20, 2)]);
    std::fs::copy(scratch.path("disk"), scratch.path("first")).unwrap();
    scratch.summary("backup --vm web --disk os=disk,role=os,lun=0");
    scratch.change("disk", 70_000, 10, 3); // one block, changed
    scratch.change("disk", 30 * MIB, 10, 4); // one block, appeared
    std::fs::copy(scratch.path("disk"), scratch.path("second")).unwrap();
    scratch
}

#[test]
fn an_increment_stores_what_changed_and_every_point_restores() {
    let scratch = two_points();
    let ran = scratch.json("backup --vm web --disk os=disk,role=os,lun=0").expect(0, "backup");
    let summary = ran.summary();
    assert_eq!(summary["point"], "web@2");
    assert_eq!(summary["base"], 1);
    assert_eq!(summary["consistency"], "crash");
    assert_eq!(summary["bytes_changed"], 2 * BLOCK);
    let stored = summary["bytes_stored"].as_u64().unwrap();
    assert!(stored > 20 && stored < 3 * BLOCK, "{stored}");
    assert!(summary["duration_ms"].is_u64() && summary["vanished"] == json!([]));
    let disk = &summary["disks"][0];
    assert_eq!((&disk["name"], &disk["role"], &disk["lun"]), (&json!("os"), &json!("os"), &json!(0)));
    assert_eq!((&disk["size"], &disk["change"]), (&json!(32 * MIB), &json!("same_size")));
    assert_eq!(disk["bytes_changed"], 2 * BLOCK);
    assert_eq!(disk["bytes_zeroed"], 0);
    assert_eq!(disk["bytes_read"], summary["bytes_read"]);
    assert_eq!(ran.of_type("began")[0]["number"], 2);
    assert!(!ran.of_type("progress").is_empty());

    for (point, copy) in [("web@1", "first"), ("web@2", "second"), ("web@latest", "second")] {
        let summary = scratch.summary(&format!("restore {point} --to {point}"));
        assert_eq!(summary["disks"][0]["path"], format!("{point}/os.raw"));
        assert!(scratch.same(&format!("{point}/os.raw"), copy), "{point}");
        assert_eq!(scratch.names(point), ["os.raw"]);
    }
}

#[test]
fn an_unchanged_disk_costs_metadata_only() {
    let scratch = two_points();
    scratch.summary("backup --vm web --disk os=disk,role=os,lun=0");
    let summary = scratch.summary("backup --vm web --disk os=disk,role=os,lun=0");
    assert_eq!((&summary["point"], &summary["bytes_changed"]), (&json!("web@3"), &json!(0)));
    assert_eq!(summary["bytes_stored"], summary["bytes_metadata"]);
    assert!(summary["bytes_stored"].as_u64().unwrap() <= 8192, "{summary}");
}

#[test]
fn a_diff_lists_the_ranges_that_differ() {
    let scratch = two_points();
    scratch.summary("backup --vm web --disk os=disk,role=os,lun=0");
    let ran = scratch.json("diff web@1 web@2").expect(0, "diff");
    let extent = |offset, kind: &str| json!({"type": "extent", "disk": "os", "offset": offset, "length": BLOCK, "kind": kind});
    assert_eq!(ran.of_type("extent"), [extent(BLOCK, "changed"), extent(30 * MIB, "appeared")]);
    let summary = ran.summary();
    assert_eq!((&summary["bytes_changed"], &summary["bytes_appeared"]), (&json!(BLOCK), &json!(BLOCK)));

    let back = scratch.json("diff web@2 web@1").expect(0, "diff back");
    assert_eq!(back.of_type("extent"), [extent(BLOCK, "changed"), extent(30 * MIB, "vanished")]);
    assert!(scratch.json("diff web@1 web@1").of_type("extent").is_empty());

    let text = scratch.ok("diff --vault v --key-file key web@1 web@2").stdout;
    assert!(text.contains("65536 + 65536        changed"), "{text}");
}

#[test]
fn points_of_two_vms_are_not_compared() {
    let scratch = two_points();
    scratch.summary("backup --vm db --disk os=disk");
    let error = scratch.json("diff web@1 db@1").expect(2, "diff").error();
    assert!(error["message"].as_str().unwrap().contains("a key of each VM"), "{error}");
}

#[test]
fn points_lists_everything_that_a_point_is() {
    let scratch = two_points();
    scratch.write("config", b"<domain/>");
    scratch.disk("scratch", 2 * MIB, &[(0, 4096, 9)]);
    scratch.summary(
        "backup --vm web --disk os=disk,role=os,lun=0 --disk tmp=scratch,role=temp --disk z,role=temp,size=5G --config config",
    );
    scratch.summary("backup --vm db --disk d=second");
    let ran = scratch.json("points").expect(0, "points");
    assert_eq!(
        ran.summary(),
        json!({"type": "summary", "vms": 2, "points": 3, "forgotten": 0, "held": 0, "pinned": 0, "suspect": 0, "destroyed": 0, "unreadable": 0})
    );
    assert_eq!(scratch.json("points --vm web").of_type("point").len(), 2);
    let points = ran.of_type("point");
    let point = points.iter().find(|point| point["point"] == "web@2").unwrap();
    assert_eq!((&point["config_bytes"], &point["base"]), (&json!(9), &json!(1)));
    assert!(point["created"].as_str().unwrap().ends_with('Z'));
    let disks = point["disks"].as_array().unwrap();
    assert_eq!(disks[0]["stored"]["changed"], 2 * BLOCK);
    assert_eq!(disks[0]["stored"]["provenance"], "scan");
    assert_eq!(
        disks[1],
        json!({"name": "tmp", "role": "temp", "lun": null, "size": 2 * MIB, "stored": null, "encryption": null})
    );
    assert_eq!(disks[2]["size"], 5_u64 << 30);
    // Content has one identity within a VM, and another in another VM.
    let content = |point: &str| {
        let found = points.iter().find(|p| p["point"] == point).unwrap();
        found["disks"][0]["stored"]["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(content("web@1").len(), 32);
    assert!(content("web@1") != content("web@2") && content("db@1") != content("web@2"));

    let table = scratch.ok("points --vault v --key-file key").stdout;
    assert!(table.starts_with("POINT") && table.contains("web@2") && table.contains("5.00 GiB"), "{table}");
}

#[test]
fn a_vm_of_several_disks_restores_with_its_configuration_and_without_temporary_disks() {
    let scratch = two_points();
    scratch.write("config", b"<domain/>");
    let summary = scratch.summary(
        "backup --vm web --disk os=disk,role=os --disk data=first --disk tmp=second,role=temp,lun=3 --config config",
    );
    assert_eq!(summary["disks"][2]["change"], "described");
    assert_eq!(summary["disks"][2]["bytes_read"], 0);
    let summary = scratch.summary("restore web@latest --to all");
    assert_eq!(summary["not_stored"], json!(["tmp"]));
    assert_eq!(scratch.names("all"), ["config", "data.raw", "os.raw"]);
    assert_eq!(scratch.read("all/config"), b"<domain/>");
    assert!(scratch.same("all/os.raw", "second") && scratch.same("all/data.raw", "first"));

    let summary = scratch.summary("restore web@latest --to one --disk data --disk data --format qcow2");
    assert_eq!(summary["disks"].as_array().unwrap().len(), 1);
    assert_eq!(scratch.names("one"), ["data.qcow2"]);
    let error = scratch.json("restore web@latest --to one --disk tmp").expect(2, "temp").error();
    assert!(error["message"].as_str().unwrap().contains("not stored"), "{error}");
    scratch.json("restore web@latest --to one --disk nope").expect(1, "no such disk").error();
}

#[test]
fn disks_that_grow_shrink_appear_and_vanish_are_told_of() {
    let scratch = Scratch::with_vault();
    for name in ["a", "b", "c"] {
        scratch.disk(name, 4 * MIB, &[(0, 100_000, 1), (3 * MIB, 100_000, 2)]);
    }
    let summary = scratch.summary("backup --vm m --disk a=a --disk b=b --disk c=c");
    assert_eq!(summary["disks"][0]["change"], "appeared");
    let resize = |name: &str, len| {
        std::fs::File::options().write(true).open(scratch.path(name)).unwrap().set_len(len).unwrap();
    };
    resize("a", 6 * MIB);
    resize("b", 2 * MIB);
    let ran = scratch.json("backup --vm m --disk a=a --disk b=b --disk d=c").expect(0, "second");
    let summary = ran.summary();
    assert_eq!(
        (&summary["disks"][0]["change"], &summary["disks"][0]["from"]),
        (&json!("grew"), &json!(4 * MIB))
    );
    assert_eq!(
        (&summary["disks"][1]["change"], &summary["disks"][1]["from"]),
        (&json!("shrank"), &json!(4 * MIB))
    );
    assert_eq!(summary["disks"][2]["change"], "appeared");
    assert_eq!(summary["vanished"], json!(["c"]));
    assert_eq!(ran.of_type("vanished")[0]["disk"], "c");

    let ran = scratch.json("diff m@1 m@2").expect(0, "diff");
    assert_eq!(ran.summary()["only_before"], json!(["c"]));
    assert_eq!(ran.summary()["only_after"], json!(["d"]));
    assert_eq!(ran.of_type("disk")[1]["size_after"], 2 * MIB);
    scratch.summary("restore m@2 --to out");
    for (restored, source) in [("out/a.raw", "a"), ("out/b.raw", "b"), ("out/d.raw", "c")] {
        assert!(scratch.same(restored, source), "{restored}");
    }
}

#[test]
fn a_forgotten_point_is_no_longer_the_latest_and_still_restores_by_number() {
    let scratch = two_points();
    scratch.summary("backup --vm web --disk os=disk");
    assert_eq!(scratch.summary("forget web@latest")["point"], "web@2");
    assert_eq!(scratch.summary("points")["forgotten"], 1);
    assert_eq!(scratch.summary("restore web@latest --to a")["point"], "web@1");
    scratch.summary("restore web@2 --to b");
    assert!(scratch.same("a/os.raw", "first") && scratch.same("b/os.raw", "second"));
    scratch.json("restore web@9 --to c").expect(1, "no such point").error();
    scratch.json("forget other@1").expect(1, "no such VM").error();
}

#[test]
fn every_level_block_size_and_number_of_workers_restores() {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 9 * MIB + 512, &[(0, 300_000, 1), (5 * MIB, 2 << 20, 2), (9 * MIB, 512, 3)]);
    let settings = [
        "--level fast --block-size 16K",
        "--level best --block-size 4M",
        "--workers 1 --memory 32",
        "--workers 3",
    ];
    for (nth, setting) in settings.iter().enumerate() {
        scratch.summary(&format!("backup --vm vm{nth} --disk d=disk,format=raw {setting}"));
        scratch.summary(&format!("restore vm{nth}@1 --to out{nth}"));
        assert!(scratch.same(&format!("out{nth}/d.raw"), "disk"), "{setting}");
    }
    assert_eq!(scratch.summary("verify")["clean"], true);
}

#[test]
fn a_cache_is_filled_and_may_go_away() {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 8 << 20, &[(0, 300_000, 1), (5 << 20, 1 << 20, 2)]);
    scratch.summary("backup --vm web --disk os=disk --cache cache");
    assert!(!scratch.names("cache").is_empty());
    scratch.disk("disk", 8 << 20, &[(0, 300_000, 1), (5 << 20, 1 << 20, 3)]);
    std::fs::remove_dir_all(scratch.path("cache")).unwrap();
    scratch.summary("backup --vm web --disk os=disk --cache cache");
    scratch.summary("restore web@2 --to out");
    assert!(scratch.same("out/os.raw", "disk"));
}
