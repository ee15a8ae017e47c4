//! Judging by maps and footers against walking every map of every point that counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use vmkeep_testkit::permit;

use object_store::memory::InMemory;
use proptest::prelude::*;
use vmkeep_envelope::{Codec, KeyFileVault, PackName, SecretKey, SeededEntropy};
use vmkeep_model::{
    BlockRun, ByteLen, ChangeProvenance, ConsistencyLevel, ContentHash, DiskDescription, DiskName, DiskRole,
    ManualClock, PageMask, SessionId, Timestamp, VmName,
};

use super::*;
use crate::format::RootBody;
use crate::frame::Frame;
use crate::map::testing::{MemoryNodes, MemorySink};
use crate::map::varint::put_varint;
use crate::map::{MapWriter, NodeSink};
use crate::pack::NodeSlot;
use crate::place::Reference;
use crate::session::{Draft, DraftDisk, Session};
use crate::sweep::reachable::{Reached, reach};
use crate::vault::{Ports, Vault};

const SIZE: BlockSize = BlockSize::MIN;
/// So small that a point has several data packs.
const PACK_BYTES: usize = 700;

#[derive(Clone, Debug)]
struct DiskStep {
    /// Blocks that are written (true) or become zero.
    changes: BTreeMap<u64, bool>,
    /// Size in blocks from then on.
    blocks: u64,
    anew: bool,
    /// A first attempt fails half-way and leaves packs.
    twice: bool,
}

#[derive(Clone, Debug)]
struct Step {
    os: DiskStep,
    /// `None`: the VM has no such disk at this point.
    data: Option<DiskStep>,
    /// A session is ended before, with its number.
    void: bool,
}

fn disk_step(changes: std::ops::Range<usize>) -> impl Strategy<Value = DiskStep> {
    let block = prop_oneof![6 => 0_u64..90, 2 => 4090_u64..4200, 1 => (0_u64..4).prop_map(|i| i * 70_000)];
    let changes = prop::collection::btree_map(block, prop::bool::weighted(0.8), changes);
    let blocks = prop_oneof![1 => Just(40_u64), 1 => Just(4100), 4 => Just(300_000)];
    (changes, blocks, prop::bool::weighted(0.06), prop::bool::weighted(0.1))
        .prop_map(|(changes, blocks, anew, twice)| DiskStep { changes, blocks, anew, twice })
}

fn step(changes: std::ops::Range<usize>) -> impl Strategy<Value = Step> {
    let data = prop::option::weighted(0.8, disk_step(changes.clone()));
    (disk_step(changes), data, prop::bool::weighted(0.1)).prop_map(|(os, data, void)| Step { os, data, void })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    (step(40..140), prop::collection::vec(step(0..16), 5..12))
        .prop_map(|(first, rest)| std::iter::once(first).chain(rest).collect())
}

struct World {
    vault: Vault,
    vm: VmName,
    lineage: Lineage,
}

fn world() -> World {
    let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000)));
    let ports = Ports { clock, entropy: Arc::new(SeededEntropy::new(5)) };
    let kek = Arc::new(KeyFileVault::from_key(SecretKey::from_bytes(&mut [7; 32])));
    let vault = Vault::create(Arc::new(InMemory::new()), kek, ports).unwrap();
    let vm: VmName = "web".parse().unwrap();
    let (lineage, _) = vault.inner.lineage_to_continue(&vm).unwrap();
    World { vault, vm, lineage }
}

/// Bytes that do not compress.
fn hash(block: u64) -> ContentHash {
    ContentHash(blake3::hash(&block.to_le_bytes()).as_bytes()[..16].try_into().unwrap())
}

