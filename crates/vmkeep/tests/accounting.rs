//! Verification accounts for every file of a vault folder, to the byte, and tells of those that do not belong.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use vmkeep_testkit::permit;

use common::*;
use vmkeep::backup::{self, Event};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::model::{CancelToken, SessionId};
use vmkeep::object_store::path::Path as ObjectPath;
use vmkeep::restore::{Depth, VerifyReport};
use vmkeep::vault::{Accounting, FolderStore, Vault};
use vmkeep_testkit::{Fault, FaultyStore};

/// Files and bytes under `folder`.
fn disk_usage(folder: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (files, bytes) = match entry.metadata().unwrap() {
            meta if meta.is_dir() => disk_usage(&entry.path()),
            meta => (1, meta.len()),
        };
        sum = (sum.0 + files, sum.1 + bytes);
    }
    sum
}

/// What the accounting adds up to.
fn accounted(accounting: &Accounting) -> (u64, u64) {
    let Accounting { live, garbage, in_progress, unexplained } = accounting;
    let foreign: u64 = unexplained.iter().map(|(_, size)| size).sum();
    (
        live.objects + garbage.objects + in_progress.objects + unexplained.len() as u64,
        live.bytes + garbage.bytes + in_progress.bytes + foreign,
    )
}

/// Verifies the vault in `folder`, opened anew, and checks that every byte is accounted for.
#[track_caller]
fn account(folder: &Path, depth: Depth) -> (VerifyReport, Accounting) {
    let vault = Vault::open_folder(folder, kek(), ports(9)).unwrap();
    let mut report = verify(&vault, depth).unwrap();
    let accounting = report.accounting.take().unwrap();
    assert_eq!(accounted(&accounting), disk_usage(folder), "{accounting:?}");
    (report, accounting)
}

fn version(n: u64) -> Disks {
    disks([("os", disk(&[Some(block(n, 500)), None, Some(noise(n, BLOCK))])), ("data", block(n + 9, 50))])
}

/// A vault in a folder with two VMs, a forgotten point and a voided session.
fn vault_folder() -> (tempfile::TempDir, Vault) {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::create_folder(folder.path(), kek(), ports(1)).unwrap();
    for n in 1..=3 {
        back_up(&vault, "web", &version(n)).unwrap();
    }
    back_up(&vault, "db", &version(7)).unwrap();
    vault.forget(&permit(), &point_ref("web@1")).unwrap();
    assert!(vault.void_session(&permit(), vault.begin(&permit(), &vm("db")).unwrap().id()).unwrap());
    (folder, vault)
}

/// A backup of `db` that ends once its data is stored.
fn interrupted(vault: &Vault) {
    let (cancel, memory) = (CancelToken::new(), Memory::from(version(20)["os"].clone()));
    let stop = |event: Event<'_>| {
        if matches!(event, Event::DiskDone { .. }) {
            cancel.cancel();
        }
    };
    let plan = plan("db", &[("os", &memory as &dyn BlockRead)]);
    backup::run(&permit(), vault, &plan, &inline(), &stop, &cancel).unwrap_err();
}

#[test]
fn every_file_of_a_whole_vault_is_accounted_for() {
    let (folder, _vault) = vault_folder();
    for depth in [Depth::Structure, Depth::Data] {
        let (report, accounting) = account(folder.path(), depth);
        assert!(report.is_clean(), "{report:?}");
        // The voided session's record is all that nobody needs.
        assert_eq!((accounting.garbage.objects, accounting.in_progress.objects), (1, 0));
        assert_eq!((report.points, accounting.unexplained.len()), (4, 0));
    }
}

