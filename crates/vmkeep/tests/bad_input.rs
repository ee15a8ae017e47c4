//! Whatever the world does wrong ends in a typed error that says what, with every earlier point intact.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vmkeep::model::op;
use vmkeep_testkit::permit;

use bytes::Bytes;
use common::*;
use vmkeep::backup::{self, BackupError, Event, Plan, Settings, Source};
use vmkeep::disk::{BlockRead, DiskError, Memory};
use vmkeep::model::{BlockSize, ByteLen, ByteOffset, CancelToken, DiskRole, PointNumber, VmDescriptionError};
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::restore::{self, Depth, RestoreError, copy_disk, verify_point, verify_vault};
use vmkeep::vault::{CONFIG_MAX, StoreOperation, Vault, VaultError};
use vmkeep_testkit::{FailingDisk, QuotaStore, ShrinkingDisk, snapshot, store_of};

type Objects = BTreeMap<Path, Bytes>;

/// Version `n` of the disks of `web`; its first block is as in every other.
fn version(n: u64) -> Disks {
    let os = disk(&[Some(block(1, 300)), Some(block(n, 500)), None, Some(noise(n, BLOCK))]);
    disks([("data", disk(&[Some(block(n + 40, 100)), None])), ("os", os)])
}

/// A vault with two points of `web` and one of `db`.
fn base() -> Objects {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    back_up(&vault, "web", &version(1)).unwrap();
    back_up(&vault, "db", &version(9)).unwrap();
    back_up(&vault, "web", &version(2)).unwrap();
    snapshot(&*store)
}

#[track_caller]
fn assert_intact(vault: &Vault, when: &str) {
    for (point, n) in [("web@1", 1), ("web@2", 2), ("db@1", 9)] {
        assert_point_whole(vault, point, &version(n), when);
    }
    assert_vault_clean(vault, when);
}

fn without(objects: &Objects, gone: impl Fn(&str) -> bool) -> Objects {
    objects.iter().filter(|(path, _)| !gone(path.as_ref())).map(|(p, b)| (p.clone(), b.clone())).collect()
}

/// The objects with format version 2 where `newer` says so.
fn of_version_2(objects: &Objects, newer: impl Fn(&str, &[u8]) -> bool) -> Objects {
    let raise = |(path, bytes): (&Path, &Bytes)| {
        let mut bytes = bytes.to_vec();
        if newer(path.as_ref(), &bytes) {
            bytes[8] = 2;
        }
        (path.clone(), bytes.into())
    };
    objects.iter().map(raise).collect()
}

fn open_objects(objects: &Objects) -> Result<Vault, VaultError> {
    Vault::open(Arc::new(store_of(objects)), kek(), ports(2))
}

#[track_caller]
fn assert_newer(error: &VaultError, of: &str) {
    let VaultError::Newer { object, found: 2, known: 1 } = error else { panic!("{of}: {error:?}") };
    assert!(object.starts_with(of), "{object} is not of {of}");
}

#[test]
fn a_vault_opens_with_its_own_key_only() {
    let objects = base();
    let strange = Vault::open(Arc::new(store_of(&objects)), kek_of(8), ports(2)).unwrap_err();
    assert!(matches!(strange, VaultError::WrongKey { .. }), "{strange:?}");
    let nothing = Vault::open(Arc::new(InMemory::new()), kek(), ports(2)).unwrap_err();
    assert!(matches!(nothing, VaultError::NoVault { .. }), "{nothing:?}");
    let again = Vault::create(Arc::new(store_of(&objects)), kek_of(8), ports(2)).unwrap_err();
    assert!(matches!(again, VaultError::VaultExists { .. }), "{again:?}");
    let elsewhere = store_of(&[(Path::from("holiday.jpg"), Bytes::from_static(b"x"))].into());
    let taken = Vault::create(Arc::new(elsewhere), kek(), ports(2)).unwrap_err();
    assert!(matches!(taken, VaultError::NotEmpty { ref found, .. } if found == "holiday.jpg"), "{taken:?}");
}

