//! Small writes stay small: of a block of which little changed, the changed pages are stored and nothing else.
//!
//! Whatever is known of the pages of the point before (their fingerprints, the block itself, or nothing) and whatever
//! happened to the file that knows it: every point restores to what the disk was.
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/swept.rs"]
mod swept;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use vmkeep::model::op;
use vmkeep_testkit::permit;

use common::*;
use proptest::prelude::*;
use swept::sweep_all;
use vmkeep::backup::{self, Compare, Event, Pages, Report};
use vmkeep::blockdiff::{FingerprintFile, Fingerprints, PageHasher};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::model::{BlockIndex, BlockSize, ByteLen, CancelToken, PAGE_SIZE};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::map::Entry;
use vmkeep::vault::{CompressionLevel, Vault};
use vmkeep_testkit::{Fault, FaultyStore};

fn settings(folder: Option<&Path>, compare: Compare) -> backup::Settings {
    let pages = Pages { folder: folder.map(Path::to_owned), limit: None, compare };
    backup::Settings { block_size: BlockSize::default(), pages, ..inline() }
}

/// Backs up the disk `os` and tells whether fingerprints were found wrong.
fn back_up_os(vault: &Vault, os: &[u8], settings: &backup::Settings) -> (Report, bool) {
    let (memory, wrong) = (Memory::from(os.to_vec()), Mutex::new(false));
    let hears = |event: Event<'_>| {
        if matches!(event, Event::FingerprintsWrong { .. }) {
            *wrong.lock().unwrap() = true;
        }
        assert!(!matches!(event, Event::FingerprintsUnusable { .. }));
    };
    let plan = plan("web", &[("os", &memory as &dyn BlockRead)]);
    let report = backup::run(&permit(), vault, &plan, settings, &hears, &CancelToken::new()).unwrap();
    (report, wrong.into_inner().unwrap())
}

fn entries(vault: &Vault, point: &str) -> Vec<(BlockIndex, Entry)> {
    let point = vault.point(&point_ref(point)).unwrap();
    let disk = point.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
    disk.entries(BlockIndex(0)).unwrap().map(Result::unwrap).collect()
}

/// The only file of fingerprints in `folder`.
fn file_in(folder: &Path) -> std::path::PathBuf {
    let mut files = fs::read_dir(folder.join("fingerprints")).unwrap();
    files.next().unwrap().unwrap().path()
}

#[derive(Clone, Debug)]
enum Knows {
    Fingerprints,
    FingerprintsThatWere(Fate),
    Content,
    Nothing,
}

/// What became of the file of fingerprints since the run before.
#[derive(Clone, Debug)]
enum Fate {
    Deleted,
    CutShort(u8),
    Older(usize),
    Noise(u16),
}

#[derive(Clone, Debug)]
struct Round {
    knows: Knows,
    /// Pages to write, and what with: 0 is zeros.
    writes: Vec<(usize, u8)>,
    workers: usize,
    forget: bool,
}

const BLOCKS: usize = 24;

fn round() -> impl Strategy<Value = Round> {
    let fate = prop_oneof![
        Just(Fate::Deleted),
        any::<u8>().prop_map(Fate::CutShort),
        (0_usize..6).prop_map(Fate::Older),
        any::<u16>().prop_map(Fate::Noise),
    ];
    let knows = prop_oneof![
        3 => Just(Knows::Fingerprints),
        3 => fate.prop_map(Knows::FingerprintsThatWere),
        2 => Just(Knows::Content),
        1 => Just(Knows::Nothing),
    ];
    let page = prop_oneof![0_usize..BLOCKS * 16, 0_usize..40];
    let writes = prop::collection::vec((page, 0_u8..6), 0..40);
    (knows, writes, 1_usize..4, prop::bool::weighted(0.2))
        .prop_map(|(knows, writes, workers, forget)| Round { knows, writes, workers, forget })
}

