//! The command line itself: help, completions, what is refused, and where the text goes.

#![allow(clippy::unwrap_used)]

mod harness;

use std::process::Stdio;

use harness::{Ran, Scratch};

const COMMANDS: [&str; 34] = [
    "init",
    "backup",
    "points",
    "diff",
    "verify",
    "repair",
    "restore",
    "forget",
    "undelete",
    "hold",
    "release",
    "sweep",
    "pins",
    "unpin",
    "sessions",
    "void",
    "close",
    "keys",
    "inspect",
    "policy",
    "protect",
    "plan",
    "prune",
    "schedule",
    "status",
    "run",
    "stop",
    "resume",
    "undelete-vm",
    "purge",
    "guard",
    "usage",
    "bill",
    "completions",
];

const KEYS: [&str; 11] = [
    "keys list",
    "keys rotate-kek",
    "keys rotate-bek",
    "keys destroy",
    "policy import",
    "policy show",
    "policy check",
    "policy diff",
    "guard show",
    "guard immutability",
    "guard soft-delete",
];

#[test]
fn help_names_every_command_every_exit_code_and_where_the_key_comes_from() {
    let help = Scratch::empty().ok("--help").stdout;
    let exit_codes = [
        "  0    done",
        "  1    failed",
        "  2    the command line",
        "  3    the vault holds damaged",
        "  4    vmkeep status",
        "  5    vmkeep status",
    ];
    for word in COMMANDS.iter().chain(&exit_codes).chain(&["VMKEEP_PASSPHRASE", "vm@latest"]) {
        assert!(help.contains(word), "{word}\n{help}");
    }
}

#[test]
fn every_option_of_every_command_is_explained() {
    let scratch = Scratch::empty();
    for command in COMMANDS.iter().chain(&KEYS) {
        let help = scratch.ok(&format!("{command} -h")).stdout;
        assert!(help.lines().all(|line| line.len() <= 120), "{command}: {help}");
        for line in help.lines().filter(|line| line.trim_start().starts_with("--")) {
            assert!(line.trim().split("  ").count() > 1, "{command}: {line}");
        }
    }
    let version = scratch.ok("--version").stdout;
    assert_eq!(version, format!("vmkeep {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_readme_shows_commands_and_options_that_exist() {
    let scratch = Scratch::empty();
    let readme = include_str!("../../../README.md").replace("\\\n", " ");
    let shown = readme.lines().filter(|line| line.contains(" --vault "));
    let shown: Vec<&str> = shown.filter_map(|line| line.strip_prefix("vmkeep ")).collect();
    for line in &shown {
        let (command, rest) = line.split_once(" --vault ").unwrap();
        let help = scratch.ok(&format!("{command} -h")).stdout;
        let words = rest.split('#').next().unwrap().split([' ', '[', ']', '|']);
        for option in words.filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")), "{line}");
        }
    }
    for command in COMMANDS.iter().chain(&KEYS).filter(|command| **command != "completions") {
        assert!(readme.contains(command), "{command} is not in the README");
    }
    assert!(shown.len() >= 14, "{shown:?}");
}

#[test]
fn completions_are_made_for_every_shell() {
    let scratch = Scratch::empty();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = scratch.ok(&format!("completions {shell}")).stdout;
        assert!(script.contains("passphrase-file") && script.contains("restore"), "{shell}");
    }
}