#[test]
fn without_its_key_object_a_vault_or_a_vm_is_closed_and_the_others_open() {
    let objects = base();
    let vaults_own = "keys/00000000000000000000000000000000/";
    let closed = open_objects(&without(&objects, |path| path.starts_with(vaults_own))).unwrap_err();
    assert!(matches!(closed, VaultError::WrongKey { .. }), "{closed:?}");

    // Key domains are random: the one whose loss takes `web` away is the one of `web`.
    let domains = objects
        .keys()
        .filter(|path| path.as_ref().starts_with("keys/") && !path.as_ref().starts_with(vaults_own));
    let (mut lost_web, mut lost_db) = (0, 0);
    for domain in domains {
        let store = Arc::new(store_of(&without(&objects, |path| path == domain.as_ref())));
        let vault = open(store.clone(), 2);
        let (lost, whole, n) = match vault.point(&point_ref("web@1")) {
            Err(_) => ("web", "db@1", 9),
            Ok(_) => ("db", "web@2", 2),
        };
        *(if lost == "web" { &mut lost_web } else { &mut lost_db }) += 1;
        let refused = vault.point(&point_ref(&format!("{lost}@1"))).unwrap_err();
        assert!(
            matches!(&refused, VaultError::WrongKey { what } if *what == format!("VM {lost}")),
            "{refused:?}"
        );
        assert_point_whole(&vault, whole, &version(n), "without the other's keys");
        let before = snapshot(&*store);
        let refused = back_up(&vault, lost, &version(3)).unwrap_err();
        assert!(matches!(refused, BackupError::Store(VaultError::WrongKey { .. })), "{refused:?}");
        assert_eq!(snapshot(&*store), before, "a refused backup writes nothing");
    }
    assert_eq!((lost_web, lost_db), (1, 1));
}

#[test]
fn what_a_newer_version_wrote_is_refused_and_the_rest_is_read() {
    let objects = base();
    let newer = |first: &'static str| of_version_2(&objects, move |path, _| path.starts_with(first));
    assert_newer(&open_objects(&newer("vault")).unwrap_err(), "vault");
    assert_newer(&open_objects(&newer("keys/0000")).unwrap_err(), "keys/0000");
    assert_newer(&open_objects(&newer("names/")).unwrap().point(&point_ref("web@1")).unwrap_err(), "names/");

    let vault =
        open_objects(&of_version_2(&objects, |path, _| path.starts_with("points/") && path.ends_with("/2")));
    let vault = vault.unwrap();
    assert_newer(&vault.point(&point_ref("web@2")).unwrap_err(), "points/");
    assert_restores(&vault, "web@1", &version(1), "beside a newer point");
    let refused = back_up(&vault, "web", &version(3)).unwrap_err();
    assert_newer(vault_error(&refused).unwrap(), "points/");
    let report = verify(&vault, Depth::Data).unwrap();
    assert_newer(&report.objects[0].error, "points/");

    for content in [1, 2] {
        let vault = open_objects(&of_version_2(&objects, |path, bytes| {
            path.starts_with("packs/") && bytes[10] == content
        }));
        let vault = vault.unwrap();
        for point in ["web@1", "web@2", "db@1"] {
            match restore(&vault, point).unwrap_err() {
                RestoreError::Vault { source, .. } => assert_newer(&source, "packs/"),
                e => panic!("{point}: {e:?}"),
            }
        }
        assert!(!verify(&vault, Depth::Structure).unwrap().is_clean());
    }
}

#[test]
fn a_missing_pack_is_named_and_costs_the_points_that_need_it() {
    let objects = base();
    let vault = open_objects(&objects).unwrap();
    let id = vault.point(&point_ref("web@2")).unwrap().point().clone();
    let of_second = format!("packs/{}/{}/", id.id.lineage, id.session);
    let is_data = |path: &str| path.starts_with(&of_second) && objects[&Path::from(path)][10] == 1;
    let vault = open_objects(&without(&objects, is_data)).unwrap();
    assert_point_whole(&vault, "web@1", &version(1), "without packs of web@2");
    assert_point_whole(&vault, "db@1", &version(9), "without packs of web@2");
    let RestoreError::Vault { source, .. } = restore(&vault, "web@2").unwrap_err() else { panic!() };
    let VaultError::Missing { object } = &*source else { panic!("{source:?}") };
    assert!(is_data(object), "{object}");
    let report = verify(&vault, Depth::Structure).unwrap();
    // Two blocks of `os` and one of `data`, each with the pack it was in.
    assert_eq!(report.damaged.len(), 3, "{report:?}");
    assert!(report.damaged.iter().all(|lost| is_data(lost.error.object().unwrap())));
    // What changes after that is stored anew and needs the lost packs no more.
    let report = back_up(&vault, "web", &version(3)).unwrap();
    assert_eq!(report.point.id.number, PointNumber(3));
    assert_point_whole(&vault, "web@3", &version(3), "after the loss");
}