#[test]
fn a_file_that_does_not_belong_is_told_by_its_name() {
    let (folder, vault) = vault_folder();
    let id = vault.point(&point_ref("web@2")).unwrap().point().clone();
    let (lineage, session) = (id.id.lineage, id.session);
    let stranger = SessionId([0xab; 16]);
    let (_, before) = account(folder.path(), Depth::Data);
    for (foreign, content) in [
        ("foo".to_owned(), "left by somebody"),
        (".hidden".to_owned(), "x"),
        ("empty".to_owned(), ""),
        ("points/x".to_owned(), "x"),
        ("x#1".to_owned(), "a name that no object can have"),
        ("odd name \u{1f980} %41 ~".to_owned(), "x"),
        ("vault.bak".to_owned(), "x"),
        (format!("points/{lineage}/04"), "x"),
        (format!("points/{stranger}/1"), "a VM that is not here"),
        (format!("packs/{lineage}/{session}/extra"), "x"),
        (format!("packs/{stranger}/{session}/{stranger}"), "a pack of no VM"),
        (format!("packs/{lineage}/{stranger}/{stranger}"), "no pack"),
        (format!("journal/{stranger}/1"), "x"),
        (format!("sessions/{stranger}/other"), "x"),
        (format!("sweep/1/{stranger}"), "not written by this version"),
    ] {
        let file = folder.path().join(&foreign);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        let (report, accounting) = account(folder.path(), Depth::Data);
        let told = foreign.split('/').collect::<ObjectPath>().to_string();
        assert_eq!(accounting.unexplained, [(told.clone(), content.len() as u64)], "{foreign}");
        let named: Vec<&str> = report.objects.iter().map(|damage| damage.object.as_str()).collect();
        assert_eq!(named, [told], "{foreign}");
        assert!(report.damaged.is_empty(), "{foreign}: {report:?}");
        assert_eq!(Accounting { unexplained: vec![], ..accounting }, before, "{foreign}");
        fs::remove_file(&file).unwrap();
    }
    assert!(account(folder.path(), Depth::Data).0.is_clean());
}

#[cfg(unix)]
#[test]
fn files_that_no_text_names_are_counted_too() {
    use std::os::unix::ffi::OsStrExt;
    let (folder, _vault) = vault_folder();
    fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "12345").unwrap();
    std::os::unix::fs::symlink("/nowhere", folder.path().join("points/link")).unwrap();
    let (report, accounting) = account(folder.path(), Depth::Data);
    assert_eq!((report.objects.len(), accounting.unexplained.len()), (2, 2), "{accounting:?}");
    assert!(accounting.unexplained.contains(&("points/link".to_owned(), 8)));
}

#[test]
fn half_written_files_are_garbage() {
    let (folder, _vault) = vault_folder();
    let (_, before) = account(folder.path(), Depth::Data);
    let stage = folder.path().join(format!("sessions/{}/stage-3", SessionId([5; 16])));
    fs::create_dir_all(stage.parent().unwrap()).unwrap();
    fs::write(&stage, noise(1, 777)).unwrap();
    let (report, accounting) = account(folder.path(), Depth::Data);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(accounting.garbage.objects, before.garbage.objects + 1);
    assert_eq!(accounting.garbage.bytes, before.garbage.bytes + 777);
}

#[test]
fn what_an_interrupted_session_stored_is_in_progress_until_its_number_is_taken() {
    for by_void in [true, false] {
        let (folder, vault) = vault_folder();
        let (_, before) = account(folder.path(), Depth::Data);
        interrupted(&vault);
        let (report, open) = account(folder.path(), Depth::Data);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((open.live, open.garbage), (before.live, before.garbage));
        // Its record, a data pack, and its map twice.
        assert_eq!(open.in_progress.objects, 4);

        if by_void {
            let sessions = fs::read_dir(folder.path().join("sessions")).unwrap();
            let ids = sessions.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
            assert_eq!(ids.filter(|id: &SessionId| vault.void_session(&permit(), *id).unwrap()).count(), 1);
        } else {
            back_up(&vault, "db", &version(21)).unwrap();
        }
        let (report, ended) = account(folder.path(), Depth::Data);
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(ended.in_progress.objects, 0);
        assert_eq!(ended.garbage.objects, before.garbage.objects + 4);
        assert_eq!(ended.garbage.bytes, before.garbage.bytes + open.in_progress.bytes);
    }
}

#[test]
fn keys_of_a_vm_whose_name_was_never_written_are_garbage() {
    let (folder, _vault) = vault_folder();
    let (_, before) = account(folder.path(), Depth::Data);
    let plain = Arc::new(FolderStore::open(folder.path(), SessionId([6; 16])).unwrap());
    let faulty = FaultyStore::counting_only(plain, [Fault::StopBefore(0)], |call| {
        call.path.as_ref().starts_with("names/") && call.payload().is_some()
    });
    let vault = Vault::open(Arc::new(faulty), kek(), ports(3)).unwrap();
    back_up(&vault, "new", &version(1)).unwrap_err();
    let (report, accounting) = account(folder.path(), Depth::Data);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(accounting.garbage.objects, before.garbage.objects + 1);
    assert_eq!(accounting.live, before.live);
}
