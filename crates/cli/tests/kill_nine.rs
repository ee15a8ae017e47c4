//! A command that is killed, with no chance to tidy up, at any moment: what was there is there, and nothing is left that
//! nobody can explain.
//!
//! The real program works on a real folder. A hundred times a cycle (a backup of a changed disk, `forget` of an older
//! point, `sweep`) is begun, and one of its commands killed at a moment drawn over the length that an undisturbed one
//! takes. Early kills hit a program that has not called the store yet, late ones one that has done its work; the test
//! asserts that enough of them fell between.
#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Scratch, noise};

const KILLS: usize = 100;
const SIGKILL: i32 = 9;
const DISK: usize = 3 << 20;
/// Points that are kept.
const KEPT: usize = 3;

const BACKUP: &str = "backup --vm web --disk os=disk --level fast --workers 1";
const SWEEP: &str = "sweep --abandoned-after 0s";

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Every file under a folder, with its size and when it was written.
fn files(folder: &Path) -> BTreeMap<String, (u64, std::time::SystemTime)> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().to_str().unwrap().to_owned();
                found.insert(name, (meta.len(), meta.modified().unwrap()));
            }
        }
    }
    found
}

/// The vault and what its points have to be.
struct World {
    scratch: Scratch,
    dice: Dice,
    disk: Vec<u8>,
    /// The content of the points that count, by number.
    points: BTreeMap<u64, Vec<u8>>,
    /// Points whose `forget` may or may not have happened, and those for which it has.
    doubtful: BTreeSet<u64>,
    forgotten: BTreeSet<u64>,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::with_vault();
        let disk = noise(DISK, 1);
        scratch.write("disk", &disk);
        let (points, dice) = (BTreeMap::new(), Dice(1));
        Self { scratch, dice, disk, points, doubtful: BTreeSet::new(), forgotten: BTreeSet::new() }
    }

    /// Writes a part of the disk anew, and some of it to zeros.
    fn change(&mut self) {
        for _ in 0..3 {
            let at = usize::try_from(self.dice.below(DISK as u64 - 300_000)).unwrap();
            let seed = self.dice.below(u64::MAX >> 33) + 2;
            self.disk[at..at + 200_000].copy_from_slice(&noise(200_000, seed));
            self.disk[at + 200_000..at + 300_000].fill(0);
        }
        self.scratch.write("disk", &self.disk);
    }

    /// The number of every point that the vault tells of, and whether it is forgotten.
    fn listed(&self) -> BTreeMap<u64, bool> {
        let points = self.scratch.json("points --vm web").expect(0, "points").of_type("point");
        points.iter().map(|point| (point["number"].as_u64().unwrap(), point["forgotten"] == true)).collect()
    }

    /// Takes note of what the vault says after a command that may or may not have done what it was for.
    fn look(&mut self) {
        let listed = self.listed();
        let newest = self.points.keys().next_back().copied().unwrap_or(0);
        for (&number, &forgotten) in &listed {
            if number > newest {
                self.points.insert(number, self.disk.clone());
            }
            if forgotten {
                assert!(self.doubtful.contains(&number) || self.forgotten.contains(&number), "{number}");
                self.forgotten.insert(number);
            } else {
                assert!(!self.forgotten.contains(&number), "{number} is not forgotten any more");
            }
        }
        // Nothing but what was forgotten is ever gone.
        for number in self.points.keys() {
            assert!(listed.contains_key(number) || self.forgotten.contains(number), "{number} is gone");
        }
        self.points.retain(|number, _| listed.contains_key(number));
    }

    /// The oldest point that is not forgotten, when there are enough newer ones.
    fn next_to_forget(&mut self) -> Option<u64> {
        let kept: Vec<u64> =
            self.points.keys().copied().filter(|number| !self.forgotten.contains(number)).collect();
        let oldest = kept.first().copied().filter(|_| kept.len() > KEPT)?;
        self.doubtful.insert(oldest);
        Some(oldest)
    }

    fn words(&mut self, step: usize) -> Option<String> {
        match step {
            0 => Some(BACKUP.to_owned()),
            1 => self.next_to_forget().map(|number| format!("forget web@{number}")),
            _ => Some(SWEEP.to_owned()),
        }
    }

    /// Runs a command to its end.
    fn whole(&mut self, step: usize) -> Duration {
        let Some(words) = self.words(step) else { return Duration::ZERO };
        let began = Instant::now();
        self.scratch.summary(&words);
        let took = began.elapsed();
        self.look();
        took
    }

    /// Runs a command and kills it after `after`. True when the folder was another by then and the command had not ended:
    /// its first change was made, and its last one was to come or had been made within the last moments.
    fn killed(&mut self, step: usize, after: Duration) -> bool {
        let Some(words) = self.words(step) else { return false };
        let before = files(&self.scratch.path("v"));
        let mut command = self.scratch.command(&format!("{words} --vault v --key-file key --json"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The moment of the kill: a length of time is what is meant, and nothing relies on how far the command is by then.
        #[allow(clippy::disallowed_methods)]
        thread::sleep(after);
        child.kill().unwrap();
        let killed = child.wait().unwrap().signal() == Some(SIGKILL);
        let between = killed && files(&self.scratch.path("v")) != before;
        self.look();
        between
    }

    /// Verifies: structure, or every byte; and what is stored is explained.
    fn verify(&self, when: &str, how: &str) {
        let report = self.scratch.summary(&format!("verify {how}"));
        assert_eq!(report["clean"], true, "{when}: {report}");
        assert_eq!(report["accounting"]["unexplained"]["objects"], 0, "{when}: {report}");
        assert_eq!(report["points"], self.points.len() as u64, "{when}: {report}");
    }

    fn restores(&self, number: u64) {
        self.scratch.summary(&format!("restore web@{number} --to out --force"));
        assert!(self.scratch.read("out/os.raw") == self.points[&number], "web@{number}");
    }
}

/// How long a command took, the last times that it ran undisturbed.
#[derive(Default)]
struct Lengths(VecDeque<Duration>);

impl Lengths {
    /// So many are remembered: the machine may have become slower or faster.
    const LAST: usize = 5;

    fn note(&mut self, took: Duration) {
        // There may have been nothing to do.
        if !took.is_zero() {
            self.0.push_back(took);
        }
        if self.0.len() > Self::LAST {
            self.0.pop_front();
        }
    }

    /// The median: one run that had to wait says nothing about the others.
    fn usual(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

#[test]
fn a_hundred_kills_lose_nothing_and_leave_nothing_unexplained() {
    let mut world = World::new();
    // What the steps of a cycle take that nobody disturbs, once there is something to forget.
    let mut lengths: [Lengths; 3] = Default::default();
    for cycle in 0..KEPT + 6 {
        world.change();
        for (step, lengths) in lengths.iter_mut().enumerate() {
            let took = world.whole(step);
            if cycle > KEPT {
                lengths.note(took);
            }
        }
    }
    let usual = lengths.each_ref().map(Lengths::usual);
    println!("a backup, a forget and a sweep take {usual:?}");
    assert!(usual.iter().all(|length| !length.is_zero()));

    let (mut between, mut by_step) = (0, [0; 3]);
    for kill in 0..KILLS {
        let step = kill % 3;
        if step == 0 {
            world.change();
        }
        let micros = u64::try_from(lengths[step].usual().as_micros()).unwrap();
        let after = Duration::from_micros(world.dice.below(micros));
        if world.killed(step, after) {
            between += 1;
            by_step[step] += 1;
        }
        let when = format!("after kill {kill}");
        world.verify(&when, if kill % 10 == 9 { "" } else { "--structure" });
        // What was killed is done by the next: else there would soon be nothing to forget and to sweep.
        let took = world.whole(step);
        lengths[step].note(took);
    }
    println!("{between} of {KILLS} kills fell between the first and the last change, by step {by_step:?}");
    assert!(between >= KILLS / 3, "{between} of {KILLS}, by step {by_step:?}");

    world.whole(2);
    world.verify("at the end", "");
    for &number in world.points.keys() {
        world.restores(number);
    }
    let summary = world.scratch.summary("verify");
    assert_eq!(summary["accounting"]["in_progress"]["objects"], 0);
}
