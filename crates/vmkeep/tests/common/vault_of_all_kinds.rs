//! A small vault that holds every kind of object.

use std::collections::BTreeMap;
use std::sync::Arc;
use vmkeep_testkit::permit;

use vmkeep::backup::{self, Event};
use vmkeep::disk::{BlockRead, Memory};
use vmkeep::model::CancelToken;
use vmkeep::object_store::memory::InMemory;

use super::{
    BLOCK, Disks, back_up, block, create, disk, disks, inline, open, plan, point_ref, set_block, vm,
};

/// A vault of at most 64 KiB and what its points must restore to.
#[derive(Debug)]
pub(crate) struct AllKinds {
    pub(crate) store: Arc<InMemory>,
    /// By point; `web@1` is forgotten, `web@3` is void.
    pub(crate) points: BTreeMap<&'static str, Disks>,
    /// The session of `db` that is still open.
    pub(crate) open_session: String,
}

/// Two VMs of two points each, a forgotten point, a voided session and an open one with packs of its own.
pub(crate) fn all_kinds(seed: u64) -> AllKinds {
    let store = Arc::new(InMemory::new());
    let vault = create(store.clone(), seed);
    let mut points = BTreeMap::new();

    // Small slots of metadata are stored as they are, these blocks compressed: both codecs are here.
    let os = disk(&[Some(block(seed + 1, 2500)), None, Some(block(seed + 2, 300))]);
    let data = disk(&[None, Some(block(seed + 3, 200))])[..BLOCK + 5000].to_vec();
    let mut web = disks([("os", os), ("data", data)]);
    back_up(&vault, "web", &web).unwrap();
    points.insert("web@1", web.clone());
    set_block(web.get_mut("os").unwrap(), 1, &block(seed + 4, 400));
    back_up(&vault, "web", &web).unwrap();
    points.insert("web@2", web);

    let mut db = disks([("os", disk(&[Some(block(seed + 5, 100)), Some(block(seed + 6, 100))]))]);
    back_up(&vault, "db", &db).unwrap();
    points.insert("db@1", db.clone());
    set_block(db.get_mut("os").unwrap(), 0, &[0; BLOCK]);
    back_up(&vault, "db", &db).unwrap();
    points.insert("db@2", db);

    vault.forget(&permit(), &point_ref("web@1")).unwrap();
    let voided = vault.begin(&permit(), &vm("web")).unwrap().id();
    assert!(vault.void_session(&permit(), voided).unwrap());
    let open_session = interrupted(&store, seed);
    AllKinds { store, points, open_session }
}

/// A third backup of `db` whose host dies when its disk is stored. Returns its session.
fn interrupted(store: &Arc<InMemory>, seed: u64) -> String {
    let vault = open(store.clone(), seed + 100);
    let cancel = CancelToken::new();
    let memory = Memory::from(disk(&[Some(block(seed + 7, 150))]));
    let die = |event: Event<'_>| {
        if matches!(event, Event::DiskDone { .. }) {
            cancel.cancel();
        }
    };
    let before = sessions(store);
    let plan = plan("db", &[("os", &memory as &dyn BlockRead)]);
    backup::run(&permit(), &vault, &plan, &inline(), &die, &cancel).unwrap_err();
    sessions(store).into_iter().find(|session| !before.contains(session)).unwrap()
}

fn sessions(store: &InMemory) -> Vec<String> {
    let paths = vmkeep_testkit::snapshot(store).into_keys().map(|path| path.to_string());
    paths.filter(|path| path.starts_with("sessions/")).collect()
}
