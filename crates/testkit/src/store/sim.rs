//! Several hosts at one store, interleaved and disturbed by a seed.

mod dice;
mod log;
mod world;

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use object_store::memory::InMemory;
use object_store::{Error, ObjectStore};

pub use log::{Fate, SimEvent};

use super::{Call, Tap, TappedStore, Verdict};
use world::World;

/// One of the simulated hosts, in the order in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub usize);

/// How often things go wrong; each is a number of calls in a thousand. The default is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Odds {
    /// The call has no effect and fails.
    pub fail: u32,
    /// The call takes effect, and the caller is told that it failed.
    pub lose_answer: u32,
    /// A put or a delete succeeds, and is done a second time at some later call.
    pub repeat: u32,
    /// A put or a delete fails, and is done at some later call.
    pub late: u32,
    /// The process is stopped before the call.
    pub stop: u32,
    /// At a call of another process, one that is stopped goes on.
    pub resume: u32,
}

impl Odds {
    /// A bad day: everything happens, and most calls succeed.
    pub const BAD_DAY: Self = Self { fail: 15, lose_answer: 15, repeat: 30, late: 10, stop: 15, resume: 40 };
}

/// What a step of a simulation came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This process had its turn: one call.
    Called(ProcessId),
    /// This process was stopped at a call.
    Stopped(ProcessId),
    /// Those that have not ended are all stopped.
    Stuck,
    /// Every process has ended.
    Ended,
}

/// A store for a deterministic simulation of several hosts.
///
/// Every host is a [`Process`]: a thread that calls blocking code through a store of its own. A store call blocks
/// until it is its turn; [`step`](Self::step) waits until every process either waits at a call or has ended, and
/// lets one of them make one call. Who it is and what becomes of the call is drawn from the seed, so the seed, the
/// work and the order in which the processes were made give everything that happens: [`log`](Self::log).
///
/// # What a process must keep to
/// - One call at a time; a second one while the first waits panics. A vault does so with `Vault::open_inline` and
///   one worker.
/// - It waits for nothing but the store: for as long as it neither calls nor ends, `step` waits for it.
/// - Whatever else it draws on repeats itself: a clock that stands, a random source with a seed.
///
/// ```
/// use futures::executor::block_on;
/// use object_store::{ObjectStore, ObjectStoreExt, PutMode, path::Path};
/// use vmkeep_testkit::{Odds, SimStore};
///
/// let sim = SimStore::new(7, Odds::default());
/// let create = |store: std::sync::Arc<dyn ObjectStore>| {
///     block_on(store.put_opts(&Path::from("a"), "x".into(), PutMode::Create.into())).is_ok()
/// };
/// let hosts = ["one", "two"].map(|name| sim.spawn(name, create));
/// sim.run();
/// assert_eq!(hosts.map(|host| host.join()).iter().filter(|&&won| won).count(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct SimStore {
    world: Arc<World>,
}

impl SimStore {
    /// An empty memory store for a simulation of `seed`.
    pub fn new(seed: u64, odds: Odds) -> Self {
        Self::over(Arc::new(InMemory::new()), seed, odds)
    }

    /// A simulation of `seed` over `inner`.
    pub fn over(inner: Arc<dyn ObjectStore>, seed: u64, odds: Odds) -> Self {
        Self { world: Arc::new(World::new(inner, seed, odds)) }
    }

    /// The store below: what reaches it directly is not part of the simulation.
    pub fn inner(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.world.inner)
    }

    /// A new process, which counts until it is dropped: from now on `step` waits for its calls.
    pub fn process(&self, name: &str) -> Process {
        let turn = Turn { world: Arc::clone(&self.world), id: self.world.register(name) };
        Process { store: TappedStore::with_tap(self.inner(), turn) }
    }

    /// A new process that runs `work` on a thread of its own, and ends with it.
    ///
    /// # Panics
    /// When the machine has no thread left.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(Arc<dyn ObjectStore>) -> T + Send + 'static,
    ) -> Spawned<T> {
        let process = self.process(name);
        let id = process.id();
        let run = move || work(process.store());
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread for a process");
        Spawned { id, thread }
    }

    /// Lets one process make one call, when all that have not ended wait at one, and returns when that is so again.
    pub fn step(&self) -> Step {
        self.world.step()
    }

    /// Steps until every process has ended. When only stopped ones are left, one goes on or is killed: the seed
    /// decides. Then what was to happen later happens.
    pub fn run(&self) {
        loop {
            match self.step() {
                Step::Ended => break,
                Step::Stuck => self.unstick(),
                Step::Called(_) | Step::Stopped(_) => {}
            }
        }
        self.world.settle();
    }

    /// Lets one of the stopped processes go on, or kills it: the seed decides.
    pub fn unstick(&self) {
        self.world.go_on_or_kill();
    }

    /// Does now, in order, what was to be done at later calls.
    pub fn settle(&self) {
        self.world.settle();
    }

    /// Stops a process: it makes no call until it is resumed.
    pub fn stop(&self, process: ProcessId) {
        self.world.stop(process);
    }

    /// Lets a stopped process go on.
    pub fn resume(&self, process: ProcessId) {
        self.world.resume(process);
    }

    /// Ends a process at the call it waits at: that one may still take effect, it and all later ones fail. Returns
    /// when the process has ended.
    pub fn kill(&self, process: ProcessId) {
        self.world.kill(process);
    }

    /// Everything that happened so far.
    pub fn log(&self) -> Vec<SimEvent> {
        self.log_from(0)
    }

    /// What happened after the first `from` events. Waits, as [`log`](Self::log) does, until every process waits at a
    /// call or has ended.
    pub fn log_from(&self, from: usize) -> Vec<SimEvent> {
        self.world.log_from(from)
    }
}

/// A simulated host; it has ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    store: TappedStore<Turn>,
}

impl Process {
    /// Which one it is.
    pub fn id(&self) -> ProcessId {
        self.store.tap().id
    }

    /// The store as this process sees it.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.store.clone())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.store.tap().world.end(self.id());
    }
}

/// A process on a thread of its own.
#[derive(Debug)]
pub struct Spawned<T> {
    id: ProcessId,
    thread: JoinHandle<T>,
}

impl<T> Spawned<T> {
    /// Which one it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// What its work came to. Blocks until somebody has stepped it to its end.
    ///
    /// # Panics
    /// As the work did.
    pub fn join(self) -> T {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Lets every call of one process wait for its turn.
struct Turn {
    world: Arc<World>,
    id: ProcessId,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turn({})", self.id.0)
    }
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl Tap for Turn {
    fn before(&self, call: &Call<'_>) -> Verdict {
        self.world.wait_for_turn(self.id, call)
    }

    fn after(&self, _: &Call<'_>, outcome: Result<u64, &Error>) {
        self.world.answered(outcome);
    }
}

#[cfg(test)]
mod tests;
