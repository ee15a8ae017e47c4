//! What the tests of vmkeep share: stores that misbehave on order, disks made from a seed, strategies.
//!
//! A dev-dependency only. Everything here is deterministic: no clock, no randomness of the machine.
//!
//! **Stores** wrap any [`ObjectStore`](object_store::ObjectStore) and are cheap to clone, every clone seeing the
//! same counts and script; they stack in any order.
//! - [`CountingStore`]: which requests were made, and how many bytes they moved;
//! - [`FaultyStore`]: fails at a call chosen beforehand, with or without the call taking effect;
//! - [`QuotaStore`]: is full after so many bytes;
//! - [`RecordingStore`]: remembers every payload that was ever sent;
//! - [`SimStore`]: lets several hosts act on one store, interleaved and disturbed by a seed;
//! - [`UnfitStore`]: breaks one of the promises that a vault rests on;
//! - [`TappedStore`] with a [`Tap`] of the test's own, for anything else (a race at a certain put, say).
//!
//! **Disks** implement [`BlockRead`](vmkeep_disk::BlockRead):
//! - [`GeneratedDisk`]: any size up to 32 TiB in a few bytes of memory, with a known set of allocated blocks;
//! - [`CountingDisk`], [`FailingDisk`], [`ShrinkingDisk`]: wrap another disk.
//!
//! **Guests**: [`SimGuest`] has write caches, a journalling file system and a database with a log, and can be looked at
//! as of any instant.
//!
//! **Tokens**: [`softhsm::Token`] makes one with the programs of SoftHSM and OpenSC; alone here it is not the same each time.
//!
//! **Corpora** of the fuzzers are replayed by [`corpora`]; [`PRICE_BOOK`] is what tests of bills reckon with.
//!
//! **Strategies**: [`disk_history`] makes successive contents of a small disk.
//!
//! ```
//! use std::sync::Arc;
//! use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
//! use vmkeep_testkit::{Fault, FaultyStore};
//!
//! let memory = Arc::new(InMemory::new());
//! let store = FaultyStore::new(memory.clone(), [Fault::LostAck(0)]);
//! let path = Path::from("a");
//! futures::executor::block_on(async {
//!     assert!(store.put(&path, "x".into()).await.is_err()); // the caller is told it failed
//!     assert!(memory.head(&path).await.is_ok()); // but it landed
//!     assert!(store.put(&path, "x".into()).await.is_ok());
//! });
//! assert_eq!(store.calls(), 2);
//! ```

mod authority;
pub mod corpora;
mod disk;
mod guest;
mod prices;
pub mod qemu_guest;
pub mod softhsm;
mod store;

pub use authority::permit;
pub use disk::{
    Content, CountingDisk, DiskCounts, DiskHistory, FailingDisk, GeneratedDisk, ShrinkingDisk, disk_history,
};
pub use guest::{Acknowledged, Recovered, RestScripts, SimGuest};
pub use prices::PRICE_BOOK;
pub use store::{
    Action, Call, Counting, CountingStore, Counts, Fate, Fault, Faults, FaultyStore, Odds, Process,
    ProcessId, Quota, QuotaStore, Recording, RecordingStore, RequestKind, SimEvent, SimStore, Spawned, Step,
    Tap, TappedStore, Unfit, UnfitStore, Verdict, snapshot, store_of,
};
