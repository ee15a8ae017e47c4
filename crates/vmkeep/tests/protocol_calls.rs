//! What decides who owns what happens in the machines of the protocol, and nowhere beside them: while a backup commits
//! and while a vault is swept, every call of the store belongs to a request that a machine waits for.
//!
//! A call that changes something, or lists, must be exactly what was asked for; a read must belong to some request.
//! What is allowed beside that is listed in [`outside`].
#![allow(clippy::unwrap_used)] // in helpers too

mod common;
#[path = "common/keys.rs"]
mod keys;
#[path = "common/swept.rs"]
mod swept;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use vmkeep::model::op;
use vmkeep_testkit::permit;

use common::*;
use swept::{at_once, interrupted, sweep_all};
use vmkeep::backup;
use vmkeep::model::{ByteLen, CancelToken, ConsistencyLevel, DiskDescription, DiskRole};
use vmkeep::object_store::memory::InMemory;
use vmkeep::vault::{Draft, DraftDisk, ObjectName, SweepSettings, Vault};
use vmkeep_testkit::{Action, Call, Fault, FaultyStore, RequestKind, Tap, TappedStore, Verdict};

/// A call and what was asked for when it came.
#[derive(Clone, Debug)]
struct Seen {
    kind: RequestKind,
    path: String,
    if_absent: bool,
    asked: Option<String>,
}

/// Notes what the vault waits for at each call.
#[derive(Debug, Default)]
struct Watch {
    vault: OnceLock<Vault>,
    seen: Mutex<Vec<Seen>>,
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Tap for Watch {
    fn before(&self, call: &Call<'_>) -> Verdict {
        // Before there is a vault there is nothing to watch.
        if let Some(vault) = self.vault.get() {
            assert!(!matches!(call.action, Action::Copy(_) | Action::Rename(_)), "{call:?}");
            let asked = vault.asked();
            let path = call.path.to_string();
            let seen = Seen { kind: call.kind(), path, if_absent: call.if_absent, asked };
            self.seen.lock().unwrap().push(seen);
        }
        Verdict::Pass
    }
}

/// A vault whose calls are watched, and the store below.
struct Watched {
    store: InMemory,
    tapped: TappedStore<Watch>,
    vault: Vault,
}

impl Watched {
    fn new() -> Self {
        let store = InMemory::new();
        create(Arc::new(store.clone()), 1);
        let tapped = TappedStore::with_tap(Arc::new(store.clone()), Watch::default());
        let vault = open(Arc::new(tapped.clone()), 2);
        tapped.tap().vault.set(vault.clone()).unwrap();
        Self { store, tapped, vault }
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.tapped.tap().seen.lock().unwrap())
    }
}

impl Seen {
    /// Whether it is just what the machine asked for.
    fn is_asked_for(&self) -> bool {
        let Some(asked) = &self.asked else { return false };
        let (what, about) = asked.split_once(' ').unwrap_or((asked, ""));
        match self.kind {
            RequestKind::Put if what == "build" => {
                matches!(ObjectName::parse(&self.path),
                    Some(ObjectName::Pack(_, session, _) | ObjectName::PackCopy(_, session, _))
                        if self.if_absent && session.to_string() == about)
            }
            RequestKind::Put if self.if_absent => what == "create" && about == self.path,
            RequestKind::Put => what == "overwrite" && about == self.path,
            RequestKind::Delete => what == "delete" && about.split(' ').any(|name| name == self.path),
            RequestKind::List if what == "unused" => {
                about.split(' ').skip(1).any(|session| self.path.ends_with(&format!("/{session}")))
                    && self.path.starts_with("packs/")
            }
            RequestKind::List => what == "list" && about == self.path,
            RequestKind::Get | RequestKind::Head => match what {
                "read" | "read-back" | "exists" => about == self.path,
                // What these are about is found in points, maps, footers and records of what counts and was moved.
                "examine" | "unused" | "build" | "births" => {
                    let first = self.path.split('/').next().unwrap();
                    ["points", "packs", "moved", "heads", "retired"].contains(&first)
                }
                _ => false,
            },
            RequestKind::Copy => false,
        }
    }
}

