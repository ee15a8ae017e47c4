//! The contracts of the ports as tests, for implementations elsewhere too.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::evidence::MountOutcome;
use crate::port::{FreezeState, GuestAgent, Snapshotter, Watchdog, WatchdogEnd};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Checks the contract of [`GuestAgent`] on a guest that is not frozen and has a file system that can be.
///
/// # Panics
/// When `agent` breaks it.
pub fn guest_agent(agent: &dyn GuestAgent) {
    let status = || agent.status(TIMEOUT).expect("status");
    assert_eq!(status(), FreezeState::Thawed, "at first");
    assert_eq!(agent.thaw(TIMEOUT), Ok(0), "a thaw of a guest that is not frozen does nothing");
    for round in 0..2 {
        let report = agent.freeze(TIMEOUT).expect("freezes");
        let frozen = report.mounts.iter().filter(|mount| mount.outcome == MountOutcome::Frozen).count();
        assert!(frozen > 0, "something is frozen in round {round}");
        assert_eq!(status(), FreezeState::Frozen, "status works while frozen");
        assert!(agent.freeze(TIMEOUT).is_err(), "a second freeze is refused");
        assert_eq!(status(), FreezeState::Frozen, "and changes nothing");
        assert!(agent.thaw(TIMEOUT).expect("thaws") > 0, "the thaw says that it did something");
        assert_eq!(status(), FreezeState::Thawed, "after the thaw");
        assert_eq!(agent.thaw(TIMEOUT), Ok(0), "a second thaw does nothing");
    }
}

/// Checks the contract of [`Snapshotter`].
///
/// # Panics
/// When `snapshotter` breaks it.
pub fn snapshotter(snapshotter: &dyn Snapshotter) {
    let disks = snapshotter.disks();
    assert_eq!(disks.iter().collect::<BTreeSet<_>>().len(), disks.len(), "each disk once: {disks:?}");
    let taken = snapshotter.snapshot();
    let names: Vec<_> = taken.disks.into_iter().map(|disk| disk.disk).collect();
    assert_eq!(names, disks, "an outcome for each disk, in order");
}

/// Checks the contract of [`Watchdog`]; `fired` says whether it has thawed since the last question, and waits for that
/// when it should have.
///
/// # Panics
/// When `watchdog` breaks it.
pub fn watchdog(watchdog: &dyn Watchdog, fired: &mut dyn FnMut(WatchdogEnd) -> bool) {
    watchdog.arm().expect("arms").disarm();
    assert!(!fired(WatchdogEnd::Quiet), "disarmed it does nothing");
    let mut armed = watchdog.arm().expect("arms again");
    armed.freezing(TIMEOUT).expect("watches the freeze");
    assert_eq!(armed.thawed(), WatchdogEnd::Quiet, "the deadline has not come");
    armed.disarm();
    assert!(!fired(WatchdogEnd::Quiet), "told of the thaw it does nothing");
    let mut armed = watchdog.arm().expect("arms again");
    armed.freezing(TIMEOUT).expect("watches the freeze");
    drop(armed);
    assert!(fired(WatchdogEnd::Fired), "dropped it thaws");
    let mut armed = watchdog.arm().expect("arms again");
    armed.freezing(TIMEOUT).expect("watches the freeze");
    armed.thaw();
    assert!(fired(WatchdogEnd::Fired), "told to, it thaws");
    armed.disarm();
}