/// Gives the changes of a disk to a writer, as frames of up to three blocks that nobody will unpack.
fn give(writer: &mut crate::DiskWriter<'_>, step: &DiskStep) {
    let changes: Vec<(u64, bool)> = step.changes.range(..step.blocks).map(|(&b, &w)| (b, w)).collect();
    for frame in changes.chunk_by(|a, b| a.1 && b.1 && a.0 % 3 != 2 && a.0 + 1 == b.0) {
        if frame[0].1 {
            let blocks: Vec<_> = frame.iter().map(|&(block, _)| (BlockIndex(block), hash(block))).collect();
            let plain_len = u32::try_from(blocks.len() * SIZE.bytes()).unwrap();
            writer.frame(&Frame { blocks, codec: Codec::Zstd, plain_len, body: vec![9; 30] }).unwrap();
        } else {
            writer.zero(BlockRun { start: BlockIndex(frame[0].0), len: 1 }).unwrap();
        }
    }
}

fn write(session: &Session, name: &str, step: &DiskStep) -> DraftDisk {
    let disk: DiskName = name.parse().unwrap();
    // Packs of metadata are as large as those of data allow.
    let pack_bytes = if step.changes.len() > 1000 { 32 << 20 } else { PACK_BYTES };
    let writer = || session.disk_writer(&disk, SIZE, pack_bytes).unwrap();
    if step.twice {
        give(&mut writer(), step);
    }
    let mut writer =
        if step.anew { session.disk_writer_anew(&disk, SIZE, pack_bytes).unwrap() } else { writer() };
    give(&mut writer, step);
    let role = if name == "os" { DiskRole::Os } else { DiskRole::Data };
    DraftDisk::Stored {
        description: DiskDescription { name: disk, role, lun: None },
        written: writer.finish(ByteLen(step.blocks * SIZE.bytes_u64())).unwrap(),
        provenance: ChangeProvenance::Scan,
    }
}

impl World {
    fn session(&self, step: &Step) -> (Session, Draft) {
        let session = self.vault.begin(&permit(), &self.vm).unwrap();
        let mut disks = vec![write(&session, "os", &step.os)];
        disks.extend(step.data.as_ref().map(|step| write(&session, "data", step)));
        let draft = Draft {
            disks,
            consistency: ConsistencyLevel::Crash,
            evidence: Vec::new(),
            config: Some(vec![1; 10]),
            keys: None,
            bytes_read: 0,
            duration_ms: 0,
        };
        (session, draft)
    }

    fn point(&self, step: &Step) {
        if step.void {
            let (session, _) = self.session(step);
            assert!(self.vault.void_session(&permit(), session.id()).unwrap());
        }
        let (session, draft) = self.session(step);
        session.commit(draft).unwrap();
    }

    /// Every committed point.
    fn points(&self) -> BTreeMap<u64, PointBody> {
        let vault = &self.vault.inner;
        let at = |number| self.lineage.at(vault, number).unwrap();
        let taken = (1..).map_while(|number| Some((number, at(number)?)));
        taken
            .filter_map(|(number, at)| match at {
                AtNumber::Point(point) => Some((number, *point)),
                _ => None,
            })
            .collect()
    }

    fn packs(&self) -> BTreeSet<PackPlace> {
        let listed = self.vault.inner.objects.list(&format!("packs/{}", self.lineage.id)).unwrap();
        let names = listed.into_iter().map(|(path, _)| ObjectName::parse(&path).unwrap());
        names
            .filter_map(|name| match name {
                ObjectName::Pack(_, session, name) => Some(PackPlace { lineage: None, session, name }),
                _ => None,
            })
            .collect()
    }

    fn reached<'p>(&self, points: impl IntoIterator<Item = &'p PointBody>) -> Reached {
        let mut reached = Reached::new();
        for point in points {
            reach(&self.vault.inner, &self.lineage, point, &mut reached).unwrap();
        }
        reached
    }

    fn judge(&self, counts: impl IntoIterator<Item = u64>) -> Judge<'_> {
        Judge::new(&self.vault.inner, &self.lineage, counts.into_iter().collect())
    }
}

