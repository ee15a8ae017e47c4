//! Deletion beside writers and readers: whatever the store and the hosts do, a point that is kept restores to what the
//! disks were.
//!
//! One seed, one run. `cargo xtask simulate --seconds N --seed S` goes on from any seed.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "simulation/mod.rs"]
mod simulation;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use simulation::mix::Mix;
use simulation::run::{Summary, finds, run};
use vmkeep::vault::Rule;

/// Seeds of a test run.
const SEEDS: u64 = 500;

/// Most seeds that it may take to find what a rule is for.
const SEEDS_WITHOUT_A_RULE: u64 = 1000;

/// Threads that run seeds.
const THREADS: usize = 2;

/// Runs seeds from `first` on, for as long as `more` says so of the next one; stops at the first that finds something.
fn run_seeds(first: u64, more: impl Fn(u64) -> bool + Sync) -> Summary {
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let (summary, failure) = (Mutex::new(Summary::default()), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !more(seed) {
                        break;
                    }
                    match run(seed, Mix::of(seed)) {
                        Ok(done) => summary.lock().unwrap().add(done),
                        Err(told) => {
                            stop.store(true, Ordering::Relaxed);
                            failure.lock().unwrap().get_or_insert(told);
                        }
                    }
                }
            });
        }
    });
    let summary = summary.into_inner().unwrap();
    if let Some(told) = failure.into_inner().unwrap() {
        println!("{summary}");
        panic!("{told}");
    }
    summary
}

/// A number that `cargo xtask simulate` gives.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn what_is_kept_restores_whatever_happens_beside_it() {
    let first = given("VMKEEP_SIMULATE_SEED").unwrap_or(0);
    let summary = match given("VMKEEP_SIMULATE_SECONDS") {
        None => run_seeds(first, |seed| seed < first + SEEDS),
        Some(seconds) => {
            let end = Instant::now() + Duration::from_secs(seconds);
            run_seeds(first, |seed| seed == first || Instant::now() < end)
        }
    };
    println!("{summary}");
}

#[test]
fn a_seed_gives_one_run() {
    for seed in 0..4 {
        let told = || run(seed, Mix::of(seed)).map(|summary| (summary.to_string(), summary.checksum));
        assert_eq!(told(), told(), "seed {seed}");
    }
}

/// Runs seeds of `mix` without `rule` until one finds what the rule is there to prevent, as one of `what` tells it.
fn finds_the_loss(rule: Rule, mix: &Mix, what: &[&str]) {
    let found = finds(mix, rule, SEEDS_WITHOUT_A_RULE);
    let told = found.unwrap_or_else(|| panic!("{SEEDS_WITHOUT_A_RULE} seeds without {rule:?} found nothing"));
    let first = told.lines().next().unwrap_or_default();
    println!("without {rule:?}: {first}");
    assert!(what.iter().any(|what| first.contains(what)), "{told}");
}

#[test]
fn without_the_void_packs_of_a_point_are_lost() {
    finds_the_loss(Rule::Void, &Mix::ALL, &["does not restore"]);
}

#[test]
fn without_reading_the_retirement_again_a_commit_is_lost() {
    finds_the_loss(Rule::RereadRetired, &Mix::STALLED_WRITERS, &["was committed by session"]);
}

#[test]
fn without_keeping_the_newest_the_base_of_a_backup_is_lost() {
    finds_the_loss(Rule::KeepNewest, &Mix::ALL, &["does not restore", "cannot be read"]);
}

#[test]
fn without_reading_back_a_commit_is_lost() {
    finds_the_loss(Rule::ReadBack, &Mix::ALL, &["does not restore", "was committed by session"]);
}

#[test]
fn without_honouring_pins_a_reader_loses_its_point() {
    finds_the_loss(Rule::HonourPins, &Mix::CHASED_READERS, &["is gone under pin", "under an unbroken pin"]);
}
