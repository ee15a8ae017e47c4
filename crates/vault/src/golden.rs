//! The stored form of every record body and pack footer: byte for byte what it was in version 1.
//!
//! The files are in `tests/golden/`. With `VMKEEP_BLESS=1` a file that is missing is written; one that is there is never
//! changed: a difference is a change of the format, which takes a new version and a new file. (Sealed records, packs
//! and key objects are held by the golden files of `vmkeep-envelope`, map nodes by the test `map_golden`.)

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use vmkeep_envelope::{Codec, PackName, SlotId, SlotKind};
use vmkeep_model::{
    Approval, BlockIndex, BlockSize, ContentHash, DomainId, Labels, LineageId, Operation, PointNumber, Scope,
    SessionId, Timestamp,
};

use crate::authority::RoleChange;
use crate::format::{
    Body, ChangesBody, CheckpointBody, ClosedBody, DeadPackBody, DestroyedBody, DiskBody, DiskKeysBody,
    EncryptionBody, EntryBody, FooterBody, FooterSlot, ForgetBody, HeadBody, InheritedBody, JobBody,
    JournalBody, MarkBody, MovedBody, MovedSlotBody, NameBody, Origin, Part, PinBody, PlaceBody, PlanBody,
    PointBody, PointHead, RepackBody, RetiredBody, RootBody, RotationBody, SessionBody, SlotBirth,
    StoredBody, Thinned, TrackingBody, VaultBody, VoidBody, WornBody, decode_body, encode,
};
use crate::journal::JournalEntry;
use crate::verify::{Checked, Coverage, PackDepth, Ring};

const LINEAGE: [u8; 16] = [0x11; 16];
const SESSION: [u8; 16] = [0x22; 16];
const DOMAIN: [u8; 16] = [0x33; 16];
const AT: i64 = 1_700_000_000_123;

/// The stored file, after a look that `made` is the same.
fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.bin"));
    if std::env::var_os("VMKEEP_BLESS").is_some() && !path.exists() {
        std::fs::write(&path, made).unwrap();
    }
    let stored = std::fs::read(&path).unwrap_or_else(|e| panic!("{name}: {e}; VMKEEP_BLESS=1 writes it"));
    let differs = stored.iter().zip(made).position(|(a, b)| a != b);
    assert_eq!((differs, stored.len()), (None, made.len()), "{name}: first byte that differs, and length");
    stored
}

fn record<T: Body + PartialEq + Debug>(name: &str, body: &T) {
    let stored = golden(&format!("record-{:02}-{name}", T::KIND.number()), &encode(body).unwrap());
    assert_eq!(decode_body::<T>(&stored).unwrap(), *body);
}

#[test]
fn records_of_one_value_are_stored_as_ever() {
    record("vault", &VaultBody { vault: [0x44; 16], created: AT });
    let vm = "web-01 \u{fc}".to_owned();
    record("name", &NameBody { vm, generation: 1, lineage: LINEAGE, domain: DOMAIN });
    record("void", &VoidBody { lineage: LINEAGE, number: 7, session: SESSION, at: AT });
    record("closed", &ClosedBody { lineage: LINEAGE, number: 8, at: -1 });
    record("head", &HeadBody { newest: 300, retired: 2 });
    record("retired", &RetiredBody { k: 2, ranges: vec![(1, 4), (6, 6), (9, 200)], newest: 300 });
    let session = SessionBody {
        session: SESSION,
        lineage: LINEAGE,
        domain: DOMAIN,
        base: 0,
        target: 1,
        opened: AT,
        adopted: None,
    };
    record("session", &session);
    record("session-adopting", &SessionBody { base: 4, target: 6, adopted: Some([0x55; 16]), ..session });
    record("forget", &ForgetBody { lineage: LINEAGE, number: 5, at: AT });
}

