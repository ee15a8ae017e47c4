//! A whole vault that was swept, and stays for ever: every later release opens it, verifies it and restores it byte for
//! byte. What `golden_vault.rs` says of its vaults holds for this one.
//!
//! Its first sweep had the data key and thinned frames, its second had not and copied slots, thinned ones among them.
#![allow(clippy::unwrap_used)] // in helpers too

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vmkeep_model::op;
use vmkeep_testkit::permit;

use bytes::Bytes;
use futures::executor::block_on;
use vmkeep_envelope::{
    Branch, KeyFileVault, OpenedKeys, SealContext, SecretKey, SeededEntropy, open_key_object, seal_key_object,
};
use vmkeep_model::{
    BlockIndex, BlockSize, ByteLen, CancelToken, ChangeProvenance, ConsistencyLevel, DiskDescription,
    DiskRole, ManualClock, SessionId, Timestamp,
};
use vmkeep_testkit::snapshot;
use vmkeep_vault::object_store::memory::InMemory;
use vmkeep_vault::object_store::path::Path;
use vmkeep_vault::object_store::{ObjectStore, ObjectStoreExt};
use vmkeep_vault::{
    AuditDepth, CompressionLevel, Draft, DraftDisk, FrameEncoder, ObjectName, Ports, SweepReport,
    SweepSettings, Vault,
};

const SIZE: BlockSize = BlockSize::MIN;
const BLOCKS: u64 = 128;
/// Blocks of a frame: a thinned slot takes up to 32.
const FRAME: usize = 16;
/// The version of vmkeep that the stored points name.
const MADE_BY: &str = "0.1.0";
const BEGAN: i64 = 1_700_000_000_000;
/// What is left of `web`: a point that is kept, and the newest.
const KEPT: [u64; 2] = [3, 4];

/// The vault as it was made by each form of the format, today's last: since the second, entries of journals say who.
const FOLDERS: [&str; 2] = ["vault-v1-thin", "vault-v1-thin-who"];

fn folder(name: &str) -> PathBuf {
    FsPath::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn kek() -> Arc<KeyFileVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [0x4c; 32])))
}

fn ports(seed: u64) -> Ports {
    let clock = Arc::new(ManualClock::new(Timestamp(BEGAN)));
    Ports { clock, entropy: Arc::new(SeededEntropy::new(seed)) }
}

/// Which content a block has at a point: the second point rewrites every other block, the third the first half of
/// the disk, the fourth one block.
fn version(block: u64, point: u64) -> u64 {
    let written = |by: &u64| match by {
        2 => block % 2 == 1,
        3 => block < BLOCKS / 2,
        4 => block == 100,
        _ => true,
    };
    (1..=point).rev().find(written).unwrap()
}

/// A block of text that tells what it is, and a little noise that does not compress.
fn block(number: u64, version: u64) -> Vec<u8> {
    let mut noise = (number << 32 | version) ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes: Vec<u8> = format!("block {number}, version {version}; ").into_bytes();
    bytes.extend((0..100).map(|_| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise.to_le_bytes()[3]
    }));
    bytes.into_iter().cycle().take(SIZE.bytes()).collect()
}

fn back_up(vault: &Vault, point: u64) {
    let session = vault.begin(&permit(), &"web".parse().unwrap()).unwrap();
    let identity = session.identity().unwrap();
    let mut writer = session.disk_writer(&"os".parse().unwrap(), SIZE, 1 << 20).unwrap();
    let mut encoder = FrameEncoder::new(CompressionLevel::Default).unwrap();
    let changed: Vec<u64> = (0..BLOCKS).filter(|&n| version(n, point) == point).collect();
    for frame in changed.chunks(FRAME) {
        let blocks = frame.iter().map(|&n| (BlockIndex(n), identity.block_hash(&block(n, point)))).collect();
        let plain: Vec<u8> = frame.iter().flat_map(|&n| block(n, point)).collect();
        writer.frame(&encoder.encode(blocks, plain.into()).unwrap()).unwrap();
    }
    let description = DiskDescription { name: "os".parse().unwrap(), role: DiskRole::Os, lun: None };
    let written = writer.finish(ByteLen(BLOCKS * SIZE.bytes_u64())).unwrap();
    let disk = DraftDisk::Stored { description, written, provenance: ChangeProvenance::Scan };
    let draft = Draft {
        disks: vec![disk],
        consistency: ConsistencyLevel::Crash,
        evidence: Vec::new(),
        config: None,
        keys: None,
        bytes_read: 1,
        duration_ms: 1,
    };
    assert_eq!(session.commit(draft).unwrap().point.id.number.0, point);
}