fn spoil(file: &Path, fate: &Fate, kept: &[Vec<u8>]) {
    let Ok(mut bytes) = fs::read(file) else { return };
    match fate {
        Fate::Deleted => return fs::remove_file(file).unwrap(),
        Fate::CutShort(part) => bytes.truncate(bytes.len() * usize::from(*part) / 256),
        Fate::Older(run) => {
            if let Some(older) = kept.get(*run) {
                bytes.clone_from(older);
            }
        }
        Fate::Noise(seed) => {
            let at = usize::from(*seed) % bytes.len().max(1);
            let noise = noise(u64::from(*seed), 300.min(bytes.len() - at));
            bytes[at..at + noise.len()].copy_from_slice(&noise);
        }
    }
    fs::write(file, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_round_of_page_writes_restores(rounds in prop::collection::vec(round(), 1..8), cut in 0_usize..3 * PAGE_SIZE) {
        let vault = create(Arc::new(InMemory::new()), 1);
        let folder = tempfile::tempdir().unwrap();
        let mut disk = noise(5, BLOCKS * 65_536 - cut);
        let (mut versions, mut kept, mut forgotten) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (number, round) in (1_usize..).zip(&rounds) {
            for (write, &(page, content)) in (0_u64..).zip(&round.writes) {
                let start = (page * PAGE_SIZE).min(disk.len());
                let end = (start + PAGE_SIZE).min(disk.len());
                // Few contents, so that pages also come back to what they were.
                let bytes = if content == 0 { vec![0; end - start] } else { noise((u64::from(content) << 32) | (write % 2), end - start) };
                disk[start..end].copy_from_slice(&bytes);
            }
            let prints = folder.path().join("fingerprints");
            let of = |folder, compare| backup::Settings { workers: round.workers, memory_bytes: 64 << 20, ..settings(folder, compare) };
            let settings = match &round.knows {
                Knows::Fingerprints => of(Some(folder.path()), Compare::Never),
                Knows::FingerprintsThatWere(fate) => {
                    if prints.exists() {
                        spoil(&file_in(folder.path()), fate, &kept);
                    }
                    of(Some(folder.path()), Compare::Always)
                }
                Knows::Content => of(None, Compare::Always),
                Knows::Nothing => of(None, Compare::Never),
            };
            let (_, wrong) = back_up_os(&vault, &disk, &settings);
            prop_assert!(!wrong, "an entry that is not of that very content is never taken");
            if prints.exists() {
                kept.push(fs::read(file_in(folder.path())).unwrap());
            }
            versions.push(disk.clone());
            if round.forget && number > 1 {
                vault.forget(&permit(), &point_ref(&format!("web@{}", number - 1))).unwrap();
                forgotten.insert(number - 1);
                sweep_all(&vault);
            }
        }
        for (number, version) in (1..).zip(&versions).filter(|(number, _)| !forgotten.contains(number)) {
            assert_point_whole(&vault, &format!("web@{number}"), &disks([("os", version.clone())]), "at the end");
        }
        assert_vault_clean(&vault, "at the end");
    }
}

/// A disk of `blocks` blocks of noise, stored with the fingerprints in `folder`.
fn first(vault: &Vault, folder: &Path, blocks: usize) -> Vec<u8> {
    let disk = noise(5, blocks * 65_536);
    let (report, _) = back_up_os(vault, &disk, &settings(Some(folder), Compare::Never));
    assert_eq!(report.disks[0].patched.blocks, 0);
    disk
}

#[test]
fn a_page_costs_about_a_page_however_it_is_known() {
    for (what, with_folder, compare) in
        [("fingerprints", true, Compare::Never), ("the content", false, Compare::Always)]
    {
        let vault = create(Arc::new(InMemory::new()), 1);
        let folder = tempfile::tempdir().unwrap();
        let mut disk = first(&vault, folder.path(), 64);
        disk[40 * 65_536 + 7 * PAGE_SIZE + 100] ^= 1;
        let (report, _) = back_up_os(&vault, &disk, &settings(with_folder.then(|| folder.path()), compare));
        let of = &report.disks[0];
        assert_eq!((of.patched.blocks, of.patched.pages, of.whole_unknown), (1, 1, 0), "by {what}");
        // The page, its slot and footer; two copies of a leaf and of what the point needs beside it.
        assert!(report.stored.data < 4096 + 512, "by {what}: {:?}", report.stored);
        assert!(report.stored.metadata < 8 << 10, "by {what}: {:?}", report.stored);
    }
}

#[test]
fn without_either_the_block_is_stored_and_counted() {
    let vault = create(Arc::new(InMemory::new()), 1);
    let folder = tempfile::tempdir().unwrap();
    let mut disk = first(&vault, folder.path(), 8);
    disk[3 * 65_536] ^= 1;
    let (report, _) = back_up_os(&vault, &disk, &settings(None, Compare::Never));
    let of = &report.disks[0];
    assert_eq!((of.patched.blocks, of.bytes_changed), (0, 65_536));
    let (report, _) = back_up_os(&vault, &disk, &settings(Some(folder.path()), Compare::Never));
    assert_eq!(report.disks[0].bytes_changed, 0);
    // The fingerprints are of the first point, and the block is of the second.
    disk[3 * 65_536] ^= 1;
    let (report, _) = back_up_os(&vault, &disk, &settings(Some(folder.path()), Compare::Never));
    let of = &report.disks[0];
    assert_eq!((of.patched.blocks, of.whole_unknown), (0, 1));
}

#[test]
fn a_patch_takes_up_the_one_before_and_past_half_the_block_is_stored() {
    let vault = create(Arc::new(InMemory::new()), 1);
    let folder = tempfile::tempdir().unwrap();
    let mut disk = first(&vault, folder.path(), 4);
    let settings = settings(Some(folder.path()), Compare::Never);
    let base = entries(&vault, "web@1")[2].1.clone();
    for page in 0..9 {
        disk[2 * 65_536 + page * PAGE_SIZE] ^= 1;
        back_up_os(&vault, &disk, &settings);
        let point = format!("web@{}", page + 2);
        match (&base, &entries(&vault, &point)[2].1) {
            (Entry::Full { at, .. }, Entry::Patched { base, pages, .. }) if page < 8 => {
                assert_eq!((base, pages.pages().collect::<Vec<_>>()), (at, (0..=page).collect()));
            }
            (_, Entry::Full { .. }) if page == 8 => {}
            (_, entry) => panic!("{point}: {entry:?}"),
        }
        assert_point_whole(&vault, &point, &disks([("os", disk.clone())]), "after the backup");
    }
}

#[test]
fn fingerprints_of_another_disk_or_key_are_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (create(Arc::new(InMemory::new()), 1), create(Arc::new(InMemory::new()), 2));
    let mut disk = first(&one, folder.path(), 8);
    let of_one = fs::read(file_in(folder.path())).unwrap();
    fs::remove_file(file_in(folder.path())).unwrap();
    first(&two, folder.path(), 8);
    fs::write(file_in(folder.path()), of_one).unwrap();
    disk[0] ^= 1;
    let (report, wrong) = back_up_os(&two, &disk, &settings(Some(folder.path()), Compare::Never));
    assert_eq!((report.disks[0].patched.blocks, report.disks[0].whole_unknown, wrong), (0, 1, false));
}

