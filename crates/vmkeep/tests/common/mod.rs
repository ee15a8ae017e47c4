//! What these tests share: vaults made from a seed, small disks, and the two walks in one call each.

#![allow(dead_code, clippy::unwrap_used)] // every test file is a program of its own and uses a part of this

pub(crate) mod damaged;
pub(crate) mod interleaved;
pub(crate) mod vault_of_all_kinds;

use std::collections::BTreeMap;
use std::sync::Arc;
use vmkeep::model::op;
use vmkeep_testkit::permit;

use vmkeep::backup::{self, BackupError, Plan, Report, Source, SourceDisk};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep::model::{
    BlockSize, CancelToken, ConsistencyLevel, DiskDescription, DiskRole, ManualClock, PointRef, SessionId,
    Timestamp, VmName,
};
use vmkeep::object_store::ObjectStore;
use vmkeep::object_store::memory::InMemory;
use vmkeep::restore::{self, Depth, RestoreError, VerifyReport, copy_disk, verify_point, verify_vault};
use vmkeep::vault::{CompressionLevel, FolderStore, Ports, SweepReport, SweepSettings, Vault, VaultError};
use vmkeep_testkit::{Fault, FaultyStore};

/// Block size of the disks here, in bytes.
pub(crate) const BLOCK: usize = 16 << 10;

/// Content of a VM's disks by name.
pub(crate) type Disks = BTreeMap<String, Vec<u8>>;

/// A clock that stands and a random source that repeats itself for the same `seed`.
pub(crate) fn ports(seed: u64) -> Ports {
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
    Ports { clock, entropy: Arc::new(SeededEntropy::new(seed)) }
}

/// As [`ports`], two days later: what was abandoned then counts as abandoned.
pub(crate) fn later_ports(seed: u64) -> Ports {
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000 + 8 * 24 * 60 * 60 * 1000)));
    Ports { clock, ..ports(seed) }
}

/// The key that the vaults here are opened with.
pub(crate) fn kek() -> Arc<KeyFileVault> {
    kek_of(7)
}

pub(crate) fn kek_of(byte: u8) -> Arc<KeyFileVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [byte; 32])))
}

/// Runs `test` over an empty store of every kind: in memory, in a folder, and in memory with a network that loses
/// every third answer to a create.
pub(crate) fn for_each_store(test: impl Fn(Arc<dyn ObjectStore>)) {
    // Shown when the test fails.
    println!("over memory");
    test(Arc::new(InMemory::new()));
    println!("over a folder");
    let folder = tempfile::tempdir().unwrap();
    test(Arc::new(FolderStore::open(folder.path(), SessionId([0xfe; 16])).unwrap()));
    println!("over a store that loses answers");
    let lost = (0..CREATES_MAX).step_by(3).map(Fault::LostAck);
    let flaky = FaultyStore::counting_only(Arc::new(InMemory::new()), lost, |call| call.if_absent);
    test(Arc::new(flaky.clone()));
    assert!((1..CREATES_MAX).contains(&flaky.calls()), "answers were lost to the end");
}

/// More creates than a test makes.
const CREATES_MAX: u64 = 10_000;

pub(crate) fn create(store: Arc<dyn ObjectStore>, seed: u64) -> Vault {
    Vault::create(store, kek(), ports(seed)).unwrap()
}

pub(crate) fn open(store: Arc<dyn ObjectStore>, seed: u64) -> Vault {
    Vault::open(store, kek(), ports(seed)).unwrap()
}

pub(crate) fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

pub(crate) fn point_ref(point: &str) -> PointRef {
    point.parse().unwrap()
}

/// One worker: the same input gives the same store calls in the same order.
pub(crate) fn inline() -> backup::Settings {
    backup::Settings {
        level: CompressionLevel::Default,
        block_size: BlockSize::MIN,
        workers: 1,
        memory_bytes: backup::Settings::MEMORY_MIN,
        ..backup::Settings::default()
    }
}

pub(crate) fn reading() -> restore::Settings {
    restore::Settings { workers: 1, memory_bytes: 8 << 20 }
}

/// `len` bytes that no compressor makes smaller (`SplitMix64`).
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// A block that compresses to about `noisy` bytes.
pub(crate) fn block(seed: u64, noisy: usize) -> Vec<u8> {
    let mut block = noise(seed, noisy);
    block.resize(BLOCK, b'.');
    block
}

/// A disk of these blocks; `None` is a block of zeros.
pub(crate) fn disk(blocks: &[Option<Vec<u8>>]) -> Vec<u8> {
    blocks.iter().flat_map(|block| block.clone().unwrap_or_else(|| vec![0; BLOCK])).collect()
}

/// Sets block `number` of `disk`.
pub(crate) fn set_block(disk: &mut [u8], number: usize, content: &[u8]) {
    disk[number * BLOCK..(number + 1) * BLOCK].copy_from_slice(content);
}