#[test]
fn records_of_the_sweep_are_stored_as_ever() {
    let mark =
        MarkBody { lineage: LINEAGE, number: 5, g: 3, state: 13, at: AT, by: SESSION, nonce: [0x56; 16] };
    record("mark", &mark);
    record(
        "pin",
        &PinBody { lineage: LINEAGE, number: 5, id: [0x57; 16], at: AT, why: "restore".to_owned() },
    );
    let dead = |metadata, bytes| DeadPackBody { session: SESSION, name: [0x58; 16], metadata, bytes };
    let plan = PlanBody {
        lineage: LINEAGE,
        sweep: [0x59; 16],
        part: 0,
        parts: 2,
        k: 3,
        numbers: vec![5, 7],
        newest: 9,
        dead: vec![dead(false, 33_000_000), dead(true, 2000)],
        worn: vec![((SESSION, [0x5a; 16]), 12_345)],
        settled: vec![(SESSION, [0x5b; 16])],
    };
    record("plan", &plan);
    record(
        "plan-empty",
        &PlanBody {
            part: 1,
            numbers: Vec::new(),
            dead: Vec::new(),
            worn: Vec::new(),
            settled: Vec::new(),
            ..plan
        },
    );
    let heir = [0x5c; 16];
    record("inherited", &InheritedBody { lineage: LINEAGE, number: 7, session: SESSION, heir, at: AT });
    let slot = |slot, at| MovedSlotBody { slot, pack: ([0x59; 16], [0x5d; 16]), at };
    record(
        "moved",
        &MovedBody {
            lineage: LINEAGE,
            session: SESSION,
            name: [0x5e; 16],
            k: 2,
            slots: vec![slot(0, 7), slot(9, 0)],
        },
    );
    record("worn", &WornBody { lineage: LINEAGE, session: SESSION, name: [0x5a; 16], dead: 12_345 });
    record("repack", &RepackBody { lineage: LINEAGE, sweep: [0x59; 16], at: AT });
    let by = "alice@example.org".to_owned();
    let body = DestroyedBody { domain: DOMAIN, epoch: 1, at: AT, by, branches: vec![3], points: 30 };
    record("destroyed", &body);
    let checkpoint = CheckpointBody {
        vault: [0x44; 16],
        at: AT,
        heads: vec![([0x01; 16], 3, [0x45; 32]), ([0x44; 16], 1, [0x46; 32])],
        tops: vec![(LINEAGE, 12)],
    };
    record("checkpoint", &checkpoint);
    record("rotation", &RotationBody { from: vec![1; 16], to: vec![2; 16], at: AT });
}

#[test]
fn journal_entries_of_every_kind_are_stored_as_ever() {
    for (n, name, entry) in [
        (1, "vault-created", JournalEntry::VaultCreated),
        (2, "forgotten", JournalEntry::Forgotten { number: 5 }),
        (3, "voided", JournalEntry::Voided { number: 7, session: SessionId(SESSION) }),
        (4, "undeleted", JournalEntry::Undeleted { number: 5 }),
        (5, "held", JournalEntry::Held { number: 5 }),
        (6, "released", JournalEntry::Released { number: 5 }),
        (7, "closed", JournalEntry::Closed { number: 9 }),
        (8, "pin-broken", JournalEntry::PinBroken { number: 5, pin: SessionId(SESSION) }),
        (9, "swept", JournalEntry::Swept { ranges: vec![(1, 4), (6, 6)], bytes: 123_456_789 }),
        (10, "suspect", JournalEntry::Suspect { disk: "os".to_owned(), from: 3, to: 8, found: 9, block: 77 }),
        (
            11,
            "kek-rotated",
            JournalEntry::KekRotated { added: 1001, removed: 1000, from: vec![1; 16], to: vec![2; 16] },
        ),
        (12, "bek-rotated", JournalEntry::BekRotated { epoch: 1 }),
        (
            13,
            "keys-destroyed",
            JournalEntry::KeysDestroyed { domain: DomainId(DOMAIN), epoch: 1, points: 30 },
        ),
        (
            14,
            "denied",
            JournalEntry::Denied {
                who: "eve".to_owned(),
                operation: "restore".to_owned(),
                scope: Some("web-01".to_owned()),
            },
        ),
        (15, "authority", approved()),
        (16, "client-granted", JournalEntry::ClientGranted { kek: "0123abcd".to_owned(), added: 4 }),
        (18, "note", JournalEntry::Note { topic: "policy".to_owned(), body: b"{}".to_vec() }),
        (19, "verified", verified()),
        (
            19,
            "damaged",
            JournalEntry::Damaged {
                newest: 8,
                packs: vec![([0x51; 16], [0x52; 16], vec![(3, 0), (3, 2)]), ([0x53; 16], [0x54; 16], vec![])],
            },
        ),
        (20, "repaired", JournalEntry::Repaired { copies: 2, blocks: 300, records: 1 }),
        (17, "client-withdrawn", JournalEntry::ClientWithdrawn { kek: "0123abcd".to_owned(), removed: 4 }),
    ] {
        let (kind, body) = entry.encode().unwrap();
        assert_eq!(JournalEntry::decode(kind, &body).unwrap(), entry);
        let before = if n == 1 { [0; 32] } else { [0x66; 32] };
        // Kinds that came when entries had begun to say who did it were never written the earlier way.
        if kind < 14 {
            let body = body.clone();
            let journal = JournalBody { stream: LINEAGE, n, before, at: AT, kind, body };
            record(&format!("journal-{kind}-{name}"), &journal);
        }
        let by = "alice@example.org".to_owned();
        let entry = EntryBody { stream: LINEAGE, n, before, at: AT, by, kind, body };
        record(&format!("entry-{kind}-{name}"), &entry);
    }
}