#[test]
fn what_is_no_command_line_is_refused() {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 1 << 20, &[(0, 1000, 1)]);
    for words in [
        "",
        "frobnicate",
        "points",
        "points --vault",
        "points --vault v --key-file key --vm a@b",
        "points --vault v --key-file key extra",
        "completions tcsh",
        "backup --vault v --key-file key --vm a",
        "backup --vault v --key-file key --disk d=disk",
        "backup --vault v --key-file key --vm a --disk d=disk --agent qga.sock",
        "backup --vault v --key-file key --vm a --disk d=disk --consistency app",
        "backup --vault v --key-file key --vm a --qemu qmp.sock --scripts /etc/s.json",
        "backup --vault v --key-file key --vm a --qemu qmp.sock --bitmap b",
        "backup --vault v --key-file key --vm a --qemu qmp.sock --freeze-limit 1h",
        "inspect --vault v --key-file key --vm a",
        "backup --vault v --key-file key --vm a/b --disk d=disk",
        "backup --vault v --key-file key --vm a --disk d",
        "backup --vault v --key-file key --vm a --disk ../d=disk",
        "backup --vault v --key-file key --vm a --disk d=disk,role=boot",
        "backup --vault v --key-file key --vm a --disk d=disk,lun=x",
        "backup --vault v --key-file key --vm a --disk d=disk,format=vmdk",
        "backup --vault v --key-file key --vm a --disk d=disk,size=1G",
        "backup --vault v --key-file key --vm a --disk d=disk --disk D=disk",
        "backup --vault v --key-file key --vm a --disk d=disk,lun=1 --disk e=disk,lun=1",
        "backup --vault v --key-file key --vm a --disk d=disk,role=os --disk e=disk,role=os",
        "backup --vault v --key-file key --vm a --disk d=disk --level ultra",
        "backup --vault v --key-file key --vm a --disk d=disk --block-size 100K",
        "backup --vault v --key-file key --vm a --disk d=disk --block-size 8M",
        "backup --vault v --key-file key --vm a --disk d=disk --memory 31",
        "backup --vault v --key-file key --vm a --disk d=disk --workers 0",
        "diff --vault v --key-file key a@1",
        "diff --vault v --key-file key a@1 b@1",
        "verify --vault v --key-file key a",
        "verify --vault v --key-file key a@0",
        "restore --vault v --key-file key a@1",
        "restore --vault v --key-file key --to out",
        "restore --vault v --key-file key a@1 --to out --format vhd",
        "restore --vault v --key-file key a@-1 --to out",
        "backup --vault v --key-file key --vm a --disk d=disk --resume yesterday",
        "forget --vault v --key-file key a@",
        "undelete --vault v --key-file key a",
        "hold --vault v --key-file key",
        "release --vault v --key-file key a@x",
        "sweep --vault v --key-file key a@1",
        "sweep --vault v --key-file key --max-repack 1.5G",
        "sweep --vault v --key-file key --max-repack -1",
        "sweep --vault v --key-file key --abandoned-after 24",
        "sweep --vault v --key-file key --abandoned-after soon",
        "pins --vault v --key-file key",
        "pins --vault v --key-file key a@1",
        "unpin --vault v --key-file key a@1",
        "unpin --vault v --key-file key a@1 pin --yes",
        "sessions --vault v --key-file key a/b",
        "void --vault v --key-file key 0123 --yes",
        "void --vault v --key-file key 00000000000000000000000000000000",
        "close --vault v --key-file key --yes",
        "keys --vault v --key-file key",
        "keys list --vault v --key-file key a",
        "keys rotate-kek --vault v --key-file key",
        "keys rotate-bek --vault v --key-file key",
        "keys rotate-bek --vault v --key-file key a --budget 1M",
        "policy import --vault v --key-file key daily.toml",
        "policy show --vault v --key-file key --format toml",
        "policy check",
        "policy diff --vault v --key-file key daily",
        "protect --vault v --key-file key web",
        "protect --vault v --key-file key web --trust x",
        "plan --vault v --key-file key web --explain web@1",
        "prune --vault v --key-file key a/b",
        "schedule --vault v --key-file key --days 367",
        "status --vault v --key-file key a/b",
        "status --vault v --key-file key --max-age 3",
        "status --vault v --key-file key --grace 1w",
        "run --vault v --key-file key --once",
        "stop --vault v --key-file key web",
        "stop --vault v --key-file key web --retain --by-policy",
        "guard immutability --vault v --key-file key eternal",
        "guard soft-delete --vault v --key-file key",
        "guard soft-delete --vault v --key-file key --days 30 --off",
        "backup --vault v --key-file key --vm a --disk d=disk --keep 30",
        "keys destroy --vault v --key-file key --yes",
        "keys destroy --vault v --key-file key a --epoch x",
    ] {
        let ran = scratch.run(words).expect(2, words);
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{words}: {}", ran.stdout);
        if !words.is_empty() {
            let ran = scratch.run(&format!("{words} --json")).expect(2, words);
            assert_eq!(ran.lines().len(), 1, "{words}: {}", ran.stdout);
            assert!(!ran.error()["message"].as_str().unwrap().is_empty(), "{words}");
        }
    }
    assert_eq!(scratch.summary("points")["points"], 0);
}

#[test]
fn failures_say_what_and_why_and_leave_the_vault_as_it_was() {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 1 << 20, &[(0, 1000, 1)]);
    scratch.write("long", &vec![1; (1 << 20) + 1]);
    for (words, told) in [
        ("backup --vm a --disk d=nothing", "cannot open disk d"),
        ("backup --vm a --disk d=v", "cannot open disk d"),
        ("backup --vm a --disk d=disk,format=qcow2", "cannot open disk d"),
        ("backup --vm a --disk d=disk --config long", "longer than a VM configuration"),
        ("backup --vm a --disk d=disk --config none", "cannot read configuration"),
        ("points --vm a", "no VM a"),
        ("verify a@latest", "no VM a"),
        ("restore a@1 --to out", "no VM a"),
        ("diff a@1 a@2", "no VM a"),
        ("undelete a@1", "no VM a"),
        ("hold a@latest", "no VM a"),
        ("pins a", "no VM a"),
        ("sessions a", "no VM a"),
        ("close a --yes", "no VM a"),
        ("keys list --vm a", "no VM a"),
        ("keys rotate-bek a", "no VM a"),
        ("keys destroy a --yes", "no VM a"),
        ("void 00000000000000000000000000000000 --yes", "no open session 00000000000000000000000000000000"),
    ] {
        let ran = scratch.json(words).expect(1, words);
        let error = ran.error();
        assert!(error["message"].as_str().unwrap().contains(told), "{words}: {error}");
        for cause in error["causes"].as_array().unwrap() {
            assert!(
                ran.stderr.contains(&format!("  because: {}\n", cause.as_str().unwrap())),
                "{}",
                ran.stderr
            );
        }
    }
    for words in ["points --vault none --key-file key", "verify --vault disk --key-file key"] {
        let ran = scratch.run(words).expect(1, words);
        assert!(ran.stderr.contains("there is no vault in"), "{}", ran.stderr);
    }
    assert_eq!(scratch.summary("verify")["clean"], true);
}