/// What may happen that no machine asks for, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outside {
    /// A sweep knows lineages by their ids: it looks for whose they are, and for their keys.
    Lineage,
    /// What was done is written down once it is done.
    Journal,
    /// A backup looks for an interrupted one to go on from, before it begins.
    Interrupted,
    /// A commit stores the copy of the point in a pack of its session, before anything is decided.
    PointCopy,
    /// Key objects, tombstones and the marker of a KEK that is being changed are outside the commit protocol: each is created once and removed, in an order of its own
    /// (`vault/src/keys/`), and nothing else is decided by them.
    Keys,
}

fn outside(seen: &Seen) -> Option<Outside> {
    let read = matches!(seen.kind, RequestKind::Get | RequestKind::Head);
    if seen.asked.is_some() {
        return None;
    }
    match ObjectName::parse(&seen.path) {
        Some(
            ObjectName::Point(..)
            | ObjectName::Key { .. }
            | ObjectName::KeyDestroyed { .. }
            | ObjectName::Name(_),
        ) if read => Some(Outside::Lineage),
        Some(ObjectName::Key { .. } | ObjectName::KeyDestroyed { .. } | ObjectName::Rotation(_))
            if seen.if_absent || seen.kind == RequestKind::Delete =>
        {
            Some(Outside::Keys)
        }
        None if seen.kind == RequestKind::List => {
            let of_keys = seen.path.starts_with("keys/") && seen.path.split('/').count() == 2;
            match seen.path.as_str() {
                "sessions" => Some(Outside::Interrupted),
                path => (of_keys || path == "names").then_some(Outside::Lineage),
            }
        }
        Some(ObjectName::Journal(..)) if read || seen.kind == RequestKind::Put && seen.if_absent => {
            Some(Outside::Journal)
        }
        Some(ObjectName::Pack(..) | ObjectName::PackCopy(..))
            if seen.kind == RequestKind::Put && seen.if_absent =>
        {
            Some(Outside::PointCopy)
        }
        _ => None,
    }
}

/// Fails at a call that nobody asked for; gives the kinds of what happened outside, in order, each run of one kind once.
#[track_caller]
fn check(calls: &[Seen], allowed: &[Outside]) -> Vec<Outside> {
    let mut found = Vec::new();
    for call in calls {
        if call.is_asked_for() {
            continue;
        }
        match outside(call) {
            Some(kind) if allowed.contains(&kind) => found.push(kind),
            _ => panic!("nobody asked for {call:?}"),
        }
    }
    found.dedup();
    found
}

const IN_A_SWEEP: [Outside; 2] = [Outside::Lineage, Outside::Journal];

fn version(n: u64) -> Vec<u8> {
    let mut os = noise(1 << 40, 60 * BLOCK);
    for block in 0..n {
        let at = (block * 7 + n) % 60;
        set_block(&mut os, usize::try_from(at).unwrap(), &noise(n << 32 | at, BLOCK));
    }
    os
}

/// Backs up `versions` beside the watched vault.
fn grow(store: &InMemory, seed: u64, versions: std::ops::Range<u64>) -> Vault {
    let vault = open(Arc::new(store.clone()), seed);
    let settings = backup::Settings { level: vmkeep::vault::CompressionLevel::Fast, ..inline() };
    for n in versions {
        back_up_with(&vault, "web", &disks([("os", version(n))]), &settings).unwrap();
    }
    vault
}