fn verified() -> JournalEntry {
    let checked = |began: i64, damaged: u64, named: &[&str]| Checked {
        depth: if damaged > 0 { PackDepth::Sealed } else { PackDepth::Blocks },
        began: Timestamp(AT + began),
        ended: Timestamp(AT + began + 900),
        objects: 40,
        bytes: 1 << 30,
        damaged,
        named: named.iter().map(|name| (*name).to_owned()).collect(),
    };
    JournalEntry::Verified(Box::new(Coverage {
        ring: Ring::of_parts(20, 7, 21),
        last: checked(5000, 0, &[]),
        round: Some(checked(4000, 2, &["packs/a/b/c"])),
        whole: Some(checked(0, 0, &[])),
    }))
}

fn approved() -> JournalEntry {
    JournalEntry::Authority(RoleChange::Approve(Approval {
        operation: Operation::DestroyKeys,
        scope: Scope::Vm("web-01".parse().unwrap()),
        who: "cora".parse().unwrap(),
        by: "mia".parse().unwrap(),
        until: Timestamp(AT + 1000),
    }))
}

fn place(byte: u8, lineage: Option<[u8; 16]>) -> PlaceBody {
    PlaceBody { lineage, session: SESSION, name: [byte; 16] }
}

fn point() -> PointBody {
    let root = RootBody {
        place: place(0x77, None),
        slot: 3,
        index: 70_000,
        birth: 4,
        level: 1,
        node_index: 2,
        newest_birth: 4,
        blocks: 4000,
        hash: [0x88; 16],
    };
    let stored = StoredBody {
        block_size_log2: 16,
        root: Some(root),
        changed_blocks: 12,
        zeroed_blocks: 3,
        provenance: 1,
        used: Some((123_456, "by hand".to_owned())),
    };
    let empty = StoredBody { root: None, changed_blocks: 0, provenance: 0, used: None, ..stored.clone() };
    let disk =
        |name: &str, role, lun, size, stored| DiskBody { name: name.to_owned(), role, lun, size, stored };
    PointBody {
        head: PointHead { lineage: LINEAGE, number: 4, base: 2, session: SESSION, created: AT },
        vm: "web-01".to_owned(),
        disks: vec![
            disk("os", 0, Some(0), 64 << 30, Some(stored)),
            disk("data", 1, Some(7), 1000, Some(empty)),
            disk("scratch", 2, None, 8 << 30, None),
        ],
        config: Some(b"<domain/>".to_vec()),
        consistency: (1, vec!["frozen".to_owned(), String::new()]),
        job: JobBody {
            bytes_read: 1 << 40,
            bytes_stored: 98_765,
            duration_ms: 4321,
            software: "vmkeep 0.1.0".to_owned(),
        },
        changes: Vec::new(),
        change_lists: vec![
            (0, vec![(place(0x99, None), 5), (place(0x9a, Some([0xaa; 16])), 0)]),
            (1, vec![]),
        ],
        encryption: None,
        labels: Labels::default(),
        snapshot: None,
        keys: None,
        copy: None,
        unknown: Vec::new(),
    }
}