#[test]
fn many_small_writes_share_frames_at_every_level() {
    for level in [CompressionLevel::Fast, CompressionLevel::Default, CompressionLevel::Best] {
        let vault = create(Arc::new(InMemory::new()), 1);
        let folder = tempfile::tempdir().unwrap();
        let mut disk = first(&vault, folder.path(), 512);
        let settings = backup::Settings { level, ..settings(Some(folder.path()), Compare::Never) };
        for block in 0..512 {
            disk[block * 65_536 + (block % 16) * PAGE_SIZE] ^= 1;
        }
        let (report, _) = back_up_os(&vault, &disk, &settings);
        assert_eq!(report.disks[0].patched.pages, 512);
        let slots: BTreeSet<_> = entries(&vault, "web@2")
            .iter()
            .map(|(_, entry)| match entry {
                Entry::Patched { patch, .. } => (patch.at.pack, patch.at.slot),
                Entry::Full { .. } => panic!("every block is patched"),
            })
            .collect();
        assert_eq!(slots.len(), 512 * PAGE_SIZE / level.frame_bytes());
        // Two MiB of pages, and for each block its places in a footer and a map.
        assert!(report.stored.data < (512 * PAGE_SIZE) as u64 * 102 / 100, "{:?}", report.stored);
        assert!(report.stored.metadata < 512 * 48 * 2, "{:?}", report.stored);
        assert_point_whole(&vault, "web@2", &disks([("os", disk)]), "after the backup");
    }
}

/// Fingerprints that say of block 0 that its page 1 is what it was, which it is not.
fn lie(vault: &Vault, folder: &Path, before: &[u8], now: &[u8]) {
    let session = vault.begin(&permit(), &vm("web")).unwrap();
    let identity = session.identity().unwrap();
    let hasher = PageHasher::new(identity.page_secret());
    let (size, path) = (BlockSize::default(), file_in(folder));
    let limit = ByteLen(u64::MAX);
    let file = FingerprintFile::open(&path, size, ByteLen(before.len() as u64), limit, hasher.clone(), 9);
    let (mut old, mut new) = (Vec::new(), Vec::new());
    hasher.pages(&before[..65_536], &mut old);
    hasher.pages(&now[..65_536], &mut new);
    old[1] = new[1];
    let file = file.unwrap();
    assert!(!file.is_new());
    file.put(BlockIndex(0), identity.block_hash(&before[..65_536]), &old);
}

