//! Change tracking on the command line, with QEMU's own bitmaps and listings.
#![allow(clippy::unwrap_used)] // in helpers too

mod harness;

use std::process::Command;

use harness::Scratch;
use serde_json::Value;

/// Runs a tool in the scratch folder; what it printed.
fn tool(scratch: &Scratch, program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).current_dir(scratch.path("")).output();
    let out = out.unwrap_or_else(|e| panic!("{program} (Debian package qemu-utils) is needed: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Whether the test can run. Under `cargo xtask test` a missing tool is a failure.
fn tools_are_here() -> bool {
    let found =
        ["qemu-img", "qemu-io"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    assert!(
        found || std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none(),
        "qemu-img and qemu-io (Debian package qemu-utils) are needed"
    );
    found
}

const MIB: u64 = 1 << 20;

/// A vault with a point of `disk.qcow2`, in which the bitmap `after-1` records what is written from then on.
fn recorded() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.disk("disk.raw", 64 * MIB, &[(0, 3 << 20, 1), (40 << 20, 5 << 20, 2)]);
    tool(&scratch, "qemu-img", &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    scratch.summary("backup --vm web --disk os=disk.qcow2");
    tool(&scratch, "qemu-img", &["bitmap", "--add", "-g", "4096", "disk.qcow2", "after-1"]);
    scratch
}

/// Writes through QEMU: offset, length and byte.
fn write(scratch: &Scratch, writes: &[(u64, u64, u8)]) {
    let mut args = Vec::new();
    for (at, len, byte) in writes {
        args.extend(["-c".to_owned(), format!("write -P {byte} {at} {len}")]);
    }
    args.push("disk.qcow2".to_owned());
    tool(scratch, "qemu-io", &args.iter().map(String::as_str).collect::<Vec<_>>());
}

fn disk_of(summary: &Value) -> &Value {
    &summary["disks"][0]
}

/// Content of the newest point, by its identity.
fn content(scratch: &Scratch, vm: &str) -> String {
    let points = scratch.json(&format!("points --vm {vm}")).expect(0, "points").of_type("point");
    points.last().unwrap()["disks"][0]["stored"]["content"].as_str().unwrap().to_owned()
}

#[test]
fn a_bitmap_of_qemu_gives_the_point_that_a_full_scan_gives() {
    if !tools_are_here() {
        return;
    }
    let scratch = recorded();
    write(
        &scratch,
        &[(8192, 4096, 7), (45 << 20, 100_000, 8), (20 << 20, 1 << 20, 9), (41 << 20, 65_536, 0)],
    );
    let summary = scratch.summary("backup --vm web --disk os=disk.qcow2 --bitmap after-1,since=1");
    let disk = disk_of(&summary);
    assert_eq!(disk["tracking"]["method"], "dirty bitmap");
    assert_eq!(disk["tracking"]["granularity"], 4096);
    assert!(disk["fallback"].is_null());
    assert!(summary["bytes_read"].as_u64().unwrap() <= 64 * MIB + 4 * MIB);
    // The same by a scan, in the same vault: nothing is new.
    let tracked = content(&scratch, "web");
    let scanned = scratch.summary("backup --vm web --disk os=disk.qcow2 --full-scan --bitmap after-1");
    assert_eq!((&scanned["bytes_changed"], &disk_of(&scanned)["tracking"]), (&Value::from(0), &Value::Null));
    assert_eq!(content(&scratch, "web"), tracked);
    tool(&scratch, "qemu-img", &["convert", "-O", "raw", "disk.qcow2", "expected.raw"]);
    scratch.ok("restore web@2 --vault v --key-file key --to restored");
    assert!(scratch.read("expected.raw") == scratch.read("restored/os.raw"));
    scratch.ok("verify --vault v --key-file key");
}

#[test]
fn a_bitmap_that_cannot_be_used_costs_a_scan_and_the_point_says_why() {
    if !tools_are_here() {
        return;
    }
    let scratch = recorded();
    write(&scratch, &[(8192, 4096, 7)]);
    tool(&scratch, "qemu-img", &["bitmap", "--add", "--disable", "disk.qcow2", "off"]);
    for (bitmap, why) in
        [("gone", "gone"), ("off", "disabled"), ("after-1,since=7", "since point 7"), ("os=gone", "gone")]
    {
        let summary = scratch.summary(&format!("backup --vm web --disk os=disk.qcow2 --bitmap {bitmap}"));
        let told = disk_of(&summary)["fallback"].as_str().unwrap().to_owned();
        assert!(told.contains(why), "{bitmap}: {told}");
        assert!(disk_of(&summary)["tracking"].is_null());
    }
    tool(&scratch, "qemu-img", &["convert", "-O", "raw", "disk.qcow2", "expected.raw"]);
    scratch.ok("restore web@2 --vault v --key-file key --to restored");
    assert!(scratch.read("expected.raw") == scratch.read("restored/os.raw"));
}

#[test]
fn a_listing_of_an_overlay_gives_what_was_written_to_it() {
    if !tools_are_here() {
        return;
    }
    let scratch = recorded();
    tool(
        &scratch,
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", "top.qcow2"],
    );
    tool(&scratch, "qemu-io", &["-c", "write -P 5 1048576 8192", "top.qcow2"]);
    let map = tool(&scratch, "qemu-img", &["map", "--output=json", "top.qcow2"]);
    scratch.write("map.json", map.as_bytes());
    let backing = scratch.path("disk.qcow2").display().to_string();
    let summary = scratch.summary(&format!(
        "backup --vm web --disk os=top.qcow2 --allow-backing {backing} --changed-extents os=map.json --audit-rate none --audit-rounds off"
    ));
    let disk = disk_of(&summary);
    assert_eq!(disk["tracking"]["method"], "extent list");
    assert_eq!(
        (&summary["bytes_read"], &disk["tracking"]["audited_blocks"]),
        (&Value::from(65_536), &Value::from(0))
    );
    tool(&scratch, "qemu-img", &["convert", "-O", "raw", "top.qcow2", "expected.raw"]);
    scratch.ok("restore web@2 --vault v --key-file key --to restored");
    assert!(scratch.read("expected.raw") == scratch.read("restored/os.raw"));
}

#[test]
fn points_that_rest_on_a_listing_that_lied_are_marked_and_shown() {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 16 * MIB, &[(0, 8 << 20, 1)]);
    scratch.write("nothing.json", b"[]");
    let tracked = "backup --vm web --disk os=disk --changed-extents nothing.json";
    let trusting = format!("{tracked} --audit-rate none --audit-rounds off");
    scratch.summary("backup --vm web --disk os=disk");
    scratch.change("disk", 1 << 20, 4096, 9);
    scratch.summary(&trusting);
    let ran = scratch.json(&format!("{tracked} --audit-rate 100%")).expect(0, "an audit");
    let missed = &ran.of_type("tracking_missed")[0];
    assert_eq!(
        (&missed["block"], &missed["suspect_from"], &missed["suspect_to"]),
        (&16.into(), &2.into(), &2.into())
    );
    assert_eq!(ran.of_type("scanned_instead").len(), 1);
    let points = scratch.json("points").expect(0, "points");
    let suspect: Vec<bool> = points
        .of_type("point")
        .iter()
        .map(|point| point["suspect_disks"] == serde_json::json!(["os"]))
        .collect();
    assert_eq!(suspect, [false, true, false]);
    assert_eq!(points.summary()["suspect"], 1);
    assert!(scratch.ok("points --vault v --key-file key").stdout.contains("suspect"));
    let verified = scratch.json("verify").expect(0, "what is stored is sound");
    assert_eq!(verified.of_type("suspect")[0]["points"], serde_json::json!([2]));
    assert_eq!(verified.summary()["suspect_points"], 1);
    scratch.ok("restore web@3 --vault v --key-file key --to restored");
    assert!(scratch.same("disk", "restored/os.raw"));
}

#[test]
fn what_is_no_listing_or_names_no_disk_is_told() {
    let scratch = Scratch::with_vault();
    scratch.disk("a", MIB, &[(0, 4096, 1)]);
    scratch.disk("b", MIB, &[(0, 4096, 2)]);
    scratch.write("wrong.json", b"{\"oops\": 1}");
    scratch.write(
        "short.json",
        br#"[{"start": 0, "length": 4096, "depth": 0, "present": true, "zero": false, "data": true}]"#,
    );
    let both = "backup --vm web --disk os=a --disk data=b";
    scratch.summary(both);
    let ran = scratch.json(&format!("{both} --changed-extents wrong.json")).expect(2, "which disk?");
    assert!(ran.error()["message"].as_str().unwrap().contains("which disk"), "{ran:?}");
    scratch.json(&format!("{both} --changed-extents os=missing.json")).expect(1, "no such file");
    scratch.json(&format!("{both} --audit-rate 200%")).expect(2, "no rate");
    for file in ["wrong.json", "short.json"] {
        let summary = scratch.summary(&format!("{both} --changed-extents os={file}"));
        assert!(disk_of(&summary)["fallback"].as_str().unwrap().contains(file));
        assert!(summary["disks"][1]["fallback"].is_null());
    }
}
