//! A power cut loses what was not synced, so the order of syncs is the order of promises: no record is linked before
//! all that it relies on is durable, and none that remembers a delete is removed before the delete is.
//!
//! The command runs under `strace`; its calls on the vault's folder are held against these rules:
//! - a file is synced before it gets its name;
//! - an object is durable when, after that, its folder is synced, and when every folder above it was synced into its
//!   parent, since it was made or, when another process made it, at all;
//! - when a record is linked that others are found by (a point, a name, the vault itself ..), or one is removed that
//!   remembers work to do (an open session, a plan ..), everything linked and deleted before is durable;
//! - in the end everything is.
//!
//! Calls of several threads overlap: of two that do, neither counts as done before the other.

#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::Scratch;

const CALLS: &str = "openat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,fsync,fdatasync,mkdir,mkdirat,\
                     close,dup";
const MIB: u64 = 1 << 20;

/// What is run, in this order, each under the rules.
const COMMANDS: [&str; 9] = [
    "backup --vm web --disk os=os --disk data=data",
    "backup --vm web --disk os=os --disk data=data",
    "backup --vm db --disk os=data",
    "forget web@1",
    "undelete web@1",
    "forget web@1",
    "sweep",
    "close db --yes",
    "restore web@2 --to out",
];

/// Records by which others are found: what was there before is relied on from then on.
const RELYING: [&str; 5] = ["points/", "names/", "retired/", "moved/", "vault"];
/// Records that remember work: once removed, nobody repeats it.
const REMEMBERING: [&str; 2] = ["sessions/", "sweep/"];

/// What a call did to the vault's folder; paths are below it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Write(String),
    Sync(String),
    MakeFolder(String),
    Link { from: String, to: String },
    Unlink(String),
}

/// A call that succeeded, with the lines of the log on which it began and ended.
#[derive(Clone, Debug)]
struct Event {
    begin: usize,
    end: usize,
    act: Act,
}

/// The calls of a log that change or sync something under `root`.
fn parse(log: &str, root: &str) -> Vec<Event> {
    let (mut events, mut unfinished) = (Vec::new(), HashMap::new());
    for (end, line) in log.lines().enumerate() {
        let Some((pid, text)) = line.split_once(' ') else { continue };
        let text = text.trim_start();
        if let Some(head) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, (end, head));
            continue;
        }
        let (begin, whole) = match text.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, tail)) => {
                let (begin, head) = unfinished.remove(pid).unwrap_or_else(|| panic!("never begun: {line}"));
                (begin, format!("{head}{tail}"))
            }
            None => (end, text.to_owned()),
        };
        events.extend(act(&whole, root).map(|act| Event { begin, end, act }));
    }
    events
}