#[test]
fn a_full_store_is_told_and_the_backup_works_once_there_is_room() {
    let objects = base();
    let measured = QuotaStore::new(Arc::new(store_of(&objects)), u64::MAX);
    back_up(&open(Arc::new(measured.clone()), 2), "web", &version(3)).unwrap();
    let needed = measured.used();
    let mut refused = 0;
    for limit in (0..needed).step_by(usize::try_from(needed / 60).unwrap()) {
        let when = format!("{limit} of {needed} bytes");
        let store = QuotaStore::new(Arc::new(store_of(&objects)), limit);
        let outcome = back_up(&open(Arc::new(store.clone()), 2), "web", &version(3));
        assert_intact_or_more(&open(store.inner(), 3), outcome.is_ok(), &when);
        if let Err(e) = outcome {
            refused += 1;
            let told = vault_error(&e);
            let write = matches!(told, Some(VaultError::Store { operation: StoreOperation::Write, .. }));
            assert!(write, "{when}: {e:?}");
            store.set_limit(u64::MAX);
            back_up(&open(Arc::new(store.clone()), 4), "web", &version(3)).unwrap();
        }
        assert_point_whole(&open(store.inner(), 5), "web@3", &version(3), &when);
    }
    assert!(refused > 50, "{refused}");
}

#[track_caller]
fn assert_intact_or_more(vault: &Vault, more: bool, when: &str) {
    assert_intact(vault, when);
    assert_eq!(vault.points(&vm("web")).unwrap().len(), if more { 3 } else { 2 }, "{when}");
}

/// A file system in memory that is full after so many bytes; unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(kib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then(|| Self(folder))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("vault")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().unwrap();
    }
}

#[test]
fn a_full_disk_is_told_and_earlier_points_stay() {
    let Some(small) = SmallDisk::mount(2048) else {
        println!("skipped: no right to mount a tmpfs here");
        return;
    };
    let vault = Vault::create_folder(small.path(), kek(), ports(1)).unwrap();
    back_up(&vault, "web", &version(1)).unwrap();
    let large = disks([("data", version(1)["data"].clone()), ("os", noise(3, 3 << 20))]);
    let full = back_up(&vault, "web", &large).unwrap_err();
    assert!(matches!(vault_error(&full), Some(VaultError::Store { .. })), "{full:?}");
    let vault = Vault::open_folder(small.path(), kek(), ports(2)).unwrap();
    assert_point_whole(&vault, "web@1", &version(1), "on a full disk");
    assert_vault_clean(&vault, "on a full disk");
    // What fits goes on working.
    assert_eq!(back_up(&vault, "web", &version(2)).unwrap().point.id.number, PointNumber(2));
    assert_point_whole(&vault, "web@2", &version(2), "after the full disk");
    assert_vault_clean(&vault, "after the full disk");
}

/// Backs up `os` and a good `data` disk and expects the error of `os`.
fn assert_read_fails(vault: &Vault, os: &dyn BlockRead, workers: usize, fits: impl Fn(&DiskError) -> bool) {
    let data = Memory::from(version(3)["data"].clone());
    let plan = plan("web", &[("data", &data as &dyn BlockRead), ("os", os)]);
    let settings = Settings { workers, ..inline() };
    match backup::run(&permit(), vault, &plan, &settings, &backup::Silent, &CancelToken::new()) {
        Err(BackupError::Read { disk, source }) if disk.as_str() == "os" && fits(&source) => {}
        other => panic!("{os:?}: {other:?}"),
    }
}

