//! The depths of verification: what each reads, and that each tells the same of what it finds.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/swept.rs"]
mod swept;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use common::*;
use keys::{destroy, plan_to_destroy, rotate, version};
use swept::{packs, sweep_all, without_data_key};
use vmkeep::model::{
    BlockIndex, BlockSize, ByteLen, ByteOffset, CancelToken, ChangeProvenance, ConsistencyLevel, Extent,
};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::restore::{
    self, Depth, Event, RestoreError, RollingSettings, VerifyReport, verify_rolling, verify_vault,
};
use vmkeep::vault::{Budget, CompressionLevel, Draft, DraftDisk, FrameEncoder, PackDepth, Vault};
use vmkeep_testkit::{CountingStore, permit, snapshot, store_of};

/// Points of one disk in which some blocks are stored as pages of others, of which some are gone.
fn patched_and_thinned() -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    for n in 1..=5 {
        back_up(&vault, "web", &version(n)).unwrap();
    }
    for gone in [1, 3] {
        vault.forget(&permit(), &point_ref(&format!("web@{gone}"))).unwrap();
    }
    sweep_all(&vault);
    store
}

fn data_packs(store: &dyn ObjectStore) -> Vec<String> {
    let all = packs(store);
    let is_data =
        |name: &&String| name.strip_suffix(".copy").is_none() && !all.contains(&format!("{name}.copy"));
    all.iter().filter(is_data).cloned().collect()
}

/// What is lost, with the object that is to blame.
fn lost(report: &VerifyReport) -> BTreeSet<(String, String, Extent, String)> {
    let told = report.damaged.iter().map(|block| {
        let object = block.error.object().unwrap().to_owned();
        (block.point.to_string(), block.disk.to_string(), block.extent, object)
    });
    told.collect()
}

#[test]
fn a_changed_byte_of_data_is_told_alike_by_its_tag_and_by_its_hash() {
    let objects = snapshot(&*patched_and_thinned());
    let data = data_packs(&store_of(&objects));
    assert!(data.len() > 1, "{data:?}");
    let mut found = 0;
    for pack in data {
        let pack = Path::from(pack);
        for at in (0..objects[&pack].len()).step_by(1999) {
            let mut bytes = objects[&pack].to_vec();
            bytes[at] ^= 1;
            let mut changed = objects.clone();
            changed.insert(pack.clone(), Bytes::from(bytes));
            let vault = open(Arc::new(store_of(&changed)), 2);
            let [sealed, data] = [Depth::Sealed, Depth::Data].map(|depth| verify(&vault, depth).unwrap());
            assert_eq!(lost(&sealed), lost(&data), "byte {at} of {pack}");
            assert_eq!(sealed.is_clean(), data.is_clean(), "byte {at} of {pack}");
            found += lost(&sealed).len();
        }
    }
    assert!(found > 10, "{found}");
}

#[test]
fn several_threads_find_what_one_does() {
    let store = patched_and_thinned();
    let objects = snapshot(&*store);
    let pack = Path::from(data_packs(&*store).remove(0));
    let mut bytes = objects[&pack].to_vec();
    bytes[500] ^= 1;
    let mut changed = objects.clone();
    changed.insert(pack, Bytes::from(bytes));
    let vault = open(Arc::new(store_of(&changed)), 2);
    let settings = restore::Settings { workers: 3, memory_bytes: 1 << 20 };
    let found =
        verify_vault(&permit(), &vault, Depth::Sealed, &settings, &restore::Silent, &CancelToken::new());
    assert_eq!(lost(&found.unwrap()), lost(&verify(&vault, Depth::Sealed).unwrap()));
}

#[test]
fn progress_is_told_of_every_block_and_a_check_stops_when_it_is_asked_to() {
    let vault = open(patched_and_thinned(), 2);
    let (cancel, settings) = (CancelToken::new(), reading());
    let told = std::sync::atomic::AtomicU64::new(0);
    let count = |event: Event<'_>| {
        if let Event::Progress { bytes: ByteLen(bytes), .. } = event {
            told.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    };
    let report = verify_vault(&permit(), &vault, Depth::Sealed, &settings, &count, &cancel).unwrap();
    assert_eq!(told.into_inner(), report.bytes.0);
    assert!(report.is_clean() && report.bytes.0 > 0, "{report:?}");
    let stop = |event: Event<'_>| {
        if matches!(event, Event::DiskBegan { .. }) {
            cancel.cancel();
        }
    };
    let stopped = verify_vault(&permit(), &vault, Depth::Sealed, &settings, &stop, &cancel);
    assert!(matches!(stopped, Err(RestoreError::Cancelled(_))), "{stopped:?}");
}