/// What one whole line says, without the process; `None` when it failed or is about something else.
fn act(line: &str, root: &str) -> Option<Act> {
    let (name, rest) = line.split_once('(')?;
    let (arguments, answer) = rest.rsplit_once(") ")?;
    if answer.trim_start_matches([' ', '=']).starts_with("-1") {
        return None;
    }
    let below = |path: &str| match path.strip_prefix(root)? {
        "" => Some(String::new()),
        path => path.strip_prefix('/').map(str::to_owned),
    };
    // Paths are the quoted arguments; they are absolute, and have no quotes in them.
    let quoted: Vec<&str> = arguments.split('"').skip(1).step_by(2).collect();
    match (name, quoted.as_slice()) {
        ("openat", [path]) if arguments.contains("O_WRONLY") || arguments.contains("O_RDWR") => {
            below(path).map(Act::Write)
        }
        ("fsync" | "fdatasync", []) => {
            let path = arguments.split_once('<')?.1.strip_suffix('>')?;
            below(path).map(Act::Sync)
        }
        ("mkdir" | "mkdirat", [path]) => below(path).map(Act::MakeFolder),
        ("rename" | "renameat" | "renameat2" | "link" | "linkat", [from, to]) => {
            Some(Act::Link { from: below(from)?, to: below(to)? })
        }
        ("unlink" | "unlinkat", [path]) => below(path).map(Act::Unlink),
        _ => None,
    }
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn is_stage(path: &str) -> bool {
    path.contains("/stage-")
}

fn begins(path: &str, with: &[&str]) -> bool {
    with.iter().any(|start| path.starts_with(start))
}

/// Every rule that a log breaks.
fn violations(log: &str, root: &str) -> Vec<String> {
    let events = parse(log, root);
    let mut found = Vec::new();
    for (n, event) in events.iter().enumerate() {
        let (path, relies) = match &event.act {
            Act::Link { from, to } => {
                if !synced_since_written(&events, from, event) {
                    found.push(format!("{to} gets its name before it is synced"));
                }
                (to, begins(to, &RELYING))
            }
            Act::Unlink(path) => (path, begins(path, &REMEMBERING) && !is_stage(path)),
            _ => continue,
        };
        if relies {
            let before = events.iter().filter(|before| before.end < event.begin);
            found.extend(before.filter_map(|before| lost(&events, before, event.begin)).map(|lost| {
                let verb = if matches!(event.act, Act::Link { .. }) { "is linked" } else { "is removed" };
                format!("{path} {verb}, and a power cut loses {lost}")
            }));
        }
        // Nothing that follows may be counted on to make it durable but what is in the log.
        found.extend(lost(&events, &events[n], usize::MAX).map(|lost| format!("in the end, {lost} is lost")));
    }
    found
}

/// Whether the file was synced, after it was opened for writing and before it is linked.
fn synced_since_written(events: &[Event], file: &str, link: &Event) -> bool {
    let before = || events.iter().filter(|event| event.begin < link.begin);
    let written =
        before().filter(|event| event.act == Act::Write(file.to_owned())).map(|event| event.end).max();
    let synced = |event: &Event| event.act == Act::Sync(file.to_owned()) && event.end < link.begin;
    written.is_some_and(|written| before().any(|event| synced(event) && event.begin > written))
}

/// What a power cut at the line `at` takes back of what `event` did, if it does.
fn lost(events: &[Event], event: &Event, at: usize) -> Option<String> {
    let synced = |path: &str, since: usize| {
        let sync = Act::Sync(path.to_owned());
        events.iter().any(|event| event.act == sync && event.begin > since && event.end < at)
    };
    let (path, what) = match &event.act {
        Act::Link { to, .. } => (to, format!("the link of {to}")),
        Act::Unlink(path) if !is_stage(path) => (path, format!("the delete of {path}")),
        _ => return None,
    };
    if !synced(folder(path), event.end) {
        return Some(what);
    }
    if matches!(event.act, Act::Unlink(_)) {
        return None;
    }
    let mut above = folder(path);
    while !above.is_empty() {
        let made = |made: &&Event| made.act == Act::MakeFolder(above.to_owned()) && made.end < event.begin;
        // One that was there before may be another process's, which has not synced it yet.
        let since = events.iter().rfind(made).map_or(0, |made| made.end);
        if !synced(folder(above), since) {
            return Some(format!("the folder {above} and {what}"));
        }
        above = folder(above);
    }
    None
}

/// Runs a command on the vault under strace; the log.
fn traced(scratch: &Scratch, words: &str) -> String {
    let log = scratch.path("log");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", &format!("trace={CALLS}"), "-o"]).arg(&log);
    command.arg(env!("CARGO_BIN_EXE_vmkeep")).args(words.split_whitespace());
    command.args(["--vault", "v", "--key-file", "key"]).current_dir(scratch.path(""));
    command.env("XDG_CACHE_HOME", scratch.path("xdg-cache"));
    let out = command.output().expect("strace (Debian package strace) is needed");
    assert!(out.status.success(), "{words}: {}", String::from_utf8_lossy(&out.stderr));
    fs::read_to_string(log).unwrap()
}

/// A vault, two disks, and the vault's folder as the log has it.
fn scene() -> (Scratch, String) {
    let scratch = Scratch::with_vault();
    scratch.disk("os", 8 * MIB, &[(0, 3_000_000, 1), (5 * MIB, 100_000, 2)]);
    scratch.disk("data", 4 * MIB, &[(MIB, 1_000_000, 3)]);
    let root = fs::canonicalize(scratch.path("v")).unwrap().to_str().unwrap().to_owned();
    (scratch, root)
}

#[test]
fn nothing_is_relied_on_before_it_is_durable() {
    let (scratch, root) = scene();
    for (n, words) in (0..).zip(COMMANDS) {
        let log = traced(&scratch, words);
        let found = violations(&log, &root);
        assert!(found.is_empty(), "{words}:\n{}", found.join("\n"));
        // What was looked for is there: otherwise the rules hold for nothing.
        let events = parse(&log, &root);
        let linked = |start: &str| {
            let is = |event: &&Event| matches!(&event.act, Act::Link { to, .. } if to.starts_with(start));
            events.iter().filter(is).count()
        };
        if words.starts_with("backup") {
            assert!(linked("packs/") >= 2 && linked("points/") == 1 && linked("sessions/") == 1, "{words}");
        }
        scratch.change("os", n * MIB, 200_000, 10 + n);
    }
    assert!(!Path::new(&root).join("sessions").exists(), "all sessions have ended");
}

/// The log without the lines of which `drop` holds.
fn without(log: &str, drop: impl Fn(&str) -> bool) -> String {
    log.lines().filter(|line| !drop(line)).collect::<Vec<_>>().join("\n")
}

/// The same calls, one after the other: no line is unfinished.
fn in_sequence(log: &str) -> String {
    let (mut lines, mut unfinished) = (Vec::new(), HashMap::new());
    for line in log.lines() {
        let (pid, text) = line.split_once(' ').unwrap();
        if let Some(head) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, head);
        } else if let Some((_, tail)) = text.split_once(" resumed>") {
            lines.push(format!("{pid} {}{tail}\n", unfinished.remove(pid).unwrap()));
        } else {
            lines.push(format!("{line}\n"));
        }
    }
    lines.concat()
}