/// The packs that a sweep of the points in `taken` looks at.
fn touched(
    judge: &Judge<'_>,
    points: &BTreeMap<u64, PointBody>,
    taken: &BTreeSet<u64>,
) -> BTreeSet<PackPlace> {
    let (mut found, mut since) = (BTreeSet::new(), 0);
    for (&number, point) in points {
        if taken.contains(&number) {
            let next = points.range(number + 1..).next().map(|(_, next)| next);
            judge.touched(point, next, PointNumber(since), &mut found).unwrap();
        } else {
            since = number;
        }
    }
    found
}

fn packs_of(reached: &Reached) -> BTreeSet<PackPlace> {
    reached.keys().map(|(pack, _)| *pack).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_dead_is_what_no_point_that_counts_reaches(
        steps in steps(),
        choices in prop::collection::vec(prop::collection::vec(prop::bool::weighted(0.6), 12), 4),
    ) {
        let world = world();
        for step in &steps {
            world.point(step);
        }
        let (points, packs) = (world.points(), world.packs());
        prop_assert_eq!(points.len(), steps.len());
        let newest = *points.keys().next_back().unwrap();
        let all_but_newest = vec![true; 12];
        for choice in choices.iter().chain([&all_but_newest]) {
            let taken: BTreeSet<u64> =
                points.keys().zip(choice).filter(|&(&n, &taken)| taken && n < newest).map(|(&n, _)| n).collect();
            // Voids are among the numbers.
            let judge = world.judge((1..=newest).filter(|n| !taken.contains(n)));
            let reached = world.reached(points.iter().filter(|(n, _)| !taken.contains(n)).map(|(_, p)| p));
            for pack in &packs {
                let verdict = judge.judge(pack, true).unwrap();
                let expected: Vec<bool> = (0_u32..).zip(&verdict.slots)
                    .map(|(slot, _)| reached.contains_key(&(*pack, slot))).collect();
                prop_assert_eq!(&verdict.slots, &expected, "{} with {:?} taken", pack, &taken);
                prop_assert!(verdict.unreadable.is_none());
                prop_assert!(verdict.dead_bytes + verdict.live_bytes < verdict.size);
                prop_assert_eq!(verdict.is_dead(), verdict.live_bytes == 0);
            }
            let touched = touched(&judge, &points, &taken);
            let of_taken = world.reached(points.iter().filter(|(n, _)| taken.contains(n)).map(|(_, p)| p));
            let freed: BTreeSet<PackPlace> =
                packs_of(&of_taken).difference(&packs_of(&reached)).copied().collect();
            let dead: BTreeSet<PackPlace> =
                touched.iter().filter(|pack| judge.judge(pack, true).unwrap().is_dead()).copied().collect();
            prop_assert_eq!(&dead, &freed);
            // A pack that lost something and not all was touched as well.
            let lost: BTreeSet<PackPlace> =
                of_taken.keys().filter(|slot| !reached.contains_key(slot)).map(|(pack, _)| *pack).collect();
            prop_assert!(lost.is_subset(&touched));
        }
        let listed = world.vault.reachable(&world.vm).unwrap();
        let reached = world.reached(points.values());
        let is_copy = |name: &&String| matches!(ObjectName::parse(name), Some(ObjectName::PackCopy(..)));
        let copies = reached.iter().filter(|(_, metadata)| **metadata).map(|((pack, _), _)| *pack);
        let copies: BTreeSet<PackPlace> = copies.collect();
        prop_assert_eq!(listed.len(), packs_of(&reached).len() + copies.len());
        prop_assert_eq!(listed.iter().filter(is_copy).count(), copies.len());
    }
}

fn plain(blocks: impl IntoIterator<Item = u64>) -> Step {
    let changes = blocks.into_iter().map(|block| (block, true)).collect();
    let os = DiskStep { changes, blocks: 300_000, anew: false, twice: false };
    Step { os, data: None, void: false }
}

