//! Whatever happens to objects of a vault, together and at random: after a repair every byte that a restore gives is right, what the
//! report calls lost is just what restores refuse, and a second repair has nothing to do.

#![allow(clippy::unwrap_used)] // in helpers too

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use common::damaged::*;
use common::*;
use proptest::prelude::*;
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::Vault;
use vmkeep_testkit::{permit, snapshot};

/// A vault, and what its points hold.
struct Made {
    objects: Objects,
    points: BTreeMap<String, Disks>,
}

/// Five points of a VM with two disks and leaves enough for inner nodes, pages patched among them, and one of another VM; or what a sweep
/// leaves of them.
fn made(swept: bool) -> &'static Made {
    static MADE: [OnceLock<Made>; 2] = [OnceLock::new(), OnceLock::new()];
    MADE[usize::from(swept)].get_or_init(|| {
        let store = Arc::new(InMemory::new());
        let vault = create(store.clone(), 1);
        let mut points = BTreeMap::new();
        let os: Vec<_> = (0..150_u64).map(|n| (n % 3 != 1).then(|| block(n + 1, 60))).collect();
        let mut web = disks([
            ("os", disk(&os)),
            ("data", disk(&[Some(noise(900, BLOCK)), None, Some(block(901, 90))])),
        ]);
        for number in 1..=5_u64 {
            if number > 1 {
                let os = web.get_mut("os").unwrap();
                for n in 0..4 {
                    let at = usize::try_from((number * 31 + n * 37) % 150).unwrap();
                    if n == 3 {
                        set_block(os, at, &vec![0; BLOCK]);
                    } else {
                        set_block(os, at, &block(number * 100 + n, 80));
                    }
                }
                // A page: stored as a patch.
                let data = web.get_mut("data").unwrap();
                data[4096..4100].copy_from_slice(&[u8::try_from(number).unwrap(); 4]);
            }
            let settings = backup_settings();
            back_up_with(&vault, "web", &web, &settings).unwrap();
            points.insert(format!("web@{number}"), web.clone());
        }
        let db = disks([("os", disk(&[Some(block(800, 100)), None, Some(block(801, 100))]))]);
        back_up(&vault, "db", &db).unwrap();
        points.insert("db@1".to_owned(), db);
        if swept {
            // What is left of the packs is thinned into others.
            for point in ["web@1", "web@3"] {
                vault.forget(&permit(), &point_ref(point)).unwrap();
                points.remove(point);
            }
            sweep(&vault);
            assert!(!under(&snapshot(&*store), "moved/").is_empty(), "nothing was moved");
        }
        Made { objects: snapshot(&*store), points }
    })
}

fn backup_settings() -> vmkeep::backup::Settings {
    let settings = inline();
    let pages = vmkeep::backup::Pages { compare: vmkeep::backup::Compare::Always, ..settings.pages.clone() };
    vmkeep::backup::Settings { pages, ..settings }
}

fn any_harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        Just(Harm::Missing),
        (0..1000_u16).prop_map(Harm::Truncated),
        (0..1000_u16).prop_map(Harm::Rotten),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_repair_leaves_is_right_or_told_of(
        harms in prop::collection::vec((any::<prop::sample::Index>(), any_harm()), 1..7), live in 0..6_usize,
        swept in any::<bool>()
    ) {
        let Made { objects: whole, points } = made(swept);
        let mut objects = whole.clone();
        for (which, how) in &harms {
            let nth = which.index(whole.len());
            harm(&mut objects, whole.keys().nth(nth).unwrap(), *how);
        }
        let unseen = under(&objects, "heads/") != under(whole, "heads/");
        let store = store(&objects);
        // Without the vault's own record and keys nothing opens, and nothing is repaired.
        let Ok(vault) = Vault::open(store.clone(), kek(), ports(9)) else { return Ok(()) };
        // The disks as they were at one of the points, or none.
        let none = Disks::new();
        let live = Live("web", points.get(&format!("web@{live}")).unwrap_or(&none));
        let plan = repair_with(&vault, &live, false);
        prop_assert_eq!(&snapshot(&*store), &objects, "a plan writes nothing");
        let before = assert_told_exactly(&open(store.clone(), 10), &plan, points, unseen);
        let done = repair_with(&vault, &live, true);
        let vault = open(store.clone(), 11);
        let left = assert_told_exactly(&vault, &done, points, unseen);
        for (point, refused) in &before {
            prop_assert!(left[point].is_subset(refused), "{}: {:?} from {:?}", point, left[point], refused);
        }
        let after = snapshot(&*store);
        for (path, bytes) in &objects {
            let was_good = whole.get(path) == Some(bytes);
            prop_assert!(!was_good || after.get(path) == Some(bytes), "{path} was good and is not there as it was");
        }
        let again = repair_with(&vault, &live, true);
        prop_assert!(!again.has_to_do(), "{:#?}", again);
        prop_assert_eq!(&snapshot(&*store), &after, "a second repair writes nothing");
        // The next backup goes on, and has everything.
        let next = points["web@5"].clone();
        if holds(&vault, "web") && back_up_with(&vault, "web", &next, &backup_settings()).is_ok() {
            let vault = open(store, 12);
            assert_restores(&vault, "web@latest", &next, "after the repair");
        }
    }
}
