//! Limits on bytes per second, by a clock that moves only when somebody waits.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vmkeep_testkit::permit;

use common::{counted_vault, settings};
use vmkeep_backup::{
    BackupError, Event, Limits, Observer, Plan, Report, Settings, Silent, Source, SourceDisk, run,
};
use vmkeep_blockdiff::{Limiter, TokenBucket, Waiter};
use vmkeep_disk::BlockRead;
use vmkeep_model::{BlockSize, ByteLen, CancelToken, ConsistencyLevel, DiskDescription, DiskRole};
use vmkeep_testkit::GeneratedDisk;
use vmkeep_vault::Vault;

const MIB: u64 = 1 << 20;

/// Time passes only by waiting; asks to stop when so much has passed.
#[derive(Debug, Default)]
struct ByHand {
    now: Mutex<Duration>,
    cancel_after: Option<(Duration, CancelToken)>,
}

impl Waiter for ByHand {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn wait(&self, time: Duration) {
        let mut now = self.now.lock().unwrap();
        *now += time;
        if let Some((after, cancel)) = &self.cancel_after
            && *now >= *after
        {
            cancel.cancel();
        }
    }
}

fn number(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

fn limiter(rate: u64, burst: u64, time: &Arc<ByHand>) -> Arc<Limiter> {
    Arc::new(Limiter::with_waiter(TokenBucket::new(number(rate), number(burst)), time.clone()))
}

/// `bytes` of noise, spread over a disk four times as large.
fn disk(bytes: u64, seed: u64) -> GeneratedDisk {
    GeneratedDisk::new(ByteLen(4 * bytes), BlockSize::default(), seed).with_allocated_spread(ByteLen(bytes))
}

fn back_up(
    vault: &Vault,
    disks: &[(&str, &dyn BlockRead)],
    settings: &Settings,
    observer: &dyn Observer,
    cancel: &CancelToken,
) -> Result<Report, BackupError> {
    let disk = |(name, disk): &(&str, _)| SourceDisk {
        description: DiskDescription { name: name.parse().unwrap(), role: DiskRole::Data, lun: None },
        source: Source::Read(*disk),
    };
    let plan = Plan {
        vm: "vm".parse().unwrap(),
        disks: disks.iter().map(disk).collect(),
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: Vec::new(),
        labels: vmkeep_model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    };
    run(&permit(), vault, &plan, settings, observer, cancel)
}

/// The time that `bytes` take at `rate` when `burst` were there.
fn due(bytes: u64, rate: u64, burst: u64) -> Duration {
    Duration::from_millis(bytes.saturating_sub(burst) * 1000 / rate)
}

fn assert_near(is: Duration, due: Duration) {
    assert!(is.abs_diff(due) <= due / 100, "{is:?}, and {due:?} were due");
}

#[test]
fn all_disks_together_are_read_at_the_rate() {
    let (rate, burst) = (MIB, 100_000);
    for workers in [1, 4] {
        let time = Arc::new(ByHand::default());
        let limits = Limits { read: Some(limiter(rate, burst, &time)), write: None };
        let settings = Settings { limits, workers, ..settings() };
        let (one, two, three) = (disk(3 * MIB, 1), disk(4 * MIB, 2), disk(5 * MIB, 3));
        let (vault, _) = counted_vault(1);
        let disks: [(&str, &dyn BlockRead); 3] = [("a", &one), ("b", &two), ("c", &three)];
        let report = back_up(&vault, &disks, &settings, &Silent, &CancelToken::new()).unwrap();
        assert_eq!(report.bytes_read, 12 * MIB);
        assert_near(time.now(), due(report.bytes_read, rate, burst));
    }
}

#[test]
fn data_is_written_at_the_rate() {
    let (rate, burst) = (MIB, 65_536);
    let time = Arc::new(ByHand::default());
    let limits = Limits { read: None, write: Some(limiter(rate, burst, &time)) };
    let settings = Settings { limits, ..settings() };
    let noise = disk(8 * MIB, 1);
    let (vault, _) = counted_vault(1);
    let report = back_up(&vault, &[("a", &noise)], &settings, &Silent, &CancelToken::new()).unwrap();
    assert_eq!(report.bytes_changed, 8 * MIB);
    assert_near(time.now(), due(report.bytes_changed, rate, burst));
    // Nothing changed, so nothing is written and nothing waits.
    let before = time.now();
    back_up(&vault, &[("a", &noise)], &settings, &Silent, &CancelToken::new()).unwrap();
    assert_eq!(time.now(), before);
}

#[test]
fn a_small_disk_is_done_long_before_a_large_one() {
    for workers in [1, 2] {
        let time = Arc::new(ByHand::default());
        let limits = Limits { read: Some(limiter(MIB, 65_536, &time)), write: None };
        let settings = Settings { limits, workers, ..settings() };
        let (small, large) = (disk(MIB, 1), disk(64 * MIB, 2));
        let (vault, _) = counted_vault(1);
        let done = Mutex::new(Vec::new());
        let observer = |event: Event<'_>| {
            if let Event::DiskDone { disk } = event {
                done.lock().unwrap().push((disk.as_str().to_owned(), time.now()));
            }
        };
        let disks: [(&str, &dyn BlockRead); 2] = [("large", &large), ("small", &small)];
        back_up(&vault, &disks, &settings, &observer, &CancelToken::new()).unwrap();
        let done = done.into_inner().unwrap();
        assert_eq!((done[0].0.as_str(), done[1].0.as_str()), ("small", "large"));
        assert!(done[0].1 < done[1].1 / 2, "{done:?}");
    }
}

#[test]
fn being_cancelled_ends_the_wait_and_the_run() {
    for workers in [1, 4] {
        for is_read in [true, false] {
            let cancel = CancelToken::new();
            let cancel_after = Some((Duration::from_secs(5), cancel.clone()));
            let time = Arc::new(ByHand { cancel_after, ..ByHand::default() });
            // A hundred bytes a second: all of it would take days.
            let slow = limiter(100, 65_536, &time);
            let (read, write) = if is_read { (Some(slow), None) } else { (None, Some(slow)) };
            let limits = Limits { read, write };
            let settings = Settings { limits, workers, ..settings() };
            let (one, two) = (disk(8 * MIB, 1), disk(8 * MIB, 2));
            let (vault, _) = counted_vault(1);
            let disks: [(&str, &dyn BlockRead); 2] = [("a", &one), ("b", &two)];
            let outcome = back_up(&vault, &disks, &settings, &Silent, &cancel);
            assert!(matches!(outcome, Err(BackupError::Cancelled(_))), "{outcome:?}");
            assert!(time.now() < Duration::from_secs(10), "{:?}", time.now());
            assert!(vault.point(&"vm@latest".parse().unwrap()).is_err());
        }
    }
}