#[test]
fn points_are_stored_as_ever() {
    let known = point();
    let bare = PointBody {
        disks: vec![DiskBody {
            name: "os".to_owned(),
            role: 0,
            lun: None,
            size: 0,
            stored: known.disks[1].stored.clone(),
        }],
        config: None,
        consistency: (0, Vec::new()),
        changes: Vec::new(),
        change_lists: Vec::new(),
        ..known.clone()
    };
    // A section of a later version is kept, also between and after those that are known.
    let later = PointBody { keys: Some(vec![1, 2, 3]), unknown: vec![(900, 2, vec![9])], ..known.clone() };
    let copied = PointBody { copy: Some((place(0xbb, None), 1)), ..known.clone() };
    let mut tracked = known.clone();
    if let Some(stored) = &mut tracked.disks[0].stored {
        stored.provenance = 2;
    }
    let tracking = TrackingBody {
        method: 1,
        granularity: 65_536,
        audited: 459,
        whole_at: 1,
        windows_done: 5,
        windows: 128,
        round_from: 2,
    };
    let found = |disk, tracking, fallback: Option<&str>| ChangesBody {
        disk,
        patched_blocks: 70,
        patched_pages: 99,
        tracking,
        fallback: fallback.map(ToOwned::to_owned),
    };
    tracked.changes = vec![found(0, Some(tracking), None), found(1, None, Some("the bitmap is gone"))];
    let disk_keys = |disk, kek: Option<&str>, kek_captured| DiskKeysBody {
        disk,
        bek: "https://web.vault.azure.net/secrets/bek/41aa".to_owned(),
        kek: kek.map(ToOwned::to_owned),
        kek_captured,
    };
    let encrypted = PointBody {
        encryption: Some(EncryptionBody {
            customer_key: Some("pkcs11:token/keys/kek/01".to_owned()),
            disks: vec![
                disk_keys(0, Some("https://web.vault.azure.net/keys/kek/7f0c"), true),
                disk_keys(1, None, false),
            ],
        }),
        keys: Some(vec![0x5e; 40]),
        ..known.clone()
    };
    let mut labelled = known.clone();
    for (name, value) in [("kind", "scheduled"), ("policy", "daily@3"), ("tag/before-upgrade", "")] {
        labelled.labels.insert(name, value).unwrap();
    }
    let quiesced = PointBody { snapshot: Some(br#"{"version":1}"#.to_vec()), ..known.clone() };
    for (name, point) in [
        ("point-quiesced", quiesced),
        ("point-labelled", labelled),
        ("point-encrypted", encrypted),
        ("point", known),
        ("point-tracked", tracked),
        ("point-bare", bare),
        ("point-of-a-later-version", later),
        ("point-with-copy", copied),
    ] {
        let stored = golden(&format!("record-03-{name}"), &point.encode().unwrap());
        assert_eq!(PointBody::decode(&stored).unwrap(), point);
        point.to_point(false).unwrap();
    }
}

#[test]
fn footers_are_stored_as_ever() {
    let slot = |birth, origin, len, plain_len, codec, kind| FooterSlot {
        birth: PointNumber(birth),
        origin,
        len,
        plain_len,
        codec,
        kind,
        blocks: Vec::new(),
        patches: Vec::new(),
    };
    let hash = |byte| ContentHash([byte; 16]);
    let mut blocks = slot(4, Origin::BornHere, 70_000, 131_072, Codec::Zstd, SlotKind::Blocks);
    blocks.blocks = vec![(BlockIndex(0), hash(1)), (BlockIndex(300), hash(2))];
    let mut patches = slot(3, Origin::MovedUnplaced, 8300, 8192, Codec::Stored, SlotKind::Patches);
    patches.patches = vec![(BlockIndex(1 << 40), 2, hash(3)), (BlockIndex((1 << 40) + 1), 1, hash(4))];
    let data = FooterBody {
        lineage: LineageId(LINEAGE),
        session: SessionId(SESSION),
        point: PointNumber(4),
        disk: Some(("os".parse().unwrap(), BlockSize::default())),
        slots: vec![blocks, patches],
    };
    let metadata = FooterBody {
        disk: None,
        slots: vec![
            slot(4, Origin::BornHere, 900, 3000, Codec::Zstd, SlotKind::Nodes),
            slot(4, Origin::BornHere, 80, 8, Codec::Stored, SlotKind::ChangeList),
            slot(4, Origin::BornHere, 500, 600, Codec::Zstd, SlotKind::PointCopy),
        ],
        ..data.clone()
    };
    let moved = |session, pack, slot| {
        let id = SlotId { pack: PackName([pack; 16]), slot };
        Origin::Moved(SlotBirth { session: SessionId([session; 16]), id })
    };
    let mut repacked = data.clone();
    repacked.session = SessionId([0x59; 16]);
    repacked.slots[0].origin = moved(0x22, 0x5e, 0);
    repacked.slots[1].origin = moved(0x23, 0x5f, 65_535);
    // What is left of two slots in one, sealed here; and a slot of patches that was thinned and then copied.
    let part = |point, birth: Origin, kept: &[(u32, u32)]| {
        let Origin::Moved(birth) = birth else { unreachable!() };
        let mut part = Part::new(birth, PointNumber(point));
        for &(start, len) in kept {
            part.keep(start, len);
        }
        part
    };
    let thin = |slot: &mut FooterSlot, sealed, parts| {
        let thinned = Thinned { sealed, parts };
        slot.birth = thinned.newest();
        slot.origin = Origin::Thinned(Arc::new(thinned));
    };
    let mut thinned = repacked.clone();
    let parts = vec![part(4, moved(0x22, 0x5e, 3), &[(7, 1)]), part(2, moved(0x24, 0x60, 0), &[(0, 1)])];
    thin(&mut thinned.slots[0], None, parts);
    let sealed = SlotId { pack: PackName([0x61; 16]), slot: 300 };
    thin(&mut thinned.slots[1], Some(sealed), vec![part(3, moved(0x23, 0x5f, 65_535), &[(0, 2), (130, 1)])]);
    for (name, footer) in [
        ("footer-data", data),
        ("footer-metadata", metadata),
        ("footer-repacked", repacked),
        ("footer-thinned", thinned),
    ] {
        let stored = golden(name, &footer.encode());
        assert_eq!(FooterBody::decode(&stored).unwrap(), footer);
    }
}