#[test]
fn packs_of_a_session_that_may_still_commit_are_live() {
    let world = world();
    world.point(&plain(0..30));
    let (session, draft) = world.session(&plain(10..20));
    let own = |pack: &&PackPlace| pack.session == session.id();
    let judge = world.judge([1]);
    let packs = world.packs();
    assert!(packs.iter().filter(own).count() > 1);
    for pack in packs.iter().filter(own) {
        assert_eq!(judge.judge(pack, false).unwrap().dead_bytes, 0);
        assert!(judge.judge(pack, true).unwrap().is_dead());
    }
    let id = session.id();
    session.commit(draft).unwrap();
    let judge = world.judge([1, 2]);
    for pack in world.packs().iter().filter(|pack| pack.session == id) {
        assert_eq!(judge.judge(pack, true).unwrap().dead_bytes, 0);
    }
}

#[test]
fn what_cannot_be_read_is_told_and_leaves_nothing_dead() {
    let world = world();
    world.point(&plain((0..30).map(|i| i * 64)));
    world.point(&plain([0, 64, 30_000]));
    world.point(&plain([0, 64, 30_000]));
    let points = world.points();
    let judge = world.judge([1, 3]);
    let taken = BTreeSet::from([2]);
    let dead: Vec<PackPlace> = touched(&judge, &points, &taken)
        .into_iter()
        .filter(|pack| judge.judge(pack, true).unwrap().is_dead())
        .collect();
    assert_eq!(dead.len(), 3, "blocks, nodes and the copy of point 2");

    // The maps of point 3 are lost.
    let root = points[&3].disks[0].stored.as_ref().unwrap().root.as_ref().unwrap().place.to_place();
    let name = ObjectName::pack(world.lineage.id, &root);
    for name in [crate::pack::second_copy(&name), name] {
        world.vault.inner.objects.delete(&name).unwrap();
    }
    let fresh = world.vault.uncached();
    let judge = Judge::new(&fresh.inner, &world.lineage, vec![1, 3]);
    for pack in &dead {
        let verdict = judge.judge(pack, true).unwrap();
        // The copy of point 2 is dead whatever the maps hold.
        let in_doubt = verdict.unreadable.is_some();
        assert_eq!(in_doubt, !verdict.is_dead());
        assert!(verdict.unreadable.is_none_or(|e| e.is_damage()));
    }
    let mut out = BTreeSet::new();
    let error = judge.touched(&points[&2], points.get(&3), PointNumber(1), &mut out).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(judge.judge(&root, true).unwrap_err().is_damage());

    // The record of point 3 itself is lost.
    world.vault.inner.objects.delete(&ObjectName::Point(world.lineage.id, PointNumber(3))).unwrap();
    let judge = Judge::new(&fresh.inner, &world.lineage, vec![1, 3]);
    for pack in &dead {
        let verdict = judge.judge(pack, true).unwrap();
        assert!(verdict.dead_bytes == 0 && verdict.unreadable.is_some());
    }
}

#[test]
fn a_large_pack_of_nodes_is_judged_from_either_copy() {
    let world = world();
    let all = (0..4000).map(|i| i * 64);
    world.point(&plain(all.clone()));
    world.point(&plain(all.clone().take(3900)));
    world.point(&plain(all.clone().take(3800)));
    let points = world.points();
    let root = |n: u64| points[&n].disks[0].stored.as_ref().unwrap().root.as_ref().unwrap().place.to_place();
    let live = |n: u64, counts: Vec<u64>| {
        let fresh = world.vault.uncached();
        let judge = Judge::new(&fresh.inner, &world.lineage, counts);
        let verdict = judge.judge(&root(n), true).unwrap();
        assert!(verdict.metadata && verdict.unreadable.is_none() && verdict.size > 100_000);
        (verdict.slots.iter().filter(|&&live| live).count(), verdict.slots.len())
    };
    let check = || {
        let (all, of) = live(1, vec![1, 2, 3]);
        assert_eq!(all, of);
        for (n, counts) in [(1, vec![2, 3]), (2, vec![1, 3])] {
            let (some, of) = live(n, counts);
            assert!(0 < some && some < of && of > 3, "{some} of {of}");
        }
    };
    check();
    for n in [1, 2] {
        world.vault.inner.objects.delete(&ObjectName::pack(world.lineage.id, &root(n))).unwrap();
    }
    check();
}