/// What each sweep of a vault with a bit of everything asks the store, one sweep after another.
fn sweeps_of_all_kinds(mut each: impl FnMut(&Watched, &str)) {
    let watched = Watched::new();
    let point = |n: u64| point_ref(&format!("web@{n}"));
    let other = grow(&watched.store, 3, 1..6);
    interrupted(&other, "web", &version(50));
    other.begin(&permit(), &vm("web")).unwrap();
    grow(&watched.store, 4, 6..9);
    interrupted(&other, "web", &version(51));
    for n in [2, 3, 5, 8] {
        other.forget(&permit(), &point(n)).unwrap();
    }
    other.hold(&permit(), &point(3)).unwrap();
    let pin = other.point(&point(5)).unwrap().pin(&permit::<op::Restore>(), "reading").unwrap();
    sweep_all(&watched.vault);
    each(&watched, "a pin, a hold, the newest, sessions of both kinds");

    pin.release().unwrap();
    other.release(&permit(), &point(3)).unwrap();
    // Another sweep ends at one of its calls, and the next goes on: within its plan, within its deletes, while it repacks.
    for after in (0..60).step_by(4) {
        let faulty =
            FaultyStore::counting_only(Arc::new(watched.store.clone()), [Fault::StopBefore(after)], |call| {
                matches!(call.kind(), RequestKind::Put | RequestKind::Delete)
            });
        let dying = open(Arc::new(faulty), 100 + after);
        dying.sweep(&permit(), &at_once(), &CancelToken::new(), &mut |_| {}).ok();
        watched.take();
        sweep_all(&watched.vault);
        each(&watched, "another sweep died");
        let next = grow(&watched.store, 200 + after, 10 + after..13 + after);
        let newest = next.point(&point_ref("web@latest")).unwrap().point().id.number.0;
        for n in [newest - 2, newest - 1] {
            next.forget(&permit(), &point(n)).unwrap();
        }
    }
    other.close(&permit(), &vm("web")).unwrap();
    for (number, _) in other.history(&vm("web")).unwrap() {
        other.forget(&permit(), &point(number.0)).unwrap();
    }
    sweep_all(&watched.vault);
    each(&watched, "all of a closed VM");
}

#[test]
fn a_sweep_calls_the_store_for_its_machines() {
    let (mut kinds, mut words) = (BTreeSet::new(), BTreeSet::new());
    sweeps_of_all_kinds(|watched, when| {
        println!("{when}");
        let calls = watched.take();
        kinds.extend(check(&calls, &IN_A_SWEEP));
        words.extend(calls.iter().filter_map(|call| {
            let asked = call.asked.as_deref()?.split(' ').next()?;
            let first = call.path.split('/').nth(if call.path.starts_with("sweep/") { 2 } else { 0 })?;
            Some(format!("{asked} {:?} {first}", call.kind))
        }));
        // Whose a lineage is comes before its first change, what is for people after the last.
        let changes =
            |call: &Seen| call.asked.is_some() && matches!(call.kind, RequestKind::Put | RequestKind::Delete);
        let first = calls.iter().position(changes).unwrap_or(calls.len());
        assert!(calls[first..].iter().all(|call| outside(call) != Some(Outside::Lineage)));
        sweep_all(&watched.vault);
        check(&watched.take(), &IN_A_SWEEP);
    });
    assert_eq!(kinds, BTreeSet::from(IN_A_SWEEP));
    // That it all happened: sessions ended, marks made, plans written and carried out, packs copied.
    for word in [
        "create Put points",
        "create Put forgets",
        "create Put plan",
        "create Put retired",
        "create Put worn",
        "create Put repack",
        "create Put moved",
        "build Put packs",
        "examine Get packs",
        "births Get packs",
        "overwrite Put heads",
        "delete Delete packs",
        "delete Delete points",
        "delete Delete forgets",
        "delete Delete sessions",
        "delete Delete plan",
        "delete Delete worn",
        "delete Delete repack",
        "list List pins",
    ] {
        assert!(words.contains(word), "no {word:?} in {words:#?}");
    }
}

#[test]
fn a_dry_run_changes_nothing_and_reads_for_its_machines() {
    let watched = Watched::new();
    let other = grow(&watched.store, 3, 1..6);
    interrupted(&other, "web", &version(50));
    for n in [1, 3, 4] {
        other.forget(&permit(), &point_ref(&format!("web@{n}"))).unwrap();
    }
    let settings = SweepSettings { dry_run: true, ..at_once() };
    let report = watched.vault.sweep(&permit(), &settings, &CancelToken::new(), &mut |_| {}).unwrap();
    assert_eq!((report.points.len(), report.ended.len()), (3, 1));
    let calls = watched.take();
    assert!(calls.iter().all(|call| !matches!(call.kind, RequestKind::Put | RequestKind::Delete)));
}

