//! Every class of damage by name: what verify says of it, what a repair can do, and what it leaves.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use common::damaged::*;
use common::*;
use vmkeep::object_store::memory::InMemory;
use vmkeep::object_store::path::Path;
use vmkeep::restore::Depth;
use vmkeep::vault::{JournalEntry, Log, LogStream, RepairReport, Vault, advice};
use vmkeep_testkit::{permit, snapshot};

/// A vault, and what its points hold: `web@1` to `web@3` and `db@1`. Block 2 is written at point 1 and zero since point 2;
/// block 4 is written once, at point 1; `web@1` is forgotten.
struct Made {
    objects: Objects,
    points: BTreeMap<String, Disks>,
}

fn made() -> Made {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    let mut points = BTreeMap::new();
    let os =
        disk(&[Some(block(1, 300)), None, Some(noise(2, BLOCK)), Some(block(3, 50)), Some(noise(4, BLOCK))]);
    let mut web = disks([("os", os)]);
    for number in 1..=3_u64 {
        let os = web.get_mut("os").unwrap();
        match number {
            2 => set_block(os, 2, &vec![0; BLOCK]),
            3 => set_block(os, 0, &block(30, 200)),
            _ => {}
        }
        back_up(&vault, "web", &web).unwrap();
        points.insert(format!("web@{number}"), web.clone());
    }
    let db = disks([("os", disk(&[Some(block(5, 100)), Some(block(6, 100))]))]);
    back_up(&vault, "db", &db).unwrap();
    points.insert("db@1".to_owned(), db);
    vault.forget(&permit(), &point_ref("web@1")).unwrap();
    Made { objects: snapshot(&*store), points }
}

/// What becomes of one kind of damage.
struct Expected<'a> {
    /// Objects that verify and the plan name.
    named: &'a [Path],
    /// Objects that are put back.
    mended: &'a [Path],
    /// Points that a restore refuses in part after the repair, with the blocks of disk `os`.
    lost: &'a [(&'a str, &'a [u64])],
    /// Points that do not open any more.
    closed: &'a [&'a str],
}

const NOTHING: Expected<'static> = Expected { named: &[], mended: &[], lost: &[], closed: &[] };

/// Damages a vault and holds verify, the plan and the repair against what is expected. Gives what was left.
#[track_caller]
fn case(made: &Made, harmed: &[(Path, Harm)], expected: &Expected<'_>) -> (Arc<InMemory>, RepairReport) {
    let mut objects = made.objects.clone();
    for (path, how) in harmed {
        assert!(objects.contains_key(path), "{path}");
        harm(&mut objects, path, *how);
    }
    let store = store(&objects);
    judge(made, store, expected, &format!("{harmed:?}"))
}

#[track_caller]
fn judge(
    made: &Made,
    store: Arc<InMemory>,
    expected: &Expected<'_>,
    when: &str,
) -> (Arc<InMemory>, RepairReport) {
    let objects = snapshot(&*store);
    let vault = open(store.clone(), 9);
    let verified = verify(&vault, Depth::Data).unwrap();
    let named: BTreeSet<String> = verified
        .objects
        .iter()
        .map(|damage| damage.object.clone())
        .chain(verified.damaged.iter().filter_map(|block| block.error.object().map(str::to_owned)))
        .collect();
    let wanted: BTreeSet<String> = expected.named.iter().map(ToString::to_string).collect();
    assert_eq!(named, wanted, "{when}: verify");

    let plan = repair(&vault, false);
    assert_eq!(snapshot(&*store), objects, "{when}: a plan writes nothing");
    let mends: BTreeSet<String> = plan.mends.iter().map(|mend| mend.object.clone()).collect();
    let mended: BTreeSet<String> = expected.mended.iter().map(ToString::to_string).collect();
    assert_eq!(mends, mended, "{when}: the plan");
    assert_eq!(plan.is_whole(), expected.named.is_empty(), "{when}: {plan:#?}");

    let done = repair(&open(store.clone(), 10), true);
    assert_eq!(done.mends, plan.mends, "{when}");
    let vault = open(store.clone(), 11);
    let mut refusing = BTreeMap::new();
    for (point, disks) in &made.points {
        match refused(&vault, point, disks) {
            None => assert!(expected.closed.contains(&point.as_str()), "{when}: {point} does not open"),
            Some(blocks) => {
                assert_eq!(blocks, reported(&done, point), "{when}: {point}: {done:#?}");
                let blocks: Vec<u64> = blocks.iter().map(|(_, at)| at / BLOCK as u64).collect();
                if !blocks.is_empty() {
                    refusing.insert(point.as_str(), blocks);
                }
            }
        }
    }
    let lost: BTreeMap<&str, Vec<u64>> =
        expected.lost.iter().map(|(point, at)| (*point, at.to_vec())).collect();
    assert_eq!(refusing, lost, "{when}");
    let left = snapshot(&*store);
    let again = repair(&vault, true);
    assert!(!again.has_to_do(), "{when}: {again:#?}");
    assert_eq!(snapshot(&*store), left, "{when}: a second repair writes nothing");
    (store, done)
}