pub(crate) fn disks<const N: usize>(disks: [(&str, Vec<u8>); N]) -> Disks {
    disks.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect()
}

pub(crate) fn description(name: &str) -> DiskDescription {
    let role = if name == "os" { DiskRole::Os } else { DiskRole::Data };
    DiskDescription { name: name.parse().unwrap(), role, lun: None }
}

pub(crate) fn plan<'a>(vm_name: &str, sources: &[(&str, &'a dyn BlockRead)]) -> Plan<'a> {
    let disk = |(name, read): &(&str, &'a dyn BlockRead)| SourceDisk {
        description: description(name),
        source: Source::Read(*read),
    };
    Plan {
        vm: vm(vm_name),
        disks: sources.iter().map(disk).collect(),
        consistency: ConsistencyLevel::Crash,
        keys: Vec::new(),
        evidence: vec!["nobody froze the disks".to_owned()],
        labels: vmkeep::model::Labels::default(),
        config: Some(b"<domain/>".to_vec()),
        snapshot: None,
        guard: None,
    }
}

/// Backs up `disks` as the next point of `vm_name`.
pub(crate) fn back_up(vault: &Vault, vm_name: &str, disks: &Disks) -> Result<Report, BackupError> {
    back_up_with(vault, vm_name, disks, &inline())
}

pub(crate) fn back_up_with(
    vault: &Vault,
    vm_name: &str,
    disks: &Disks,
    settings: &backup::Settings,
) -> Result<Report, BackupError> {
    let memory: Vec<(&str, Memory)> =
        disks.iter().map(|(name, bytes)| (name.as_str(), Memory::from(bytes.clone()))).collect();
    let sources: Vec<(&str, &dyn BlockRead)> =
        memory.iter().map(|(name, disk)| (*name, disk as &dyn BlockRead)).collect();
    backup::run(&permit(), vault, &plan(vm_name, &sources), settings, &backup::Silent, &CancelToken::new())
}

/// Every disk of a point, copied out.
pub(crate) fn restore(vault: &Vault, point: &str) -> Result<Disks, RestoreError> {
    let point = vault.point(&point_ref(point))?;
    let mut found = Disks::new();
    for name in point.stored_disks() {
        let disk = point.disk(&permit::<op::Restore>(), name)?;
        let target = Memory::new(usize::try_from(disk.size().0).unwrap());
        let copied = copy_disk(&disk, &target, &reading(), &restore::Silent, &CancelToken::new())?;
        assert_eq!(copied.size, disk.size());
        found.insert(name.to_string(), target.to_vec());
    }
    Ok(found)
}

/// As [`restore`], without telling the bytes when they are wrong.
#[track_caller]
pub(crate) fn assert_restores(vault: &Vault, point: &str, expected: &Disks, when: &str) {
    match restore(vault, point) {
        Ok(found) => assert!(found == *expected, "{when}: {point} restores to other bytes"),
        Err(e) => panic!("{when}: {point} does not restore: {e:?}"),
    }
}

pub(crate) fn verify(vault: &Vault, depth: Depth) -> Result<VerifyReport, RestoreError> {
    verify_vault(&permit(), vault, depth, &reading(), &restore::Silent, &CancelToken::new())
}

/// Verifies every byte of one point and of the whole vault.
#[track_caller]
pub(crate) fn assert_point_whole(vault: &Vault, point: &str, expected: &Disks, when: &str) {
    let open = vault.point(&point_ref(point)).unwrap_or_else(|e| panic!("{when}: {point}: {e:?}"));
    let report =
        verify_point(&permit(), &open, Depth::Data, &reading(), &restore::Silent, &CancelToken::new());
    let report = report.unwrap_or_else(|e| panic!("{when}: {point}: {e:?}"));
    assert!(report.is_clean(), "{when}: {point}: {report:?}");
    assert_restores(vault, point, expected, when);
}

/// Nothing is damaged or unexplained; garbage is allowed.
#[track_caller]
pub(crate) fn assert_vault_clean(vault: &Vault, when: &str) -> VerifyReport {
    let report = verify(vault, Depth::Data).unwrap_or_else(|e| panic!("{when}: {e:?}"));
    assert!(report.is_clean(), "{when}: {report:?}");
    let accounting = report.accounting.as_ref().unwrap();
    assert!(accounting.unexplained.is_empty(), "{when}: {accounting:?}");
    report
}

/// Sweeps the whole vault.
#[track_caller]
pub(crate) fn sweep(vault: &Vault) -> SweepReport {
    vault.sweep(&permit(), &SweepSettings::default(), &CancelToken::new(), &mut |_| {}).unwrap()
}

/// The vault's error within a backup's.
pub(crate) fn vault_error(error: &BackupError) -> Option<&VaultError> {
    match error {
        BackupError::Store(e) | BackupError::Commit(e) => Some(e),
        _ => None,
    }
}