#[test]
fn a_commit_calls_the_store_for_its_machine() {
    let watched = Watched::new();
    grow(&watched.store, 3, 1..3);
    // A point without stored disks: whatever is stored of disks is stored before, by their writers.
    let draft = || Draft {
        disks: vec![DraftDisk::Described {
            description: DiskDescription {
                name: "tmp".parse().unwrap(),
                role: DiskRole::Temporary,
                lun: None,
            },
            size: ByteLen(1 << 30),
        }],
        consistency: ConsistencyLevel::Crash,
        evidence: Vec::new(),
        config: None,
        keys: None,
        bytes_read: 0,
        duration_ms: 0,
    };
    let point_copy_first = |calls: &[Seen]| {
        assert_eq!(check(calls, &[Outside::PointCopy]), [Outside::PointCopy]);
        let outside = calls.iter().take_while(|call| call.asked.is_none()).count();
        assert_eq!(outside, 2, "both copies of one pack, then nothing but the machine");
        assert!(calls[outside..].iter().all(|call| call.asked.is_some()), "{calls:#?}");
    };
    let session = watched.vault.begin(&permit(), &vm("web")).unwrap();
    watched.take();
    session.commit(draft()).unwrap();
    point_copy_first(&watched.take());

    // One that comes too late clears away what is its own.
    let late = watched.vault.begin(&permit(), &vm("web")).unwrap();
    grow(&watched.store, 4, 3..4);
    watched.take();
    late.commit(draft()).unwrap_err();
    let calls = watched.take();
    point_copy_first(&calls);
    assert!(calls.iter().any(|call| call.kind == RequestKind::Delete && call.path.starts_with("packs/")));
}

#[test]
fn a_backup_changes_nothing_but_packs_until_its_machines_ask() {
    let watched = Watched::new();
    grow(&watched.store, 3, 1..3);
    back_up(&watched.vault, "web", &disks([("os", version(9))])).unwrap();
    let mut committing = false;
    for call in watched.take() {
        committing |= call.asked.as_deref().is_some_and(|asked| asked.starts_with("create points/"));
        let changes = !matches!(call.kind, RequestKind::Get | RequestKind::Head);
        match outside(&call) {
            _ if call.is_asked_for() => {}
            Some(Outside::PointCopy | Outside::Lineage | Outside::Interrupted) if !committing => {}
            _ => assert!(!changes && !committing, "nobody asked for {call:?}"),
        }
    }
    assert!(committing);
}

#[test]
fn changing_keys_changes_nothing_but_keys_and_the_journal_beside_its_machines() {
    let watched = Watched::new();
    grow(&watched.store, 3, 1..4);
    let (vault, mut changes) = (&watched.vault, BTreeSet::new());
    let mut look = |what: &str| {
        for call in watched.take() {
            if matches!(call.kind, RequestKind::Get | RequestKind::Head | RequestKind::List) {
                continue;
            }
            let kind = outside(&call);
            let allowed = matches!(kind, Some(Outside::Keys | Outside::Journal));
            assert!(call.is_asked_for() || allowed, "{what}: nobody asked for {call:?}");
            let asked = call.asked.as_deref().and_then(|asked| asked.split(' ').next());
            changes.insert(format!(
                "{what}: {}",
                asked.unwrap_or(if kind == Some(Outside::Keys) { "keys" } else { "journal" })
            ));
        }
    };
    watched.take();
    keys::rotate(vault).unwrap();
    look("new keys");
    assert!(keys::rewrite(vault, u64::MAX).unwrap().moved > 0);
    look("moving");
    let permit = vmkeep::model::Permit::ask(&vmkeep::model::Owner, vmkeep::model::Scope::Vault).unwrap();
    vault.rotate_kek(&permit, kek_of(8), Some(kek()), &CancelToken::new(), &mut |_| {}).unwrap();
    look("another KEK");
    let vault = &Vault::open(Arc::new(watched.tapped.clone()), kek_of(8), ports(9)).unwrap();
    let plan = keys::plan_to_destroy(vault, None).unwrap();
    watched.take();
    assert!(keys::destroy(vault, &plan).unwrap().closed);
    // The handle that is watched is another one, so that what its machines ask for does not show: all it may change is this.
    for call in watched.take() {
        let is_change = matches!(call.kind, RequestKind::Put | RequestKind::Delete);
        let first = call.path.split('/').next().unwrap();
        assert!(!is_change || ["keys", "journal", "points"].contains(&first), "{call:?}");
    }
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    assert_eq!(
        changes,
        [
            "another KEK: journal",
            "another KEK: keys",
            "moving: build",
            "moving: create",
            "moving: delete",
            "new keys: journal",
            "new keys: keys"
        ]
    );
}