fn path(of: &str) -> Path {
    Path::from(of)
}

/// The lineage of a VM.
fn lineage(made: &Made, point: &str) -> String {
    open(store(&made.objects), 5).vault_point(point)
}

trait LineageOf {
    fn vault_point(&self, point: &str) -> String;
}

impl LineageOf for Vault {
    fn vault_point(&self, point: &str) -> String {
        self.point(&point_ref(point)).unwrap().point().id.lineage.to_string()
    }
}

/// Data packs and metadata packs of a point.
fn packs(made: &Made, point: &str) -> (Vec<Path>, Vec<Path>) {
    packs_of(&open(store(&made.objects), 5), &made.objects, point)
}

/// The metadata pack of a point that its map nodes are in: the first that the map cannot do without.
fn nodes_pack(made: &Made, point: &str) -> Path {
    let (_, metadata) = packs(made, point);
    let needed = metadata.into_iter().find(|pack| {
        let mut objects = made.objects.clone();
        objects.remove(pack);
        objects.remove(&copy_of(pack));
        refused(&open(store(&objects), 5), point, &made.points[point]).is_some_and(|lost| !lost.is_empty())
    });
    needed.unwrap()
}

#[test]
fn an_undamaged_vault_has_nothing_to_repair() {
    let made = made();
    let (_, done) = case(&made, &[], &NOTHING);
    assert!(done.is_whole() && !done.has_to_do(), "{done:#?}");
}

#[test]
fn a_data_pack_that_is_missing_cut_or_rotten_costs_its_blocks_and_heals_at_the_next_backup() {
    let made = made();
    let (data, _) = packs(&made, "web@1");
    let [pack] = data.as_slice() else { panic!("{data:?}") };
    for how in [Harm::Missing, Harm::Truncated(600)] {
        let expected = Expected {
            named: std::slice::from_ref(pack),
            lost: &[("web@1", &[0, 2, 3, 4]), ("web@2", &[0, 3, 4]), ("web@3", &[3, 4])],
            ..NOTHING
        };
        let (store, done) = case(&made, &[(pack.clone(), how)], &expected);
        assert_eq!(done.marked, ["web"], "{how:?}");
        heals(&made, store, how);
    }
    // A frame alone.
    let whole = made.objects[pack].len();
    let rotten = Harm::Rotten(u16::try_from(100 * 1000 / whole).unwrap());
    let expected = Expected {
        named: std::slice::from_ref(pack),
        lost: &[("web@1", &[0, 2, 3, 4]), ("web@2", &[0, 3, 4]), ("web@3", &[3, 4])],
        ..NOTHING
    };
    let (store, done) = case(&made, &[(pack.clone(), rotten)], &expected);
    // Blocks that the newest point still has heal; point 0 and 2 are another content by now.
    let heals_at: BTreeSet<u64> =
        done.lost.iter().filter(|lost| lost.heals).map(|lost| lost.extent.start().0 / BLOCK as u64).collect();
    assert_eq!(heals_at, BTreeSet::from([3]), "{done:#?}");
    heals(&made, store, rotten);
}