/// Bytes read of packs by a verification.
fn read_of_packs(store: &Arc<InMemory>, depth: Depth) -> u64 {
    let counting = CountingStore::new(store.clone());
    let vault = open(Arc::new(counting.clone()), 3);
    counting.reset();
    assert!(verify(&vault, depth).unwrap().is_clean());
    counting.counts_under("packs").bytes_read
}

#[test]
fn structure_reads_no_data_and_sealed_reads_all_of_it_once() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up(&vault, "web", &disks([("os", noise(1, 12 << 20))])).unwrap();
    let sizes = |name: &String| snapshot(&*store)[&Path::from(name.as_str())].len() as u64;
    let data: u64 = data_packs(&*store).iter().map(sizes).sum();
    let metadata: u64 = packs(&*store).iter().map(sizes).sum::<u64>() - data;
    assert!(data > 12 << 20);
    // A footer is read with the end of its pack, at most 64 KiB at first; and what is small is read as a whole, more than once.
    let ends = (128 << 10) * data_packs(&*store).len() as u64 + 20 * metadata;
    let [structure, sealed, blocks] =
        [Depth::Structure, Depth::Sealed, Depth::Data].map(|depth| read_of_packs(&store, depth));
    assert!(structure < ends && ends < data / 4, "{structure} bytes, of {ends}");
    assert!(sealed >= data && sealed < data + ends + (1 << 20), "{sealed} bytes of {data}");
    assert!(blocks.abs_diff(sealed) <= metadata, "{blocks} and {sealed}");
}

#[test]
fn structure_needs_no_data_key_and_the_others_say_that_they_do() {
    let store = patched_and_thinned();
    without_data_key(&store, |vault: &Vault| {
        assert!(verify(vault, Depth::Structure).unwrap().is_clean());
        for depth in [Depth::Sealed, Depth::Data] {
            assert!(verify(vault, depth).is_err(), "{depth:?}");
        }
    });
}

#[test]
fn destroyed_keys_are_no_damage_at_any_depth() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up(&vault, "web", &version(1)).unwrap();
    rotate(&vault).unwrap();
    back_up(&vault, "web", &version(2)).unwrap();
    let plan = plan_to_destroy(&vault, Some(0)).unwrap();
    destroy(&vault, &plan).unwrap();
    let vault = open(store, 4);
    let [structure, sealed, blocks] =
        [Depth::Structure, Depth::Sealed, Depth::Data].map(|depth| verify(&vault, depth).unwrap());
    for report in [&structure, &sealed, &blocks] {
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.destroyed_blocks, structure.destroyed_blocks);
    }
    assert!(structure.destroyed_blocks > 0);
}

/// A writer whose memory fails: what it seals is not what it hashed.
#[test]
fn what_was_wrong_before_it_was_sealed_shows_in_blocks_alone() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    let session = vault.begin(&permit(), &vm("web")).unwrap();
    let mut writer = session.disk_writer(&"os".parse().unwrap(), BlockSize::MIN, 200 << 10).unwrap();
    let (good, bad) = (noise(1, BLOCK), noise(2, BLOCK));
    let hash = |bytes: &[u8]| session.identity().unwrap().block_hash(bytes);
    let blocks =
        vec![(BlockIndex(3), hash(&good)), (BlockIndex(4), hash(&good)), (BlockIndex(9), hash(&bad))];
    let plain = [good, bad.clone(), bad].concat();
    let mut encoder = FrameEncoder::new(CompressionLevel::Default).unwrap();
    writer.frame(&encoder.encode(blocks, plain.into()).unwrap()).unwrap();
    let written = writer.finish(ByteLen(10 * BLOCK as u64)).unwrap();
    let disk =
        DraftDisk::Stored { description: description("os"), written, provenance: ChangeProvenance::Scan };
    let (consistency, evidence) = (ConsistencyLevel::Crash, Vec::new());
    let disks = vec![disk];
    let draft =
        Draft { disks, consistency, evidence, config: None, keys: None, bytes_read: 0, duration_ms: 0 };
    session.commit(draft).unwrap();

    for depth in [Depth::Structure, Depth::Sealed] {
        assert!(verify(&vault, depth).unwrap().is_clean(), "{depth:?}");
    }
    let lost = lost(&verify(&vault, Depth::Data).unwrap());
    let at = ByteOffset(4 * BLOCK as u64);
    let extent = Extent::new(at, ByteLen(BLOCK as u64));
    let pack = data_packs(&*store).remove(0);
    assert_eq!(lost, BTreeSet::from([("web@1".to_owned(), "os".to_owned(), extent, pack.clone())]));
    for (depth, damaged) in [(PackDepth::Sealed, vec![]), (PackDepth::Blocks, vec![pack])] {
        let settings = RollingSettings { budget: Budget::Millipercent(100_000), depth, walk: reading() };
        let report =
            verify_rolling(&permit(), &vault, &settings, &restore::Silent, &CancelToken::new()).unwrap();
        assert_eq!(report.checked.named, damaged);
    }
}
