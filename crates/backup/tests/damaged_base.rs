//! A VM stays protectable whatever happened to its points: what cannot be read of the point before is stored again.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Arc;
use std::sync::Mutex;
use vmkeep_model::op;
use vmkeep_testkit::permit;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use vmkeep_backup::{DiskChange, Event, Plan, Report, Settings, Source, SourceDisk, run};
use vmkeep_disk::{BlockWrite, Memory};
use vmkeep_envelope::{KeyFileVault, KeyVault, SecretKey};
use vmkeep_model::{
    BlockIndex, BlockSize, ByteOffset, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, PointNumber,
    PointRef,
};
use vmkeep_testkit::{snapshot, store_of};
use vmkeep_vault::{Ports, Vault};

const BLOCK: usize = 16 << 10;

fn open(store: &InMemory, create: bool) -> Vault {
    let kek: Arc<dyn KeyVault> = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
    let store: Arc<dyn ObjectStore> = Arc::new(store.clone());
    if create {
        Vault::create(store, kek, Ports::default())
    } else {
        Vault::open(store, kek, Ports::default())
    }
    .unwrap()
}

/// A backup, and whose bases it could not read: a disk's name, or "point".
fn back_up(vault: &Vault, disk: &Memory) -> (Report, Vec<String>) {
    let description = DiskDescription { name: "os".parse().unwrap(), role: DiskRole::Os, lun: None };
    let plan = Plan {
        vm: "vm".parse().unwrap(),
        disks: vec![SourceDisk { description, source: Source::Read(disk) }],
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: vec![],
        labels: vmkeep_model::Labels::default(),
        config: None,
        snapshot: None,
        guard: None,
    };
    let unreadable = Mutex::new(Vec::new());
    let observer = |event: Event<'_>| {
        if let Event::BaseUnreadable { disk, .. } = event {
            unreadable.lock().unwrap().push(disk.map_or_else(|| "point".to_owned(), ToString::to_string));
        }
    };
    let settings = Settings { block_size: BlockSize::MIN, workers: 2, ..Settings::default() };
    let report = run(&permit(), vault, &plan, &settings, &observer, &CancelToken::new()).unwrap();
    (report, unreadable.into_inner().unwrap())
}

fn content(vault: &Vault, point: &str) -> Vec<u8> {
    let point: PointRef = point.parse().unwrap();
    let disk = vault.point(&point).unwrap().disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
    let entries: Vec<_> = disk.entries(BlockIndex(0)).unwrap().map(Result::unwrap).collect();
    let mut bytes = vec![0; usize::try_from(disk.size().0).unwrap()];
    disk.fetch(&entries, &mut |index, data| {
        let start = usize::try_from(index.0).unwrap() * BLOCK;
        bytes[start..start + BLOCK].copy_from_slice(data.unwrap());
        Ok(())
    })
    .unwrap();
    bytes
}

/// Two points of a disk, and what their contents are.
fn two_points() -> (InMemory, Memory, Vec<Vec<u8>>) {
    let store = InMemory::new();
    let vault = open(&store, true);
    let disk = Memory::new(300 * BLOCK);
    let mut contents = Vec::new();
    for point in 1..=2_u8 {
        for block in (0..300_u64).step_by(7 * usize::from(point)) {
            disk.write_at(ByteOffset(block * BLOCK as u64), &[point; 200]).unwrap();
        }
        back_up(&vault, &disk);
        contents.push(disk.to_vec());
    }
    (store, disk, contents)
}

/// The same store with every object whose path `which` picks damaged.
fn damage(store: &InMemory, which: impl Fn(&str) -> bool) -> InMemory {
    let mut objects = snapshot(store);
    let mut hit = 0;
    for (path, bytes) in &mut objects {
        if which(Path::as_ref(path)) {
            let mut damaged = bytes.to_vec();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 1;
            *bytes = damaged.into();
            hit += 1;
        }
    }
    assert!(hit > 0);
    store_of(&objects)
}

#[test]
fn a_damaged_newest_point_is_followed_by_one_that_relies_on_nothing() {
    let (store, disk, contents) = two_points();
    let store = damage(&store, |path| path.starts_with("points/") && path.ends_with("/2"));
    disk.write_at(ByteOffset(0), b"third").unwrap();
    let vault = open(&store, false);
    let (report, unreadable) = back_up(&vault, &disk);
    assert_eq!(unreadable, ["point"]);
    assert_eq!((report.point.id.number, report.point.base), (PointNumber(3), None));
    assert_eq!(report.disks[0].change, Some(DiskChange::Appeared));
    assert_eq!(content(&vault, "vm@3"), disk.to_vec());
    assert_eq!(content(&vault, "vm@latest"), disk.to_vec());
    assert_eq!(content(&vault, "vm@1"), contents[0]);
    let history = vault.history(&"vm".parse().unwrap()).unwrap();
    let readable: Vec<bool> = history.iter().map(|(_, point)| point.is_ok()).collect();
    assert_eq!(readable, [true, false, true]);
    // The next one is an increment again.
    disk.write_at(ByteOffset(BLOCK as u64), b"fourth").unwrap();
    let (report, unreadable) = back_up(&vault, &disk);
    assert_eq!((unreadable.len(), report.bytes_changed), (0, BLOCK as u64));
}

#[test]
fn a_map_lost_in_both_copies_is_stored_again_and_earlier_points_keep_what_they_have() {
    let (store, disk, contents) = two_points();
    let newest = open(&store, false).point(&"vm@2".parse().unwrap()).unwrap().point().session.to_string();
    // Every pack of the second session that has a second copy is one of metadata.
    let copied: Vec<String> = snapshot(&store)
        .keys()
        .filter_map(|path| path.as_ref().strip_suffix(".copy").map(str::to_owned))
        .collect();
    let store = damage(&store, |path| {
        path.contains(&newest) && copied.contains(&path.trim_end_matches(".copy").to_owned())
    });
    disk.write_at(ByteOffset(0), b"third").unwrap();
    let vault = open(&store, false);
    let (report, unreadable) = back_up(&vault, &disk);
    assert_eq!(unreadable, ["os"]);
    assert_eq!(report.disks[0].change, Some(DiskChange::Anew));
    assert_eq!(content(&vault, "vm@3"), disk.to_vec());
    assert_eq!(content(&vault, "vm@1"), contents[0]);
}

#[test]
fn one_damaged_copy_of_a_map_costs_nothing() {
    let (store, disk, contents) = two_points();
    for copies in [true, false] {
        let copied: Vec<String> = snapshot(&store)
            .keys()
            .filter_map(|path| path.as_ref().strip_suffix(".copy").map(str::to_owned))
            .collect();
        let store = damage(&store, |path| {
            if copies { path.strip_suffix(".copy").is_some() } else { copied.contains(&path.to_owned()) }
        });
        let vault = open(&store, false);
        disk.write_at(ByteOffset(0), b"third").unwrap();
        let (report, unreadable) = back_up(&vault, &disk);
        assert_eq!((unreadable.len(), report.bytes_changed), (0, BLOCK as u64));
        assert_eq!(content(&vault, "vm@3"), disk.to_vec());
        assert_eq!(content(&vault, "vm@2"), contents[1]);
    }
}