#[test]
fn blocks_that_the_live_disk_still_has_are_put_back_for_every_point() {
    let made = made();
    let (data, _) = packs(&made, "web@1");
    for how in [Harm::Missing, Harm::Truncated(600), Harm::Rotten(10)] {
        let mut objects = made.objects.clone();
        harm(&mut objects, &data[0], how);
        let damaged = store(&objects);
        // As it was at point 1: all of it.
        let live = Live("web", &made.points["web@1"]);
        let done = repair_with(&open(damaged.clone(), 9), &live, true);
        assert!(done.is_whole(), "{how:?}: {done:#?}");
        assert_eq!(done.mends.len(), 1);
        let vault = open(damaged.clone(), 10);
        for (point, expected) in &made.points {
            assert_point_whole(&vault, point, expected, &format!("{how:?}"));
        }
        let report = assert_vault_clean(&vault, "after the repair");
        assert_eq!(report.accounting.unwrap().in_progress.objects, 0);
        assert!(!repair_with(&vault, &live, true).has_to_do());
        // What came back lives as any other data: it is swept, moved and backed up on.
        sweep(&vault);
        let vault = open(damaged, 11);
        back_up(&vault, "web", &made.points["web@3"]).unwrap();
        assert_restores(&vault, "web@2", &made.points["web@2"], "swept");
        assert_restores(&vault, "web@4", &made.points["web@3"], "backed up");
        assert_vault_clean(&vault, "in the end");
    }
}

#[test]
fn a_damaged_pack_stays_unless_all_of_it_is_known_and_of_a_missing_one_what_is_known_comes_back() {
    let made = made();
    let (data, _) = packs(&made, "web@1");
    // As it is now: blocks 0 and 2 are another content, and point 1 alone needs what they were.
    let live = Live("web", &made.points["web@3"]);
    let mut objects = made.objects.clone();
    harm(&mut objects, &data[0], Harm::Rotten(10));
    let damaged = store(&objects);
    let done = repair_with(&open(damaged.clone(), 9), &live, true);
    assert!(done.mends.is_empty() && !done.is_whole(), "{done:#?}");
    assert_eq!(snapshot(&*damaged)[&data[0]], objects[&data[0]], "it stays");

    harm(&mut objects, &data[0], Harm::Missing);
    let damaged = store(&objects);
    let done = repair_with(&open(damaged.clone(), 9), &live, true);
    assert_eq!(done.mends.len(), 1, "{done:#?}");
    let vault = open(damaged.clone(), 10);
    assert_point_whole(&vault, "web@3", &made.points["web@3"], "what the newest needs is there");
    let left = refused(&vault, "web@1", &made.points["web@1"]).unwrap();
    assert_eq!(left, reported(&done, "web@1"));
    let left: Vec<u64> = left.iter().map(|(_, at)| at / BLOCK as u64).collect();
    assert_eq!(left, [0, 2]);
    // The rest, once it turns up.
    let live = Live("web", &made.points["web@1"]);
    let done = repair_with(&vault, &live, true);
    assert!(done.is_whole(), "{done:#?}");
    assert_vault_clean(&open(damaged, 11), "in the end");
}

#[test]
fn a_block_that_another_point_has_once_more_is_put_back_from_there() {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), 1);
    let mut web = disks([("os", disk(&[Some(noise(1, BLOCK)), Some(block(2, 50))]))]);
    let mut points = BTreeMap::new();
    for (number, seed) in [(1, 1), (2, 7), (3, 1)] {
        set_block(web.get_mut("os").unwrap(), 0, &noise(seed, BLOCK));
        back_up(&vault, "web", &web).unwrap();
        points.insert(format!("web@{number}"), web.clone());
    }
    let whole = snapshot(&*store);
    let (data, _) = packs_of(&vault, &whole, "web@3");
    let mut objects = whole.clone();
    harm(&mut objects, &data[0], Harm::Rotten(500));
    let damaged = damaged::store(&objects);
    let done = repair(&open(damaged.clone(), 9), true);
    assert!(done.is_whole() && done.mends[0].from.contains("another point"), "{done:#?}");
    let vault = open(damaged, 10);
    for (point, expected) in &points {
        assert_point_whole(&vault, point, expected, "from another point");
    }
    assert_vault_clean(&vault, "after the repair");
}

