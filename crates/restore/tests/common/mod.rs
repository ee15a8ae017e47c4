//! A vault that counts what reaches its store, and a plain writer of points: this crate does not know the other walk.
// Each test file uses some of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vmkeep_model::op;
use vmkeep_testkit::permit;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use vmkeep_disk::{BlockRead, Memory};
use vmkeep_envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep_model::{
    BlockIndex, BlockRun, BlockSize, ByteOffset, CancelToken, ChangeProvenance, ConsistencyLevel,
    ContentHash, DiskDescription, DiskName, DiskRole, ManualClock, PointId, Timestamp,
};
use vmkeep_restore::{Settings, Silent, copy_disk};
use vmkeep_testkit::CountingStore;
use vmkeep_vault::{CompressionLevel, DiskReader, Draft, DraftDisk, FrameEncoder, Ports, Vault, WrittenDisk};

pub const BLOCK: usize = 64 << 10;
const PACK_BYTES: usize = 32 << 20;
const FRAME_BLOCKS: usize = 4;

/// What a vault of a test is made from: the same seed, the same bytes.
pub fn ports(seed: u64) -> Ports {
    Ports {
        clock: Arc::new(ManualClock::new(Timestamp(1_700_000_000_000))),
        entropy: Arc::new(SeededEntropy::new(seed)),
    }
}

pub fn kek() -> Arc<KeyFileVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])))
}

/// A store in memory, and what counts before it.
pub fn counted_store() -> (Arc<InMemory>, CountingStore) {
    let memory = Arc::new(InMemory::new());
    (Arc::clone(&memory), CountingStore::new(memory))
}

pub fn created(store: &CountingStore, seed: u64) -> Vault {
    Vault::create(Arc::new(store.clone()), kek(), ports(seed)).unwrap()
}

/// The vault in `store` on another machine: nothing but the store and the KEK.
pub fn opened(store: Arc<dyn ObjectStore>, seed: u64) -> Vault {
    Vault::open(store, kek(), ports(seed)).unwrap()
}

pub fn os() -> DiskName {
    "os".parse().unwrap()
}

pub fn settings() -> Settings {
    Settings { workers: 1, ..Settings::default() }
}

/// Stores `disk` as the only disk of the next point of `vm`: what changed since the point before, block by block.
pub fn back_up(vault: &Vault, vm: &str, disk: &dyn BlockRead) -> PointId {
    let session = vault.begin(&permit(), &vm.parse().unwrap()).unwrap();
    let before: BTreeMap<BlockIndex, ContentHash> = match session.base_disk(&os()).unwrap() {
        Some(base) => base.hashes(BlockIndex(0)).collect::<Result<_, _>>().unwrap(),
        None => BTreeMap::new(),
    };
    let size = BlockSize::default();
    let mut candidates: BTreeSet<BlockIndex> =
        before.keys().copied().filter(|block| size.start_of(*block).0 < disk.len().0).collect();
    let mut from = ByteOffset(0);
    while let Some(extent) = disk.next_data(from).unwrap() {
        candidates.extend(size.blocks_touching(extent).iter());
        from = extent.end();
    }

    let identity = session.identity().unwrap();
    let mut writer = session.disk_writer(&os(), size, PACK_BYTES).unwrap();
    let mut encoder = FrameEncoder::new(CompressionLevel::Fast).unwrap();
    let (mut blocks, mut plain) = (Vec::new(), Vec::new());
    let mut flush = |writer: &mut vmkeep_vault::DiskWriter<'_>, blocks: &mut Vec<_>, plain: &mut Vec<u8>| {
        let frame = encoder.encode(std::mem::take(blocks), std::mem::take(plain).into()).unwrap();
        writer.frame(&frame).unwrap();
    };
    for block in candidates {
        let run = BlockRun { start: block, len: 1 };
        let extent = size.extent_of(run, disk.len());
        let mut bytes = vec![0; size.bytes()];
        disk.read_at(extent.start(), &mut bytes[..usize::try_from(extent.len().0).unwrap()]).unwrap();
        if bytes.iter().all(|&b| b == 0) {
            flush(&mut writer, &mut blocks, &mut plain);
            if before.contains_key(&block) {
                writer.zero(run).unwrap();
            }
            continue;
        }
        let hash = identity.block_hash(&bytes);
        if before.get(&block) != Some(&hash) {
            blocks.push((block, hash));
            plain.extend_from_slice(&bytes);
        }
        if blocks.len() == FRAME_BLOCKS {
            flush(&mut writer, &mut blocks, &mut plain);
        }
    }
    flush(&mut writer, &mut blocks, &mut plain);
    let written = writer.finish(disk.len()).unwrap();
    session.commit(draft(written)).unwrap().point.id
}

fn draft(written: WrittenDisk) -> Draft {
    let description = DiskDescription { name: os(), role: DiskRole::Os, lun: None };
    Draft {
        disks: vec![DraftDisk::Stored { description, written, provenance: ChangeProvenance::Scan }],
        consistency: ConsistencyLevel::Crash,
        evidence: Vec::new(),
        config: None,
        keys: None,
        bytes_read: 0,
        duration_ms: 0,
    }
}

/// The disk of `point` in `vault`.
pub fn disk_of(vault: &Vault, point: &str) -> DiskReader {
    vault.point(&point.parse().unwrap()).unwrap().disk(&permit::<op::Restore>(), &os()).unwrap()
}

/// All bytes of the disk of `point`.
pub fn restored(vault: &Vault, point: &str) -> Vec<u8> {
    let disk = disk_of(vault, point);
    let target = Memory::new(usize::try_from(disk.size().0).unwrap());
    let copied = copy_disk(&disk, &target, &settings(), &Silent, &CancelToken::new()).unwrap();
    assert_eq!(copied.size, disk.size());
    target.to_vec()
}

/// A block that compresses to nothing and is like no other of another `n`.
pub fn block(n: u64) -> Vec<u8> {
    let mut bytes = vec![0x5a; BLOCK];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes
}