fn sweep_of(vault: &Vault, point: u64) -> SweepReport {
    vault.forget(&permit(), &format!("web@{point}").parse().unwrap()).unwrap();
    vault.sweep(&permit(), &SweepSettings::default(), &CancelToken::new(), &mut |_| {}).unwrap()
}

/// Puts key objects without data keys into `store`; gives those that were there.
fn take_data_keys(store: &InMemory) -> Vec<(Path, Bytes)> {
    let counter = AtomicU64::new(0);
    let entropy = SeededEntropy::new(5);
    let context = SealContext { session: SessionId([5; 16]), counter: &counter, entropy: &entropy };
    let mut before = Vec::new();
    for (path, bytes) in snapshot(store) {
        let Some(ObjectName::Key { .. }) = ObjectName::parse(path.as_ref()) else { continue };
        let opened = open_key_object(&bytes, path.as_ref(), &*kek()).unwrap();
        let OpenedKeys::Keys(keys) = opened else { panic!("{path}") };
        let (prefix, _) = path.as_ref().rsplit_once('/').unwrap();
        let (keys, prefix) = (keys.without(Branch::Data), format!("{prefix}/"));
        let (_, object) = seal_key_object(&keys, &*kek(), &prefix, &context).unwrap();
        block_on(store.put(&path, object.bytes().clone().into())).unwrap();
        before.push((path, bytes));
    }
    before
}

fn make() -> Vec<(String, Bytes)> {
    let store = Arc::new(InMemory::new());
    let vault = Vault::create(Arc::clone(&store) as Arc<dyn ObjectStore>, kek(), ports(1)).unwrap();
    (1..=3).for_each(|point| back_up(&vault, point));
    let thinned = sweep_of(&vault, 1);
    assert!(thinned.repacked > 0 && thinned.unthinned == 0, "{thinned:?}");
    back_up(&vault, 4);
    let keys = take_data_keys(&store);
    let without = Vault::open(Arc::clone(&store) as Arc<dyn ObjectStore>, kek(), ports(2)).unwrap();
    let copied = sweep_of(&without, 2);
    assert!(copied.repacked > 1, "{copied:?}");
    for (path, bytes) in keys {
        block_on(store.put(&path, bytes.into())).unwrap();
    }
    snapshot(&*store).into_iter().map(|(path, bytes)| (path.to_string(), bytes)).collect()
}

#[test]
fn the_same_inputs_make_the_same_vault() {
    let made = make();
    if std::env::var_os("VMKEEP_BLESS").is_some() && !folder(FOLDERS[1]).exists() {
        for (name, bytes) in &made {
            let path = folder(FOLDERS[1]).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    let is_stored = |(name, bytes): &&(String, Bytes)| {
        std::fs::read(folder(FOLDERS[1]).join(name)).is_ok_and(|stored| stored == **bytes)
    };
    let other: Vec<&str> =
        made.iter().filter(|file| !is_stored(file)).map(|(name, _)| name.as_str()).collect();
    // Points name the version that made them, and so do their copies.
    assert!(other.is_empty() || env!("CARGO_PKG_VERSION") != MADE_BY, "not what they were: {other:#?}");
    let len: usize = made.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(len <= 128 << 10, "{len} bytes");
}

#[test]
fn every_object_verifies_and_every_point_restores() {
    FOLDERS.into_iter().for_each(reads);
}

fn reads(name: &str) {
    let vault = Vault::open_folder(folder(name), kek(), ports(9)).unwrap();
    let mut damages = Vec::new();
    let audit =
        vault.audit(&permit(), AuditDepth::Metadata, &CancelToken::new(), &mut |d| damages.push(d)).unwrap();
    assert!(damages.is_empty(), "{damages:?}");
    let accounting = audit.accounting;
    assert!(accounting.unexplained.is_empty() && accounting.garbage.objects == 0, "{accounting:?}");
    for point in KEPT {
        let open = vault.point(&format!("web@{point}").parse().unwrap()).unwrap();
        let disk = open.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
        let wanted: Vec<_> = disk.entries(BlockIndex(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(wanted.len() as u64, BLOCKS);
        let mut fetched = 0;
        disk.fetch(&wanted, &mut |at, bytes| {
            assert_eq!(bytes.unwrap(), block(at.0, version(at.0, point)), "web@{point}, block {at}");
            fetched += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(fetched, BLOCKS);
    }
    assert_eq!(vault.points(&"web".parse().unwrap()).unwrap().len(), KEPT.len());
}
