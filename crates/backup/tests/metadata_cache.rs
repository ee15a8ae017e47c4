//! The cache of metadata packs on a machine: it saves requests and nothing ever depends on it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::fs;
use std::path::Path;
use std::sync::Arc;
use vmkeep_model::op;
use vmkeep_testkit::permit;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use vmkeep_backup::{Plan, Settings, Silent, Source, SourceDisk, run};
use vmkeep_disk::{BlockWrite, Memory};
use vmkeep_envelope::{KeyFileVault, KeyVault, SecretKey};
use vmkeep_model::{
    BlockIndex, BlockSize, ByteOffset, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, PointRef,
};
use vmkeep_testkit::CountingStore;
use vmkeep_vault::{Ports, Vault};

const BLOCK: u64 = 16 << 10;
const BUDGET: u64 = 64 << 20;

fn kek() -> Arc<dyn KeyVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])))
}

/// A vault handle as a new process would have it.
fn open(store: &Arc<dyn ObjectStore>, cache: Option<&Path>) -> Vault {
    let vault = Vault::open(Arc::clone(store), kek(), Ports::default()).unwrap();
    cache.map_or_else(|| vault.clone(), |cache| vault.clone().with_cache(cache, BUDGET).unwrap())
}

fn back_up(vault: &Vault, disk: &Memory) {
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
    let settings = Settings { block_size: BlockSize::MIN, workers: 1, ..Settings::default() };
    run(&permit(), vault, &plan, &settings, &Silent, &CancelToken::new()).unwrap();
}

/// A vault with a history of 24 points, each written by a handle of its own with the cache, and the disk as it is now.
fn history(cache: &Path) -> (Arc<dyn ObjectStore>, CountingStore, Memory) {
    let counting = CountingStore::new(Arc::new(InMemory::new()));
    let store: Arc<dyn ObjectStore> = Arc::new(counting.clone());
    Vault::create(Arc::clone(&store), kek(), Ports::default()).unwrap();
    let disk = Memory::new(200 * usize::try_from(BLOCK).unwrap());
    for point in 0..24_u8 {
        for block in 0..4 {
            let at = (u64::from(point) * 53 + block * 47) % 200;
            disk.write_at(ByteOffset(at * BLOCK), &[point + 1; 100]).unwrap();
        }
        back_up(&open(&store, Some(cache)), &disk);
    }
    (store, counting, disk)
}

fn content(vault: &Vault) -> Vec<u8> {
    let point: PointRef = "vm@latest".parse().unwrap();
    let disk = vault.point(&point).unwrap().disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
    let entries: Vec<_> = disk.entries(BlockIndex(0)).unwrap().map(Result::unwrap).collect();
    let block = usize::try_from(BLOCK).unwrap();
    let mut bytes = vec![0; usize::try_from(disk.size().0).unwrap()];
    disk.fetch(&entries, &mut |index, data| {
        let start = usize::try_from(index.0).unwrap() * block;
        bytes[start..start + block].copy_from_slice(data.unwrap());
        Ok(())
    })
    .unwrap();
    bytes
}

#[test]
fn a_new_process_asks_the_store_for_no_map_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (store, counting, disk) = history(folder.path());
    counting.reset();
    back_up(&open(&store, None), &disk);
    assert!(
        counting.counts_under("packs").get >= 4,
        "without the cache every leaf comes from a pack of its own"
    );
    counting.reset();
    back_up(&open(&store, Some(folder.path())), &disk);
    assert_eq!(counting.counts_under("packs").get, 0);
}

#[test]
fn a_damaged_or_missing_cache_changes_nothing_but_requests() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, disk) = history(folder.path());
    let vault_folder = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    for (number, file) in fs::read_dir(&vault_folder).unwrap().enumerate() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        match number % 4 {
            0 => fs::remove_file(&path).unwrap(),
            1 => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
            2 => fs::write(&path, b"").unwrap(),
            _ => {
                bytes[10] ^= 1;
                fs::write(&path, bytes).unwrap();
            }
        }
    }
    assert_eq!(content(&open(&store, Some(folder.path()))), disk.to_vec());
    disk.write_at(ByteOffset(5 * BLOCK), b"after").unwrap();
    back_up(&open(&store, Some(folder.path())), &disk);
    assert_eq!(content(&open(&store, None)), disk.to_vec());
}