#[test]
fn fingerprints_that_lie_are_found_and_the_disk_is_scanned_without_them() {
    let vault = create(Arc::new(InMemory::new()), 1);
    let folder = tempfile::tempdir().unwrap();
    let before = first(&vault, folder.path(), 8);
    let mut now = before.clone();
    for page in [1, 2] {
        now[page * PAGE_SIZE] ^= 1;
    }
    lie(&vault, folder.path(), &before, &now);
    let (report, wrong) = back_up_os(&vault, &now, &settings(Some(folder.path()), Compare::Never));
    assert!(wrong);
    assert_eq!((report.disks[0].patched.blocks, report.disks[0].whole_unknown), (0, 1));
    assert_point_whole(&vault, "web@2", &disks([("os", now.clone())]), "after the backup");
    assert_vault_clean(&vault, "after the backup");
    // What lied is forgotten, and what is learnt anew serves again.
    back_up_os(&vault, &now, &settings(Some(folder.path()), Compare::Never));
    now[0] ^= 1;
    let (report, wrong) = back_up_os(&vault, &now, &settings(Some(folder.path()), Compare::Never));
    assert_eq!((report.disks[0].patched.pages, wrong), (1, false));
}

#[test]
fn a_backup_killed_at_any_store_call_leaves_fingerprints_that_do_no_harm() {
    let before = noise(5, 12 * 65_536);
    let mut now = before.clone();
    for page in [3, 40, 41, 100, 150] {
        now[page * PAGE_SIZE] ^= 1;
    }
    now[9 * 65_536..10 * 65_536].fill(0);
    let mut later = now.clone();
    for page in [3, 42, 151, 180] {
        later[page * PAGE_SIZE + 9] ^= 1;
    }
    let run = |stop: Option<u64>| -> u64 {
        let store = Arc::new(InMemory::new());
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(Some(folder.path()), Compare::Never);
        back_up_os(&create(Arc::clone(&store) as _, 1), &before, &settings);
        let faulty = FaultyStore::new(Arc::clone(&store) as _, stop.map(Fault::StopAfter));
        let killed = Vault::open(Arc::new(faulty.clone()), kek(), ports(2))
            .map(|vault| back_up_with(&vault, "web", &disks([("os", now.clone())]), &settings).is_ok());
        let when = format!("stopped after call {stop:?}: {killed:?}");
        // The next backup finds the file as the killed one left it.
        let vault = open(Arc::clone(&store) as _, 3);
        back_up_os(&vault, &later, &settings);
        let newest = vault.point(&point_ref("web@latest")).unwrap().point().id.number;
        assert_point_whole(&vault, "web@1", &disks([("os", before.clone())]), &when);
        assert_point_whole(&vault, &format!("web@{newest}"), &disks([("os", later.clone())]), &when);
        assert_vault_clean(&vault, &when);
        faulty.calls()
    };
    let calls = run(None);
    assert!(calls > 10);
    for call in 0..calls {
        run(Some(call));
    }
}

#[test]
fn one_worker_and_many_store_the_same() {
    let mut kinds = Vec::new();
    for workers in [1, 4] {
        let vault = create(Arc::new(InMemory::new()), 1);
        let folder = tempfile::tempdir().unwrap();
        let settings = backup::Settings {
            workers,
            memory_bytes: 64 << 20,
            ..settings(Some(folder.path()), Compare::Never)
        };
        let mut disk = noise(5, 300 * 65_536);
        back_up_os(&vault, &disk, &settings);
        for round in 0..3_usize {
            for n in 0..120 {
                let page = (n * 37 + round * 11) % (300 * 16);
                disk[page * PAGE_SIZE] ^= 1;
            }
            disk[round * 20 * 65_536..(round * 20 + 3) * 65_536].fill(u8::from(round == 1));
            back_up_os(&vault, &disk, &settings);
        }
        let kind = |(block, entry): (BlockIndex, Entry)| match entry {
            Entry::Full { at, .. } => (block, at.birth, None),
            Entry::Patched { base, patch, pages, .. } => (block, base.birth, Some((patch.birth, pages))),
        };
        let content = |n| vault.point(&point_ref(&format!("web@{n}"))).unwrap().point().disks[0].clone();
        let found: Vec<_> = entries(&vault, "web@4").into_iter().map(kind).collect();
        kinds.push((found, (1..=4).map(content).collect::<Vec<_>>()));
    }
    // The identity keys are from the same seed, so the content's identity can be compared too.
    assert!(kinds[0] == kinds[1]);
}