#[test]
fn the_rules_see_what_is_missing_or_comes_too_late() {
    let (scratch, root) = scene();
    let log = in_sequence(&traced(&scratch, COMMANDS[0]));
    assert_eq!(violations(&log, &root), [""; 0]);
    let broken = |log: &str, expected: &str| {
        let found = violations(log, &root);
        assert!(found.iter().any(|found| found.contains(expected)), "{expected} is not in {found:?}");
    };
    let is_sync = |line: &str| line.contains("fsync(");
    broken(&without(&log, is_sync), "gets its name before it is synced");
    broken(&without(&log, |line| is_sync(line) && line.contains("/stage-")), "before it is synced");
    broken(
        &without(&log, |line| is_sync(line) && !line.contains("/stage-")),
        "in the end, the link of points/",
    );
    let of_packs = |line: &str| is_sync(line) && line.contains("/v/packs/");
    broken(&without(&log, of_packs), "is linked, and a power cut loses the link of packs/");
    let of = |folder: &'static str| move |line: &str| is_sync(line) && line.contains(&format!("{folder}>)"));
    broken(&without(&log, of("/v/packs")), "loses the folder packs/");
    broken(&without(&log, of("/v")), "loses the folder packs and the link of packs/");
    broken(&without(&log, of("/v/names")), "is linked, and a power cut loses the link of names/");

    // The point's link moved up to just after that of the last pack.
    let mut lines: Vec<&str> = log.lines().collect();
    let last_link = |folder: &str| {
        let is_one = |line: &&str| line.contains("rename") && line.contains(&format!(", \"{root}/{folder}/"));
        lines.iter().rposition(is_one).unwrap()
    };
    let (point, pack) = (last_link("points"), last_link("packs"));
    let mut early = lines.clone();
    let moved = early.remove(point);
    early.insert(pack + 1, moved);
    let expected = "is linked, and a power cut loses the link of packs/";
    broken(&early.join("\n"), expected);

    // The syncs of the packs' folder after that begin before the point's link, and end behind it.
    let sync =
        lines[pack..point].iter().find(|line| of_packs(line)).unwrap().replacen(')', " <unfinished ...>", 1);
    let begun = format!("7 {}", sync.split_once(' ').unwrap().1.split_once(" = ").unwrap().0.trim_end());
    let overlapping = [&begun, lines[point], "7 <... fsync resumed>) = 0"];
    lines.splice(point..=point, overlapping);
    let kept = |(n, line): &(usize, &str)| !(pack..point).contains(n) || !of_packs(line);
    let late: Vec<&str> = lines.iter().copied().enumerate().filter(kept).map(|(_, line)| line).collect();
    broken(&late.join("\n"), expected);
}

#[test]
fn a_delete_is_durable_before_its_record_is_removed() {
    let sync = |folder: &str| format!("1 fsync(4</v/{folder}>) = 0\n");
    let unlink = |path: &str| format!("1 unlink(\"/v/{path}\") = 0\n");
    let (pack, plan) = ("packs/a/b/c", "sweep/a/plan/d/0");
    let good = [unlink(pack), sync("packs/a/b"), unlink(plan), sync("sweep/a/plan/d")].concat();
    assert_eq!(violations(&good, "/v"), [""; 0]);
    let late = [unlink(pack), unlink(plan), sync("packs/a/b"), sync("sweep/a/plan/d")].concat();
    assert_eq!(
        violations(&late, "/v"),
        ["sweep/a/plan/d/0 is removed, and a power cut loses the delete of packs/a/b/c"]
    );
    let never = [unlink(pack), unlink(plan)].concat();
    assert_eq!(violations(&never, "/v").len(), 3);
    // A delete that failed deleted nothing.
    let failed = format!("1 unlink(\"/v/{pack}\") = -1 ENOENT (No such file or directory)\n");
    assert_eq!(violations(&[failed, unlink(plan), sync("sweep/a/plan/d")].concat(), "/v"), [""; 0]);
}
