//! A whole vault that stays for ever: every later release opens it, verifies it and restores it byte for byte.
//!
//! It was made by version 1 from a fixed key, a clock that is set and a random source with a seed, so it can be made
//! again: the same inputs give the same bytes, object by object. That second check also pins the bytes that zstd makes,
//! which are the same for one version of the library (see Cargo.lock) and no promise of the format. When a new
//! zstd makes other bytes, only that check falls, and it goes on with a new vault beside this one. A point also names
//! the software that made it, so under another version of vmkeep the points and their copies come out otherwise.
//!
//! With `VMKEEP_BLESS=1` the folder is written when it is not there. It is never changed.
#![allow(clippy::unwrap_used)] // in helpers too

use std::collections::BTreeMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use vmkeep_model::op;
use vmkeep_testkit::permit;

use bytes::Bytes;
use vmkeep_envelope::{KeyFileVault, SecretKey, SeededEntropy};
use vmkeep_model::{
    BlockIndex, BlockRun, BlockSize, ByteLen, CancelToken, ChangeProvenance, ConsistencyLevel, ContentHash,
    DiskDescription, DiskName, DiskRole, ManualClock, Timestamp,
};
use vmkeep_testkit::snapshot;
use vmkeep_vault::object_store::ObjectStore;
use vmkeep_vault::object_store::memory::InMemory;
use vmkeep_vault::{
    AuditDepth, CompressionLevel, Draft, DraftDisk, FrameEncoder, JournalEntry, Ports, Session, Vault,
    WrittenDisk,
};

const SIZE: BlockSize = BlockSize::MIN;
const LEN_MAX: u64 = 64 << 10;
/// The version of vmkeep that the stored points name.
const MADE_BY: &str = "0.1.0";
const BEGAN: i64 = 1_700_000_000_000;

/// The vaults, oldest first. The last is what is written today; all of them are read for ever.
///
/// `vault-v1`: as first written. `vault-v1-copy`: points say where their copy lies. `vault-v1-who`: entries of journals say who.
const FOLDERS: [&str; 3] = ["vault-v1", "vault-v1-copy", "vault-v1-who"];

fn folder(name: &str) -> PathBuf {
    FsPath::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn kek() -> Arc<KeyFileVault> {
    Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [0x4b; 32])))
}

/// A block of text that tells what it is, and a little noise that does not compress.
fn block(name: &str, number: u64, version: u64) -> Vec<u8> {
    let mut noise = (number << 32 | version) ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes: Vec<u8> = format!("block {number} of disk {name}, version {version}; ").into_bytes();
    bytes.extend((0..200).map(|_| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        noise.to_le_bytes()[3]
    }));
    bytes.into_iter().cycle().take(SIZE.bytes()).collect()
}

/// A disk of the versions of its blocks (0 is a block of zeros), `cut` bytes short of whole blocks.
fn disk(name: &str, versions: &[u64], cut: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..)
        .zip(versions)
        .flat_map(|(n, &version)| if version == 0 { vec![0; SIZE.bytes()] } else { block(name, n, version) })
        .collect();
    bytes.truncate(bytes.len() - cut);
    bytes
}