#[test]
fn patches_live_one_by_one() {
    let world = world();
    world.point(&plain(0..10));
    let lineage = &world.lineage;
    let place = |n: u8| PackPlace { lineage: None, session: SessionId([n; 16]), name: PackName([n; 16]) };
    let at = |n: u8, slot, index| Reference {
        at: StorageId { pack: place(n), slot, index },
        birth: PointNumber(2),
    };
    // Patches of blocks 4 (2 pages), 5 (1 page) and 7 (3 pages), of which some are still in the map.
    let index = PackIndex {
        content: PackContent::Data,
        epoch: 0,
        disk: Some(("os".parse().unwrap(), SIZE)),
        slots: vec![SlotPlace {
            offset: 40,
            len: 100,
            kind: SlotKind::Patches,
            codec: Codec::Stored,
            plain_len: 6 * 4096,
            origin: crate::format::Origin::BornHere,
            point: PointNumber(2),
        }],
        blocks: vec![Vec::new()],
        patches: BTreeMap::from([(0, vec![(BlockIndex(4), 2), (BlockIndex(5), 1), (BlockIndex(7), 3)])]),
        size: 300,
        whole: None,
    };
    for (patched, live) in [
        (vec![(4, at(8, 0, 0))], [true, false, false]),
        (vec![(5, at(8, 0, 2))], [false, true, false]),
        (vec![(4, at(8, 0, 0)), (7, at(8, 0, 3))], [true, false, true]),
        (vec![(4, at(8, 0, 2)), (5, at(8, 1, 2)), (7, at(9, 0, 3))], [false; 3]),
        (vec![(6, at(8, 0, 0))], [false; 3]),
    ] {
        let identity = lineage.domain.identity().unwrap();
        let empty = MemoryNodes::default();
        let mut sink = MemorySink::new(SessionId([6; 16]), 100);
        let mut writer = MapWriter::new(MapReader::new(&empty, identity, SIZE, None), PointNumber(2));
        for (block, patch) in patched {
            let pages = PageMask::from_pages(SIZE, [0, 3]).unwrap();
            let entry = Entry::Patched { base: at(1, 0, 0), patch, pages, hash: ContentHash([1; 16]) };
            writer.set(&mut sink, BlockIndex(block), Some(entry)).unwrap();
        }
        let token = sink.current_pack();
        let pending = writer.finish(&mut sink).unwrap();
        sink.seal();
        let root = pending.resolve(&sink).unwrap().unwrap();
        let mut nodes = MemoryNodes::default();
        sink.drain_into(&mut nodes);
        // One leaf: a slot of one node, known to the cache.
        let node = nodes.nodes.remove(&root.at.at).unwrap();
        let mut slot = vec![1];
        put_varint(&mut slot, node.len() as u64);
        slot.extend_from_slice(&node);
        let slot = Arc::new(NodeSlot::parse(slot.into()).unwrap());
        let pack = sink.resolve(token).unwrap();
        world.vault.inner.nodes.put((lineage.id, pack, root.at.at.slot), slot, 100);

        let mut point = world.points().remove(&1).unwrap();
        point.disks[0].stored.as_mut().unwrap().root = Some(RootBody::of(&root));
        let judge = world.judge([1]);
        let mut view = View::new(&judge, &Rc::new(point)).unwrap();
        assert_eq!(view.units(&place(8), &index, (0, 0), &index.units(0)).unwrap(), live);
    }
}