/// The next backup of an unchanged disk has all of it, and the one after that is an increment.
#[track_caller]
fn heals(made: &Made, store: Arc<InMemory>, how: Harm) {
    let now = &made.points["web@3"];
    let vault = open(store.clone(), 20);
    let report = back_up(&vault, "web", now).unwrap();
    assert_eq!(
        report.bytes_changed,
        2 * BLOCK as u64,
        "{how:?}: what was lost is stored again, and nothing else"
    );
    let vault = open(store.clone(), 21);
    assert_point_whole(&vault, "web@latest", now, "healed");
    let after = repair(&vault, true);
    assert!(!after.lost.iter().any(|lost| lost.point == point_ref("web@4") || lost.heals), "{after:#?}");
    // Of a pack that is gone, older points have back what was stored again.
    let whole_again = if how == Harm::Missing { 3 } else { 4 };
    assert!(after.lost.iter().all(|lost| lost.instead.is_some_and(|n| n.0 == whole_again)), "{after:#?}");
    let report = back_up(&vault, "web", now).unwrap();
    assert_eq!(report.bytes_changed, 0, "{how:?}");
}

#[test]
fn one_copy_of_map_nodes_is_put_back_from_the_other() {
    let made = made();
    let first = nodes_pack(&made, "web@1");
    for path in [first.clone(), copy_of(&first)] {
        for how in HARMS {
            let named = std::slice::from_ref(&path);
            let expected = Expected { named, mended: named, ..NOTHING };
            let (store, done) = case(&made, &[(path.clone(), how)], &expected);
            assert!(done.is_whole(), "{how:?}: {done:#?}");
            let now = snapshot(&*store);
            assert_eq!(now[&path], made.objects[&path], "{how:?}: byte for byte");
            assert_vault_clean(&open(store.clone(), 12), "after the repair");
            let entries = open(store, 13).log(None).unwrap();
            let repaired = JournalEntry::Repaired { copies: 1, blocks: 0, records: 0 };
            assert!(entries.entries.iter().any(|entry| entry.record.entry == repaired), "{how:?}");
        }
    }
}

#[test]
fn two_copies_with_faults_in_other_places_make_one_good_pack() {
    let made = made();
    let (mut tried, mut mended) = (0, 0);
    for pack in packs(&made, "web@1").1 {
        let len = made.objects[&pack].len();
        // A fault in a slot of one, and in the footer of the other.
        for (one, two) in [(60, len - 40), (len - 40, 60)] {
            let mut objects = made.objects.clone();
            for (path, at) in [(pack.clone(), one), (copy_of(&pack), two)] {
                let mut bytes = objects[&path].to_vec();
                bytes[at] ^= 1;
                objects.insert(path, bytes.into());
            }
            tried += 1;
            let damaged = store(&objects);
            let done = repair(&open(damaged.clone(), 9), true);
            if done.mends.len() == 2 {
                assert!(done.is_whole(), "{done:#?}");
                assert_eq!(snapshot(&*damaged)[&pack], made.objects[&pack]);
                mended += 1;
            }
        }
    }
    assert_eq!(mended, tried);
}

#[test]
fn a_map_lost_in_both_copies_is_reported_as_unknown_and_nothing_trimmed_comes_back() {
    let made = made();
    // Point 2 is where block 2 became zero; its data is in the pack of point 1, of which everything is there.
    let first = nodes_pack(&made, "web@2");
    for how in HARMS {
        let harmed = [(first.clone(), how), (copy_of(&first), how)];
        let blocks: &[u64] = &[0, 1, 2, 3, 4];
        let mut named = vec![first.clone()];
        if how != Harm::Missing {
            named.push(copy_of(&first));
        }
        let mut objects = made.objects.clone();
        for (path, how) in &harmed {
            harm(&mut objects, path, *how);
        }
        let damaged = open(store(&objects), 5);
        let newest_reads = refused(&damaged, "web@3", &made.points["web@3"]).unwrap().is_empty();
        let both: &[(&str, &[u64])] = &[("web@2", blocks), ("web@3", blocks)];
        let expected =
            Expected { named: &named, lost: if newest_reads { &both[..1] } else { both }, ..NOTHING };
        let (store, done) = case(&made, &harmed, &expected);
        assert!(done.lost.iter().all(|lost| lost.is_unknown), "{how:?}: {done:#?}");
        let vault = open(store, 20);
        back_up(&vault, "web", &made.points["web@3"]).unwrap();
        assert_restores(&vault, "web@latest", &made.points["web@3"], "the next backup");
    }
}