#[test]
fn a_source_that_cannot_be_read_is_named_and_earlier_points_stay() {
    let objects = base();
    let disk = || Memory::from(noise(5, 3 << 20));
    let counted = FailingDisk::at_read(disk(), u64::MAX);
    back_up_disk(&open_objects(&objects).unwrap(), &counted).unwrap();
    assert!(counted.reads() >= 3, "read in several pieces");
    for workers in [1, 3] {
        let vault = open_objects(&objects).unwrap();
        let io = |e: &DiskError| matches!(e, DiskError::Io { .. });
        for n in 0..counted.reads() {
            assert_read_fails(&vault, &FailingDisk::at_read(disk(), n), workers, io);
        }
        assert_read_fails(&vault, &FailingDisk::touching(disk(), ByteOffset((3 << 20) - 1)), workers, io);
        for reads in 0..counted.reads() {
            let shrinking = ShrinkingDisk::new(disk(), ByteOffset(100_000), reads);
            let shrank = |e: &DiskError| matches!(e, DiskError::Shrank { .. });
            assert_read_fails(&vault, &shrinking, workers, shrank);
        }
        assert_intact(&vault, &format!("{workers} workers"));
        back_up(&vault, "web", &version(3)).unwrap();
        assert_point_whole(&vault, "web@3", &version(3), "after failed reads");
    }
}

fn back_up_disk(vault: &Vault, os: &dyn BlockRead) -> Result<backup::Report, BackupError> {
    let plan = plan("web", &[("os", os)]);
    backup::run(&permit(), vault, &plan, &inline(), &backup::Silent, &CancelToken::new())
}

#[test]
fn absurd_settings_and_plans_are_refused_before_anything_is_written() {
    let (store, memory) = (Arc::new(store_of(&base())), Memory::new(BLOCK));
    let (vault, before) = (open(store.clone(), 2), snapshot(&*store));
    let read: &dyn BlockRead = &memory;
    let run = |plan: &Plan<'_>, settings: &Settings| {
        backup::run(&permit(), &vault, plan, settings, &backup::Silent, &CancelToken::new()).unwrap_err()
    };
    let good = plan("web", &[("os", read)]);
    for settings in [
        Settings { workers: 0, ..inline() },
        Settings { memory_bytes: 0, ..inline() },
        Settings { memory_bytes: Settings::MEMORY_MIN - 1, ..inline() },
    ] {
        assert!(matches!(run(&good, &settings), BackupError::Settings(_)), "{settings:?}");
    }
    let refused = run(&plan("web", &[("os", read), ("OS", read)]), &inline());
    assert!(matches!(refused, BackupError::Plan(VmDescriptionError::DiskTwice { .. })), "{refused:?}");
    let refused = run(&plan("web", &[]), &inline());
    assert!(matches!(refused, BackupError::Plan(VmDescriptionError::NoDisks(_))), "{refused:?}");

    let mut temporary = plan("web", &[("os", read)]);
    temporary.disks[0].description.role = DiskRole::Temporary;
    assert!(matches!(run(&temporary, &inline()), BackupError::Settings(_)));
    let mut unread = plan("web", &[("os", read)]);
    unread.disks[0].source = Source::Describe(ByteLen(5));
    assert!(matches!(run(&unread, &inline()), BackupError::Settings(_)));
    let mut large = plan("web", &[("os", read)]);
    large.config = Some(vec![0; CONFIG_MAX + 1]);
    assert!(matches!(run(&large, &inline()), BackupError::Settings(_)));
    assert_eq!(snapshot(&*store), before);
}

