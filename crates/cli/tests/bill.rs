//! `vmkeep usage` and `vmkeep bill`: what is taken adds up to the folder, what is charged to its lines.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::path::Path;

use harness::Scratch;
use serde_json::{Value, json};
use vmkeep_testkit::PRICE_BOOK;

const MIB: u64 = 1 << 20;
fn size(folder: &Path) -> u64 {
    let of = |entry: fs::DirEntry| {
        let facts = entry.metadata().unwrap();
        if facts.is_dir() { size(&entry.path()) } else { facts.len() }
    };
    fs::read_dir(folder).unwrap().map(|entry| of(entry.unwrap())).sum()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn scene() -> Scratch {
    let scratch = Scratch::with_vault();
    scratch.write("book.toml", PRICE_BOOK.as_bytes());
    scratch.write(
        "policy.toml",
        b"zone = \"UTC\"\nschedule.daily = { at = \"01:30\" }\nretention.daily = \"10 days\"\n",
    );
    scratch.json("policy import policy.toml --name daily").expect(0, "import");
    for (vm, seed) in [("web", 1), ("db", 2)] {
        scratch.json(&format!("protect {vm} --policy daily")).expect(0, "protect");
        scratch.disk(vm, 8 * MIB, &[(0, 1 << 20, seed)]);
        scratch.summary(&format!("backup --vm {vm} --disk os={vm} --scheduled"));
    }
    scratch
}

#[test]
fn what_is_taken_adds_up_to_the_folder() {
    let scratch = scene();
    scratch.summary("backup --vm other --disk os=db");
    scratch.write("v/stranger", b"12345");
    let ran = scratch.json("usage").expect(0, "usage");
    let lines = lines(&ran.stdout);
    let number = |line: &Value, field: &str| line[field].as_u64().unwrap();
    let vms: Vec<_> = lines.iter().filter(|line| line["type"] == "vm").collect();
    assert_eq!(vms.len(), 3);
    let summary = lines.last().unwrap();
    let sum: u64 = vms.iter().map(|vm| number(vm, "data_bytes") + number(vm, "metadata_bytes")).sum();
    assert_eq!(number(summary, "foreign_bytes"), 5);
    assert_eq!(number(summary, "total_bytes"), sum + number(summary, "record_bytes") + 5);
    assert_eq!(number(summary, "total_bytes"), size(&scratch.path("v")), "every byte of the folder");
    assert_eq!(number(summary, "garbage_bytes"), 0);
    assert!(vms.iter().all(|vm| vm["points"] == 1 && vm["protected_bytes"] == MIB));
}

/// What a sweep is about to free is on a line of its own, and no VM answers for it.
#[test]
fn garbage_is_nobodys() {
    let scratch = scene();
    let sums = || {
        let ran = scratch.json("usage").expect(0, "usage");
        let (lines, summary) = (lines(&ran.stdout), ran.summary());
        let of = |field: &str| lines.iter().filter_map(|line| line[field].as_u64()).sum::<u64>();
        let own = of("data_bytes") + of("metadata_bytes");
        let garbage = summary["garbage_bytes"].as_u64().unwrap();
        let total = own + garbage + summary["record_bytes"].as_u64().unwrap();
        assert_eq!(total, size(&scratch.path("v")), "every byte of the folder");
        (of("data_bytes"), garbage)
    };
    let (data, garbage) = sums();
    assert_eq!(garbage, 0);
    // All that the first point held was written over.
    scratch.change("db", 0, 1 << 20, 9);
    scratch.summary("backup --vm db --disk os=db");
    let (both, _) = sums();
    assert!(both > data);
    scratch.json("forget db@1").expect(0, "forget");
    let (left, garbage) = sums();
    assert!(garbage > 1 << 20 && left + (1 << 20) < both, "{garbage} of {both}, {left} left");
    let before = size(&scratch.path("v"));
    let freed = scratch.summary("sweep --max-repack 0");
    let freed = freed["bytes_freed"].as_u64().unwrap_or_else(|| panic!("{freed}"));
    // A sweep counts no bytes of records, such as that of the point.
    assert!((freed..freed + 4096).contains(&garbage), "{freed} {garbage}");
    assert!(size(&scratch.path("v")) < before);
    assert_eq!(sums().1, 0);
}

#[test]
fn the_bill_of_a_month_is_the_sum_of_its_lines() {
    let scratch = scene();
    let ran = scratch.run("bill --vault v --key-file key --book book.toml --format json").expect(0, "bill");
    let statement: Value = serde_json::from_str(&ran.stdout).unwrap();
    let cents = |text: &Value| -> i64 { text.as_str().unwrap().replace('.', "").parse().unwrap() };
    let lines = statement["lines"].as_array().unwrap();
    assert_eq!(lines.iter().map(|line| cents(&line["amount"])).sum::<i64>(), cents(&statement["total"]));
    assert!(
        lines.iter().any(|line| line["charge"] == json!({ "kind": "usage", "meter": "instance" })),
        "{statement}"
    );
    let only =
        scratch.run("bill --vault v --key-file key --book book.toml --format csv --vm db").expect(0, "bill");
    assert!(only.stdout.contains("db") && !only.stdout.contains("web"));
    let by = scratch.json("bill --book book.toml --by vm").expect(0, "bill");
    let groups = self::lines(&by.stdout);
    let names: Vec<_> =
        groups.iter().filter(|line| line["type"] == "group").map(|line| &line["name"]).collect();
    assert_eq!(names, ["db", "web"]);
    let sum: i64 =
        groups.iter().filter(|line| line["type"] == "group").map(|line| cents(&line["amount"])).sum();
    assert_eq!(sum, cents(&by.summary()["total"]));
    scratch.ok("bill --vault v --key-file key --book book.toml --chart chart.svg");
    assert!(scratch.read("chart.svg").starts_with(b"<svg"));
    let focus =
        scratch.run("bill --vault v --key-file key --book book.toml --format focus").expect(0, "focus");
    assert!(focus.stdout.starts_with("BilledCost,"), "{}", focus.stdout);
    let months = scratch.json("bill forecast --book book.toml --months 2").expect(0, "forecast");
    let months: Vec<_> =
        self::lines(&months.stdout).into_iter().filter(|line| line["type"] == "month").collect();
    assert_eq!(months.len(), 4, "two VMs, two months");
    assert!(months.iter().all(|month| month["amount"] == "5.00"), "half an instance each: {months:?}");
    assert!(
        months.iter().all(|month| month["difference"].is_null()),
        "nothing was asked to change: {months:?}"
    );
}

/// Which size bills is a setting: what blocks hold something, or what file systems say they use.
#[test]
fn the_size_that_file_systems_say_can_be_billed() {
    let scratch = scene();
    let image = scratch.path("files");
    fs::File::create(&image).unwrap().set_len(100 << 30).unwrap();
    let made = std::process::Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status();
    if made.is_err() && std::env::var_os("VMKEEP_REQUIRE_TOOLS").is_none() {
        return println!("left out: mkfs.ext4 is not here");
    }
    assert!(made.unwrap().success());
    scratch.json("protect files --policy daily").expect(0, "protect");
    scratch.summary("backup --vm files --disk os=files --scheduled");
    let points = scratch.json("points --vm files").expect(0, "points");
    let stored = points.of_type("point")[0]["disks"][0]["stored"].clone();
    let (blocks, said) = (stored["allocated"].as_u64().unwrap(), stored["filesystems"].as_u64().unwrap());
    // A band ends between the two: which one counts decides what it costs.
    assert!(blocks < 1 << 30 && said > 1 << 30 && said < 100 << 30, "{stored}");
    let book = PRICE_BOOK.replace("up_to_gb = 50,", "up_to_gb = 1,");
    scratch.write("edge.toml", book.as_bytes());
    scratch.write("known.toml", b"vm.files.measure = \"filesystems\"\n");
    let units = |words: &str| {
        let ran = scratch
            .run(&format!("bill --vault v --key-file key --book edge.toml --vm files --format json {words}"));
        let statement: Value = serde_json::from_str(&ran.expect(0, "bill").stdout).unwrap();
        let line = statement["lines"]
            .as_array()
            .unwrap()
            .iter()
            .find(|line| line["charge"]["meter"] == "instance")
            .cloned();
        line.unwrap()["measured"]["quantity"].clone()
    };
    let (by_blocks, by_files) = (units(""), units("--instances known.toml"));
    let micro = |text: &Value| text.as_str().unwrap().replace('.', "").parse::<i64>().unwrap();
    let (half, one) = (micro(&by_blocks), micro(&by_files));
    assert!(half > 0 && (one - 2 * half).abs() <= 1, "{by_blocks} of half an instance, {by_files} of one");
    // What was not measured has no size to bill by.
    scratch.write("wrong.toml", b"vm.web.measure = \"filesystems\"\n");
    let refused = scratch.json("bill --book book.toml --instances wrong.toml").expect(1, "no file system");
    assert!(refused.stderr.contains("no measured size"), "{}", refused.stderr);
}

/// What a change costs is told beside what it was; so is a VM that is about to count more.
#[test]
fn a_forecast_says_what_a_change_costs() {
    let scratch = scene();
    let told = |words: &str, kind: &str| -> Vec<Value> {
        let ran = scratch.json(&format!("bill forecast --book book.toml --vm web {words}")).expect(0, words);
        lines(&ran.stdout).into_iter().filter(|line| line["type"] == kind).collect()
    };
    let months = told("--months 1 --growth 20GiB --stored 1TiB --points 30", "month");
    let [month] = &months[..] else { panic!("{months:?}") };
    let cents = |text: &Value| -> i64 { text.as_str().unwrap().replace('.', "").parse().unwrap() };
    assert_eq!(month["unchanged"], "5.00");
    assert!(cents(&month["difference"]) > 0, "{month}");
    assert_eq!(cents(&month["amount"]), 500 + cents(&month["difference"]));
    assert!(told("", "near_next_band").is_empty(), "50 GiB are far");
    let near = told("--warn-within 50GiB", "near_next_band");
    let [near] = &near[..] else { panic!("{near:?}") };
    assert_eq!((&near["micro_units"], &near["next_micro_units"]), (&json!(500_000), &json!(1_000_000)));
    let more = (50_u64 << 30) - MIB + 1;
    assert_eq!(near["bytes_more"], json!(more));
    let text =
        scratch.ok("bill forecast --vault v --key-file key --book book.toml --warn-within 50GiB").stdout;
    assert!(text.contains("count as 1 in place of 0.5"), "{text}");
    // The book has no price for the archive.
    scratch.json("bill forecast --book book.toml --points 30 --archive-after 10").expect(1, "no price");
}

#[test]
fn a_month_that_was_closed_stays_what_it_was() {
    let scratch = scene();
    scratch.json("bill --book book.toml --close").expect(2, "this month is not over");
    let closed = scratch.summary("bill --book book.toml --month 2026-01 --close");
    assert_eq!((&closed["total"], closed["closed"].is_null()), (&json!("0.00"), false));
    let form = |words: &str| {
        scratch.run(&format!("bill --vault v --key-file key --month 2026-01 {words}")).expect(0, words).stdout
    };
    let words = [
        "--format table",
        "--format json",
        "--format csv",
        "--format focus",
        "--by vm",
        "--vm web --format csv",
    ];
    let before = words.map(|words| form(&format!("--book book.toml {words}")));
    // Other prices, and months that are asked for in other ways, change nothing any more.
    let dear = PRICE_BOOK.replace("price = \"10\"", "price = \"99\"");
    scratch.write("dear.toml", dear.as_bytes());
    let again = scratch.summary("bill --book dear.toml --month 2026-01 --close");
    assert_eq!(again["closed"], closed["closed"]);
    assert_eq!(words.map(|words| form(&format!("--book dear.toml {words}"))), before);
    let order = scratch.json("bill --book book.toml --month 2026-04 --close").expect(1, "February is next");
    assert!(order.stderr.contains("2026-01 is the last month that was closed"), "{}", order.stderr);
    scratch.summary("bill --book book.toml --month 2026-02 --close");
}

/// A backup takes no reading, and none is needed: a bill sees what is there, and a sweep notes it before it goes.
#[test]
fn what_is_swept_was_noted_before() {
    let scratch = scene();
    let notes = || scratch.json("log").expect(0, "log").stdout.matches("\"journal\":\"protection\"").count();
    let before = notes();
    scratch.summary("backup --vm web --disk os=web --scheduled");
    assert_eq!(notes(), before, "a backup notes nothing");
    let ran = scratch.run("bill --vault v --key-file key --book book.toml --format csv").expect(0, "bill");
    assert!(ran.stdout.contains("web") && ran.stdout.contains("db"), "{}", ran.stdout);
    assert_eq!(notes(), before, "nor does who looks");
    scratch.json("forget web@1").expect(0, "forget");
    scratch.json("sweep").expect(0, "sweep");
    let ran = scratch.run("bill --vault v --key-file key --book book.toml --format json").expect(0, "bill");
    let statement: Value = serde_json::from_str(&ran.stdout).unwrap();
    let web: Vec<&Value> =
        statement["lines"].as_array().unwrap().iter().filter(|line| line["vm"] == "web").collect();
    assert_eq!(web.len(), 2, "{statement}");
    // From the events of both points on, though the first is gone.
    assert_eq!(web[0]["events"][0], 0, "{statement}");
}

#[test]
fn what_cannot_be_billed_is_told() {
    let scratch = scene();
    scratch.write("gap.toml", &PRICE_BOOK.as_bytes()[..PRICE_BOOK.len() / 2]);
    let told = |words: &str, code| scratch.json(words).expect(code, words).stderr;
    assert!(told("bill", 2).contains("--book"));
    assert!(told("bill --book none.toml", 1).contains("none.toml"));
    assert!(told("bill --book gap.toml", 1).contains("gap.toml"));
    assert!(told("bill --book book.toml --vm nobody", 2).contains("vmkeep protect"));
    assert!(told("bill --book book.toml --month 2026-13", 2).contains("2026-13"));
    scratch.write("instances.toml", b"[vm.web]\nregon = \"x\"");
    assert!(told("bill --book book.toml --instances instances.toml", 1).contains("regon"));
    scratch.write("instances.toml", b"[vm.web]\ncost_center = \"4711\"");
    let by = told("bill --book book.toml --instances instances.toml --by cost-center", 0);
    assert!(by.is_empty(), "{by}");
}