#[test]
fn a_point_record_is_put_back_from_its_copy() {
    let made = made();
    for point in ["web@1", "web@2", "web@3", "db@1"] {
        let (name, number) = point.split_once('@').unwrap();
        let record = path(&format!("points/{}/{number}", lineage(&made, &format!("{name}@{number}"))));
        for how in HARMS {
            let named = std::slice::from_ref(&record);
            let expected = Expected { named, mended: named, ..NOTHING };
            let (store, done) = case(&made, &[(record.clone(), how)], &expected);
            assert!(done.is_whole(), "{point} {how:?}: {done:#?}");
            assert_vault_clean(&open(store, 12), "after the repair");
        }
    }
}

#[test]
fn a_point_whose_copy_is_gone_too_is_lost_and_another_one_is_named() {
    let made = made();
    let record = path(&format!("points/{}/2", lineage(&made, "web@2")));
    let mut objects = made.objects.clone();
    harm(&mut objects, &record, Harm::Missing);
    for pack in packs(&made, "web@2").1.into_iter().filter(|pack| *pack != nodes_pack(&made, "web@2")) {
        harm(&mut objects, &copy_of(&pack), Harm::Missing);
        harm(&mut objects, &pack, Harm::Rotten(200));
    }
    let damaged = store(&objects);
    let done = repair(&open(damaged.clone(), 9), true);
    let of_point: Vec<_> = done.objects.iter().filter(|damage| damage.object == record.to_string()).collect();
    if let [damage] = of_point.as_slice() {
        assert!(advice(damage).contains("another point"), "{done:#?}");
        assert!(refused(&open(damaged, 10), "web@2", &made.points["web@2"]).is_none());
    } else {
        // The copy lies with the map: then it was put back.
        assert!(refused(&open(damaged, 10), "web@2", &made.points["web@2"]).is_some());
    }
}

#[test]
fn a_damaged_hint_is_written_again_and_a_missing_one_is_no_damage() {
    let made = made();
    let hint = path(&format!("heads/{}", lineage(&made, "web@1")));
    for how in [Harm::Truncated(600), Harm::Rotten(500)] {
        let named = std::slice::from_ref(&hint);
        let expected = Expected { named, mended: named, ..NOTHING };
        let (store, done) = case(&made, &[(hint.clone(), how)], &expected);
        assert!(done.is_whole(), "{how:?}: {done:#?}");
        assert_vault_clean(&open(store, 12), "after the repair");
    }
    case(&made, &[(hint, Harm::Missing)], &NOTHING);
}

#[test]
fn a_damaged_key_object_closes_its_vm_and_another_key_is_asked_for() {
    let made = made();
    let domains: BTreeSet<String> = under(&made.objects, "keys/")
        .iter()
        .filter(|path| !path.as_ref().starts_with("keys/000000"))
        .map(ToString::to_string)
        .collect();
    assert_eq!(domains.len(), 2, "{domains:?}");
    for key in domains {
        for how in HARMS {
            let mut objects = made.objects.clone();
            harm(&mut objects, &path(&key), how);
            let damaged = store(&objects);
            let before = snapshot(&*damaged);
            let done = repair(&open(damaged.clone(), 9), true);
            assert!(!done.is_whole() && !done.has_to_do(), "{how:?}: {done:#?}");
            let told = done.objects.iter().any(|damage| {
                key.starts_with(&damage.object)
                    && (advice(damage).contains("another key") || how == Harm::Missing)
            });
            assert!(told, "{how:?}: {done:#?}");
            assert_eq!(snapshot(&*damaged), before, "{how:?}: nothing is touched of a VM that does not open");
        }
    }
}