#[test]
fn settings_at_their_edges_work() {
    let vault = open(Arc::new(store_of(&base())), 2);
    for (n, settings) in (3..).zip([
        Settings { workers: 64, ..inline() },
        Settings { workers: 2, memory_bytes: Settings::MEMORY_MIN, ..inline() },
        Settings { memory_bytes: usize::MAX, ..inline() },
        Settings { block_size: BlockSize::MAX, ..inline() },
    ]) {
        back_up_with(&vault, "web", &version(n), &settings).unwrap();
        back_up_with(&vault, &format!("new-{n}"), &version(n), &settings).unwrap();
        assert_point_whole(&vault, "web@latest", &version(n), &format!("{settings:?}"));
        assert_point_whole(&vault, &format!("new-{n}@1"), &version(n), &format!("{settings:?}"));
    }
    let disk = vault
        .point(&point_ref("web@1"))
        .unwrap()
        .disk(&permit::<op::Restore>(), &"os".parse().unwrap())
        .unwrap();
    for settings in [
        restore::Settings { workers: 0, memory_bytes: 0 },
        restore::Settings { workers: 64, memory_bytes: usize::MAX },
    ] {
        let target = Memory::new(version(1)["os"].len());
        let copied = copy_disk(&disk, &target, &settings, &restore::Silent, &CancelToken::new()).unwrap();
        assert_eq!((copied.size, target.to_vec()), (disk.size(), version(1)["os"].clone()));
        let report =
            verify_vault(&permit(), &vault, Depth::Data, &settings, &restore::Silent, &CancelToken::new());
        assert!(report.unwrap().is_clean());
    }
    let small = Memory::new(5);
    let refused = copy_disk(&disk, &small, &reading(), &restore::Silent, &CancelToken::new()).unwrap_err();
    assert!(matches!(refused, RestoreError::Size { target: ByteLen(5), .. }), "{refused:?}");
}

#[test]
fn a_backup_cancelled_at_any_event_leaves_garbage_only() {
    let objects = base();
    let disks = disks([("data", version(3)["data"].clone()), ("os", noise(5, 3 << 20))]);
    for workers in [1, 3] {
        for at in 0.. {
            let store = Arc::new(store_of(&objects));
            let (vault, cancel) = (open(store.clone(), 2), CancelToken::new());
            let seen = AtomicUsize::new(0);
            if at == 0 {
                cancel.cancel();
            }
            let observer = |_: Event<'_>| {
                if seen.fetch_add(1, Ordering::SeqCst) + 1 == at {
                    cancel.cancel();
                }
            };
            let memory: Vec<(&str, Memory)> =
                disks.iter().map(|(name, bytes)| (name.as_str(), Memory::from(bytes.clone()))).collect();
            let sources: Vec<(&str, &dyn BlockRead)> =
                memory.iter().map(|(name, disk)| (*name, disk as &dyn BlockRead)).collect();
            let settings = Settings { workers, ..inline() };
            let outcome =
                backup::run(&permit(), &vault, &plan("web", &sources), &settings, &observer, &cancel);
            if !cancel.is_cancelled() {
                assert!(at > 8, "{at} events");
                outcome.unwrap();
                break;
            }
            let when = format!("cancelled at event {at}, {workers} workers");
            assert!(matches!(outcome, Err(BackupError::Cancelled(_))), "{when}: {outcome:?}");
            let vault = open(store.clone(), 3);
            assert_intact_or_more(&vault, false, &when);
            if at == 0 {
                assert_eq!(snapshot(&*store), objects);
            }
        }
    }
}

#[test]
fn restore_verification_and_diff_stop_when_cancelled() {
    let vault = open_objects(&base()).unwrap();
    let point = vault.point(&point_ref("web@2")).unwrap();
    let disk = point.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap();
    for workers in [1, 3] {
        let settings = restore::Settings { workers, ..reading() };
        let cancel = CancelToken::new();
        let at_first = |_: restore::Event<'_>| cancel.cancel();
        let target = Memory::new(version(2)["os"].len());
        let stopped = copy_disk(&disk, &target, &settings, &at_first, &cancel);
        assert!(matches!(stopped, Err(RestoreError::Cancelled(_))), "{stopped:?}");
        let stopped = verify_point(&permit(), &point, Depth::Data, &settings, &restore::Silent, &cancel);
        assert!(matches!(stopped, Err(RestoreError::Cancelled(_))), "{stopped:?}");
        let stopped = verify_vault(&permit(), &vault, Depth::Structure, &settings, &restore::Silent, &cancel);
        assert!(matches!(stopped, Err(RestoreError::Cancelled(_))), "{stopped:?}");
    }
    let (cancel, older) = (CancelToken::new(), vault.point(&point_ref("web@1")).unwrap());
    cancel.cancel();
    let stopped =
        older.disk(&permit::<op::Restore>(), &"os".parse().unwrap()).unwrap().differences(&disk, &cancel);
    assert!(matches!(stopped, Err(VaultError::Cancelled(_))), "{stopped:?}");
}