/// Stored disks of a point, with all their bytes.
type Disks = Vec<(&'static str, Vec<u8>)>;

/// The points of the vault: VM, number, disks.
fn points() -> Vec<(&'static str, u64, Disks)> {
    let os1 = disk("os", &[1, 1, 0, 1, 0, 0, 1], 1000);
    // Changed, zeroed, filled, and grown by two blocks; block 6, the tail, is now whole.
    let os2 = disk("os", &[1, 2, 2, 0, 0, 0, 2, 0, 2], 7);
    // Shrunk.
    let os4 = disk("os", &[1, 2, 2, 0, 3], 0);
    vec![
        ("web", 1, vec![("os", os1), ("data", disk("data", &[0, 0], 0))]),
        ("web", 2, vec![("os", os2.clone()), ("data", disk("data", &[2, 0, 2], 0))]),
        // Number 3 is void.
        ("web", 4, vec![("os", os4)]),
        ("web", 5, vec![("os", os2)]),
        ("db", 1, vec![("os", disk("db", &[9, 9], 16_000))]),
    ]
}

fn written(session: &Session, name: &DiskName, bytes: &[u8]) -> WrittenDisk {
    let before: BTreeMap<BlockIndex, ContentHash> = match session.base_disk(name).unwrap() {
        Some(base) => base.hashes(BlockIndex(0)).collect::<Result<_, _>>().unwrap(),
        None => BTreeMap::new(),
    };
    let identity = session.identity().unwrap();
    let mut writer = session.disk_writer(name, SIZE, 1 << 20).unwrap();
    let mut encoder = FrameEncoder::new(CompressionLevel::Best).unwrap();
    for (n, part) in (0..).map(BlockIndex).zip(bytes.chunks(SIZE.bytes())) {
        let mut padded = part.to_vec();
        padded.resize(SIZE.bytes(), 0);
        if padded.iter().all(|&b| b == 0) {
            if before.contains_key(&n) {
                writer.zero(BlockRun { start: n, len: 1 }).unwrap();
            }
            continue;
        }
        let hash = identity.block_hash(&padded);
        if before.get(&n) != Some(&hash) {
            writer.frame(&encoder.encode(vec![(n, hash)], padded.into()).unwrap()).unwrap();
        }
    }
    writer.finish(ByteLen(bytes.len() as u64)).unwrap()
}

fn description(name: &str, role: DiskRole, lun: Option<u32>) -> DiskDescription {
    DiskDescription { name: name.parse().unwrap(), role, lun }
}

/// Makes the vault: five points of two VMs, one of them forgotten; a voided session, and one that is still open.
fn make() -> BTreeMap<String, Bytes> {
    let clock = Arc::new(ManualClock::new(Timestamp(BEGAN)));
    let store = Arc::new(InMemory::new());
    let entropy = Arc::new(SeededEntropy::new(1));
    let ports = Ports { clock: Arc::clone(&clock) as _, entropy };
    let vault = Vault::create(Arc::clone(&store) as Arc<dyn ObjectStore>, kek(), ports).unwrap();
    for (now, (vm, number, disks)) in (1..).zip(points()) {
        clock.set(Timestamp(BEGAN + now * 3_600_000));
        let session = vault.begin(&permit(), &vm.parse().unwrap()).unwrap();
        assert_eq!(session.target().0, number);
        let mut drafts = vec![DraftDisk::Described {
            description: description("scratch", DiskRole::Temporary, None),
            size: ByteLen(8 << 30),
        }];
        for (lun, (name, bytes)) in (0..).zip(disks) {
            let role = if name == "os" { DiskRole::Os } else { DiskRole::Data };
            let written = written(&session, &name.parse().unwrap(), &bytes);
            let provenance = if number == 1 { ChangeProvenance::Full } else { ChangeProvenance::Scan };
            drafts.push(DraftDisk::Stored {
                description: description(name, role, Some(lun)),
                written,
                provenance,
            });
        }
        let draft = Draft {
            disks: drafts,
            consistency: ConsistencyLevel::FileSystem,
            evidence: vec!["the guest agent froze it".to_owned()],
            config: Some(format!("<domain>{vm}</domain>").into_bytes()),
            keys: None,
            bytes_read: 12_345,
            duration_ms: 678,
        };
        session.commit(draft).unwrap();
        if (vm, number) == ("web", 2) {
            let abandoned = vault.begin(&permit(), &"web".parse().unwrap()).unwrap();
            assert!(vault.void_session(&permit(), abandoned.id()).unwrap());
        }
    }
    assert!(vault.forget(&permit(), &"web@2".parse().unwrap()).unwrap().forgotten);
    drop(vault.begin(&permit(), &"db".parse().unwrap()).unwrap());
    snapshot(&*store).into_iter().map(|(path, bytes)| (path.to_string(), bytes)).collect()
}

/// Every file under the golden folder, by its path from there.
fn stored(name: &str) -> BTreeMap<String, Bytes> {
    fn collect(at: &FsPath, name: &str, files: &mut BTreeMap<String, Bytes>) {
        for entry in std::fs::read_dir(at)
            .unwrap_or_else(|e| panic!("{}: {e}; VMKEEP_BLESS=1 writes it", at.display()))
        {
            let entry = entry.unwrap();
            let name = format!("{name}{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                collect(&entry.path(), &format!("{name}/"), files);
            } else {
                files.insert(name, std::fs::read(entry.path()).unwrap().into());
            }
        }
    }
    let mut files = BTreeMap::new();
    collect(&folder(name), "", &mut files);
    files
}

fn opened(name: &str) -> Vault {
    let ports = Ports {
        clock: Arc::new(ManualClock::new(Timestamp(BEGAN))),
        entropy: Arc::new(SeededEntropy::new(99)),
    };
    Vault::open_folder(folder(name), kek(), ports).unwrap()
}

#[test]
fn the_same_inputs_make_the_same_vault() {
    let made = make();
    let today = FOLDERS[FOLDERS.len() - 1];
    if std::env::var_os("VMKEEP_BLESS").is_some() && !folder(today).exists() {
        for (name, bytes) in &made {
            let path = folder(today).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }
    let stored = stored(today);
    assert_eq!(made.len(), stored.len());
    let other: Vec<&String> =
        stored.iter().filter(|(name, bytes)| made.get(*name) != Some(*bytes)).map(|(name, _)| name).collect();
    // Of each point its record and the two packs that hold its copy.
    let named = if env!("CARGO_PKG_VERSION") == MADE_BY { 0 } else { 3 * points().len() };
    assert_eq!(other.len(), named, "not what they were: {other:#?}");
    let len: u64 = stored.values().map(|bytes| bytes.len() as u64).sum();
    assert!(len <= LEN_MAX, "{len} bytes");
}

#[test]
fn every_object_of_every_golden_vault_verifies() {
    for name in FOLDERS {
        each_object_of_every_golden_vault_verifies(name);
    }
}

fn each_object_of_every_golden_vault_verifies(name: &str) {
    let vault = opened(name);
    let mut damages = Vec::new();
    let audit =
        vault.audit(&permit(), AuditDepth::Metadata, &CancelToken::new(), &mut |d| damages.push(d)).unwrap();
    assert!(damages.is_empty(), "{damages:?}");
    let accounting = audit.accounting;
    assert!(accounting.unexplained.is_empty(), "{accounting:?}");
    // The session of `db` that never ended, and that of `web` that was voided.
    assert_eq!((accounting.in_progress.objects, accounting.garbage.objects), (1, 1), "{accounting:?}");
    let sum = accounting.live.bytes + accounting.garbage.bytes + accounting.in_progress.bytes;
    assert_eq!(sum, stored(name).values().map(|bytes| bytes.len() as u64).sum::<u64>());
    assert_eq!(audit.points.len(), points().len());
    let entries: Vec<JournalEntry> =
        vault.journal().unwrap().into_iter().map(|record| record.entry).collect();
    assert_eq!(entries, [JournalEntry::VaultCreated]);
}

#[test]
fn every_point_of_every_golden_vault_restores() {
    for name in FOLDERS {
        each_point_of_every_golden_vault_restores(name);
    }
}

fn each_point_of_every_golden_vault_restores(name: &str) {
    let vault = opened(name);
    for (vm, number, disks) in points() {
        let open = vault.point(&format!("{vm}@{number}").parse().unwrap()).unwrap();
        let point = open.point();
        assert_eq!(point.forgotten, (vm, number) == ("web", 2));
        assert_eq!(point.consistency, ConsistencyLevel::FileSystem);
        assert_eq!(open.config(&permit()).unwrap(), Some(format!("<domain>{vm}</domain>").as_bytes()));
        assert_eq!(point.disks[0].description, description("scratch", DiskRole::Temporary, None));
        assert_eq!(open.stored_disks().count(), disks.len());
        for (name, expected) in disks {
            let disk = open.disk(&permit::<op::Restore>(), &name.parse().unwrap()).unwrap();
            let mut found = vec![0; expected.len().next_multiple_of(SIZE.bytes())];
            let wanted: Vec<_> = disk.entries(BlockIndex(0)).unwrap().map(Result::unwrap).collect();
            disk.fetch(&wanted, &mut |block, bytes| {
                let at = usize::try_from(block.0).unwrap() * SIZE.bytes();
                found[at..at + SIZE.bytes()].copy_from_slice(bytes.unwrap());
                Ok(())
            })
            .unwrap();
            assert_eq!(disk.size().0, expected.len() as u64);
            assert!(found[..expected.len()] == expected && found[expected.len()..].iter().all(|&b| b == 0));
        }
    }
    let points = vault.points(&"web".parse().unwrap()).unwrap();
    assert_eq!(points.iter().map(|p| p.id.number.0).collect::<Vec<_>>(), [1, 2, 4, 5]);
    assert_eq!(vault.point(&"web@latest".parse().unwrap()).unwrap().point().id.number.0, 5);
    assert!(vault.point(&"web@3".parse().unwrap()).is_err());
}