#[test]
fn damage_of_the_journal_is_reported_and_costs_no_point() {
    let made = made();
    let entry = path(&format!("journal/{}/1", lineage(&made, "web@1")));
    for how in [Harm::Truncated(600), Harm::Rotten(500)] {
        let expected = Expected { named: std::slice::from_ref(&entry), ..NOTHING };
        let (_, done) = case(&made, &[(entry.clone(), how)], &expected);
        assert!(advice(&done.objects[0]).contains("do not depend on it"), "{done:#?}");
    }
    // The last entry gone: as if its host had died before it was written.
    case(&made, &[(entry, Harm::Missing)], &NOTHING);
}

#[test]
fn a_session_record_that_is_damaged_is_reported_and_costs_no_point() {
    let made = made();
    let store = store(&made.objects);
    let session = open(store.clone(), 6).begin(&permit(), &vm("db")).unwrap().id();
    let with_session = Made { objects: snapshot(&*store), points: made.points };
    let record = path(&format!("sessions/{session}/open"));
    for how in [Harm::Truncated(600), Harm::Rotten(500)] {
        let expected = Expected { named: std::slice::from_ref(&record), ..NOTHING };
        let (_, done) = case(&with_session, &[(record.clone(), how)], &expected);
        assert!(advice(&done.objects[0]).contains("abandoned"), "{done:#?}");
    }
    case(&with_session, &[(record, Harm::Missing)], &NOTHING);
}

#[test]
fn a_duplicate_is_reported_and_left_alone() {
    let made = made();
    let (data, _) = packs(&made, "web@1");
    // A second copy of a data pack, which has none; and the pack once more in the folder of another session.
    let copy = copy_of(&data[0]);
    let parts: Vec<&str> = data[0].as_ref().split('/').collect();
    let elsewhere = path(&format!("packs/{}/{}/{}", parts[1], "ab".repeat(16), parts[3]));
    for duplicate in [copy, elsewhere] {
        let mut objects = made.objects.clone();
        objects.insert(duplicate.clone(), made.objects[&data[0]].clone());
        let store = store(&objects);
        let expected = Expected { named: std::slice::from_ref(&duplicate), ..NOTHING };
        let (store, _) = judge(&made, store, &expected, duplicate.as_ref());
        assert!(snapshot(&*store).contains_key(&duplicate));
    }
}

#[test]
fn a_foreign_object_is_reported_and_never_removed() {
    let made = made();
    for foreign in ["lost+found/x", "packs/readme.txt", "notes"] {
        let mut objects = made.objects.clone();
        objects.insert(path(foreign), Bytes::from_static(b"not of this vault"));
        let store = store(&objects);
        let expected = Expected { named: &[path(foreign)], ..NOTHING };
        let (store, done) = judge(&made, store, &expected, foreign);
        assert_eq!(done.accounting.unexplained.len(), 1);
        assert!(advice(&done.objects[0]).contains("left alone"), "{done:#?}");
        assert!(snapshot(&*store).contains_key(&path(foreign)));
    }
}

#[test]
fn leftovers_of_a_crash_are_the_sweeps_and_no_damage() {
    let kinds = vault_of_all_kinds::all_kinds(1);
    let mut objects = snapshot(&*kinds.store);
    objects.insert(path(&format!("sessions/{}/stage-1", "cd".repeat(16))), Bytes::from_static(b"half"));
    let store = store(&objects);
    let done = repair(&open(store.clone(), 9), true);
    assert!(done.is_whole() && !done.has_to_do(), "{done:#?}");
    assert!(done.accounting.garbage.objects > 0 && done.accounting.in_progress.objects > 0);
    assert_eq!(snapshot(&*store), objects, "nothing is touched");
}

#[test]
fn what_a_repair_noted_is_in_the_log() {
    let made = made();
    let (data, _) = packs(&made, "web@1");
    let mut objects = made.objects.clone();
    harm(&mut objects, &data[0], Harm::Missing);
    let store = store(&objects);
    repair(&open(store.clone(), 9), true);
    let log: Log = open(store, 10).log(None).unwrap();
    let of_damage = LogStream::Damage { vm: vm("web"), generation: 0 };
    let noted: Vec<_> = log.entries.iter().filter(|entry| entry.stream == of_damage).collect();
    assert!(
        matches!(noted.as_slice(), [one] if matches!(&one.record.entry,
        JournalEntry::Damaged { newest: 3, packs } if packs.len() == 1)),
        "{noted:?}"
    );
    assert!(log.faults.is_empty());
}