#[test]
fn a_size_a_time_and_an_id_that_do_not_parse_are_told_with_what_would() {
    let scratch = Scratch::with_vault();
    for (words, told) in [
        ("sweep --max-repack 1X", "write bytes, or a number with K, M, G or T"),
        ("sweep --abandoned-after 1w", "write a number with s, m, h or d, such as 90m or 3d"),
        ("void 12", "an id is 32 lower-case hexadecimal digits"),
        (
            "backup --vm a --disk d=k --resume 12",
            "32 lower-case hexadecimal digits, or auto, newest or never",
        ),
    ] {
        let error = scratch.json(words).expect(2, words).error();
        assert!(error["message"].as_str().unwrap().contains(told), "{words}: {error}");
    }
}

#[test]
fn without_json_a_result_is_text_on_stdout_and_nothing_is_drawn_into_a_pipe() {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 1 << 20, &[(0, 1000, 1)]);
    let ran = scratch.ok("backup --vault v --key-file key --vm web --disk os=disk");
    assert!(ran.stdout.contains("web@1: ") && ran.stderr.is_empty(), "{}\n{}", ran.stdout, ran.stderr);
}

#[test]
fn a_reader_that_went_away_does_not_stop_a_backup() {
    let scratch = Scratch::with_vault();
    scratch.disk("disk", 8 << 20, &[(0, 8 << 20, 1)]);
    for words in ["backup --vm web --disk os=disk", "points", "completions bash", "--help"] {
        let mut command = scratch.command(&format!("{words} --json"));
        if !words.starts_with(['-', 'c']) {
            command.args(["--vault", "v", "--key-file", "key"]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        Ran::from(child.wait_with_output().unwrap()).expect(0, words);
    }
    assert_eq!(scratch.summary("points")["points"], 1);
}

#[test]
fn an_output_that_cannot_be_written_is_a_failure() {
    let scratch = Scratch::with_vault();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = scratch.command("points --vault v --key-file key --json").stdout(full).output().unwrap();
    let ran = Ran::from(out).expect(1, "full");
    assert!(ran.stderr.contains("error: cannot write the output"), "{}", ran.stderr);
}

#[test]
fn a_backing_file_is_followed_only_when_it_is_allowed() {
    let scratch = Scratch::with_vault();
    scratch.disk("base", 1 << 20, &[(0, 1000, 1)]);
    scratch.write("top", &qcow2_over("base", 1 << 20));
    let error = scratch.json("backup --vm a --disk d=top").expect(1, "not allowed").error();
    assert!(error["hint"].as_str().unwrap().contains("--allow-backing"), "{error}");
    scratch.summary("backup --vm a --disk d=top --allow-backing other --allow-backing base");
    scratch.summary("restore a@1 --to out");
    assert!(scratch.same("out/d.raw", "base"));
}

/// An empty qcow2 image (version 2) over a raw backing file.
fn qcow2_over(backing: &str, size: u64) -> Vec<u8> {
    const CLUSTER: usize = 65_536;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2_u32.to_be_bytes());
    put(8, &104_u64.to_be_bytes()); // where the backing file's name is
    put(16, &u32::try_from(backing.len()).unwrap().to_be_bytes());
    put(20, &16_u32.to_be_bytes()); // cluster bits
    put(24, &size.to_be_bytes());
    put(36, &1_u32.to_be_bytes()); // entries of the L1 table
    put(40, &(3 * CLUSTER as u64).to_be_bytes()); // L1 table
    put(48, &(CLUSTER as u64).to_be_bytes()); // refcount table
    put(56, &1_u32.to_be_bytes());
    // Between the header and the name: the extension that gives the backing format, and the end.
    put(72, &0xe279_2aca_u32.to_be_bytes());
    put(76, &3_u32.to_be_bytes());
    put(80, b"raw\0\0\0\0\0");
    put(104, backing.as_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        put(2 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    image
}
