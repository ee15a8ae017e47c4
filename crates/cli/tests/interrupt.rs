//! Ctrl-C ends a walk soon, leaves only garbage, and the next run succeeds.

#![allow(clippy::unwrap_used)]

mod harness;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use harness::{Ran, Scratch, noise};

const MIB: u64 = 1 << 20;
/// So much that it is still being worked on when the signal comes.
const DATA_MIB: u64 = 192;

/// A walk ends within a second; a machine that is busy with other things is given more.
const END_MAX: Duration = Duration::from_mins(1);

/// A sparse file of 64 GiB with data spread over it, every MiB of it different and half compressible.
fn big_disk(scratch: &Scratch) {
    let file = File::create(scratch.path("big")).unwrap();
    file.set_len(64 << 30).unwrap();
    let mut piece: Vec<u8> = noise(1 << 20, 1).iter().map(|byte| byte & 0x0f).collect();
    for nth in 0..DATA_MIB {
        for block in piece.chunks_mut(65_536) {
            block[..8].copy_from_slice(&nth.to_le_bytes());
        }
        file.write_all_at(&piece, nth * 300 * MIB).unwrap();
    }
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Runs `words`, sends SIGINT when a line of type `at` was read, and waits for the end.
fn interrupted(scratch: &Scratch, words: &str, at: &str) -> Ran {
    let mut command = scratch.command(&format!("{words} --vault v --key-file key --json"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut read = String::new();
    while !read.contains(&format!("\"type\":\"{at}\"")) {
        assert_ne!(stdout.read_line(&mut read).unwrap(), 0, "no {at} in {read}");
    }
    kill("-INT", child.id());
    let (ended, end) = mpsc::channel::<()>();
    let (mut ran, read) = thread::scope(|scope| {
        // A walk that does not hear the signal is killed, and the exit code tells.
        let pid = child.id();
        scope.spawn(move || {
            if end.recv_timeout(END_MAX) == Err(RecvTimeoutError::Timeout) {
                kill("-KILL", pid);
            }
        });
        stdout.read_to_string(&mut read).unwrap();
        let ran = Ran::from(child.wait_with_output().unwrap());
        drop(ended);
        (ran, read)
    });
    ran.stdout = read;
    ran
}

#[test]
fn an_interrupted_backup_leaves_earlier_points_and_only_garbage() {
    let scratch = Scratch::with_vault();
    scratch.disk("small", 4 * MIB, &[(0, 100_000, 1)]);
    scratch.summary("backup --vm web --disk os=small");
    big_disk(&scratch);

    let ran = interrupted(&scratch, "backup --vm web --disk os=big --workers 1 --level best", "progress")
        .expect(1, "backup");
    assert_eq!(ran.error()["message"], "cancelled");
    assert!(ran.stderr.contains("error: cancelled"), "{}", ran.stderr);
    let verified = scratch.summary("verify");
    assert_eq!((verified["clean"].as_bool(), verified["points"].as_u64()), (Some(true), Some(1)));
    assert_eq!(verified["accounting"]["unexplained"]["objects"], 0);

    // The next backup is whole, and a restore and a verification of it can be interrupted as well.
    let summary = scratch.summary("backup --vm web --disk os=big --level fast");
    assert_eq!(summary["point"], "web@2");
    let ran = interrupted(&scratch, "restore web@2 --to out", "disk_began").expect(1, "restore");
    assert_eq!(ran.error()["message"], "cancelled");
    assert!(scratch.names("out").is_empty());
    let ran = interrupted(&scratch, "verify web@2", "disk_began").expect(1, "verify");
    assert_eq!(ran.error()["message"], "cancelled");

    scratch.summary("restore web@1 --to out");
    assert!(scratch.same("out/os.raw", "small"));
    assert_eq!(scratch.summary("verify")["clean"], true);
}
