use futures::TryStreamExt;
use futures::executor::block_on;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutPayload};

use super::*;
use crate::snapshot;

/// Creates, reads, deletes and lists, and goes on whatever happens. Says how many creates it was told are its own.
fn busy(store: Arc<dyn ObjectStore>, who: u8) -> usize {
    let mut won = 0;
    for n in 0..20 {
        let path = Path::from(format!("points/{n}"));
        let put = store.put_opts(&path, PutPayload::from(vec![who; 3]), PutMode::Create.into());
        won += usize::from(block_on(put).is_ok());
        block_on(async { store.get(&path).await?.bytes().await }).ok();
        block_on(store.delete(&Path::from(format!("hints/{n}")))).ok();
        block_on(store.put(&Path::from("heads/a"), PutPayload::from(vec![who, n]))).ok();
        block_on(store.list(None).try_collect::<Vec<_>>()).ok();
    }
    won
}

fn simulated(seed: u64, odds: Odds) -> (SimStore, Vec<usize>) {
    let sim = SimStore::new(seed, odds);
    let hosts: Vec<_> =
        (0..3_u8).map(|who| sim.spawn(&format!("host{who}"), move |store| busy(store, who))).collect();
    sim.run();
    let won = hosts.into_iter().map(Spawned::join).collect();
    (sim, won)
}

fn fates(sim: &SimStore, fate: Fate) -> usize {
    sim.log().iter().filter(|event| event.fate == fate).count()
}

#[test]
fn a_seed_gives_one_run() {
    let mut logs = Vec::new();
    for seed in 0..20 {
        let (first, won) = simulated(seed, Odds::BAD_DAY);
        let (second, won_again) = simulated(seed, Odds::BAD_DAY);
        assert_eq!(first.log(), second.log(), "seed {seed}");
        assert_eq!(won, won_again, "seed {seed}");
        assert_eq!(snapshot(&*first.inner()), snapshot(&*second.inner()), "seed {seed}");
        assert!(!logs.contains(&first.log()), "seed {seed} is as one before");
        logs.push(first.log());
    }
}

#[test]
fn without_faults_every_call_passes_and_every_name_has_one_winner() {
    let (sim, won) = simulated(1, Odds::default());
    assert_eq!(fates(&sim, Fate::Passed), 3 * 20 * 5);
    assert_eq!(sim.log().len(), 300);
    assert_eq!(won.iter().sum::<usize>(), 20);
    assert!(won.iter().filter(|&&won| won > 0).count() > 1, "{won:?}: they take turns");
}

#[test]
fn on_a_bad_day_everything_happens() {
    let logs: Vec<SimStore> = (0..20).map(|seed| simulated(seed, Odds::BAD_DAY).0).collect();
    for fate in [
        Fate::Passed,
        Fate::Failed,
        Fate::AnswerLost,
        Fate::Late,
        Fate::Again,
        Fate::Stopped,
        Fate::Resumed,
        Fate::Killed,
        Fate::KilledAfter,
    ] {
        assert!(logs.iter().any(|sim| fates(sim, fate) > 0), "{fate:?}");
    }
}

/// Odds under which one thing always happens.
fn always(set: impl FnOnce(&mut Odds)) -> Odds {
    let mut odds = Odds::default();
    set(&mut odds);
    odds
}

/// What a create and a delete say under `odds`, and whether what was created and what was to be deleted are there
/// at once, and in the end.
fn two_calls(odds: Odds) -> ([bool; 2], [bool; 2], [bool; 2]) {
    let sim = SimStore::new(1, odds);
    let (created, deleted) = (Path::from("created"), Path::from("deleted"));
    block_on(sim.inner().put(&deleted, "x".into())).unwrap();
    let host = sim.spawn("host", {
        let (created, deleted) = (created.clone(), deleted.clone());
        move |store| {
            let create = store.put_opts(&created, "y".into(), PutMode::Create.into());
            [block_on(create).is_ok(), block_on(store.delete(&deleted)).is_ok()]
        }
    });
    while sim.step() != Step::Ended {}
    let there = || [&created, &deleted].map(|path| block_on(sim.inner().head(path)).is_ok());
    let at_once = there();
    // Whoever undoes what was done sees it done again.
    block_on(sim.inner().delete(&created)).ok();
    block_on(sim.inner().put(&deleted, "x".into())).unwrap();
    sim.settle();
    (host.join(), at_once, there())
}

#[test]
fn each_fate_is_what_it_says() {
    let (t, f) = (true, false);
    assert_eq!(two_calls(Odds::default()), ([t, t], [t, f], [f, t]));
    assert_eq!(two_calls(always(|odds| odds.fail = 1000)), ([f, f], [f, t], [f, t]));
    assert_eq!(two_calls(always(|odds| odds.lose_answer = 1000)), ([f, f], [t, f], [f, t]));
    let (told, _, end) = two_calls(always(|odds| odds.late = 1000));
    assert_eq!((told, end), ([f, f], [t, f]));
    let (told, at_once, end) = two_calls(always(|odds| odds.repeat = 1000));
    assert_eq!((told, at_once, end), ([t, t], [t, f], [t, f]));
}

#[test]
fn a_stopped_process_makes_no_call_until_it_is_resumed() {
    let sim = SimStore::new(3, Odds::default());
    let slow = sim.spawn("slow", |store| busy(store, 1));
    sim.stop(slow.id());
    assert_eq!(sim.step(), Step::Stuck);
    let fast = sim.spawn("fast", |store| busy(store, 2));
    while sim.step() == Step::Called(fast.id()) {}
    assert_eq!(sim.step(), Step::Stuck);
    assert_eq!(fast.join(), 20, "alone, it wins every name");
    sim.resume(slow.id());
    sim.run();
    assert_eq!(slow.join(), 0);
    assert_eq!(fates(&sim, Fate::Passed), 200);
}

#[test]
fn a_killed_process_ends_with_errors_and_its_last_call_may_have_happened() {
    let mut took_effect = 0;
    for seed in 0..40 {
        let sim = SimStore::new(seed, Odds::default());
        let host = sim.spawn("host", |store| busy(store, 1));
        sim.kill(host.id());
        assert_eq!(sim.step(), Step::Ended);
        assert_eq!(host.join(), 0);
        let there = snapshot(&*sim.inner()).len();
        assert!(there <= 1, "only its first call");
        took_effect += there;
    }
    assert!((5..35).contains(&took_effect), "{took_effect} of 40");
}

#[test]
fn a_stopped_process_is_killed_in_the_end() {
    let sim = SimStore::new(5, Odds::default());
    let stopped = sim.spawn("stopped", |store| busy(store, 1));
    let other = sim.spawn("other", |store| busy(store, 2));
    sim.stop(stopped.id());
    sim.run();
    assert_eq!((stopped.join(), other.join() >= 19), (0, true));
    assert_eq!(fates(&sim, Fate::Killed) + fates(&sim, Fate::KilledAfter), 1);
}

#[test]
fn a_process_that_panics_has_ended() {
    let sim = SimStore::new(5, Odds::default());
    let host = sim.spawn("host", |_| assert_eq!(1 + 1, 3, "no"));
    sim.run();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.join())).is_err());
}
